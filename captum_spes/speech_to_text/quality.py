"""Warnings about constant and noisy maps."""

from __future__ import annotations

import math
from collections.abc import Iterator

from captum_spes.explanation import SpeechToTextExplanation
from captum_spes.explanation.figures import LOW_RELIABILITY
from captum_spes.explanation.notices import no_speech_notice


def quality_warnings(explanation: SpeechToTextExplanation, seconds_per_sample: float | None = None) -> Iterator[str]:
    """Warnings about the maps of an explanation, each with advice.

    Args:
        explanation: the result of a run.
        seconds_per_sample: how long each sample of the spectrogram took, if that was measured.
    """
    if notice := no_speech_notice(explanation.metadata):
        yield notice[0].lower() + notice[1:]
    flat = explanation.spectrogram_attr.flatten(1)
    is_flat = bool((flat == flat[:, :1]).all())
    if is_flat and bool((explanation.spectrogram == explanation.spectrogram[:1]).all()):
        yield (
            "the sound is the same at all times, so that hiding a part of it changes nothing: its maps are 0, and "
            "those of the previous tokens tell what the text depends on."
        )
        return
    if message := low_reliability(explanation, seconds_per_sample):
        yield message
    if is_flat:
        yield (
            f"the maps of {explanation.metadata['method']} are the same everywhere, because no perturbation changed "
            "the score enough: use another score, or a smaller penalty (interpretable_model) for Lime."
        )


def low_reliability(explanation: SpeechToTextExplanation, seconds_per_sample: float | None = None) -> str | None:
    """A warning, with advice, if the maps of two halves of the samples correlate little; otherwise None.

    The sufficient number of samples follows from the Spearman-Brown formula, and the time from the speed of the run.
    """
    if explanation.reliability is None or (mean := float(explanation.reliability.mean())) >= LOW_RELIABILITY:
        return None
    values = explanation.reliability.tolist()
    noisy = [
        f"{name.strip()!r} {value:.2f}" for name, value in zip(explanation.tokens, values) if value < LOW_RELIABILITY
    ]
    n_done = explanation.metadata.get("done", {}).get("spectrogram")
    advice = "Use more samples (n_samples, --n-samples)"
    if n_done and mean > 0:
        needed = math.ceil(n_done * LOW_RELIABILITY * (1 - mean) / (mean * (1 - LOW_RELIABILITY)))
        time = "" if seconds_per_sample is None else f", {duration(needed * seconds_per_sample)},"
        advice = (
            f"With patches of this size, about {needed:,} samples instead of {n_done:,}{time} would reach "
            f"{LOW_RELIABILITY} (n_samples, --n-samples)"
        )
    return (
        f"the maps are noisy: those of two halves of the samples correlate at {mean:.2f} in the mean over the tokens "
        f"({', '.join(noisy[:5])}{', …' if len(noisy) > 5 else ''}). {advice}; fewer and larger patches are more "
        "reliable, too (feature_mask)."
    )


def duration(seconds: float) -> str:
    """A duration as people say it, in minutes or hours.

    Example::

        >>> from captum_spes.speech_to_text.quality import duration
        >>> duration(20), duration(170), duration(5400)
        ('less than a minute', '3 minutes', '1.5 hours')
    """
    if seconds < 60:
        return "less than a minute"
    if seconds < 3600:
        minutes = round(seconds / 60)
        return f"{minutes} minute{'s' if minutes > 1 else ''}"
    return f"{seconds / 3600:.2g} hours" if seconds < 36_000 else f"{round(seconds / 3600):,} hours"
