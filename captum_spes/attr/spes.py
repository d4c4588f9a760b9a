"""SPES: Spectrogram Perturbation for Explainable Speech-to-text generation."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import torch
from captum._utils.common import (
    _expand_additional_forward_args,
    _expand_target,
    _format_additional_forward_args,
    _format_output,
    _is_tuple,
    _run_forward,
    _validate_input,
)
from captum._utils.progress import NullProgress, progress
from captum._utils.typing import BaselineType, TargetType, TensorOrTupleOfTensorsGeneric
from captum.attr import PerturbationAttribution
from captum.attr._utils.common import _format_input_baseline
from captum.log import log_usage
from torch import Tensor

from captum_spes.attr._features import FeatureLayout, MaskSampler, enumerate_hidden, sample_groups


class SPES(PerturbationAttribution):
    r"""Attribution by the mean impact of the random perturbations that hide a feature.

    Spectrogram Perturbation for Explainable Speech-to-text generation (Fucci et al., 2024, arXiv:2411.01710, §4).
    In each of ``n_samples`` evaluations every feature is replaced by its baseline with probability
    ``perturbation_prob``, independently. The impact of perturbation i is
    :math:`r_i = \text{score}(x) - \text{score}(x'_i)`, as in Captum's FeatureAblation, and with M = 0 where
    hidden the attribution is (Eq. 3)

    .. math:: S = \frac{\sum_i r_i (1 - M_i)}{\sum_i (1 - M_i)},

    the mean impact over the perturbations that hid the feature; a feature that was never hidden gets 0. Any
    forward function will do; the paper's is :class:`~captum_spes.KLDivergence`, whose impact is the KL divergence
    from the original prediction, for all tokens in one pass.

    Args:
        forward_func: the model or any function of it. It returns one score an example, shape ``(B,)``, or several
            (one a token, say), shape ``(B, K)``; larger means closer to the original prediction. A function with a
            single score for the whole batch works with ``perturbations_per_eval=1``.

    Example::

        >>> import torch
        >>> from captum_spes import SPES
        >>> weights = torch.tensor([0.0, 0.0, 5.0, 1.0])
        >>> attribution = SPES(lambda x: x @ weights).attribute(torch.ones(1, 4), n_samples=2000)
        >>> attribution.shape, attribution.argmax().item()
        (torch.Size([1, 4]), 2)
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
        n_samples: int = 20_000,
        perturbations_per_eval: int = 1,
        show_progress: bool = False,
        *,
        perturbation_prob: float | tuple[float, ...] = 0.5,
        seed: int = 0,
        return_reliability: bool = False,
        callback: Callable[[int, int], bool | None] | None = None,
    ) -> Any:
        r"""Computes the attributions of the inputs.

        Args:
            inputs: a tensor, or a tuple of tensors that are perturbed jointly; dimension 0 is the batch.
            baselines: what a hidden feature becomes: a number, a tensor that is as large as its input or has 1 as
                first dimension and broadcasts to it, or a tuple of such, one for each input. Default: 0.
            target: which output is attributed, in any form that Captum's FeatureAblation takes.
            additional_forward_args: further arguments of ``forward_func``; tensors have the batch as dimension 0.
            feature_mask: integer ids that group scalars into features, in the shape of the input (its first
                dimension 1 or the batch). Several granularities are stacked in front, ``(S, 1 or B, …)``: the
                samples are split evenly over them and pooled. For a tuple of inputs a tuple of masks; equal ids in
                two of them are one feature, as in FeatureAblation. Default: every scalar is a feature.
                A mask of two granularities for an input of shape (1, 2, 4)::

                    +---+---+---+---+   +---+---+---+---+
                    | 0 | 0 | 1 | 1 |   | 0 | 1 | 2 | 3 |
                    +---+---+---+---+   +---+---+---+---+
                    | 0 | 0 | 1 | 1 |   | 0 | 1 | 2 | 3 |
                    +---+---+---+---+   +---+---+---+---+

            n_samples: number of perturbations (the paper's N_X; 20,000 there). Where a mask of one granularity has
                so few features P that 2^P does not exceed it, every combination is evaluated once and weighed by
                its probability, which is exact.
            perturbations_per_eval: how many are evaluated in one batch. It changes the speed, not the result.
            show_progress: shows a progress bar that counts perturbations.
            perturbation_prob: the probability with which a feature is hidden, one or one for each input.
            seed: determines the perturbations together with the mask, and nothing else does.
            return_reliability: also return how far two halves of the samples agree.
            callback: called after every batch as ``callback(done, total)``; when it returns True the run ends
                there and the attributions are those of the samples done.

        Returns:
            **attributions**, or (**attributions**, **reliability**):
            - **attributions**: tensor, or tuple of tensors, of the inputs' shape for scores of shape ``(B,)`` and of
              shape ``(B * K, *input.shape[1:])`` for scores ``(B, K)``, as FeatureAblation returns them.
            - **reliability**: tensor of shape ``(B * K,)``, or a tuple of them: the correlation between the
              attributions of the two halves of the samples. The whole run's own is higher, about 2r / (1 + r).

        Raises:
            ValueError: an argument that does not fit the inputs, or scores that are not finite.
            TypeError: a feature mask that holds no integers.

        Example::

            >>> import torch
            >>> from captum_spes import SPES, grid_feature_mask
            >>> spectrogram = torch.rand(1, 30, 16)
            >>> mask = grid_feature_mask(spectrogram, patch_size=(10, 4))
            >>> spes = SPES(lambda x: x[:, 10:20, 4:8].sum((1, 2)))
            >>> attribution = spes.attribute(spectrogram, feature_mask=mask, n_samples=500, perturbations_per_eval=16)
            >>> bool(attribution[0, 15, 5] == attribution.max())
            True
        """
        is_inputs_tuple = _is_tuple(inputs)
        try:
            formatted, baselines = _format_input_baseline(inputs, baselines)
            # Captum's check would look for the first dimension of a tensor that has none
            baselines = tuple(b.item() if isinstance(b, Tensor) and not b.dim() else b for b in baselines)
            _validate_input(formatted, baselines)
        except AssertionError as error:
            raise ValueError(str(error)) from error
        layout = FeatureLayout.create(formatted, feature_mask, perturbation_prob)
        check_counts(n_samples, perturbations_per_eval, layout.n_granularities)
        args = _format_additional_forward_args(additional_forward_args)
        sampler = MaskSampler(layout, seed)

        with torch.no_grad():
            original = _as_tensor(_run_forward(self.forward_func, formatted, target, args))
            sums = _ImpactSums(layout, original, batch_size=formatted[0].shape[0], per_eval=perturbations_per_eval)
            exact = layout.n_granularities == 1 and layout.n_features <= math.log2(n_samples)
            total = 2**layout.n_features if exact else n_samples
            size, stop, expanded = 0, 0, (target, args)
            desc = f"{self.get_name()} attribution"
            with progress(desc=desc, total=total) if show_progress else NullProgress() as bar:
                for start in range(0, total, perturbations_per_eval):
                    stop = min(start + perturbations_per_eval, total)
                    if size != stop - start:
                        size = stop - start
                        expanded = _expand_target(target, size), _expand_additional_forward_args(args, size)
                    groups = _draw_groups(sampler, start, stop, exact)
                    perturbed = _perturbed(formatted, baselines, layout, groups)
                    sums.add(_as_tensor(_run_forward(self.forward_func, perturbed, *expanded)), groups, seed)
                    bar.update(size)
                    if callback is not None and callback(stop, total):
                        break
        attributions, reliability = sums.attributions(formatted, exact=exact and stop == total)
        output = _format_output(is_inputs_tuple, attributions)
        return (output, _format_output(is_inputs_tuple, reliability)) if return_reliability else output

    @classmethod
    def get_name(cls) -> str:
        """The method's name; Captum's own rule would spell it letter by letter."""
        return "SPES"

    def attribute_future(self) -> None:
        """Not implemented: SPES evaluates its perturbations in order."""
        raise NotImplementedError("attribute_future is not implemented for SPES: use attribute.")


