"""The wrapper that runs a Captum attribution method on a speech-to-text model."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from captum.attr import Attribution
from torch import Tensor

from captum_spes._log import warn
from captum_spes.alignment import Alignment, Segment, Transcript
from captum_spes.attr import CrossAttention
from captum_spes.attr.ranks import Ranks
from captum_spes.audio import AudioLike
from captum_spes.explanation import LongExplanation, SpeechToTextExplanation
from captum_spes.models import SpeechToTextModel, Tokens, Utterance, prepare, text
from captum_spes.models.context import Context, Dtype
from captum_spes.models.protocol import language_of, task_of, text_language
from captum_spes.speech_to_text import checks, profiles
from captum_spes.speech_to_text.hearing import heard_confidence, silence_facts
from captum_spes.speech_to_text.parts import ending, explain_parts, settings_of
from captum_spes.speech_to_text.plan import MaskSource, Plan, make_plan, make_prediction
from captum_spes.speech_to_text.provenance import (
    describe,
    describe_arguments,
    describe_inputs,
    plain_gen_args,
    versions,
)
from captum_spes.speech_to_text.quality import quality_warnings
from captum_spes.speech_to_text.run import Maps, Run, RunOptions, Stage
from captum_spes.speech_to_text.targets import Contrast, Prediction

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


class SpeechToTextAttribution(Attribution):
    """Explains each token of a speech-to-text model by the spectrogram and by the previous tokens.

    Like Captum's ``LLMAttribution`` for language models, it takes an attribution method that was made with the model,
    and runs it on another forward function, which scores how close the teacher-forced prediction of every token stays
    to the original. All tokens share the passes of the model. The method is called twice, for the spectrogram and for
    the previous tokens, as in the paper (§4, Appendix A.2.2). Previous tokens are perturbed by zeroing their embeddings
    (value zeroing), while their positions stay: the method attributes to a gate of ones that multiplies the
    embeddings, with baseline 0.

    Args:
        attr_method: an attribution method of this library or of Captum whose ``forward_func`` is a model from
            :func:`~captum_spes.models.load_model` or another :class:`~captum_spes.models.SpeechToTextModel`:
            ``SPES(model)``, ``IntegratedGradients(model)``, ``NoiseTunnel(Saliency(model))``.
        score: the forward function: :class:`.KLDivergence`, :class:`.TokenProbability`, :class:`.TokenLogProbability`
            or :class:`.TokenLogit`; or :class:`.CTCLogLikelihood`, for the whole text of a CTC model instead of its
            tokens. Default: KLDivergence (the paper's) for perturbation methods,
            TokenLogProbability for gradient methods, TokenLogit for DeepLift.

    Raises:
        TypeError: the method cannot explain such a model, or was made with something else than such a model.
        ValueError: the method's attributions would be 0 for the score.

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

    def __init__(self, attr_method: Attribution, score: profiles.Score | None = None) -> None:
        profiles.defaults_of(attr_method)  # refuses methods that cannot explain speech
        model = attr_method.forward_func
        if not isinstance(model, SpeechToTextModel):
            raise TypeError(
                f"the method's forward_func must be a speech-to-text model, not {type(model).__name__}: "
                "make it with captum_spes.models.load_model, as in SPES(load_model('whisper-tiny.en'))."
            )
        checks.check_score(attr_method, score)
        checks.check_gradients(attr_method, model)
        if profiles.is_hooked(attr_method):
            checks.check_hooks(attr_method, model)
        checks.check_rules(attr_method, model)
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
        prompt: str | None = None,
        gen_args: dict[str, Any] | None = None,
        context: Context = "auto",
        dtype: Dtype | None = None,
    ) -> tuple[Utterance, Tokens]:
        """Calls :func:`captum_spes.models.prepare` with this model: reads audio, transcribes it, chooses the context.

        :meth:`attribute` does the same first. It also takes the result in place of ``inputs`` and ``target``.

        Returns:
            (Utterance, Tokens): the utterance, and the tokens to explain.

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
            self.model,
            inputs,
            target,
            sampling_rate=sampling_rate,
            prompt=prompt,
            gen_args=gen_args,
            context=context,
            dtype=dtype,
        )

    def text(self, tokens: Tokens) -> str:
        """Calls :func:`captum_spes.models.text` with this model: the text of the target tokens.

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
        feature_mask: MaskSource = None,
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
        prompt: str | None = None,
        word_times: Sequence[Segment] | Alignment | Transcript | None = None,
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
            target: the text to explain, or its token ids. Default: the text that the model writes.
            sampling_rate: samples per second of an array of samples.
            baselines: the values that replace hidden bins: a number, or a tensor that broadcasts to (1, T, C). Default:
                the model's baseline, the mean of each mel channel over the utterance.
            feature_mask: for methods of patches, the patches as a tensor (1, T, C) or (S, 1, T, C), or a function that
                makes them of the spectrogram (1, T, C), such as
                ``functools.partial(slic_feature_mask, patches_per_second=500)``.
                Default: :func:`~captum_spes.slic_feature_mask`. For SPES it has the paper's values, or larger patches
                if ``n_samples`` is smaller than the number of patches; for other methods it has fewer, larger patches.
                Arguments that such a partial leaves out are set for the model: its frames per second, and the paper's
                ``max_seconds``, 7.5 for transcripts and 5 for translations. Methods of one granularity get the first.
            n_samples: number of perturbations of the spectrogram, for methods with this argument. Default: the paper's
                20,000 for SPES; for other methods see the table of methods in the documentation.
            n_token_samples: number of perturbations of the previous tokens. Default: for SPES the paper's 2,000, or all
                combinations if there are no more.
            perturbation_prob: SPES's probability of hiding a patch. Default: the paper's 0.5.
            token_perturbation_prob: SPES's probability of zeroing a previous token. Default: the paper's 0.4.
            min_reliability: SPES, BubbleNoise and GradientSPES end as soon as the correlation between the maps of two
                halves of the samples, averaged over the tokens, reaches this number; ``n_samples`` is then the largest
                number of samples. If GradientSPES does not reach it, its map is that of the finest patches that do.
                Default: all samples are evaluated.
            adapt_patches: whether GradientSPES may take coarser patches for ``min_reliability``; False keeps the
                patches of the feature mask.
            perturbations_per_eval: number of perturbations in a batch (a quarter of it for gradients). It changes the
                speed, and the result only by the model's rounding. Default: 16 on a CPU; on another device a number
                that a short probe finds fast.
            seed: the seed of all random numbers, which are the same for all tokens.
            joint: perturb the spectrogram and the previous tokens at the same time (SPES only), which the paper found
                to be worse (Table 4).
            token_values: perturb the single values of the previous tokens' embeddings rather than whole embeddings
                (SPES only); the attribution of a token is the mean over its values. With a mask of single bins,
                ``partial(grid_feature_mask, patch_size=(1, 1))``, and probabilities 0.7 and 0.1 it is the paper's
                feature-wise baseline (§6).
            contrast: explain why one word was written and not another, instead of every token:
                ``Contrast("next", foil="last")``, or ``Contrast("next")`` for its strongest competitor.
            sentence: explain the text as a whole, in one row whose score is the sum of the tokens' scores. Gradient
                methods then need one backward instead of one for each token. Tokens are weighted by the changes of
                their scores, while :meth:`SpeechToTextExplanation.sentence` gives all tokens equal weights.
            prompt: text that Whisper's decoder reads before it writes, such as names or previous text. Its tokens are
                previous tokens, which are perturbed and shown like the others, so that words caused by the prompt
                depend on them.
            word_times: the times of words: a :class:`~captum_spes.alignment.Transcript`, an
                :class:`~captum_spes.alignment.Alignment`, or the words of one. Default: the times at which the model
                attends to them, for models that have them (Whisper).
            gen_args: arguments of the model's generation, such as ``{"num_beams": 5}``; they are stored.
            context: how the model's window is run. ``"full"``: every pass computes all of it. ``"frozen"``: passes
                compute the speech and attend to states of the padding that were recorded before. ``"auto"``: the
                cheapest form of frozen padding whose scores agree with the full window's, or else the full window.
                ``"unperturbed"``: padding frozen without this check, for methods that do not perturb; see
                :func:`~captum_spes.models.context.fit_utterance`. Text is always generated in the full window.
            dtype: precision of the model through autocast, or ``"auto"`` for bfloat16 under the same conditions.
                Default: the precision of the model's weights.
            show_progress: shows a progress bar for each of the two calls.
            callback: called after every batch as ``callback(stage, done, total)``, where stage is ``"previous tokens"``
                or ``"spectrogram"``. When it returns True, SPES, BubbleNoise and GradientSPES end the run and the
                explanation is marked as partial; other methods have no partial results and continue.
            process_group: ranks of ``torch.distributed`` that share the perturbations of SPES, BubbleNoise or
                GradientSPES, each with the model on its own device, as in :meth:`SPES.attribute`. All ranks explain
                the utterance and tokens of rank 0 of the group, and return the same explanation.
            checkpoint: path of a folder from which SPES, BubbleNoise and GradientSPES continue after the process was
                killed. Each of the two calls has a file there, as in :meth:`SPES.attribute`. The folder is made if
                necessary, and removed at the end of the run. The call for the tokens, which is short, is repeated if it
                was finished. Other methods start again.
            token_arguments: arguments of the method's ``attribute`` for the previous tokens only.
            **kwargs: further arguments of the method's ``attribute``, such as ``n_steps``. They are passed to both
                calls, except for those of the spectrogram alone (windows, noise).

        Returns:
            SpeechToTextExplanation: the maps of the method, not normalised, on the CPU.

        Raises:
            ValueError: audio, target, mask or another argument cannot be used; the message says why.
            TypeError: the method does not take an argument.

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
        method, model = self.attr_method, self.model
        # arguments that cannot be used are refused before anything is computed
        checks.check_grad_mode(method)
        checks.check_types(baselines, feature_mask, contrast)
        checks.check_arguments(method, baselines, feature_mask, joint, token_values, process_group, min_reliability)
        given = _given(n_samples=n_samples, perturbation_prob=perturbation_prob) | kwargs
        token_given = _given(n_samples=n_token_samples, perturbation_prob=token_perturbation_prob)
        token_given = profiles.shared_with_tokens(kwargs) | token_given | (token_arguments or {})
        checks.check_known(method, given)
        checks.check_options(seed, perturbations_per_eval)
        words = _checked(word_times, checkpoint)
        ranks = Ranks(process_group)
        preparation: dict[str, Any] = {"sampling_rate": sampling_rate, "prompt": prompt, "gen_args": gen_args}
        preparation |= {"context": context, "dtype": dtype}
        utterance, tokens = _agreed(ranks, *ranks.together(lambda: prepare(model, inputs, target, **preparation)))
        checks.check_begins(words or (), utterance.spectrogram.shape[1] / model.frames_per_second)
        prediction = self._prediction(ranks, utterance, tokens, contrast, sentence)
        plan = make_plan(
            method,
            utterance,
            tokens,
            prediction,
            baselines=baselines,
            feature_mask=feature_mask,
            perturbations_per_eval=perturbations_per_eval,
            joint=joint,
            token_values=token_values,
            adapt_patches=adapt_patches and min_reliability is not None,
            given=given | _given(min_reliability=min_reliability),
            token_given=token_given,
        )
        options = RunOptions(perturbations_per_eval, seed, show_progress, callback, process_group)
        return _explained(plan, options, ranks, checkpoint, baselines, gen_args, words)

    def _prediction(
        self, ranks: Ranks, utterance: Utterance, tokens: Tokens, contrast: Contrast | None, sentence: bool
    ) -> Prediction:
        """The prediction to explain. All ranks take the foil that rank 0 finds, because devices round differently."""
        arguments = self.model, self.attr_method, self.score, utterance, tokens
        prediction = make_prediction(*arguments, contrast, sentence)
        if ranks.group is None or contrast is None or contrast.foil is not None or not prediction.contrast:
            return prediction
        foil = ranks.from_first(prediction.contrast["foil"])
        return make_prediction(*arguments, replace(contrast, foil=foil), sentence)

    def attribute_long(
        self,
        inputs: AudioLike,
        folder: str | os.PathLike[str],
        *,
        sampling_rate: int | None = None,
        max_seconds: float | None = None,
        transcript: Transcript | None = None,
        prompt: str | None = None,
        previous_text: bool = False,
        gen_args: dict[str, Any] | None = None,
        context: Context = "auto",
        dtype: Dtype | None = None,
        **arguments: Any,
    ) -> LongExplanation:
        """Explains a recording of any length, part by part.

        The recording is cut in the middle of its pauses into parts that fit into the model's window. Each part is
        explained by :meth:`attribute` on its own, without the sound of its neighbours, and without their text unless
        ``previous_text`` is set. Parts are written to the folder as soon as they are finished, so that memory does not
        grow with their number. The same call continues a run that was stopped. The metadata of each part of a file
        have its position (``start_seconds``, ``stop_seconds``), so that its report plays it.

        Args:
            inputs: path of an audio file, or samples with ``sampling_rate``.
            folder: the folder of the parts, a new one or that of the same explanation.
            sampling_rate: samples per second of an array of samples.
            max_seconds: the longest duration of a part, at most the model's window, which is the default.
            transcript: the text to explain, of another system: the recording is cut between its segments, and its
                times are those of the words. Default: what the model writes of each part.
            prompt: text that the decoder reads before it writes each part; with ``previous_text``, before the first.
            previous_text: whether the decoder reads what was written of the part before, as Whisper itself does. It is
                then a cause like any other, and is explained with them.
            gen_args: arguments of the model's generation.
            context: how the model's window is run, as in :meth:`attribute`.
            dtype: precision of the model.
            **arguments: further arguments of :meth:`attribute`, except for ``target``, ``word_times``, ``contrast``,
                ``checkpoint`` and ``process_group``, which belong to one utterance. If a ``callback`` returns True,
                the run ends without the current part.

        Returns:
            LongExplanation: the explanation in the folder.

        Raises:
            ValueError: as in :meth:`attribute`, or the folder holds parts with other settings.

        Example::

            >>> from captum_spes import GradientSPES, SpeechToTextAttribution
            >>> from captum_spes.models import load_model
            >>> attribution = SpeechToTextAttribution(GradientSPES(load_model("whisper-tiny.en")))
            >>> talk = attribution.attribute_long("speech.wav", "speech-parts", n_samples=4)
            >>> talk.plot().savefig("speech.png")
        """
        settings = settings_of(
            self,
            arguments,
            gen_args,
            context,
            dtype,
            prompt=prompt,
            previous_text=previous_text,
            transcript=transcript,
        )
        single = {**arguments, "gen_args": gen_args, "callback": ending(arguments.get("callback"))}
        return explain_parts(
            self.model,
            inputs,
            folder,
            lambda utterance, tokens, words: self.attribute(utterance, tokens, word_times=words, **single),
            settings,
            sampling_rate=sampling_rate,
            max_seconds=max_seconds,
            transcript=transcript,
            prompt=prompt,
            previous_text=previous_text,
            gen_args=gen_args,
            context=context,
            dtype=dtype,
        )

    def attribute_future(self) -> None:
        """Not implemented."""
        raise NotImplementedError("attribute_future is not implemented for SpeechToTextAttribution: use attribute.")


