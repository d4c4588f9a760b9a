"""Groups tokens to words, classifies tokens, and reduces words to the letters that alignments compare."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence

import numpy as np

# scripts written without spaces, in which every character counts as a word
_UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
_MARK = r"<\|?[\w./]+\|?>"  # such as <|endoftext|> and </s>
# combining marks, which \w leaves out: accents, Hebrew and Arabic points, the vowel signs of India's scripts, joiners
_SIGNS = (
    "\u0300-\u036f\u0591-\u05bd\u05bf-\u05c2\u05c4\u05c5\u05c7\u0610-\u061a\u064b-\u065f\u0670\u06d6-\u06dc"
    "\u0900-\u0903\u093a-\u0963\u0966-\u0dff\u200c\u200d"
)
_LETTERS = rf"(?:(?![{_UNSPACED}])[\w{_SIGNS}])+"
_INSIDE = r"(?:['’\-‐–]|(?<=\d)[.,:/](?=\d))"  # what may join letters or digits in a word
_WORD = re.compile(rf"{_MARK}|[{_UNSPACED}]|{_LETTERS}(?:{_INSIDE}{_LETTERS})*|(?:(?!{_MARK})[^\w\s{_SIGNS}])+")


def word_spans(tokens: Sequence[str]) -> list[tuple[int, int]]:
    """Groups tokens, whose texts joined are a text, to words: for each word its first token and the one after its last.

    Example::

        >>> from captum_spes.words import word_spans
        >>> word_spans([" an", " ill", "-", "dis", "posed", " man", "."])
        [(0, 1), (1, 5), (5, 6), (6, 7)]
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
            starts.append(index)
        if token.strip():
            word = current
    return list(zip(starts, [*starts[1:], len(tokens)]))


def text_words(text: str) -> Iterator[re.Match[str]]:
    """The words, punctuation and marks of a text, each with its place.

    Example::

        >>> from captum_spes.words import text_words
        >>> [match[0] for match in text_words("An ill-disposed man.")]
        ['An', 'ill-disposed', 'man', '.']
    """
    return _WORD.finditer(text)


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
    """The letters and digits of a text, without case and accents; an empty text for a mark."""
    if is_mark(text):
        return ""
    plain = unicodedata.normalize("NFKD", text.casefold())
    return "".join(character for character in plain if character.isalnum())