@dataclass(frozen=True)
class _Group:
    """Perturbations of one granularity within a batch."""

    granularity: int
    first: int  # number of the first one among those of its granularity
    hidden: Tensor  # bool (n, B', P)
    weights: Tensor | None = None  # float64 (n, B'); None: all alike


def _draw_groups(sampler: MaskSampler, start: int, stop: int, exact: bool) -> list[_Group]:
    if exact:
        return [_Group(0, start, *enumerate_hidden(sampler.layout, start, stop))]
    return [
        _Group(granularity, first, sampler.draw(granularity, first, last))
        for granularity, first, last in sample_groups(start, stop, sampler.layout.n_granularities)
    ]


def _perturbed(
    inputs: tuple[Tensor, ...],
    baselines: tuple[Tensor | int | float, ...],
    layout: FeatureLayout,
    groups: list[_Group],
) -> tuple[Tensor, ...]:
    """The inputs of one evaluation, each of shape (n * B, …), perturbation by perturbation."""
    return tuple(
        torch.cat([layout.hide(inp, baseline, index, group.granularity, group.hidden) for group in groups]).flatten(
            0, 1
        )
        for index, (inp, baseline) in enumerate(zip(inputs, baselines))
    )


class _ImpactSums:
    """Numerator and denominator of Eq. 3 for each feature, over two halves of the samples.

    Sums are kept a feature, not a scalar of the input, so that memory does not grow with the samples and hardly
    with the input; they are float64 on the CPU. Rows are examples × outputs.
    """

    def __init__(self, layout: FeatureLayout, original: Tensor, batch_size: int, per_eval: int) -> None:
        self.layout = layout
        self.dtype = original.dtype if original.is_floating_point() else torch.get_default_dtype()
        self.shape = tuple(original.shape)
        self.batch_size = batch_size
        self.per_example = original.dim() > 0 and original.shape[0] == batch_size
        if not self.per_example:
            if per_eval > 1:
                raise ValueError(_not_growing(self.shape, batch_size, per_eval))
            if layout.per_example:
                raise ValueError(
                    "forward_func returns the same number of scores whatever the batch, so that all examples must "
                    f"share their features: give a feature_mask whose batch dimension is 1, not {batch_size}."
                )
        if not original.isfinite().all():
            raise ValueError("the scores of the unperturbed inputs are not finite: check the model and its inputs.")
        self.original = original.reshape(batch_size if self.per_example else 1, -1).cpu().double()  # (rows, K)
        n_granularities, n_masks, n_features = layout.probs.shape
        self.impacts = torch.zeros(2, n_granularities, *self.original.shape, n_features, dtype=torch.float64)
        self.counts = torch.zeros(2, n_granularities, n_masks, n_features, dtype=torch.float64)

    def add(self, scores: Tensor, groups: list[_Group], seed: int) -> None:
        """Adds the scores of a batch of perturbations."""
        n_samples = sum(len(group.hidden) for group in groups)
        expected = (n_samples * self.batch_size, *self.shape[1:]) if self.per_example else self.shape
        if tuple(scores.shape) != expected:
            raise ValueError(_not_growing(tuple(scores.shape), n_samples * self.batch_size, n_samples))
        impacts = self.original - scores.reshape(n_samples, *self.original.shape).cpu().double()  # (n, rows, K)
        for group, impact in zip(groups, impacts.split([len(group.hidden) for group in groups])):
            if not impact.isfinite().all():
                within = int((~impact.isfinite()).flatten(1).any(1).nonzero()[0])
                index = (group.first + within) * self.layout.n_granularities + group.granularity
                raise ValueError(
                    f"the score of perturbation {index} (seed {seed}) is not finite: the model overflows on it; "
                    "use a wider dtype or another baseline."
                )
            weights = group.hidden.double()
            if group.weights is not None:
                weights = weights * group.weights[..., None]
            parity = (torch.arange(len(impact)) + group.first) % 2
            for half in range(2):
                weight = weights[parity == half].transpose(0, 1)  # (B', n, P)
                # (rows, K, n) @ (B', n, P)
                self.impacts[half, group.granularity] += impact[parity == half].permute(1, 2, 0) @ weight
                self.counts[half, group.granularity] += weight.sum(1)

    def attributions(self, inputs: tuple[Tensor, ...], exact: bool) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """Eq. 3 for each scalar of the inputs, pooled over the granularities, and each row's split-half correlation."""
        n_rows, n_outputs = self.original.shape
        attributions, reliabilities = [], []
        for inp, ids in zip(inputs, self.layout.ids):
            ids = ids.cpu()
            attribution = torch.empty(n_rows * n_outputs, ids.shape[-1], dtype=self.dtype)
            reliability = torch.ones(n_rows * n_outputs)
            for row in range(n_rows):
                mask = ids[:, row if self.layout.per_example else 0]  # (S, elements)
                counts = _pool(self.counts[:, :, row if self.layout.per_example else 0], mask)  # (2, elements)
                for output in range(n_outputs):
                    impacts = _pool(self.impacts[:, :, row, output], mask)
                    index = row * n_outputs + output
                    attribution[index] = _ratio(impacts.sum(0), counts.sum(0))
                    if not exact:
                        reliability[index] = _correlation(*_ratio(impacts, counts))
            attributions.append(attribution.view(-1, *inp.shape[1:]).to(inp.device))
            reliabilities.append(reliability)
        return tuple(attributions), tuple(reliabilities)


