"""How alike two maps order their bins."""

from __future__ import annotations

import torch
from torch import Tensor

from captum_spes.visualization import percentile_ranks


def rank_correlation(first: Tensor, second: Tensor) -> Tensor:
    """Spearman's rank correlation between the maps of two methods, models or seeds, row by row.

    It compares the order of the bins alone, so that scales and offsets (Eq. 3 has one) do not matter.

    Args:
        first: K maps, (K, T, C), or vectors of previous tokens, (K, J).
        second: as many, of the same shape.

    Returns:
        Tensor: from −1 to 1, float32 (K,) on the CPU. Equal values share the mean of their ranks; where one of the two
        maps is constant the correlation is 0.

    Raises:
        ValueError: shapes that differ or have fewer than two dimensions, or values that are not finite.

    Example::

        >>> import torch
        >>> from captum_spes.metrics import rank_correlation
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
