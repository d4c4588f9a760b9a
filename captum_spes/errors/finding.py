"""Finds the words of a text that differ from a reference."""

from __future__ import annotations

import itertools
import math
import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from captum_spes._extras import require
from captum_spes.explanation import SpeechToTextExplanation
from captum_spes.explanation.errors import ErrorKind, TextError
from captum_spes.explanation.rows import Times, WordRow, word_rows
from captum_spes.metrics.text import Normalizer, find_normalizer
from captum_spes.models.protocol import is_english
from captum_spes.words import is_mark, is_word, letters, signs, text_words, word_spans

# no speaker is faster, also in scripts in which every character is a word
MAX_WORDS_PER_SECOND = 12
# if texts of this many words have none in common, they belong to different recordings or languages
MIN_WORDS_TO_COMPARE = 5
# what distinguishes words beside letters, as in we'll and 3.5, but not the separators of thousands
_SEPARATOR = re.compile(r"('|(?<=\d)[.,:/](?=\d))")
_THOUSANDS = re.compile(r"(?<=\d)[.,](?=\d{3}(?!\d))")
_SYMBOL = re.compile("[$€£¢%]")  # which the normaliser for English writes as words
_BRACKETS = str.maketrans(dict.fromkeys("()[]<>", " "))
_APOSTROPHES = str.maketrans(dict.fromkeys("’‘`´", "'"))


@dataclass(frozen=True)
class _Difference:
    """Words ``first … stop - 1`` of the text correspond to the words ``begin … end - 1`` of the reference."""

    first: int
    stop: int
    begin: int
    end: int

    @property
    def kind(self) -> ErrorKind:
        if self.first == self.stop:
            return "deletion"
        return "insertion" if self.begin == self.end else "substitution"


@dataclass(frozen=True)
class _Stretch(_Difference):
    """Units of two texts that correspond to each other, and whether they are the same."""

    same: bool


@dataclass(frozen=True)
class _Units:
    """A text in the units in which texts are aligned: words, but characters in scripts without spaces.

    A word of tokens may have several of these characters, as tokenizers have tokens such as 今天.

    Attributes:
        text: the text, without special tokens.
        places: for each unit, the position of its first character and the position after its last.
        numbers: the numbers of the text's words, without punctuation and special tokens.
        owners: for each unit, the words to which it belongs, as a range of places in ``numbers``.
    """

    text: str
    places: list[tuple[int, int]]
    numbers: list[int]
    owners: list[tuple[int, int]]

    @classmethod
    def of_text(cls, text: str) -> _Units:
        """Every unit is a word."""
        places = [match.span() for match in text_words(text) if is_word(match[0])]
        return cls(text, places, list(range(len(places))), [(unit, unit + 1) for unit in range(len(places))])

    @classmethod
    def of_tokens(cls, tokens: Sequence[str]) -> _Units:
        """The words are those of the tokens."""
        texts = ["" if is_mark(token) else token for token in tokens]
        units = cls.of_text("".join(texts))
        spans = word_spans(tokens)
        numbers = [number for number, span in enumerate(spans) if is_word("".join(texts[slice(*span)]))]
        edges = np.cumsum([0, *map(len, texts)])
        begins, ends = (edges[[spans[number][side] for number in numbers]] for side in (0, 1))
        owners = [
            (int(np.searchsorted(ends, begin, side="right")), int(np.searchsorted(begins, end, side="left")))
            for begin, end in units.places
        ]
        return cls(units.text, units.places, numbers, owners)

    def begins_word(self, unit: int) -> bool:
        """Whether no word has units on both sides of the place before this unit."""
        return unit in (0, len(self.owners)) or self.owners[unit - 1][1] <= self.owners[unit][0]

    def owners_of(self, first: int, stop: int) -> tuple[int, int]:
        """The words to which the units ``first … stop - 1`` belong, as a range of places in ``numbers``."""
        begin = self.owners[first][0] if first < len(self.owners) else len(self.numbers)
        return begin, (self.owners[stop - 1][1] if first < stop else begin)

    def words(self) -> list[str]:
        """The text of each unit."""
        return [self.text[begin:end] for begin, end in self.places]

    def text_of(self, first: int, stop: int) -> str:
        """The text of the units ``first … stop - 1``, with what is between them."""
        return self.text[self.places[first][0] : self.places[stop - 1][1]] if first < stop else ""

    def around(self, first: int, stop: int) -> str:
        """The same with the unit on either side, and the symbols beside it."""
        begin = self.places[first - 2][1] if first > 1 else 0
        return self.text[begin : self.places[stop + 1][0] if stop + 1 < len(self.places) else None]


