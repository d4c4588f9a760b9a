"""The impacts of perturbations, summed up for each feature."""

from __future__ import annotations

import torch
from torch import Tensor

from captum_spes.attr._batches import Group, check_finite
from captum_spes.attr._features import FeatureLayout


class ImpactSums:
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
        if per_eval > 1 and not self.shape:
            raise ValueError(_not_growing(self.shape, batch_size, per_eval))
        if layout.per_example and not self.per_example:
            raise ValueError(
                f"forward_func returned scores of shape {self.shape} for a batch of {batch_size}: without a row of "
                "scores for each example all must share their features, so give a feature_mask whose batch "
                "dimension is 1."
            )
        if not original.isfinite().all():
            raise ValueError("the scores of the unperturbed inputs are not finite: check the model and its inputs.")
        self.original = original.reshape(batch_size if self.per_example else 1, -1).cpu().double()  # (rows, K)
        n_granularities, n_masks, n_features = layout.probs.shape
        self.impacts = torch.zeros(2, n_granularities, *self.original.shape, n_features, dtype=torch.float64)
        self.counts = torch.zeros(2, n_granularities, n_masks, n_features, dtype=torch.float64)

    @property
    def tensors(self) -> list[Tensor]:
        """What is added up."""
        return [self.impacts, self.counts]

    def add(self, scores: Tensor, groups: list[Group], seed: int) -> None:
        """Adds the scores of a batch of perturbations."""
        n_samples = sum(len(group.hidden) for group in groups)
        expected = self.shape if n_samples == 1 else (n_samples * self.shape[0], *self.shape[1:])
        if tuple(scores.shape) != expected:
            raise ValueError(_not_growing(tuple(scores.shape), n_samples * self.batch_size, n_samples))
        impacts = self.original - scores.reshape(n_samples, *self.original.shape).cpu().double()  # (n, rows, K)
        check_finite(impacts, groups, self.layout.n_granularities, seed, "score")
        for group, impact in zip(groups, impacts.split([len(group.hidden) for group in groups])):
            weights = group.hidden.double()
            if group.weights is not None:
                weights = weights * group.weights[..., None]
            for half in range(2):
                chosen = group.halves == half
                if chosen.any():
                    weight = weights[chosen].transpose(0, 1)  # (B', n, P)
                    # (rows, K, n) @ (B', n, P), in place: P may be all bins of a spectrogram
                    rows = impact[chosen].permute(1, 2, 0)
                    self.impacts[half, group.granularity].baddbmm_(rows, weight.expand(len(rows), -1, -1))
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
                        reliability[index] = correlation(*_ratio(impacts, counts))
            attributions.append(attribution.view(len(attribution), *inp.shape[1:]).to(inp.device))
            reliabilities.append(reliability)
        return tuple(attributions), tuple(reliabilities)


def _pool(sums: Tensor, ids: Tensor) -> Tensor:
    """Sums a feature, (2, S, P), as sums an element over the granularities, (2, elements)."""
    return sums.gather(2, ids.expand(2, -1, -1)).sum(1)


def _ratio(impacts: Tensor, counts: Tensor) -> Tensor:
    return torch.where(counts > 0, impacts / counts, 0)


def correlation(first: Tensor, second: Tensor) -> Tensor:
    """Pearson's correlation, 0 where one of the two is constant."""
    first, second = first - first.mean(), second - second.mean()
    scale = first.norm() * second.norm()
    return (first @ second / scale).clamp(-1, 1) if scale > 0 else torch.zeros(())


def _not_growing(shape: tuple[int, ...], batch_size: int, per_eval: int) -> str:
    return (
        f"forward_func returned scores of shape {shape} for a batch of {batch_size}: with {per_eval} perturbations in "
        "one evaluation it must return a row of scores for each example, (batch,) or (batch, K); "
        "otherwise set perturbations_per_eval=1."
    )
