"""A Captum attribution method, wrapped to explain what a speech-to-text model writes."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from captum.attr import Attribution
from torch import Tensor

import captum_spes.speech_to_text.profiles as methods
from captum_spes.attr import CrossAttention, GradientSPES
from captum_spes.attr._batches import check_counts
from captum_spes.attr._features import FeatureLayout
from captum_spes.attr._ranks import Ranks
from captum_spes.audio import AudioLike, Recording, load_audio, read_recording
from captum_spes.confidence import Confidence
from captum_spes.explanation.long import LongExplanation, explain_parts
from captum_spes.explanation.result import LOW_RELIABILITY, SpeechToTextExplanation
from captum_spes.forward_func import CTCLogLikelihood
from captum_spes.models.context import Context, Dtype
from captum_spes.models.preparation import NoWordsError, prepare, text
from captum_spes.models.protocol import SpeechToTextModel, Task, Tokens, Utterance, language_of, task_of
from captum_spes.segmentation import MAX_SECONDS, slic_feature_mask
from captum_spes.speech_to_text.hearing import token_times, unheard_probabilities
from captum_spes.speech_to_text.provenance import (
    describe,
    describe_arguments,
    describe_inputs,
    describe_model,
    versions,
)
from captum_spes.speech_to_text.run import Run, Stage
from captum_spes.speech_to_text.targets import (
    Contrast,
    PathsPrediction,
    Prediction,
    TextPrediction,
    TokenPrediction,
    WordPrediction,
)

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

# arguments that change no more than rounding
FREE = {"perturbations_per_eval", "show_progress", "callback"}


class SpeechToTextAttribution(Attribution):
    """Explains a speech-to-text model token by token, from the spectrogram and from the tokens before.

    As Captum's ``LLMAttribution`` does for language models, it takes an attribution method that was made with the
    model, and runs it on a forward function of its own: how close the teacher-forced prediction of every token stays
    to the original. All tokens share the passes of the model. The spectrogram and the previous tokens are attributed
    in two calls, as in the paper (§4, Appendix A.2.2); previous tokens are perturbed by zeroing their embeddings
    (value zeroing), while their positions stay: their attributions are those of a gate of ones that multiplies the
    embeddings, with baseline 0.

    Args:
        attr_method: an attribution method of this library or of Captum whose ``forward_func`` is a model from
            :func:`~captum_spes.models.load_model` or another :class:`~captum_spes.models.SpeechToTextModel`:
            ``SPES(model)``, ``IntegratedGradients(model)``, ``NoiseTunnel(Saliency(model))``.
        score: the forward function: :class:`.KLDivergence`, :class:`.TokenProbability`, :class:`.TokenLogProbability`
            or :class:`.TokenLogit`; or :class:`.CTCLogLikelihood`, for the whole text of a CTC model in place of its
            tokens. Default: KLDivergence (the paper's) for perturbation methods,
            TokenLogProbability for gradient methods, TokenLogit for DeepLift.

    Raises:
        TypeError: a method that cannot explain such a model, or one of something that is no speech-to-text model.
        ValueError: a score for which the method's attributions would be 0.

    Example::

        >>> from captum.attr import IntegratedGradients
        >>> from captum_spes import SPES, SpeechToTextAttribution
        >>> from captum_spes.models import load_model
        >>> model = load_model("whisper-tiny.en")
        >>> explanation = SpeechToTextAttribution(SPES(model)).attribute("speech.wav", n_samples=90)
        >>> explanation.plot_tokens().savefig("tokens.png")
        >>> other = SpeechToTextAttribution(IntegratedGradients(model)).attribute("speech.wav", n_steps=5)
        >>> other.spectrogram_attr.shape == explanation.spectrogram_attr.shape
        True
    """

    def __init__(self, attr_method: Attribution, score: methods.Score | None = None) -> None:
        methods.defaults_of(attr_method)  # refuses what cannot explain a model of speech
        model = attr_method.forward_func
        if not isinstance(model, SpeechToTextModel):
            raise TypeError(
                f"the method's forward_func must be a speech-to-text model, not {type(model).__name__}: "
                "make it with captum_spes.models.load_model, as in SPES(load_model('whisper-tiny.en'))."
            )
        methods.check_score(attr_method, score)
        methods.check_gradients(attr_method, model)
        if methods.is_hooked(attr_method):
            methods.check_hooks(attr_method, model)
        methods.check_rules(attr_method, model)
        super().__init__(model)
        self.model: SpeechToTextModel = model
        self.attr_method = attr_method
        self.score = score

    def prepare(
        self,
        inputs: AudioLike | Utterance,
        target: str | Sequence[int] | Tensor | Tokens | None = None,
        *,
        sampling_rate: int | None = None,
        gen_args: dict[str, Any] | None = None,
        context: Context = "auto",
        dtype: Dtype | None = None,
    ) -> tuple[Utterance, Tokens]:
        """:func:`captum_spes.models.prepare` with this model: reads the audio, sets the context, lets the model write.

        :meth:`attribute` does the same first, and takes the result in place of ``inputs`` and ``target``.

        Returns:
            (Utterance, Tokens): what the model hears, and the tokens to explain.

        Example::

            >>> from captum_spes import SPES, SpeechToTextAttribution
            >>> from captum_spes.models import load_model
            >>> attribution = SpeechToTextAttribution(SPES(load_model("whisper-tiny.en")))
            >>> utterance, tokens = attribution.prepare("speech.wav", "so what")
            >>> attribution.text(tokens)
            'so what'
            >>> explanation = attribution.attribute(utterance, tokens, n_samples=90)
        """
        return prepare(
            self.model, inputs, target, sampling_rate=sampling_rate, gen_args=gen_args, context=context, dtype=dtype
        )

    def text(self, tokens: Tokens) -> str:
        """:func:`captum_spes.models.text` with this model: the text of the target tokens, without marks.

        Example::

            >>> from captum_spes import SPES, SpeechToTextAttribution
            >>> from captum_spes.models import load_model
            >>> attribution = SpeechToTextAttribution(SPES(load_model("whisper-tiny.en")))
            >>> utterance, tokens = attribution.prepare("speech.wav", "so what")
            >>> attribution.text(tokens)
            'so what'
        """
        return text(self.model, tokens)

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
        perturbations_per_eval: int | None = None,
        min_reliability: float | None = None,
        adapt_patches: bool = True,
        seed: int = 0,
        joint: bool = False,
        token_values: bool = False,
        contrast: Contrast | None = None,
        sentence: bool = False,
        gen_args: dict[str, Any] | None = None,
        context: Context = "auto",
        dtype: Dtype | None = None,
        show_progress: bool = False,
        callback: Stage | None = None,
        process_group: ProcessGroup | None = None,
        checkpoint: str | os.PathLike[str] | None = None,
        token_arguments: dict[str, Any] | None = None,
        **kwargs: Any,
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
            feature_mask: for methods of patches, the patches as a tensor (1, T, C) or (S, 1, T, C), or a function that
                makes them of the spectrogram (1, T, C), such as
                ``functools.partial(slic_feature_mask, patches_per_second=500)``.
                Default: :func:`~captum_spes.slic_feature_mask`, for SPES with the paper's values, or larger patches
                where ``n_samples`` are fewer than patches; for other methods with fewer, larger patches. What such a
                partial leaves out is the model's: its frames a second, and the paper's ``max_seconds``, 7.5 for
                transcripts and 5 for translations. Methods of one granularity are given the first.
            n_samples: perturbations of the spectrogram, of methods that have such an argument. Default: SPES's is
                the paper's 20,000; for other methods see the table of methods in the documentation.
            n_token_samples: perturbations of the previous tokens. Default: SPES's the paper's 2,000, or all
                combinations where they are no more.
            perturbation_prob: SPES's probability of hiding a patch. Default: the paper's 0.5.
            token_perturbation_prob: SPES's probability of zeroing a previous token. Default: the paper's 0.4.
            min_reliability: SPES, BubbleNoise and GradientSPES end as soon as the two halves of the samples correlate
                so far, in the mean over the tokens; ``n_samples`` is then the most. Where GradientSPES does not get
                there, its map is that of the finest patches that do. Default: all samples are evaluated.
            adapt_patches: whether it is; False keeps the patches of the feature mask.
            perturbations_per_eval: perturbations in a batch (of gradients a quarter as many); it changes the speed,
                and the result by no more than the model's rounding. Default: 16 on a CPU; on another device what a
                short probe finds fast.
            seed: of all that is random. The same numbers serve all tokens.
            joint: perturb the spectrogram and the previous tokens at the same time (SPES only), which the paper found
                to be worse (Table 4).
            token_values: perturb the single values of the previous tokens' embeddings rather than whole embeddings
                (SPES only): a token's attribution is the mean of its values'. With a mask of single bins,
                ``partial(grid_feature_mask, patch_size=(1, 1))``, and probabilities 0.7 and 0.1 it is the paper's
                feature-wise baseline (§6).
            contrast: explain why one word was written and not another, in place of every token.
            sentence: explain the text as a whole, in one row whose score is the sum of the tokens' scores. Gradient
                methods then need one backward and not one a token. The tokens weigh by how much their scores change,
                where :meth:`SpeechToTextExplanation.sentence` lets each weigh as much.
            gen_args: arguments of the model's generation, such as ``{"num_beams": 5}``; they are stored.
            context: how the model's window is run. ``"full"``: every pass computes all of it. ``"frozen"``: passes
                compute the speech and attend to states of the padding that were recorded before. ``"auto"``: the
                cheapest form of frozen padding whose scores agree with the full window's, or else the full window; see
                :func:`~captum_spes.models.context.fit_utterance`. Text is always generated in the full window.
            dtype: precision of the model through autocast, or ``"auto"`` on the same conditions. Default: that of
                the model's weights.
            show_progress: shows a progress bar for each of the two calls.
            callback: called after every batch as ``callback(stage, done, total)``, stage ``"previous tokens"`` or
                ``"spectrogram"``. When it returns True, SPES and BubbleNoise leave the rest out and the explanation
                is marked as partial; other methods have no results in parts and go on.
            process_group: ranks of ``torch.distributed`` that share the perturbations of SPES, BubbleNoise or
                GradientSPES, each with the model on a device of its own, as in :meth:`SPES.attribute`. All explain
                what rank 0 of the group hears and writes, and are given the same explanation.
            checkpoint: path of a folder from which SPES, BubbleNoise and GradientSPES go on after the process was
                killed: each of the two calls has a file there, as in :meth:`SPES.attribute`. The folder is made, and
                removed when all is done. The call for the tokens, which takes little, is repeated where it was
                finished. Other methods begin anew.
            token_arguments: arguments of the method's ``attribute`` for the previous tokens only.
            **kwargs: further arguments of the method's ``attribute``, such as ``n_steps``. They serve both calls, but
                for those of the spectrogram alone (windows, noise).

        Returns:
            SpeechToTextExplanation: the maps as the method gave them, not normalised, on the CPU.

        Raises:
            ValueError: audio, target, mask or another argument that cannot be used; the message says why.
            TypeError: an argument that the method does not take.

        Example::

            >>> from captum_spes import SPES, SpeechToTextAttribution
            >>> from captum_spes.models import load_model
            >>> attribution = SpeechToTextAttribution(SPES(load_model("whisper-tiny.en")))
            >>> explanation = attribution.attribute("speech.wav", "so what", n_samples=90, seed=0)
            >>> explanation.tokens, explanation.spectrogram_attr.shape[0]
            ([' so', ' what'], 2)
            >>> one_row = attribution.attribute("speech.wav", "so what", n_samples=90, sentence=True)
            >>> one_row.tokens
            ['so what']
        """
        # what cannot be is refused before anything is computed
        methods.check_arguments(
            self.attr_method, baselines, feature_mask, joint, token_values, process_group, min_reliability
        )
        given = _given(n_samples=n_samples, perturbation_prob=perturbation_prob) | kwargs
        token_given = _given(n_samples=n_token_samples, perturbation_prob=token_perturbation_prob)
        token_given = methods.shared_with_tokens(kwargs) | token_given | (token_arguments or {})
        methods.check_known(self.attr_method, given)
        if min_reliability is not None:
            given["min_reliability"] = min_reliability
        prepared = partial(
            prepare,
            self.model,
            inputs,
            target,
            sampling_rate=sampling_rate,
            gen_args=gen_args,
            context=context,
            dtype=dtype,
        )
        ranks = Ranks(process_group)
        utterance, tokens = _agreed(ranks, *ranks.together(prepared))
        if isinstance(self.attr_method, CrossAttention) and (contrast is not None or sentence):
            raise ValueError("attention is paid while a token is written: leave out contrast and sentence.")
        prediction = self._prediction(utterance, tokens, contrast, sentence)
        if joint and not len(prediction.previous):
            raise ValueError(f"{self.model.name} writes all tokens at once: there are no previous tokens to perturb.")
        baseline = _format_baseline(self.model.baseline(utterance) if baselines is None else baselines, utterance)
        task = task_of(self.model, utterance, tokens)
        mask_source = self._mask_source(utterance, task, given, feature_mask)
        mask = mask_source(utterance.spectrogram) if callable(mask_source) else mask_source
        if mask is not None and mask.dim() == 4 and not isinstance(self.attr_method, methods.MULTI_SCALE):
            mask = mask[0]
        facts = methods.Facts(utterance.spectrogram, self.model.frames_per_second, mask, len(prediction.previous))
        arguments = methods.spectrogram_arguments(self.attr_method, facts, given)
        token_method = methods.token_method(self.attr_method, facts.n_previous)
        token_arguments = methods.token_arguments(token_method, facts, token_given)
        mask = _check(utterance, mask, perturbations_per_eval, arguments)
        pooling_masks: list[Tensor] = []
        if adapt_patches and min_reliability is not None and isinstance(self.attr_method, GradientSPES):
            pooling_masks = methods.coarser_masks(mask_source, utterance.spectrogram, mask)

        folder = None
        if checkpoint is not None and isinstance(self.attr_method, methods.ALL_TOKENS):
            folder = Path(checkpoint)
            folder.mkdir(parents=True, exist_ok=True)
        run = ranks.together(
            lambda: Run(
                prediction, utterance, perturbations_per_eval, seed, show_progress, callback, process_group, folder
            )
        )
        if joint:
            token_arguments = {"perturbation_prob": token_arguments["perturbation_prob"]}
            attributions = run.attribute_jointly(
                self.attr_method, baseline, mask, arguments, token_values=token_values, **token_arguments
            )
        else:
            # Tokens first: they take little, and a run that is stopped later has them whole.
            if len(prediction.previous):
                token_attr = run.attribute_tokens(token_method, token_arguments, token_values)
            else:
                token_attr, token_arguments = torch.zeros(len(prediction.rows), 0), {}
            pooling = {"pooling_masks": pooling_masks} if pooling_masks else {}
            attributions = (
                *run.attribute_spectrogram(self.attr_method, baseline, mask, {**arguments, **pooling}),
                token_attr,
            )
            if pooling_masks and run.pooling is not None:
                mask = pooling_masks[run.pooling]
        confidence, times = self._confidence(prediction.confidence(run.original), utterance, tokens, baseline)
        explanation = self._explanation(utterance, tokens, prediction, mask, *attributions, confidence=confidence)
        explanation.metadata.update(
            token_times=times,
            score=prediction.score_name if methods.asks_model(self.attr_method) else "none",
            seed=seed,
            arguments=describe_arguments(arguments),
            token_arguments=describe_arguments(token_arguments),
            joint=joint,
            token_values=token_values,
            contrast=prediction.contrast,
            passes=run.passes,
            done=run.done,
            partial=run.stopped,
            baseline=self.model.baseline_name if baselines is None else describe(baselines),
            feature_mask=describe(mask_source),
            patches_per_second=_patches_per_second(mask, utterance, self.model),
            gen_args=describe_arguments(gen_args),
            task=task,
            language=language_of(self.model, tokens),
        )
        if isinstance(self.attr_method, CrossAttention):
            explanation.metadata["resolution"] = "time alone, spread evenly over the channels: it tells no frequency"
        for message in _doubts(explanation):
            warnings.warn(message, stacklevel=2)
        if folder is not None:
            with suppress(OSError):  # it holds the files of a run that was stopped
                folder.rmdir()
        return explanation

    def attribute_long(
        self,
        inputs: AudioLike,
        folder: str | os.PathLike[str],
        *,
        sampling_rate: int | None = None,
        max_seconds: float | None = None,
        gen_args: dict[str, Any] | None = None,
        context: Context = "auto",
        dtype: Dtype | None = None,
        **arguments: Any,
    ) -> LongExplanation:
        """Explains a recording of any length, part by part.

        It is cut in the middle of its pauses into parts that the model can hear at once, and each part is explained as
        by :meth:`attribute`: the model hears nothing of its neighbours, and reads nothing of what it wrote of them.
        Parts are written into the folder as they are finished, so that memory does not grow with their number. The same
        call goes on with a run that was stopped. Of a file, the metadata of each part tell where the part is in it
        (``start_seconds``, ``stop_seconds``), so that its report plays it.

        Args:
            inputs: path of an audio file, or samples with ``sampling_rate``.
            folder: where the parts are written, a new one or that of the same explanation.
            sampling_rate: samples a second of an array of samples.
            max_seconds: of a part, at most. Default: the model's window.
            gen_args: arguments of the model's generation.
            context: how the model's window is run, as in :meth:`attribute`.
            dtype: precision of the model.
            **arguments: further ones of :meth:`attribute`, but for ``target``, ``contrast``, ``checkpoint`` and
                ``process_group``, which belong to one utterance. Where a ``callback`` returns True, the run ends after
                the part before.

        Returns:
            LongExplanation: what is in the folder.

        Raises:
            ValueError: as :meth:`attribute`; or a folder with the parts of something else.

        Example::

            >>> from captum_spes import GradientSPES, SpeechToTextAttribution
            >>> from captum_spes.models import load_model
            >>> attribution = SpeechToTextAttribution(GradientSPES(load_model("whisper-tiny.en")))
            >>> talk = attribution.attribute_long("speech.wav", "speech-parts", n_samples=4)
            >>> talk.plot().savefig("speech.png")
        """
        if given := sorted(arguments.keys() & {"target", "contrast", "checkpoint", "process_group"}):
            raise ValueError(
                f"attribute_long explains all parts of a recording alike, in one process: leave out "
                f"{' and '.join(given)}, or explain one part by attribute."
            )
        rate = self.model.sample_rate
        recording = read_recording(inputs, sampling_rate)
        samples = load_audio(recording, rate)
        if max_seconds is None:
            max_seconds = longest_seconds(self.model, len(samples) / rate)

        def explain(
            long: LongExplanation, number: int, part: np.ndarray, source: dict[str, Any]
        ) -> SpeechToTextExplanation | None:
            try:
                utterance, tokens = prepare(
                    self.model, Recording(part, rate, source), gen_args=gen_args, context=context, dtype=dtype
                )
            except NoWordsError:
                return None
            return self.attribute(utterance, tokens, gen_args=gen_args, **arguments)

        settings = {
            "method": methods.title(self.attr_method),
            "score": None if self.score is None else self.score.__name__,
            "arguments": describe_arguments({name: value for name, value in arguments.items() if name not in FREE}),
            **describe_model(self.model, gen_args, context, dtype),
        }
        return explain_parts(samples, rate, folder, explain, max_seconds, settings, recording.source)

    def attribute_future(self) -> None:
        """Not implemented."""
        raise NotImplementedError("attribute_future is not implemented for SpeechToTextAttribution: use attribute.")

    def _prediction(
        self, utterance: Utterance, tokens: Tokens, contrast: Contrast | None, sentence: bool
    ) -> Prediction:
        if self.score is CTCLogLikelihood and contrast is None:
            return PathsPrediction(self.model, tokens, text(self.model, tokens))
        score = self.score or methods.defaults_of(self.attr_method).score
        if contrast is None:
            if sentence:
                return TextPrediction(self.model, tokens, score, text(self.model, tokens))
            return TokenPrediction(self.model, tokens, score)
        if sentence:
            raise ValueError("a contrast explains one word, and sentence the text as a whole: give one of them.")
        if self.score is not None:
            raise ValueError(f"a contrast has a score of its own: leave out score={self.score.__name__}.")
        return WordPrediction(self.model, tokens, contrast, utterance)

    def _mask_source(
        self,
        utterance: Utterance,
        task: Task,
        given: dict[str, Any],
        feature_mask: Tensor | Callable[[Tensor], Tensor] | None,
    ) -> Tensor | Callable[[Tensor], Tensor] | None:
        """The mask as it was given, or the method's default; SLIC with what depends on the model and its task."""
        if feature_mask is None:
            seconds = min(utterance.spectrogram.shape[1] / self.model.frames_per_second, MAX_SECONDS[task])
            patches = methods.default_patches(self.attr_method, given, seconds)
            feature_mask = None if patches is None else partial(slic_feature_mask, patches_per_second=patches)
        elif feature_mask is slic_feature_mask:
            feature_mask = partial(slic_feature_mask)
        if not isinstance(feature_mask, partial) or feature_mask.func is not slic_feature_mask:
            return feature_mask
        known = {"frames_per_second": self.model.frames_per_second, "max_seconds": MAX_SECONDS[task]}
        return partial(feature_mask, **{**known, **feature_mask.keywords})

    def _confidence(
        self, confidence: Confidence | None, utterance: Utterance, tokens: Tokens, baseline: Tensor | float
    ) -> tuple[Confidence | None, list[list[float]] | None]:
        """The confidence of the model's tokens with what was heard of them, and when, where the model tells."""
        if confidence is None or len(confidence) != len(tokens.target):
            return confidence, None
        times = token_times(self.model, utterance, tokens)
        if times is None:
            return confidence, None
        unheard = unheard_probabilities(self.model, utterance, tokens, times, baseline)
        return replace(confidence, unheard=unheard), times

    def _explanation(
        self,
        utterance: Utterance,
        tokens: Tokens,
        prediction: Prediction,
        mask: Tensor | None,
        spectrogram_attr: Tensor,
        reliability: Tensor | None,
        token_attr: Tensor,
        confidence: Confidence | None,
    ) -> SpeechToTextExplanation:
        previous_tokens = self.model.token_texts(prediction.previous)
        is_previous = torch.arange(len(previous_tokens)) < prediction.n_previous[:, None]
        return SpeechToTextExplanation(
            text=text(self.model, tokens),
            tokens=prediction.rows,
            previous_tokens=previous_tokens,
            spectrogram=utterance.spectrogram[0].float().cpu(),
            spectrogram_attr=spectrogram_attr.float().cpu(),
            # an average over random masks is not 0 for a token that comes later, but that is no feature
            token_attr=torch.where(is_previous, token_attr.float().cpu(), 0),
            n_previous=prediction.n_previous,
            frames_per_second=self.model.frames_per_second,
            mel_frequencies=torch.as_tensor(np.asarray(self.model.mel_frequencies), dtype=torch.float32),
            reliability=reliability,
            feature_mask=None if mask is None else mask.cpu().long().reshape(-1, *utterance.spectrogram.shape[1:]),
            grouped=prediction.grouped,
            confidence=confidence,
            metadata={
                "model": self.model.name,
                "method": methods.title(self.attr_method),
                **describe_inputs(self.model, utterance, tokens),
                "versions": versions(),
            },
        )


def longest_seconds(model: SpeechToTextModel, duration: float) -> float:
    """Seconds that a model hears at once; the duration of the audio where nothing limits them."""
    window = getattr(model, "window", None)
    return duration if window is None else window / model.frames_per_second


def _patches_per_second(mask: Tensor | None, utterance: Utterance, model: SpeechToTextModel) -> list[int] | None:
    """Patches a second of each granularity of a mask; None for maps of bins."""
    if mask is None:
        return None
    seconds = utterance.spectrogram.shape[1] / model.frames_per_second
    granularities = mask.reshape(-1, *utterance.spectrogram.shape[1:])
    return [round(len(granularity.unique()) / seconds) for granularity in granularities]


def _agreed(ranks: Ranks, utterance: Utterance, tokens: Tokens) -> tuple[Utterance, Tokens]:
    """What the first rank hears and writes, for all: devices round differently."""
    if ranks.group is None:
        return utterance, tokens
    device = utterance.spectrogram.device
    return ranks.from_first(utterance.to("cpu")).to(device), ranks.from_first(tokens.to("cpu")).to(device)


def _doubts(explanation: SpeechToTextExplanation) -> Iterator[str]:
    """What to say, and to do, of maps that tell little."""
    if message := low_reliability(explanation):
        yield message
    flat = explanation.spectrogram_attr.flatten(1)
    if bool((flat == flat[:, :1]).all()):
        yield (
            f"the maps of {explanation.metadata['method']} are the same everywhere: nothing that it did changed the "
            "score enough. Take another score, or a smaller penalty (interpretable_model) for Lime."
        )


def low_reliability(explanation: SpeechToTextExplanation) -> str | None:
    """What to say, and to do, where the two halves of the samples agree little; None where they agree.

    The number of samples that would do follows from the Spearman-Brown formula.
    """
    if explanation.reliability is None or (mean := float(explanation.reliability.mean())) >= LOW_RELIABILITY:
        return None
    values = explanation.reliability.tolist()
    noisy = [
        f"{name.strip()!r} {value:.2f}" for name, value in zip(explanation.tokens, values) if value < LOW_RELIABILITY
    ]
    n_done = explanation.metadata.get("done", {}).get("spectrogram")
    advice = "Take more samples (n_samples, --n-samples)"
    if n_done and mean > 0:
        needed = math.ceil(n_done * LOW_RELIABILITY * (1 - mean) / (mean * (1 - LOW_RELIABILITY)))
        advice = (
            f"About {needed:,} samples in place of {n_done:,} would reach {LOW_RELIABILITY} (n_samples, --n-samples)"
        )
    return (
        f"the maps are noisy: those of two halves of the samples correlate at {mean:.2f} in the mean over the tokens "
        f"({', '.join(noisy[:5])}{', …' if len(noisy) > 5 else ''}). {advice}; fewer and larger patches are more "
        "reliable, too (feature_mask)."
    )


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


def _check(
    utterance: Utterance, mask: Tensor | None, perturbations_per_eval: int | None, given: dict[str, Any]
) -> Tensor | None:
    """The mask with the spectrogram's size and device, checked together with the arguments that belong to it."""
    perturbations_per_eval = 1 if perturbations_per_eval is None else perturbations_per_eval
    if mask is None:
        check_counts(given.get("n_samples", 1), perturbations_per_eval, 1)
        return None
    spectrogram = utterance.spectrogram
    layout = FeatureLayout.create((spectrogram,), mask, given.get("perturbation_prob", 0.5))
    n_samples = given.get("n_samples", layout.n_granularities)
    check_counts(n_samples, perturbations_per_eval, layout.n_granularities)
    leading = mask.shape[:-2] if mask.dim() > 2 else (1,)
    return mask.to(spectrogram.device).expand(*leading, *spectrogram.shape[1:])