@dataclass(frozen=True)
class Compared:
    """The alignment of a text with its reference.

    Attributes:
        reference: the reference.
        places: for each word of the reference, the position of its first character and the position after its last.
        numbers: the numbers of the text's words, without punctuation and special tokens.
        differences: the stretches in which the two differ.
    """

    reference: str
    places: list[tuple[int, int]]
    numbers: list[int]
    differences: list[_Difference]

    def expected(self, difference: _Difference) -> str:
        """The words of the reference in a difference; empty for an insertion."""
        if difference.kind == "insertion":
            return ""
        begin, end = self.places[difference.begin][0], self.places[difference.end - 1][1]
        return " ".join(self.reference[begin:end].split())  # the tokens of a line break would be improbable


def find_errors(
    explanation: SpeechToTextExplanation,
    reference: str,
    normalizer: Normalizer | None = None,
    times: Times | None = None,
) -> list[TextError]:
    """Finds the errors of an explained text, whose words are aligned with those of a reference by jiwer.

    Words are compared by their letters, digits and apostrophes, without case and accents. In scripts without spaces,
    characters are compared, and an error covers whole words of the model's tokens. A difference is not an error if the
    normaliser makes both sides equal, such as *7* and *seven* or *$20* and *20 dollars*, or if both sides have the same
    letters, such as *ill disposed* and *ill-disposed*. In a stretch that has as many written as expected words, each
    word is an error; any other stretch is one error.

    Args:
        explanation: the explanation of the text, with one row for each token.
        reference: the words that were said.
        normalizer: the normaliser of both texts, as in :class:`~captum_spes.metrics.text.WordErrorRate`. Default:
            Whisper's normaliser for English if the text is English or of unknown language, and the basic one otherwise.
        times: the times of the words, as in :meth:`.SpeechToTextExplanation.word_rows`.

    Returns:
        list: the errors in the order of the text. Each has its times, its probability, and whether it was heard.

    Raises:
        ValueError: the rows of the explanation are not tokens, or the reference has no words, more words than can be
            said in the time, or none in common with the text.
        ImportError: the extra ``speech`` is not installed.

    Example::

        >>> from captum_spes.errors import find_errors
        >>> [error.title for error in find_errors(explanation, "So, yes.")]
        ['no (not yes)']
    """
    if explanation.grouped:
        raise ValueError("errors are found in an explanation of tokens: give it without contrast and sentence.")
    language = written_language(explanation)
    words = check_reference(reference, explanation.tokens, explanation.duration, normalizer, language)
    return _errors(explanation, words, times)


def differing_words(
    first: SpeechToTextExplanation, second: SpeechToTextExplanation
) -> tuple[list[tuple[TextError, TextError]], list[tuple[int, int]]]:
    """Compares the texts of two explanations of one recording, such as those of two models.

    Args:
        first: the explanation of one text, with one row for each token.
        second: the explanation of the other text.

    Returns:
        Two lists. The first has a pair of errors for each difference: the error of the first text against the second,
        and that of the second against the first. The other list has, for each word that both texts share, its number
        in the first text and its number in the second.

    Raises:
        ValueError: the texts cannot be compared, as in :func:`find_errors`.

    Example::

        >>> from captum_spes.errors.finding import differing_words
        >>> differing_words(explanation, explanation)
        ([], [(0, 0), (1, 1)])
    """
    own, other = _Units.of_tokens(first.tokens), _Units.of_tokens(second.tokens)
    # a model that repeats itself writes more words than can be said
    stretches = _aligned(own, other, math.inf, language=written_language(first))
    swapped = [_Stretch(one.begin, one.end, one.first, one.stop, one.same) for one in stretches]
    pairs = list(zip(_errors(first, _compared(own, other, stretches)), _errors(second, _compared(other, own, swapped))))
    shared = []
    for one in stretches:
        words = [range(*own.owners_of(one.first, one.stop)), range(*other.owners_of(one.begin, one.end))]
        if one.same and len(words[0]) == len(words[1]) == 1:
            shared.append((own.numbers[words[0][0]], other.numbers[words[1][0]]))
    return pairs, shared


