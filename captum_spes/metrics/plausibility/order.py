"""Whether maps move forward in time as the text does (paper §8.1)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import stats

from captum_spes.explanation import SpeechToTextExplanation
from captum_spes.metrics.plausibility._statistics import mean_interval
from captum_spes.metrics.plausibility._words import (
    Explanations,
    as_list,
    check_limits,
    check_tokens,
    is_high,
    mean_of,
)
from captum_spes.words import is_word

THRESHOLD = 0.75  # of a scaled curve: lower frames, of which there are many, are noise that draws to the middle


@dataclass(frozen=True, eq=False)
class Monotonicity:
    """Whether maps move forward as the text does; see :func:`monotonicity`.

    Attributes:
        centres: of the maps of each utterance's tokens, in seconds.
        taus: Kendall's rank correlation of each utterance's centres with the order of its tokens, from −1 to 1, (U,);
            NaN with fewer than two tokens, or centres that are all the same.
        forward: how many of the steps from token to token go forward in time, of each utterance, (U,).

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
        """Of the taus that are known; NaN where none is."""
        return mean_of(self.taus[~np.isnan(self.taus)])

    @property
    def interval(self) -> tuple[float, float]:
        """Its 95 % interval over the utterances."""
        return mean_interval([np.array([tau]) for tau in self.taus if not np.isnan(tau)])


def monotonicity(explanations: Explanations, *, threshold: float = THRESHOLD) -> Monotonicity:
    """Whether the tokens' maps move forward in time as the text does: a transcript's should, a translation's need not.

    The centre of a token's map is the centre of mass of its high frames, as in :func:`time_localization`: what is low,
    and everywhere, would draw all centres to the middle. Punctuation and marks are left out.

    Args:
        explanations: of the tokens, one or several utterances.
        threshold: from which a frame is high, above 0 and up to 1.

    Returns:
        Monotonicity: Kendall's tau of each utterance, their ``mean`` and its ``interval``.

    Raises:
        ValueError: no explanation, or one of words or a sentence.

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
    curves = explanation.normalize().spectrogram_attr.amax(2).numpy().astype(float)
    times = (np.arange(curves.shape[1]) + 0.5) / explanation.frames_per_second
    found = []
    for token, curve in zip(explanation.tokens, curves):
        if is_word(token):
            weights = np.where(is_high(curve, threshold), curve, 0)
            found.append(np.average(times, weights=weights if weights.sum() > 0 else None))
    return np.array(found)


def _kendall(values: np.ndarray) -> float:
    if len(values) < 2:
        return np.nan
    return float(stats.kendalltau(np.arange(len(values)), values).statistic)
