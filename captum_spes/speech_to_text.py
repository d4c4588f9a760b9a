"""A Captum attribution method, wrapped to explain what a speech-to-text model writes."""

from __future__ import annotations

import platform
import warnings
from collections.abc import Callable, Sequence
from copy import copy
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from inspect import signature
from typing import Any

import numpy as np
import torch
from captum.attr import Attribution, FeatureAblation
from torch import Tensor

from captum_spes.attr import SPES
from captum_spes.attr._features import FeatureLayout
from captum_spes.attr.spes import check_counts
from captum_spes.audio import AudioLike, load_audio
from captum_spes.explanation import SpeechToTextExplanation
from captum_spes.forward_func import KLDivergence, TokenLogProbability, TokenProbability
from captum_spes.models.context import Context, Dtype, context_seconds, fit_utterance
from captum_spes.models.protocol import SpeechToTextModel, Tokens, Utterance
from captum_spes.segmentation import slic_feature_mask

Score = type[KLDivergence] | type[TokenProbability] | type[TokenLogProbability]
Stage = Callable[[str, int, int], bool | None]

# of two halves of the samples; below it, a map says little about single patches
LOW_RELIABILITY = 0.5
# the paper's hyper-parameters (§6); those of the spectrogram are SPES's own
TOKEN_DEFAULTS = {"n_samples": 2_000, "perturbation_prob": 0.4}
SPECTROGRAM_DEFAULTS = {
    name: signature(SPES.attribute).parameters[name].default for name in ("n_samples", "perturbation_prob")
}


