"""How far explanations can be trusted: whether they are faithful, stable, and about the model at all."""

from captum_spes.metrics._additive import additive_attributions
from captum_spes.metrics._ranks import rank_correlation
from captum_spes.metrics.compactness import SizeCurve, size
from captum_spes.metrics.contrast import FlipRate, flip_rate
from captum_spes.metrics.deletion import DeletionCurve, deletion, insertion, symmetric_relevance_gain
from captum_spes.metrics.faithfulness import infidelity
from captum_spes.metrics.robustness import ParameterRandomization, parameter_randomization, sensitivity_max
from captum_spes.metrics.text import Bleu, WordErrorRate, bleu, wer

__all__ = [
    "Bleu",
    "DeletionCurve",
    "FlipRate",
    "ParameterRandomization",
    "SizeCurve",
    "WordErrorRate",
    "additive_attributions",
    "bleu",
    "deletion",
    "flip_rate",
    "infidelity",
    "insertion",
    "parameter_randomization",
    "rank_correlation",
    "sensitivity_max",
    "size",
    "symmetric_relevance_gain",
    "wer",
]
