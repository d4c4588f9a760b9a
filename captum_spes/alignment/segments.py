"""Segments, which are words and phones with their times, and the removal of silence from tiers."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from captum_spes.words import is_word

# names of silence and noise in the words and phones of common aligners and corpora, beside all texts in brackets
SILENCES = {
    *("", "sil", "sp", "spn", "pau", "epi", "h#", "#h", "#", "##", "_", "-", "--", "...", "nsn", "xxx"),
    *("sil_s", "sil_b", "sil_i", "sil_e", "!sil", "<s>", "</s>", "+spn+"),
}
_BRACKETED = re.compile(
    r"<[^<>]*>|\[[^\[\]]*\]|\{[^{}]*\}|\([^()]*\)|\+\+?[^+]+\+\+?"
)  # <unk>, [SIL], {lg}, ++breath++


@dataclass(frozen=True)
class Segment:
    """A word or a phone, and the time at which it is spoken.

    Attributes:
        text: the word, or the phone in the aligner's symbols.
        begin: its begin in seconds.
        end: its end in seconds, after the begin.

    Example::

        >>> from captum_spes.alignment import Segment
        >>> Segment("so", 0.2, 0.5).middle
        0.35
    """

    text: str
    begin: float
    end: float

    @property
    def middle(self) -> float:
        """Seconds."""
        return (self.begin + self.end) / 2


def spoken(segments: Sequence[Segment], word: bool = False) -> list[Segment]:
    """Removes silence and noise from segments, and from words the number of a pronunciation, as in and(2).

    Args:
        segments: words or phones.
        word: whether they are words, which must have a letter or digit; phones need not.
    """
    heard = [segment for segment in segments if not _is_silence(segment.text.strip())]
    if not word:
        return heard
    words = [Segment(re.sub(r"\(\d+\)$", "", item.text.strip()), item.begin, item.end) for item in heard]
    return [item for item in words if is_word(item.text)]


def _is_silence(text: str) -> bool:
    return text.lower() in SILENCES or _BRACKETED.fullmatch(text) is not None
