"""Samples in batches: what all methods of this library do with them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import torch
from captum._utils.common import (
    _expand_additional_forward_args,
    _expand_target,
    _format_additional_forward_args,
    _run_forward,
)
from captum._utils.progress import NullProgress, progress
from torch import Tensor

from captum_spes.attr._features import FeatureLayout, MaskSampler, enumerate_hidden, sample_groups

Callback = Callable[[int, int], bool | None]


class Evaluator:
    """A forward function with its target and further arguments, which are expanded once for each batch size."""

    def __init__(self, forward_func: Any, target: Any, additional_forward_args: object) -> None:
        self.forward_func = forward_func
        self.target = target
        self.args = _format_additional_forward_args(additional_forward_args)
        self._size, self._expanded = 1, (self.target, self.args)

    def __call__(self, inputs: Any, n_samples: int = 1) -> Tensor:
        """The scores of so many perturbations of all examples, perturbation by perturbation."""
        if self._size != n_samples:
            self._size = n_samples
            self._expanded = (
                _expand_target(self.target, n_samples),
                _expand_additional_forward_args(self.args, n_samples),
            )
        return as_tensor(_run_forward(self.forward_func, inputs, *self._expanded))


def batches(
    total: int, perturbations_per_eval: int, name: str, show_progress: bool, callback: Callback | None
) -> Iterator[tuple[int, int]]:
    """Numbers (start, stop) of the samples of each batch, under a progress bar, until the callback says stop."""
    with progress(desc=f"{name} attribution", total=total) if show_progress else NullProgress() as bar:
        for start in range(0, total, perturbations_per_eval):
            stop = min(start + perturbations_per_eval, total)
            yield start, stop
            bar.update(stop - start)
            if callback is not None and callback(stop, total):
                return


@dataclass(frozen=True)
class Group:
    """Perturbations of one granularity within a batch."""

    granularity: int
    first: int  # number of the first one among those of its granularity
    hidden: Tensor  # (n, B', P): bool, or the share of each feature that is hidden
    weights: Tensor | None = None  # float64 (n, B'); None: all alike

    @property
    def halves(self) -> Tensor:
        """Which half of the samples each belongs to, 0 or 1, (n,)."""
        return (torch.arange(len(self.hidden)) + self.first) % 2

    def number(self, index: int, n_granularities: int) -> int:
        """The number of one of them among all samples; the granularities are interleaved."""
        return (self.first + index) * n_granularities + self.granularity


def draw_groups(sampler: MaskSampler, start: int, stop: int, exact: bool = False) -> list[Group]:
    """Perturbations start … stop - 1; the possible ones in turn where all of them are evaluated."""
    if exact:
        return [Group(0, start, *enumerate_hidden(sampler.layout, start, stop))]
    return [
        Group(granularity, first, sampler.draw(granularity, first, last))
        for granularity, first, last in sample_groups(start, stop, sampler.layout.n_granularities)
    ]


def perturbed_inputs(
    inputs: tuple[Tensor, ...],
    baselines: tuple[Tensor | int | float, ...],
    layout: FeatureLayout,
    groups: list[Group],
) -> tuple[Tensor, ...]:
    """The inputs of one evaluation, each of shape (n * B, …), perturbation by perturbation."""
    return tuple(
        torch.cat([layout.hide(inp, baseline, index, group.granularity, group.hidden) for group in groups]).flatten(
            0, 1
        )
        for index, (inp, baseline) in enumerate(zip(inputs, baselines))
    )


def check_counts(n_samples: int, perturbations_per_eval: int, n_granularities: int) -> None:
    """Raises a ValueError where there are too few samples for the granularities, or none in a batch."""
    if not isinstance(n_samples, (int, Integral)) or n_samples < n_granularities:
        raise ValueError(
            f"n_samples must be an integer of at least {n_granularities}, one perturbation for each granularity of "
            f"the feature_mask, not {n_samples}."
        )
    if not isinstance(perturbations_per_eval, (int, Integral)) or perturbations_per_eval < 1:
        raise ValueError(f"perturbations_per_eval must be an integer of at least 1, not {perturbations_per_eval}.")


def as_tensor(scores: object) -> Tensor:
    if isinstance(scores, Tensor):
        return scores
    if isinstance(scores, (int, float)):
        return torch.tensor(scores, dtype=torch.float64)  # as FeatureAblation does for Python numbers
    raise TypeError(f"forward_func must return a tensor of scores, not {type(scores).__name__}.")
