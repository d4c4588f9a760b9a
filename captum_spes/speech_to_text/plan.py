"""Completes and checks the arguments of an attribution method, before anything expensive is computed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from captum._utils.common import _is_mask_valid
from captum.attr import Attribution
from torch import Tensor

from captum_spes.attr import CrossAttention, GradientSPES
from captum_spes.attr.batches import check_counts
from captum_spes.attr.features import FeatureLayout
from captum_spes.forward_func import CTCLogLikelihood
from captum_spes.models import SpeechToTextModel, Tokens, Utterance, text
from captum_spes.models.protocol import Task, task_of
from captum_spes.segmentation import MAX_SECONDS, slic_feature_mask
from captum_spes.speech_to_text import profiles
from captum_spes.speech_to_text.checks import check_known
from captum_spes.speech_to_text.targets import (
    Contrast,
    PathsPrediction,
    Prediction,
    TextPrediction,
    TokenPrediction,
    WordPrediction,
)

MaskSource = Tensor | Callable[[Tensor], Tensor] | None


@dataclass(frozen=True, eq=False)
class Plan:
    """One explanation before the method runs.

    Attributes:
        method: the attribution method for the spectrogram.
        token_method: the attribution method for the previous tokens.
        utterance: the utterance.
        tokens: the tokens of its text.
        prediction: the rows to explain and their forward function.
        baseline: the values that replace hidden bins; a number, or a tensor that broadcasts to the spectrogram.
        mask_source: the feature mask as it was given, or the function that made it.
        mask: the feature mask, with the spectrogram's size and device; None if every bin is a feature.
        arguments: the arguments of the method's ``attribute`` for the spectrogram.
        token_arguments: the arguments of the token method's ``attribute`` for the previous tokens.
        joint: whether spectrogram and previous tokens are perturbed at the same time.
        token_values: whether the single values of the embeddings are the features.
        pooling_masks: masks from fine to coarse; GradientSPES pools over the finest reliable one. Empty if it keeps
            the feature mask.
    """

    method: Attribution
    token_method: Attribution
    utterance: Utterance
    tokens: Tokens
    prediction: Prediction
    baseline: Tensor | float
    mask_source: MaskSource
    mask: Tensor | None
    arguments: dict[str, Any]
    token_arguments: dict[str, Any]
    joint: bool
    token_values: bool
    pooling_masks: list[Tensor]


def make_plan(
    method: Attribution,
    utterance: Utterance,
    tokens: Tokens,
    prediction: Prediction,
    *,
    baselines: Tensor | float | None,
    feature_mask: MaskSource,
    perturbations_per_eval: int | None,
    joint: bool,
    token_values: bool,
    adapt_patches: bool,
    given: dict[str, Any],
    token_given: dict[str, Any],
) -> Plan:
    """Completes the caller's arguments by the defaults of the method and of the model.

    Args:
        adapt_patches: whether GradientSPES may pool over fewer and larger patches than those of the mask.
        given: the caller's further arguments of the method's ``attribute`` for the spectrogram.
        token_given: the caller's further arguments for the previous tokens.
        The others are those of :meth:`.SpeechToTextAttribution.attribute`.

    Raises:
        ValueError: a mask, a baseline or numbers do not fit the utterance or each other.
        TypeError: the method for the tokens does not take an argument.
    """
    model = prediction.model
    if joint and not len(prediction.previous):
        raise ValueError(f"{model.name} writes all tokens at once: there are no previous tokens to perturb.")
    baseline = format_baseline(model.baseline(utterance) if baselines is None else baselines, utterance)
    mask_source = _mask_source(method, model, utterance, task_of(model, utterance, tokens), given, feature_mask)
    mask = mask_source(utterance.spectrogram) if callable(mask_source) else mask_source
    if mask_source is not None and not isinstance(mask, Tensor):
        raise TypeError(f"the function feature_mask returned {mask!r:.80}: expected a tensor of patch numbers.")
    if mask is not None and not isinstance(method, profiles.MULTI_SCALE):
        mask = mask[0] if mask.dim() == 4 else mask
        if not mask.is_floating_point() and not mask.is_complex():  # which are refused below
            # some methods of Captum take every number up to the largest for a feature
            mask = mask.unique(return_inverse=True)[1]
    facts = profiles.Facts(utterance.spectrogram, model.frames_per_second, mask, len(prediction.previous))
    arguments = profiles.spectrogram_arguments(method, facts, given)
    token_method = profiles.token_method(method, facts.n_previous)
    check_known(token_method, token_given)
    token_arguments = profiles.token_arguments(token_method, facts, token_given)
    if joint:  # the previous tokens are perturbed in the call for the spectrogram, with its samples
        token_arguments = {"perturbation_prob": token_arguments["perturbation_prob"]}
    elif not facts.n_previous:
        token_arguments = {}
    mask = _check(utterance, mask, perturbations_per_eval, arguments)
    pooling_masks: list[Tensor] = []
    if adapt_patches and isinstance(method, GradientSPES) and arguments.get("pool_features", True):
        pooling_masks = profiles.coarser_masks(mask_source, utterance.spectrogram, mask)
    return Plan(
        method,
        token_method,
        utterance,
        tokens,
        prediction,
        baseline,
        mask_source,
        mask,
        arguments,
        token_arguments,
        joint,
        token_values,
        pooling_masks,
    )


def make_prediction(
    model: SpeechToTextModel,
    method: Attribution,
    score: profiles.Score | None,
    utterance: Utterance,
    tokens: Tokens,
    contrast: Contrast | None,
    sentence: bool,
) -> Prediction:
    """Makes the prediction to explain: every token, the text as a whole, or one word against another.

    Raises:
        ValueError: a contrast is given together with ``sentence`` or a score, or the score does not fit the model.
    """
    if isinstance(method, CrossAttention) and (contrast is not None or sentence):
        raise ValueError("CrossAttention explains single tokens: leave out contrast and sentence.")
    if contrast is not None:
        if sentence:
            raise ValueError("a contrast explains one word, and sentence the text as a whole: give one of them.")
        if score is not None:
            raise ValueError(f"a contrast has its own score: leave out score={score.__name__}.")
        return WordPrediction(model, tokens, contrast, utterance)
    if score is CTCLogLikelihood:
        return PathsPrediction(model, tokens, text(model, tokens))
    score = score or profiles.defaults_of(method).score
    if sentence:
        return TextPrediction(model, tokens, score, text(model, tokens))
    return TokenPrediction(model, tokens, score)


def _mask_source(
    method: Attribution,
    model: SpeechToTextModel,
    utterance: Utterance,
    task: Task,
    given: dict[str, Any],
    feature_mask: MaskSource,
) -> MaskSource:
    """The mask as it was given, or the method's default; SLIC gets the arguments that depend on model and task."""
    if feature_mask is None:
        seconds = min(utterance.spectrogram.shape[1] / model.frames_per_second, MAX_SECONDS[task])
        patches = profiles.default_patches(method, given, seconds)
        feature_mask = None if patches is None else partial(slic_feature_mask, patches_per_second=patches)
    elif feature_mask is slic_feature_mask:
        feature_mask = partial(slic_feature_mask)
    if not isinstance(feature_mask, partial) or feature_mask.func is not slic_feature_mask:
        return feature_mask
    known = {"frames_per_second": model.frames_per_second, "max_seconds": MAX_SECONDS[task]}
    return partial(feature_mask, **{**known, **feature_mask.keywords})


