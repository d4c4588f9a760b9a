"""Whisper models of Hugging Face transformers."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from captum_spes.models.encoder_decoder import EncoderDecoderModel
from captum_spes.models.features import WhisperFeatures
from captum_spes.models.protocol import Task, Tokens, Utterance

if TYPE_CHECKING:
    from transformers import WhisperForConditionalGeneration
    from transformers.models.whisper.modeling_whisper import WhisperEncoder


class WhisperModel(WhisperFeatures, EncoderDecoderModel):
    """A :class:`~captum_spes.models.SpeechToTextModel` from a Hugging Face Whisper.

    Args:
        model: the Whisper model.
        processor: its processor (feature extractor and tokenizer), or the feature extractor alone.
        name: how results call it. Default: the name that it was loaded by.
        language: language of multilingual models' transcripts, as a code such as ``"en"``. Default: detected.
            One that is not spoken makes the model translate: ``"de"`` on English speech.
        task: ``"transcribe"``, or ``"translate"`` for English text from any language (multilingual models).

    Raises:
        ValueError: a language or task that the model does not know.
    """

    text_prefix = " "

    def __init__(
        self,
        model: WhisperForConditionalGeneration,
        processor: Any,
        name: str | None = None,
        language: str | None = None,
        task: str = "transcribe",
    ) -> None:
        super().__init__(model, processor, name, language, task)
        # the encoder's second convolution halves the frames
        self.window = 2 * model.config.max_source_positions
        self._detect_language = self._is_multilingual and language is None

    @property
    def _is_multilingual(self) -> bool:
        return bool(getattr(self.model.generation_config, "is_multilingual", False))

    def _fixed_prompt(self, language: str | None, task: str) -> list[int]:
        """The ids that every decoding starts with; a language that is to be detected comes after the first."""
        config = self.model.generation_config
        prompt = [self._decoder_start()]
        if self._is_multilingual:
            if not (getattr(config, "lang_to_id", None) and getattr(config, "task_to_id", None)):
                raise ValueError(
                    f"the generation config of {self.name} is outdated: it has no lang_to_id and task_to_id; take that "
                    "of the model's latest version on the Hugging Face hub."
                )
            if language is not None:
                known = sorted(token[2:-2] for token in config.lang_to_id)
                if language not in known:
                    raise ValueError(f"{self.name} knows no language {language!r}: give one of {', '.join(known)}.")
                prompt.append(config.lang_to_id[f"<|{language}|>"])
            prompt.append(config.task_to_id[task])
        elif task == "translate" or language not in (None, "en"):
            raise ValueError(f"{self.name} is an English-only model: it can only transcribe English.")
        if getattr(config, "no_timestamps_token_id", None) is not None:
            prompt.append(config.no_timestamps_token_id)
        return prompt

    def _start(self, utterance: Utterance) -> Tensor:
        prompt = self._prompt
        if self._detect_language:
            prompt = [prompt[0], self._spoken_language(utterance), *prompt[1:]]
        return torch.tensor(prompt, device=self.model.device)

    def task_of(self, utterance: Utterance, tokens: Tokens) -> Task:
        """A transcript in a language that is not spoken is a translation."""
        if self.task == "translate" or self._detect_language or not self._is_multilingual:
            return self.task
        return "transcribe" if int(tokens.prompt[1]) == self._spoken_language(utterance) else "translate"

    def _spoken_language(self, utterance: Utterance) -> int:
        """The id of the language that the model hears."""
        with torch.no_grad(), self._running(utterance.dtype):
            hidden = self._encode(utterance.spectrogram, utterance)
            return int(self.model.detect_language(encoder_outputs=self._encoder_outputs(hidden))[0])

    def _encode(self, spectrogram: Tensor, utterance: Utterance) -> Tensor:
        padding = utterance.padding.expand(len(spectrogram), -1, -1)
        frames = torch.cat((spectrogram, padding), dim=1).transpose(1, 2)  # Whisper wants (B, C, T)
        if frames.shape[2] % 2:
            frames = nn.functional.pad(frames, (0, 1), mode="replicate")
        encoder = self.model.model.encoder
        if frames.shape[2] != self.window:
            encoder = _shortened(encoder, frames.shape[2] // 2)
        return encoder(frames.to(self.model.dtype)).last_hidden_state


def _shortened(encoder: WhisperEncoder, n_positions: int) -> WhisperEncoder:
    """The same encoder, sharing its weights and hooks, for a shorter window: Whisper's positions are a table."""
    short = copy.copy(encoder)
    short.config = copy.copy(encoder.config)
    short.config.max_source_positions = n_positions
    table = nn.Embedding.from_pretrained(encoder.embed_positions.weight[:n_positions].detach())
    short._modules = {**encoder._modules, "embed_positions": table}
    return short
