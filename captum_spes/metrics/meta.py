"""Tests of metrics: regions that are known to matter, ladders of degraded maps, and the utterances that are needed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from captum_spes.maps import percentile_ranks

# number of draws of utterances from which the share of ordered ladders is estimated
N_DRAWS = 2_000


def planted_auc(attributions: Tensor, relevant: Tensor) -> Tensor:
    """How well maps find a region that is known to matter: the area under the ROC curve of their bins.

    It is the probability that a random bin of the region has a larger value than a random bin outside it; ties count
    half. It is 1 if all bins of the region are larger than all others, 0.5 by chance or for a constant map, and 0 if
    they are all smaller. Unlike the share of the top bins in the region, it does not depend on the region's size
    (Arras et al., 2022, "CLEVR-XAI").

    Args:
        attributions: maps (K, T, C).
        relevant: the bins that can matter, bool (T, C), or (K, T, C) for a region of each map.

    Returns:
        Tensor: float32 (K,).

    Raises:
        ValueError: a region does not fit the maps, is empty, or holds all bins.

    Example::

        >>> import torch
        >>> from captum_spes.metrics import planted_auc
        >>> relevant = torch.tensor([[True, True], [False, False]])
        >>> maps = torch.tensor([[[0.9, 0.8], [0.1, 0.0]], [[1.0, 1.0], [1.0, 1.0]], [[0.9, 0.1], [0.2, 0.0]]])
        >>> planted_auc(maps, relevant)
        tensor([1.0000, 0.5000, 0.7500])
    """
    if relevant.dtype != torch.bool or relevant.shape not in (attributions.shape, attributions.shape[1:]):
        raise ValueError(
            f"relevant must be bool of shape {tuple(attributions.shape[1:])} or {tuple(attributions.shape)}, not "
            f"{relevant.dtype} of {tuple(relevant.shape)}."
        )
    inside = relevant.expand_as(attributions).flatten(1)
    n_inside, n_bins = inside.sum(1), inside.shape[1]
    if not ((n_inside > 0) & (n_inside < n_bins)).all():
        raise ValueError("the relevant region is empty or holds all bins: mark some of the bins and not all.")
    ranks = percentile_ranks(attributions).flatten(1).double() * n_bins / 100 + 0.5  # 1 to n, ties share their mean
    wins = (ranks * inside).sum(1) - n_inside * (n_inside + 1) / 2  # the U statistic of Mann and Whitney
    return (wins / (n_inside * (n_bins - n_inside))).float()


def degrade(attributions: Tensor, share: float, seed: int = 0) -> Tensor:
    """Mixes maps with noise. A series of shares from 0, the given map, to 1, a random order, makes a ladder of maps.

    The ranks of a map's bins and a random order of the bins are averaged with the weights 1 − share and share, so that
    the distribution of a map's values does not matter.

    Args:
        attributions: maps (K, T, C), or other maps of K rows.
        share: the share of the noise, from 0 to 1.
        seed: the seed of the noise. Use one seed for all rungs of a ladder.

    Returns:
        Tensor: float32, in the maps' shape, from 0 to 100.

    Raises:
        ValueError: the share is not from 0 to 1.

    Example::

        >>> import torch
        >>> from captum_spes.metrics import degrade, rank_correlation
        >>> maps = torch.rand(1, 40, 40, generator=torch.Generator().manual_seed(0))
        >>> [round(float(rank_correlation(maps, degrade(maps, share))), 1) for share in (0, 0.5, 1)]
        [1.0, 0.7, -0.0]
    """
    if not 0 <= share <= 1:
        raise ValueError(f"share must be from 0 to 1, not {share}.")
    noise = torch.from_numpy(np.random.default_rng(seed).random(attributions.shape))
    ranks, noise_ranks = (percentile_ranks(maps.flatten(1)[:, None]).view(maps.shape) for maps in (attributions, noise))
    return (1 - share) * ranks + share * noise_ranks


@dataclass(frozen=True, eq=False)
class LadderOrder:
    """How reliably a metric orders a ladder of degraded maps; see :func:`ladder_order`.

    Attributes:
        n_utterances: 1, 2, … U.
        ordered: for each number of utterances, the share of draws whose mean scores are in order from the first rung
            to the last, (U,).
        extremes: the share of draws in which the first rung is better than the last, (U,).

    Example::

        >>> from captum_spes.metrics import ladder_order
        >>> order = ladder_order([[9, 5, 1], [8, 6, 2], [9, 6, 7]], higher_is_better=True)
        >>> order.n_utterances.tolist(), order.extremes.tolist()
        ([1, 2, 3], [1.0, 1.0, 1.0])
        >>> order.ordered.round(1).tolist()  # one of three utterances is not in order
        [0.7, 0.9, 1.0]
        >>> order.needed(), order.needed(0.5)
        (3, 1)
    """

    n_utterances: np.ndarray
    ordered: np.ndarray
    extremes: np.ndarray

    def needed(self, level: float = 0.95) -> int | None:
        """The least number of utterances from which at least this share of draws is in order, or None."""
        below = np.flatnonzero(self.ordered < level)
        first = 0 if not len(below) else int(below[-1]) + 1
        return None if first == len(self.ordered) else int(self.n_utterances[first])


def ladder_order(scores: ArrayLike, higher_is_better: bool, seed: int = 0) -> LadderOrder:
    """Tests whether a metric orders increasingly degraded maps correctly, and how many utterances this takes.

    For each n, a corpus of n utterances is drawn with replacement from the U utterances 2,000 times. Its mean scores
    are in order if each rung is better than the next.

    Args:
        scores: the scores of U utterances and L rungs, the best map first, (U, L).
        higher_is_better: whether a good map has a high score.
        seed: the seed of the draws.

    Returns:
        LadderOrder: how often the rungs are in order, for each number of utterances.

    Raises:
        ValueError: the scores have another shape, fewer than two rungs, or are not finite.

    Example::

        >>> from captum_spes.metrics import ladder_order
        >>> ladder_order([[3.1, 2.0, 0.4], [5.0, 3.2, 1.9]], higher_is_better=True).needed()
        1
    """
    values = np.asarray(scores, dtype=float)
    if values.ndim != 2 or values.shape[1] < 2 or not len(values) or not np.isfinite(values).all():
        raise ValueError("scores must be finite numbers of shape (utterances, rungs), of two rungs or more.")
    generator = np.random.default_rng(seed)
    sign = 1 if higher_is_better else -1
    ordered, extremes = [], []
    for n in range(1, len(values) + 1):
        draws = generator.multinomial(n, np.full(len(values), 1 / len(values)), size=N_DRAWS)
        means = sign * (draws @ values) / n
        ordered.append(float((np.diff(means, axis=1) < 0).all(1).mean()))
        extremes.append(float((means[:, 0] > means[:, -1]).mean()))
    return LadderOrder(np.arange(1, len(values) + 1), np.array(ordered), np.array(extremes))
