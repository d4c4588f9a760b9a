"""Arithmetic on maps: z-scores, percentile ranks, rank correlation, and the bins with the largest values."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor


def z_scores(spectrogram_attr: Tensor, token_attr: Tensor, is_previous: Tensor) -> tuple[Tensor, Tensor]:
    """Scales each of the maps (K, T, C) and (K, J) to mean 0 and sample standard deviation 1; constant maps become 0.

    Only the entries of ``token_attr`` in ``is_previous`` are used; the others become 0.
    """
    flat = spectrogram_attr.flatten(1).double()
    everywhere = torch.ones_like(flat, dtype=torch.bool)
    spectrogram_scores = _z_score(flat, everywhere).view(spectrogram_attr.shape)
    token_scores = _z_score(token_attr.double(), is_previous)
    return spectrogram_scores.to(spectrogram_attr.dtype), token_scores.to(token_attr.dtype)


def _z_score(values: Tensor, mask: Tensor) -> Tensor:
    count = mask.sum(1, keepdim=True)
    mean = (values * mask).sum(1, keepdim=True) / count.clamp(min=1)
    centred = (values - mean) * mask
    deviation = (centred.square().sum(1, keepdim=True) / (count - 1).clamp(min=1)).sqrt()
    # rounding errors of a constant row are not a deviation
    constant = deviation <= 1e-12 * mean.abs()
    return torch.where(constant, 0, centred / deviation)


def percentile_ranks(attributions: Tensor) -> Tensor:
    """The percentile rank of each bin within its map: the percentage of the map's bins with a smaller value.

    Half of the bins of equal value, itself included, count as smaller. Deletion metrics use this order alone. If no
    values are equal, 10 % of every map have a rank above 90, for any distribution of the values.

    Args:
        attributions: maps, (…, T, C).

    Returns:
        Tensor: ranks of the same shape, from 0 to 100, with mean 50.

    Raises:
        ValueError: values are not finite.

    Example::

        >>> import torch
        >>> from captum_spes.maps import percentile_ranks
        >>> percentile_ranks(torch.tensor([[0.0, 5.0], [5.0, 9.0]]))
        tensor([[12.5000, 50.0000],
                [50.0000, 87.5000]])
    """
    from scipy.stats import rankdata

    if attributions.ndim < 2:
        raise ValueError(f"attributions must be maps of shape (…, T, C), not {tuple(attributions.shape)}.")
    maps = attributions.detach().cpu().double().numpy()
    if not np.isfinite(maps).all():
        raise ValueError("attributions must be finite, because NaN and infinite values have no ranks.")
    maps = maps.reshape(*maps.shape[:-2], -1)
    ranks = (rankdata(maps, axis=-1) - 0.5) / max(maps.shape[-1], 1)
    return torch.from_numpy(100 * ranks).float().view(attributions.shape)


def rank_correlation(first: Tensor, second: Tensor) -> Tensor:
    """Spearman's rank correlation between the maps of two methods, models or seeds, row by row.

    It compares only the order of the bins, so that scales and offsets, such as that of Eq. 3, do not matter.

    Args:
        first: K maps, (K, T, C), or vectors of previous tokens, (K, J).
        second: K maps of the same shape.

    Returns:
        Tensor: correlations from −1 to 1, float32 (K,) on the CPU. Equal values share the mean of their ranks. If one
        of the two maps is constant the correlation is 0.

    Raises:
        ValueError: the shapes differ or have fewer than two dimensions, or values are not finite.

    Example::

        >>> import torch
        >>> from captum_spes.maps import rank_correlation
        >>> maps = torch.tensor([[[1.0, 2.0], [3.0, 4.0]], [[1.0, 2.0], [3.0, 4.0]]])
        >>> rank_correlation(maps, torch.stack((maps[0].exp(), -maps[1])))
        tensor([ 1., -1.])
    """
    if first.shape != second.shape or first.dim() < 2:
        raise ValueError(
            f"the maps must be of one shape (K, T, C) or (K, J), not {tuple(first.shape)} and {tuple(second.shape)}."
        )
    ranks = [percentile_ranks(maps.flatten(1)[:, None])[:, 0].double() for maps in (first, second)]
    rows = [torch.corrcoef(torch.stack(pair))[0, 1] for pair in zip(*ranks)]
    return torch.tensor(rows, dtype=torch.float32).nan_to_num(0.0)


def shortest_span(counts: Tensor) -> tuple[int, int]:
    """The shortest range of counts (N,) that holds half of their sum: its first index, and the index after its last.

    Example::

        >>> import torch
        >>> from captum_spes.maps import shortest_span
        >>> shortest_span(torch.tensor([1, 0, 2, 2, 0, 1]))
        (2, 4)
    """
    ends = [0.0, *counts.double().cumsum(0).tolist()]
    best = (0, len(counts))
    stop = 0
    for first in range(len(counts)):
        while stop < len(counts) and ends[stop] - ends[first] < ends[-1] / 2:
            stop += 1
        if ends[stop] - ends[first] < ends[-1] / 2:
            break
        if stop - first < best[1] - best[0]:
            best = (first, stop)
    return best


def descending(attributions: Tensor, seed: int) -> Tensor:
    """The indices of the bins from the largest value to the smallest, equal values in random order, (T · C,).

    Raises:
        ValueError: values are not finite.
    """
    values = attributions.detach().flatten().cpu().double().numpy()
    if not np.isfinite(values).all():
        raise ValueError("a map holds NaN or infinite values, so that its bins cannot be ordered.")
    return torch.from_numpy(np.lexsort((np.random.default_rng(seed).random(len(values)), -values)))


def top_bins(order: Tensor, percentages: tuple[float, ...]) -> Tensor:
    """The first bins of an order for each percentage, bool (S, T · C); numbers are rounded down, as by the authors."""
    top = torch.zeros(len(percentages), len(order), dtype=torch.bool)
    for row, percentage in zip(top, percentages):
        # 0.07 · 100 is 7.000000000000001 for a computer, and 0.29 · 100 is 28.999999999999996
        row[order[: math.floor(percentage / 100 * len(order) + 1e-9)]] = True
    return top
