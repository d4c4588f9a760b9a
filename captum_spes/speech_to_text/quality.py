"""Warnings about maps that tell little."""

from __future__ import annotations

import math
from collections.abc import Iterator

from captum_spes.explanation import SpeechToTextExplanation
from captum_spes.explanation.figures import LOW_RELIABILITY


def quality_warnings(explanation: SpeechToTextExplanation) -> Iterator[str]:
    """What is wrong with the maps of an explanation, and what to do about it."""
    if message := low_reliability(explanation):
        yield message
    flat = explanation.spectrogram_attr.flatten(1)
    if bool((flat == flat[:, :1]).all()):
        yield (
            f"the maps of {explanation.metadata['method']} are the same everywhere: nothing that it did changed the "
            "score enough. Take another score, or a smaller penalty (interpretable_model) for Lime."
        )


def low_reliability(explanation: SpeechToTextExplanation) -> str | None:
    """What to say, and to do, where the two halves of the samples agree little; None where they agree.

    The number of samples that would do follows from the Spearman-Brown formula.
    """
    if explanation.reliability is None or (mean := float(explanation.reliability.mean())) >= LOW_RELIABILITY:
        return None
    values = explanation.reliability.tolist()
    noisy = [
        f"{name.strip()!r} {value:.2f}" for name, value in zip(explanation.tokens, values) if value < LOW_RELIABILITY
    ]
    n_done = explanation.metadata.get("done", {}).get("spectrogram")
    advice = "Take more samples (n_samples, --n-samples)"
    if n_done and mean > 0:
        needed = math.ceil(n_done * LOW_RELIABILITY * (1 - mean) / (mean * (1 - LOW_RELIABILITY)))
        advice = (
            f"About {needed:,} samples in place of {n_done:,} would reach {LOW_RELIABILITY} (n_samples, --n-samples)"
        )
    return (
        f"the maps are noisy: those of two halves of the samples correlate at {mean:.2f} in the mean over the tokens "
        f"({', '.join(noisy[:5])}{', …' if len(noisy) > 5 else ''}). {advice}; fewer and larger patches are more "
        "reliable, too (feature_mask)."
    )
