"""Perturbations of a batch: the features that they hide, the perturbed inputs, and the scores."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from captum._utils.common import (
    _expand_additional_forward_args,
    _expand_target,
    _format_additional_forward_args,
    _run_forward,
)
from torch import Tensor

from captum_spes.attr.features import FeatureLayout, MaskSampler, enumerate_hidden, sample_groups


class Evaluator:
    """A forward function with its target and further arguments, which are expanded once per batch size."""

    def __init__(self, forward_func: Any, target: Any, additional_forward_args: object) -> None:
        self.forward_func = forward_func
        self.target = target
        self.args = _format_additional_forward_args(additional_forward_args)
        self._size, self._expanded = 1, (self.target, self.args)

    def __call__(self, inputs: Any, n_samples: int = 1) -> Tensor:
        """The scores of ``n_samples`` perturbations of all examples, perturbation by perturbation."""
        if self._size != n_samples:
            self._size = n_samples
            self._expanded = (
                _expand_target(self.target, n_samples),
                _expand_additional_forward_args(self.args, n_samples),
            )
        return as_tensor(_run_forward(self.forward_func, inputs, *self._expanded))


@dataclass(frozen=True)
class Group:
    """Perturbations of one granularity within a batch."""

    granularity: int
    first: int  # number of the first one among those of its granularity
    hidden: Tensor  # (n, B', P): bool, or the share of each feature that is hidden
    weights: Tensor | None = None  # float64 (n, B'); None: all have the weight 1

    @property
    def halves(self) -> Tensor:
        """The half of the samples to which each perturbation belongs, 0 or 1, (n,)."""
        return (torch.arange(len(self.hidden), device="cpu") + self.first) % 2

    def until(self, number: int, n_granularities: int) -> Group:
        """The perturbations whose number among all samples is smaller than ``number``."""
        n = len(range(self.number(0, n_granularities), number, n_granularities))
        weights = None if self.weights is None else self.weights[:n]
        return Group(self.granularity, self.first, self.hidden[:n], weights)

    def number(self, index: int, n_granularities: int) -> int:
        """The number of a perturbation of the group among all samples; the granularities are interleaved."""
        return (self.first + index) * n_granularities + self.granularity


@dataclass(frozen=True)
class Perturbed:
    """Inputs of one evaluation, each of shape (n * B, …), and the features that are hidden in them."""

    inputs: tuple[Tensor, ...]
    groups: list[Group]

    @property
    def n_samples(self) -> int:
        """The number of perturbations."""
        return sum(len(group.hidden) for group in self.groups)


def draw_groups(sampler: MaskSampler, start: int, stop: int, exact: bool = False) -> list[Group]:
    """Perturbations start … stop - 1, drawn at random or, for ``exact``, from the list of all possible ones."""
    if exact:
        return [Group(0, start, *enumerate_hidden(sampler.layout, start, stop))]
    return [
        Group(granularity, first, sampler.draw(granularity, first, last))
        for granularity, first, last in sample_groups(start, stop, sampler.layout.n_granularities)
    ]


def check_finite(values: Tensor, groups: list[Group], n_granularities: int, seed: int, what: str) -> None:
    """Raises a ValueError that names the first perturbation of a batch whose values, (n, …), are not finite."""
    finite = values.isfinite().flatten(1).all(1).cpu()
    if finite.all():
        return
    numbers = [group.number(i, n_granularities) for group in groups for i in range(len(group.hidden))]
    first = min(number for number, is_finite in zip(numbers, finite) if not is_finite)
    raise ValueError(
        f"the {what} of perturbation {first} (seed {seed}) is not finite: the model overflows on it; use a wider dtype "
        "or another baseline. With perturbations_per_eval=1 this perturbation is the last input of forward_func before "
        "the error."
    )


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


def as_tensor(scores: object) -> Tensor:
    if isinstance(scores, Tensor):
        return scores
    if isinstance(scores, (int, float)):
        return torch.tensor(scores, dtype=torch.float64)  # as FeatureAblation does for Python numbers
    raise TypeError(f"forward_func must return a tensor of scores, not {type(scores).__name__}.")
