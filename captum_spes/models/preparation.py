"""Prepares audio for a model: the utterance and the tokens of its text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor

from captum_spes.audio import AudioLike, Recording, load_audio, read_recording, speech_seconds
from captum_spes.models.context import Context, Dtype, check_context, fit_utterance
from captum_spes.models.protocol import SpeechToTextModel, Tokens, Utterance


class NoWordsError(ValueError):
    """The model writes no words for the audio, so that there is nothing to explain."""


def prepare(
    model: SpeechToTextModel,
    inputs: AudioLike | Utterance,
    target: str | Sequence[int] | Tensor | Tokens | None = None,
    *,
    sampling_rate: int | None = None,
    prompt: str | None = None,
    gen_args: dict[str, Any] | None = None,
    context: Context = "auto",
    dtype: Dtype | None = None,
    callback: Callable[[str, int, int], object] | None = None,
) -> tuple[Utterance, Tokens]:
    """Reads audio, lets the model write a text, and chooses the context and precision.

    Args:
        model: the model, from :func:`~captum_spes.models.load_model` or your own.
        inputs: path of an audio file; a :class:`~captum_spes.audio.Recording`; samples, an array or tensor of one or
            two dimensions, with ``sampling_rate``; the model's features, a tensor of shape (1, T, C); or an utterance,
            which is returned unchanged.
        target: the text to explain, or its token ids. Default: the text that the model writes.
        sampling_rate: samples a second of an array of samples.
        prompt: text that Whisper's decoder reads before it writes, such as names that occur or what was said before.
        gen_args: arguments of the model's generation, such as ``{"num_beams": 5}``.
        context: how the window is run; see :func:`~captum_spes.models.context.fit_utterance`.
        dtype: the precision of the model; see the same function.
        callback: called as ``callback("context", done, total)`` while the context is probed.

    Returns:
        (Utterance, Tokens): the utterance, and the tokens to explain.

    Raises:
        ValueError: audio, target or another argument cannot be used, or the model writes no words for the audio;
            the message says which.

    Warns:
        UserWarning: the audio is silent or very soft.

    Example::

        >>> from captum_spes.models import load_model, prepare, text
        >>> model = load_model("whisper-tiny.en")
        >>> utterance, tokens = prepare(model, "speech.wav", "so what")
        >>> text(model, tokens)
        'so what'
    """
    has_features = isinstance(inputs, Utterance) or (isinstance(inputs, Tensor) and inputs.dim() == 3)
    if sampling_rate is not None and has_features:
        raise ValueError("sampling_rate is for samples of audio, and these inputs are features: leave it out.")
    if not isinstance(inputs, Utterance):
        check_context(model, context, dtype)
    if isinstance(inputs, Utterance):
        if context != "auto" or dtype is not None or prompt is not None:
            raise ValueError("context, dtype and prompt of an utterance are set by prepare(): give them to prepare().")
        utterance = inputs
    elif isinstance(inputs, Tensor) and inputs.dim() == 3:
        utterance = model.from_features(inputs)
    else:
        recording = read_recording(inputs, sampling_rate, allow_silence=True)
        utterance = replace(
            model.utterance(load_audio(recording, model.sample_rate)),
            source=recording.source,
            speech_seconds=_speech_seconds(recording),
        )
    if prompt is not None:
        if isinstance(target, Tokens):
            raise ValueError("tokens have the prompt with which they were made: leave out prompt.")
        if not getattr(model, "takes_prompt", False):
            raise ValueError(f"{model.name} takes no prompt: leave it out, or take a Whisper model.")
        utterance = replace(utterance, prompt=prompt.strip())
    if target is not None and not isinstance(target, Tokens):
        target = model.tokens(target, utterance)
    if target is None:
        target = model.generate(utterance, **(gen_args or {}))
        if not text(model, target):
            raise NoWordsError(f"{model.name} writes no words for this audio: give the text to explain as target.")
    if not isinstance(inputs, Utterance):
        utterance = fit_utterance(model, utterance, target, context, dtype, gen_args, callback)
    return utterance, target


def _speech_seconds(recording: Recording) -> float | None:
    """Seconds of speech; None if the extra with the detector is not installed."""
    try:
        return speech_seconds(recording.samples, recording.sampling_rate)
    except ImportError:
        return None


def text(model: SpeechToTextModel, tokens: Tokens | Tensor) -> str:
    """The text of tokens, without special tokens such as the end of the text.

    Args:
        model: the model.
        tokens: tokens, whose target is decoded, or token ids of shape (K,).

    Example::

        >>> from captum_spes.models import load_model, prepare, text
        >>> model = load_model("whisper-tiny.en")
        >>> utterance, tokens = prepare(model, "speech.wav", "so what")
        >>> text(model, tokens), text(model, tokens.target[1:])
        ('so what', 'what')
    """
    ids = tokens.target if isinstance(tokens, Tokens) else tokens
    return "".join(part for part, mark in zip(model.token_texts(ids), model.is_special(ids)) if not mark).strip()
