"""Compares the maps of words with the times at which the words are spoken (paper §8.1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from captum_spes.alignment import Alignment, match_words
from captum_spes.explanation import SpeechToTextExplanation
from captum_spes.metrics.plausibility.statistics import MeanComparison, by_utterance, compare_means, mean_interval
from captum_spes.metrics.plausibility.words import (
    HIGH_THRESHOLD,
    Alignments,
    Explanations,
    SpokenWord,
    UnmatchedWord,
    aligned,
    check_limits,
    is_high,
    mean_of,
    spoken_words,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SPAN_TOLERANCE = 0.05  # seconds around the span of a word

Maps = Literal["own", "shuffled"]


@dataclass(frozen=True)
class WordTime:
    """The times of a word and of its map.

    Attributes:
        utterance: number of its explanation.
        word: the word as the model wrote it.
        begin: begin of the word's span in seconds.
        end: end of the word's span in seconds.
        inside: mean of its curve in its span.
        outside: mean of its curve in all other frames; NaN if there are none.
        other_words: mean of its curve in the spans of the other words; NaN if there are none.
        peak: time of the curve's maximum in seconds, averaged over equal maxima.
        hit: 1 if the maximum is within the tolerance of the span, else 0; for equal maxima the share of hits.
        chance: the share of all frames within the tolerance of the span, which is the expected hit of a random curve.
        precision: the share of the high frames that are in the span.
        recall: the share of the span's frames that are high.

    Example::

        >>> from captum_spes.metrics import time_localization
        >>> word = time_localization(explanation, alignment).words[1]
        >>> word.word, word.hit, round(word.offset, 3)
        ('no', 1.0, -0.05)
    """

    utterance: int
    word: str
    begin: float
    end: float
    inside: float
    outside: float
    other_words: float
    peak: float
    hit: float
    chance: float
    precision: float
    recall: float

    @property
    def offset(self) -> float:
        """Seconds from the middle of the span to the peak, negative for an early peak."""
        return self.peak - (self.begin + self.end) / 2


@dataclass(frozen=True, eq=False)
class TimeLocalization:
    """Tests and scores of words' maps in time; see :func:`time_localization`.

    Attributes:
        words: the words whose times are known.
        unmatched: the other words.
        sources: the sources of the alignments.
        n_utterances: number of explanations.
        tolerance: seconds around a word's span that count as hits of the pointing game.
        threshold: least value of a high frame of the scaled curve.

    Example::

        >>> from captum_spes.metrics import time_localization
        >>> found = time_localization(explanations, alignments)
        >>> print(found.test)
        +0.563 [+0.560, +0.566], paired t-test, one-sided: t = 12.0, p < 0.0001
        >>> found.papers_test.p_value < 0.01, found.test_against_other_words.p_value < 0.01
        (True, True)
        >>> found.mean("hit"), round(found.mean("chance"), 2)
        (1.0, 0.3)
        >>> found.interval("hit")
        (1.0, 1.0)
    """

    words: list[WordTime]
    unmatched: list[UnmatchedWord]
    sources: list[str]
    n_utterances: int
    tolerance: float
    threshold: float

    @property
    def test(self) -> MeanComparison:
        """Tests whether curves are higher inside the span than in all frames outside, paired and one-sided."""
        return self._compare("outside", paired=True)

    @property
    def papers_test(self) -> MeanComparison:
        """The same test with unpaired groups, as in the paper (§8.1), but without assuming equal variances."""
        return self._compare("outside", paired=False)

    @property
    def test_against_other_words(self) -> MeanComparison:
        """Tests inside against the spans of the other words; a map that marks all speech does not pass it."""
        return self._compare("other_words", paired=True)

    def _compare(self, other: str, paired: bool) -> MeanComparison:
        known = [word for word in self.words if not np.isnan(getattr(word, other))]
        owners = [word.utterance for word in known]
        inside, outside = (
            by_utterance([getattr(word, name) for word in known], owners, self.n_utterances)
            for name in ("inside", other)
        )
        return compare_means(inside, outside, paired=paired)

    def mean(self, name: str) -> float:
        """The mean over the words of ``"hit"``, ``"chance"``, ``"precision"``, ``"recall"``, ``"offset"``, …"""
        return float(np.nanmean([getattr(word, name) for word in self.words]))

    def interval(self, name: str) -> tuple[float, float]:
        """Its 95 % interval over the utterances."""
        values = [getattr(word, name) for word in self.words]
        return mean_interval(by_utterance(values, [word.utterance for word in self.words], self.n_utterances))


def time_localization(
    explanations: Explanations,
    alignments: Alignments,
    *,
    maps: Maps = "own",
    tolerance: float = SPAN_TOLERANCE,
    threshold: float = HIGH_THRESHOLD,
    seed: int = 0,
) -> TimeLocalization:
    """Compares the maps of words with the times at which the words are spoken (paper §8.1).

    A word's map is the mean of its tokens' normalised maps, and its curve is the maximum over the frequencies in each
    frame. The paper tests whether curves are higher inside the words' spans than outside. Any map that marks speech
    rather than silence passes this test, so there is a second one against the spans of the other words. Further scores
    are not in the paper: the pointing game (is the peak in the span?), the peak's offset, and precision and recall of
    the high frames, whose value is at least ``threshold`` after the curve is scaled to 0 to 1.

    Args:
        explanations: explanations of the tokens of one or several utterances.
        alignments: an alignment for each explanation.
        maps: ``"own"``, or ``"shuffled"`` for the control, which puts the frames of each curve into random order.
        tolerance: seconds around a word's span that count as hits of the pointing game.
        threshold: least value of a high frame, above 0 and up to 1.
        seed: the seed of the random order.

    Returns:
        TimeLocalization: with ``words``, ``test``, ``mean("hit")`` and others, and the words that are in no alignment.

    Raises:
        ValueError: there is not one alignment for each explanation, or no word is in both.

    Example::

        >>> import torch
        >>> from captum_spes import SpeechToTextExplanation
        >>> from captum_spes.alignment import Alignment, Segment
        >>> from captum_spes.metrics import time_localization
        >>> attr = torch.zeros(2, 10, 4)
        >>> attr[0, 2, 3] = attr[1, 6, 1] = 1
        >>> explanation = SpeechToTextExplanation(
        ...     text="So what", tokens=[" So", " what"], previous_tokens=["<s>", " So"],
        ...     spectrogram=torch.rand(10, 4), spectrogram_attr=attr,
        ...     token_attr=torch.tensor([[0.3, 0.0], [0.1, 0.5]]), n_previous=torch.tensor([1, 2]),
        ...     frames_per_second=10, mel_frequencies=torch.linspace(100, 7000, 4))
        >>> alignment = Alignment([Segment("so", 0.1, 0.4), Segment("what", 0.4, 0.6)], source="by hand")
        >>> found = time_localization(explanation, alignment, tolerance=0)
        >>> [(word.word, word.hit, round(word.offset, 2)) for word in found.words]
        [('So', 1.0, 0.0), ('what', 0.0, 0.15)]
    """
    given, times = aligned(explanations, alignments)
    if maps not in ("own", "shuffled"):
        raise ValueError(f"maps must be 'own' or 'shuffled', not {maps!r}.")
    check_limits(tolerance, threshold)
    spoken, unmatched = spoken_words(given, times)
    if not spoken:
        raise ValueError("no word of the explanations is in their alignments: check that they belong together.")
    random = np.random.default_rng(seed)
    words = []
    for word in spoken:
        curve = word.curve if maps == "own" else random.permutation(word.curve)
        others = [other for other in spoken if other.utterance == word.utterance and other is not word]
        words.append(_word_time(word, curve, others, tolerance, threshold))
    return TimeLocalization(
        words, unmatched, sorted({alignment.source for alignment in times}), len(given), tolerance, threshold
    )


def _word_time(
    word: SpokenWord, curve: np.ndarray, others: Sequence[SpokenWord], tolerance: float, threshold: float
) -> WordTime:
    inside, near = word.inside(), word.inside(tolerance)
    elsewhere = np.any([other.inside() for other in others], axis=0) & ~inside if others else np.zeros_like(inside)
    is_peak = curve == curve.max()
    high = is_high(curve, threshold)
    return WordTime(
        word.utterance,
        word.text,
        word.begin,
        word.end,
        float(curve[inside].mean()),
        mean_of(curve[~inside]),
        mean_of(curve[elsewhere]),
        float((np.flatnonzero(is_peak) + 0.5).mean() / word.frames_per_second),
        float(near[is_peak].mean()),
        float(near.mean()),
        float(inside[high].mean()),
        float(high[inside].mean()),
    )


def plot_time(explanation: SpeechToTextExplanation, alignment: Alignment) -> Figure:
    """Draws the curve of each word over time, in one row for each word, with a frame around its span.

    Args:
        explanation: an explanation of the tokens.
        alignment: its alignment.

    Returns:
        Figure: the figure.

    Example::

        >>> from captum_spes.metrics import plot_time
        >>> plot_time(explanation, alignment).savefig("time.png")
    """
    [given], [times] = aligned(explanation, alignment)
    return given.plot_times(match_words(given.words().tokens, times.words))
