"""Bootstrap intervals over the utterances of a corpus."""

from __future__ import annotations

import numpy as np

N_RESAMPLES = 2_000
LEVEL = 95
# With fewer pairs no two-sided test at 5 % can decide: the smallest p-value of the sign test with five pairs is 6 %.
MIN_PAIRS = 6


def draw_utterances(n: int, seed: int) -> np.ndarray:
    """Draws R corpora of n utterances with replacement; how often each corpus holds each utterance, (R, n)."""
    # sums over draws are products of matrices
    return np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=N_RESAMPLES).astype(float)


def interval_ends() -> tuple[float, float]:
    """The quantiles at the ends of the interval."""
    return (50 - LEVEL / 2) / 100, (50 + LEVEL / 2) / 100


def interval(values: np.ndarray) -> tuple[float, float]:
    """The interval of the values of some draws; NaN values are left out."""
    low, high = np.nanquantile(values, interval_ends())
    return float(low), float(high)
