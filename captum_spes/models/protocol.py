"""The protocol of speech-to-text models, and the utterances and tokens that it uses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from captum_spes.models.frozen_padding import FrozenPadding

Task = Literal["transcribe", "translate"]
# number of encoder positions after the speech that are computed where the padding is frozen, 0.02 s each
MARGIN = 16


@dataclass(frozen=True, eq=False)
class Utterance:
    """An utterance as input of a model.

    Attributes:
        spectrogram: the utterance's own frames, shape (1, T, C), which are explained.
        padding: the frames that follow them in the model's window, shape (1, P, C). They are never perturbed.
        dtype: the precision in which the model runs; a precision other than float32 is used through autocast.
        frozen: states of the padding that passes of the model attend to instead of computing them, a
            :class:`~captum_spes.models.frozen_padding.FrozenPadding`. None: every pass computes the full window. Text
            is always written in the full window.
        context: how the window is run, and the result of the probe, for the metadata; see
            :func:`~captum_spes.models.context.fit_utterance`.
        source: the audio file, for the metadata: ``audio_file``, its path as it was given, and
            ``audio_sha256``; ``start_seconds`` and ``stop_seconds`` if it is a part of a recording. Empty without a
            file.
        speech_seconds: seconds in which a voice activity detector finds speech
            (:func:`~captum_spes.audio.speech_seconds`); None for features.
        prompt: text that the decoder reads before it writes, for models with prompts (Whisper).

    Example::

        >>> import torch
        >>> from captum_spes.models import Utterance
        >>> Utterance(torch.rand(1, 200, 80), torch.zeros(1, 2800, 80)).to("cpu").n_frames
        3000
    """

    spectrogram: Tensor
    padding: Tensor
    dtype: torch.dtype = torch.float32
    frozen: FrozenPadding | None = None
    context: dict[str, Any] = field(default_factory=dict)
    source: dict[str, Any] = field(default_factory=dict)
    speech_seconds: float | None = None
    prompt: str = ""

    @property
    def n_frames(self) -> int:
        """The number of frames, including the padding."""
        return self.spectrogram.shape[1] + self.padding.shape[1]

    def to(self, device: torch.device | str) -> Utterance:
        """The same on another device."""
        return replace(
            self,
            spectrogram=self.spectrogram.to(device),
            padding=self.padding.to(device),
            frozen=None if self.frozen is None else self.frozen.to(device),
        )


@dataclass(frozen=True, eq=False)
class Tokens:
    """Token ids of a prediction.

    Attributes:
        prompt: ids with which the decoder starts, shape (n,): previous tokens that are not explained.
        target: the ids that are explained, shape (K,).
        generated: whether the model wrote them rather than a user.
        path: for a model that writes all tokens at once (CTC), the number of the token of each frame, −1 for none,
            shape (F,). Such a model has no previous tokens, and :meth:`SpeechToTextModel.logits` has a row for each
            frame of a token; the score of a token is the mean over its frames. None for a model that writes token
            after token.

    Example::

        >>> import torch
        >>> from captum_spes.models import Tokens
        >>> Tokens(prompt=torch.tensor([1, 2]), target=torch.tensor([7, 8, 0])).to("cpu").previous
        tensor([1, 2, 7, 8])
    """

    prompt: Tensor
    target: Tensor
    generated: bool = False
    path: Tensor | None = None

    @property
    def previous(self) -> Tensor:
        """The decoder's input for the target, which is the prompt and the target without its last token, shape (J,)."""
        if self.path is not None:
            return self.target[:0]
        return torch.cat((self.prompt, self.target[:-1]))

    def to(self, device: torch.device | str) -> Tokens:
        """The same on another device."""
        path = None if self.path is None else self.path.to(device)
        return replace(self, prompt=self.prompt.to(device), target=self.target.to(device), path=path)


