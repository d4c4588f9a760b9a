"""Describes the arguments of a run by values that JSON can hold, large values by a hash, and compares them."""

from __future__ import annotations

import functools
import hashlib
import inspect
from collections.abc import Collection, Iterator, Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from numbers import Integral, Real
from types import CellType, CodeType, FunctionType, MethodType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn


def fingerprint(value: object) -> Any:
    """Describes a value so that JSON can hold it. Equal values have equal fingerprints, in every process.

    A resumed run compares the fingerprints of its arguments with those of the earlier run.

    - Tensors and NumPy arrays become their dtype, shape and a hash of their content.
    - Functions become their name, a hash of their bytecode, and the fingerprints of their default arguments and of the
      variables that they hold; a ``functools.partial`` its function and arguments; a method its function and object.
    - Callable objects and dataclasses become their class and the fingerprints of their attributes.
    - Any other object becomes the name of its class. So does a ``torch.nn.Module``, because hashing its weights would
      take long; a model is recognised by its scores.

    Returns:
        None, bool, int, float, str, or lists and dictionaries of them.

    Example::

        >>> from functools import partial
        >>> import torch
        >>> from captum_spes.attr.fingerprint import fingerprint
        >>> fingerprint(torch.zeros(2, 3))
        'float32 (2, 3) 9d908ecfb6b256de'
        >>> def scaled(x, weights): return x * weights
        >>> fingerprint(partial(scaled, weights=torch.ones(3))) == fingerprint(partial(scaled, weights=torch.zeros(3)))
        False
    """
    return _fingerprint(value, ())


def differences(
    before: Mapping[str, Any], now: Mapping[str, Any], growing: Collection[str] = (), name: str = ""
) -> Iterator[str]:
    """Describes the differences of two settings; dictionaries in ``growing`` are compared in their shared keys."""
    keys = before.keys() & now.keys() if name in growing else before.keys() | now.keys()
    for key in sorted(keys):
        old, new = before.get(key), now.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            yield from differences(old, new, growing, f"{name}.{key}".strip("."))
        elif old != new:
            yield f"{name}.{key}".strip(".") + f" was {old} and is {new} now"


def _fingerprint(value: object, above: tuple[int, ...]) -> Any:
    """The fingerprint of a value that lies inside the objects with the ids ``above``."""
    if isinstance(value, Enum):
        return str(value)
    if isinstance(value, (str, bool, type(None))):
        return value
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real):
        return float(value)
    if isinstance(value, Tensor):
        dense = value.detach().cpu().to_dense().resolve_conj().resolve_neg()
        content = dense.contiguous().view(-1).view(torch.uint8).numpy().data
        return f"{_name_of_dtype(value.dtype)} {tuple(value.shape)} {_digest(content)}"
    if isinstance(value, np.ndarray) and not value.dtype.hasobject:
        return f"{value.dtype} {value.shape} {_digest(np.ascontiguousarray(value).tobytes())}"
    if isinstance(value, (bytes, bytearray)):
        return f"bytes {_digest(value)}"
    if isinstance(value, torch.dtype):
        return _name_of_dtype(value)
    if id(value) in above:  # an object that refers to itself
        return type(value).__name__
    return _of_parts(value, (*above, id(value)))


def _of_parts(value: object, above: tuple[int, ...]) -> Any:
    """The fingerprint of a value that holds others."""
    if isinstance(value, (tuple, list)):
        return [_fingerprint(item, above) for item in value]
    if isinstance(value, (set, frozenset)):
        return sorted((_fingerprint(item, above) for item in value), key=repr)
    if isinstance(value, Mapping):
        return {_key(key, above): _fingerprint(item, above) for key, item in value.items()}
    if isinstance(value, functools.partial):
        parts = {"partial": value.func, "arguments": value.args, "keywords": value.keywords}
        return {name: _fingerprint(part, above) for name, part in parts.items()}
    if isinstance(value, MethodType):
        return {"method": _fingerprint(value.__func__, above), "of": _fingerprint(value.__self__, above)}
    if isinstance(value, FunctionType):
        return _of_function(value, above)
    if inspect.isroutine(value) or inspect.isclass(value):
        return _full_name(value)
    if isinstance(value, nn.Module):
        return type(value).__name__
    if is_dataclass(value):
        state = {field.name: getattr(value, field.name, None) for field in fields(value)}
    elif callable(value):
        state = _state(value)
    else:
        return type(value).__name__
    return {"class": _full_name(type(value))} | {name: _fingerprint(item, above) for name, item in state.items()}


def _key(key: object, above: tuple[int, ...]) -> str:
    """The name of an entry; the text of a function would have its address, which differs in every process."""
    return repr(_fingerprint(key, above)) if callable(key) else str(key)


def _of_function(function: FunctionType, above: tuple[int, ...]) -> dict[str, Any]:
    found: dict[str, Any] = {"function": _full_name(function), "code": _digest(repr(_code(function.__code__)).encode())}
    held = {
        "defaults": function.__defaults__,
        "keyword_defaults": function.__kwdefaults__,
        "variables": dict(zip(function.__code__.co_freevars, map(_content, function.__closure__ or ()))),
    }
    return found | {name: _fingerprint(value, above) for name, value in held.items() if value}


def _content(cell: CellType) -> object:
    try:
        return cell.cell_contents
    except ValueError:  # a variable that has no value yet
        return None


def _code(code: CodeType) -> tuple[object, ...]:
    """The bytecode and constants of a function, without the file and the lines of its source."""
    constants = [_code(one) if isinstance(one, CodeType) else _constant(one) for one in code.co_consts]
    return code.co_code.hex(), code.co_names, code.co_varnames, code.co_freevars, constants


def _constant(value: object) -> str:
    return repr(sorted(map(repr, value)) if isinstance(value, frozenset) else value)


def _state(value: object) -> dict[str, Any]:
    """The attributes of an object, including those in slots."""
    names = [name for cls in type(value).__mro__ for name in _as_tuple(cls.__dict__.get("__slots__", ()))]
    slots = {name: getattr(value, name) for name in names if hasattr(value, name) and not name.startswith("__")}
    return slots | getattr(value, "__dict__", {})


def _as_tuple(slots: Any) -> tuple[str, ...]:
    return (slots,) if isinstance(slots, str) else tuple(slots)


def _full_name(value: Any) -> str:
    return f"{getattr(value, '__module__', None)}.{value.__qualname__}"


def _name_of_dtype(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _digest(content: Any) -> str:
    return hashlib.sha256(content).hexdigest()[:16]
