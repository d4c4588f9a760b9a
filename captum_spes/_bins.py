"""The order of a map's bins, and those that come first in it."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor


def descending(attributions: Tensor, seed: int) -> Tensor:
    """The numbers of the bins from the largest value to the smallest, equal values in random order, (T · C,).

    Raises:
        ValueError: values that are not finite.
    """
    values = attributions.detach().flatten().cpu().double().numpy()
    if not np.isfinite(values).all():
        raise ValueError("a map holds NaN or infinite values: its bins have no order.")
    return torch.from_numpy(np.lexsort((np.random.default_rng(seed).random(len(values)), -values)))


def top_bins(order: Tensor, percentages: tuple[float, ...]) -> Tensor:
    """Which bins are the first of an order, bool (S, T · C): as the authors do, with the broken one rounded off."""
    top = torch.zeros(len(percentages), len(order), dtype=torch.bool)
    for row, percentage in zip(top, percentages):
        # 0.07 · 100 is 7.000000000000001 for a computer, and 0.29 · 100 is 28.999999999999996
        row[order[: math.floor(percentage / 100 * len(order) + 1e-9)]] = True
    return top
