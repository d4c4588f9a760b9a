"""Decodes audio formats, and explains why a file cannot be decoded."""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from typing import Any, BinaryIO

import numpy as np

from captum_spes._extras import install_command, require

# suffixes of formats that libsndfile decodes, which soundfile includes
SNDFILE_SUFFIXES = (
    *(".wav", ".wave", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aiff", ".aif", ".aifc", ".au", ".snd"),
    *(".caf", ".sph", ".w64", ".rf64"),
)
# suffixes of formats that PyAV decodes, with the extra "av"
AV_SUFFIXES = (".m4a", ".mp4", ".aac", ".webm", ".mka", ".mov", ".3gp", ".amr", ".wma")
AUDIO_SUFFIXES = (*SNDFILE_SUFFIXES, *AV_SUFFIXES)
EXTRA = "av"

_BLOCK = 2**20  # samples of all channels that are read at once, since the header of a file may be wrong
_WAV_HEADER = 12  # bytes: RIFF, its size, WAVE
_LONGEST_HEADER = 4096  # bytes that an audio file without samples may have


def blocks(data: BinaryIO, name: str) -> tuple[Iterator[np.ndarray], int]:
    """Reads audio in any format that one of the libraries decodes.

    Args:
        data: a seekable binary file at its beginning.
        name: the name of the audio, for messages.

    Returns:
        Blocks of float32 samples, each (n, channels), and the number of samples per second.

    Raises:
        ValueError: the data is not readable audio; the message says what it is, if this is known, and what to do.
        ImportError: the ``speech`` extra is missing.
    """
    soundfile = require("soundfile")
    size = data.seek(0, io.SEEK_END)
    data.seek(0)
    container = _container(data.read(64))
    data.seek(0)
    if container is not None:
        return _decode(data, name, container)
    try:
        file = soundfile.SoundFile(data)
        if file.frames == 0 and (finished := _finished_wav(data)) is not None:
            file = soundfile.SoundFile(finished)
    except (soundfile.LibsndfileError, TypeError) as error:  # TypeError: the name has no known suffix
        reason = getattr(error, "error_string", error)
        raise ValueError(
            f"{name} is not a readable audio file (WAV, FLAC, OGG, MP3, …): {str(reason).strip('.')}."
        ) from error
    if file.frames == 0 and size > _LONGEST_HEADER:
        raise ValueError(
            f"the header of {name} says that it holds no samples, but it has {size:,} bytes: if it was written to a "
            "pipe, its header is incomplete; write it to a file."
        )
    return _sndfile_blocks(file, name), file.samplerate


def _sndfile_blocks(file: Any, name: str) -> Iterator[np.ndarray]:
    n_frames = max(_BLOCK // file.channels, 1)
    try:
        # at the end of a damaged file, libraries return no samples instead of an error
        while len(block := file.read(n_frames, dtype="float32", always_2d=True)):
            yield block
    except require("soundfile").LibsndfileError as error:
        raise ValueError(f"{name} is damaged and cannot be read to its end: {error.error_string}") from error


def _finished_wav(data: BinaryIO) -> io.BytesIO | None:
    """Corrects the sizes in a WAV file whose header has a data size of 0; None if the header is right.

    Programs that write to a pipe cannot go back to fill in the sizes. A data chunk that is really empty is followed
    by other chunks, or by the end of the file.
    """
    data.seek(0)
    whole = data.read()
    if whole[:4] != b"RIFF" or whole[8:12] != b"WAVE":
        return None
    position = _WAV_HEADER
    while position + 8 <= len(whole):
        name, (size,) = whole[position : position + 4], struct.unpack_from("<I", whole, position + 4)
        if name == b"data":
            rest = len(whole) - position - 8
            if size or not rest or _are_chunks(whole[position + 8 :]):
                return None
            riff, chunk = struct.pack("<I", len(whole) - 8), struct.pack("<I", rest)
            return io.BytesIO(whole[:4] + riff + whole[8 : position + 4] + chunk + whole[position + 8 :])
        position += 8 + size + size % 2
    return None


def _are_chunks(data: bytes) -> bool:
    """Whether bytes are whole chunks of a RIFF file."""
    position = 0
    while position + 8 <= len(data) and all(32 <= byte < 127 for byte in data[position : position + 4]):
        position += 8 + struct.unpack_from("<I", data, position + 4)[0]
        position += position % 2
    return position in (len(data), len(data) + 1)


# Other containers


def _container(head: bytes) -> str | None:
    """The name of a container that libsndfile does not read, from its first bytes; None for other data."""
    if head[4:8] == b"ftyp":
        return "MPEG-4 audio or video (M4A, MP4)"
    if head.startswith(b"\x1aE\xdf\xa3"):
        return "Matroska or WebM"
    if head.startswith(b"0&\xb2u\x8ef\xcf\x11"):
        return "Windows Media"
    if head.startswith(b"#!AMR"):
        return "AMR"
    if len(head) > 1 and head[0] == 0xFF and head[1] & 0xF6 == 0xF0:  # an MP3's layer bits are not 0
        return "AAC"
    return None


def _decode(data: BinaryIO, name: str, container: str) -> tuple[Iterator[np.ndarray], int]:
    """Blocks of samples that PyAV decodes, and their rate."""
    try:
        av = require("av", EXTRA)
    except ImportError as error:
        raise ValueError(
            f"{name} is {container}, which libsndfile does not read: {install_command(EXTRA)}, or convert "
            "it with: ffmpeg -i FILE speech.wav"
        ) from error
    try:
        file = av.open(data)
        if not file.streams.audio:
            raise ValueError(f"{name} is {container} without an audio stream: give a file with sound.")
        stream = file.streams.audio[0]
        return _av_blocks(av, file, stream, name), stream.rate
    except av.FFmpegError as error:
        raise ValueError(f"{name} is {container} that cannot be decoded: {error.strerror}.") from error


def _av_blocks(av: Any, file: Any, stream: Any, name: str) -> Iterator[np.ndarray]:
    resampler = av.AudioResampler(format="fltp", layout=stream.layout, rate=stream.rate)
    try:
        for frame in file.decode(stream):
            for part in resampler.resample(frame):
                yield part.to_ndarray().T
        for part in resampler.resample(None):
            yield part.to_ndarray().T
    except av.FFmpegError as error:
        raise ValueError(f"{name} is damaged and cannot be decoded to its end: {error.strerror}.") from error
