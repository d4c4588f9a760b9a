"""SeamlessM4T v2 models of Hugging Face transformers."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from captum_spes.models.encoder_decoder import EncoderDecoderModel
from captum_spes.models.huggingface import mel_centres
from captum_spes.models.protocol import Utterance
from captum_spes.models.speech2text import LOWEST_FREQUENCY


class SeamlessModel(EncoderDecoderModel):
    """A :class:`~captum_spes.models.SpeechToTextModel` from a Hugging Face SeamlessM4T v2.

    The model hears two frames at once, stacked into 160 values; spectrograms here are those of single frames,
    (B, T, 80), and stacked for the model alone. A last frame without a second one makes a pair with one of padding,
    which the model is told not to hear: it is no part of the utterance. Features are normalised to mean 0 in each mel
    channel of an utterance: the baseline is 0.

    Args:
        model: the SeamlessM4T v2 model, ``SeamlessM4Tv2ForSpeechToText``.
        processor: its processor (feature extractor and tokenizer), or the feature extractor alone.
        name: how results call it. Default: the name that it was loaded by.
        language: language of the text, as a code such as ``"deu"``.
        task: ``"transcribe"``, or ``"translate"`` where the speech is in another language: the model is not told.

    Raises:
        ValueError: no language, or one that the model does not know.
    """

    frames_per_second = 100.0  # Kaldi's
    normalized = True

    def __init__(
        self,
        model: Any,
        processor: Any,
        name: str | None = None,
        language: str | None = None,
        task: str = "transcribe",
    ) -> None:
        super().__init__(model, processor, name, language, task)
        extractor = self.feature_extractor
        self.stride: int = extractor.stride
        self.mel_frequencies = mel_centres(extractor.num_mel_bins, LOWEST_FREQUENCY, self.sample_rate / 2, "kaldi")

    def utterance(self, audio: np.ndarray) -> Utterance:
        features = self._extract(audio)
        frames = features.input_features.unflatten(2, (self.stride, -1)).flatten(1, 2)  # (1, T / 2, 2 C) to (1, T, C)
        n_frames = self.stride * int(features.attention_mask.sum())
        return Utterance(frames[:, :n_frames], frames[:, n_frames:], self.model.dtype)

    def _padded(self, features: Tensor) -> Utterance:
        n_frames = features.shape[1]
        n_rest = n_frames % self.stride
        if n_frames < self.stride:
            raise ValueError(f"features of {n_frames} frames are too short: {self.name} hears {self.stride} at once.")
        padding = features.new_zeros(1, self.stride if n_rest else 0, features.shape[2])
        return Utterance(features[:, : n_frames - n_rest], padding, self.model.dtype)

    def _fixed_prompt(self, language: str | None, task: str) -> list[int]:
        languages = getattr(self.model.generation_config, "text_decoder_lang_to_code_id", None)
        if not languages:
            raise ValueError(
                f"the generation config of {self.name} has no text_decoder_lang_to_code_id: take that of the model on "
                "the Hugging Face hub."
            )
        if language not in languages:
            asked = "writes many languages" if language is None else f"knows no language {language!r}"
            raise ValueError(f"{self.name} {asked}: give language, one of {', '.join(sorted(languages))}.")
        return [self._decoder_start(), languages[language]]

    def _n_positions(self) -> int:
        return self.model.config.max_position_embeddings

    def _encode(self, spectrogram: Tensor, utterance: Utterance) -> Tensor:
        frames = torch.cat((spectrogram, utterance.padding.expand(len(spectrogram), -1, -1)), dim=1)
        stacked = frames.unflatten(1, (-1, self.stride)).flatten(2)  # (B, T, C) to (B, T / 2, 2 C)
        mask = self._mask(utterance)
        mask = None if mask is None else mask.expand(len(stacked), -1)
        return self.model.speech_encoder(stacked.to(self.model.dtype), attention_mask=mask).last_hidden_state

    def _mask(self, utterance: Utterance) -> Tensor | None:
        if not utterance.padding.shape[1]:
            return None
        n_heard, n_padding = (part.shape[1] // self.stride for part in (utterance.spectrogram, utterance.padding))
        heard = torch.ones(1, n_heard, dtype=torch.long, device=utterance.spectrogram.device)
        return nn.functional.pad(heard, (0, n_padding))

    def _decoder_mask(self, hidden: Tensor, mask: Tensor) -> Tensor:
        lengths = self.model._compute_sub_sample_lengths_from_attention_mask(mask)
        return (torch.arange(hidden.shape[1], device=hidden.device) < lengths[:, None]).long()
