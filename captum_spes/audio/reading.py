"""Reads and checks audio from a file, a stream or an array, as mono samples at a given rate."""

from __future__ import annotations

import hashlib
import io
import math
import os
import signal
import stat
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import torch

from captum_spes._extras import require
from captum_spes._files import is_url, sha256, why_unreadable
from captum_spes._log import warn
from captum_spes.audio.decoding import blocks

MIN_SECONDS = 0.1
# audio below -80 dB of full scale is inaudible and is refused
SILENCE_PEAK = 1e-4
# floating-point samples may exceed full scale a little; larger ones are integers that were not divided by it
LOUDEST_PEAK = 16
# share of the loudest channel's level: channels whose mean is softer cancel each other (-40 dB)
CANCELLED = 0.01

# samples per second; recordings of speech have 4,000 to 192,000
RATES = (1_000, 768_000)
# samples of one channel, 1 GiB or 4.6 hours at 16 kHz: a compressed file may hold a thousand times its size
MAX_SAMPLES = 2**28
SAMPLE = "so_what_was_the_next_step.wav"
# bytes of a pipe or stream, which may be endless
MAX_BYTES = 2**31


@dataclass(frozen=True, eq=False)
class Recording:
    """Audio that has been read. Functions take it in the place of a file, so that a file is read only once.

    Attributes:
        samples: float32 samples of shape (n,), mono.
        sampling_rate: samples per second.
        source: the file of the samples, as :func:`source_of` describes it. Empty for an array of samples.

    Example::

        >>> from captum_spes.audio import read_recording
        >>> recording = read_recording("speech.wav")
        >>> recording.seconds, sorted(recording.source)
        (0.6, ['audio_file', 'audio_sha256'])
    """

    samples: np.ndarray
    sampling_rate: int
    source: dict[str, Any] = field(default_factory=dict)

    @property
    def seconds(self) -> float:
        """The duration of the recording in seconds."""
        return len(self.samples) / self.sampling_rate


# types of audio; Any stands for torchcodec's decoders
AudioLike = (
    str | os.PathLike[str] | bytes | BinaryIO | npt.ArrayLike | torch.Tensor | Mapping[str, Any] | Recording | Any
)


