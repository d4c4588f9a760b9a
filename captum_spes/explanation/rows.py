"""Converts an explanation to a table with a row of facts for each word."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from torch import Tensor

from captum_spes.confidence import Verdict
from captum_spes.maps import shortest_span, top_bins
from captum_spes.words import is_word, word_spans

if TYPE_CHECKING:
    from captum_spes.explanation import SpeechToTextExplanation


class Timed(Protocol):
    """An object with a begin and an end in seconds, such as a :class:`~captum_spes.alignment.Segment`."""

    @property
    def begin(self) -> float: ...

    @property
    def end(self) -> float: ...


Times = Sequence[Timed | None]


@dataclass(frozen=True)
class WordRow:
    """Facts about one word of an explanation. Unknown values are None.

    Attributes:
        text: the word, special token or punctuation.
        begin: its begin in seconds, from the given times or from the model's attention.
        end: its end in seconds.
        probability: the probability of the word; see :class:`~captum_spes.confidence.Confidence`.
        least_probability: the smallest probability of its tokens.
        entropy: its entropy in bits.
        doubtful: whether the probability is below one half.
        heard: the share of its probability that is lost when its own sound is hidden.
        verdict: ``"heard"``, ``"guessed"`` or ``"unsure"``; None for punctuation and special tokens.
        alternatives: other texts that the model might have written, with their probabilities.
        salient_begin: begin in seconds of its salient span, the shortest time that holds half of the most salient 5 %
            of its map. None, like the next three, for a map that is the same everywhere.
        salient_end: end of the salient span in seconds.
        salient_low: centre in Hz of the lowest mel channel of the narrowest band that holds half of these bins.
        salient_high: centre in Hz of the highest mel channel of this band.
        top_previous_token: the previous token with the largest attribution.
        reliability: correlation of the maps of two halves of the samples.

    Example::

        >>> row = explanation.word_rows()[1]
        >>> row.text, row.top_previous_token, round(row.reliability, 2)
        ('no', ' So', 0.9)
    """

    text: str
    begin: float | None
    end: float | None
    probability: float | None
    least_probability: float | None
    entropy: float | None
    doubtful: bool | None
    heard: float | None
    verdict: Verdict | None
    alternatives: list[tuple[str, float]] | None
    salient_begin: float | None
    salient_end: float | None
    salient_low: float | None
    salient_high: float | None
    top_previous_token: str | None
    reliability: float | None


def word_rows(explanation: SpeechToTextExplanation, times: Times | None = None) -> list[WordRow]:
    """The rows of an explanation's words, or of its own rows if these are not tokens.

    Raises:
        ValueError: there is not one time for each word.
    """
    words = explanation if explanation.grouped else explanation.words()
    spans = word_times(explanation, words.tokens, times)
    has_previous = bool(words.previous_tokens)
    tops = words.top_previous_tokens() if has_previous else []
    sure = words.confidence
    rows = []
    for row, (text, map_, span) in enumerate(zip(words.tokens, words.spectrogram_attr, spans)):
        is_flat = map_.min() == map_.max()
        (first, stop), (low, high) = salient_box(map_)
        begin, end = span or (None, None)
        rows.append(
            WordRow(
                text=text,
                begin=begin,
                end=end,
                probability=None if sure is None else sure.probabilities[row],
                least_probability=None if sure is None else sure.least[row],
                entropy=None if sure is None else sure.entropy[row],
                doubtful=None if sure is None else sure.doubtful[row],
                heard=None if sure is None or sure.heard is None else sure.heard[row],
                verdict=None if sure is None or sure.verdicts is None or not is_word(text) else sure.verdicts[row],
                alternatives=None if sure is None else sure.alternatives[row],
                salient_begin=None if is_flat else first / words.frames_per_second,
                salient_end=None if is_flat else stop / words.frames_per_second,
                salient_low=None if is_flat else float(words.mel_frequencies[low]),
                salient_high=None if is_flat else float(words.mel_frequencies[high - 1]),
                top_previous_token=tops[row] if has_previous else None,
                reliability=None if words.reliability is None else float(words.reliability[row]),
            )
        )
    return rows


def word_times(
    explanation: SpeechToTextExplanation, words: Sequence[str], times: Times | None
) -> list[tuple[float, float] | None]:
    """Begin and end of each word in seconds: those given, or else the model's own.

    Raises:
        ValueError: times that are not one for each word.
    """
    if times is None:
        return _own_times(explanation)
    if len(times) != len(words):
        raise ValueError(f"{len(times)} times were given for {len(words)} words: give one or None for each of {words}.")
    return [None if time is None else (time.begin, time.end) for time in times]


def salient_box(map_: Tensor) -> tuple[tuple[int, int], tuple[int, int]]:
    """The shortest time and the narrowest band that each hold half of the most salient 5 % of a map (T, C), or bin.

    Returns:
        The first frame and the one after the last, and the first channel and the one after the last.
    """
    order = map_.flatten().argsort(descending=True, stable=True)
    top = top_bins(order, (max(5.0, 100 / len(order)),)).view(map_.shape)
    return shortest_span(top.sum(1)), shortest_span(top.sum(0))


def _own_times(explanation: SpeechToTextExplanation) -> list[tuple[float, float] | None]:
    """The times at which the model attended to each word, if they were recorded."""
    spans = [(row, row + 1) for row in range(len(explanation.tokens))]
    if not explanation.grouped:
        spans = word_spans(explanation.tokens)
    times: Any = explanation.metadata.get("token_times")
    if explanation.grouped or not _are_times(times, len(explanation.tokens)):
        return [None] * len(spans)
    return [
        (times[start][0], times[stop - 1][1]) if times[start][0] < times[stop - 1][1] else None for start, stop in spans
    ]


def _are_times(times: Any, count: int) -> bool:
    """Whether metadata, which are not trusted, are pairs of seconds."""
    return (
        isinstance(times, list)
        and len(times) == count
        and all(isinstance(pair, list) and len(pair) == 2 for pair in times)
        and all(isinstance(time, (int, float)) and 0 <= time < math.inf for pair in times for time in pair)
    )
