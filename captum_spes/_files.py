"""Atomic writing of files, Markdown tables, differences of settings, and text that is safe to print."""

from __future__ import annotations

import hashlib
import os
import re
import stat
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

# control characters, which a terminal executes; characters that change the direction of writing; lone surrogates
_UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def write_atomically(path: str | os.PathLike[str], content: bytes | str) -> None:
    """Writes a file atomically: a process that is killed leaves the old file, or none. Text is encoded as UTF-8.

    Raises:
        ValueError: the folder does not exist.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise ValueError(f"{path} cannot be written: the folder {path.parent} does not exist; make it first.")
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name[:50]}.") as folder:
        part = Path(folder) / "part"
        part.write_bytes(content.encode(errors="backslashreplace") if isinstance(content, str) else content)
        os.replace(part, path)


def sha256(path: str | os.PathLike[str]) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal digits.

    Raises:
        ValueError: the file cannot be read.
    """
    try:
        return hashlib.sha256(Path(path).read_bytes()).hexdigest()
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}.") from error


def is_url(path: str | os.PathLike[str]) -> bool:
    """Whether a path is a URL such as ``s3://bucket/speech.wav``; ``C:`` is a drive.

    Example::

        >>> from captum_spes._files import is_url
        >>> is_url("https://example.org/speech.wav"), is_url("speech.wav")
        (True, False)
    """
    parts = Path(path).parts
    return bool(parts) and len(parts[0]) > 2 and parts[0].endswith(":")


def why_unreadable(path: str | os.PathLike[str]) -> str | None:
    """Why a path cannot be opened as a file or a pipe, as the end of a sentence that begins with it; None if it can.

    Example::

        >>> from captum_spes._files import why_unreadable
        >>> why_unreadable("missing.wav"), why_unreadable("."), why_unreadable("speech.wav")
        ('does not exist', 'is a folder', None)
    """
    try:
        mode = os.stat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        return "is a link to a file that does not exist" if os.path.islink(path) else "does not exist"
    except OSError as error:
        return f"cannot be reached ({error.strerror})"
    except ValueError:  # NUL bytes, and lone surrogates
        return "does not exist, as no file can have such a name"
    if stat.S_ISDIR(mode):
        return "is a folder"
    if not (stat.S_ISREG(mode) or stat.S_ISFIFO(mode)):
        return "is a device or a socket"
    return None if os.access(path, os.R_OK) else "cannot be read, because the permission is missing"


def printable(text: object) -> str:
    """Escapes the control characters of a text except line ends and tabs, such as ``\\x1b``, which terminals execute.

    Transcripts, file names and messages of libraries may hold them.
    """
    return _UNPRINTABLE.sub(lambda match: match[0].encode("unicode_escape").decode(), str(text))


def markdown_line(text: object) -> str:
    """Escapes a text for one line of Markdown, so that it does not begin a cell, tag, link or picture."""
    line = printable(" ".join(str(text).split()))
    return re.sub(r"[\\|<]|(?<=\])\(", r"\\\g<0>", line)


def markdown_table(rows: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a Markdown table, the header first."""
    lines = ["| " + " | ".join(map(markdown_line, row)) + " |" for row in rows]
    return [lines[0], "|" + "---|" * len(rows[0]), *lines[1:]]


def differences(before: dict[str, Any], now: dict[str, Any], name: str = "") -> Iterator[str]:
    """Describes the differences of two settings; methods that only one of them has are ignored."""
    keys = before.keys() & now.keys() if name == "methods" else before.keys() | now.keys()
    for key in sorted(keys):
        old, new = before.get(key), now.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            yield from differences(old, new, f"{name}.{key}".strip("."))
        elif old != new:
            yield f"{name}.{key}".strip(".") + f" was {old} and is {new} now"