def format_baseline(baseline: Tensor | float, utterance: Utterance) -> Tensor | float:
    """A baseline with the spectrogram's number of dimensions and device.

    Raises:
        ValueError: it does not broadcast to the spectrogram, or is not finite.
    """
    if not isinstance(baseline, Tensor) or not baseline.dim():
        baseline = float(baseline)
    if not torch.as_tensor(baseline).isfinite().all():
        raise ValueError("baselines hold infinities or NaN: give finite values, which replace those of hidden bins.")
    if isinstance(baseline, float):
        return baseline
    spectrogram = utterance.spectrogram
    if not _is_mask_valid(baseline, spectrogram):
        raise ValueError(
            f"baselines of shape {tuple(baseline.shape)} do not broadcast to the spectrogram of shape "
            f"{tuple(spectrogram.shape)}: give a number, or a tensor such as (1, 1, {spectrogram.shape[-1]})."
        )
    return baseline.to(spectrogram.device).reshape(*[1] * (spectrogram.dim() - baseline.dim()), *baseline.shape)


def _check(
    utterance: Utterance, mask: Tensor | None, perturbations_per_eval: int | None, arguments: dict[str, Any]
) -> Tensor | None:
    """Checks the mask and the arguments that belong to it; returns it with the spectrogram's size and device."""
    perturbations_per_eval = 1 if perturbations_per_eval is None else perturbations_per_eval
    if mask is None:
        check_counts(arguments.get("n_samples", 1), perturbations_per_eval, 1)
        return None
    spectrogram = utterance.spectrogram
    layout = FeatureLayout.create((spectrogram,), mask, arguments.get("perturbation_prob", 0.5))
    n_samples = arguments.get("n_samples", layout.n_granularities)
    check_counts(n_samples, perturbations_per_eval, layout.n_granularities)
    leading = mask.shape[:-2] if mask.dim() > 2 else (1,)
    return mask.to(spectrogram.device).expand(*leading, *spectrogram.shape[1:])
