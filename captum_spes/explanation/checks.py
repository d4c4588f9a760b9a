"""Checks the fields of an explanation when it is made, by a run or from a file."""

from __future__ import annotations

import math
from numbers import Real
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from captum_spes.explanation import SpeechToTextExplanation


def check_values(explanation: SpeechToTextExplanation) -> None:
    """Raises a ValueError for invalid texts, flags, metadata or frame rates."""
    for name in ("tokens", "previous_tokens"):
        texts = getattr(explanation, name)
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            raise ValueError(f"{name} must be a list of texts, one for each token.")
    if not explanation.tokens:
        raise ValueError("tokens is empty: an explanation needs at least one token.")
    kinds: dict[str, tuple[type, str]] = {
        "text": (str, "a text"),
        "normalized": (bool, "True or False"),
        "grouped": (bool, "True or False"),
        "metadata": (dict, "a dict"),
    }
    for name, (kind, words) in kinds.items():
        if not isinstance(getattr(explanation, name), kind):
            raise ValueError(f"{name} must be {words}, not {getattr(explanation, name)!r:.80}.")
    if explanation.confidence is not None and len(explanation.confidence) != len(explanation.tokens):
        raise ValueError(f"the confidence has {len(explanation.confidence)} rows for {len(explanation.tokens)} tokens.")
    rate = explanation.frames_per_second
    if isinstance(rate, bool) or not isinstance(rate, Real) or not 0 < rate < math.inf:
        raise ValueError(f"frames_per_second must be a positive number, not {rate!r:.80}.")


def check_tensors(explanation: SpeechToTextExplanation) -> None:
    """Raises a ValueError for tensors with invalid shapes or values."""
    n_rows, n_columns = len(explanation.tokens), len(explanation.previous_tokens)
    _check_tensor("spectrogram", explanation.spectrogram, None)
    if explanation.spectrogram.dim() != 2 or not explanation.spectrogram.numel():
        shape = tuple(explanation.spectrogram.shape)
        raise ValueError(f"spectrogram must be of shape (frames, channels), not {shape}.")
    n_frames, n_channels = explanation.spectrogram.shape
    _check_tensor("spectrogram_attr", explanation.spectrogram_attr, (n_rows, n_frames, n_channels))
    _check_tensor("token_attr", explanation.token_attr, (n_rows, n_columns))
    _check_tensor("n_previous", explanation.n_previous, (n_rows,), integers=True)
    _check_tensor("mel_frequencies", explanation.mel_frequencies, (n_channels,))
    if explanation.reliability is not None:
        _check_tensor("reliability", explanation.reliability, (n_rows,))
    if explanation.feature_mask is not None:
        n_granularities = max(len(explanation.feature_mask), 1) if isinstance(explanation.feature_mask, Tensor) else 1
        _check_tensor("feature_mask", explanation.feature_mask, (n_granularities, n_frames, n_channels), integers=True)
    if explanation.n_previous.min() < 0 or explanation.n_previous.max() > n_columns:
        raise ValueError(f"n_previous must be from 0 to {n_columns}, the number of previous tokens.")
    if explanation.mel_frequencies[0] < 0 or not (explanation.mel_frequencies.diff() > 0).all():
        raise ValueError("mel_frequencies must be ascending frequencies in Hz, at least 0.")


def _check_tensor(name: str, value: object, shape: tuple[int, ...] | None, integers: bool = False) -> None:
    """Raises a ValueError unless a value is a tensor of the given shape and kind with finite values."""
    if not isinstance(value, Tensor):
        raise ValueError(f"{name} must be a tensor, not {type(value).__name__}.")
    if shape is not None and tuple(value.shape) != shape:
        raise ValueError(f"{name} must be of shape {shape}, not {tuple(value.shape)}.")
    if integers:
        if value.is_floating_point() or value.is_complex() or value.dtype == torch.bool:
            raise ValueError(f"{name} must hold integers, not {value.dtype}.")
    elif not value.is_floating_point():
        raise ValueError(f"{name} must hold floating-point numbers, not {value.dtype}.")
    elif not value.sum(dtype=torch.float64).isfinite():  # needs no mask as large as the maps
        raise ValueError(f"{name} holds NaN or infinite values, because the model or the method overflows.")