class SpeechToTextAttribution(Attribution):
    """Explains a speech-to-text model token by token, from the spectrogram and from the tokens before.

    As Captum's ``LLMAttribution`` does for language models, it takes an attribution method that was made with the
    model, and runs it on a forward function of its own: how close the teacher-forced prediction of every token stays
    to the original. All tokens come from one run. The spectrogram and the previous tokens are attributed in two
    calls, as in the paper (§4, Appendix A.2.2); previous tokens are perturbed by zeroing their embeddings (value
    zeroing), while their positions stay.

    Args:
        attr_method: a Captum attribution method whose ``forward_func`` is a model from
            :func:`~captum_spes.models.load_model` or another
            :class:`~captum_spes.models.SpeechToTextModel`: :class:`SPES`, or Captum's FeatureAblation.
        score: the forward function: :class:`KLDivergence` (the paper's), :class:`TokenProbability` or
            :class:`TokenLogProbability`.

    Raises:
        TypeError: another method, or a method of something that is no speech-to-text model.

    Example::

        >>> from captum_spes import SPES, SpeechToTextAttribution
        >>> from captum_spes.models import load_model
        >>> model = load_model("whisper-tiny.en")  # doctest: +SKIP
        >>> explanation = SpeechToTextAttribution(SPES(model)).attribute("speech.wav", n_samples=500)  # doctest: +SKIP
        >>> explanation.plot_tokens().savefig("tokens.png")  # doctest: +SKIP
    """

    SUPPORTED_METHODS = (SPES, FeatureAblation)

    def __init__(self, attr_method: Attribution, score: Score = KLDivergence) -> None:
        if not isinstance(attr_method, SPES) and type(attr_method) is not FeatureAblation:
            names = ", ".join(method.__name__ for method in self.SUPPORTED_METHODS)
            raise TypeError(f"{type(attr_method).__name__} is not supported: use one of {names}.")
        model = attr_method.forward_func
        if not isinstance(model, SpeechToTextModel):
            raise TypeError(
                f"the method's forward_func must be a speech-to-text model, not {type(model).__name__}: "
                "make it with captum_spes.models.load_model, as in SPES(load_model('whisper-tiny.en'))."
            )
        super().__init__(attr_method.forward_func)
        self.model: SpeechToTextModel = model
        self.attr_method = copy(attr_method)  # the caller's own stays as it is
        self.score = score

    def prepare(
        self,
        inputs: AudioLike | Utterance,
        target: str | Sequence[int] | Tensor | Tokens | None = None,
        *,
        sampling_rate: int | None = None,
        gen_args: dict[str, Any] | None = None,
        context: Context = "full",
        dtype: Dtype | None = None,
    ) -> tuple[Utterance, Tokens]:
        """Does what comes before the attribution: reads the audio, fits the context, lets the model write.

        :meth:`attribute` does it too. It is there for those who want to see the text first; arguments and errors are
        those of :meth:`attribute`, which takes the result in place of ``inputs`` and ``target``.

        Returns:
            (Utterance, Tokens): what the model hears, and the tokens to explain.
        """
        if isinstance(inputs, Utterance):
            if context != "full" or dtype is not None:
                raise ValueError("context and dtype belong to prepare(), which has made this utterance.")
            utterance = inputs
        elif isinstance(inputs, Tensor) and inputs.dim() == 3:
            utterance = self.model.from_features(inputs)
        else:
            utterance = self.model.utterance(load_audio(inputs, self.model.sample_rate, sampling_rate))
        if target is not None and not isinstance(target, Tokens):
            target = self.model.tokens(target, utterance)
        if not isinstance(inputs, Utterance):
            utterance = fit_utterance(self.model, utterance, context, dtype, gen_args)
        if target is None:
            target = self.model.generate(utterance, **(gen_args or {}))
            if not self.text(target):
                raise ValueError(f"{self.model.name} hears no words in this audio: give the text to explain as target.")
        return utterance, target

    def text(self, tokens: Tokens) -> str:
        """The text of the target tokens, without marks such as the end of the text."""
        texts = zip(self.model.token_texts(tokens.target), self.model.is_special(tokens.target))
        return "".join(text for text, special in texts if not special).strip()

    def attribute(
        self,
        inputs: AudioLike | Utterance,
        target: str | Sequence[int] | Tensor | Tokens | None = None,
        *,
        sampling_rate: int | None = None,
        baselines: Tensor | float | None = None,
        feature_mask: Tensor | Callable[[Tensor], Tensor] | None = None,
        n_samples: int | None = None,
        n_token_samples: int | None = None,
        perturbation_prob: float | None = None,
        token_perturbation_prob: float | None = None,
        perturbations_per_eval: int = 16,
        seed: int = 0,
        gen_args: dict[str, Any] | None = None,
        context: Context = "full",
        dtype: Dtype | None = None,
        show_progress: bool = False,
        callback: Stage | None = None,
    ) -> SpeechToTextExplanation:
        """Explains one utterance.

        Args:
            inputs: path of an audio file; samples, an array or tensor of one or two dimensions, with
                ``sampling_rate``; the model's features, a tensor of shape (1, T, C); or an utterance from
                :meth:`prepare`.
            target: the text to explain, or its token ids. Default: what the model writes.
            sampling_rate: samples a second of an array of samples.
            baselines: what hidden bins become: a number, or a tensor that broadcasts to (1, T, C). Default: the
                model's, each mel channel's mean over the utterance.
            feature_mask: patches as a tensor (1, T, C) or (S, 1, T, C), or a function that makes them of the
                spectrogram (1, T, C), such as ``functools.partial(slic_feature_mask, patches_per_second=500)``.
                Default: :func:`~captum_spes.slic_feature_mask` with the paper's values. Methods of one granularity
                are given the first.
            n_samples: perturbations of the spectrogram. Default: the method's own; SPES's is the paper's 20,000.
            n_token_samples: perturbations of the previous tokens. Default: the paper's 2,000, or all combinations
                where they are no more.
            perturbation_prob: probability of hiding a patch. Default: the paper's 0.5.
            token_perturbation_prob: probability of zeroing a previous token. Default: the paper's 0.4.
            perturbations_per_eval: perturbations in a batch; it changes the speed, not the result.
            seed: of the perturbations.
            gen_args: arguments of the model's generation, such as ``{"num_beams": 5}``; they are stored.
            context: ``"full"`` for the model's whole window, ``"auto"`` for the shortest that changes nothing that
                matters, or seconds; see :func:`~captum_spes.models.context.fit_utterance`.
            dtype: precision of the model through autocast, or ``"auto"`` on the same conditions. Default: that of
                the model's weights.
            show_progress: shows a progress bar for each of the two calls.
            callback: called by SPES after every batch as ``callback(stage, done, total)``, stage
                ``"previous tokens"`` or ``"spectrogram"``. When it returns True the rest is left out and the
                explanation marked as partial.

        Returns:
            SpeechToTextExplanation: the maps as the method gave them, not normalised, on the CPU.

        Raises:
            ValueError: audio, target, mask or another argument that cannot be used; the message says why.
            TypeError: an argument that the method does not take.
        """
        utterance, tokens = self.prepare(
            inputs, target, sampling_rate=sampling_rate, gen_args=gen_args, context=context, dtype=dtype
        )
        if feature_mask is None:
            feature_mask = partial(slic_feature_mask, frames_per_second=self.model.frames_per_second)
        mask = feature_mask if isinstance(feature_mask, Tensor) else feature_mask(utterance.spectrogram)
        baseline = _format_baseline(self.model.baseline(utterance) if baselines is None else baselines, utterance)
        given = _given(n_samples=n_samples, perturbation_prob=perturbation_prob)
        token_given = _given(n_samples=n_token_samples, perturbation_prob=token_perturbation_prob)
        if isinstance(self.attr_method, SPES):
            given = {**SPECTROGRAM_DEFAULTS, **given, **_given(seed=seed)}
            token_given = {**TOKEN_DEFAULTS, **token_given, **_given(seed=seed)}
        elif given | token_given:
            raise TypeError(f"{self.attr_method.get_name()} takes no {' and no '.join(given | token_given)}.")
        elif mask.dim() == 4:
            mask = mask[0]
        # what cannot be is refused before anything is computed
        mask = _check(utterance, mask, perturbations_per_eval, given)
        run = _Run(self, utterance, tokens, perturbations_per_eval, show_progress, callback)
        # Tokens first: they take little, and a run that is stopped later has them whole.
        token_attr, _ = run.attribute_tokens(token_given)
        spectrogram_attr, reliability = run.attribute_spectrogram(baseline, mask, given)
        metadata = {
            "model": self.model.name,
            "method": self.attr_method.get_name(),
            "score": self.score.__name__,
            "arguments": given,
            "token_arguments": token_given,
            "done": run.done,
            "partial": run.stopped,
            "baseline": self.model.baseline_name if baselines is None else _describe(baselines),
            "feature_mask": _describe(feature_mask),
            "gen_args": {key: _describe(value) for key, value in (gen_args or {}).items()},
            **_describe_inputs(self.model, utterance, tokens),
            "versions": _versions(),
        }
        explanation = self._explanation(utterance, tokens, mask, spectrogram_attr, token_attr, reliability, metadata)
        if message := low_reliability(explanation):
            warnings.warn(message, stacklevel=2)
        return explanation

    def attribute_future(self) -> None:
        """Not implemented."""
        raise NotImplementedError("attribute_future is not implemented for SpeechToTextAttribution: use attribute.")

    def _explanation(
        self,
        utterance: Utterance,
        tokens: Tokens,
        mask: Tensor,
        spectrogram_attr: Tensor,
        token_attr: Tensor,
        reliability: Tensor | None,
        metadata: dict[str, Any],
    ) -> SpeechToTextExplanation:
        n_previous = len(tokens.prompt) + torch.arange(len(tokens.target))
        previous_tokens = self.model.token_texts(tokens.previous)
        return SpeechToTextExplanation(
            text=self.text(tokens),
            tokens=self.model.token_texts(tokens.target),
            previous_tokens=previous_tokens,
            spectrogram=utterance.spectrogram[0].float().cpu(),
            spectrogram_attr=spectrogram_attr.float().cpu(),
            # an average over random masks is not 0 for a token that comes later, but that is no feature
            token_attr=torch.where(
                torch.arange(len(previous_tokens)) < n_previous[:, None], token_attr.float().cpu(), 0
            ),
            n_previous=n_previous,
            frames_per_second=self.model.frames_per_second,
            mel_frequencies=torch.as_tensor(np.asarray(self.model.mel_frequencies), dtype=torch.float32),
            reliability=reliability,
            feature_mask=mask.cpu().long().reshape(-1, *utterance.spectrogram.shape[1:]),
            metadata=metadata,
        )


