"""Prepares feature masks for sampling: the feature to which each scalar of the inputs belongs."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from numbers import Integral, Real

import numpy as np
import torch
from captum._utils.common import _format_feature_mask, _is_mask_valid
from captum._utils.typing import BaselineType
from captum.attr._utils.common import _format_input_baseline
from torch import Tensor

# Masks are drawn in blocks of this many samples, each from its own generator. Changing the number changes the
# perturbations of every seed, and so every result.
BLOCK = 32


@dataclass(frozen=True)
class FeatureLayout:
    """The features of the inputs at every granularity.

    Ids are renumbered 0, 1, … for each granularity and example across all inputs, so that the masks of an
    example depend neither on the other examples nor on the original ids of its features. S is the number of
    granularities, B' is 1 or the batch size, P the largest number of features.

    Attributes:
        ids: for each input, an int64 tensor of shape (S, B', elements of one example).
        probs: the probability that a feature is hidden, float32 tensor of shape (S, B', P) on the CPU.
    """

    ids: tuple[Tensor, ...]
    probs: Tensor

    @property
    def n_granularities(self) -> int:
        return self.probs.shape[0]

    @property
    def n_features(self) -> int:
        return self.probs.shape[-1]

    @property
    def per_example(self) -> bool:
        """Whether each example of the batch has its own mask."""
        return self.probs.shape[1] > 1

    @classmethod
    def create(
        cls,
        inputs: tuple[Tensor, ...],
        feature_mask: Tensor | tuple[Tensor, ...] | None,
        perturbation_prob: float | tuple[float, ...],
    ) -> FeatureLayout:
        """Checks the arguments of a perturbation method and makes the layout.

        Raises:
            ValueError: wrong number of masks or probabilities, a mask that does not fit its input, a probability
                outside (0, 1), one feature with two probabilities.
            TypeError: a mask that is no integer tensor.
        """
        probs = _format_probs(perturbation_prob, len(inputs))
        masks = [
            _with_granularities(mask, inp, index, len(inputs))
            for index, (mask, inp) in enumerate(zip(_format_masks(feature_mask, inputs), inputs))
        ]
        sizes = {mask.shape[0] for mask in masks} - {1}
        if len(sizes) > 1:
            raise ValueError(
                f"the feature masks have {' and '.join(map(str, sorted(sizes)))} granularities: "
                "give every mask the same number of granularities, or one."
            )
        n_granularities = max(mask.shape[0] for mask in masks)
        n_rows = max(mask.shape[1] for mask in masks)
        # (S, B', elements of all inputs)
        joined = torch.cat([mask.expand(n_granularities, n_rows, -1) for mask in masks], dim=-1)
        owner = np.repeat(np.arange(len(inputs)), [mask.shape[-1] for mask in masks])
        ids, prob_rows = [], []
        for row in joined.flatten(0, 1).numpy():
            values, rank = np.unique(row, return_inverse=True)
            ids.append(torch.from_numpy(rank.reshape(-1)))
            prob_rows.append(_feature_probs(rank.reshape(-1), values, owner, probs))
        n_features = max(len(row) for row in prob_rows)
        padded = np.full((len(prob_rows), n_features), 0.5, np.float32)
        for target, source in zip(padded, prob_rows):
            target[: len(source)] = source
        stacked = torch.stack(ids).unflatten(0, (n_granularities, n_rows))
        split = stacked.split([mask.shape[-1] for mask in masks], dim=-1)
        return cls(
            tuple(part.to(inp.device) for part, inp in zip(split, inputs)),
            torch.from_numpy(padded).view(n_granularities, n_rows, n_features),
        )

    def hide(self, inp: Tensor, baseline: Tensor | int | float, index: int, granularity: int, hidden: Tensor) -> Tensor:
        """Input number ``index`` with the hidden features at the baseline.

        Args:
            inp: of shape (B, …).
            baseline: a number, or a tensor that broadcasts to the input.
            hidden: bool, of shape (n, B', P).

        Returns:
            Tensor: of shape (n, B, …).
        """
        ids = self.ids[index][granularity].expand(hidden.shape[0], -1, -1)
        mask = _copied_to(hidden, inp.device).gather(2, ids)  # (n, B', elements), which exists only on the device
        mask = mask.view(*mask.shape[:2], *inp.shape[1:])
        if isinstance(baseline, Tensor):
            baseline = baseline.to(inp.device, inp.dtype if inp.is_floating_point() else None)
        return torch.where(mask, baseline, inp)


def _copied_to(hidden: Tensor, device: torch.device) -> Tensor:
    """Copies a tensor to a device; the CPU does not wait for a copy to a CUDA device."""
    if device.type == "cuda":
        return hidden.pin_memory().to(device, non_blocking=True)
    return hidden.to(device)


def check_seed(seed: int) -> int:
    """The seed as an int. Raises a ValueError for a negative number, and for other values."""
    if not isinstance(seed, (int, Integral)) or seed < 0:
        raise ValueError(f"seed must be an integer of at least 0, not {seed}.")
    return int(seed)


class MaskSampler:
    """Draws the features that each sample hides, as a function of the seed and the sample's number alone."""

    def __init__(self, layout: FeatureLayout, seed: int) -> None:
        self.layout = layout
        self.seed = check_seed(seed)
        self._last: dict[int, tuple[int, np.ndarray]] = {}  # granularity -> its latest block

    def draw(self, granularity: int, first: int, last: int) -> Tensor:
        """The features that samples first … last - 1 of a granularity hide: bool (last - first, B', P), on the CPU."""
        rows = [
            self._block(granularity, block)[max(first - block * BLOCK, 0) : last - block * BLOCK]
            for block in range(first // BLOCK, (last - 1) // BLOCK + 1)
        ]
        return torch.from_numpy(np.concatenate(rows))[:, None] < self.layout.probs[granularity]

    def _block(self, granularity: int, block: int) -> np.ndarray:
        number, uniform = self._last.get(granularity, (-1, None))
        if number != block or uniform is None:
            generator = np.random.default_rng([self.seed, granularity, block])
            # feature-major, so that a feature's numbers do not depend on how many features follow it
            uniform = generator.random((self.layout.n_features, BLOCK), dtype=np.float32).T.copy()
            self._last[granularity] = block, uniform
        return uniform


def enumerate_hidden(layout: FeatureLayout, start: int, stop: int) -> tuple[Tensor, Tensor]:
    """Masks start … stop - 1 of the 2^P possible ones of a single granularity, and how probable each is.

    They come in a fixed shuffled order, so that the first ones of them are balanced.

    Returns:
        (Tensor, Tensor): bool of shape (stop − start, B', P) and float64 of shape (stop − start, B').
    """
    probs = layout.probs[0].double()  # (B', P)
    order = torch.from_numpy(_shuffled(2**layout.n_features)[start:stop])
    bits = order[:, None] >> torch.arange(layout.n_features, device="cpu") & 1
    hidden = bits.bool()[:, None].expand(-1, probs.shape[0], -1)
    return hidden, torch.where(hidden, probs, 1 - probs).prod(-1)


@lru_cache(maxsize=1)  # for all batches of a run
def _shuffled(n: int) -> np.ndarray:
    return np.random.default_rng(0).permutation(n)


def format_inputs(
    inputs: Tensor | tuple[Tensor, ...], baselines: BaselineType
) -> tuple[tuple[Tensor, ...], tuple[Tensor | int | float, ...]]:
    """The inputs and their baselines as tuples.

    Raises:
        ValueError: an input is not a tensor or holds no examples, or baselines do not fit the inputs.
    """
    try:
        formatted, baselines = _format_input_baseline(inputs, baselines)
    except AssertionError as error:
        raise ValueError(str(error)) from error
    if len(baselines) != len(formatted):
        raise ValueError(f"baselines has {len(baselines)} values for {len(formatted)} inputs: give one for each.")
    for index, (inp, baseline) in enumerate(zip(formatted, baselines)):
        shape = tuple(inp.shape)
        if not shape or not shape[0]:
            raise ValueError(
                f"inputs[{index}] of shape {shape} holds no examples: dimension 0 is the batch and must be at least 1."
            )
        if isinstance(baseline, Tensor) and not _is_mask_valid(baseline, inp):
            raise ValueError(
                f"baselines[{index}] of shape {tuple(baseline.shape)} does not broadcast to the input of shape {shape}."
            )
    return formatted, baselines


def _format_probs(perturbation_prob: float | tuple[float, ...], n_inputs: int) -> tuple[float, ...]:
    probs = perturbation_prob if isinstance(perturbation_prob, (tuple, list)) else (perturbation_prob,) * n_inputs
    if len(probs) != n_inputs:
        raise ValueError(
            f"perturbation_prob has {len(probs)} values for {n_inputs} inputs: give one, or one for each input."
        )
    for prob in probs:
        if not isinstance(prob, Real) or not 0 < np.float32(prob) < 1:  # as it is stored
            raise ValueError(f"perturbation_prob must lie strictly between 0 and 1, not {prob}.")
    return tuple(float(prob) for prob in probs)


def _format_masks(feature_mask: Tensor | tuple[Tensor, ...] | None, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    if feature_mask is not None:
        given = feature_mask if isinstance(feature_mask, (tuple, list)) else (feature_mask,)
        for index, mask in enumerate(given):
            if not isinstance(mask, Tensor):
                raise TypeError(
                    f"feature_mask[{index}] must be an integer tensor, not {type(mask).__name__}: "
                    "give a mask for every input, or feature_mask=None."
                )
        if len(given) != len(inputs):
            raise ValueError(f"feature_mask has {len(given)} masks for {len(inputs)} inputs: give one for each.")
        feature_mask = tuple(given)
    return _format_feature_mask(feature_mask, inputs)


def _with_granularities(mask: Tensor, inp: Tensor, index: int, n_inputs: int) -> Tensor:
    """A mask as int64 tensor (S, B', elements of one example) on the CPU."""
    name = "feature_mask" if n_inputs == 1 else f"feature_mask[{index}]"
    if mask.is_floating_point() or mask.is_complex():
        raise TypeError(f"{name} must hold integer feature ids, not {mask.dtype}: convert it with mask.long().")
    stacked = mask if mask.dim() == inp.dim() + 1 else mask[None]
    fits = stacked.dim() <= inp.dim() + 1 and len(stacked) and _is_mask_valid(stacked[0], inp)
    if not fits:
        given, one = tuple(inp.shape), (1, *inp.shape[1:])
        raise ValueError(
            f"{name} of shape {tuple(mask.shape)} does not fit the input of shape {given}: expected a mask that "
            f"broadcasts to {given} such as {one}, or several granularities "
            f"stacked in front, (S, {', '.join(map(str, one))})."
        )
    while stacked.dim() < inp.dim() + 1:  # Captum lets a mask leave out leading dimensions
        stacked = stacked.unsqueeze(1)
    shape = inp.shape[1:]
    return stacked.cpu().long().expand(-1, -1, *shape).reshape(*stacked.shape[:2], math.prod(shape))


def _feature_probs(rank: np.ndarray, values: np.ndarray, owner: np.ndarray, probs: tuple[float, ...]) -> np.ndarray:
    """The probability of every feature, from the inputs that contain it."""
    prob = np.zeros(len(values), np.float32)
    for index, value in enumerate(probs):
        features = np.unique(rank[owner == index])
        clash = features[(prob[features] != 0) & (prob[features] != np.float32(value))]
        if len(clash):
            raise ValueError(
                f"feature id {values[clash[0]]} is in more than one input's feature_mask, which makes it one feature, "
                "but those inputs have different values of perturbation_prob: give every input its own ids."
            )
        prob[features] = value
    return prob


def sample_groups(start: int, stop: int, n_granularities: int) -> Iterator[tuple[int, int, int]]:
    """Samples start … stop - 1, interleaved over the granularities, as runs of each: (granularity, first, last + 1)."""
    for granularity in range(n_granularities):
        first = -((granularity - start) // n_granularities)
        last = -((granularity - stop) // n_granularities)
        if first < last:
            yield granularity, first, last
