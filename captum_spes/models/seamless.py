"""SeamlessM4T v2 models of Hugging Face transformers."""

from __future__ import annotations

import torch
from torch import Tensor

from captum_spes.models.encoder_decoder import EncoderDecoderModel
from captum_spes.models.features import StackedFeatures
from captum_spes.models.protocol import Utterance


class SeamlessModel(StackedFeatures, EncoderDecoderModel):
    """A :class:`~captum_spes.models.SpeechToTextModel` from a Hugging Face SeamlessM4T v2.

    The input of the model are pairs of frames, stacked into 160 values; see
    :class:`~captum_spes.models.features.StackedFeatures`. The baseline is 0.

    Args:
        model: the SeamlessM4T v2 model, ``SeamlessM4Tv2ForSpeechToText``.
        processor: its processor (feature extractor and tokenizer), or the feature extractor alone.
        name: its name in results. Default: the name with which it was loaded.
        language: language of the text, as a code such as ``"deu"``.
        task: ``"transcribe"``, or ``"translate"`` if the speech is in another language, which the model is not told.

    Raises:
        ValueError: there is no language, or the model does not know it.
    """

    def _fixed_prompt(self, language: str | None, task: str) -> list[int]:
        languages = getattr(self.model.generation_config, "text_decoder_lang_to_code_id", None)
        if not languages:
            raise ValueError(
                f"the generation config of {self.name} has no text_decoder_lang_to_code_id: use the generation config "
                "of the model on the Hugging Face hub."
            )
        if language not in languages:
            asked = "writes many languages" if language is None else f"knows no language {language!r}"
            raise ValueError(f"{self.name} {asked}: give language, one of {', '.join(sorted(languages))}.")
        return [self._decoder_start(), languages[language]]

    def _n_positions(self) -> int:
        return self.model.config.max_position_embeddings

    def _encode(self, spectrogram: Tensor, utterance: Utterance) -> Tensor:
        mask = self._mask(utterance)
        mask = None if mask is None else mask.expand(len(spectrogram), -1)
        return self.model.speech_encoder(self._stacked(spectrogram, utterance), attention_mask=mask).last_hidden_state

    def _decoder_mask(self, hidden: Tensor, mask: Tensor) -> Tensor:
        lengths = self.model._compute_sub_sample_lengths_from_attention_mask(mask)
        return (torch.arange(hidden.shape[1], device=hidden.device) < lengths[:, None]).long()
