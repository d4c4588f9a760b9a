"""Attribution methods by name, each with a fast and a full budget, for the command line and for tables."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from captum.attr import (
    Attribution,
    DeepLift,
    FeatureAblation,
    GradientShap,
    InputXGradient,
    IntegratedGradients,
    KernelShap,
    Lime,
    NoiseTunnel,
    Occlusion,
    PerturbationAttribution,
    Saliency,
    ShapleyValueSampling,
)
from torch import Tensor

from captum_spes.alignment import Transcript
from captum_spes.attr import SPES, AttnLRP, BubbleNoise, CrossAttention, Energy, GradientSPES, Random
from captum_spes.audio import AudioLike
from captum_spes.explanation import LongExplanation, SpeechToTextExplanation
from captum_spes.forward_func import TokenProbability
from captum_spes.models.context import Context, Dtype
from captum_spes.models.protocol import SpeechToTextModel, Tokens, Utterance
from captum_spes.segmentation import grid_feature_mask, slic_feature_mask
from captum_spes.speech_to_text.attribution import SpeechToTextAttribution
from captum_spes.speech_to_text.parts import OnExplained, OnText, ending, explain_parts, settings_of
from captum_spes.speech_to_text.profiles import Defaults, Score, accepted, asks_model, defaults_of

Preset = Literal["instant", "fast", "paper"]

# largest number of backwards of all tokens together with the fast budget
FAST_BACKWARDS = 180
# the reliability at which a run with the fast budget ends
FAST_RELIABILITY = 0.7


@dataclass(frozen=True)
class NamedMethod:
    """An attribution method with its budgets.

    Attributes:
        make: makes the method from a model.
        summary: what it does, for the table of methods.
        score: its forward function; None for the method's default.
        feature_mask: makes its patches of the spectrogram with the paper's budget; None for the method's default.
        arguments: further arguments of :meth:`.SpeechToTextAttribution.attribute`.
        fast_feature_mask: its patches with the fast budget, if they differ.
        fast: arguments that replace ``arguments`` with the fast budget; a function makes a value of the number of
            tokens.
        absolute: whether the maps have absolute values.
        features: its features with the paper's budget, for the table; None as for the method's class.
        cost: its passes of the model for the spectrogram, for the table; None as for the method's class.

    Example::

        >>> from captum_spes import SPES, SpeechToTextAttribution
        >>> from captum_spes.models import load_model
        >>> from captum_spes.speech_to_text.catalogue import NamedMethod
        >>> method = NamedMethod(SPES, "SPES with few samples", fast={"n_samples": 30})
        >>> model = load_model("whisper-tiny.en")
        >>> method.arguments_of(model, "fast"), method.takes_samples
        ({'n_samples': 30}, True)
        >>> method.perturbs, method.samples_perturbations, method.samples_gradients, method.min_samples
        (True, True, False, 3)
        >>> utterance, tokens = method.wrap(model).prepare("speech.wav", "so what")
        >>> method.with_reliability(0.8).arguments_of(model, "fast")["min_reliability"]
        0.8
        >>> explanation = method.with_samples(90).explain(model, utterance, tokens, "fast")
        >>> explanation.metadata["arguments"]["n_samples"]
        90
    """

    make: Callable[[Any], Attribution]
    summary: str
    score: Score | None = None
    feature_mask: Callable[[Tensor], Tensor] | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)
    fast_feature_mask: Callable[[Tensor], Tensor] | None = None
    fast: Mapping[str, Any] = field(default_factory=dict)
    absolute: bool = False
    features: str | None = None
    cost: str | None = None

    def wrap(self, model: SpeechToTextModel) -> SpeechToTextAttribution:
        """The method, wrapped for a model.

        Raises:
            ValueError: the method cannot explain this model.
        """
        try:
            return SpeechToTextAttribution(self.make(model), self.score)
        except TypeError as error:
            raise ValueError(str(error)) from error

    def arguments_of(self, model: SpeechToTextModel, preset: Preset, n_tokens: int | None = None) -> dict[str, Any]:
        """The arguments of :meth:`.SpeechToTextAttribution.attribute` for a budget and a number of tokens.

        Raises:
            ValueError: the budget is instant, and the method draws samples.
        """
        if preset == "instant" and self.takes_samples:
            name = self.make(_placeholder_model).get_name()
            raise ValueError(
                f"{name} draws samples, but the instant preset is for methods without samples: use the fast preset."
            )
        mask = self.fast_feature_mask if preset == "fast" and self.fast_feature_mask else self.feature_mask
        masks = {} if mask is None else {"feature_mask": mask}
        fast = self.fast if preset == "fast" else {}
        if n_tokens is not None:
            fast = {name: value(n_tokens) if callable(value) else value for name, value in fast.items()}
        return {**masks, **self.arguments, **fast}

    def explain(
        self, model: SpeechToTextModel, utterance: Utterance, tokens: Tokens, preset: Preset, **arguments: Any
    ) -> SpeechToTextExplanation:
        """Explains the tokens of a model, with the arguments of a budget; further arguments replace them.

        Raises:
            ValueError: the method cannot explain this model.
        """
        n_rows = len(tokens.target) if arguments.get("contrast") is None else 1
        given = {**self.arguments_of(model, preset, n_rows), **arguments}
        explanation = self.wrap(model).attribute(utterance, tokens, **given)
        if not self.absolute:
            return explanation
        return absolute(explanation)

    def explain_long(
        self,
        model: SpeechToTextModel,
        inputs: AudioLike,
        folder: Path,
        preset: Preset,
        *,
        transcript: Transcript | None = None,
        prompt: str | None = None,
        previous_text: bool = False,
        gen_args: dict[str, Any] | None = None,
        context: Context = "auto",
        dtype: Dtype | None = None,
        on_text: OnText | None = None,
        on_explained: OnExplained | None = None,
        **arguments: Any,
    ) -> LongExplanation:
        """Explains a recording of any length into a folder, with the arguments of a budget.

        It works like :meth:`.SpeechToTextAttribution.attribute_long`, and the two can continue each other's folders if
        their arguments are the same.

        Args:
            model: the model.
            inputs: the recording.
            folder: a new folder, or that of the same explanation.
            preset: the budget.
            transcript: the text to explain, as in :meth:`.SpeechToTextAttribution.attribute_long`.
            prompt: text that the decoder reads before it writes, as in :meth:`.SpeechToTextAttribution.attribute_long`.
            previous_text: whether it reads what was written of the part before.
            gen_args: arguments of the model's generation.
            context: how the model's window is run.
            dtype: precision of the model.
            on_text: called before each part is explained, with the explanation so far, the part's number and its text.
            on_explained: called after each part, with its explanation in place of the text.
            **arguments: further arguments of :meth:`.SpeechToTextAttribution.attribute`, which replace those of the
                budget.

        Raises:
            ValueError: the method cannot explain this model, or the folder holds parts with other settings.

        Example::

            >>> from pathlib import Path
            >>> from captum_spes.models import load_model
            >>> from captum_spes.speech_to_text.catalogue import METHODS
            >>> method, model = METHODS["spes"].with_samples(30), load_model("whisper-tiny.en")
            >>> talk = method.explain_long(model, "speech.wav", Path("speech-parts"), "fast")
            >>> len(talk.parts), talk.missing
            (1, [])
        """
        given = {**self.arguments_of(model, preset), **arguments}
        single = {**arguments, "gen_args": gen_args, "callback": ending(arguments.get("callback"))}
        return explain_parts(
            model,
            inputs,
            folder,
            lambda utterance, tokens, words: self.explain(model, utterance, tokens, preset, word_times=words, **single),
            settings_of(
                self.wrap(model), given, gen_args, context, dtype, self.absolute, prompt, previous_text, transcript
            ),
            transcript=transcript,
            prompt=prompt,
            previous_text=previous_text,
            gen_args=gen_args,
            context=context,
            dtype=dtype,
            on_text=on_text,
            on_explained=on_explained,
        )

    @property
    def takes_samples(self) -> bool:
        """Whether the method has an argument ``n_samples``."""
        return "n_samples" in accepted(self.make(_placeholder_model))

    @property
    def perturbs(self) -> bool:
        """Whether the method scores other inputs than the utterance, unlike attention and gradients at it."""
        method = self.make(_placeholder_model)
        if self.takes_samples or isinstance(method, (NoiseTunnel, IntegratedGradients, DeepLift)):
            return True
        return isinstance(method, PerturbationAttribution) and asks_model(method)

    @property
    def samples_perturbations(self) -> bool:
        """Whether ``n_samples`` is the number of its perturbations, as in SPES and Bubble Noise."""
        return isinstance(self.make(_placeholder_model), (SPES, BubbleNoise))

    @property
    def samples_gradients(self) -> bool:
        """Whether ``n_samples`` is the number of random masks at which it takes gradients, as in GradientSPES."""
        return isinstance(self.make(_placeholder_model), GradientSPES)

    @property
    def min_samples(self) -> int:
        """The least ``n_samples`` of the method: one perturbation for each granularity of its patches."""
        method = self.make(_placeholder_model)
        if not isinstance(method, (SPES, GradientSPES)):
            return 1
        patches: Any = defaults_of(method).patches_per_second
        if (mask := self.feature_mask) is not None:
            given = mask.keywords if isinstance(mask, partial) and mask.func is slic_feature_mask else {"n_patches": 1}
            patches = given.get("n_patches", given.get("patches_per_second", patches))
        return len(patches) if isinstance(patches, tuple) else 1

    def with_samples(self, n_samples: int, option: str = "n_samples") -> NamedMethod:
        """The same method with another ``n_samples``, all of which are evaluated.

        Args:
            n_samples: number of perturbations, or of random masks.
            option: the name of the option in errors.

        Raises:
            ValueError: ``n_samples`` is smaller than :attr:`min_samples`.
        """
        if n_samples < self.min_samples:
            raise ValueError(
                f"{option} must be at least {self.min_samples} for this method, one perturbation for each granularity "
                f"of its patches, not {n_samples}."
            )
        number = {"n_samples": n_samples}
        fast = {name: value for name, value in self.fast.items() if name != "min_reliability"}
        return replace(self, arguments={**self.arguments, **number}, fast={**fast, **number})

    def with_reliability(self, min_reliability: float) -> NamedMethod:
        """The same method, whose runs end as soon as the halves of its samples reach this correlation."""
        target = {"min_reliability": min_reliability}
        return replace(self, arguments={**self.arguments, **target}, fast={**self.fast, **target})


def absolute(explanation: SpeechToTextExplanation) -> SpeechToTextExplanation:
    """An explanation with the absolute values of the maps.

    Example::

        >>> from captum_spes.speech_to_text.catalogue import absolute
        >>> absolute(explanation).metadata["method"]
        '|SPES|'
    """
    return replace(
        explanation,
        spectrogram_attr=explanation.spectrogram_attr.abs(),
        token_attr=explanation.token_attr.abs(),
        metadata={**explanation.metadata, "method": f"|{explanation.metadata['method']}|"},
    )


def _placeholder_model(inputs: Tensor) -> Tensor:
    """Takes the place of a model when a method is made only to read its arguments."""
    return inputs


def draws_by_tokens(n_tokens: int) -> int:
    """The largest number of masks for under a minute on 2 cores for 5 s; each mask costs a backward for each token."""
    return max(min(FAST_BACKWARDS // n_tokens, 96), 8)


_FAST_SAMPLES = {"n_samples": 2_000, "n_token_samples": 512}
_SPES = NamedMethod(
    SPES,
    "SPES: the paper's method",
    fast=_FAST_SAMPLES,
)
_GRADIENT_SPES = NamedMethod(
    GradientSPES,
    "SPES's main effects by the gradient of its random masks",
    fast={"n_samples": draws_by_tokens, "n_token_samples": 256, "min_reliability": FAST_RELIABILITY},
)
_INTEGRATED_GRADIENTS = NamedMethod(
    IntegratedGradients, "gradients along the way from the baseline", fast={"n_steps": 10}
)
_GRADIENT_SHAP = NamedMethod(
    GradientShap, "gradients at noisy points on the way from the baseline", fast={"n_samples": 8}
)
_INPUT_X_GRADIENT = NamedMethod(InputXGradient, "gradient times input")

#: The methods that the command line knows by name. Each is a :class:`NamedMethod`.
METHODS: dict[str, NamedMethod] = {
    "spes": _SPES,
    "spes_single_granularity": replace(
        _SPES,
        summary="SPES with one granularity (Table 1: – multi-scale)",
        feature_mask=partial(slic_feature_mask, patches_per_second=500),
        fast_feature_mask=partial(slic_feature_mask, patches_per_second=40),
        features="500 patches a second",
    ),
    "spes_grid": replace(
        _SPES,
        summary="SPES with the cells of a grid (Table 1: – clustering)",
        feature_mask=partial(slic_feature_mask, sigma=10),
        fast_feature_mask=partial(slic_feature_mask, patches_per_second=(20, 40, 60), sigma=10),
        features="400, 500 and 600 cells a second",
    ),
    "spes_fixed_patches": replace(
        _SPES,
        summary="SPES with as many patches however long the audio (Table 1: – duration adaptation)",
        feature_mask=partial(slic_feature_mask, n_patches=(2_000, 2_500, 3_000)),
        fast_feature_mask=partial(slic_feature_mask, n_patches=(100, 125, 150)),
        features="2,000, 2,500 and 3,000 patches",
    ),
    "spes_probability": replace(
        _SPES, summary="SPES with the token's probability for a score (Table 1: – KL)", score=TokenProbability
    ),
    "spes_joint": replace(
        _SPES,
        summary="SPES on spectrogram and previous tokens at once (Table 4)",
        arguments={"joint": True},
        fast={"n_samples": 2_000},
    ),
    "feature_wise": NamedMethod(
        SPES,
        "the paper's baseline: SPES on single bins and single values of embeddings (§6)",
        feature_mask=partial(grid_feature_mask, patch_size=(1, 1)),
        arguments={"perturbation_prob": 0.7, "token_perturbation_prob": 0.1, "token_values": True},
        fast=_FAST_SAMPLES,
        features="bins; values of embeddings",
    ),
    "bubble_noise": NamedMethod(BubbleNoise, "the paper's baseline: noise with bubbles (§6)", fast=_FAST_SAMPLES),
    "gradient_spes": _GRADIENT_SPES,
    "gradient_spes_bins": replace(
        _GRADIENT_SPES,
        summary="gradient_spes with a value of its own for each bin",
        arguments={"pool_features": False},
        features="bins",
    ),
    "gradient_spes_sentence": replace(
        _GRADIENT_SPES,
        summary="gradient_spes of the text as a whole",
        arguments={"sentence": True},
        fast={"n_samples": 96, "n_token_samples": 256, "min_reliability": FAST_RELIABILITY},
        cost="n_samples: 96, each with one backward",
    ),
    "attn_lrp": NamedMethod(AttnLRP, "relevance propagation: the gradient with rules for transformers"),
    "cross_attention": NamedMethod(CrossAttention, "attention of the decoder to the encoder, mean of all heads"),
    "cross_attention_alignment": NamedMethod(
        CrossAttention,
        "attention of the heads that follow the speech (alignment heads)",
        arguments={"heads": "alignment"},
    ),
    "feature_ablation": NamedMethod(FeatureAblation, "hides one patch at a time"),
    "occlusion": NamedMethod(Occlusion, "hides what a sliding window covers"),
    "shapley_value_sampling": NamedMethod(
        ShapleyValueSampling, "hides patch after patch in random orders", fast={"n_samples": 3, "n_token_samples": 10}
    ),
    "kernel_shap": NamedMethod(KernelShap, "Shapley values by a weighted regression on hidden patches"),
    "lime": NamedMethod(Lime, "a sparse regression on hidden patches near the input"),
    "integrated_gradients": _INTEGRATED_GRADIENTS,
    "integrated_gradients_abs": replace(_INTEGRATED_GRADIENTS, summary="|integrated_gradients|", absolute=True),
    "gradient_shap": _GRADIENT_SHAP,
    "gradient_shap_abs": replace(_GRADIENT_SHAP, summary="|gradient_shap|", absolute=True),
    "saliency": NamedMethod(Saliency, "the size of the gradient"),
    "input_x_gradient": _INPUT_X_GRADIENT,
    "input_x_gradient_abs": replace(_INPUT_X_GRADIENT, summary="|input_x_gradient|", absolute=True),
    "smooth_grad": NamedMethod(
        lambda model: NoiseTunnel(Saliency(model)), "saliency, averaged over noisy inputs", cost="nt_samples: 10"
    ),
    "deep_lift": NamedMethod(DeepLift, "differences from the baseline, layer by layer; for models of modules only"),
    "random": NamedMethod(Random, "baseline method: random numbers"),
    "energy": NamedMethod(Energy, "baseline method: the spectrogram minus its baseline"),
}

# Baseline methods that every evaluation includes: they cost nothing, and "energy" does well in deletion.
FLOORS = ("random", "energy")


def find_method(name: str) -> NamedMethod:
    """Finds a method by its name.

    Raises:
        ValueError: there is no such method; the message lists all names.

    Example::

        >>> from captum_spes.speech_to_text.catalogue import find_method
        >>> find_method("integrated_gradients").summary
        'gradients along the way from the baseline'
    """
    if name not in METHODS:
        raise ValueError(f"there is no method {name!r}: give one of {', '.join(METHODS)}.")
    return METHODS[name]


def describe_methods() -> list[tuple[str, ...]]:
    """A table of the methods, the header first.

    The columns are: name, what it does, forward function, features (the resolution of its map), whether its values
    can be negative, whether it distinguishes frequencies, and its passes of the model for the spectrogram.

    Example::

        >>> from captum_spes.speech_to_text.catalogue import describe_methods
        >>> describe_methods()[1][2:]
        ('KLDivergence', '400, 500 and 600 patches a second', 'no', 'yes', 'n_samples: 20,000')
    """
    header = ("name", "what it does", "forward function", "features", "sign", "frequency", "passes for the spectrogram")
    return [header, *(_description(name, method) for name, method in METHODS.items())]


def _description(name: str, method: NamedMethod) -> tuple[str, ...]:
    attr_method = method.make(_placeholder_model)
    defaults: Defaults = defaults_of(attr_method)
    score = (method.score or defaults.score).__name__ if asks_model(attr_method) else "none"
    # scores other than the divergence rise as well as fall
    signed = not method.absolute and (defaults.signed or method.score is not None)
    return (
        name,
        method.summary,
        score,
        method.features or defaults.features,
        "yes" if signed else "no",
        "yes" if defaults.knows_frequency else "no",
        method.cost or defaults.cost,
    )
