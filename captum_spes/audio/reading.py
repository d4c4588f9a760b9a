"""Audio in: a file or an array, checked, mono, at the rate that a model wants."""

from __future__ import annotations

import math
import os
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from captum_spes._extras import require
from captum_spes._files import sha256

MIN_SECONDS = 0.1
# below -80 dB of full scale there is nothing to hear, and nothing to explain
SILENCE_PEAK = 1e-4
# some write integers of 32 bits as floating-point numbers
LOUDEST_PEAK = 2**31

# samples a second; speech is kept at 4,000 to 192,000
RATES = (1_000, 768_000)
# of one channel, 1 GiB: 4.6 hours at 16 kHz. A compressed file may hold a thousand times its size
MAX_SAMPLES = 2**28
BLOCK = 2**20  # samples of all channels that are read at once, whatever a file says of itself

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
        ValueError: no such file, no audio file, an array without a rate, a rate below 1 kHz or above 768 kHz, or audio
            that is empty, silent, shorter than 0.1 s, longer than 268 million samples, or holds NaN or infinite
            values. The message says which.

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
        if isinstance(sampling_rate, bool) or not isinstance(sampling_rate, Real) or not 0 < sampling_rate < math.inf:
            raise ValueError(f"an array of samples needs its sampling_rate, a positive number, not {sampling_rate}.")
        if isinstance(audio, torch.Tensor):
            audio = audio.detach().cpu()
            audio = audio.float() if audio.is_floating_point() else audio
        samples, rate = _to_mono(_to_float(_as_array(audio))), sampling_rate
    if not RATES[0] <= rate <= RATES[1]:
        raise ValueError(
            f"{name} has a sampling rate of {rate:,} Hz: it must be from {RATES[0]:,} to {RATES[1]:,}; check how it "
            "was made."
        )
    if not samples.size:
        raise ValueError(f"{name} holds no samples: give a recording of at least {MIN_SECONDS} s.")
    if not np.isfinite(samples).all():
        raise ValueError(f"{name} holds NaN or infinite samples: check how it was made.")
    if len(samples) < MIN_SECONDS * rate:
        raise ValueError(f"{name} lasts only {len(samples) / rate:.3f} s: at least {MIN_SECONDS} s are needed.")
    peak = np.abs(samples).max()
    if peak > LOUDEST_PEAK:
        raise ValueError(f"{name} has samples as large as {peak:.3g}: floating-point samples lie between -1 and 1.")
    if peak < SILENCE_PEAK:
        raise ValueError(f"{name} is silent (its peak is below -80 dB of full scale): there is no speech to explain.")
    return np.ascontiguousarray(samples, dtype=np.float32), rate


def source_of(audio: AudioLike) -> dict[str, Any]:
    """What metadata tell of an audio file, its path and SHA-256; nothing of samples.

    Example::

        >>> from captum_spes.audio import source_of
        >>> sorted(source_of("speech.wav")), source_of([0.1, 0.2])
        (['audio_file', 'audio_sha256'], {})
    """
    if not isinstance(audio, (str, os.PathLike)):
        return {}
    return {"audio_file": str(audio), "audio_sha256": sha256(audio)}


def duration(path: Path) -> float:
    """Seconds of an audio file, as its header has them; 0 where it cannot be read.

    Example::

        >>> from importlib.resources import as_file, files
        >>> from captum_spes.audio import duration
        >>> with as_file(files("captum_spes") / "data" / "so_what_was_the_next_step.wav") as path:
        ...     round(duration(path), 1)
        2.0
    """
    soundfile = require("soundfile")
    try:
        return soundfile.info(path).duration
    except (soundfile.LibsndfileError, OSError, TypeError):
        return 0.0


def _as_array(audio: npt.ArrayLike) -> np.ndarray:
    try:
        return np.asarray(audio)
    except ValueError as error:  # rows of different lengths
        raise ValueError(f"the audio is no array of samples: {error}") from error


def _read(path: Path) -> tuple[np.ndarray, int]:
    """The mean of a file's channels, and its rate."""
    soundfile = require("soundfile")
    if path.is_dir():
        raise ValueError(f"{path} is a folder: give an audio file.")
    if not path.is_file():
        raise ValueError(f"{path} does not exist: give the path of an audio file.")
    try:
        with soundfile.SoundFile(path) as file:
            return _read_blocks(file, path), file.samplerate
    except (soundfile.LibsndfileError, OSError, TypeError) as error:  # TypeError: headerless .raw
        if not os.access(path, os.R_OK):
            raise ValueError(f"{path} cannot be read: check its permissions.") from error
        if path.stat().st_size == 0:
            raise ValueError(f"{path} is empty: give an audio file.") from error
        raise ValueError(f"{path} is no audio file that can be read (WAV, FLAC, OGG, MP3, …): {error}") from error


def _read_blocks(file: Any, path: Path) -> np.ndarray:
    """Block by block: the length that a header tells may be anything."""
    n_frames = max(BLOCK // file.channels, 1)
    blocks = [np.zeros(0, np.float32)]
    n_read = 0
    # past the end of a damaged file, libraries go on with nothing
    while len(block := file.read(n_frames, dtype="float32", always_2d=True)):
        blocks.append(block.mean(1, dtype=np.float32))
        n_read += len(block)
        if n_read > MAX_SAMPLES:
            raise ValueError(f"{path} holds more than {MAX_SAMPLES:,} samples: cut it into shorter recordings.")
    return np.concatenate(blocks)


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
