"""Intervals over utterances: corpora drawn again and again from the one that is there."""

from __future__ import annotations

import numpy as np

N_RESAMPLES = 2_000
LEVEL = 95
# With fewer pairs no two-sided test at 5 % can decide: the smallest p-value of the sign test with five pairs is 6 %.
MIN_PAIRS = 6


def draw_utterances(n: int, seed: int) -> np.ndarray:
    """How often each of R corpora, of n utterances drawn with replacement from n, holds each of them: (R, n)."""
    # sums over draws are products of matrices
    return np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=N_RESAMPLES).astype(float)


def interval_ends() -> tuple[float, float]:
    """The quantiles between which the middle of the draws is."""
    return (50 - LEVEL / 2) / 100, (50 + LEVEL / 2) / 100


def interval(values: np.ndarray) -> tuple[float, float]:
    """The middle of some draws; those without a value are left out."""
    low, high = np.nanquantile(values, interval_ends())
    return float(low), float(high)
