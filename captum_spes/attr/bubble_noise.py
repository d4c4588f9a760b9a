"""Bubble Noise: replaces a spectrogram by noise except in random bubbles."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from numbers import Real
from typing import TYPE_CHECKING, Any, Literal, overload

import numpy as np
import torch
from captum._utils.common import _format_output, _is_tuple
from captum._utils.typing import BaselineType, TargetType
from captum.attr import PerturbationAttribution
from torch import Tensor

from captum_spes.attr._impacts import ImpactEstimator
from captum_spes.attr._perturbations import Evaluator, Group, Perturbed
from captum_spes.attr._template import Inputs, Options, SamplingArguments, attribute_method, run
from captum_spes.attr.batches import Callback, check_positive
from captum_spes.attr.features import FeatureLayout, check_seed, format_inputs

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup
    from typing_extensions import Unpack


class _Arguments(SamplingArguments, total=False):
    """The keyword-only arguments of attribute, for its overloads."""

    bubbles_per_second: float
    bubble_seconds: float
    bubble_channels: float
    frames_per_second: float
    centered: bool


class BubbleNoise(PerturbationAttribution):
    r"""Attribution by the mean impact of noise that covers a spectrogram except for random ellipsoidal bubbles.

    This is the technique of Mandel (2016) and Trinh and Mandel (2021), as extended by the SPES paper for its baseline
    (Fucci et al., 2024, arXiv:2411.01710, §6 and Appendix A.3.2). Noise in the intensity range of the input replaces
    the spectrogram outside the bubbles. Inside the bubbles it is attenuated and added to the spectrogram. With t and c
    the frame and channel of a bin's centre, :math:`(t_j, c_j)` the centre of bubble j, w its width and h its height,
    the noise profile is

    .. math:: A = \min\left(1, \min_j d_j^2\right) \in [0, 1], \qquad
        d_j^2 = \left(\frac{t - t_j}{w/2}\right)^2 + \left(\frac{c - c_j}{h/2}\right)^2,

    and with noise ν and the baseline b

    .. math:: X' = \begin{cases} \nu & \text{where } A = 1, \\ X + A\,(\nu - b) & \text{where } A < 1. \end{cases}

    The impact of perturbation i is :math:`r_i = \text{score}(X) - \text{score}(X'_i)`, and the attribution of a bin is
    Eq. 3 weighted by the noise,

    .. math:: S = \frac{\sum_i r_i A_i}{\sum_i A_i},

    the mean impact over the perturbations that put noise on the bin; a bin that never had noise gets 0. As in
    :class:`~captum_spes.SPES`, this has an offset, the mean impact of all noise, which is subtracted by default. The
    attribution is then S minus the same mean with the weights :math:`1 - A_i`, and about 0 far from all bins that
    matter. ``centered=False`` gives S itself, which :class:`~captum_spes.SpeechToTextAttribution` uses. The paper's
    score is :class:`~captum_spes.KLDivergence`. The method perturbs spectrograms only. The paper hides previous tokens
    in separate runs, as SPES does, so attribute to them with :class:`~captum_spes.SPES`.

    The sources leave some choices open, which are made here as follows:

    - *How noise is attenuated.* In Mandel's own code (mim/auditoryBubbles, ``genBubbleNoise.m``) it falls by 80 dB from
      a bubble's border to its centre, in decibels by the square of the distance. A is this parabola as a share of the
      noise, for features on a logarithmic scale, and 0 in the centre. If bubbles overlap, the lower A is taken
      (Mandel's code adds the gains, which is nearly the same).
    - *Which noise.* It is white and uniform between the example's smallest and largest value, and new in every sample.
    - *What is added.* The noise in the bubbles is centred on b. The paper's features have mean 0;
      for others give the mean of each channel as ``baselines``. The sum is not clipped to the input's range.
    - *Where bubbles lie.* Centres are uniform and may lie up to half a bubble outside of the spectrogram, so that every
      bin has the same noise on average. With all centres inside, a corner would have twice the noise of the middle.
      The density of the bubbles is that of ``bubbles_per_second`` inside of the spectrogram.
    - *How much is noise.* The paper aims "to cover about half of the spectrogram". On 80 channels the mean A is 0.55 to
      0.56 for all three configurations of its Table 8, and 26 to 28 % of the bins are noise alone (10 bubbles a second
      of 0.43 s × 31 bins, 35 of 0.25 s × 15, 115 of 0.13 s × 9). For another number of channels scale
      ``bubble_channels`` with it.
    - *How impacts become a map.* Mandel correlates the noise with the listener's mistakes. The paper does not say what
      it does, so SPES's Eq. 3 is used, with A in place of 1 − M.

    Args:
        forward_func: the model or any function of it. It returns one score for each example, shape ``(B,)``, or
            several, for instance one for each token, shape ``(B, K)``. Larger scores mean closer to the original
            prediction. A function with a single score for the whole batch works with ``perturbations_per_eval=1``.

    Example::

        >>> import torch
        >>> from captum_spes import BubbleNoise
        >>> spectrogram = torch.randn(1, 60, 80)
        >>> method = BubbleNoise(lambda x: -(x - spectrogram)[:, 20:30, 40:48].square().mean((1, 2)))
        >>> attribution = method.attribute(spectrogram, n_samples=400, perturbations_per_eval=16)
        >>> peak = attribution.argmax().item()
        >>> 20 <= peak // 80 < 30, 40 <= peak % 80 < 48
        (True, True)
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
        n_samples: int = 1000,
        perturbations_per_eval: int = 1,
        show_progress: bool = False,
        *,
        return_reliability: Literal[False] = False,
        **arguments: Unpack[_Arguments],
    ) -> Inputs: ...

    @overload
    def attribute(
        self,
        inputs: Inputs,
        baselines: BaselineType = None,
        target: TargetType = None,
        additional_forward_args: object = None,
        n_samples: int = 1000,
        perturbations_per_eval: int = 1,
        show_progress: bool = False,
        *,
        return_reliability: Literal[True],
        **arguments: Unpack[_Arguments],
    ) -> tuple[Inputs, Inputs]: ...

    @attribute_method
    def attribute(
        self,
        inputs: Tensor | tuple[Tensor, ...],
        baselines: BaselineType = None,
        target: TargetType = None,
        additional_forward_args: object = None,
        n_samples: int = 1000,
        perturbations_per_eval: int = 1,
        show_progress: bool = False,
        *,
        bubbles_per_second: float = 10.0,
        bubble_seconds: float = 0.43,
        bubble_channels: float = 31.0,
        frames_per_second: float = 100.0,
        centered: bool = True,
        seed: int = 0,
        min_reliability: float | None = None,
        return_reliability: bool = False,
        callback: Callback | None = None,
        process_group: ProcessGroup | None = None,
        checkpoint: str | os.PathLike[str] | None = None,
    ) -> Tensor | tuple[Any, ...]:
        r"""Computes the attributions of a spectrogram.

        Args:
            inputs: a floating-point tensor of shape ``(B, T, C)``, examples × frames × channels, or a tuple of one.
            baselines: the level b above, on which the noise in the bubbles is centred: a number, a tensor that is as
                large as the input or has 1 as first dimension and broadcasts to it, or a tuple of one of them.
                Default: 0.
            target: which output is attributed, in any form that Captum's FeatureAblation takes.
            additional_forward_args: further arguments of ``forward_func``; tensors have the batch as dimension 0.
            n_samples: number of perturbations (1,000 in the paper).
            perturbations_per_eval: number of perturbations in one batch. It changes the speed, and the result only by
                rounding.
            show_progress: shows a progress bar that counts perturbations.
            bubbles_per_second: average number of bubbles with their centre in one second of the spectrogram. A sample
                has at least one bubble, with its centre inside or at most half a bubble outside.
            bubble_seconds: width of a bubble in seconds.
            bubble_channels: height of a bubble in channels.
            frames_per_second: frames of the spectrogram in a second (100 for a hop of 10 ms).
            centered: subtract the mean impact without noise on the bin, as in SPES. False gives S above, with its
                offset.
            seed: the seed of bubbles and noise, which depend on it, T, C and the four numbers above alone. All
                examples of a batch have the same bubbles, and the same noise scaled to their own range.
            min_reliability: end the run as soon as the reliability reaches this number, as in SPES; ``n_samples`` is
                then the largest number of samples. Default: evaluate all samples.
            return_reliability: also return the correlation between the attributions of two halves of the samples.
            callback: called after every batch as ``callback(done, total)``; when it returns True the run ends
                there and the attributions are those of the samples done.
            process_group: ranks of ``torch.distributed`` that share the samples, as in SPES. Default: this process
                evaluates all of them.
            checkpoint: path of a file from which a killed run continues, as in SPES. Default: no file.

        Returns:
            **attributions**, or (**attributions**, **reliability**):
            - **attributions**: tensor, or tuple of one, of the input's shape for scores of shape ``(B,)`` and of
              shape ``(B * K, T, C)`` for scores ``(B, K)``, as FeatureAblation returns them.
            - **reliability**: tensor of shape ``(B * K,)``, or a tuple of one: the correlation between the
              attributions of the two halves of the samples. The whole run's own is higher, about 2r / (1 + r).

        Raises:
            ValueError: an argument does not fit the input, or values or scores are not finite.
            TypeError: the input is not a floating-point tensor.

        Example::

            >>> import torch
            >>> from captum_spes import BubbleNoise
            >>> method = BubbleNoise(lambda x: torch.stack([x.mean((1, 2)), x.amax((1, 2))], dim=1))
            >>> attribution, reliability = method.attribute(
            ...     torch.rand(3, 100, 20), n_samples=50, bubble_channels=8, return_reliability=True
            ... )
            >>> attribution.shape, reliability.shape
            (torch.Size([6, 100, 20]), torch.Size([6]))
        """
        spectrogram, baseline = _format_spectrogram(inputs, baselines)
        intensities = _intensity_range(spectrogram)
        check_positive(n_samples=n_samples, perturbations_per_eval=perturbations_per_eval)
        bubbles = Bubbles.create(
            (spectrogram.shape[1], spectrogram.shape[2]),
            bubbles_per_second=bubbles_per_second,
            bubble_seconds=bubble_seconds,
            bubble_channels=bubble_channels,
            frames_per_second=frames_per_second,
            seed=seed,
        )
        options = Options(perturbations_per_eval, show_progress, min_reliability, callback, process_group, checkpoint)
        evaluate = Evaluator(self.forward_func, target, additional_forward_args)
        arguments = {
            "inputs": spectrogram,
            "baselines": baseline,
            "target": target,
            "additional_forward_args": evaluate.args,
            "bubbles_per_second": bubbles_per_second,
            "bubble_seconds": bubble_seconds,
            "bubble_channels": bubble_channels,
            "frames_per_second": frames_per_second,
            "centered": centered,
            "seed": seed,
        }
        estimator = _InNoise(
            evaluate, spectrogram, n_samples, perturbations_per_eval, centered, baseline, bubbles, intensities
        )
        attributions, reliability = run(estimator, self.get_name(), arguments, options)
        output = _format_output(_is_tuple(inputs), attributions)
        return (output, _format_output(_is_tuple(inputs), reliability)) if return_reliability else output

    def attribute_future(self, *args: Any, **kwargs: Any) -> None:
        """Not implemented: perturbations are evaluated in order."""
        raise NotImplementedError("attribute_future is not implemented for BubbleNoise: use attribute.")


