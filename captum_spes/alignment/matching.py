"""Matches the words of a text with the segments of an alignment."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import SequenceMatcher

from captum_spes.alignment.segments import Segment
from captum_spes.words import letters


def match_words(texts: Sequence[str], words: Sequence[Segment]) -> list[Segment | None]:
    """Finds for each word the segment in which it is spoken, or None if there is no match.

    Letter case, accents and punctuation are ignored. A word may match several segments, such as *ill-disposed* the
    segments *ill* and *disposed*. Punctuation and special tokens have no segment, and neither has a word that is
    spelled differently in the alignment.

    Args:
        texts: the words, such as those of ``explanation.words().tokens``.
        words: the words of an alignment.

    Example::

        >>> from captum_spes.alignment import Segment, match_words
        >>> words = [Segment("an", 0.0, 0.1), Segment("ill", 0.1, 0.4), Segment("disposed", 0.4, 1.0)]
        >>> match_words(["An", "ill-disposed", "man", "."], words)
        [Segment(text='an', begin=0.0, end=0.1), Segment(text='ill disposed', begin=0.1, end=1.0), None, None]
    """
    ours, theirs = [letters(text) for text in texts], [letters(word.text) for word in words]
    found: list[Segment | None] = [None] * len(ours)
    rows = [row for row, plain in enumerate(ours) if plain]
    matcher = SequenceMatcher(None, [ours[row] for row in rows], theirs, autojunk=False)
    for kind, start, stop, first, last in matcher.get_opcodes():
        if kind == "equal":
            for row, word in zip(rows[start:stop], words[first:last]):
                found[row] = word
            continue
        for row in rows[start:stop]:
            if run := _run(ours[row], theirs, first, last):
                spoken = words[run[0] : run[1]]
                text = " ".join(word.text for word in spoken)
                found[row] = Segment(text, spoken[0].begin, spoken[-1].end)
                first = run[1]
    return found


def _run(word: str, parts: Sequence[str], first: int, last: int) -> tuple[int, int] | None:
    """The first run of consecutive parts that together are the word."""
    for start in range(first, last):
        for stop in range(start + 1, last + 1):
            joined = "".join(parts[start:stop])
            if joined == word:
                return start, stop
            if not word.startswith(joined):
                break
    return None
