"""Canary models of Hugging Face transformers."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor
from transformers.models.parakeet.modeling_parakeet import ParakeetEncoderModelOutput

from captum_spes.models.encoder_decoder import EncoderDecoderModel
from captum_spes.models.features import ParakeetFeatures
from captum_spes.models.protocol import Tokens


class CanaryModel(ParakeetFeatures, EncoderDecoderModel):
    """A :class:`~captum_spes.models.SpeechToTextModel` from a Hugging Face Canary.

    Its prompt names the language of the speech and that of the text; the processor's chat template makes it.
    Features are normalised to mean 0 in each mel channel of an utterance, so that the baseline is 0.

    Args:
        model: the Canary model.
        processor: its processor.
        name: its name in results. Default: the name with which it was loaded.
        language: language of speech and text, as a code such as ``"de"``, or a pair such as ``"en-de"`` for English
            speech and German text. Default: English.
        task: ``"transcribe"``, or ``"translate"`` for English text from speech in ``language``.

    Raises:
        ValueError: the model does not know the language or cannot translate it into itself, or the processor lacks the
            template.
    """

    def __init__(
        self,
        model: Any,
        processor: Any,
        name: str | None = None,
        language: str | None = None,
        task: str = "transcribe",
    ) -> None:
        self._processor = processor
        super().__init__(model, processor, name, language, task)

    def _fixed_prompt(self, language: str | None, task: str) -> list[int]:
        if not hasattr(self._processor, "apply_transcription_request"):
            raise ValueError(f"{self.name} needs its whole processor, whose chat template makes the prompt.")
        spoken, _, written = (language or "en").partition("-")
        written = written or ("en" if task == "translate" else spoken)
        if task == "translate" and spoken == written:
            raise ValueError(
                f"{self.name} cannot translate {spoken!r} into itself: give the language of the speech, such as "
                "language='de', or a pair, such as 'en-de'."
            )
        silence = np.zeros(self.sample_rate, np.float32)
        try:
            request = self._processor.apply_transcription_request(silence, spoken, written)
        except ValueError as error:
            raise ValueError(f"{self.name} cannot write {written!r} from {spoken!r}: {error}") from error
        self.task = "transcribe" if spoken == written else "translate"
        self._written = written
        return request["decoder_input_ids"][0].tolist()

    def text_language(self, tokens: Tokens) -> str:
        """The second language of the pair."""
        return self._written

    def _n_positions(self) -> int:
        return self.model.config.decoder_config.max_position_embeddings

    def _encoder_outputs(self, hidden: Tensor) -> ParakeetEncoderModelOutput:
        return ParakeetEncoderModelOutput(last_hidden_state=hidden)
