"""Maps whose sums over bins estimate what hiding these bins does to a score."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from captum_spes.attr import SPES, BubbleNoise
from captum_spes.attr.bubble_noise import _Bubbles
from captum_spes.explanation import SpeechToTextExplanation

# draws of bubbles that tell how much of a spectrogram is noise, and how much that varies
N_BUBBLE_DRAWS = 500


def additive_attributions(explanation: SpeechToTextExplanation) -> Tensor:
    r"""Maps whose sum over hidden bins estimates how much the score falls when these bins are hidden.

    That is what infidelity asks of a map (Yeh et al., 2019), and what the maps of Captum's methods are, once a patch's
    value is spread over its bins rather than repeated on each. The methods of this library average impacts, which
    leaves an offset in every bin. For a score that falls by :math:`d_i` with each hidden patch i,
    Eq. 3 gives

    .. math::
        S_i = E[r \mid i\text{ hidden}] = (1 - p)\, d_i + \bar r, \qquad \bar r = p \sum_j d_j,

    with the mean impact :math:`\bar r`. It is not stored, but follows from the map:
    :math:`\sum_i S_i = \bar r\,((1 - p) / p + P)` for P patches.

    - **SPES**: :math:`(S - \bar r) / (1 - p)`, divided by the patch's area. Of several granularities the area is the
      mean of those of the patches that a bin lies in. The mean impact is the one with which the map adds up to
      the fall that it implies when all is hidden, :math:`\bar r / p`. For one granularity and an additive score that is
      exact; for other scores it is the additive score that fits.
    - **Bubble Noise**: the same with the bubbles' share of noise A in place of a patch:
      :math:`\bar r = \mathrm{mean}(S) / (1 + v)`, where v is the squared coefficient of variation of a sample's mean A
      (for patches of equal area, :math:`(1 - p) / (pP)`). It is measured on bubbles drawn again with the stored
      arguments. The map stays blurred by the bubbles: their noise hides no bin alone.
    - **Maps with one value a patch** (FeatureAblation, ShapleyValueSampling, KernelShap, Lime, …): divided by
      the patch's area.
    - **All others** as they are. Those of IntegratedGradients, GradientShap and DeepLift add up by themselves;
      Occlusion's do so up to a constant factor, the area of its window, which a normalised infidelity absorbs.
      Saliency's and InputXGradient's are no estimates of a fall: the one is an absolute and local slope, the other is
      against the value 0 rather than the baseline.

    Args:
        explanation: from :class:`~captum_spes.SpeechToTextAttribution`, not normalised.

    Returns:
        Tensor: float64 maps (K, T, C), in units of the explained score (nats for KLDivergence and TokenLogProbability).

    Raises:
        ValueError: a normalised explanation, whose scale and offset are gone, or one of both inputs jointly, whose
            offset holds the previous tokens' impact too; metadata that does not say how it was made.

    Example::

        >>> import torch
        >>> from captum_spes import SPES, SpeechToTextExplanation, grid_feature_mask
        >>> from captum_spes.metrics import additive_attributions
        >>> spectrogram, effects = torch.ones(1, 2, 4), torch.tensor([1.0, 1.0, 0.0, 3.0]).expand(1, 2, 4)
        >>> mask = grid_feature_mask(spectrogram, patch_size=(2, 1))
        >>> attr = SPES(lambda x: (x * effects).sum((1, 2))).attribute(
        ...     spectrogram, feature_mask=mask, n_samples=16, centered=False)
        >>> explanation = SpeechToTextExplanation(
        ...     text="a", tokens=["a"], previous_tokens=["<s>"], spectrogram=spectrogram[0], spectrogram_attr=attr,
        ...     token_attr=torch.ones(1, 1), n_previous=torch.tensor([1]), frames_per_second=100.0,
        ...     mel_frequencies=torch.arange(4.0), feature_mask=mask,
        ...     metadata={"method": "SPES", "arguments": {"perturbation_prob": 0.5}})
        >>> attr[0, 0].round(decimals=3), additive_attributions(explanation)[0, 0].float()
        (tensor([6., 6., 5., 8.]), tensor([1., 1., 0., 3.]))
    """
    attr = explanation.spectrogram_attr.double()
    method = _stored(explanation, "method")
    if method == SPES.get_name():
        prob = _prob(explanation)
        area = _mean_area(explanation)
        return (attr - _mean_impact_of_patches(attr, area, prob)) / ((1 - prob) * area)
    if method == BubbleNoise.get_name():
        share, variation = _noise_share(explanation)
        return (attr - _mean_impact_of_bubbles(attr, variation)) / (attr[0].numel() * variation * share)
    return attr / _mean_area(explanation) if _is_painted(explanation) else attr


def without_offset(explanation: SpeechToTextExplanation) -> Tensor:
    """The maps less the offset of the methods that average impacts, float64 (K, T, C); others as they are."""
    attr = explanation.spectrogram_attr.double()
    method = _stored(explanation, "method")
    if method == SPES.get_name():
        return attr - _mean_impact_of_patches(attr, _mean_area(explanation), _prob(explanation))
    if method == BubbleNoise.get_name():
        return attr - _mean_impact_of_bubbles(attr, _noise_share(explanation)[1])
    return attr


def _mean_impact_of_patches(attr: Tensor, area: Tensor, prob: float) -> Tensor:
    """The offset of Eq. 3, (K, 1, 1): Σ (S − r̄) / ((1 − p) · area) over the bins is r̄ / p."""
    total = (attr / area).sum((1, 2), keepdim=True)
    return total / ((1 - prob) / prob + (1 / area).sum())


def _mean_impact_of_bubbles(attr: Tensor, variation: float) -> Tensor:
    return attr.mean((1, 2), keepdim=True) / (1 + variation)


def _noise_share(explanation: SpeechToTextExplanation) -> tuple[float, float]:
    """How much of the spectrogram is Bubble Noise's noise: the mean share, and its squared coefficient of variation."""
    arguments = _stored(explanation, "arguments")
    names = ("bubbles_per_second", "bubble_seconds", "bubble_channels", "frames_per_second")
    n_frames, n_channels = explanation.spectrogram.shape
    bubbles = _Bubbles.create((n_frames, n_channels), seed=0, **{name: _argument(arguments, name) for name in names})
    shares = bubbles.draw(0, N_BUBBLE_DRAWS)[0].double().mean((1, 2))
    return float(shares.mean()), float(shares.var() / shares.mean().square())