def low_reliability(explanation: SpeechToTextExplanation) -> str | None:
    """What to say, and to do, of an explanation whose halves agree little; None where they agree."""
    if explanation.reliability is None or (mean := float(explanation.reliability.mean())) >= LOW_RELIABILITY:
        return None
    return (
        f"the maps are noisy: those of two halves of the samples correlate at {mean:.2f}. Take more samples "
        "(n_samples, --n-samples), or fewer and larger patches (feature_mask)."
    )


class _Run:
    """The two calls of a method for one utterance."""

    def __init__(
        self,
        wrapper: SpeechToTextAttribution,
        utterance: Utterance,
        tokens: Tokens,
        perturbations_per_eval: int,
        show_progress: bool,
        callback: Stage | None,
    ) -> None:
        self.model = wrapper.model
        self.method = copy(wrapper.attr_method)
        self.score = wrapper.score
        self.utterance = utterance
        self.tokens = tokens
        self.common = {"perturbations_per_eval": perturbations_per_eval, "show_progress": show_progress}
        self.callback = callback
        self.done: dict[str, int] = {}
        self.stopped = False
        with torch.no_grad():
            self.encoded = self.model.encode(utterance.spectrogram, utterance)
            self.reference = self.model.logits(self.encoded, tokens)

    def attribute_tokens(self, given: dict[str, Any]) -> tuple[Tensor, Tensor | None]:
        """Attributions (K, J) of the previous tokens: the encoder has run once, the decoder runs for each sample."""
        gate = torch.ones(1, len(self.tokens.previous), device=self.reference.device)
        return self._attribute(
            "previous tokens", lambda gate: self.model.logits(self.encoded, self.tokens, gate), gate, given
        )

    def attribute_spectrogram(
        self, baseline: Tensor | float, mask: Tensor, given: dict[str, Any]
    ) -> tuple[Tensor, Tensor | None]:
        """Attributions (K, T, C) of the spectrogram."""
        return self._attribute(
            "spectrogram",
            lambda spectrogram: self.model.logits(self.model.encode(spectrogram, self.utterance), self.tokens),
            self.utterance.spectrogram,
            {"baselines": baseline, "feature_mask": mask, **given},
        )

    def _attribute(
        self, stage: str, logits: Callable[[Tensor], Tensor], inputs: Tensor, given: dict[str, Any]
    ) -> tuple[Tensor, Tensor | None]:
        self.method.forward_func = self.score.from_prediction(logits, self.reference, self.tokens.target)
        arguments = self.common | given
        if not isinstance(self.method, SPES):
            return self.method.attribute(inputs, **arguments), None
        return self.method.attribute(
            inputs, **arguments, return_reliability=True, callback=partial(self._after_batch, stage)
        )

    def _after_batch(self, stage: str, done: int, total: int) -> bool:
        self.done[stage] = done
        stop = self.callback is not None and bool(self.callback(stage, done, total))
        self.stopped |= stop and done < total
        return stop


