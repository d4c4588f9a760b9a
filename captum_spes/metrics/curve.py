"""Scores along an axis, and the area under them."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import torch
from scipy.integrate import trapezoid
from torch import Tensor


def auc(steps: tuple[float, ...], scores: np.ndarray | Tensor) -> np.ndarray:
    """The area under scores (…, S) by the trapezoid rule, divided by the range of the steps, (…,).

    So it has the range of the scores, 0 to 100. The authors divide by the range as well.

    Raises:
        ValueError: fewer than two steps.
    """
    if len(steps) < 2:
        raise ValueError(f"the area under a curve needs at least two steps, not {len(steps)}: give more percentages.")
    return np.asarray(trapezoid(np.asarray(scores, dtype=np.float64), steps) / (steps[-1] - steps[0]))


def format_steps(name: str, steps: object, lowest: float, highest: float) -> tuple[float, ...]:
    """Raises a ValueError unless ``steps`` are two or more ascending numbers in a range."""
    values = () if isinstance(steps, (int, float, str)) else tuple(float(step) for step in steps)  # type: ignore[attr-defined]
    ascending = all(a < b for a, b in pairwise(values))
    if len(values) < 2 or not ascending or not lowest <= values[0] <= values[-1] <= highest:
        raise ValueError(f"{name} must be ascending numbers from {lowest:g} to {highest:g}, two or more, not {steps}.")
    return values


def as_tensor(values: np.ndarray) -> Tensor:
    """Scores as the result of a metric holds them."""
    return torch.from_numpy(np.asarray(values, dtype=np.float32))