def _checked(
    word_times: Sequence[Segment] | Alignment | Transcript | None, checkpoint: str | os.PathLike[str] | None
) -> Sequence[Segment] | None:
    """The times of words, after a check of arguments that are needed at the end of a run."""
    if checkpoint is not None and Path(checkpoint).is_file():
        raise ValueError(f"the checkpoint {checkpoint} is a file: give a folder, which is made if necessary.")
    words: Any = getattr(word_times, "words", word_times)
    if words is not None and not (isinstance(words, Sequence) and all(isinstance(word, Segment) for word in words)):
        raise ValueError(f"word_times must be a list of Segment, an Alignment or a Transcript, not {word_times!r:.80}.")
    if words is None:
        return None
    checks.check_times(words)
    return [word for word in words if word.begin < word.end]


def _agreed(ranks: Ranks, utterance: Utterance, tokens: Tokens) -> tuple[Utterance, Tokens]:
    """The utterance and tokens of the first rank, for all ranks, because devices round differently."""
    if ranks.group is None:
        return utterance, tokens
    device = utterance.spectrogram.device
    return ranks.from_first(utterance.to("cpu")).to(device), ranks.from_first(tokens.to("cpu")).to(device)


def _explained(
    plan: Plan,
    options: RunOptions,
    ranks: Ranks,
    checkpoint: str | os.PathLike[str] | None,
    baselines: Tensor | float | None,
    gen_args: dict[str, Any] | None,
    word_times: Sequence[Segment] | None,
) -> SpeechToTextExplanation:
    """Runs the method, in the folder of a checkpoint for methods that can go on there, and warns of doubtful maps."""
    folder = None
    if checkpoint is not None and isinstance(plan.method, profiles.ALL_TOKENS):
        folder = _made(Path(checkpoint), ranks)
    run = ranks.together(lambda: Run(plan, replace(options, checkpoints=folder)))
    maps = run.attribute()
    metadata = _metadata(plan, run, maps, baselines, gen_args)
    explanation = _explanation(plan, run, maps, metadata, word_times)
    for message in quality_warnings(explanation, run.seconds_per_sample):
        warn(message, stacklevel=3)
    if folder is not None:
        with suppress(OSError):  # the folder still holds the files of a run that was stopped
            folder.rmdir()
    return explanation