def _given(**arguments: Any) -> dict[str, Any]:
    """The arguments that a caller gave, as plain numbers that a file can hold."""
    return {
        name: value.item() if hasattr(value, "item") else value
        for name, value in arguments.items()
        if value is not None
    }


def _format_baseline(baseline: Tensor | float, utterance: Utterance) -> Tensor | float:
    """A baseline with the spectrogram's dimensions and device, whatever it leaves out."""
    if not isinstance(baseline, Tensor) or not baseline.dim():
        return float(baseline)
    spectrogram = utterance.spectrogram
    return baseline.to(spectrogram.device).reshape(*[1] * (spectrogram.dim() - baseline.dim()), *baseline.shape)


def _check(utterance: Utterance, mask: Tensor, perturbations_per_eval: int, given: dict[str, Any]) -> Tensor:
    """The mask with the spectrogram's size and device, checked together with the arguments that belong to it."""
    spectrogram = utterance.spectrogram
    prob = given.get("perturbation_prob", SPECTROGRAM_DEFAULTS["perturbation_prob"])
    layout = FeatureLayout.create((spectrogram,), mask, prob)
    n_samples = given.get("n_samples", layout.n_granularities)
    check_counts(n_samples, perturbations_per_eval, layout.n_granularities)
    leading = mask.shape[:-2] if mask.dim() > 2 else (1,)
    return mask.to(spectrogram.device).expand(*leading, *spectrogram.shape[1:])


def _describe_inputs(model: SpeechToTextModel, utterance: Utterance, tokens: Tokens) -> dict[str, Any]:
    return {
        "target": "generated" if tokens.generated else "given",
        "token_ids": tokens.target.tolist(),
        "previous_token_ids": tokens.previous.tolist(),
        "context_seconds": context_seconds(model, utterance),
        "padding_value": float(utterance.padding.min()) if utterance.padding.numel() else None,
        "dtype": str(utterance.dtype).removeprefix("torch."),
        "device": str(utterance.spectrogram.device),
    }


def _describe(value: object) -> Any:
    """A value for the metadata: as it is where JSON can hold it."""
    if isinstance(value, (bool, int, float, str, type(None))):
        return value
    if isinstance(value, Tensor):
        return float(value) if value.numel() == 1 else f"tensor of shape {tuple(value.shape)}"
    if isinstance(value, partial):
        # what was given, and what the function takes by itself
        parameters = signature(value.func).parameters.values()
        defaults = {item.name: item.default for item in parameters if item.default is not item.empty}
        return {
            "function": value.func.__name__,
            **{key: str(item) for key, item in {**defaults, **value.keywords}.items()},
        }
    return getattr(value, "__name__", str(value))


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for package in ("captum-spes", "captum", "torch", "transformers", "scikit-image", "numpy"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return versions