class _InNoise(ImpactEstimator):
    """Covers a spectrogram with noise except for random bubbles."""

    def __init__(
        self,
        evaluate: Evaluator,
        spectrogram: Tensor,
        n_samples: int,
        per_eval: int,
        centered: bool,
        baseline: Tensor | int | float,
        bubbles: Bubbles,
        intensities: tuple[Tensor, Tensor],
    ) -> None:
        # every bin is a feature, of which the noise hides the share A
        layout = FeatureLayout.create((spectrogram,), None, 0.5)
        super().__init__(evaluate, (spectrogram,), layout, n_samples, per_eval, centered, bubbles.seed)
        self.baseline = baseline
        self.bubbles = bubbles
        self.intensities = intensities

    def draw(self, start: int, stop: int) -> Perturbed:
        (spectrogram,), (low, high) = self.inputs, self.intensities
        profile, unit_noise = self.bubbles.draw(start, stop)
        noise = low + (high - low) * unit_noise[:, None].to(spectrogram)  # (n, B, T, C)
        perturbed = _add_noise(spectrogram, self.baseline, profile[:, None], noise).flatten(0, 1)
        return Perturbed((perturbed,), [Group(0, start, profile.flatten(1)[:, None])])


@dataclass(frozen=True)
class Bubbles:
    """Random bubbles and noise, which depend on these numbers and the sample's number alone.

    Attributes:
        shape: frames and channels of the spectrogram, (T, C).
        size: width and height of a bubble, (frames, channels).
        number: number of bubbles in a sample, in and around the spectrogram.
        seed: the seed of all samples.
    """

    shape: tuple[int, int]
    size: tuple[float, float]
    number: int
    seed: int

    @classmethod
    def create(
        cls,
        shape: tuple[int, int],
        *,
        bubbles_per_second: float,
        bubble_seconds: float,
        bubble_channels: float,
        frames_per_second: float,
        seed: int,
    ) -> Bubbles:
        """Checks the arguments of BubbleNoise and counts the bubbles.

        Raises:
            ValueError: a number is not positive, or the seed is not an integer of at least 0.
        """
        _check_positive(
            bubbles_per_second=bubbles_per_second,
            bubble_seconds=bubble_seconds,
            bubble_channels=bubble_channels,
            frames_per_second=frames_per_second,
        )
        seed = check_seed(seed)
        size = (bubble_seconds * frames_per_second, float(bubble_channels))
        # the same density in the margin around the spectrogram, where centres may lie as well
        around = (1 + size[0] / shape[0]) * (1 + size[1] / shape[1])
        number = round(bubbles_per_second * shape[0] / frames_per_second * around)
        return cls(shape, size, max(number, 1), seed)

    def draw(self, first: int, last: int) -> tuple[Tensor, Tensor]:
        """Profiles A and noise in [0, 1) of samples first … last - 1: float32 (last - first, T, C) each, on the CPU."""
        profiles = np.ones((last - first, *self.shape), np.float32)
        noises = np.empty_like(profiles)
        shape, size = np.array(self.shape), np.array(self.size)
        for index, profile, noise in zip(range(first, last), profiles, noises):
            generator = np.random.default_rng([self.seed, index])
            centres = generator.random((self.number, 2)) * (shape + size) - size / 2
            _paint(profile, centres, self.size)
            generator.random(dtype=np.float32, out=noise)
        return torch.from_numpy(profiles), torch.from_numpy(noises)