def _made(folder: Path, ranks: Ranks) -> Path | None:
    """The folder of a checkpoint. If a rank cannot make it, all ranks run without one, and warn."""
    problem = None
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        problem = error
    if not ranks.total(lambda: int(problem is not None)):
        return folder
    warn(
        f"the folder {folder} of the checkpoint could not be made ({problem or 'on another rank'}): the run continues; "
        "if it is killed, it starts again.",
        stacklevel=4,
    )
    return None


def _explanation(
    plan: Plan, run: Run, maps: Maps, metadata: dict[str, Any], word_times: Sequence[Segment] | None
) -> SpeechToTextExplanation:
    """Makes the explanation of the maps of a run, and measures how sure the model was and what it heard."""
    model, prediction, spectrogram = plan.prediction.model, plan.prediction, plan.utterance.spectrogram
    speech = model, plan.utterance, plan.tokens, plan.baseline
    confidence, times = heard_confidence(prediction.confidence(run.original), *speech, word_times)
    metadata = {**metadata, **silence_facts(*speech), "token_times": times}
    previous_tokens = model.token_texts(prediction.previous)
    is_previous = torch.arange(len(previous_tokens)) < prediction.n_previous[:, None]
    return SpeechToTextExplanation(
        text=text(model, plan.tokens),
        tokens=prediction.rows,
        previous_tokens=previous_tokens,
        spectrogram=spectrogram[0].detach().float().cpu(),
        spectrogram_attr=maps.spectrogram.float().cpu(),
        # the average over random masks is not 0 for a later token, but a later token is not a feature
        token_attr=torch.where(is_previous, maps.tokens.float().cpu(), 0),
        n_previous=prediction.n_previous,
        frames_per_second=model.frames_per_second,
        mel_frequencies=torch.as_tensor(np.asarray(model.mel_frequencies), dtype=torch.float32),
        reliability=maps.reliability,
        feature_mask=None if maps.mask is None else maps.mask.cpu().long().reshape(-1, *spectrogram.shape[1:]),
        grouped=prediction.grouped,
        confidence=confidence,
        metadata=metadata,
    )


