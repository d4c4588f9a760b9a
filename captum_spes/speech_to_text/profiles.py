"""Defaults of each attribution method for speech: its score, its features and its number of samples."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from inspect import signature
from typing import Any

import torch
from captum.attr import (
    LRP,
    Attribution,
    Deconvolution,
    DeepLift,
    DeepLiftShap,
    FeatureAblation,
    FeaturePermutation,
    GradientAttribution,
    GradientShap,
    GuidedBackprop,
    GuidedGradCam,
    IntegratedGradients,
    KernelShap,
    LayerAttribution,
    Lime,
    LimeBase,
    NeuronAttribution,
    NoiseTunnel,
    Occlusion,
    PerturbationAttribution,
    Saliency,
    ShapleyValues,
    ShapleyValueSampling,
)
from torch import Tensor

from captum_spes.attr import SPES, AttnLRP, BubbleNoise, CrossAttention, Energy, GradientSPES, Random
from captum_spes.forward_func import CTCLogLikelihood, KLDivergence, TokenLogit, TokenLogProbability, TokenProbability
from captum_spes.segmentation import slic_feature_mask

Score = (
    type[KLDivergence] | type[TokenProbability] | type[TokenLogProbability] | type[TokenLogit] | type[CTCLogLikelihood]
)
SCORES = (KLDivergence, TokenProbability, TokenLogProbability, TokenLogit)
Arguments = dict[str, Any]

# They score all tokens in one call of their own; the others are called once for each token.
ALL_TOKENS = (SPES, BubbleNoise, GradientSPES)
# They pool over several granularities of patches.
MULTI_SCALE = (SPES, GradientSPES)
# They put hooks on the model's modules.
HOOKED = (DeepLift, GuidedBackprop, Deconvolution)
# of the spectrogram alone: the previous tokens have no window, and noise would shake embeddings
SPECTROGRAM_ONLY = {
    *("sliding_window_shapes", "strides", "stdevs", "perturbation_prob", "n_samples", "heads"),
    *("normalize", "pool_features", "pooling_masks"),
    *(name for method in (NoiseTunnel, BubbleNoise) for name in signature(method.attribute).parameters),
}


@dataclass(frozen=True)
class Facts:
    """The facts about an utterance on which a method's defaults depend."""

    spectrogram: Tensor  # (1, T, C)
    frames_per_second: float
    feature_mask: Tensor | None  # (1, T, C), or (S, 1, T, C) for SPES
    n_previous: int


@dataclass(frozen=True)
class Defaults:
    """Default arguments of a class of methods on speech.

    Attributes:
        score: the forward function.
        patches_per_second: granularities of its SLIC feature mask; None for a method that takes no mask.
        features: its features, for the table of methods.
        signed: whether its values can be negative with this score.
        knows_frequency: whether its values differ among the mel channels of a frame.
        spectrogram: its further arguments for the spectrogram.
        tokens: its further arguments for the previous tokens.
        cost: its passes of the model for the spectrogram, for the table of methods.
    """

    score: Score
    patches_per_second: tuple[int, ...] | None
    features: str
    cost: str
    spectrogram: Callable[[Facts], Arguments] = lambda facts: {}
    tokens: Callable[[Facts], Arguments] = lambda facts: {}
    signed: bool = True
    knows_frequency: bool = True


def _enough_samples(n_features: int) -> Arguments:
    """A number of samples that is larger than the number of features, as a regression needs."""
    return {"n_samples": max(2 * n_features, 100)}


def _regression(facts: Facts) -> Arguments:
    return _enough_samples(0 if facts.feature_mask is None else len(facts.feature_mask.unique()))


def _token_regression(facts: Facts) -> Arguments:
    return _enough_samples(facts.n_previous)


