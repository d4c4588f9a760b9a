"""Labels of figures, which must show any token and fit their places."""

from __future__ import annotations

import math
import textwrap
import unicodedata
from collections.abc import Sequence
from typing import Any

from captum_spes._log import warn

LINE_HEIGHT = 1.25  # height of a line of text, in font sizes

# Fonts for scripts that matplotlib's own font lacks, used if they are installed. Colour emoji fonts are left out,
# because matplotlib cannot draw them.
FALLBACK_FONTS = (
    *("Noto Sans CJK SC", "Noto Sans CJK JP", "Noto Sans CJK KR", "Noto Sans SC", "Source Han Sans SC"),
    *("WenQuanYi Micro Hei", "WenQuanYi Zen Hei", "Droid Sans Fallback", "Microsoft YaHei", "SimHei", "Malgun Gothic"),
    *("Yu Gothic", "PingFang SC", "PingFang HK", "Hiragino Sans", "Hiragino Sans GB", "AppleGothic"),
    *("Arial Unicode MS", "Noto Sans Arabic", "Noto Sans Hebrew", "Noto Sans Devanagari", "Noto Sans Bengali"),
    *("Noto Sans Tamil", "Noto Sans Thai", "Nirmala UI", "Leelawadee UI", "Noto Emoji", "Segoe UI Symbol", "Symbola"),
)
MISSING_GLYPH = "□"
# Debian's packages with fonts for characters, by the beginning of the characters' names in Unicode
FONT_PACKAGES = {
    **dict.fromkeys(("CJK", "HIRAGANA", "KATAKANA", "HANGUL", "FULLWIDTH", "IDEOGRAPHIC"), "fonts-noto-cjk"),
    **dict.fromkeys(("ARABIC", "HEBREW", "DEVANAGARI", "BENGALI", "TAMIL", "THAI"), "fonts-noto-core"),
}
SIGNS_PACKAGE, OTHER_PACKAGE = "fonts-symbola", "fonts-noto"  # for emoji and signs, and for all other scripts

_told: set[str] = set()  # characters without a font about which this process has warned


def token_text() -> dict[str, Any]:
    """Properties of text for any content: no $formulas$, and fonts of other scripts if they are installed."""
    return {"parse_math": False, "usetex": False, "fontfamily": _font_families()}


def _font_families() -> list[str]:
    from matplotlib import font_manager, rcParams

    installed = set(font_manager.get_font_names())
    return [*rcParams["font.family"], *(name for name in FALLBACK_FONTS if name in installed)]


def clean_labels(texts: Sequence[str]) -> list[str]:
    """Tokens as labels, with a box for characters that no font has; it warns once about each."""
    texts = [clean(text) for text in texts]
    missing = set().union(*texts) - _drawable_characters(frozenset().union(*texts))
    if new := missing - _told:
        _told.update(new)
        packages = " and ".join(sorted({_font_package(character) for character in new} - {""}))
        install = f"Install {packages} (Debian, Ubuntu), or name" if packages else "Name"
        warn(
            f"no font has {' '.join(sorted(new))}: boxes are drawn instead. {install} a font that has them in "
            "matplotlib.rcParams['font.family'].",
            stacklevel=4,  # the caller of the plotting function
        )
    boxes = str.maketrans(dict.fromkeys(missing, MISSING_GLYPH))
    return [text.translate(boxes) for text in texts]


def _font_package(character: str) -> str:
    """Debian's package with a font for a character; "" for a private-use character, which has no name."""
    name = unicodedata.name(character, "")
    other = SIGNS_PACKAGE if unicodedata.category(character).startswith("S") else OTHER_PACKAGE
    return next((package for start, package in FONT_PACKAGES.items() if name.startswith(start)), other if name else "")


def _drawable_characters(characters: frozenset[str]) -> set[str]:
    from matplotlib import font_manager

    found: set[str] = set()
    for family in _font_families():
        properties = font_manager.FontProperties(family=[family])
        try:
            path = font_manager.findfont(properties, fallback_to_default=False)
        except ValueError:  # the font is not installed
            continue
        found |= {character for character in characters if ord(character) in font_manager.get_font(path).get_charmap()}
        if found == characters:
            break
    return found


def clean(text: str) -> str:
    """The text on one line, without the space at the begin of a word's token; invisible characters are named.

    Example::

        >>> [clean(text) for text in (" So", "", " ", "a\\nb", "<|en|>")]
        ['So', '(empty)', '␣', 'a↵b', '<|en|>']
    """
    if not text:
        return "(empty)"
    if set(text) == {" "}:
        return "␣"
    return "".join(map(_visible, text)).strip(" ") or text.encode("unicode_escape").decode()


def _visible(character: str) -> str:
    if character in "\n\r\t":
        return {"\n": "↵", "\r": "␍", "\t": "⇥"}[character]
    category = unicodedata.category(character)
    # joiners and variation selectors change the shape of their neighbours and are invisible themselves
    if category == "Cf" or "\ufe00" <= character <= "\ufe0f":
        return ""
    if category in ("Cc", "Cs", "Cn"):
        return character.encode("unicode_escape").decode()
    return " " if category.startswith("Z") else character


def text_width(text: str, size: float) -> float:
    """The measured width of a text in inches; a Chinese character is as wide as two or three Latin ones."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import TextToPath

    if not text:
        return 0.0
    properties = FontProperties(family=_font_families(), size=size)
    return TextToPath().get_text_width_height_descent(text, properties, ismath=False)[0] / 72


def shorten(text: str, width: float, size: float) -> str:
    """The text, cut to a width in inches."""
    measured = text_width(text, size)
    if measured <= width:
        return text
    kept = min(len(text), 1 + int(1.5 * len(text) * width / measured))  # a first estimate, for long texts
    while kept > 1 and text_width(text[:kept] + "…", size) > width:
        kept -= 1
    return text[:kept].rstrip() + "…"


def wrap(text: str, width: float, size: float, max_lines: int) -> str:
    """Breaks a text into lines of a width in inches; text after the last line is cut."""
    n_lines = math.ceil(text_width(text, size) / width)
    if n_lines <= 1:
        return text
    # begins with lines of about equal numbers of letters, and shortens them until all fit
    for n_characters in range(len(text) // n_lines + 8, 0, -1):
        lines = textwrap.wrap(text, n_characters, max_lines=max_lines, placeholder="…")
        if all(text_width(line, size) <= width for line in lines):
            break
    return "\n".join(lines)
