"""Baselines with which metrics replace hidden bins of a spectrogram; each is a function of the seed."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn.functional import pad

from captum_spes.models.protocol import SpeechToTextModel, Utterance

Baseline = Literal["mean", "noise", "interpolation", "silence"]
BASELINES: tuple[Baseline, ...] = get_args(Baseline)

# noise that ROAD adds to interpolated values, as a share of the deviation of a mel channel: without it, smooth regions
# would show the mask
ROAD_NOISE = 0.01
# the largest residual of an interpolated bin, in deviations of the spectrogram
SOLVER_TOLERANCE = 1e-4
MAX_ITERATIONS = 2_000


def check_baseline(baseline: str) -> None:
    """Raises a ValueError for an unknown baseline."""
    if baseline not in BASELINES:
        raise ValueError(f"baselines must be one of {', '.join(BASELINES)}, not {baseline!r}.")


def make_hider(
    baseline: Baseline, model: SpeechToTextModel, utterance: Utterance, seed: int = 0
) -> Callable[[Tensor], Tensor]:
    """Makes a function that hides bins: it maps masks (B, T, C), True = hidden, to spectrograms (B, T, C).

    - ``"mean"``: the model's baseline, the mean of each mel channel over the utterance.
    - ``"silence"``: the lowest value of each mel channel in the utterance.
    - ``"noise"``: for each bin the value of a random frame of its channel, so that the noise has the utterance's own
      distribution in each channel.
    - ``"interpolation"``: the noisy linear imputation of ROAD (Rong et al., 2022, "A Consistent and Efficient
      Evaluation Strategy for Attribution Methods"): each hidden bin is the weighted mean of its eight neighbours,
      hidden or not. If all bins are hidden it is the mean.
    """
    check_baseline(baseline)
    spectrogram = utterance.spectrogram
    mean = model.baseline(utterance).expand_as(spectrogram)
    generator = torch.Generator().manual_seed(seed)
    if baseline == "interpolation":
        noise = torch.randn(spectrogram.shape, generator=generator).to(spectrogram)
        return partial(
            _interpolate,
            spectrogram=spectrogram,
            mean=mean,
            noise=ROAD_NOISE * spectrogram.std(1, keepdim=True, unbiased=False) * noise,
        )
    if baseline == "noise":
        frames = torch.randint(spectrogram.shape[1], spectrogram.shape, generator=generator)
        values = spectrogram.gather(1, frames.to(spectrogram.device))
    else:
        values = mean if baseline == "mean" else spectrogram.amin(1, keepdim=True)
    return lambda hidden: torch.where(hidden, values, spectrogram)


def _interpolate(hidden: Tensor, spectrogram: Tensor, mean: Tensor, noise: Tensor) -> Tensor:
    """Replaces hidden bins by the weighted means of their neighbours, plus noise: spectrograms (B, T, C).

    For each mask the means of all hidden bins are the solution of a linear system, symmetric and positive definite.
    Conjugate gradients solve the systems of a batch at once. Each mask has its own step sizes, and a mask that has
    converged is not changed any more, so that the batch changes the result only by rounding.
    """
    known = ~hidden
    weights = _neighbours(torch.ones_like(spectrogram))  # of the neighbours that exist

    def matrix(values: Tensor) -> Tensor:
        return torch.where(hidden, weights * values - _neighbours(values), 0)

    start = torch.where(hidden, mean, 0)
    residual = torch.where(hidden, _neighbours(torch.where(known, spectrogram, 0)), 0) - matrix(start)
    # a mask that hides everything has only constant solutions
    residual = residual * known.flatten(1).any(1)[:, None, None]
    tolerance = SOLVER_TOLERANCE * spectrogram.std(unbiased=False)
    values, direction, square = start, residual, _squares(residual)
    for _ in range(MAX_ITERATIONS):
        open_rows = residual.flatten(1).abs().amax(1)[:, None, None] > tolerance
        if not open_rows.any():
            break
        product = matrix(direction)
        step = torch.where(open_rows, square / _dot(direction, product).clamp(min=_TINY), 0)
        values = values + step * direction
        residual = residual - step * product
        before, square = square, torch.where(open_rows, _squares(residual), square)
        direction = torch.where(open_rows, residual + square / before.clamp(min=_TINY) * direction, direction)
    return torch.where(hidden, values + noise, spectrogram)


_TINY = torch.finfo(torch.float32).tiny


def _neighbours(values: Tensor) -> Tensor:
    """The weighted sum of each bin's neighbours, (B, T, C): 1/6 for direct neighbours, 1/12 for diagonal ones."""
    rows = pad(values, (1, 1))
    rows = rows[..., :-2] + 2 * rows[..., 1:-1] + rows[..., 2:]
    both = pad(rows, (0, 0, 1, 1))
    return (both[..., :-2, :] + 2 * both[..., 1:-1, :] + both[..., 2:, :] - 4 * values) / 12


def _dot(first: Tensor, second: Tensor) -> Tensor:
    return (first * second).sum((1, 2), keepdim=True)


def _squares(values: Tensor) -> Tensor:
    return _dot(values, values)
