"""Comparison of the means of two groups of values: a t-test, and an interval over the utterances."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import stats

from captum_spes.metrics.bootstrap import MIN_PAIRS, draw_utterances, interval

Alternative = Literal["greater", "less", "two-sided"]
Verdict = Literal["more", "less", "undecided"]


@dataclass(frozen=True)
class MeanComparison:
    """The difference between the means of two groups of values.

    Attributes:
        difference: the mean of the first group minus that of the second.
        low: lower end of its 95 % interval over the utterances (2,000 bootstrap draws); NaN if a group has a single
            utterance, whose mean would not vary.
        high: upper end of the interval.
        statistic: the statistic t of the t-test.
        p_value: the p-value of the t-test, which treats the values as independent; NaN if there are too few.
        test: the name of the t-test.
        n: the number of values in each group.
        n_utterances: the number of utterances that have values, of the group in which fewer have them.

    Example::

        >>> from captum_spes.metrics import time_localization
        >>> found = time_localization(explanations, alignments).test
        >>> print(found)
        +0.563 [+0.560, +0.566], paired t-test, one-sided: t = 12.0, p < 0.0001
        >>> found.low < found.difference < found.high, found.n
        (True, (8, 8))
        >>> found.n_utterances, found.verdict
        (4, 'undecided')
    """

    difference: float
    low: float
    high: float
    statistic: float
    p_value: float
    test: str
    n: tuple[int, int]
    n_utterances: int

    @property
    def verdict(self) -> Verdict:
        """``more`` or ``less`` where the interval of six utterances or more leaves out 0, otherwise ``undecided``."""
        if self.n_utterances < MIN_PAIRS or np.isnan(self.low) or self.low <= 0 <= self.high:
            return "undecided"
        return "more" if self.difference > 0 else "less"

    def __str__(self) -> str:
        return (
            f"{self.difference:+.3f} [{self.low:+.3f}, {self.high:+.3f}], {self.test}: t = {self.statistic:.1f}, "
            f"p {format_p(self.p_value)}"
        )


def format_p(p_value: float) -> str:
    """Formats a p-value for readers."""
    return "unknown" if np.isnan(p_value) else "< 0.0001" if p_value < 1e-4 else f"= {p_value:.4f}"


def compare_means(
    first: Sequence[np.ndarray],
    second: Sequence[np.ndarray],
    alternative: Alternative = "greater",
    paired: bool = False,
) -> MeanComparison:
    """Compares two groups of values. Each group has an array for each utterance, which may be empty.

    The t-test is paired, or that of Welch, which does not assume equal variances.

    Raises:
        ValueError: a group has no values.
    """
    a, b = np.concatenate(first), np.concatenate(second)
    if not len(a) or not len(b):
        raise ValueError("one of the two groups has no values, so that they cannot be compared.")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scipy warns of too few values, for which p is NaN
        if paired:
            found = stats.ttest_rel(a, b, alternative=alternative)
        else:
            found = stats.ttest_ind(a, b, equal_var=False, alternative=alternative)
    low, high = _interval_of_difference(first, second)
    return MeanComparison(
        float(a.mean() - b.mean()),
        low,
        high,
        float(found.statistic),
        float(found.pvalue),
        f"{'paired' if paired else 'Welch'} t-test, {'two' if alternative == 'two-sided' else 'one'}-sided",
        (len(a), len(b)),
        min(sum(len(values) > 0 for values in group) for group in (first, second)),
    )


def mean_interval(values: Sequence[np.ndarray]) -> tuple[float, float]:
    """The bootstrap interval of a mean; the values of an utterance, (n,) or (n, C), are drawn together."""
    drawn = _drawn_means(values)
    return (np.nan, np.nan) if drawn is None else interval(drawn)


def mean_band(values: Sequence[np.ndarray]) -> np.ndarray:
    """The bootstrap interval of each of C means, from values (n, C) of each utterance: lower and upper ends, (2, C)."""
    drawn = _drawn_means(values)
    n_columns = values[0].shape[1]
    if drawn is None:
        return np.full((2, n_columns), np.nan)
    return np.array([interval(column) for column in drawn.T]).T


def _interval_of_difference(first: Sequence[np.ndarray], second: Sequence[np.ndarray]) -> tuple[float, float]:
    drawn = [_drawn_means(values) for values in (first, second)]
    if drawn[0] is None or drawn[1] is None:
        return np.nan, np.nan
    return interval(drawn[0] - drawn[1])


def _drawn_means(values: Sequence[np.ndarray]) -> np.ndarray | None:
    """The mean of each draw, (R,) or (R, C), NaN for a draw without values; None if a single utterance has values."""
    counts = np.array([len(group) for group in values])
    if (counts > 0).sum() < 2:
        return None
    sums = np.array([group.sum(0) for group in values])
    draws = draw_utterances(len(values), seed=0)
    with np.errstate(invalid="ignore"):
        return np.asarray(((draws @ sums).T / (draws @ counts)).T)


def by_utterance(values: Sequence[float], utterances: Sequence[int], n_utterances: int) -> list[np.ndarray]:
    """Splits values by their utterance; NaN values are left out."""
    array, owner = np.asarray(values, dtype=float), np.asarray(utterances, dtype=int)
    known = ~np.isnan(array)
    return [array[known & (owner == number)] for number in range(n_utterances)]