def _pool(sums: Tensor, ids: Tensor) -> Tensor:
    """Sums a feature, (2, S, P), as sums an element over the granularities, (2, elements)."""
    return sums.gather(2, ids.expand(2, -1, -1)).sum(1)


def _ratio(impacts: Tensor, counts: Tensor) -> Tensor:
    return torch.where(counts > 0, impacts / counts, 0)


def _correlation(first: Tensor, second: Tensor) -> Tensor:
    """Pearson's correlation, 0 where one of the two is constant."""
    first, second = first - first.mean(), second - second.mean()
    scale = first.norm() * second.norm()
    return (first @ second / scale).clamp(-1, 1) if scale > 0 else torch.zeros(())


def check_counts(n_samples: int, perturbations_per_eval: int, n_granularities: int) -> None:
    """Raises a ValueError where there are too few samples for the granularities, or none in a batch."""
    if not isinstance(n_samples, (int, Integral)) or n_samples < n_granularities:
        raise ValueError(
            f"n_samples must be an integer of at least {n_granularities}, one perturbation for each granularity of "
            f"the feature_mask, not {n_samples}."
        )
    if not isinstance(perturbations_per_eval, (int, Integral)) or perturbations_per_eval < 1:
        raise ValueError(f"perturbations_per_eval must be an integer of at least 1, not {perturbations_per_eval}.")


def _as_tensor(scores: object) -> Tensor:
    if isinstance(scores, Tensor):
        return scores
    if isinstance(scores, (int, float)):
        return torch.tensor(scores, dtype=torch.float64)  # as FeatureAblation does for Python numbers
    raise TypeError(f"forward_func must return a tensor of scores, not {type(scores).__name__}.")


def _not_growing(shape: tuple[int, ...], batch_size: int, per_eval: int) -> str:
    return (
        f"forward_func returned scores of shape {shape} for a batch of {batch_size}: with {per_eval} perturbations in "
        "one evaluation it must return a row of scores for each example, (batch,) or (batch, K); "
        "otherwise set perturbations_per_eval=1."
    )
