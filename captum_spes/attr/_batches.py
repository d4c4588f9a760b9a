"""Samples in batches: what all methods of this library do with them."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from numbers import Integral
from typing import Any, Protocol

import torch
from captum._utils.common import (
    _expand_additional_forward_args,
    _expand_target,
    _format_additional_forward_args,
    _run_forward,
)
from captum._utils.progress import NullProgress, progress
from torch import Tensor

from captum_spes.attr._checkpoint import Checkpoint
from captum_spes.attr._features import FeatureLayout, MaskSampler, enumerate_hidden, sample_groups
from captum_spes.attr._ranks import Ranks

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


class Sums(Protocol):
    """What samples are added up to."""

    @property
    def tensors(self) -> list[Tensor]:
        """The sums, float64 on the CPU; they are changed in place."""


class Batches:
    """Samples in batches, under a progress bar, until the callback says stop.

    Ranks have a share of the samples each, and agree after every batch on how many are done and whether to stop, so
    that none waits for one that has failed. A rank whose batches are smaller has more of them.

    A batch that does not fit into memory is halved and tried again, and so are those after it. That changes the speed,
    not the result: what is drawn depends on the samples' numbers alone.

    Args:
        total: number of samples.
        per_eval: of them in a batch, at most.
        name: of the method.
        sums: what the samples are added to.
        show_progress: shows the bar.
        callback: called after every batch, as ``callback(done, total)``.
        ranks: that share the samples.
        checkpoint: from which the run goes on, in batches as large as before: so its sums are the same to the last bit.

    Attributes:
        per_eval: samples in the batches to come; whoever runs them may lower it.
        n_done: samples that are done, by all ranks.
        left: this rank's samples that are not.
    """

    def __init__(
        self,
        total: int,
        per_eval: int,
        name: str,
        sums: Sums,
        show_progress: bool = False,
        callback: Callback | None = None,
        ranks: Ranks | None = None,
        checkpoint: Checkpoint | None = None,
    ) -> None:
        self.total = total
        self.per_eval = self.most = per_eval
        self.name = name
        self.sums = sums
        self.ranks = ranks or Ranks()
        self.show_progress = show_progress and self.ranks.rank == 0
        self.callback = callback
        self.checkpoint = checkpoint
        self.n_done = 0
        self.share = self.left = self.ranks.share(total)

    def run(self, evaluate: Callable[[int, int], None]) -> None:
        """Calls ``evaluate(start, stop)`` for the samples start … stop - 1 of each batch, and sums up over the ranks.

        It may be called again for a batch at which memory ran out, so it must add nothing up before that can happen.
        """
        desc = f"{self.name} attribution"
        with progress(desc=desc, total=self.total) if self.show_progress else NullProgress() as bar:
            self.n_done = self.ranks.total(self._restore)
            bar.update(self.n_done)
            stopped = False
            while self.n_done < self.total and not stopped:
                n_new = self.ranks.total(lambda: self._batch(evaluate))
                self.n_done += n_new
                bar.update(n_new)
                stopped = self.ranks.total(self._stops) > 0
        if self.n_done < self.total:
            self.ranks.total(self._save)
        self.ranks.sum(self.sums.tensors)
        if self.n_done == self.total and self.checkpoint is not None:
            self.checkpoint.remove()

    def _restore(self) -> int:
        """Takes the sums from the checkpoint, and says how many samples are in them."""
        found = None if self.checkpoint is None else self.checkpoint.load()
        if found is None or self.checkpoint is None:
            return 0
        state, sums = found
        done, per_eval = (state.get(name, -1) for name in ("done", "per_eval"))
        shapes = [[tensor.shape for tensor in tensors] for tensors in (sums, self.sums.tensors)]
        valid = type(done) is int and type(per_eval) is int and 0 <= done <= len(self.share) and per_eval > 0
        if not valid or shapes[0] != shapes[1] or not all(tensor.isfinite().all() for tensor in sums):
            raise ValueError(f"{self.checkpoint.path} is a damaged checkpoint: delete it to begin anew.")
        for tensor, saved in zip(self.sums.tensors, sums):
            tensor.copy_(saved)
        self.left = self.share[done:]
        self.per_eval = min(per_eval, self.most)
        return done

    def _save(self) -> int:
        if self.checkpoint is not None:
            n_done = len(self.share) - len(self.left)
            self.checkpoint.save({"done": n_done, "per_eval": self.per_eval}, self.sums.tensors)
        return 0

    def _batch(self, evaluate: Callable[[int, int], None]) -> int:
        """Does the next batch, and says how many samples it had."""
        if self.checkpoint is not None and self.checkpoint.is_due:
            self._save()
        while self.left:
            batch = self.left[: self.per_eval]
            if self._fits(evaluate, batch.start, batch.stop):
                self.left = self.left[len(batch) :]
                return len(batch)
        return 0

    def _stops(self) -> bool:
        return self.callback is not None and bool(self.callback(self.n_done, self.total))

    def _fits(self, evaluate: Callable[[int, int], None], start: int, stop: int) -> bool:
        try:
            evaluate(start, stop)
            return True
        except (RuntimeError, MemoryError) as error:
            if stop - start == 1 or not is_out_of_memory(error):
                raise
        # behind the except clause, whose error would keep the batch's tensors alive
        self.per_eval = (stop - start) // 2
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        warnings.warn(
            f"{self.name} ran out of memory with {stop - start} perturbations in a batch and goes on with "
            f"{self.per_eval}.",
            stacklevel=8,  # the caller of attribute
        )
        return False


def fastest_batch_size(evaluate: Callable[[int], object], most: int = 64) -> int:
    """A short probe: doubles the batch while that makes an example faster by a twentieth, and memory lasts.

    Args:
        evaluate: evaluates so many examples at once, and returns when that is done.
        most: the largest batch to try.
    """
    best, least = 1, math.inf  # seconds an example
    size = 1
    while size <= most:
        start = time.perf_counter()
        try:
            evaluate(size)
        except (RuntimeError, MemoryError) as error:
            if size == 1 or not is_out_of_memory(error):
                raise
            break
        seconds = (time.perf_counter() - start) / size
        if seconds > 0.95 * least:
            break
        best, least, size = size, seconds, 2 * size
    return best


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, on whichever device: torch has no error of its own for the CPU."""
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "DefaultCPUAllocator" in str(error)


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


def check_finite(values: Tensor, groups: list[Group], n_granularities: int, seed: int, what: str) -> None:
    """Raises a ValueError that names the first perturbation of a batch whose values, (n, …), are not finite."""
    finite = values.isfinite().flatten(1).all(1).cpu()
    if finite.all():
        return
    numbers = [group.number(i, n_granularities) for group in groups for i in range(len(group.hidden))]
    first = min(number for number, is_finite in zip(numbers, finite) if not is_finite)
    raise ValueError(
        f"the {what} of perturbation {first} (seed {seed}) is not finite: the model overflows on it; use a wider dtype "
        "or another baseline. To look at it: with perturbations_per_eval=1 it is the last input that forward_func is "
        "called with before this error."
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
