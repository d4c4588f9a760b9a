"""Optional packages, imported where they are used."""

from __future__ import annotations

import importlib
from types import ModuleType


def require(module: str, extra: str = "speech") -> ModuleType:
    """Imports a module of an optional dependency.

    Raises:
        ImportError: it is not installed; the message names the extra that brings it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(
            f"{module.partition('.')[0]} is needed here and could not be imported ({error}): "
            f"install it with pip install 'captum-spes[{extra}]'."
        ) from error