def _paint(profile: np.ndarray, centres: np.ndarray, size: tuple[float, float]) -> None:
    """Lowers a profile, in place, to d² inside the bubbles.

    Every bubble is painted on its bounding box alone, so that the time grows with the area of the bubbles and not with
    their number times the area of the spectrogram.

    Args:
        profile: of shape (T, C), contiguous, so that its flat view is no copy.
        centres: of shape (n, 2), in frames and channels; bin (t, c) has its own centre at (t + 0.5, c + 0.5).
        size: width and height of a bubble, (frames, channels).
    """
    (frames, rise_t), (channels, rise_c) = (
        _box_side(centres[:, axis], profile.shape[axis], size[axis]) for axis in range(2)
    )  # (n, w') and (n, h'): the bounding box is of w' × h' bins
    bins = frames[:, :, None] * profile.shape[1] + channels[:, None]  # (n, w', h')
    squares = rise_t[:, :, None] + rise_c[:, None]
    np.minimum.at(profile.reshape(-1), bins.reshape(-1), squares.reshape(-1))


def _box_side(centres: np.ndarray, length: int, size: float) -> tuple[np.ndarray, np.ndarray]:
    """One axis of the bounding boxes, kept within the spectrogram: bins, int64 (n, side), and their share of d²."""
    side = min(math.ceil(size) + 1, length)
    first = np.clip(np.floor(centres - size / 2), 0, length - side).astype(np.int64)
    bins = first[:, None] + np.arange(side)
    return bins, np.square((bins + 0.5 - centres[:, None]) * (2 / size)).astype(np.float32)


