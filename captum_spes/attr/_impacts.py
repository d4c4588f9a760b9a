"""Sums the impacts of perturbations for each feature."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator

import torch
from torch import Tensor

from captum_spes.attr._perturbations import Evaluator, Group, Perturbed, check_finite
from captum_spes.attr._template import Estimator, Tensors
from captum_spes.attr.features import FeatureLayout
from captum_spes.attr.ranks import Ranks


class ImpactEstimator(Estimator):
    """Estimates the mean impact of the perturbations that hide a feature; subclasses draw the perturbations.

    Args:
        evaluate: the forward function with its arguments.
        inputs: the inputs.
        layout: the features of the inputs.
        n_samples: number of perturbations.
        per_eval: perturbations in a batch.
        centered: whether the mean impact of the perturbations that do not hide the feature is subtracted.
        seed: the seed, which messages name.
    """

    sums: ImpactSums

    def __init__(
        self,
        evaluate: Evaluator,
        inputs: Tensors,
        layout: FeatureLayout,
        n_samples: int,
        per_eval: int,
        centered: bool,
        seed: int,
    ) -> None:
        super().__init__(evaluate, n_samples, layout.n_granularities)
        self.inputs = inputs
        self.layout = layout
        self.per_eval = per_eval
        self.centered = centered
        self.seed = seed

    @property
    def tensors(self) -> list[Tensor]:
        return self.sums.tensors

    def begin(self, ranks: Ranks) -> None:
        with torch.no_grad():
            original = ranks.together(lambda: self.evaluate(self.inputs)).detach()
        self.sums = ImpactSums(self.layout, original, len(self.inputs[0]), self.per_eval, self.centered)

    @abstractmethod
    def draw(self, start: int, stop: int) -> Perturbed: ...

    def observe(self, perturbed: Perturbed, repeatedly: bool) -> Tensor:
        with torch.no_grad():
            # a model may switch gradients on by itself, whose graph would be kept with the sums
            return self.evaluate(perturbed.inputs, perturbed.n_samples).detach()

    def add(self, observed: Tensor, perturbed: Perturbed, stop: int | None = None) -> None:
        self.sums.add(observed, perturbed.groups, self.seed, stop)

    def reliabilities(self) -> Tensors:
        return self.sums.reliabilities()

    def attributions(self) -> tuple[Tensors, Tensors]:
        return self.sums.attributions(self.inputs, self.exact)


class ImpactSums:
    """Numerators and denominators of Eq. 3 for each feature, over two halves of the samples.

    Sums are kept for each feature and not for each scalar of the input, so that memory does not grow with the samples
    and hardly with the input; they are float64 on the CPU. Rows are examples × outputs.

    Args:
        layout: the features.
        original: scores of the unperturbed inputs.
        batch_size: number of examples.
        per_eval: perturbations in a batch.
        centered: whether the mean impact of the perturbations that did not hide a feature is subtracted.
    """

    def __init__(
        self, layout: FeatureLayout, original: Tensor, batch_size: int, per_eval: int, centered: bool = False
    ) -> None:
        self.layout = layout
        self.centered = centered
        self.dtype = original.dtype if original.is_floating_point() else torch.get_default_dtype()
        self.shape = tuple(original.shape)
        self.batch_size = batch_size
        self.per_example = original.dim() > 0 and original.shape[0] == batch_size
        if per_eval > 1 and not self.shape:
            raise ValueError(_not_growing(self.shape, batch_size, per_eval))
        if layout.per_example and not self.per_example:
            raise ValueError(
                f"forward_func returned scores of shape {self.shape} for a batch of {batch_size}, which is not a row "
                "of scores for each example: return one row for each example, or give a feature_mask whose batch "
                "dimension is 1."
            )
        if not original.isfinite().all():
            raise ValueError("the scores of the unperturbed inputs are not finite: check the model and its inputs.")
        self.original = original.reshape(batch_size if self.per_example else 1, -1).cpu().double()  # (rows, K)
        n_granularities, n_masks, n_features = layout.probs.shape
        sizes = 2, n_granularities
        # for the perturbations that hid a feature: the sum of their impacts, and their number
        self.impacts = torch.zeros(*sizes, *self.original.shape, n_features, dtype=torch.float64, device="cpu")
        self.counts = torch.zeros(*sizes, n_masks, n_features, dtype=torch.float64, device="cpu")
        # the same for all perturbations
        self.all_impacts = torch.zeros(*sizes, *self.original.shape, 1, dtype=torch.float64, device="cpu")
        self.all_counts = torch.zeros(*sizes, n_masks, 1, dtype=torch.float64, device="cpu")

    @property
    def tensors(self) -> list[Tensor]:
        """The sums, which can be written to a checkpoint and added over ranks."""
        return [self.impacts, self.counts, self.all_impacts, self.all_counts]

    def add(self, scores: Tensor, groups: list[Group], seed: int, stop: int | None = None) -> None:
        """Adds the scores of a batch of perturbations, or of those before number ``stop``."""
        n_samples = sum(len(group.hidden) for group in groups)
        expected = self.shape if n_samples == 1 else (n_samples * self.shape[0], *self.shape[1:])
        if tuple(scores.shape) != expected:
            raise ValueError(_not_growing(tuple(scores.shape), n_samples * self.batch_size, n_samples))
        impacts = self.original - scores.reshape(n_samples, *self.original.shape).cpu().double()  # (n, rows, K)
        check_finite(impacts, groups, self.layout.n_granularities, seed, "score")
        for group, impact in zip(groups, impacts.split([len(group.hidden) for group in groups])):
            if stop is not None:
                group = group.until(stop, self.layout.n_granularities)
                impact = impact[: len(group.hidden)]
            for half in range(2):
                chosen = group.halves == half
                if chosen.any():
                    self._add(half, group, chosen, impact[chosen].permute(1, 2, 0))

    def _add(self, half: int, group: Group, chosen: Tensor, impact: Tensor) -> None:
        """Adds the impacts (rows, K, n) of the perturbations of a group that are chosen, (n,)."""
        weight = group.hidden[chosen].double()  # (n, B', P)
        every = torch.ones(*weight.shape[:2], 1, dtype=torch.float64, device="cpu")
        if group.weights is not None:
            every = every * group.weights[chosen][..., None]
            weight = weight * every
        for weights, impacts, counts in (
            (weight, self.impacts, self.counts),
            (every, self.all_impacts, self.all_counts),
        ):
            weights = weights.transpose(0, 1)  # (B', n, P)
            # (rows, K, n) @ (B', n, P), in place: P may be all bins of a spectrogram
            impacts[half, group.granularity].baddbmm_(impact, weights.expand(len(impact), -1, -1))
            counts[half, group.granularity] += weights.sum(1)

    def attributions(self, inputs: Tensors, exact: bool) -> tuple[Tensors, Tensors]:
        """The attribution of each scalar of the inputs, pooled over the granularities, and the rows' reliability."""
        attributions = []
        for index, inp in enumerate(inputs):
            shape = self.original.numel(), self.layout.ids[index].shape[-1]
            attribution = torch.empty(shape, dtype=self.dtype, device="cpu")
            for row, sums in enumerate(self._rows(index)):
                attribution[row] = self._means(*(part.sum(0) for part in sums))
            attributions.append(attribution.view(len(attribution), *inp.shape[1:]).to(inp.device))
        reliabilities = self.reliabilities()
        if exact:
            reliabilities = tuple(torch.ones_like(reliability) for reliability in reliabilities)
        return tuple(attributions), reliabilities

    def reliabilities(self) -> Tensors:
        """For each input, the correlation between the attributions of the two halves, for each row."""
        return tuple(
            torch.stack([correlation(*self._means(*sums)) for sums in self._rows(index)]).float()
            for index in range(len(self.layout.ids))
        )

    def _rows(self, index: int) -> Iterator[Tensors]:
        """The sums for each scalar of an input, row by row of the result, pooled over the granularities.

        Yields:
            Impacts and counts of the perturbations that hid a scalar, (2, elements), and of all, (2, 1).
        """
        ids = self.layout.ids[index].cpu()
        n_rows, n_outputs = self.original.shape
        for row in range(n_rows):
            example = row if self.layout.per_example else 0
            mask = ids[:, example]  # (S, elements)
            counts = _pool(self.counts[:, :, example], mask)
            all_counts = self.all_counts[:, :, example].sum(1)
            for output in range(n_outputs):
                impacts = _pool(self.impacts[:, :, row, output], mask)
                yield impacts, counts, self.all_impacts[:, :, row, output].sum(1), all_counts

    def _means(self, impacts: Tensor, counts: Tensor, all_impacts: Tensor, all_counts: Tensor) -> Tensor:
        """Eq. 3, or its difference from the mean impact of the perturbations that did not hide a scalar."""
        hidden = _ratio(impacts, counts)
        if not self.centered:
            return hidden
        kept_counts = all_counts - counts
        # the difference is undefined for a scalar that was always or never hidden; rounding may leave counts above 0
        compared = (counts > 0) & (kept_counts > 1e-9 * all_counts)
        return torch.where(compared, hidden - (all_impacts - impacts) / kept_counts, 0)


def _pool(sums: Tensor, ids: Tensor) -> Tensor:
    """Sums for each feature, (2, S, P), as sums for each element over the granularities, (2, elements)."""
    return sums.gather(2, ids.expand(2, -1, -1)).sum(1)


def _ratio(impacts: Tensor, counts: Tensor) -> Tensor:
    return torch.where(counts > 0, impacts / counts, 0)


def correlation(first: Tensor, second: Tensor) -> Tensor:
    """Pearson's correlation, 0 where one of the two is constant."""
    first, second = first - first.mean(), second - second.mean()
    scale = first.norm() * second.norm()
    return (first @ second / scale).clamp(-1, 1) if scale > 0 else first.new_zeros(())


def _not_growing(shape: tuple[int, ...], batch_size: int, per_eval: int) -> str:
    return (
        f"forward_func returned scores of shape {shape} for a batch of {batch_size}: with {per_eval} perturbations in "
        "one evaluation it must return a row of scores for each example, (batch,) or (batch, K). "
        "Otherwise set perturbations_per_eval=1."
    )