def _errors(explanation: SpeechToTextExplanation, words: Compared, times: Times | None = None) -> list[TextError]:
    texts = explanation.tokens
    rows = word_rows(explanation, times)
    spans = word_spans(texts)
    errors = []
    for one in words.differences:
        expected = words.expected(one)
        if one.kind == "deletion":
            following = words.numbers[one.first - 1] + 1 if one.first else 0
            errors.append(_deletion(expected, following, rows))
            continue
        first, stop = words.numbers[one.first], words.numbers[one.stop - 1] + 1
        written = "".join(texts[spans[first][0] : spans[stop - 1][1]]).strip()
        errors.append(_written(one.kind, written, expected, (first, stop), rows[first:stop]))
    return errors


def written_language(explanation: SpeechToTextExplanation) -> str | None:
    """The language of an explained text, as a code or name; None if it is unknown."""
    metadata = explanation.metadata
    return metadata.get("text_language", metadata.get("language"))  # explanations of earlier versions have only this


def check_reference(
    reference: str,
    tokens: Sequence[str],
    seconds: float,
    normalizer: Normalizer | None = None,
    language: str | None = None,
) -> Compared:
    """Aligns a text with a reference.

    Args:
        reference: the words that were said.
        tokens: the texts of the written tokens.
        seconds: the duration of the audio.
        normalizer: the normaliser of both texts, as in :func:`find_errors`.
        language: the code or name of the text's language, or None if it is unknown.

    Raises:
        ValueError: the reference cannot be compared with the text, as in :func:`find_errors`.
    """
    written, expected = _Units.of_tokens(tokens), _Units.of_text(reference)
    return _compared(written, expected, _aligned(written, expected, seconds, normalizer, language))


def _compared(written: _Units, expected: _Units, stretches: Sequence[_Stretch]) -> Compared:
    differences = [
        _Difference(*written.owners_of(one.first, one.stop), one.begin, one.end) for one in stretches if not one.same
    ]
    return Compared(expected.text, expected.places, written.numbers, differences)


def _aligned(
    written: _Units,
    expected: _Units,
    seconds: float,
    normalizer: Normalizer | None = None,
    language: str | None = None,
) -> list[_Stretch]:
    """The stretches of two texts, none of which ends within a word; arguments and errors of :func:`check_reference`."""
    reference, n_words = expected.text, len(expected.places)
    if not n_words:
        raise ValueError(f"the reference {reference!r:.80} has no words: give what was said.")
    if n_words > MAX_WORDS_PER_SECOND * seconds + 1:
        raise ValueError(
            f"the reference has {n_words} words, more than can be said in {seconds:.1f} s: give what was said in this "
            "recording."
        )
    if normalizer is None:
        normalizer = "english" if is_english(language) else "basic"
    stretches = _stretches(written, expected, find_normalizer(normalizer))
    is_long = min(len(written.places), n_words) >= MIN_WORDS_TO_COMPARE
    have_common = any(one.same and one.kind == "substitution" for one in stretches)  # and not just an "um" left out
    if not have_common and (is_long or _have_other_scripts(written.words(), expected.words())):
        raise ValueError(
            f"the reference {reference!r:.80} and the text {written.text.strip()!r:.80} have no word in common: "
            "give what was said in this recording, in the language that the model writes."
        )
    whole: list[_Stretch] = []
    for one in stretches:
        if whole and not (written.begins_word(one.first) and expected.begins_word(one.begin)):
            last = whole.pop()
            one = _Stretch(last.first, one.stop, last.begin, one.end, last.same and one.same)
        whole.append(one)
    return whole


