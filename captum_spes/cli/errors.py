"""Prints errors as single sentences on stderr, and writes the traceback of unexpected errors to a log file."""

from __future__ import annotations

import os
import platform
import sys
import tempfile
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from typing import NoReturn

from captum_spes import __version__
from captum_spes.cli.output import say

TRACKER = "https://github.com/captum-spes/captum-spes/issues"
DEBUG = "CAPTUM_SPES_DEBUG"  # an environment variable that shows tracebacks, as --debug does
LOGGED_VERSIONS = ("torch", "captum", "transformers", "numpy")
OUT_OF_MEMORY = "out of memory: use a smaller --batch-size."


def fail(message: str, code: int) -> NoReturn:
    """Prints an error as one line and ends the program."""
    say(f"Error: {' '.join(message.split())}", error=True)
    sys.exit(code)


@contextmanager
def errors_as_sentences(debug: bool) -> Iterator[None]:
    """Ends the program with a sentence for an error: exit code 2 if the user can fix it, 1 for a defect.

    Args:
        debug: show the traceback as well. Otherwise that of a defect is written to a file that the sentence names.
    """
    try:
        yield
    except Exception as error:
        if debug:
            traceback.print_exc()
        if sentence := _mendable(error):
            fail(sentence, 2)
        where = "" if debug else f" The traceback is in {_write_log(error)}."
        fail(
            f"this should not have happened ({type(error).__name__}: {str(error).strip().rstrip('.')}).{where} Please "
            f"report it at {TRACKER}.",
            1,
        )


def _mendable(error: Exception) -> str | None:
    """The message for an error that the user, the machine or the launcher caused; None for a defect."""
    kinds = {kind.__name__ for kind in type(error).__mro__}  # torch is not imported for --help
    if isinstance(error, (ValueError, ImportError, OSError)):
        return str(error)
    if "DistError" in kinds:
        return (
            f"the store of the ranks and their launcher have ended ({error}). Finished results are kept; the same "
            "command continues with the rest."
        )
    if isinstance(error, MemoryError) or "OutOfMemoryError" in kinds:
        return OUT_OF_MEMORY
    if isinstance(error, RuntimeError) and ("not enough memory" in str(error) or "alloc" in str(error)):
        return OUT_OF_MEMORY
    return None


def _write_log(error: Exception) -> str:
    """Writes the traceback, the command and the versions to a file, and returns its path."""
    lines = [f"captum-spes {__version__}, Python {platform.python_version()} on {platform.platform()}"]
    lines += [f"{package} {_version(package)}" for package in LOGGED_VERSIONS]
    lines += [f"command: {sys.argv}", "", "".join(traceback.format_exception(error))]
    descriptor, path = tempfile.mkstemp(prefix="captum-spes-", suffix=".log")
    with os.fdopen(descriptor, "w", encoding="utf-8", errors="backslashreplace") as file:
        file.write("\n".join(lines))
    return path


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "is not installed"
