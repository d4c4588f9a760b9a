"""Groups tokens to words, classifies tokens, and reduces words to the letters that alignments compare."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence

import numpy as np

# scripts written without spaces, in which every character counts as a word
_UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
# their vowel signs, tones and voicing marks, which belong to the character before
_UNSPACED_SIGNS = (
    "\u0e31\u0e34-\u0e3a\u0e47-\u0e4e\u0eb1\u0eb4-\u0ebc\u0ec8-\u0ece\u102b-\u103e\u1056-\u1059\u105e-\u1060"
    "\u1062-\u1064\u1067-\u106d\u1071-\u1074\u1082-\u108d\u109a-\u109d\u17b4-\u17d3\u17dd\u3099\u309a"
)
_CHARACTER = rf"[{_UNSPACED}][{_UNSPACED_SIGNS}]*"
_UNSPACED_TEXT = re.compile(rf"[{_UNSPACED}\u3000-\u303f\uff00-\uffef]")  # with their punctuation
_MARK = r"<\|?[\w./]+\|?>"  # such as <|endoftext|> and </s>
# combining marks, which \w leaves out: accents, Hebrew and Arabic points, the vowel signs of India's scripts, joiners
_SIGNS = (
    "\u0300-\u036f\u0591-\u05bd\u05bf-\u05c2\u05c4\u05c5\u05c7\u0610-\u061a\u064b-\u065f\u0670\u06d6-\u06dc"
    "\u0900-\u0903\u093a-\u0963\u0966-\u0dff\u200c\u200d"
)
_LETTERS = rf"(?:(?![{_UNSPACED}])[\w{_SIGNS}])+"
_INSIDE = r"(?:['’\-‐–]|(?<=\d)[.,:/](?=\d))"  # what may join letters or digits in a word
_WORD = re.compile(rf"{_MARK}|{_CHARACTER}|{_LETTERS}(?:{_INSIDE}{_LETTERS})*|(?:(?!{_MARK})[^\w\s{_SIGNS}])+")
# signs that distinguish words, unlike accents and the points of Hebrew and Arabic
_DISTINCTIVE = re.compile(rf"[\u0900-\u0fff{_UNSPACED_SIGNS}]")


def word_spans(tokens: Sequence[str]) -> list[tuple[int, int]]:
    """Groups tokens, whose texts joined are a text, to words: for each word its first token and the one after its last.

    A token without visible text, which is a space or the first bytes of a character, belongs to the word that it
    begins. Before a mark and at the end of the text it belongs to the word before.

    Example::

        >>> from captum_spes.words import word_spans
        >>> word_spans([" an", " ill", "-", "dis", "posed", " man", "."])
        [(0, 1), (1, 5), (5, 6), (6, 7)]
        >>> word_spans(["は", "", "薬"])  # a character of two tokens
        [(0, 1), (1, 3)]
    """
    text = "".join(tokens)
    ends = np.cumsum([len(token) for token in tokens])
    word_ends = [match.end() for match in _WORD.finditer(text)]
    starts = [0]
    word = 0
    for index, token in enumerate(tokens):
        # the position at which the token's text begins, after its space
        begin = int(ends[index]) - len(token.lstrip())
        current = int(np.searchsorted(word_ends, begin, side="right"))
        if index and token.strip() and current > word and "".join(tokens[starts[-1] : index]).strip():
            starts.append(index if is_mark(token) else _before_blanks(tokens, index))
        if token.strip():
            word = current
    return list(zip(starts, [*starts[1:], len(tokens)]))


def _before_blanks(tokens: Sequence[str], start: int) -> int:
    while not tokens[start - 1].strip():
        start -= 1
    return start


def text_words(text: str) -> Iterator[re.Match[str]]:
    """The words, punctuation and marks of a text, each with its place.

    Example::

        >>> from captum_spes.words import text_words
        >>> [match[0] for match in text_words("An ill-disposed man.")]
        ['An', 'ill-disposed', 'man', '.']
    """
    return _WORD.finditer(text)


def spaced(text: str) -> str:
    """A text with spaces around the characters of scripts without spaces, each of which counts as a word.

    Example::

        >>> from captum_spes.words import spaced
        >>> spaced("so 今天").split()
        ['so', '今', '天']
    """
    return re.sub(_CHARACTER, r" \g<0> ", text)


def is_word(text: str) -> bool:
    """Whether a token or word has a letter or digit, rather than being punctuation or a mark (a special token).

    Example::

        >>> from captum_spes.words import is_word
        >>> [is_word(text) for text in (" So", "'s", "?", "<|endoftext|>", "7")]
        [True, True, False, False, True]
    """
    return any(character.isalnum() for character in text) and not is_mark(text)


def is_mark(text: str) -> bool:
    """Whether a token is a mark, that is, a special token such as the end of the text."""
    return re.fullmatch(_MARK, text.strip()) is not None


def letters(text: str) -> str:
    """The letters and digits of a text, with vowel signs, without case and accents; an empty text for a mark."""
    if is_mark(text):
        return ""
    plain = unicodedata.normalize("NFKD", text.casefold())
    return "".join(character for character in plain if character.isalnum() or signs(character))


def is_unspaced(text: str) -> bool:
    """Whether a text has characters of a script that is written without spaces.

    Example::

        >>> from captum_spes.words import is_unspaced
        >>> is_unspaced("世界"), is_unspaced("world")
        (True, False)
    """
    return _UNSPACED_TEXT.search(text) is not None


def signs(text: str) -> str:
    """The marks of a text that change its words: vowel signs, tones and voicing marks, but no accents.

    Example::

        >>> from captum_spes.words import signs
        >>> len(signs("की")), len(signs("café"))
        (1, 0)
    """
    plain = unicodedata.normalize("NFKD", text)
    return "".join(c for c in plain if unicodedata.category(c).startswith("M") and _DISTINCTIVE.match(c))