def _metadata(
    plan: Plan, run: Run, maps: Maps, baselines: Tensor | float | None, gen_args: dict[str, Any] | None
) -> dict[str, Any]:
    """Describes how an explanation was made, by values that a file can hold."""
    model = plan.prediction.model
    resolution = {}
    if isinstance(plan.method, CrossAttention):
        resolution = {"resolution": "time only, spread evenly over the channels"}
    return {
        "model": model.name,
        "method": profiles.title(plan.method),
        **describe_inputs(model, plan.utterance, plan.tokens),
        "versions": versions(),
        "score": plan.prediction.score_name if profiles.asks_model(plan.method) else "none",
        "seed": run.options.seed,
        "arguments": describe_arguments(plan.arguments),
        "token_arguments": describe_arguments(plan.token_arguments),
        "joint": plan.joint,
        "token_values": plan.token_values,
        "contrast": plan.prediction.contrast,
        "passes": run.passes,
        "done": run.done,
        "partial": run.stopped,
        "baseline": model.baseline_name if baselines is None else describe(baselines),
        "feature_mask": describe(plan.mask_source),
        "patches_per_second": _patches_per_second(maps.mask, plan.utterance, model),
        "gen_args": plain_gen_args(gen_args),
        "task": task_of(model, plan.utterance, plan.tokens),
        "language": language_of(model, plan.tokens),
        "text_language": text_language(model, plan.tokens),
        **resolution,
    }


def _patches_per_second(mask: Tensor | None, utterance: Utterance, model: SpeechToTextModel) -> list[int] | None:
    """Patches per second of each granularity of a mask; None for maps of bins."""
    if mask is None:
        return None
    seconds = utterance.spectrogram.shape[1] / model.frames_per_second
    granularities = mask.reshape(-1, *utterance.spectrogram.shape[1:])
    return [round(len(granularity.unique()) / seconds) for granularity in granularities]


def _given(**arguments: Any) -> dict[str, Any]:
    """The arguments that the caller gave, as plain numbers that a file can hold."""
    return {
        name: value.item() if hasattr(value, "item") else value
        for name, value in arguments.items()
        if value is not None
    }
