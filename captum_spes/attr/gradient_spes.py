"""GradientSPES: what SPES estimates, to first order, from gradients."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import torch
from captum._utils.common import _format_output, _is_tuple
from captum._utils.typing import BaselineType, TargetType, TensorOrTupleOfTensorsGeneric
from captum.attr import GradientAttribution
from captum.log import log_usage
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.nn import Parameter

from captum_spes.attr._batches import (
    Batches,
    Evaluator,
    Group,
    check_counts,
    check_finite,
    draw_groups,
    perturbed_inputs,
)
from captum_spes.attr._checkpoint import Checkpoint
from captum_spes.attr._features import FeatureLayout, MaskSampler, format_inputs
from captum_spes.attr._impacts import correlation
from captum_spes.attr._ranks import Ranks

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

Tensors = tuple[Tensor, ...]

# bytes that the graph of a batch may keep for the backwards
MEMORY = 4 * 2**30


class GradientSPES(GradientAttribution):
    r"""Attribution by the mean gradient of the impact with respect to the mask, over SPES's random perturbations.

    As in :class:`~captum_spes.SPES`, every feature is hidden with probability ``perturbation_prob``. Here the mask
    M (1 where hidden) is taken for real numbers that only happen to be 0 or 1,

    .. math:: x' = x + M \odot (\text{baseline} - x),

    and each scalar is given the mean, over the perturbations i, of the gradient of the impact

    .. math:: G = \frac{1}{N} \sum_i \frac{\partial r}{\partial M}\Big|_{M_i}
                = \frac{1}{N} \sum_i (x - \text{baseline}) \odot \nabla \text{score}(x'_i).

    A feature's attribution is the sum of G over its scalars, the mean over the granularities. A perturbation tells SPES
    one number, and here one for every scalar: a hundred do where SPES takes thousands.

    **What it estimates.** A feature's main effect, the mean rise of the impact when it is hidden, to first order. Where
    the score is linear in each feature's mask, interactions included, G summed over a feature *is* that effect on
    average. On a linear score SPES's map of a feature with effect d is :math:`(1 - p) d + p \sum d`, the same up to
    the shift and scale that the normalisation of explanations removes.

    **When it fails.** The gradient looks at small changes of a mask whose real changes are large. A score that
    saturates, flat at both ends of the way and steep between, is underrated; what is not differentiable at all, such
    as a front end that rounds, has no gradient. Take SPES there, which needs none and stays the reference.

    Args:
        forward_func: as of SPES, and differentiable. It returns a row of scores for each example, ``(B,)`` or
            ``(B, K)``. :class:`~captum_spes.KLDivergence` will do: its gradient is 0 at the unperturbed input only.

    Example::

        >>> import torch
        >>> from captum_spes import GradientSPES
        >>> weights = torch.tensor([0.0, 0.0, 5.0, 1.0])
        >>> GradientSPES(lambda x: x @ weights).attribute(torch.ones(1, 4), n_samples=2)
        tensor([[0., 0., 5., 1.]])
    """

    def __init__(self, forward_func: Any) -> None:
        super().__init__(forward_func)

    @log_usage(part_of_slo=True)
    def attribute(
        self,
        inputs: TensorOrTupleOfTensorsGeneric,
        baselines: BaselineType = None,
        target: TargetType = None,
        additional_forward_args: object = None,
        feature_mask: Tensor | tuple[Tensor, ...] | None = None,
        n_samples: int = 96,
        perturbations_per_eval: int = 1,
        show_progress: bool = False,
        *,
        perturbation_prob: float | tuple[float, ...] = 0.5,
        pool_features: bool = True,
        seed: int = 0,
        return_reliability: bool = False,
        callback: Callable[[int, int], bool | None] | None = None,
        process_group: ProcessGroup | None = None,
        checkpoint: str | os.PathLike[str] | None = None,
    ) -> Any:
        r"""Computes the attributions of the inputs.

        Args:
            inputs: a floating-point tensor, or a tuple of them that are perturbed jointly; dimension 0 is the batch.
            baselines: what a hidden feature becomes: a number, a tensor that broadcasts to its input, or a tuple of
                such, one for each input. Default: 0.
            target: which output is attributed, in any form that Captum's IntegratedGradients takes.
            additional_forward_args: further arguments of ``forward_func``; tensors have the batch as dimension 0.
            feature_mask: which scalars are hidden together, as of SPES, several granularities stacked in front too.
                Default: every scalar is a feature.
            n_samples: number of perturbations, each of which costs a forward and K backwards.
            perturbations_per_eval: how many are evaluated in one batch, at most: the graph of a batch is kept for K
                backwards and is not to exceed 4 GiB. It changes the speed, not the result.
            show_progress: shows a progress bar that counts perturbations.
            perturbation_prob: the probability with which a feature is hidden, one or one for each input.
            pool_features: whether every scalar of a feature has the sum over the feature, the mean of the
                granularities, or a value of its own.
            seed: determines the perturbations together with the mask, and nothing else does.
            return_reliability: also return how far two halves of the samples agree.
            callback: called after every batch as ``callback(done, total)``; when it returns True the run ends
                there and the attributions are those of the samples done.
            process_group: ranks of ``torch.distributed`` that share the samples, as of SPES. Default: this process
                evaluates all of them.
            checkpoint: path of a file from which a run that was killed goes on, as of SPES. Default: none.

        Returns:
            **attributions**, or (**attributions**, **reliability**):
            - **attributions**: tensor, or tuple of tensors, of the inputs' shape and dtype for scores of shape
              ``(B,)`` and of shape ``(B * K, *input.shape[1:])`` for scores ``(B, K)``.
            - **reliability**: tensor of shape ``(B * K,)``, or a tuple of them: the correlation between the
              attributions of the two halves of the samples.

        Raises:
            ValueError: an argument that does not fit the inputs, scores that are not a row for each example or do
                not depend on the inputs in a differentiable way, gradients that are not finite.
            TypeError: inputs that are not floating point; a feature mask that holds no integers.
            AssertionError: a target that does not fit the scores; Captum's own code selects it.

        Example::

            >>> import torch
            >>> from captum_spes import GradientSPES, grid_feature_mask
            >>> spectrogram = torch.rand(1, 30, 16)
            >>> mask = grid_feature_mask(spectrogram, patch_size=(10, 4))
            >>> method = GradientSPES(lambda x: x[:, 10:20, 4:8].sum((1, 2)).square())
            >>> attribution = method.attribute(spectrogram, feature_mask=mask, n_samples=24)
            >>> bool(attribution[0, 15, 5] == attribution.max())
            True
        """
        is_inputs_tuple = _is_tuple(inputs)
        formatted, baselines = format_inputs(inputs, baselines)
        for index, inp in enumerate(formatted):
            if not inp.is_floating_point():
                raise TypeError(f"inputs[{index}] must be floating point, not {inp.dtype}: integers have no gradient.")
        layout = FeatureLayout.create(formatted, feature_mask, perturbation_prob)
        check_counts(n_samples, perturbations_per_eval, layout.n_granularities)
        evaluate = Evaluator(self.forward_func, target, additional_forward_args)
        sampler = MaskSampler(layout, seed)
        ranks = Ranks(process_group)
        arguments = {
            "method": self.get_name(),
            "inputs": formatted,
            "baselines": baselines,
            "target": target,
            "additional_forward_args": evaluate.args,
            "feature_mask": layout.ids,
            "perturbation_prob": perturbation_prob,
            "n_samples": n_samples,
            "seed": seed,
        }
        ranks.check_same(arguments)
        sums = _GradientSums(formatted, baselines, layout)

        def perturb(start: int, stop: int) -> tuple[Tensor, Tensors, list[Group]]:
            groups = draw_groups(sampler, start, stop)
            perturbed = perturbed_inputs(formatted, baselines, layout, groups)
            for inp in perturbed:
                inp.requires_grad_()
            return evaluate(perturbed, stop - start), perturbed, groups

        def first_scores() -> Tensor:
            with torch.no_grad():
                scores = perturb(0, 1)[0]
            sums.begin(scores)
            return scores

        file = Checkpoint.create(checkpoint, arguments, first_scores, ranks)
        if n_samples < ranks.size:  # a rank without a sample has sums, too
            ranks.together(first_scores)
        run = Batches(n_samples, perturbations_per_eval, self.get_name(), sums, show_progress, callback, ranks, file)
        run.per_eval = 1  # the first perturbation alone, whose graph says how many fit

        def add(start: int, stop: int) -> None:
            with torch.enable_grad(), _GraphSize() if start == run.share.start else nullcontext() as graph:
                scores, perturbed, groups = perturb(start, stop)
            sums.add(scores, perturbed, groups, seed)
            if graph is not None:
                run.per_eval = max(min(perturbations_per_eval, MEMORY // max(graph.n_bytes, 1)), 1)

        run.run(add)
        attributions, reliability = sums.attributions(formatted, pool_features)
        output = _format_output(is_inputs_tuple, attributions)
        return (output, _format_output(is_inputs_tuple, reliability)) if return_reliability else output

    @classmethod
    def get_name(cls) -> str:
        """The method's name; Captum's own rule would spell it letter by letter."""
        return "GradientSPES"

    def attribute_future(self, *args: Any, **kwargs: Any) -> None:
        """Not implemented: GradientSPES evaluates its perturbations in order."""
        raise NotImplementedError("attribute_future is not implemented for GradientSPES: use attribute.")


class _GradientSums:
    """Sums of ∂r / ∂M for each scalar of the inputs, over two halves of the samples: float64 on the CPU."""

    def __init__(self, inputs: Tensors, baselines: tuple[Tensor | int | float, ...], layout: FeatureLayout) -> None:
        self.layout = layout
        self.batch_size = len(inputs[0])
        # what a mask scales, (B, …)
        self.differences = [inp.detach() - baseline for inp, baseline in zip(inputs, _on_device(inputs, baselines))]
        self.counts = torch.zeros(2, dtype=torch.float64)
        self.sums: list[Tensor] = []  # (2, B, K, …), once K is known

    @property
    def tensors(self) -> list[Tensor]:
        """What is added up."""
        return [self.counts, *self.sums]

    def begin(self, scores: Tensor) -> None:
        """Makes the sums for scores of some rows, (n,) or (n, K)."""
        rows = 2, self.batch_size, scores[0].numel()
        self.sums = [torch.zeros(*rows, *part.shape[1:], dtype=torch.float64) for part in self.differences]

    def add(self, scores: Tensor, perturbed: Tensors, groups: list[Group], seed: int) -> None:
        """Adds the gradients of the scores of a batch of perturbations."""
        n_samples = sum(len(group.hidden) for group in groups)
        n_rows = n_samples * self.batch_size
        if scores.dim() not in (1, 2) or len(scores) != n_rows:
            raise ValueError(
                f"forward_func returned scores of shape {tuple(scores.shape)} for a batch of {n_rows}: GradientSPES "
                "needs a row of scores for each example, (batch,) or (batch, K)."
            )
        if not self.sums:
            self.begin(scores)
        halves = torch.cat([group.halves for group in groups])
        wide = torch.float32 if scores.device.type == "mps" else torch.float64  # which Apple's GPUs do not have
        added = [torch.zeros_like(sums) for sums in self.sums]  # all at once, or nothing where memory runs out
        for output, gradients in enumerate(_gradients(scores, perturbed)):
            for sums, gradient, difference in zip(added, gradients, self.differences):
                # impacts fall as scores rise, and x' = x + M (baseline - x)
                slopes = gradient.unflatten(0, (n_samples, self.batch_size)) * difference
                check_finite(slopes, groups, self.layout.n_granularities, seed, "gradient")
                for half in range(2):
                    sums[half, :, output] = slopes[halves == half].sum(0, dtype=wide).cpu()
        for total, sums in zip(self.sums, added):
            total += sums
        self.counts += torch.bincount(halves, minlength=2)

    def attributions(self, inputs: Tensors, pool_features: bool) -> tuple[Tensors, Tensors]:
        """The means of all samples, (B * K, …), and each row's correlation of the halves, (B * K,)."""
        totals = [sums.flatten(1, 2).flatten(2) for sums in self.sums]  # (2, B * K, elements)
        if pool_features:
            totals = _pool(totals, self.layout)
        attributions = tuple(
            (total.sum(0) / self.counts.sum()).view(-1, *inp.shape[1:]).to(inp) for total, inp in zip(totals, inputs)
        )
        reliability = tuple(
            torch.stack([correlation(*halves) for halves in total.unbind(1)]).float() for total in totals
        )
        return attributions, reliability


class _GraphSize(saved_tensors_hooks):
    """Counts the bytes that a graph keeps for its backward, without the parameters, which are there anyway."""

    def __init__(self) -> None:
        super().__init__(self._count, lambda tensor: tensor)
        self._storages: dict[int, int] = {}

    def __enter__(self) -> _GraphSize:  # type: ignore[override]
        super().__enter__()
        return self

    def _count(self, tensor: Tensor) -> Tensor:
        if not isinstance(tensor if tensor._base is None else tensor._base, Parameter):
            storage = tensor.untyped_storage()
            self._storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    @property
    def n_bytes(self) -> int:
        return sum(self._storages.values())


def _on_device(inputs: Tensors, baselines: tuple[Tensor | int | float, ...]) -> Iterator[Tensor | int | float]:
    for inp, baseline in zip(inputs, baselines):
        yield baseline.to(inp) if isinstance(baseline, Tensor) else baseline


def _gradients(scores: Tensor, inputs: Tensors) -> Iterator[Tensors]:
    """The gradients of each of K scores, (n,) or (n, K); one after the other was faster than all in one batch."""
    if not scores.requires_grad:
        raise ValueError(
            "the scores do not depend on the inputs in a differentiable way: compute them with gradients switched on "
            "and without detaching, or take SPES, which needs no gradient."
        )
    n_outputs = scores[0].numel()
    for output in range(n_outputs):
        chosen = torch.zeros_like(scores)
        chosen.view(len(scores), n_outputs)[:, output] = 1
        yield torch.autograd.grad(
            scores, inputs, chosen, retain_graph=output < n_outputs - 1, allow_unused=True, materialize_grads=True
        )


def _pool(totals: list[Tensor], layout: FeatureLayout) -> list[Tensor]:
    """Every scalar's value replaced by the sum over its feature, the mean over the granularities.

    Args:
        totals: for each input, (2, rows, elements).
        layout: of the features.
    """
    pooled = [torch.zeros_like(total) for total in totals]
    n_rows = totals[0].shape[1]
    for granularity in range(layout.n_granularities):
        sums = torch.zeros(2, n_rows, layout.n_features, dtype=torch.float64)
        rows = [_for_rows(ids[granularity], n_rows) for ids in layout.ids]
        for ids, total in zip(rows, totals):  # one feature may lie in several inputs
            sums.scatter_add_(2, ids, total)
        for ids, result in zip(rows, pooled):
            result += sums.gather(2, ids) / layout.n_granularities
    return pooled


def _for_rows(ids: Tensor, n_rows: int) -> Tensor:
    """Ids (B', elements) for each row of two halves, (2, rows, elements); an example has as many rows as scores."""
    return ids.cpu().repeat_interleave(n_rows // len(ids), 0).expand(2, -1, -1)
