"""Saves explanations in safetensors files, and loads them without running anything and with checks of all values."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from captum_spes._extras import require
from captum_spes._files import why_unreadable, write_atomically
from captum_spes.confidence import Confidence

if TYPE_CHECKING:
    from captum_spes.explanation import SpeechToTextExplanation

FORMAT = "captum-spes explanation"
VERSION = 1
CHECKSUM = "sha256"  # the entry with the checksum of the header's other entries and of the tensors
# Limits of what a file may hold, so that a damaged one does not fill the memory.
MAX_HEADER = 2**24  # characters of texts and metadata
MAX_MAPS = 2**28  # values of maps that are stored by their patches, 1 GiB; Whisper's longest have 172 million

# fields of an explanation that are written in the header, and those that are written as tensors
PLAIN = ("text", "tokens", "previous_tokens", "frames_per_second", "normalized", "grouped", "metadata", "confidence")
TENSORS = (
    *("spectrogram", "spectrogram_attr", "token_attr", "n_previous", "mel_frequencies"),
    *("reliability", "feature_mask"),
)
OPTIONAL = {"reliability", "feature_mask", "normalized", "grouped", "metadata", "confidence"}


def save(explanation: SpeechToTextExplanation, path: str | os.PathLike[str], half: bool) -> None:
    """See :meth:`.SpeechToTextExplanation.save`."""
    serialize = require("safetensors.torch").save
    tensors = _tensors(explanation)
    if half:
        for name in tensors.keys() - {"n_previous", "mel_frequencies", "feature_mask"}:
            tensors[name] = tensors[name].half()
            if not tensors[name].isfinite().all():
                raise ValueError(f"{name} holds values too large for half precision: save with half=False.")
    content = {name: getattr(explanation, name) for name in PLAIN}
    content["confidence"] = explanation.confidence and explanation.confidence.to_content()
    try:
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        content = {"version": VERSION, **content}
        text = json.dumps({CHECKSUM: _checksum(content, tensors), **content})
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(
            f"the metadata cannot be written ({error}): it may hold only texts, numbers, lists and dicts."
        ) from error
    if len(text) > MAX_HEADER:
        raise ValueError(f"the texts and metadata have more than {MAX_HEADER:,} characters: shorten them.")
    # only one entry, because safetensors writes several in random order: equal explanations must give equal files
    data = serialize(tensors, {FORMAT: text})
    write_atomically(path, data)


def _tensors(explanation: SpeechToTextExplanation) -> dict[str, Tensor]:
    """The tensors of a file: the maps, or one score for each patch if this is smaller."""
    tensors = {
        "spectrogram": explanation.spectrogram,
        "token_attr": explanation.token_attr,
        "n_previous": explanation.n_previous,
        "mel_frequencies": explanation.mel_frequencies,
    }
    if explanation.reliability is not None:
        tensors["reliability"] = explanation.reliability
    dense = True
    if explanation.feature_mask is not None:
        tensors["feature_mask"] = _as_int32(explanation.feature_mask)
        patches, first = _intersections(explanation.feature_mask)
        scores = explanation.spectrogram_attr.flatten(1)[:, first]
        smaller = scores.shape[1] < patches.numel() and explanation.spectrogram_attr.numel() <= MAX_MAPS
        if smaller and torch.equal(scores[:, patches], explanation.spectrogram_attr.flatten(1)):
            tensors["patch_scores"], dense = scores, False
    if dense:
        tensors["spectrogram_attr"] = explanation.spectrogram_attr
    return tensors


def load(path: str | os.PathLike[str], make: Callable[..., SpeechToTextExplanation]) -> SpeechToTextExplanation:
    """See :meth:`.SpeechToTextExplanation.load`; ``make`` is the class."""
    safe_open, error_type = require("safetensors").safe_open, require("safetensors").SafetensorError
    path = Path(path)
    if reason := why_unreadable(path) or (None if path.is_file() else "is a pipe"):
        patterns = ("*.safetensors", "part-*/*.safetensors") if path.is_dir() else ()
        inside = [found for pattern in patterns for found in sorted(path.glob(pattern))]
        example = f", such as {inside[0]}" if inside else ""
        raise ValueError(f"{path} {reason}: give the path of a saved explanation{example}.")
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in {*TENSORS, "patch_scores"} & set(file.keys())}
    except (error_type, OSError, ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is damaged or not an explanation: {error}") from error
    if FORMAT not in header:
        raise ValueError(f"{path} is not an explanation, but another safetensors file: give one that was saved.")
    try:
        content = _read_header(header[FORMAT])
        written = content.pop(CHECKSUM, None)
        found = _checksum(content, tensors)
        version = content.pop("version")
    except (KeyError, TypeError, ValueError, RecursionError) as error:  # not an object of this form
        raise ValueError(f"{path} is damaged: {error}") from error
    if version > VERSION:
        raise ValueError(f"{path} is of version {version}, newer than this library reads ({VERSION}): upgrade it.")
    try:
        if content.keys() - set(PLAIN):
            raise ValueError(f"unknown entries: {', '.join(sorted(content.keys() - set(PLAIN)))[:80]}")
        tensors = {name: t.float() if t.is_floating_point() else t.long() for name, t in tensors.items()}
        if "patch_scores" in tensors:
            tensors["spectrogram_attr"] = _paint(
                tensors.pop("patch_scores"), tensors["feature_mask"], len(content["tokens"])
            )
        if content.get("confidence") is not None:
            content["confidence"] = Confidence.from_content(content["confidence"])
        if missing := {*PLAIN, *TENSORS} - OPTIONAL - content.keys() - tensors.keys():
            raise ValueError(f"it has no {', '.join(sorted(missing))}")
        explanation = make(**content, **tensors)
        if written != found:
            raise ValueError("its checksum does not fit its content, which has been changed")
        return explanation
    except KeyError as error:
        raise ValueError(f"{path} is damaged: it has no {error.args[0]}") from error
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error


def _as_int32(mask: Tensor) -> Tensor:
    """Feature ids as int32, the type in files."""
    mask = mask.long()  # torch does not compare unsigned integers of 16 bits and more
    if int(mask.min()) < -(2**31) or int(mask.max()) >= 2**31:  # as Python's integers, which do not wrap
        raise ValueError("the feature mask holds ids too large for 32 bits: number the patches 0, 1, ….")
    return mask.int()


def _read_header(text: str) -> dict[str, Any]:
    """The texts, numbers and metadata of a file, with the version of its format."""
    if len(text) > MAX_HEADER:
        raise ValueError(f"its header has {len(text):,} characters, more than any that captum-spes writes")
    content = json.loads(text)
    if not isinstance(content, dict) or type(content.get("version")) is not int or content["version"] < 1:
        raise ValueError("its header is not a JSON object with a version")
    return content


def _checksum(content: dict[str, Any], tensors: dict[str, Tensor]) -> str:
    """The SHA-256 of the content of a file: its header without the checksum, as JSON, and its tensors by name."""
    digest = hashlib.sha256(json.dumps(content).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _paint(patch_scores: Tensor, feature_mask: Tensor, n_rows: int) -> Tensor:
    """Spreads the scores (K, P) of patches over maps (K, T, C), after a check of the size."""
    if feature_mask.dim() != 3 or not feature_mask.numel():
        raise ValueError(f"feature_mask must be of shape (granularities, frames, channels), not {feature_mask.shape}")
    patches, first = _intersections(feature_mask)
    if patch_scores.shape != (n_rows, len(first)):
        raise ValueError(f"patch_scores must be of shape {(n_rows, len(first))}, not {tuple(patch_scores.shape)}")
    if n_rows * len(patches) > MAX_MAPS:
        raise ValueError(f"its maps would have {n_rows * len(patches):,} values, more than {MAX_MAPS:,}")
    return patch_scores[:, patches].view(-1, *feature_mask.shape[1:])


def _intersections(feature_mask: Tensor) -> tuple[Tensor, Tensor]:
    """For each bin the number of its cell, the intersection of its patches at all granularities, and a bin of each."""
    cells = feature_mask.flatten(1).numpy()  # (S, T * C)
    _, first, inverse = np.unique(cells, axis=1, return_index=True, return_inverse=True)
    return torch.from_numpy(inverse.reshape(-1)), torch.from_numpy(first)
