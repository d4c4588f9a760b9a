"""Audio in: a file or an array, checked, mono, at the rate that a model wants."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from captum_spes._extras import require

MIN_SECONDS = 0.1
# below -80 dB of full scale there is nothing to hear, and nothing to explain
SILENCE_PEAK = 1e-4

AudioLike = str | os.PathLike[str] | npt.ArrayLike | torch.Tensor


def load_audio(audio: AudioLike, target_rate: int, sampling_rate: int | None = None) -> np.ndarray:
    """Reads and checks audio, and brings it to a rate.

    Args:
        audio: as for :func:`read_audio`.
        target_rate: samples a second of the result; other rates are resampled.
        sampling_rate: samples a second of an array. A file tells its own.

    Returns:
        numpy.ndarray: float32 samples of shape (n,).

    Raises:
        ValueError: audio that :func:`read_audio` refuses.

    Example::

        >>> import numpy as np
        >>> from captum_spes.audio import load_audio
        >>> load_audio("speech.wav", target_rate=16000).shape
        (9600,)
        >>> load_audio(np.random.rand(2, 8000), target_rate=16000, sampling_rate=8000).shape
        (16000,)
    """
    samples, rate = read_audio(audio, sampling_rate)
    if rate != target_rate:
        samples = require("soxr").resample(samples, rate, target_rate)
    return np.ascontiguousarray(samples, dtype=np.float32)


def read_audio(audio: AudioLike, sampling_rate: int | None = None) -> tuple[np.ndarray, int]:
    """Reads and checks audio, at its own rate.

    Args:
        audio: path of a file in any format that libsndfile reads (WAV, FLAC, OGG, MP3, …), or samples: an array or
            tensor of shape (n,), (channels, n) or (n, channels), floating-point in [-1, 1] or integers. Channels are
            averaged.
        sampling_rate: samples a second of an array. A file tells its own.

    Returns:
        (numpy.ndarray, int): float32 samples of shape (n,), and how many of them are a second.

    Raises:
        ValueError: no such file, no audio file, an array without a rate, or audio that is empty, silent, shorter than
            0.1 s, or holds NaN or infinite values. The message says which.

    Example::

        >>> from captum_spes.audio import read_audio
        >>> samples, rate = read_audio("speech.wav")
        >>> samples.shape, rate
        ((9600,), 16000)
    """
    if isinstance(audio, (str, os.PathLike)):
        name = str(audio)
        samples, rate = _read(Path(audio))
    else:
        name = "the audio"
        if sampling_rate is None or sampling_rate <= 0:
            raise ValueError(f"an array of samples needs its sampling_rate, a positive number, not {sampling_rate}.")
        if isinstance(audio, torch.Tensor):
            audio = audio.detach().cpu()
            audio = audio.float() if audio.is_floating_point() else audio
        samples, rate = _to_float(np.asarray(audio)), sampling_rate
    samples = _to_mono(samples)
    if not samples.size:
        raise ValueError(f"{name} holds no samples: give a recording of at least {MIN_SECONDS} s.")
    if not np.isfinite(samples).all():
        raise ValueError(f"{name} holds NaN or infinite samples: check how it was made.")
    if len(samples) < MIN_SECONDS * rate:
        raise ValueError(f"{name} lasts only {len(samples) / rate:.3f} s: at least {MIN_SECONDS} s are needed.")
    if np.abs(samples).max() < SILENCE_PEAK:
        raise ValueError(f"{name} is silent (its peak is below -80 dB of full scale): there is no speech to explain.")
    return np.ascontiguousarray(samples, dtype=np.float32), rate


def _read(path: Path) -> tuple[np.ndarray, int]:
    soundfile = require("soundfile")
    if path.is_dir():
        raise ValueError(f"{path} is a folder: give an audio file.")
    if not path.is_file():
        raise ValueError(f"{path} does not exist: give the path of an audio file.")
    try:
        return soundfile.read(path, dtype="float32")
    except (soundfile.LibsndfileError, OSError, TypeError) as error:  # TypeError: headerless .raw
        if not os.access(path, os.R_OK):
            raise ValueError(f"{path} cannot be read: check its permissions.") from error
        if path.stat().st_size == 0:
            raise ValueError(f"{path} is empty: give an audio file.") from error
        raise ValueError(f"{path} is no audio file that can be read (WAV, FLAC, OGG, MP3, …): {error}") from error


def _to_float(samples: np.ndarray) -> np.ndarray:
    if samples.dtype == np.uint8:  # 8-bit audio is unsigned, its silence 128
        return (samples.astype(np.float32) - 128) / 128
    if np.issubdtype(samples.dtype, np.integer):
        return samples.astype(np.float32) / np.iinfo(samples.dtype).max
    if not np.issubdtype(samples.dtype, np.floating):
        raise ValueError(f"audio samples must be floating-point or integer numbers, not {samples.dtype}.")
    return samples.astype(np.float32)


def _to_mono(samples: np.ndarray) -> np.ndarray:
    if samples.ndim == 2:
        return samples.mean(axis=int(np.argmin(samples.shape)), dtype=np.float32)
    if samples.ndim != 1:
        raise ValueError(f"audio must have one or two dimensions, samples and channels, not {samples.ndim}.")
    return samples
