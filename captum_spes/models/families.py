"""The supported families of models, and their adapters."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any

from captum_spes._extras import require


@dataclass(frozen=True)
class Family:
    """A family of models.

    Attributes:
        title: the name of the family.
        model: its class in transformers.
        adapter: the adapter's module and class in ``captum_spes.models``.
        extra: the extra that installs the packages that its processor needs beside transformers.
    """

    title: str
    model: str
    adapter: tuple[str, str]
    extra: str = "speech"

    def model_class(self) -> Any:
        return getattr(require("transformers"), self.model)

    def adapter_class(self) -> Any:
        module, name = self.adapter
        return getattr(importlib.import_module(f"captum_spes.models.{module}"), name)


# by the ``model_type`` of a Hugging Face config
FAMILIES = {
    "whisper": Family("Whisper", "WhisperForConditionalGeneration", ("whisper", "WhisperModel")),
    "speech_to_text": Family(
        "Speech2Text", "Speech2TextForConditionalGeneration", ("speech2text", "Speech2TextModel"), "speech2text"
    ),
    "seamless_m4t_v2": Family("SeamlessM4T v2", "SeamlessM4Tv2ForSpeechToText", ("seamless", "SeamlessModel")),
    "canary": Family("Canary", "CanaryForConditionalGeneration", ("canary", "CanaryModel"), "nemo"),
    "wav2vec2-bert": Family("Wav2Vec2-BERT", "Wav2Vec2BertForCTC", ("ctc", "Wav2Vec2BertModel")),
    "parakeet_ctc": Family("Parakeet-CTC", "ParakeetForCTC", ("ctc", "ParakeetCtcModel"), "nemo"),
    "qwen2_audio": Family("Qwen2-Audio", "Qwen2AudioForConditionalGeneration", ("audio_language", "Qwen2AudioModel")),
    "voxtral": Family("Voxtral", "VoxtralForConditionalGeneration", ("audio_language", "VoxtralModel"), "voxtral"),
}

# The input of these models is the waveform: a spectrogram with hidden bins would have to be converted to a waveform,
# which needs phases that it does not contain, and the hidden parts would leave traces.
WAVEFORM = {
    *("hubert", "moonshine", "moonshine_streaming", "sew", "sew-d", "speecht5", "unispeech", "unispeech-sat"),
    *("wav2vec2", "wav2vec2-conformer", "wavlm"),
}


class UnsupportedModelError(ValueError):
    """The model belongs to a family without an adapter."""


def find_family(model_type: str | None, class_name: str) -> Family:
    """Finds the family of a model.

    Raises:
        UnsupportedModelError: it has no adapter; the message names the class, the families, and the protocol.
    """
    if model_type in FAMILIES:
        return FAMILIES[model_type]
    why = "take the waveform and not a spectrogram as input, and are" if model_type in WAVEFORM else "are"
    raise UnsupportedModelError(
        f"models of class {class_name} {why} not supported: the supported families are "
        f"{', '.join(family.title for family in FAMILIES.values())}; for another one implement "
        "captum_spes.models.SpeechToTextModel."
    )
