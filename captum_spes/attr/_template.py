"""The part of ``attribute`` that SPES, BubbleNoise and GradientSPES share.

A method checks its arguments and makes an :class:`Estimator`, which draws the perturbations and sums up their effects.
:func:`run` handles batches, ranks, checkpoints, the progress bar and the end of the run.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from inspect import signature
from typing import TYPE_CHECKING, Any, ParamSpec, TypedDict, TypeVar

import torch
from captum.log import log_usage
from torch import Tensor

from captum_spes.attr._checkpoint import Checkpoint
from captum_spes.attr._perturbations import Evaluator, Perturbed
from captum_spes.attr.batches import Batches, Callback
from captum_spes.attr.ranks import Ranks
from captum_spes.attr.stopping import StoppingRule, check_reliability

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

Tensors = tuple[Tensor, ...]
# what attribute is given and returns, for type checkers: Captum has no type information
Inputs = TypeVar("Inputs", Tensor, tuple[Tensor, ...])
Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")

# arguments of Captum's methods that these methods do not take, each with the argument to use instead
ELSEWHERE = {
    "return_convergence_delta": "return_reliability",
    "return_input_shape": None,
    "internal_batch_size": "perturbations_per_eval",
    "n_steps": "n_samples",
}


def attribute_method(method: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
    """Captum's ``log_usage`` for an ``attribute`` method: type checkers see the method's own arguments.

    The decorated method raises a TypeError for an argument of Captum's other methods; it says what to use instead.
    """
    logged = log_usage(part_of_slo=True)(method)
    known = signature(method).parameters

    @wraps(method)
    def attribute(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Result:
        for name in kwargs.keys() & ELSEWHERE.keys():
            instead = ELSEWHERE[name]
            advice = f"use {instead}" if instead in known else "leave it out"
            raise TypeError(f"{type(args[0]).__name__} takes no {name}: {advice}.")
        return logged(*args, **kwargs)

    return attribute


class SamplingArguments(TypedDict, total=False):
    """The keyword-only arguments that all ``attribute`` methods take, for type checkers."""

    seed: int
    min_reliability: float | None
    callback: Callback | None
    process_group: ProcessGroup | None
    checkpoint: str | os.PathLike[str] | None


@dataclass(frozen=True)
class Options:
    """The arguments of ``attribute`` that control how samples are run and do not change them."""

    perturbations_per_eval: int
    show_progress: bool
    min_reliability: float | None
    callback: Callback | None
    process_group: ProcessGroup | None
    checkpoint: str | os.PathLike[str] | None

    def __post_init__(self) -> None:
        check_reliability(self.min_reliability)


class Estimator(ABC):
    """Draws the perturbations of a method, and sums up their effects.

    Args:
        evaluate: the forward function with its arguments.
        n_samples: number of perturbations that the caller asked for.
        n_granularities: number of granularities, over which the perturbations are spread evenly, in turn.

    Attributes:
        first_look: number of samples after which the reliability is computed for the first time, if it ends the run.
        exact: whether all possible perturbations are evaluated, so that nothing is estimated.
    """

    first_look = 48
    exact = False

    def __init__(self, evaluate: Evaluator, n_samples: int, n_granularities: int) -> None:
        self.evaluate = evaluate
        self.n_samples = n_samples
        self.n_granularities = n_granularities

    @property
    def n_total(self) -> int:
        """The number of perturbations that are evaluated."""
        return self.n_samples

    @property
    @abstractmethod
    def tensors(self) -> list[Tensor]:
        """The sums, float64 on the CPU, which are changed in place."""

    @abstractmethod
    def begin(self, ranks: Ranks) -> None:
        """Computes what is needed before the first perturbation."""

    @abstractmethod
    def draw(self, start: int, stop: int) -> Perturbed:
        """The perturbations start … stop - 1, a function of these numbers and the seed alone."""

    @abstractmethod
    def observe(self, perturbed: Perturbed, repeatedly: bool) -> Any:
        """Runs the model on a batch and returns what :meth:`add` adds up, which is called once or repeatedly."""

    @abstractmethod
    def add(self, observed: Any, perturbed: Perturbed, stop: int | None = None) -> None:
        """Adds a batch to the sums, or only its perturbations before number ``stop``."""

    def first_scores(self) -> Tensor:
        """The scores of perturbation 0, by which a checkpoint recognises the model."""
        with torch.no_grad():
            return self.evaluate(self.draw(0, 1).inputs)

    def fitting(self, per_eval: int) -> int | None:
        """The number of perturbations of a batch that fit into memory, if the estimator knows it; otherwise None."""
        return None

    @abstractmethod
    def reliabilities(self) -> Tensors:
        """For each input, the split-half correlation of each row, (B * K,), which may end the run."""

    @abstractmethod
    def attributions(self) -> tuple[Tensors, Tensors]:
        """The attributions of each input, and the reliability of their rows."""


def run(estimator: Estimator, name: str, arguments: Mapping[str, object], options: Options) -> tuple[Tensors, Tensors]:
    """Runs the perturbations of an estimator.

    Args:
        estimator: draws the perturbations and sums up their effects.
        name: name of the method.
        arguments: the arguments on which the sums depend, by the names that messages use.
        options: how the samples are run.

    Returns:
        The attributions of each input, and the reliability of their rows.
    """
    ranks, target = Ranks(options.process_group), options.min_reliability
    arguments = {"method": name, **arguments, "n_samples": estimator.n_samples, "min_reliability": target}
    ranks.check_same(arguments)
    estimator.begin(ranks)
    file = Checkpoint.create(options.checkpoint, arguments, estimator.first_scores, ranks)
    rule = None
    if target is not None and not estimator.exact:
        rule = StoppingRule(target, estimator.first_look, estimator.n_granularities)
    batches = Batches(
        estimator.n_total,
        options.perturbations_per_eval,
        name,
        lambda: estimator.tensors,
        options.show_progress,
        options.callback,
        ranks,
        file,
        rule,
    )
    steps = _Steps(estimator, batches, options.perturbations_per_eval)
    steps.set_batch_size()
    batches.run(steps, steps.is_reliable)
    if batches.n_done < batches.total:
        estimator.exact = False
    return estimator.attributions()


class _Steps:
    """Evaluates one batch: draws perturbations, runs the model, tests the reliability and adds the batch up."""

    def __init__(self, estimator: Estimator, batches: Batches, most: int) -> None:
        self.estimator = estimator
        self.batches = batches
        self.most = most

    def __call__(self, start: int, stop: int, looks: Sequence[int]) -> int | None:
        estimator = self.estimator
        with torch.no_grad():
            perturbed = estimator.draw(start, stop)
        observed = estimator.observe(perturbed, repeatedly=bool(looks))
        for look in looks:
            with _unchanged(estimator.tensors):
                estimator.add(observed, perturbed, look)
                if self.is_reliable():
                    return look
        estimator.add(observed, perturbed)
        if start == self.batches.first:
            self.set_batch_size()
        return None

    def set_batch_size(self) -> None:
        """Sets the size of the next batches, if the estimator knows how many perturbations fit into memory."""
        self.batches.per_eval = self.estimator.fitting(self.most) or self.batches.per_eval

    def is_reliable(self) -> bool:
        """Whether the sums of all ranks reach the required reliability; the first rank decides."""
        ranks, rule = self.batches.ranks, self.batches.rule
        assert rule is not None
        with _unchanged(self.estimator.tensors):
            ranks.sum(self.estimator.tensors)
            reliability = float(torch.cat(self.estimator.reliabilities()).mean())
        return ranks.total(lambda: int(ranks.rank == 0 and reliability >= rule.target)) > 0


@contextmanager
def _unchanged(tensors: list[Tensor]) -> Iterator[None]:
    """Restores the values of the tensors afterwards."""
    before = [tensor.clone() for tensor in tensors]
    try:
        yield
    finally:
        for tensor, saved in zip(tensors, before):
            tensor.copy_(saved)
