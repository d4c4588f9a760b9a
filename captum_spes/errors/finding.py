"""Finds the words of a text that differ from a reference."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from captum_spes._extras import require
from captum_spes.explanation import SpeechToTextExplanation
from captum_spes.explanation.errors import ErrorKind, TextError
from captum_spes.explanation.rows import Times, WordRow, word_rows
from captum_spes.metrics.text import Normalizer, find_normalizer
from captum_spes.words import is_word, letters, signs, text_words, word_spans

# no speaker is faster, also in scripts in which every character is a word
MAX_WORDS_PER_SECOND = 12
# if texts of this many words have none in common, they belong to different recordings or languages
MIN_WORDS_TO_COMPARE = 5


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
        return self.reference[self.places[difference.begin][0] : self.places[difference.end - 1][1]]


def find_errors(
    explanation: SpeechToTextExplanation,
    reference: str,
    normalizer: Normalizer | None = None,
    times: Times | None = None,
) -> list[TextError]:
    """Finds the errors of an explained text, whose words are aligned with those of a reference by jiwer.

    Words are compared by their letters and digits, without case and accents. A difference is not an error if the
    normaliser makes both sides equal, such as *7* and *seven*, or if both sides have the same letters, such as
    *ill disposed* and *ill-disposed*. In a stretch that has as many written as expected words, each word is an error;
    any other stretch is one error.

    Args:
        explanation: the explanation of the text, with one row for each token.
        reference: the words that were said.
        normalizer: the normaliser of both texts, as in :class:`~captum_spes.metrics.text.WordErrorRate`. Default:
            Whisper's normaliser for English if the language is English or unknown, and the basic one otherwise.
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
    language = explanation.metadata.get("language")
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
    language = first.metadata.get("language")
    # a model that repeats itself writes more words than can be said
    of_first = check_reference(second.text, first.tokens, math.inf, language=language)
    own = check_reference(second.text, second.tokens, math.inf, language=language)
    if len(own.numbers) != len(of_first.places):
        raise ValueError(f"the words of {second.text!r:.80} are not those of its tokens: compare other texts.")
    places = [match.span() for match in text_words(first.text) if is_word(match[0])]
    mirrored = [_Difference(one.begin, one.end, one.first, one.stop) for one in of_first.differences]
    of_second = Compared(first.text, places, own.numbers, mirrored)
    pairs = list(zip(_errors(first, of_first), _errors(second, of_second)))
    changed: list[set[int]] = [set(), set()]
    for one in of_first.differences:
        changed[0].update(range(one.first, one.stop))
        changed[1].update(range(one.begin, one.end))
    kept = [
        [number for place, number in enumerate(numbers) if place not in wrong]
        for numbers, wrong in zip((of_first.numbers, own.numbers), changed)
    ]
    return pairs, list(zip(*kept))


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
        language: the language code of the text, or None if it is unknown.

    Raises:
        ValueError: the reference cannot be compared with the text, as in :func:`find_errors`.
    """
    places = [match.span() for match in text_words(reference) if is_word(match[0])]
    if not places:
        raise ValueError(f"the reference {reference!r:.80} has no words: give what was said.")
    if len(places) > MAX_WORDS_PER_SECOND * seconds + 1:
        raise ValueError(
            f"the reference has {len(places)} words, more than can be said in {seconds:.1f} s: give what was said in "
            "this recording."
        )
    words = ["".join(tokens[start:stop]).strip() for start, stop in word_spans(tokens)]
    numbers = [number for number, word in enumerate(words) if is_word(word)]
    written, expected = [words[number] for number in numbers], [reference[begin:end] for begin, end in places]
    if normalizer is None:
        normalizer = "english" if language in (None, "en") else "basic"
    differences, n_equal = _differences(written, expected, find_normalizer(normalizer))
    is_long = min(len(written), len(expected)) >= MIN_WORDS_TO_COMPARE
    if not n_equal and (is_long or _have_other_scripts(written, expected)):
        raise ValueError(
            f"the reference {reference!r:.80} and the text {''.join(tokens).strip()!r:.80} have no word in common: "
            "give what was said in this recording, in the language that the model writes."
        )
    return Compared(reference, places, numbers, differences)


def _have_other_scripts(first: Sequence[str], second: Sequence[str]) -> bool:
    """Whether the letters of two lists of words belong to different scripts, such as Latin and Cyrillic."""
    scripts = [
        {unicodedata.name(letter, "").split(" ")[0] for letter in "".join(words) if letter.isalpha()}
        for words in (first, second)
    ]
    japanese = {"CJK", "HIRAGANA", "KATAKANA"}
    mixed = [found | japanese if found & japanese else found for found in scripts]
    return all(scripts) and mixed[0].isdisjoint(mixed[1])


def _differences(
    written: list[str], expected: list[str], normalize: Callable[[str], str]
) -> tuple[list[_Difference], int]:
    """The differences between two lists of words, and the number of equal words."""
    if not written:
        return [_Difference(0, 0, 0, len(expected))], 0
    [chunks] = (
        require("jiwer").process_words(*(" ".join(map(letters, words)) for words in (expected, written))).alignments
    )
    n_equal = sum(chunk.hyp_end_idx - chunk.hyp_start_idx for chunk in chunks if chunk.type == "equal")
    found = []
    for stretch in _stretches(chunks):
        for difference in stretch:
            texts = written[difference.first : difference.stop], expected[difference.begin : difference.end]
            own, other = (" ".join(words) for words in texts)
            is_same = normalize(own).strip() == normalize(other).strip() and signs(own) == signs(other)
            if letters(own) == letters(other) or is_same:  # Whisper's basic normaliser removes vowel signs
                n_equal += len(texts[0])
            else:
                found.append(difference)
    return found, n_equal


def _stretches(chunks: Sequence[Any]) -> Iterator[list[_Difference]]:
    """Groups the differences of jiwer's alignment: neighbours are merged unless all of them are substitutions."""
    open_chunks: list[Any] = []
    for chunk in [*chunks, None]:
        if chunk is not None and chunk.type != "equal":
            open_chunks.append(chunk)
            continue
        if open_chunks and all(one.type == "substitute" for one in open_chunks):
            yield [
                _Difference(
                    one.hyp_start_idx + k, one.hyp_start_idx + k + 1, one.ref_start_idx + k, one.ref_start_idx + k + 1
                )
                for one in open_chunks
                for k in range(one.hyp_end_idx - one.hyp_start_idx)
            ]
        elif open_chunks:
            start, end = open_chunks[0], open_chunks[-1]
            yield [_Difference(start.hyp_start_idx, end.hyp_end_idx, start.ref_start_idx, end.ref_end_idx)]
        open_chunks = []


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
