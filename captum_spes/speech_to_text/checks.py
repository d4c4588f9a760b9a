"""Refuses methods, scores and arguments that do not suit a speech-to-text model, and maps that do not add up."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral, Real

import torch
from captum.attr import (
    Attribution,
    Deconvolution,
    DeepLift,
    GradientAttribution,
    GuidedBackprop,
    InputXGradient,
    Saliency,
)
from torch import Tensor, nn

from captum_spes.alignment import Segment
from captum_spes.alignment.times import LATEST_SECONDS
from captum_spes.attr import SPES, AttnLRP, CrossAttention, GradientSPES
from captum_spes.attr.batches import check_positive
from captum_spes.attr.features import check_seed
from captum_spes.attr.stopping import check_reliability
from captum_spes.forward_func import CTCLogLikelihood, KLDivergence
from captum_spes.models.protocol import SpeechToTextModel
from captum_spes.models.wrappers import is_quantized
from captum_spes.speech_to_text.profiles import ALL_TOKENS, SCORES, Arguments, accepted, innermost, title
from captum_spes.speech_to_text.targets import Contrast

# The gradient of a KL divergence is 0 where nothing is perturbed, which is where these take it.
LOCAL = (Saliency, InputXGradient, GuidedBackprop, Deconvolution, AttnLRP)
LATE_SECONDS = 1.0  # by which times of other systems may exceed the recording
# what the wrapper gives by itself
SET_BY_WRAPPER = {
    *("self", "inputs", "baselines", "target", "additional_forward_args", "feature_mask", "perturbations_per_eval"),
    *("show_progress", "seed", "callback", "process_group", "checkpoint", "min_reliability", "pooling_masks"),
    *("return_reliability", "return_pooling", "return_convergence_delta", "return_input_shape", "centered", "kwargs"),
    *("internal_batch_size", "nt_samples_batch_size", "attribute_to_layer_input"),
}


def check_score(method: Attribution, score: object) -> None:
    """Raises a TypeError for something else than a score, and a ValueError if the attributions would be 0."""
    if score is not None and not (isinstance(score, type) and hasattr(score, "from_prediction")):
        raise TypeError(
            f"score must be one of the classes {', '.join(one.__name__ for one in SCORES)}, not {score!r} (of a CTC "
            f"model also {CTCLogLikelihood.__name__}); for a word against another give attribute() a contrast."
        )
    # NoiseTunnel has no noise for the previous tokens
    if isinstance(innermost(method), LOCAL) and score is KLDivergence:
        raise ValueError(
            f"the gradient of KLDivergence is 0 at the unperturbed input, where {title(method)} takes it: use "
            "score=TokenLogProbability, or a method that also takes it elsewhere, such as IntegratedGradients."
        )


def check_gradients(method: Attribution, model: SpeechToTextModel) -> None:
    """Raises a ValueError for a method that needs gradients, if the model has none."""
    inside = getattr(model, "model", None)
    needs_gradients = isinstance(innermost(method), (GradientAttribution, GradientSPES))
    if needs_gradients and isinstance(inside, nn.Module) and is_quantized(inside):
        raise ValueError(
            f"{title(method)} needs gradients, and none flow through the quantised layers of {model.name}, so that its "
            "maps would be 0: use the model before it was quantised, or a perturbation method such as SPES."
        )


def check_grad_mode(method: Attribution) -> None:
    """Raises a ValueError for a method that needs gradients where torch records none at all."""
    if isinstance(innermost(method), (GradientAttribution, GradientSPES)) and torch.is_inference_mode_enabled():
        raise ValueError(
            f"{title(method)} needs gradients, which torch.inference_mode() does not record: leave it; "
            "torch.no_grad() may stay."
        )


def check_hooks(method: Attribution, model: object) -> None:
    """Raises a TypeError if a method that hooks modules finds none of the modules that it knows."""
    method = innermost(method)
    name = type(method).__name__
    if not isinstance(model, nn.Module):
        raise TypeError(
            f"{name} hooks the model's non-linearities, which must be modules of it, but those of "
            f"{getattr(model, 'name', type(model).__name__)} are functions (GELU, attention): use IntegratedGradients "
            "or GradientShap with the same baseline."
        )
    if not isinstance(method, DeepLift) and not any(isinstance(module, nn.ReLU) for module in model.modules()):
        raise TypeError(f"{name} changes the gradient of nn.ReLU modules and the model has none: use Saliency.")


def check_rules(method: Attribution, model: object) -> None:
    """Raises a TypeError if a method that reads or changes the layers of a model does not support this model."""
    method = innermost(method)
    name = getattr(model, "name", type(model).__name__)
    if isinstance(method, AttnLRP) and getattr(model, "has_gated_products", False):
        raise TypeError(
            f"AttnLRP has no rule for the gated layers (SwiGLU) of {name}, whose relevance would be counted twice: "
            "use IntegratedGradients or GradientSPES."
        )
    if isinstance(method, CrossAttention) and not hasattr(model, "attention_weights"):
        raise TypeError(f"CrossAttention reads the attention weights of Whisper models, not those of {name}: use SPES.")


def check_known(method: Attribution, given: Arguments) -> None:
    """Raises a TypeError for an argument that the method does not take, or that the wrapper sets."""
    known = accepted(method).keys() - SET_BY_WRAPPER
    if unknown := [name for name in given if name not in known]:
        has = f"it takes {', '.join(sorted(known))}" if known else "it takes none"
        raise TypeError(f"{title(method)} takes no {' and no '.join(unknown)}; {has}.")


def check_types(baselines: object, feature_mask: object, contrast: object) -> None:
    """Raises a TypeError for an argument of another type, such as an array of NumPy."""
    if not isinstance(baselines, (Real, Tensor, type(None))):
        raise TypeError(f"baselines must be a number or a tensor, not {type(baselines).__name__}.")
    if not (feature_mask is None or isinstance(feature_mask, Tensor) or callable(feature_mask)):
        raise TypeError(
            f"feature_mask must be a tensor, or a function that makes it from the spectrogram, not "
            f"{type(feature_mask).__name__}."
        )
    if not isinstance(contrast, (Contrast, type(None))):
        raise TypeError(f"contrast must be a Contrast, such as Contrast('what', foil='was'), not {contrast!r:.80}.")
    if isinstance(contrast, Contrast) and not isinstance(contrast.foil, (str, type(None))):
        raise TypeError(f"the foil of a contrast is its text, or None for the strongest, not {contrast.foil!r:.80}.")
    if isinstance(contrast, Contrast) and not _is_place(contrast.word):
        raise TypeError(
            "the word of a contrast is its text, its number, or a pair of numbers (first, last), not "
            f"{contrast.word!r:.80}."
        )


def _is_place(word: object) -> bool:
    numbers = word if isinstance(word, tuple) and len(word) == 2 else (word,)
    return isinstance(word, str) or all(isinstance(number, Integral) for number in numbers)


def check_arguments(
    method: Attribution,
    baselines: object,
    feature_mask: object,
    joint: bool,
    token_values: bool,
    process_group: object = None,
    min_reliability: object = None,
) -> None:
    """Raises a TypeError for arguments that the method does not use, and a ValueError for an impossible reliability."""
    check_reliability(min_reliability)
    known = accepted(method)
    is_spes = isinstance(method, SPES)
    useless = {
        "baselines": baselines is not None and "baselines" not in known,
        "min_reliability": min_reliability is not None and "min_reliability" not in known,
        "feature_mask": feature_mask is not None and "feature_mask" not in known,
        "joint": joint and not is_spes,
        "token_values": token_values and not is_spes,
        "process_group": process_group is not None and not isinstance(method, ALL_TOKENS),
    }
    if names := [name for name, value in useless.items() if value]:
        raise TypeError(f"{title(method)} takes no {' and no '.join(names)}: leave it out, or use a method that does.")


def check_options(seed: int, perturbations_per_eval: int | None) -> None:
    """Raises a ValueError for a seed or a batch size that no method takes."""
    check_seed(seed)
    if perturbations_per_eval is not None:
        check_positive(perturbations_per_eval=perturbations_per_eval)


def check_times(words: Sequence[Segment]) -> None:
    """Raises a ValueError for words whose times are impossible. A word without duration was not found."""
    for word in words:
        times = word.begin, word.end
        if not all(isinstance(time, Real) for time in times) or not 0 <= times[0] <= times[1] < LATEST_SECONDS:
            raise ValueError(
                f"word_times has {word.text!r:.60} from {word.begin} to {word.end} s: a word must not begin before "
                f"0 s, must not end before it begins, and must end before {LATEST_SECONDS:g} s."
            )


def check_begins(words: Sequence[Segment], duration: float) -> None:
    """Raises a ValueError if all words begin after the utterance of this many seconds, as in another recording."""
    if words and min(word.begin for word in words) >= duration + LATE_SECONDS:
        raise ValueError(
            f"word_times has {words[0].text!r:.60} from {words[0].begin:g} s on, and the utterance lasts {duration:g} "
            "s: give the times of this utterance, from its beginning."
        )


def check_completeness(attributions: Tensor, differences: Tensor) -> None:
    """Raises a ValueError if DeepLift's attributions (K, …) do not sum to the differences (K,) of the scores.

    They do if all non-linearities are modules that DeepLift knows, and no other parts are multiplied.
    """
    totals = attributions.flatten(1).sum(1)
    error = float((totals - differences).abs().max() / differences.abs().max().clamp(min=1e-6))
    if error > 0.05:
        raise ValueError(
            f"DeepLift's attributions differ from the difference of the scores by {error:.0%}: the model, or a score "
            "other than TokenLogit, has non-linearities that are not modules known to DeepLift (functions, GELU, "
            "attention, LayerNorm). Take IntegratedGradients or GradientShap with the same baseline."
        )
