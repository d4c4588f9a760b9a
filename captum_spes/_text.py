"""Text that is safe to print, Markdown, and formatted numbers."""

from __future__ import annotations

import re
from collections.abc import Sequence

# control characters, which a terminal executes; characters that change the direction of writing; lone surrogates
_UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


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


def format_number(value: float, digits: int = 1, sign: str = "") -> str:
    """Formats a number with a real minus sign, and without a minus before 0.

    Example::

        >>> from captum_spes._text import format_number
        >>> format_number(-1234.56), format_number(-0.04), format_number(1.5, sign="+")
        ('−1,234.6', '0.0', '+1.5')
    """
    return f"{round(value, digits) + 0.0:{sign},.{digits}f}".replace("-", "−")
