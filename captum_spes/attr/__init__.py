"""Attribution methods: subclasses of Captum's ``Attribution`` that know tensors and nothing of speech."""

from captum_spes.attr.attn_lrp import AttnLRP
from captum_spes.attr.bubble_noise import BubbleNoise
from captum_spes.attr.cross_attention import CrossAttention
from captum_spes.attr.floors import Energy, Random
from captum_spes.attr.gradient_spes import GradientSPES
from captum_spes.attr.spes import SPES

__all__ = ["SPES", "AttnLRP", "BubbleNoise", "CrossAttention", "Energy", "GradientSPES", "Random"]
