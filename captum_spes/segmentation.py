"""Feature masks that divide a spectrogram into patches of neighbouring time–frequency bins."""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any

import numpy as np
import torch
from torch import Tensor

# the paper's τ in seconds (Appendix A.2): longer audio gets no more patches
MAX_SECONDS = {"transcribe": 7.5, "translate": 5.0}


def slic_feature_mask(
    spectrogram: Tensor,
    patches_per_second: float | Sequence[float] = (400, 500, 600),
    max_seconds: float = MAX_SECONDS["transcribe"],
    frames_per_second: float = 100,
    sigma: float = 0,
    compactness: float = 0.1,
    *,
    n_patches: int | Sequence[int] | None = None,
) -> Tensor:
    """Divides spectrograms into patches that follow their energy, at several granularities.

    SLIC (Achanta et al., 2012) clusters bins that are near in time and frequency and alike in energy, so that
    patches respect formants and other acoustic patterns (paper, §4.1.1). The number of patches asked for is

        k = min(seconds, max_seconds) · patches_per_second        (Eq. 2),

    never more than there are bins; SLIC makes about as many.

    Args:
        spectrogram: tensor of shape (B, T, C), frames × mel channels; each example is segmented by itself.
        patches_per_second: the paper's φ, one number for each granularity.
        max_seconds: the paper's τ, the duration from which on k grows no further: 7.5 s for transcription, 5 s for
            translation.
        frames_per_second: how many frames make a second.
        sigma: width of the Gaussian that smooths the spectrogram first, in bins. 10 gives the regular grid of the
            paper's ablation "- clustering" (footnote 10).
        compactness: weight of nearness against energy, for a spectrogram scaled to [0, 1]. The authors' code uses
            0.1; with scikit-image's default of 10 the patches are a plain grid.
        n_patches: fixed numbers of patches in place of Eq. 2, whatever the duration (the paper's ablation
            "- duration adaptation": 2000, 2500, 3000).

    Returns:
        Tensor: int64 ids 0, 1, … of shape (S, B, T, C) on the spectrogram's device, S the number of granularities.
        ``mask[s]`` is a feature mask for any Captum method; :class:`~captum_spes.SPES` takes them all.

    Raises:
        ValueError: a spectrogram that is not (B, T, C), is empty or not finite, or an argument that is not positive.

    Example::

        >>> import torch
        >>> from captum_spes import slic_feature_mask
        >>> mask = slic_feature_mask(torch.rand(1, 200, 80), patches_per_second=(20, 40))
        >>> mask.shape
        torch.Size([2, 1, 200, 80])
    """
    from skimage.segmentation import slic

    _check_spectrogram(spectrogram)
    given = patches_per_second if n_patches is None else n_patches
    counts: list[Any] = list(given) if isinstance(given, (tuple, list)) else [given]
    name = "patches_per_second" if n_patches is None else "n_patches"
    if not counts or not all(_is_positive(count) for count in counts):
        raise ValueError(f"{name} must be positive numbers, one for each granularity, not {counts}.")
    if not all(map(_is_positive, (max_seconds, frames_per_second, compactness, sigma or 1))):
        raise ValueError("max_seconds, frames_per_second and compactness must be positive, and sigma not negative.")
    n_frames, n_channels = spectrogram.shape[1:]
    if n_patches is None:
        counts = [min(n_frames / frames_per_second, max_seconds) * count for count in counts]
    counts = [min(max(round(count), 1), n_frames * n_channels) for count in counts]

    mask = torch.zeros(len(counts), *spectrogram.shape, dtype=torch.int64)
    for example, image in enumerate(spectrogram.detach().cpu().double().numpy()):
        span = np.ptp(image)
        image = (image - image.min()) / span if span > 0 else np.zeros_like(image)
        for granularity, count in enumerate(counts):
            segments = slic(
                image, n_segments=count, compactness=compactness, sigma=sigma, channel_axis=None, start_label=0
            )
            # SLIC may leave ids out
            ids = np.unique(segments, return_inverse=True)[1].reshape(segments.shape)
            mask[granularity, example] = torch.from_numpy(ids)
    return mask.to(spectrogram.device)


def grid_feature_mask(spectrogram: Tensor, patch_size: tuple[int, int]) -> Tensor:
    """Divides a spectrogram into equal rectangles.

    Args:
        spectrogram: tensor of shape (B, T, C), frames × mel channels.
        patch_size: frames and mel channels of a patch; those at the end and at the top may be smaller.

    Returns:
        Tensor: int64 ids 0, 1, … of shape (1, T, C) on the spectrogram's device, the same patches for every
        example. For 4 frames × 4 channels and a patch size of (2, 2)::

            +---+---+---+---+
            | 0 | 0 | 1 | 1 |
            +---+---+---+---+
            | 0 | 0 | 1 | 1 |
            +---+---+---+---+
            | 2 | 2 | 3 | 3 |
            +---+---+---+---+
            | 2 | 2 | 3 | 3 |
            +---+---+---+---+

    Raises:
        ValueError: a spectrogram that is not (B, T, C), is empty or not finite, or a size that is not positive.

    Example::

        >>> import torch
        >>> from captum_spes import grid_feature_mask
        >>> grid_feature_mask(torch.rand(1, 3, 4), patch_size=(2, 2))
        tensor([[[0, 0, 1, 1],
                 [0, 0, 1, 1],
                 [2, 2, 3, 3]]])
    """
    _check_spectrogram(spectrogram)
    sizes = patch_size if isinstance(patch_size, (tuple, list)) else ()
    if len(sizes) != 2 or not all(isinstance(size, Integral) and size > 0 for size in sizes):
        raise ValueError(f"patch_size must be two positive integers, frames and mel channels, not {patch_size}.")
    n_frames, n_channels = spectrogram.shape[1:]
    rows = torch.arange(n_frames, device=spectrogram.device) // patch_size[0]
    columns = torch.arange(n_channels, device=spectrogram.device) // patch_size[1]
    return (rows[:, None] * (columns[-1] + 1) + columns)[None]


def _is_positive(number: object) -> bool:
    return isinstance(number, Real) and 0 < float(number) < math.inf


def _check_spectrogram(spectrogram: Tensor) -> None:
    if not isinstance(spectrogram, Tensor):
        raise TypeError(f"the spectrogram must be a tensor, not {type(spectrogram).__name__}.")
    if spectrogram.dim() != 3 or not spectrogram.numel():
        raise ValueError(
            f"the spectrogram must be of shape (batch, frames, mel channels), not {tuple(spectrogram.shape)}."
        )
    if not spectrogram.isfinite().all():
        raise ValueError("the spectrogram holds NaN or infinite values: check the audio that it was made from.")