def _have_other_scripts(first: Sequence[str], second: Sequence[str]) -> bool:
    """Whether the letters of two lists of words belong to different scripts, such as Latin and Cyrillic."""
    scripts = [
        {unicodedata.name(letter, "").split(" ")[0] for letter in "".join(words) if letter.isalpha()}
        for words in (first, second)
    ]
    japanese = {"CJK", "HIRAGANA", "KATAKANA"}
    mixed = [found | japanese if found & japanese else found for found in scripts]
    return all(scripts) and mixed[0].isdisjoint(mixed[1])


def _stretches(written: _Units, expected: _Units, normalize: Callable[[str], str]) -> list[_Stretch]:
    """Aligns the units of two texts: in their order, the pairs of equal units and the stretches between them."""
    if not written.places:
        return [_Stretch(0, 0, 0, len(expected.places), same=False)]
    own, other = ([_key(word) for word in units.words()] for units in (written, expected))
    [chunks] = require("jiwer").process_words(" ".join(other), " ".join(own)).alignments
    found = []
    for first, stop, begin, end, equal in _joined(chunks):
        same = equal or "".join(own[first:stop]) == "".join(other[begin:end])
        same = same or _are_same(written.text_of(first, stop), expected.text_of(begin, end), normalize)
        if not same:  # the symbols around a difference belong to it, and "20 dollars" is "$20" only as a whole
            # the normaliser would remove what is in brackets
            around = written.around(first, stop).translate(_BRACKETS), expected.around(begin, end).translate(_BRACKETS)
            same = _SYMBOL.search("".join(around)) is not None and _are_same(*around, normalize)
        found.append(_Stretch(first, stop, begin, end, same))
    return found


def _key(word: str) -> str:
    """What distinguishes a word from others: its letters, apostrophes, and separators between digits."""
    parts = _SEPARATOR.split(_THOUSANDS.sub("", _straight(word)))
    return "".join(part if number % 2 else letters(part) for number, part in enumerate(parts))


def _are_same(own: str, other: str, normalize: Callable[[str], str]) -> bool:
    """Whether the normaliser makes two texts equal, and both have the same vowel signs, which it may remove."""
    normal = [normalize(_straight(text)).strip() for text in (own, other)]
    return normal[0] == normal[1] and signs(own) == signs(other)


def _straight(text: str) -> str:
    """A text with straight apostrophes, which the normaliser for English needs."""
    return text.translate(_APOSTROPHES)


def _joined(chunks: Sequence[Any]) -> Iterator[tuple[int, int, int, int, bool]]:
    """The stretches of jiwer's alignment: neighbouring differences are one unless all of them are substitutions."""
    for equal, group in itertools.groupby(chunks, key=lambda chunk: chunk.type == "equal"):
        parts = list(group)
        first, begin = parts[0].hyp_start_idx, parts[0].ref_start_idx
        stop, end = parts[-1].hyp_end_idx, parts[-1].ref_end_idx
        if all(part.type in ("equal", "substitute") for part in parts):
            yield from ((first + k, first + k + 1, begin + k, begin + k + 1, equal) for k in range(stop - first))
        else:
            yield first, stop, begin, end, equal


def _deletion(expected: str, following: int, rows: Sequence[WordRow]) -> TextError:
    before = rows[following - 1].end if following else 0.0
    after = rows[following] if following < len(rows) else None
    return TextError(
        "deletion",
        "",
        expected,
        (following, following),
        begin=before,
        end=None if after is None else after.begin,
        probability=None if after is None else after.probability,
    )


def _written(
    kind: ErrorKind, written: str, expected: str, words: tuple[int, int], rows: Sequence[WordRow]
) -> TextError:
    probabilities = [row.probability for row in rows if row.probability is not None]
    known = [row for row in rows if is_word(row.text) and row.heard is not None]
    least = min(known, key=lambda row: row.heard or 0.0) if known else None
    return TextError(
        kind,
        written,
        expected,
        words,
        begin=rows[0].begin,
        end=rows[-1].end,
        probability=math.prod(probabilities) if len(probabilities) == len(rows) else None,
        heard=sum(row.heard or 0.0 for row in known) / len(known) if known else None,
        verdict=None if least is None else least.verdict,
    )
