"""GradientSPES: a first-order estimate of SPES's main effects from gradients."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, Literal, overload

import torch
from captum._utils.common import _format_output, _is_tuple
from captum._utils.typing import BaselineType, TargetType
from captum.attr import GradientAttribution
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.nn import Parameter

from captum_spes.attr._impacts import correlation
from captum_spes.attr._perturbations import Evaluator, Perturbed, check_finite, draw_groups, perturbed_inputs
from captum_spes.attr._template import Estimator, Inputs, Options, SamplingArguments, Tensors, attribute_method, run
from captum_spes.attr.batches import Callback, check_counts
from captum_spes.attr.features import FeatureLayout, MaskSampler, format_inputs
from captum_spes.attr.ranks import Ranks

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup
    from typing_extensions import Unpack

# bytes that the graph of a batch may keep for the backwards
GRAPH_MEMORY = 4 * 2**30


class _Arguments(SamplingArguments, total=False):
    """The keyword-only arguments of attribute, for its overloads."""

    perturbation_prob: float | tuple[float, ...]
    pool_features: bool
    pooling_masks: Sequence[Tensor | tuple[Tensor, ...]] | None
    normalize: bool


class GradientSPES(GradientAttribution):
    r"""Attribution by the mean gradient of the impact with respect to the mask, over SPES's random perturbations.

    As in :class:`~captum_spes.SPES`, every feature is hidden with probability ``perturbation_prob``. Here the mask
    M (1 where hidden) is treated as a real-valued variable that takes the values 0 and 1,

    .. math:: x' = x + M \odot (\text{baseline} - x),

    and each scalar gets the mean, over the perturbations i, of the gradient of the impact

    .. math:: G = \frac{1}{N} \sum_i \frac{\partial r}{\partial M}\Big|_{M_i}
                = \frac{1}{N} \sum_i (x - \text{baseline}) \odot \nabla \text{score}(x'_i).

    A feature's attribution is the sum of G over its scalars, averaged over the granularities. A perturbation gives SPES
    one number and GradientSPES one number for every scalar, so that a hundred perturbations do the work of thousands.

    **What it estimates.** To first order it estimates a feature's main effect, the mean rise of the impact when the
    feature is hidden. If the score is linear in each feature's mask, interactions included, the expectation of G summed
    over a feature *equals* this effect. On a linear score SPES's map of a feature with effect d is
    :math:`(1 - p) d + p \sum d`, which differs from d only by the shift and scale that the normalisation of
    explanations removes; its centered map is d as well.

    **When it fails.** The gradient measures small changes of the mask, while hiding a feature is a large change. The
    effect is underestimated if the score saturates, that is, if it is flat at both ends and steep between them. A
    function that is not differentiable, such as a front end that rounds, has no gradient. In these cases use SPES,
    which needs no gradient and remains the reference.

    Args:
        forward_func: as in SPES, and differentiable. It returns a row of scores for each example, ``(B,)`` or
            ``(B, K)``. :class:`~captum_spes.KLDivergence` is suitable, since its gradient is 0 only at the unperturbed
            input.

    Example::

        >>> import torch
        >>> from captum_spes import GradientSPES
        >>> weights = torch.tensor([0.0, 0.0, 5.0, 1.0])
        >>> GradientSPES(lambda x: x @ weights).attribute(torch.ones(1, 4), n_samples=2)
        tensor([[0., 0., 5., 1.]])
    """

    def __init__(self, forward_func: Any) -> None:
        super().__init__(forward_func)

    @overload
    def attribute(
        self,
        inputs: Inputs,
        baselines: BaselineType = None,
        target: TargetType = None,
        additional_forward_args: object = None,
        feature_mask: Tensor | tuple[Tensor, ...] | None = None,
        n_samples: int = 96,
        perturbations_per_eval: int = 1,
        show_progress: bool = False,
        *,
        return_reliability: Literal[False] = False,
        return_pooling: Literal[False] = False,
        **arguments: Unpack[_Arguments],
    ) -> Inputs: ...

    @overload
    def attribute(
        self,
        inputs: Inputs,
        baselines: BaselineType = None,
        target: TargetType = None,
        additional_forward_args: object = None,
        feature_mask: Tensor | tuple[Tensor, ...] | None = None,
        n_samples: int = 96,
        perturbations_per_eval: int = 1,
        show_progress: bool = False,
        *,
        return_reliability: Literal[True],
        return_pooling: Literal[False] = False,
        **arguments: Unpack[_Arguments],
    ) -> tuple[Inputs, Inputs]: ...

    @overload
    def attribute(
        self,
        inputs: Inputs,
        baselines: BaselineType = None,
        target: TargetType = None,
        additional_forward_args: object = None,
        feature_mask: Tensor | tuple[Tensor, ...] | None = None,
        n_samples: int = 96,
        perturbations_per_eval: int = 1,
        show_progress: bool = False,
        *,
        return_reliability: Literal[False] = False,
        return_pooling: Literal[True],
        **arguments: Unpack[_Arguments],
    ) -> tuple[Inputs, int | None]: ...

    @overload
    def attribute(
        self,
        inputs: Inputs,
        baselines: BaselineType = None,
        target: TargetType = None,
        additional_forward_args: object = None,
        feature_mask: Tensor | tuple[Tensor, ...] | None = None,
        n_samples: int = 96,
        perturbations_per_eval: int = 1,
        show_progress: bool = False,
        *,
        return_reliability: Literal[True],
        return_pooling: Literal[True],
        **arguments: Unpack[_Arguments],
    ) -> tuple[Inputs, Inputs, int | None]: ...

    @attribute_method
    def attribute(
        self,
        inputs: Tensor | tuple[Tensor, ...],
        baselines: BaselineType = None,
        target: TargetType = None,
        additional_forward_args: object = None,
        feature_mask: Tensor | tuple[Tensor, ...] | None = None,
        n_samples: int = 96,
        perturbations_per_eval: int = 1,
        show_progress: bool = False,
        *,
        perturbation_prob: float | tuple[float, ...] = 0.5,
        normalize: bool = False,
        pool_features: bool = True,
        pooling_masks: Sequence[Tensor | tuple[Tensor, ...]] | None = None,
        seed: int = 0,
        min_reliability: float | None = None,
        return_reliability: bool = False,
        return_pooling: bool = False,
        callback: Callback | None = None,
        process_group: ProcessGroup | None = None,
        checkpoint: str | os.PathLike[str] | None = None,
    ) -> Tensor | tuple[Any, ...]:
        r"""Computes the attributions of the inputs.

        Args:
            inputs: a floating-point tensor, or a tuple of them that are perturbed jointly; dimension 0 is the batch.
            baselines: the values that replace hidden features: a number, a tensor that broadcasts to its input, or a
                tuple with one of them for each input. Default: 0.
            target: which output is attributed, in any form that Captum's IntegratedGradients takes.
            additional_forward_args: further arguments of ``forward_func``; tensors have the batch as dimension 0.
            feature_mask: groups scalars that are hidden together, as in SPES, also with several granularities.
                Default: every scalar is a feature.
            n_samples: number of perturbations, each of which costs a forward and K backwards.
            perturbations_per_eval: largest number of perturbations in one batch. The graph of a batch is kept for K
                backwards and limited to 4 GiB. It changes the speed, and the result only by rounding.
            show_progress: shows a progress bar that counts perturbations.
            perturbation_prob: the probability with which a feature is hidden: one number, or one for each input.
            normalize: whether the gradient of each sample is divided by its L2 norm over all inputs, for each score
                separately. Then a few perturbations at which the score is steep do not outweigh all others, so that
                fewer samples give an equally reliable map. The values are comparable within a map, but do not have the
                unit of the score.
            pool_features: whether every scalar of a feature gets the sum over the feature, averaged over the
                granularities. False gives each scalar its own value.
            pooling_masks: feature masks to pool over in place of ``feature_mask``, from fine to coarse, each of the
                same form as ``feature_mask`` (a tuple of masks for a tuple of inputs). The samples stay the same, since
                every scalar has its own gradient. Of several masks the finest whose reliability reaches
                ``min_reliability`` is taken, or the coarsest if none does. Default: pool over ``feature_mask``.
            seed: the seed of the perturbations, which depend on it and on the mask alone.
            min_reliability: end the run as soon as the reliability reaches this number, as in SPES; ``n_samples`` is
                then the largest number of samples. The reliability is first computed after 12 samples, or the next
                multiple of the granularities. With ``pooling_masks``, the reliability of the finest mask ends the run.
                Default: evaluate all samples.
            return_reliability: also return the correlation between the attributions of two halves of the samples.
            return_pooling: also return the index of the pooling mask that was taken.
            callback: called after every batch as ``callback(done, total)``; when it returns True the run ends
                there and the attributions are those of the samples done.
            process_group: ranks of ``torch.distributed`` that share the samples, as in SPES. Default: this process
                evaluates all of them.
            checkpoint: path of a file from which a killed run continues, as in SPES. Default: no file.

        Returns:
            **attributions**, or a tuple of **attributions**, **reliability** and **pooling**, as asked for:
            - **attributions**: tensor, or tuple of tensors, of the inputs' shape and dtype for scores of shape
              ``(B,)`` and of shape ``(B * K, *input.shape[1:])`` for scores ``(B, K)``.
            - **reliability**: tensor of shape ``(B * K,)``, or a tuple of them: the correlation between the
              attributions of the two halves of the samples.
            - **pooling**: index of the pooling mask that was taken. It is 0 if there is only one mask, and None if the
              attributions are not pooled.

        Raises:
            ValueError: an argument does not fit the inputs, the scores are not a row for each example or do
                not depend on the inputs in a differentiable way, or gradients are not finite.
            TypeError: the inputs are not floating point, or a feature mask does not hold integers.
            AssertionError: the target does not fit the scores; Captum's own code selects the target.

        Example::

            >>> import torch
            >>> from captum_spes import GradientSPES, grid_feature_mask
            >>> spectrogram = torch.rand(1, 30, 16)
            >>> mask = grid_feature_mask(spectrogram, patch_size=(10, 4))
            >>> method = GradientSPES(lambda x: x[:, 10:20, 4:8].sum((1, 2)).square())
            >>> attribution = method.attribute(spectrogram, feature_mask=mask, n_samples=24)
            >>> bool(attribution[0, 15, 5] == attribution.max())
            True

            The finest patches whose values are reliable:

            >>> candidates = [grid_feature_mask(spectrogram, patch_size=size) for size in ((1, 1), (2, 2), (10, 4))]
            >>> attribution, pooling = method.attribute(
            ...     spectrogram, feature_mask=mask, pooling_masks=candidates, min_reliability=0.6, return_pooling=True
            ... )
            >>> 0 <= pooling <= 2
            True
        """
        formatted, baselines = format_inputs(inputs, baselines)
        for index, inp in enumerate(formatted):
            if not inp.is_floating_point():
                raise TypeError(f"inputs[{index}] must be floating point, not {inp.dtype}: integers have no gradient.")
        layout = FeatureLayout.create(formatted, feature_mask, perturbation_prob)
        check_counts(n_samples, perturbations_per_eval, layout.n_granularities)
        options = Options(perturbations_per_eval, show_progress, min_reliability, callback, process_group, checkpoint)
        pools = _pools(formatted, layout, pool_features, pooling_masks, min_reliability)
        evaluate = Evaluator(self.forward_func, target, additional_forward_args)
        arguments = {
            "inputs": formatted,
            "baselines": baselines,
            "target": target,
            "additional_forward_args": evaluate.args,
            "feature_mask": layout.ids,
            "pooling_masks": [pool.ids for pool in pools],
            "perturbation_prob": perturbation_prob,
            "normalize": normalize,
            "seed": seed,
        }
        estimator = _MeanGradients(
            evaluate, formatted, layout, n_samples, baselines, seed, pools, min_reliability, normalize
        )
        attributions, reliability = run(estimator, self.get_name(), arguments, options)
        found = [_format_output(_is_tuple(inputs), attributions)]
        if return_reliability:
            found.append(_format_output(_is_tuple(inputs), reliability))
        if return_pooling:
            found.append(estimator.pooling)
        return tuple(found) if len(found) > 1 else found[0]

    @property
    def multiplies_by_inputs(self) -> bool:
        """Whether gradients are multiplied by the inputs. They are, by the inputs minus their baselines."""
        return True

    @classmethod
    def get_name(cls) -> str:
        """The name of the method; Captum's default would split the abbreviation into letters."""
        return "GradientSPES"

    def attribute_future(self, *args: Any, **kwargs: Any) -> None:
        """Not implemented: GradientSPES evaluates its perturbations in order."""
        raise NotImplementedError("attribute_future is not implemented for GradientSPES: use attribute.")


class _MeanGradients(Estimator):
    """Estimates the mean of ∂r / ∂M for each scalar of the inputs."""

    first_look = 12

    def __init__(
        self,
        evaluate: Evaluator,
        inputs: Tensors,
        layout: FeatureLayout,
        n_samples: int,
        baselines: tuple[Tensor | int | float, ...],
        seed: int,
        pools: Sequence[FeatureLayout],
        min_reliability: float | None,
        normalize: bool,
    ) -> None:
        super().__init__(evaluate, n_samples, layout.n_granularities)
        self.inputs = inputs
        self.baselines = baselines
        self.layout = layout
        self.sampler = MaskSampler(layout, seed)
        self.seed = seed
        self.pools = pools
        self.min_reliability = min_reliability
        self.normalize = normalize
        self.pooling: int | None = None
        self.batch_size = len(inputs[0])
        # baseline - x, which the mask scales, (B, …)
        self.differences = [
            inp.detach() - baseline for inp, baseline in zip(inputs, _baselines_like(inputs, baselines))
        ]
        # over two halves of the samples: float64 on the CPU
        self.counts = torch.zeros(2, dtype=torch.float64, device="cpu")
        self.sums: list[Tensor] = []  # (2, B, K, …), once K is known
        self.graph: _GraphSize | None = None  # of the first batch

    @property
    def tensors(self) -> list[Tensor]:
        return [self.counts, *self.sums]

    def begin(self, ranks: Ranks) -> None:
        if min(self.n_samples, self.first_look) < ranks.size:  # a rank without samples needs sums as well
            ranks.together(self.first_scores)

    def first_scores(self) -> Tensor:
        scores = super().first_scores()
        _check_scores(scores, self.batch_size)
        self._make_sums(scores)
        return scores

    def _make_sums(self, scores: Tensor) -> None:
        """Makes the sums for scores of shape (n,) or (n, K)."""
        rows = 2, self.batch_size, scores[0].numel()
        shapes = [(*rows, *part.shape[1:]) for part in self.differences]
        self.sums = [torch.zeros(shape, dtype=torch.float64, device="cpu") for shape in shapes]

    def draw(self, start: int, stop: int) -> Perturbed:
        groups = draw_groups(self.sampler, start, stop)
        return Perturbed(perturbed_inputs(self.inputs, self.baselines, self.layout, groups), groups)

    def fitting(self, per_eval: int) -> int:
        """One perturbation at first; then as many as fit into memory by the size of its graph."""
        return 1 if self.graph is None else max(min(per_eval, GRAPH_MEMORY // max(self.graph.n_bytes, 1)), 1)

    def observe(self, perturbed: Perturbed, repeatedly: bool) -> tuple[Tensor, Iterable[Tensors]]:
        """The scores, and the gradients of each of K scores."""
        for inp in perturbed.inputs:
            inp.requires_grad_()
        graph = _GraphSize()
        with torch.enable_grad(), graph if self.graph is None else nullcontext():
            scores = self.evaluate(perturbed.inputs, perturbed.n_samples)
        self.graph = self.graph or graph
        n_rows = perturbed.n_samples * self.batch_size
        _check_scores(scores, n_rows)
        gradients = _gradients(scores, perturbed.inputs)
        return scores, list(gradients) if repeatedly else gradients

    def add(self, observed: tuple[Tensor, Iterable[Tensors]], perturbed: Perturbed, stop: int | None = None) -> None:
        scores, gradients = observed
        groups, n_granularities = perturbed.groups, self.n_granularities
        if not self.sums:
            self._make_sums(scores)
        halves = torch.cat([group.halves for group in groups])
        if stop is not None:
            numbers = [group.number(i, n_granularities) for group in groups for i in range(len(group.hidden))]
            halves[torch.tensor(numbers, device="cpu") >= stop] = -1  # in neither half
        added = [torch.zeros_like(sums) for sums in self.sums]  # nothing is added if memory runs out
        for output, slopes_of_inputs in enumerate(self._slopes(gradients, perturbed)):
            for sums, slopes in zip(added, slopes_of_inputs):
                for half in range(2):
                    sums[half, :, output] = slopes[halves == half].sum(0, dtype=_widest_float(slopes.device)).cpu()
        for total, sums in zip(self.sums, added):
            total += sums
        self.counts += torch.bincount(halves[halves >= 0], minlength=2)

    def _slopes(self, gradients: Iterable[Tensors], perturbed: Perturbed) -> Iterator[list[Tensor]]:
        """For each of K scores, the gradients of the impact by the masks of each input, (n, B, …)."""
        rows = perturbed.n_samples, self.batch_size
        for of_inputs in gradients:
            # impacts fall as scores rise, and x' = x + M (baseline - x)
            slopes = [gradient.unflatten(0, rows) * diff for gradient, diff in zip(of_inputs, self.differences)]
            for values in slopes:
                check_finite(values, perturbed.groups, self.n_granularities, self.seed, "gradient")
            yield _unit_length(slopes) if self.normalize else slopes

    def _halves(self, pool: FeatureLayout | None) -> list[Tensor]:
        """The sums of each input, (2, B * K, elements), pooled over features unless ``pool`` is None."""
        totals = [sums.flatten(1, 2).flatten(2) for sums in self.sums]
        return totals if pool is None else _pool(totals, pool)

    def reliabilities(self) -> Tensors:
        return _reliabilities(self._halves(self.pools[0] if self.pools else None))

    def attributions(self) -> tuple[Tensors, Tensors]:
        """The means of all samples, (B * K, …), and each row's correlation of the halves, (B * K,)."""
        totals, reliabilities = self._pooled()
        attributions = tuple(
            (total.sum(0) / self.counts.sum()).view(-1, *inp.shape[1:]).to(inp)
            for total, inp in zip(totals, self.inputs)
        )
        return attributions, reliabilities

    def _pooled(self) -> tuple[list[Tensor], Tensors]:
        """The sums over the finest features that are reliable enough, or the coarsest ones, and their reliability."""
        if not self.pools:
            totals = self._halves(None)
            return totals, _reliabilities(totals)
        for index, pool in enumerate(self.pools):
            self.pooling, totals = index, self._halves(pool)
            reliabilities = _reliabilities(totals)
            if self.min_reliability is None or torch.cat(reliabilities).mean() >= self.min_reliability:
                break
        return totals, reliabilities


def _pools(
    inputs: Tensors,
    layout: FeatureLayout,
    pool_features: bool,
    pooling_masks: Sequence[Tensor | tuple[Tensor, ...]] | None,
    min_reliability: float | None,
) -> Sequence[FeatureLayout]:
    """The features over which the gradients may be summed, from fine to coarse."""
    if pooling_masks is None:
        return [layout] if pool_features else []
    if isinstance(pooling_masks, Tensor) or not len(pooling_masks):
        raise ValueError(
            "pooling_masks must be a list of feature masks from fine to coarse, such as [fine_mask, coarse_mask], "
            f"not {'a tensor' if isinstance(pooling_masks, Tensor) else 'an empty one'}."
        )
    if not pool_features:
        raise ValueError("pooling_masks and pool_features=False exclude each other: leave one of them out.")
    if len(pooling_masks) > 1 and min_reliability is None:
        raise ValueError(
            f"pooling_masks has {len(pooling_masks)} masks, of which the finest reliable one is taken: give "
            "min_reliability as well, or one mask."
        )
    return [FeatureLayout.create(inputs, mask, 0.5) for mask in pooling_masks]


def _reliabilities(totals: list[Tensor]) -> Tensors:
    """The correlation of the halves of each input, (2, B * K, elements), for each row, (B * K,)."""
    return tuple(torch.stack([correlation(*halves) for halves in total.unbind(1)]).float() for total in totals)


class _GraphSize(saved_tensors_hooks):
    """Counts the bytes that a graph keeps for its backward, without the parameters."""

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


def _check_scores(scores: Tensor, n_rows: int) -> None:
    """Raises a ValueError unless there is a row of scores for each example."""
    if scores.dim() not in (1, 2) or len(scores) != n_rows:
        raise ValueError(
            f"forward_func returned scores of shape {tuple(scores.shape)} for a batch of {n_rows}: GradientSPES "
            "needs a row of scores for each example, (batch,) or (batch, K)."
        )


def _baselines_like(inputs: Tensors, baselines: tuple[Tensor | int | float, ...]) -> Iterator[Tensor | int | float]:
    for inp, baseline in zip(inputs, baselines):
        yield baseline.detach().to(inp) if isinstance(baseline, Tensor) else baseline


def _gradients(scores: Tensor, inputs: Tensors) -> Iterator[Tensors]:
    """The gradients of each of K scores, (n,) or (n, K), one after another, which was faster than in one batch."""
    if not scores.requires_grad:
        raise ValueError(
            "the scores do not depend on the inputs in a differentiable way: compute them with gradients switched on, "
            "outside of torch.inference_mode() and without detaching, or use SPES, which needs no gradient."
        )
    n_outputs = scores[0].numel()
    for output in range(n_outputs):
        chosen = torch.zeros_like(scores)
        chosen.view(len(scores), n_outputs)[:, output] = 1
        yield torch.autograd.grad(
            scores, inputs, chosen, retain_graph=output < n_outputs - 1, allow_unused=True, materialize_grads=True
        )


def _unit_length(slopes: list[Tensor]) -> list[Tensor]:
    """Gradients of each input, (n, B, …), divided by their joint norm for each sample and example; zeros stay zeros."""
    # squares of large or tiny values leave the range of narrower types
    norms = torch.stack(
        [torch.linalg.vector_norm(part.flatten(2), dim=2, dtype=_widest_float(part.device)) for part in slopes]
    ).norm(dim=0)
    scales = torch.where(norms > 0, 1 / norms, 0)
    return [part * scales.view(*scales.shape, *[1] * (part.dim() - 2)) for part in slopes]


def _widest_float(device: torch.device) -> torch.dtype:
    """float64, or float32 on Apple's GPUs, which have no float64."""
    return torch.float32 if device.type == "mps" else torch.float64


def _pool(totals: list[Tensor], layout: FeatureLayout) -> list[Tensor]:
    """Replaces the value of every scalar by the sum over its feature, averaged over the granularities.

    Args:
        totals: for each input, (2, rows, elements).
        layout: the features.
    """
    pooled = [torch.zeros_like(total) for total in totals]
    n_rows = totals[0].shape[1]
    for granularity in range(layout.n_granularities):
        sums = torch.zeros(2, n_rows, layout.n_features, dtype=torch.float64, device="cpu")
        rows = [_for_rows(ids[granularity], n_rows) for ids in layout.ids]
        for ids, total in zip(rows, totals):  # one feature may lie in several inputs
            sums.scatter_add_(2, ids, total)
        for ids, result in zip(rows, pooled):
            result += sums.gather(2, ids) / layout.n_granularities
    return pooled


def _for_rows(ids: Tensor, n_rows: int) -> Tensor:
    """Ids (B', elements) for each row of two halves, (2, rows, elements); an example has as many rows as scores."""
    return ids.cpu().repeat_interleave(n_rows // len(ids), 0).expand(2, -1, -1)
