"""Splits long recordings in their pauses."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
from scipy.ndimage import uniform_filter1d

from captum_spes._extras import require

# samples per second, and the peak of the samples, for the voice activity detector
VAD_RATE, VAD_PEAK = 16000, 16000


def split_at_pauses(samples: np.ndarray, sampling_rate: int, max_seconds: float) -> list[tuple[int, int]]:
    """Cuts a long recording into parts, in the middle of its pauses.

    Each part ends in the longest pause between half of ``max_seconds`` and ``max_seconds`` after its begin; the last
    part lasts at least a quarter of ``max_seconds``. WebRTC's voice activity detector finds the pauses. If there are
    none, as in loud noise, the quietest place is taken. Parts without any speech are left out.

    Args:
        samples: mono samples of shape (n,), as :func:`load_audio` returns them.
        sampling_rate: samples per second.
        max_seconds: the longest duration of a part.

    Returns:
        list: begin and end of each part, in samples. The parts do not overlap and contain all speech.

    Raises:
        ValueError: ``max_seconds`` is less than a second.
        ImportError: the ``speech`` extra is missing.

    Example::

        >>> import numpy as np
        >>> from captum_spes.audio import split_at_pauses
        >>> split_at_pauses(np.zeros(32000, np.float32), 16000, max_seconds=30)
        [(0, 32000)]
    """
    if not max_seconds >= 1:
        raise ValueError(f"max_seconds must be at least 1, not {max_seconds}.")
    if len(samples) <= max_seconds * sampling_rate:
        return [(0, len(samples))]
    n_frames, longest = math.ceil(100 * len(samples) / sampling_rate), int(max_seconds * 100)  # of 10 ms
    # where frames begin, which at 22.05 kHz is no multiple of a number of samples
    starts = (np.arange(n_frames) * sampling_rate // 100).astype(int)
    lengths = np.diff(starts, append=len(samples))
    power = np.add.reduceat(np.square(samples, dtype=np.float64), starts) / lengths
    quiet = uniform_filter1d(power, 10)  # the mean power of 0.1 s
    pauses = ~_is_speech(samples, sampling_rate, n_frames, mode=3)
    cuts = [0]
    while n_frames - cuts[-1] > longest:
        first, last = cuts[-1] + longest // 2, min(cuts[-1] + longest, n_frames - longest // 4)
        edges = np.diff(np.pad(pauses[first:last], 1).astype(np.int8))
        begins, ends = np.flatnonzero(edges == 1), np.flatnonzero(edges == -1)
        if len(begins):
            number = int((ends - begins).argmax())
            cuts.append(first + int(begins[number] + ends[number]) // 2)
        else:
            cuts.append(first + int(quiet[first:last].argmin()))
    parts = list(pairwise([*cuts, n_frames]))
    heard = _is_speech(samples, sampling_rate, n_frames, mode=0)  # the mode that misses the least speech
    if heard.any():
        parts = [(begin, end) for begin, end in parts if heard[begin:end].any()]
    places = [*starts.tolist(), len(samples)]
    return [(places[begin], places[end]) for begin, end in parts]


def speech_seconds(samples: np.ndarray, sampling_rate: int) -> float:
    """Seconds in which WebRTC's voice activity detector hears speech, in its strictest mode.

    Args:
        samples: mono, of shape (n,).
        sampling_rate: samples a second.

    Raises:
        ImportError: the ``speech`` extra is missing.

    Example::

        >>> import numpy as np
        >>> from captum_spes.audio import speech_seconds
        >>> speech_seconds(np.zeros(32000, np.float32), 16000)
        0.0
    """
    n_frames = int(100 * len(samples) / sampling_rate)  # of 10 ms
    return round(float(_is_speech(samples, sampling_rate, n_frames, mode=3).sum()) / 100, 2)


def _is_speech(samples: np.ndarray, sampling_rate: int, n_frames: int, mode: int) -> np.ndarray:
    """Whether WebRTC's detector finds speech in each frame of 10 ms: bool, (n_frames,)."""
    peak = np.abs(samples).max()
    if samples.min() == samples.max():  # silence, whatever its level
        return np.zeros(n_frames, bool)
    detector = require("webrtcvad").Vad(mode)
    if sampling_rate != VAD_RATE:
        samples = require("soxr").resample(samples, sampling_rate, VAD_RATE)
    hop = VAD_RATE // 100
    samples = samples / peak * VAD_PEAK  # the detector takes very soft speech for silence
    pcm = np.pad(samples, (0, max(n_frames * hop - len(samples), 0))).astype(np.int16)
    frames = pcm[: n_frames * hop].reshape(n_frames, hop)
    return np.array([detector.is_speech(frame.tobytes(), VAD_RATE) for frame in frames])
