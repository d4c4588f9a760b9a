"""Why a speech-to-text model wrote this word: SPES as a Captum attribution method, and tools to explain and compare."""

from captum_spes.attr import SPES, BubbleNoise, GradientSPES
from captum_spes.explanation import SpeechToTextExplanation
from captum_spes.explanation.long import LongExplanation
from captum_spes.forward_func import (
    ContrastiveProbability,
    CTCLogLikelihood,
    KLDivergence,
    TokenLogit,
    TokenLogProbability,
    TokenProbability,
)
from captum_spes.segmentation import grid_feature_mask, slic_feature_mask
from captum_spes.speech_to_text import SpeechToTextAttribution
from captum_spes.speech_to_text.targets import Contrast

__all__ = [
    "SPES",
    "BubbleNoise",
    "CTCLogLikelihood",
    "Contrast",
    "ContrastiveProbability",
    "GradientSPES",
    "KLDivergence",
    "LongExplanation",
    "SpeechToTextAttribution",
    "SpeechToTextExplanation",
    "TokenLogProbability",
    "TokenLogit",
    "TokenProbability",
    "grid_feature_mask",
    "slic_feature_mask",
]
__version__ = "0.1.0"