@runtime_checkable
class SpeechToTextModel(Protocol):
    """A model that writes tokens from a spectrogram and the previous tokens.

    Some models have more attributes and methods:

    - a model that translates has a method ``task_of(utterance, tokens)``, which returns ``"transcribe"`` or
      ``"translate"``; without it the model transcribes;
    - a model that takes a language or a task has attributes ``language`` and ``task``, by which a resumed evaluation
      recognises its settings;
    - a model with a window has an attribute ``window``, the number of its frames, by which long recordings are cut;
    - a model whose padding can be frozen has the method ``freeze_padding`` of
      :class:`~captum_spes.models.frozen_padding.FreezesPadding`, and ``write(encoded, prompt, **gen_args)``, which
      returns the text for the output of :meth:`encode`;
    - a model that estimates the probability that there is no speech has ``no_speech_probability(utterance, tokens)``;
    - a model whose text may be in another language than ``language`` has a method ``text_language(tokens)``, which
      returns the code of the text's language;
    - a model that reads ``Utterance.prompt`` has an attribute ``takes_prompt``, which is True;
    - a model whose texts begin with a space in some languages only has a method ``ids_without_space(text)``, which
      returns the ids of a text that begins without one.

    Attributes:
        name: its name in results.
        sample_rate: samples per second of the audio that :meth:`utterance` takes.
        frames_per_second: frames per second of its spectrograms.
        mel_frequencies: centre of each mel channel in Hz, shape (C,).
        baseline_name: description of :meth:`baseline`.
        embedding_dim: number of values of a token's embedding, D.

    Example::

        >>> from captum_spes.models import load_model
        >>> from captum_spes.audio import load_audio
        >>> from captum_spes.models import SpeechToTextModel
        >>> model = load_model("whisper-tiny.en")
        >>> isinstance(model, SpeechToTextModel)
        True
        >>> utterance = model.utterance(load_audio("speech.wav", model.sample_rate))
        >>> tokens = model.tokens("so what", utterance)
        >>> model.token_texts(tokens.target), model.is_special(tokens.target)
        ([' so', ' what'], [False, False])
        >>> encoded = model.encode(utterance.spectrogram, utterance)
        >>> model.logits(encoded, tokens).shape[:2]  # and the vocabulary
        torch.Size([1, 2])
        >>> hidden = model.baseline(utterance).expand_as(utterance.spectrogram)
        >>> texts = model.generate_batch(hidden, utterance, tokens.prompt, max_new_tokens=5)
        >>> written = model.generate(utterance, max_new_tokens=5)
        >>> model.from_features(utterance.spectrogram).n_frames == utterance.n_frames
        True
    """

    name: str
    sample_rate: int
    frames_per_second: float
    mel_frequencies: np.ndarray
    baseline_name: str
    embedding_dim: int

    def utterance(self, audio: np.ndarray) -> Utterance:
        """The utterance of mono float32 samples at ``sample_rate``; ValueError if it exceeds the window."""

    def from_features(self, features: Tensor) -> Utterance:
        """The utterance of a spectrogram of shape (1, T, C), which must have the model's own features."""

    def baseline(self, utterance: Utterance) -> Tensor:
        """The values that replace hidden bins: a tensor that broadcasts to the spectrogram."""

    def generate(self, utterance: Utterance, **gen_args: Any) -> Tokens:
        """The tokens that the model writes. ``gen_args`` are arguments of its generation (beams, length, …)."""

    def generate_batch(
        self, spectrograms: Tensor, utterance: Utterance, prompt: Tensor, **gen_args: Any
    ) -> list[Tensor]:
        """The ids (K,) that the model writes after ``prompt`` for each of the spectrograms (B, T, C), which replace
        that of the utterance."""

    def tokens(self, target: str | Sequence[int] | Tensor, utterance: Utterance) -> Tokens:
        """Converts a text or ids to the model's tokens; ValueError if the model cannot write them."""

    def token_texts(self, ids: Tensor) -> list[str]:
        """The readable text of each token. Joined, they are the text of all tokens."""

    def is_special(self, ids: Tensor) -> list[bool]:
        """Whether each token is a special token (start, end, language, …) rather than text."""

    def encode(self, spectrogram: Tensor, utterance: Utterance) -> Any:
        """The encoder's output for spectrograms (B, T, C), which replace that of the utterance."""

    def logits(self, encoded: Any, tokens: Tokens, token_gate: Tensor | None = None) -> Tensor:
        """Teacher-forced predictions of the target: unnormalised log-probabilities of shape (B, K, V).

        ``token_gate`` multiplies the previous tokens' embeddings: shape (B, J), or (B, J, D) for each of their
        values. If the batch size of ``encoded`` or ``token_gate`` is 1, it is broadcast to that of the other.
        Gradients flow to both.
        """


def language_of(model: SpeechToTextModel, tokens: Tokens) -> str | None:
    """The language that the model was told or has detected, as its own code; None for a model without languages."""
    found = getattr(model, "language_of", None)
    return getattr(model, "language", None) if found is None else found(tokens)


def text_language(model: SpeechToTextModel, tokens: Tokens) -> str | None:
    """The language of the text, which is English if Whisper was told to translate from another language."""
    found = getattr(model, "text_language", None)
    return language_of(model, tokens) if found is None else found(tokens)


def is_english(language: str | None) -> bool:
    """Whether a text is in English, by the code or name of its language, or by a pair such as ``"de-en"``.

    A text without a language is taken for English.

    Example::

        >>> from captum_spes.models.protocol import is_english
        >>> [is_english(language) for language in ("en", "eng", "English", "de-en", None, "en-de", "deu")]
        [True, True, True, True, True, False, False]
    """
    return language is None or language.casefold().split("-")[-1] in ("en", "eng", "english")


def task_of(model: SpeechToTextModel, utterance: Utterance, tokens: Tokens) -> Task:
    """Whether the tokens are in the language of the speech, or in another."""
    found = getattr(model, "task_of", None)
    return "transcribe" if found is None else found(utterance, tokens)
