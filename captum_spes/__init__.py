"""Why a speech-to-text model wrote this word: SPES as a Captum attribution method, and tools to explain and compare."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
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
    from captum_spes.segmentation import grid_feature_mask, image_feature_mask, slic_feature_mask
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
    "image_feature_mask",
    "slic_feature_mask",
]
__version__ = "0.1.0"

# The module of each name, which is imported with the first name that is used: PyTorch and Captum take seconds, and
# `captum-spes --help` needs neither.
_MODULES = {
    **dict.fromkeys(("SPES", "BubbleNoise", "GradientSPES"), "attr"),
    **dict.fromkeys(("Contrast", "SpeechToTextAttribution"), "speech_to_text"),
    **dict.fromkeys(("grid_feature_mask", "image_feature_mask", "slic_feature_mask"), "segmentation"),
    "SpeechToTextExplanation": "explanation",
    "LongExplanation": "explanation.long",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_MODULES.get(name, 'forward_func')}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
