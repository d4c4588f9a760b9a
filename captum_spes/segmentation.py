"""Feature masks that divide spectrograms and images into patches of neighbouring scalars."""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any

import numpy as np
import torch
from torch import Tensor

# the paper's τ in seconds (Appendix A.2): longer audio does not get more patches
MAX_SECONDS = {"transcribe": 7.5, "translate": 5.0}


def slic_feature_mask(
    spectrogram: Tensor,
    patches_per_second: float | Sequence[float] = (400, 500, 600),
    max_seconds: float = MAX_SECONDS["transcribe"],
    frames_per_second: float = 100.0,
    sigma: float = 0,
    compactness: float = 0.1,
    *,
    n_patches: int | Sequence[int] | None = None,
) -> Tensor:
    """Divides spectrograms into patches that follow their energy, at several granularities.

    SLIC (Achanta et al., 2012) clusters bins that are near in time and frequency and similar in energy, so that
    patches follow formants and other acoustic patterns (paper, §4.1.1). The number of patches is

        k = min(seconds, max_seconds) · patches_per_second        (Eq. 2),

    but at most the number of bins; SLIC makes approximately this number.

    Args:
        spectrogram: tensor of shape (B, T, C), frames × mel channels; each example is segmented separately.
        patches_per_second: the paper's φ, one number for each granularity.
        max_seconds: the paper's τ, the duration from which k does not grow any more: 7.5 s for transcription, 5 s for
            translation.
        frames_per_second: number of frames in a second.
        sigma: width of the Gaussian that smooths the spectrogram first, in bins. 10 gives the regular grid of the
            paper's ablation "- clustering" (footnote 10).
        compactness: weight of distance against similarity of energy, for a spectrogram scaled to [0, 1]. The authors'
            code uses 0.1; with scikit-image's default of 10 the patches are a plain grid.
        n_patches: numbers of patches that do not depend on the duration, in place of Eq. 2 (the paper's ablation
            "- duration adaptation": 2000, 2500, 3000).

    Returns:
        Tensor: int64 ids 0, 1, … of shape (S, B, T, C) on the spectrogram's device, S the number of granularities.
        ``mask[s]`` is a feature mask for any Captum method; :class:`~captum_spes.SPES` takes them all.

    Raises:
        ValueError: the spectrogram is not (B, T, C), is empty or not finite, or an argument is not positive.

    Example::

        >>> import torch
        >>> from captum_spes import slic_feature_mask
        >>> mask = slic_feature_mask(torch.rand(1, 200, 80), patches_per_second=(20, 40))
        >>> mask.shape
        torch.Size([2, 1, 200, 80])
    """
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
    return _patches(spectrogram, counts, compactness, sigma)


def grid_feature_mask(inputs: Tensor, patch_size: tuple[int, int]) -> Tensor:
    """Divides spectrograms or images into equal rectangles.

    Args:
        inputs: spectrograms of shape (B, T, C), frames × mel channels, or images of shape (B, C, H, W), whose channels
            share their patches.
        patch_size: frames and mel channels, or height and width, of a patch; patches at the end of an axis may be
            smaller.

    Returns:
        Tensor: int64 ids 0, 1, … of shape (1, T, C), or (1, 1, H, W) for images, on the inputs' device, the same
        patches for every example. For 4 frames × 4 channels and a patch size of (2, 2)::

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
        ValueError: the inputs have another shape, are empty or not finite, or a size is not positive.

    Example::

        >>> import torch
        >>> from captum_spes import grid_feature_mask
        >>> grid_feature_mask(torch.rand(1, 3, 4), patch_size=(2, 2))
        tensor([[[0, 0, 1, 1],
                 [0, 0, 1, 1],
                 [2, 2, 3, 3]]])
        >>> grid_feature_mask(torch.rand(1, 3, 32, 32), patch_size=(8, 8)).shape
        torch.Size([1, 1, 32, 32])
    """
    is_image = isinstance(inputs, Tensor) and inputs.dim() == 4
    _check_image(inputs) if is_image else _check_spectrogram(inputs)
    sizes = patch_size if isinstance(patch_size, (tuple, list)) else ()
    if len(sizes) != 2 or not all(isinstance(size, Integral) and size > 0 for size in sizes):
        names = "height and width" if is_image else "frames and mel channels"
        raise ValueError(f"patch_size must be two positive integers, {names}, not {patch_size}.")
    n_rows, n_columns = inputs.shape[-2:]
    rows = torch.arange(n_rows, device=inputs.device) // patch_size[0]
    columns = torch.arange(n_columns, device=inputs.device) // patch_size[1]
    mask = (rows[:, None] * (columns[-1] + 1) + columns)[None]
    return mask[None] if is_image else mask


