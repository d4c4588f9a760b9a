"""Additive maps, whose sum over bins estimates how much a score falls when these bins are hidden."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from captum_spes.attr import SPES, BubbleNoise, GradientSPES
from captum_spes.attr.bubble_noise import Bubbles
from captum_spes.explanation import SpeechToTextExplanation

# samples of bubbles from which the share of noise and its variation are measured
N_BUBBLE_DRAWS = 500


def additive_attributions(explanation: SpeechToTextExplanation) -> Tensor:
    r"""Converts maps so that their sum over hidden bins estimates how much the score falls when the bins are hidden.

    Infidelity assumes such maps (Yeh et al., 2019). The maps of Captum's methods have this property if the value of a
    patch is spread over its bins rather than repeated on each. The methods of this library average impacts, which
    leaves an offset in every bin. For a score that falls by :math:`d_i` with each hidden patch i,
    Eq. 3 gives

    .. math::
        S_i = E[r \mid i\text{ hidden}] = (1 - p)\, d_i + \bar r, \qquad \bar r = p \sum_j d_j,

    with the mean impact :math:`\bar r`. It is not stored, but follows from the map:
    :math:`\sum_i S_i = \bar r\,((1 - p) / p + P)` for P patches.

    - **SPES**: :math:`(S - \bar r) / (1 - p)`, divided by the patch's area. For several granularities the area is the
      mean over the patches that contain the bin. The mean impact is chosen so that the map sums to
      the fall that it implies when all is hidden, :math:`\bar r / p`. This is exact for one granularity and an additive
      score; other scores are approximated by an additive one.
    - **Bubble Noise**: the same with the bubbles' share of noise A in place of a patch:
      :math:`\bar r = \mathrm{mean}(S) / (1 + v)`, where v is the squared coefficient of variation of a sample's mean A
      (for patches of equal area, :math:`(1 - p) / (pP)`). It is measured on bubbles drawn again with the stored
      arguments. The map stays blurred, because the noise of a bubble never hides a single bin.
    - **Maps with one value for each patch** (FeatureAblation, ShapleyValueSampling, KernelShap, Lime, …): the value is
      divided by the patch's area.
    - **GradientSPES** pools gradients over patches: its map is divided by the patch's area, which for several
      granularities is the mean as above. With ``pool_features=False`` it stays unchanged.
    - **All other maps** stay unchanged. The maps of IntegratedGradients, GradientShap and DeepLift are additive. Those
      of Occlusion are additive up to a constant factor, the area of its window, which a normalised infidelity removes.
      Those of Saliency and InputXGradient do not estimate a fall: Saliency is the size of a local slope, and
      InputXGradient refers to the value 0 rather than the baseline.

    Args:
        explanation: from :class:`~captum_spes.SpeechToTextAttribution`, not normalised.

    Returns:
        Tensor: float64 maps (K, T, C), in units of the explained score (nats for KLDivergence and TokenLogProbability).

    Raises:
        ValueError: the explanation is normalised, or has absolute values of maps with an offset, so that its scale or
            offset are lost; or it attributes to both inputs jointly, so that its offset includes the impact of the
            previous tokens; or its metadata lack the arguments with which it was made.

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
    is_gradient = method.strip("|") == GradientSPES.get_name()
    is_pooled = is_gradient and _stored(explanation, "arguments").get("pool_features", True)
    return attr / _mean_area(explanation) if is_pooled or _is_painted(explanation) else attr


def without_offset(explanation: SpeechToTextExplanation) -> Tensor:
    """Subtracts the offset from maps of methods that average impacts; other maps stay unchanged. float64 (K, T, C)."""
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
    """The mean share of the spectrogram that Bubble Noise covers, and its squared coefficient of variation."""
    arguments = _stored(explanation, "arguments")
    names = ("bubbles_per_second", "bubble_seconds", "bubble_channels", "frames_per_second")
    n_frames, n_channels = explanation.spectrogram.shape
    bubbles = Bubbles.create((n_frames, n_channels), seed=0, **{name: _argument(arguments, name) for name in names})
    shares = bubbles.draw(0, N_BUBBLE_DRAWS)[0].double().mean((1, 2))
    return float(shares.mean()), float(shares.var() / shares.mean().square())


def _mean_area(explanation: SpeechToTextExplanation) -> Tensor:
    """The number of bins in the patch of each bin, averaged over the granularities: float64 (T, C)."""
    mask = explanation.feature_mask
    if mask is None:
        return torch.ones_like(explanation.spectrogram, dtype=torch.float64)
    areas = []
    for patches in mask:
        _, ids, counts = patches.unique(return_inverse=True, return_counts=True)
        areas.append(counts[ids].double())
    return torch.stack(areas).mean(0)


def _is_painted(explanation: SpeechToTextExplanation) -> bool:
    """Whether all bins of a patch have the same value, in all maps."""
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
        raise ValueError(
            f"the arguments in the explanation's metadata have no {name}, without which its offset is unknown: take an "
            "explanation from SpeechToTextAttribution.attribute."
        )
    return arguments[name]


def _stored(explanation: SpeechToTextExplanation, name: str) -> Any:
    """A value of the metadata of an explanation, which must still have its scale and its offset."""
    if explanation.normalized:
        raise ValueError(
            "the explanation is normalised, so that its scale and offset are lost: give it as attribute() returned it."
        )
    if explanation.metadata.get("joint"):
        raise ValueError(
            "the explanation attributes to spectrogram and previous tokens jointly, so that its offset includes the "
            "impact of the tokens: give one that was made with joint=False."
        )
    method = explanation.metadata.get("method")
    if method in [f"|{averaged.get_name()}|" for averaged in (SPES, BubbleNoise)]:
        raise ValueError(
            f"the explanation has absolute values, {method}, from which the offset of its maps cannot be told: give it "
            "as attribute() returned it."
        )
    if name not in explanation.metadata:
        raise ValueError(
            f"the explanation's metadata has no {name!r}, which says how the maps were made: take an explanation from "
            "SpeechToTextAttribution.attribute."
        )
    return explanation.metadata[name]
