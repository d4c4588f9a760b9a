"""Encodes data for the page: arrays as compressed bytes in base64 text, and JSON that is safe in a script."""

from __future__ import annotations

import base64
import io
import json
import zlib
from typing import Any

import numpy as np

from captum_spes._extras import require

LEVELS = 4096  # number of levels of a value; maps.js has the same number
WAV_BITS = "PCM_16"
FLAC_RATE = 655_350  # samples per second of a FLAC file at most
PLAYED_RATE = 48_000


def quantized(maps: np.ndarray) -> tuple[np.ndarray, float]:
    """Quantises values to levels (uint16, of the same shape), and returns the largest absolute value as well.

    The levels follow a square root, so that they are finer for small values: most values of most maps are small, and
    their order matters too. The error of a value is at most 1/4000 of the largest value, or 1/2000 with both signs.

    Example::

        >>> levels, largest = quantized(np.array([0.0, 0.25, 1.0]))
        >>> levels.tolist(), largest
        ([0, 2048, 4095], 1.0)
        >>> quantized(np.array([-2.0, 0.0, 2.0]))[0].tolist()
        [0, 2047, 4094]
    """
    largest = float(np.abs(maps).max(initial=0))
    relative = np.asarray(maps, np.float64) / (largest or 1)
    roots = np.sign(relative) * np.sqrt(np.abs(relative))
    if (maps < 0).any():
        middle = LEVELS // 2 - 1
        return np.round(middle + middle * roots).astype(np.uint16), largest
    return np.round((LEVELS - 1) * roots).astype(np.uint16), largest


def packed(levels: np.ndarray) -> str:
    """Compresses integers of 8 or 16 bits; first the low bytes of all, then the high bytes, which are similar."""
    integers = np.ascontiguousarray(levels, levels.dtype.newbyteorder("<"))
    planes = integers.view(np.uint8).reshape(-1, levels.dtype.itemsize).T
    return _base64(zlib.compress(planes.tobytes(), 9))


def playable(samples: np.ndarray, sampling_rate: float) -> tuple[np.ndarray, int]:
    """Audio (n,) and its rate. Audio at a rate that FLAC lacks, fractional or very high, is resampled to 48 kHz."""
    # FLAC writes high rates in tens of Hz
    if sampling_rate == int(sampling_rate) and (
        sampling_rate < 2**16 or (sampling_rate <= FLAC_RATE and sampling_rate % 10 == 0)
    ):
        return samples, int(sampling_rate)
    return require("soxr").resample(samples, sampling_rate, PLAYED_RATE), PLAYED_RATE


def flac(samples: np.ndarray, sampling_rate: int) -> str:
    """Audio (n,) as a FLAC file, which is lossless, half as large as WAV, and played by every browser."""
    file = io.BytesIO()
    require("soundfile").write(file, np.clip(samples, -1, 1), sampling_rate, format="FLAC", subtype=WAV_BITS)
    return _base64(file.getvalue())


def script_safe_json(content: Any) -> str:
    """JSON that is safe in a <script>: it is ASCII, and does not end the element or begin a comment.

    Example::

        >>> script_safe_json("</script>")
        '"\\\\u003c/script\\\\u003e"'
    """
    text = json.dumps(content, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")
