"""Optional dependencies, which are imported where they are used."""

from __future__ import annotations

import importlib
from types import ModuleType


def install_command(extra: str) -> str:
    """The command that installs an extra, also in a clone of the repository."""
    return f"pip install 'captum-spes[{extra}]' (in a clone: pip install -e '.[{extra}]')"


def require(module: str, extra: str = "speech") -> ModuleType:
    """Imports a module of an optional dependency.

    Raises:
        ImportError: the module is not installed; the message names the extra that installs it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(
            f"{module.partition('.')[0]} is needed here and could not be imported ({error}): "
            f"install it with {install_command(extra)}."
        ) from error