def _add_noise(spectrogram: Tensor, baseline: Tensor | int | float, profile: Tensor, noise: Tensor) -> Tensor:
    """Computes X': noise where the profile is 1, elsewhere the spectrogram plus the profile times the noise.

    Args:
        spectrogram: of shape (B, T, C).
        baseline: a number, or a tensor that broadcasts to the spectrogram.
        profile: of shape (n, 1, T, C), in [0, 1].
        noise: of shape (n, B, T, C).

    Returns:
        Tensor: of shape (n, B, T, C), of the spectrogram's dtype and device.
    """
    outside = profile == 1  # before a narrow dtype rounds up to 1
    added = profile.to(spectrogram) * (noise - baseline)
    return torch.where(outside.to(spectrogram.device), noise, spectrogram + added)


def _format_spectrogram(inputs: Any, baselines: BaselineType) -> tuple[Tensor, Tensor | int | float]:
    """The one input and its baseline, checked; a baseline that is a tensor in the input's dtype and on its device."""
    if _is_tuple(inputs) and len(inputs) != 1:
        raise ValueError(
            f"BubbleNoise perturbs one spectrogram, not a tuple of {len(inputs)} inputs: "
            "give the other inputs as additional_forward_args."
        )
    (spectrogram,), (baseline,) = format_inputs(inputs, baselines)
    if spectrogram.dim() != 3 or not spectrogram.numel():
        raise ValueError(
            f"inputs must be a spectrogram of shape (batch, frames, channels), not {tuple(spectrogram.shape)}."
        )
    if not spectrogram.is_floating_point():
        raise TypeError(f"inputs must be floating point to add noise to them, not {spectrogram.dtype}.")
    return spectrogram, baseline.to(spectrogram) if isinstance(baseline, Tensor) else baseline


def _intensity_range(spectrogram: Tensor) -> tuple[Tensor, Tensor]:
    """Each example's smallest and largest value, of shape (B, 1, 1)."""
    low, high = spectrogram.detach().aminmax(dim=1, keepdim=True)
    low, high = low.amin(2, keepdim=True), high.amax(2, keepdim=True)
    if not (low.isfinite() & high.isfinite()).all():
        raise ValueError("inputs hold values that are not finite, so that noise has no intensity range to match.")
    return low, high


def _check_positive(**values: object) -> None:
    for name, value in values.items():
        if not isinstance(value, Real) or not 0 < float(value) < math.inf:
            raise ValueError(f"{name} must be a positive number, not {value}.")
