"""Makes sound of the most salient regions of the recording that was explained."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal, TypeGuard

import numpy as np

from captum_spes._log import warn
from captum_spes.audio import AudioLike, Recording, read_recording
from captum_spes.audio.masking import mask_audio, mean_noise
from captum_spes.maps import descending, top_bins

if TYPE_CHECKING:
    from captum_spes.explanation import SpeechToTextExplanation

# seconds between the ends of a recording and of its last frame: models drop samples that do not fill a window or frame
MAX_DIFFERENCE = 0.05


def to_audio(
    explanation: SpeechToTextExplanation,
    audio: AudioLike,
    token: int | str,
    keep: float | None,
    remove: float | None,
    background: Literal["silence", "noise"],
    sampling_rate: int | None,
    seed: int,
) -> np.ndarray:
    """See :meth:`.SpeechToTextExplanation.to_audio`."""
    if (keep is None) == (remove is None):
        raise ValueError("give either keep or remove, the share of the bins that is kept or removed.")
    if background not in ("silence", "noise"):
        raise ValueError(f"background must be 'silence' or 'noise', not {background!r}.")
    share = keep if keep is not None else remove
    assert share is not None  # one of the two
    if not 0 <= share <= 1:  # refuses NaN as well
        raise ValueError(f"keep and remove are shares of the bins, from 0 to 1, not {share}.")
    attributions = explanation.spectrogram_attr[explanation.index(token)]
    samples, rate = own_samples(explanation, read_recording(audio, sampling_rate, allow_silence=True))
    if attributions.min() == attributions.max():
        warn(
            f"the map of {token!r} is the same everywhere, so that its most salient regions are chosen at random.",
            stacklevel=3,
        )
    top = top_bins(descending(attributions, seed), (100 * share,)).view(attributions.shape)
    mask = top if remove is None else ~top
    heard = mask_audio(samples, rate, mask, explanation.frames_per_second, explanation.mel_frequencies)
    if background == "noise":
        noise = mean_noise(samples, rate, seed)
        heard += mask_audio(noise, rate, ~mask, explanation.frames_per_second, explanation.mel_frequencies)
    return heard


def own_samples(explanation: SpeechToTextExplanation, recording: Recording) -> tuple[np.ndarray, int]:
    """The samples that were explained, and their rate.

    Raises:
        ValueError: the recording is not the one that was explained.
    """
    samples, rate = recording.samples, recording.sampling_rate
    name = recording.source.get("audio_file", "the audio")
    known, digest = explanation.metadata.get("audio_sha256"), recording.source.get("audio_sha256")
    if known is not None and digest is not None:
        if known != digest:
            raise ValueError(f"{name} is not the file that was explained, since its SHA-256 differs: give that file.")
        span = part_span(explanation)
        if span is not None and "start_seconds" not in recording.source:
            samples = samples[round(span[0] * rate) : round(span[1] * rate)]
    seconds = len(samples) / rate
    if abs(seconds - explanation.duration) > MAX_DIFFERENCE:
        raise ValueError(
            f"{name} lasts {seconds:.2f} s and the explained utterance {explanation.duration:.2f} s: give the "
            "recording that was explained."
        )
    return samples, rate


def part_span(explanation: SpeechToTextExplanation) -> tuple[float, float] | None:
    """Where a part begins and ends in its recording, in seconds; None for an explanation that is not of a part."""
    start, stop = (explanation.metadata.get(end) for end in ("start_seconds", "stop_seconds"))
    return (start, stop) if _is_time(start) and _is_time(stop) else None


def _is_time(value: object) -> TypeGuard[float]:
    """Whether a value of the metadata, which are not trusted, is a time in seconds."""
    return isinstance(value, (int, float)) and 0 <= value < math.inf