def image_feature_mask(
    images: Tensor, n_patches: int | Sequence[int] = (50, 100, 150), compactness: float = 10, sigma: float = 0
) -> Tensor:
    """Divides images into patches that follow their colours, at one granularity or several.

    SLIC (Achanta et al., 2012) clusters pixels that are near each other and similar in all channels, as
    :func:`slic_feature_mask` does with spectrograms.

    Args:
        images: images of shape (B, C, H, W); each is segmented separately, and its channels share the patches.
        n_patches: the number of patches of an image at each granularity; SLIC makes approximately this number.
        compactness: weight of distance against similarity, for channels that are scaled together to [0, 1] and
            multiplied by 100, as scikit-image does with colours. Larger values give patches that are closer to squares.
        sigma: width of the Gaussian that smooths the image first, in pixels.

    Returns:
        Tensor: int64 ids 0, 1, … of shape (S, B, 1, H, W) on the images' device, S the number of granularities.
        ``mask[s]`` is a feature mask for any Captum method; :class:`~captum_spes.SPES` takes them all.

    Raises:
        ValueError: the images are not (B, C, H, W), are empty or not finite, or an argument is not positive.

    Example::

        >>> import torch
        >>> from captum_spes import SPES, image_feature_mask
        >>> image = torch.rand(1, 3, 32, 32)
        >>> mask = image_feature_mask(image, n_patches=(10, 20))
        >>> mask.shape
        torch.Size([2, 1, 1, 32, 32])
        >>> SPES(lambda x: x.mean((1, 2, 3))).attribute(image, feature_mask=mask, n_samples=100).shape
        torch.Size([1, 3, 32, 32])
    """
    _check_image(images)
    counts: list[Any] = list(n_patches) if isinstance(n_patches, (tuple, list)) else [n_patches]
    if not counts or not all(isinstance(count, Integral) and int(count) > 0 for count in counts):
        raise ValueError(f"n_patches must be positive integers, one for each granularity, not {n_patches}.")
    if not all(map(_is_positive, (compactness, sigma or 1))):
        raise ValueError("compactness must be positive, and sigma not negative.")
    counts = [min(int(count), images[0, 0].numel()) for count in counts]
    return _patches(images, counts, compactness, sigma, scale=100, channel_axis=0)[:, :, None]


def _patches(
    images: Tensor, counts: list[int], compactness: float, sigma: float, scale: int = 1, channel_axis: int | None = None
) -> Tensor:
    """The ids (S, B, …) of SLIC's patches in examples that are scaled to [0, scale], at each granularity."""
    from skimage.segmentation import slic

    mask = torch.zeros(len(counts), len(images), *images.shape[-2:], dtype=torch.int64)
    for example, image in enumerate(images.detach().cpu().double().numpy()):
        span = np.ptp(image)
        scaled = scale * (image - image.min()) / span if span > 0 else np.zeros_like(image)
        for granularity, count in enumerate(counts):
            segments = slic(
                scaled, count, compactness, sigma=sigma, channel_axis=channel_axis, start_label=0, convert2lab=False
            )
            ids = np.unique(segments, return_inverse=True)[1]  # without gaps, because SLIC may skip some
            mask[granularity, example] = torch.from_numpy(ids.reshape(segments.shape))
    return mask.to(images.device)


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


def _check_image(images: Tensor) -> None:
    if not isinstance(images, Tensor):
        raise TypeError(f"the images must be a tensor, not {type(images).__name__}.")
    if images.dim() != 4 or not images.numel():
        raise ValueError(f"the images must be of shape (batch, channels, height, width), not {tuple(images.shape)}.")
    if not images.isfinite().all():
        raise ValueError("the images hold NaN or infinite values: check how they were made.")
