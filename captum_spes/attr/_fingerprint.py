"""What a run was given, in values that files hold and people read: large things by a hash of what is in them."""

from __future__ import annotations

import hashlib
from numbers import Integral, Real
from typing import Any

import torch
from torch import Tensor


def fingerprint(value: object) -> Any:
    """A value as JSON holds it: equal for equal values, in every process.

    Tensors become their dtype, shape and hash; what is no plain value, such as a model, the name of its type.
    """
    if isinstance(value, Tensor):
        content = value.detach().cpu().contiguous().view(-1).view(torch.uint8)
        digest = hashlib.sha256(content.numpy().data).hexdigest()[:16]
        return f"{str(value.dtype).removeprefix('torch.')} {tuple(value.shape)} {digest}"
    if isinstance(value, (str, bool, type(None))):
        return value
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real):
        return float(value)
    if isinstance(value, (tuple, list)):
        return [fingerprint(item) for item in value]
    if isinstance(value, dict):
        return {str(key): fingerprint(item) for key, item in value.items()}
    return type(value).__name__