def _window(facts: Facts) -> Arguments:
    """A window of 0.2 s × a quarter of the channels, moved by half; longer in time if the utterance exceeds 5 s."""
    n_frames, n_channels = facts.spectrogram.shape[1:]
    step = max(round(0.1 * facts.frames_per_second), n_frames // 50, 1), max(n_channels // 8, 1)
    window = min(2 * step[0], n_frames), min(2 * step[1], n_channels)
    return {"sliding_window_shapes": window, "strides": step}


def _half(shape: Any) -> Any:
    """Half of a window, or of several, by which windows are moved."""
    return tuple(map(_half, shape)) if isinstance(shape, tuple) else max(shape // 2, 1)


def _noise(facts: Facts) -> float:
    """The noise that SmoothGrad's authors recommend (Smilkov et al., 2017): a tenth of the range of values."""
    return 0.1 * float(facts.spectrogram.max() - facts.spectrogram.min())


def _own(method: type[Attribution], *names: str) -> Arguments:
    """The method's own defaults, which are stored with the result."""
    return {name: signature(method.attribute).parameters[name].default for name in names}


PAPER_SAMPLES = 20_000  # paper, §6
SPES_TOKENS: Arguments = {"n_samples": 2_000, "perturbation_prob": 0.4}  # paper, §6

# patches a second of SPES with the fewest samples
FEWEST_PATCHES = 40
# shares of the patches at which a map may be pooled where it is not reliable at all of them
COARSER = (1 / 2, 1 / 4, 1 / 8, 0.08)

# the cost of maps that know nothing of the model
NO_PASSES = "none"
# They never ask for the score.
WITHOUT_SCORE = (CrossAttention, Energy, Random)

# the most special class first
DEFAULTS: dict[type[Attribution], Defaults] = {
    SPES: Defaults(
        KLDivergence,
        (400, 500, 600),
        "400, 500 and 600 patches a second",
        "n_samples: 20,000",
        lambda facts: {"n_samples": PAPER_SAMPLES} | _own(SPES, "perturbation_prob"),
        lambda facts: SPES_TOKENS,
        signed=False,
    ),
    BubbleNoise: Defaults(
        KLDivergence,
        None,
        "bins",
        "n_samples: 1,000",
        lambda facts: {
            **_own(BubbleNoise, "n_samples", "bubbles_per_second", "bubble_seconds", "bubble_channels"),
            "frames_per_second": facts.frames_per_second,
        },
        lambda facts: SPES_TOKENS,
        signed=False,
    ),
    GradientSPES: Defaults(
        KLDivergence,
        (400, 500, 600),
        "400, 500 and 600 patches a second",
        "n_samples: 96, each with a backward a token",
        lambda facts: _own(GradientSPES, "n_samples", "perturbation_prob", "pool_features") | {"normalize": True},
        lambda facts: SPES_TOKENS,
    ),
    Occlusion: Defaults(
        KLDivergence,
        None,
        "windows",
        "one a window of 0.2 s × C/4 (longer beyond 5 s), moved by half",
        _window,
        lambda facts: {"sliding_window_shapes": (1,)},
        signed=False,
    ),
    FeatureAblation: Defaults(KLDivergence, (60,), "60 patches a second", "one a patch", signed=False),
    ShapleyValueSampling: Defaults(
        KLDivergence,
        (20,),
        "20 patches a second",
        "n_samples (5) × patches",
        lambda facts: {"n_samples": 5},
        lambda facts: {"n_samples": 25},
    ),
    KernelShap: Defaults(
        KLDivergence,
        (20,),
        "20 patches a second",
        "n_samples: 2 × patches, at least 100",
        _regression,
        _token_regression,
    ),
    Lime: Defaults(
        KLDivergence,
        (20,),
        "20 patches a second",
        "n_samples: 2 × patches, at least 100",
        _regression,
        _token_regression,
    ),
    IntegratedGradients: Defaults(
        TokenLogProbability, None, "bins", "n_steps: 25", lambda facts: {"n_steps": 25}, lambda facts: {"n_steps": 25}
    ),
    GradientShap: Defaults(
        TokenLogProbability,
        None,
        "bins",
        "n_samples: 20",
        lambda facts: {"n_samples": 20, "stdevs": _noise(facts)},
        lambda facts: {"n_samples": 20},
    ),
    DeepLift: Defaults(TokenLogit, None, "bins", "2 a token"),
    Saliency: Defaults(TokenLogProbability, None, "bins", "1", signed=False),
    AttnLRP: Defaults(TokenLogit, None, "bins", "1"),
    CrossAttention: Defaults(
        KLDivergence, None, "encoder positions (0.02 s)", "1, without a backward", signed=False, knows_frequency=False
    ),
    Random: Defaults(KLDivergence, None, "bins", NO_PASSES, signed=False, knows_frequency=False),
    Energy: Defaults(KLDivergence, None, "bins", NO_PASSES),
    # any other, such as one of the user's own
    PerturbationAttribution: Defaults(KLDivergence, (60,), "60 patches a second", "its own"),
    GradientAttribution: Defaults(TokenLogProbability, None, "bins", "1"),
}

# why not, and what works instead
REFUSED: dict[type[Attribution], str] = {
    FeaturePermutation: (
        "it shuffles features between the examples of a batch, and one utterance has none to shuffle with: all its "
        "attributions would be 0. FeatureAblation replaces features by the baseline"
    ),
    ShapleyValues: "it tries all orders of the features, whose number is a factorial: use ShapleyValueSampling",
    LimeBase: "it has no perturbation function for a feature mask: use Lime or KernelShap",
    DeepLiftShap: "it needs a distribution of baselines: use GradientShap, or DeepLift with one baseline",
    LRP: "it has rules for few kinds of modules, none for attention: use IntegratedGradients or InputXGradient",
    GuidedGradCam: "it explains a layer of convolutions: use Saliency or IntegratedGradients",
    LayerAttribution: "it explains a layer of the model and not its input",
    NeuronAttribution: "it explains a neuron of the model and not what it writes",
}


def defaults_of(method: Attribution) -> Defaults:
    """The defaults of a method's class.

    Raises:
        TypeError: the method cannot explain a speech-to-text model; the message names one that can.
    """
    if isinstance(method, NoiseTunnel):
        return defaults_of(method.attribution_method)
    name = type(method).__name__
    for refused, reason in REFUSED.items():
        # Lime is a LimeBase, and many are what their own base class is not
        if isinstance(method, refused) and not any(isinstance(method, one) for one in _more_special(refused)):
            raise TypeError(f"{name} cannot explain a speech-to-text model: {reason}.")
    for cls, defaults in DEFAULTS.items():
        if isinstance(method, cls):
            return defaults
    raise TypeError(
        f"{name} is not supported: give a perturbation or gradient method of captum.attr, such as "
        "FeatureAblation(model) or IntegratedGradients(model), or SPES(model)."
    )


def _more_special(refused: type[Attribution]) -> list[type[Attribution]]:
    return [cls for cls in DEFAULTS if cls is not refused and issubclass(cls, refused)]


def innermost(method: Attribution) -> Attribution:
    """The method inside NoiseTunnel, or the method itself."""
    return innermost(method.attribution_method) if isinstance(method, NoiseTunnel) else method


def is_hooked(method: Attribution) -> bool:
    """Whether a method, or the one inside it, puts hooks on the model's modules."""
    return isinstance(innermost(method), HOOKED)


def accepted(method: Attribution) -> dict[str, Any]:
    """The arguments of a method's ``attribute`` and of the method inside it, with their defaults."""
    parameters = signature(method.attribute).parameters.values()
    own = {item.name: item.default for item in parameters if item.name not in {"self", "kwargs"}}
    return {**accepted(method.attribution_method), **own} if isinstance(method, NoiseTunnel) else own


def token_method(method: Attribution, n_previous: int) -> Any:
    """The method for the previous tokens: NoiseTunnel's inner method, and SPES for BubbleNoise and GradientSPES.

    BubbleNoise perturbs only spectrograms. In the time of GradientSPES's backward for each token, SPES evaluates dozens
    of perturbations of the tokens, for which the encoder does not run.
    """
    if isinstance(method, NoiseTunnel):
        return token_method(method.attribution_method, n_previous)
    if isinstance(method, (BubbleNoise, GradientSPES)):
        return SPES(method.forward_func)
    # KernelShap has nothing to draw for one feature; ShapleyValueSampling gives the same result
    if isinstance(method, KernelShap) and n_previous == 1:
        return ShapleyValueSampling(method.forward_func)
    return method


def asks_model(method: Attribution) -> bool:
    """Whether a method calls the forward function, unlike CrossAttention, Random and Energy."""
    return not isinstance(method, WITHOUT_SCORE)


def title(method: Attribution) -> str:
    """The name of a method in results."""
    if isinstance(method, NoiseTunnel):
        return f"{method.get_name()} over {title(method.attribution_method)}"
    return method.get_name()


def spectrogram_arguments(method: Attribution, facts: Facts, given: Arguments) -> Arguments:
    """A method's arguments for the spectrogram: its defaults for speech, and those of the caller."""
    if (
        isinstance(innermost(method), KernelShap)
        and facts.feature_mask is not None
        and facts.feature_mask.unique().numel() < 2
    ):
        raise ValueError("KernelShap needs at least two patches and there is one: give a feature_mask with more.")
    if "sliding_window_shapes" in given:
        given = {"strides": _half(given["sliding_window_shapes"]), **given}
    noise = {"nt_samples": 10, "stdevs": _noise(facts)} if isinstance(method, NoiseTunnel) else {}
    return defaults_of(method).spectrogram(facts) | noise | given


def token_arguments(method: Attribution, facts: Facts, given: Arguments) -> Arguments:
    """A method's arguments for the previous tokens."""
    return defaults_of(method).tokens(facts) | given


def shared_with_tokens(given: Arguments) -> Arguments:
    """The caller's arguments that are also passed to the call for the previous tokens."""
    return {name: value for name, value in given.items() if name not in SPECTROGRAM_ONLY}


def uses_patches(method: Attribution) -> bool:
    """Whether a method takes a feature mask."""
    return "feature_mask" in accepted(method)


def default_patches(method: Attribution, given: Arguments, seconds: float) -> tuple[int, ...] | None:
    """Granularities of a method's SLIC feature mask; None for a method of bins.

    SPES has the paper's if there are at least as many samples as patches of the middle granularity. With fewer samples
    the patches are larger, as many as there are samples, but at least 40 a second; benchmarks/estimators.py has the
    reason.

    Args:
        method: the method.
        given: the arguments of the caller.
        seconds: duration of the utterance, at most the paper's τ, from which the number of patches does not grow.
    """
    patches = defaults_of(method).patches_per_second
    if patches is None or not uses_patches(method):
        return None
    if not isinstance(method, SPES):
        return patches
    middle = patches[len(patches) // 2]
    affordable = given.get("n_samples", PAPER_SAMPLES) / seconds
    share = min(max(affordable, FEWEST_PATCHES) / middle, 1)
    return tuple(round(share * count) for count in patches)


def coarser_masks(source: object, spectrogram: Tensor, mask: Tensor | None) -> list[Tensor]:
    """A mask by SLIC and masks with fewer, larger patches, from fine to coarse, down to about 40 patches a second.

    A method with a value for each bin pools over the finest of them that is reliable. The list is empty for masks that
    are not made by SLIC from a number of patches a second.
    """
    if mask is None or not isinstance(source, partial) or source.func is not slic_feature_mask:
        return []
    patches = source.keywords.get("patches_per_second")
    if patches is None:
        return []
    patches = (patches,) if isinstance(patches, (int, float)) else tuple(patches)
    scales = [scale for scale in COARSER if scale * min(patches) >= FEWEST_PATCHES * 0.8]
    coarser = [
        source(spectrogram, patches_per_second=tuple(round(scale * count) for count in patches)) for scale in scales
    ]
    return [mask, *(found.expand_as(mask) for found in coarser)]


def baselines_for(method: Attribution, baseline: Tensor | float, inputs: Tensor) -> Arguments:
    """The baseline as argument of a method: Captum needs the input's shape, and some methods take no baseline."""
    if "baselines" not in accepted(method):
        return {}
    return {"baselines": torch.as_tensor(baseline, device=inputs.device).to(inputs.dtype).expand_as(inputs)}