def load_audio(audio: AudioLike, target_rate: int, sampling_rate: float | None = None) -> np.ndarray:
    """Reads and checks audio, and resamples it to a rate.

    Args:
        audio: as for :func:`read_audio`.
        target_rate: samples per second of the result; audio with another rate is resampled.
        sampling_rate: samples per second of an array. A file has its own rate.

    Returns:
        numpy.ndarray: float32 samples of shape (n,).

    Raises:
        ValueError: :func:`read_audio` refuses the audio.

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


def read_audio(
    audio: AudioLike, sampling_rate: float | None = None, *, allow_silence: bool = False
) -> tuple[np.ndarray, int]:
    """Reads and checks audio, at its own rate.

    Args:
        audio: one of

            - the path of a file or a pipe, the bytes of a file, or a file object opened in binary mode, which is read
              from where it stands and set back there if it can be. Formats are those of libsndfile (WAV, FLAC, OGG,
              MP3, AIFF, AU, …) and, with the extra ``av``, M4A, MP4, WebM and others that FFmpeg decodes;
            - samples: an array or tensor of shape (n,), (channels, n) or (n, channels), floating-point in [-1, 1] or
              integers of 8, 16 or 32 bits;
            - a :class:`Recording`, which was read before;
            - samples with their rate: a pair ``(samples, rate)`` as ``soundfile.read`` and ``torchaudio.load`` return
              it (or in the other order), a dict of Hugging Face datasets (``{"array": …, "sampling_rate": …}``, or
              ``{"bytes": …, "path": …}`` where it was not decoded), or an ``AudioDecoder`` of torchcodec.

            Channels are averaged. If they cancel each other, because one is the other with its sign reversed, the
            loudest one is taken.
        sampling_rate: samples per second of an array: a number, or a tensor or array that holds one. Audio with its
            own rate does not need it.
        allow_silence: read silent or very soft audio with a warning instead of an error, to find out what a model
            writes for it.

    Returns:
        (numpy.ndarray, int): float32 samples of shape (n,), and the number of samples per second.

    Raises:
        ValueError: the file does not exist or is not audio, an array has no rate, the rate differs from the audio's
            own, or is below 1 kHz or above 768 kHz, or the audio is empty, silent, shorter than 0.1 s, longer than 268
            million samples, or holds NaN or infinite values. The message says which.

    Warns:
        UserWarning: the channels cancel each other, or with ``allow_silence`` there is nothing to hear.

    Example::

        >>> from captum_spes.audio import read_audio
        >>> samples, rate = read_audio("speech.wav")
        >>> samples.shape, rate
        ((9600,), 16000)
        >>> read_audio({"array": samples, "sampling_rate": rate})[1]
        16000
    """
    if isinstance(audio, Recording):
        return audio.samples, _checked_rate(audio.sampling_rate, sampling_rate)
    name = str(audio) if isinstance(audio, (str, os.PathLike)) else "the audio"
    if isinstance(audio, Mapping) and audio.get("array", audio.get("raw")) is None:
        audio, name = _undecoded(audio)
    if isinstance(audio, (str, os.PathLike, bytes, bytearray, memoryview)) or hasattr(audio, "read"):
        samples, own_rate = _read_file(audio, name)
        rate = _checked_rate(own_rate, sampling_rate)
    else:
        given, own_rate = _with_rate(audio)
        rate = _checked_rate(own_rate, sampling_rate)
        frames = _to_frames(given)
        samples = _to_mono(lambda: [frames], name)
    _check(samples, rate, name)
    if problem := _silence(samples, name):
        if not allow_silence:
            raise ValueError(problem)
        warn(problem, stacklevel=3)
    return np.ascontiguousarray(samples, dtype=np.float32), rate


def read_recording(audio: AudioLike, sampling_rate: float | None = None, *, allow_silence: bool = False) -> Recording:
    """Reads and checks audio, at its own rate, and keeps a description of its file.

    Args:
        audio: as for :func:`read_audio`. A :class:`Recording` is returned unchanged.
        sampling_rate: samples per second of an array.
        allow_silence: as for :func:`read_audio`.

    Raises:
        ValueError: :func:`read_audio` refuses the audio.

    Example::

        >>> from captum_spes.audio import read_recording
        >>> read_recording([0.1, 0.2] * 4000, sampling_rate=8000).source
        {}
        >>> read_recording("speech.wav").source["audio_file"]
        'speech.wav'
    """
    if isinstance(audio, Recording):
        _checked_rate(audio.sampling_rate, sampling_rate)
        return audio
    samples, rate = read_audio(audio, sampling_rate, allow_silence=allow_silence)
    return Recording(samples, rate, source_of(audio))


def source_of(audio: AudioLike) -> dict[str, Any]:
    """Describes an audio file for metadata by its path and SHA-256; bytes and file objects by the SHA-256 alone.

    The description of samples is empty, and so is that of pipes, which can be read only once.

    Example::

        >>> from captum_spes.audio import source_of
        >>> sorted(source_of("speech.wav")), source_of([0.1, 0.2])
        (['audio_file', 'audio_sha256'], {})
    """
    if isinstance(audio, (str, os.PathLike)):
        if os.path.exists(audio) and not os.path.isfile(audio):
            return {}
        return {"audio_file": str(audio), "audio_sha256": sha256(audio)}
    if isinstance(audio, (bytes, bytearray, memoryview)):
        return {"audio_sha256": hashlib.sha256(audio).hexdigest()}
    if hasattr(audio, "read") and _is_seekable(audio):
        return {"audio_sha256": hashlib.sha256(_bytes_of(audio, "the audio")).hexdigest()}
    return {}


def sample_recording() -> Recording:
    """The bundled recording, in which a synthetic voice says "So, what was the next step?"

    Example::

        >>> from captum_spes.audio import sample_recording
        >>> round(sample_recording().seconds, 1)
        2.0
    """
    with as_file(files("captum_spes") / "data" / SAMPLE) as path:
        return read_recording(path)


def duration(path: Path) -> float:
    """The duration of an audio file in seconds, from its header; 0 if it cannot be read.

    Example::

        >>> from captum_spes.audio import duration
        >>> duration("speech.wav"), duration("missing.wav")
        (0.6, 0.0)
    """
    soundfile = require("soundfile")
    try:
        return soundfile.info(path).duration
    except (soundfile.LibsndfileError, OSError, TypeError):
        return 0.0


# Files and streams


def _read_file(audio: Any, name: str) -> tuple[np.ndarray, int]:
    """The mean over the channels of a file, bytes or a file object, and its rate."""
    if isinstance(audio, (str, os.PathLike)):
        reason = why_unreadable(audio)
        if reason is not None:
            if is_url(audio):
                raise ValueError(f"{name} is a URL, which is not read: download the file, and give its path.")
            raise ValueError(f"{name} {reason}: give the path of an audio file.")
        try:
            with open(audio, "rb") as file:
                regular = stat.S_ISREG(os.fstat(file.fileno()).st_mode)
                return _read_stream(file if regular else io.BytesIO(_bytes_of(file, name)), name)
        except OSError as error:
            raise ValueError(f"{name} cannot be read: {error.strerror or error}.") from error
    data = bytes(audio) if isinstance(audio, (bytes, bytearray, memoryview)) else _bytes_of(audio, name)
    _check_size(data, name)
    return _read_stream(io.BytesIO(data), name)


def _read_stream(data: BinaryIO, name: str) -> tuple[np.ndarray, int]:
    if not data.read(1):
        raise ValueError(f"{name} is empty: give an audio file.")
    with _interrupt_afterwards():
        _, rate = blocks(data, name)
        return _to_mono(lambda: blocks(data, name)[0], name), rate


@contextmanager
def _interrupt_afterwards() -> Iterator[None]:
    """Delays Ctrl-C: libsndfile reads by callbacks, in which a KeyboardInterrupt is lost."""
    previous = signal.getsignal(signal.SIGINT)
    if not callable(previous) or threading.current_thread() is not threading.main_thread():
        yield
        return
    received: list[int] = []
    signal.signal(signal.SIGINT, lambda number, frame: received.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)
        if received:
            signal.raise_signal(signal.SIGINT)


def _bytes_of(file: Any, name: str) -> bytes:
    """The bytes of a file object from its position on; the position is restored if the object is seekable."""
    before = file.tell() if _is_seekable(file) else None
    data = file.read(MAX_BYTES + 1)
    if before is not None:
        file.seek(before)
    if not isinstance(data, bytes):
        raise ValueError(f"{name} is a file object in text mode: open it in binary mode, open(path, 'rb').")
    _check_size(data, name)
    return data


def _check_size(data: bytes, name: str) -> None:
    if len(data) > MAX_BYTES:
        raise ValueError(f"{name} has more than {MAX_BYTES:,} bytes: cut it into shorter recordings.")


def _is_seekable(file: Any) -> bool:
    return bool(getattr(file, "seekable", lambda: False)())


def _undecoded(audio: Mapping[str, Any]) -> tuple[Any, str]:
    """Bytes or path of a dict of datasets that was not decoded, and their name in messages."""
    data, path = audio.get("bytes"), audio.get("path")
    if data is None and path is None:
        raise ValueError(
            f"a dict of audio needs 'array' and 'sampling_rate', or 'bytes' or 'path'; this one has {sorted(audio)}."
        )
    return (path, str(path)) if data is None else (data, "the audio" if path is None else str(path))


# Samples


def _with_rate(audio: Any) -> tuple[Any, Any]:
    """Samples, and their own rate or None."""
    if isinstance(audio, Mapping):
        return audio.get("array", audio.get("raw")), audio.get("sampling_rate")
    if hasattr(audio, "get_all_samples"):
        audio = audio.get_all_samples()
    if hasattr(audio, "data") and hasattr(audio, "sample_rate"):
        return audio.data, audio.sample_rate
    if isinstance(audio, tuple) and len(audio) == 2:
        dimensions = [getattr(part, "ndim", 1 if isinstance(part, (list, tuple)) else 0) for part in audio]
        if dimensions[0] and not dimensions[1]:
            return audio
        if dimensions[1] and not dimensions[0]:
            return audio[1], audio[0]
    return audio, None


def _checked_rate(own: Any, given: Any) -> Any:
    rates = [_number(rate) for rate in (own, given) if rate is not None]
    if not rates:
        raise ValueError("an array of samples needs its sampling_rate, a positive number.")
    if len(set(rates)) > 1:
        raise ValueError(f"the audio has a sampling rate of {own}, not {given}: leave out sampling_rate.")
    return rates[0]


def _number(rate: Any) -> int | float:
    """A rate from a number, or from an array or tensor that holds one."""
    try:
        value = float("nan") if isinstance(rate, (bool, str, bytes)) else float(rate)
    except (TypeError, ValueError, OverflowError, RuntimeError):
        value = float("nan")
    if not 0 < value < math.inf:
        raise ValueError(f"an array of samples needs its sampling_rate, a positive number, not {rate}.")
    return int(value) if value.is_integer() else value


def _to_frames(audio: Any) -> np.ndarray:
    """Samples as float32, (n, channels)."""
    if isinstance(audio, torch.Tensor):
        audio = audio.detach().cpu()
        audio = audio.float() if audio.is_floating_point() else audio
    try:
        samples = np.asarray(audio)
    except ValueError as error:  # rows of different lengths
        raise ValueError(f"the audio is not an array of samples: {error}") from error
    samples = _to_float(samples)
    if samples.ndim not in (1, 2):
        raise ValueError(f"audio must have one or two dimensions, samples and channels, not {samples.ndim}.")
    if samples.ndim == 1 or not samples.size:
        return samples.reshape(-1, 1)
    return samples if samples.shape[1] <= samples.shape[0] else samples.T


def _to_float(samples: np.ndarray) -> np.ndarray:
    if np.issubdtype(samples.dtype, np.integer):
        if samples.dtype.itemsize > 4:
            raise ValueError(
                f"audio samples of {samples.dtype} have no full scale: give them as int16 or int32, as they were "
                "recorded, or divided by their full scale as floating-point numbers."
            )
        largest = np.iinfo(samples.dtype).max
        if np.issubdtype(samples.dtype, np.unsignedinteger):  # zero is in the middle of their range: 128 for 8 bits
            middle = largest // 2 + 1
            return ((samples.astype(np.float64) - middle) / middle).astype(np.float32)
        return samples.astype(np.float32) / largest
    if not np.issubdtype(samples.dtype, np.floating):
        raise ValueError(f"audio samples must be floating-point or integer numbers, not {samples.dtype}.")
    return samples.astype(np.float32)


def _to_mono(read: Callable[[], Iterable[np.ndarray]], name: str) -> np.ndarray:
    """The mean of all channels, or the loudest channel if they cancel each other.

    Args:
        read: returns the blocks of samples, each float32 of shape (n, channels), from the beginning.
        name: the name of the audio, for messages.
    """
    energy, mean_energy = np.zeros(1), 0.0
    means = []
    for mean, block in _means(read(), name):
        means.append(mean)
        energy = energy + np.square(block, dtype=np.float64).sum(0)
        mean_energy += float(np.square(mean, dtype=np.float64).sum())
    if mean_energy < CANCELLED**2 * energy.max() and math.sqrt(energy.max()) > 0:
        loudest = int(energy.argmax())
        warn(
            f"the channels of {name} cancel each other, because one is nearly the other with its sign reversed: only "
            f"channel {loudest + 1} is used.",
            stacklevel=5,
        )
        means = [block[:, loudest] for _, block in _means(read(), name)]
    return np.concatenate(means) if means else np.zeros(0, np.float32)


def _means(blocks: Iterable[np.ndarray], name: str) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Each block's mean over the channels, and the block. The length in a header is not trusted."""
    n_read = 0
    for block in blocks:
        n_read += len(block)
        if n_read > MAX_SAMPLES:
            raise ValueError(f"{name} holds more than {MAX_SAMPLES:,} samples: cut it into shorter recordings.")
        yield block.mean(1, dtype=np.float32), block


def _check(samples: np.ndarray, rate: float, name: str) -> None:
    """Raises a ValueError for samples that are no audio."""
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
        raise ValueError(
            f"{name} has samples as large as {peak:.3g}: floating-point samples lie between -1 "
            "and 1; divide integers by their full scale, such as 32768."
        )


def _silence(samples: np.ndarray, name: str) -> str | None:
    """A sentence that says why samples count as silent; None if they do not."""
    peak = np.abs(samples).max()
    if samples.min() == samples.max():
        return f"{name} is silent (all of its samples are {peak:.3g}): there is no speech to explain."
    if peak < SILENCE_PEAK:
        return (
            f"{name} is too soft: its largest sample is {peak:.1g} of full scale, below -80 dB. If it has another full "
            "scale, divide the samples by it."
        )
    return None