def _mean_area(explanation: SpeechToTextExplanation) -> Tensor:
    """How many bins the patch of each bin has, the mean over the granularities: float64 (T, C)."""
    mask = explanation.feature_mask
    if mask is None:
        return torch.ones_like(explanation.spectrogram, dtype=torch.float64)
    areas = []
    for patches in mask:
        _, ids, counts = patches.unique(return_inverse=True, return_counts=True)
        areas.append(counts[ids].double())
    return torch.stack(areas).mean(0)


def _is_painted(explanation: SpeechToTextExplanation) -> bool:
    """Whether every bin of a patch has the patch's value, in all maps."""
    if explanation.feature_mask is None:
        return False
    flat = explanation.spectrogram_attr.flatten(1)
    _, ids = explanation.feature_mask[0].flatten().unique(return_inverse=True)
    first = torch.empty(int(ids.max()) + 1, dtype=torch.long).scatter_(0, ids, torch.arange(len(ids)))
    return torch.equal(flat[:, first[ids]], flat)


def _prob(explanation: SpeechToTextExplanation) -> float:
    return float(_argument(_stored(explanation, "arguments"), "perturbation_prob"))


def _argument(arguments: dict[str, Any], name: str) -> Any:
    if name not in arguments:
        raise ValueError(f"the arguments in the explanation's metadata have no {name}: its offset cannot be found.")
    return arguments[name]


def _stored(explanation: SpeechToTextExplanation, name: str) -> Any:
    """A value of the metadata of an explanation that has its scale and its offset still."""
    if explanation.normalized:
        raise ValueError(
            "the explanation is normalised, its scale and offset are gone: give it as attribute() gave it."
        )
    if explanation.metadata.get("joint"):
        raise ValueError(
            "the explanation is of spectrogram and previous tokens jointly, so that its offset holds the tokens' "
            "impact too: give one with joint=False."
        )
    if name not in explanation.metadata:
        raise ValueError(f"the explanation's metadata has no {name!r}: it says how the maps were made.")
    return explanation.metadata[name]
