"""Compares the order of maps in time with the order of the tokens (paper §8.1)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import stats

from captum_spes.explanation import SpeechToTextExplanation
from captum_spes.metrics.plausibility.statistics import mean_interval
from captum_spes.metrics.plausibility.words import (
    Explanations,
    as_list,
    check_limits,
    check_tokens,
    is_high,
    mean_of,
)
from captum_spes.words import is_word

CENTRE_THRESHOLD = 0.75  # of a scaled curve: many lower frames are noise that would move the centres to the middle


@dataclass(frozen=True, eq=False)
class Monotonicity:
    """Rank correlations between the times of maps and the order of tokens; see :func:`monotonicity`.

    Attributes:
        centres: for each utterance the centres in time of its tokens' maps, in seconds.
        taus: Kendall's rank correlation of each utterance's centres with the order of its tokens, from −1 to 1, (U,);
            NaN for fewer than two tokens, or if all centres are equal.
        forward: for each utterance the share of the steps from token to token that go forward in time, (U,).

    Example::

        >>> from captum_spes.metrics import monotonicity
        >>> found = monotonicity(explanations)
        >>> found.taus, found.mean, found.interval
        (array([1., 1., 1., 1.]), 1.0, (1.0, 1.0))
    """

    centres: list[np.ndarray]
    taus: np.ndarray
    forward: np.ndarray

    @property
    def mean(self) -> float:
        """The mean of the taus that are not NaN; NaN if there is none."""
        return mean_of(self.taus[~np.isnan(self.taus)])

    @property
    def interval(self) -> tuple[float, float]:
        """Its 95 % interval over the utterances."""
        return mean_interval([np.array([tau]) for tau in self.taus if not np.isnan(tau)])


def monotonicity(explanations: Explanations, *, threshold: float = CENTRE_THRESHOLD) -> Monotonicity:
    """Measures whether the tokens' maps move forward in time with the text, as those of a transcript should.

    The maps of a translation need not, since translations reorder words. The centre of a token's map is the centre of
    mass of its high frames, as in :func:`time_localization`. Low frames are left out, because there are many of them
    and they would move all centres to the middle. Punctuation and marks are left out.

    Args:
        explanations: explanations of the tokens of one or several utterances.
        threshold: least value of a high frame, above 0 and up to 1.

    Returns:
        Monotonicity: Kendall's tau of each utterance, their ``mean`` and its ``interval``.

    Raises:
        ValueError: there is no explanation, or one is of words or a sentence.

    Example::

        >>> from captum_spes.metrics import monotonicity
        >>> found = monotonicity(explanation)
        >>> found.centres[0].round(2), found.forward
        (array([0.39, 1.05]), array([1.]))
    """
    given = as_list(explanations)
    check_tokens(given)
    check_limits(0, threshold)
    centres = [_centres(explanation, threshold) for explanation in given]
    return Monotonicity(
        centres,
        np.array([_kendall(values) for values in centres]),
        np.array([mean_of((np.diff(values) > 0).astype(float)) for values in centres]),
    )


def _centres(explanation: SpeechToTextExplanation, threshold: float) -> np.ndarray:
    curves = explanation.normalize().spectrogram_attr.amax(2).double().numpy()
    times = (np.arange(curves.shape[1]) + 0.5) / explanation.frames_per_second
    found = []
    for token, curve in zip(explanation.tokens, curves):
        if is_word(token):
            weights = np.where(is_high(curve, threshold), curve, 0)
            found.append(np.average(times, weights=weights if weights.sum() > 0 else None))
    return np.array(found).round(9)  # rounding errors of equal centres are no order


def _kendall(values: np.ndarray) -> float:
    if len(values) < 2:
        return np.nan
    return float(stats.kendalltau(np.arange(len(values)), values).statistic)
