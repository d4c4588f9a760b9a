"""Writes files atomically, and checks paths before they are read."""

from __future__ import annotations

import hashlib
import io
import json
import os
import stat
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def write_atomically(path: str | os.PathLike[str], content: bytes | str) -> None:
    """Writes a file atomically: a process that is killed leaves the old file, or none. Text is encoded as UTF-8.

    A link stays, and its target is replaced. Pipes and devices are written into.

    Raises:
        ValueError: the folder does not exist.
    """
    path = Path(path)
    encoded = content.encode(errors="backslashreplace") if isinstance(content, str) else content
    if path.is_fifo() or path.is_char_device():
        path.write_bytes(encoded)
        return
    try:
        path = path.resolve() if path.is_symlink() else path
    except (OSError, RuntimeError) as error:
        raise ValueError(f"{path} cannot be written: it is a link to itself.") from error
    if not path.parent.is_dir():
        raise ValueError(f"{path} cannot be written: the folder {path.parent} does not exist; make it first.")
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name[:50]}.") as folder:
        part = Path(folder) / "part"
        part.write_bytes(encoded)
        os.replace(part, path)


def write_json(path: str | os.PathLike[str], content: object, indent: int | None = 1) -> None:
    """Writes a file of JSON atomically."""
    write_atomically(path, json.dumps(content, indent=indent, ensure_ascii=False) + "\n")


def write_figure(path: str | os.PathLike[str], figure: Figure, dpi: int = 150) -> None:
    """Writes a figure as PNG atomically."""
    write_atomically(path, png_bytes(figure, dpi))


def png_bytes(figure: Figure, dpi: int) -> bytes:
    """A figure as PNG, in half the time of ``savefig``, which draws it twice and compresses it more."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    picture = io.BytesIO()
    figure.set_dpi(dpi)
    FigureCanvasAgg(figure).print_png(picture, pil_kwargs={"compress_level": 1})
    return picture.getvalue()


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
