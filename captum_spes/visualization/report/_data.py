"""What the page is given: arrays as compressed bytes in base64 text, and text that no file can turn into a program."""

from __future__ import annotations

import base64
import io
import json
import zlib
from typing import Any

import numpy as np

from captum_spes._extras import require

LEVELS = 4096  # of a value; maps.js has the same number
WAV_BITS = "PCM_16"


def quantized(maps: np.ndarray) -> tuple[np.ndarray, float]:
    """Values as levels (uint16, of the same shape), and the largest absolute value.

    Levels lie on a square root, finer for small values than for large ones: most values of most maps are small, and
    their order matters too. A value is off by at most 1/4000 of the largest, 1/2000 where there are both signs.

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
    """Integers of 8 or 16 bits, compressed: first the low bytes of all, then the high ones, which are much alike."""
    integers = np.ascontiguousarray(levels, levels.dtype.newbyteorder("<"))
    planes = integers.view(np.uint8).reshape(-1, levels.dtype.itemsize).T
    return _base64(zlib.compress(planes.tobytes(), 9))


def flac(samples: np.ndarray, sampling_rate: int) -> str:
    """Audio (n,) as a FLAC file: without loss, half as large as WAV, and every browser plays it."""
    file = io.BytesIO()
    require("soundfile").write(file, np.clip(samples, -1, 1), sampling_rate, format="FLAC", subtype=WAV_BITS)
    return _base64(file.getvalue())


def script_safe_json(content: Any) -> str:
    """JSON that may stand in a <script>: it is ASCII, and nothing in it ends the element or begins a comment.

    Example::

        >>> script_safe_json("</script>")
        '"\\\\u003c/script\\\\u003e"'
    """
    text = json.dumps(content, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")
