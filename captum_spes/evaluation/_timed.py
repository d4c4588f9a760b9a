"""Measures the time of an explanation that may continue an earlier run."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from captum_spes.explanation import SpeechToTextExplanation
from captum_spes.models.protocol import SpeechToTextModel, Tokens, Utterance
from captum_spes.speech_to_text.catalogue import NamedMethod, Preset


def explain_timed(
    method: NamedMethod,
    model: SpeechToTextModel,
    utterance: Utterance,
    tokens: Tokens,
    preset: Preset,
    checkpoint: Path | None,
    **arguments: Any,
) -> tuple[SpeechToTextExplanation, float | None]:
    """Explains by a method, and measures the seconds.

    They are None for an explanation that continued from a checkpoint, because the time of the earlier run is unknown.
    """
    resumed = checkpoint is not None and any(checkpoint.glob("*.safetensors"))
    start = time.perf_counter()
    explanation = method.explain(model, utterance, tokens, preset, checkpoint=checkpoint, **arguments)
    return explanation, None if resumed else time.perf_counter() - start
