"""Base classes of adapters for each feature extractor of Hugging Face, which makes spectrograms of audio."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from captum_spes.models.frozen_padding import FreezesPadding
from captum_spes.models.huggingface import HuggingFaceModel
from captum_spes.models.protocol import Utterance

LOWEST_FREQUENCY = 20.0  # Hz, lower edge of Kaldi's mel filters
KALDI_FRAMES_PER_SECOND = 100.0


class Speech2TextFeatures(HuggingFaceModel):
    """Kaldi's log mel energies every 10 ms, normalised in each channel of an utterance unless this is turned off."""

    frames_per_second = KALDI_FRAMES_PER_SECOND

    def __init__(self, model: Any, processor: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(model, processor, *args, **kwargs)
        extractor = self.feature_extractor
        self._set_channels(extractor.num_mel_bins, LOWEST_FREQUENCY, "kaldi")
        self.normalized = extractor.do_ceptral_normalize and extractor.normalize_means
        self.window: int = model.config.max_source_positions


class StackedFeatures(HuggingFaceModel):
    """Kaldi's normalised log mel energies every 10 ms, of which two frames are stacked for the model.

    Spectrograms here have single frames, (B, T, C), which are stacked only as input of the model. A single last frame
    is stacked with a frame of padding; the pair is masked and does not belong to the utterance.
    """

    frames_per_second = KALDI_FRAMES_PER_SECOND
    normalized = True

    def __init__(self, model: Any, processor: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(model, processor, *args, **kwargs)
        self.stride: int = self.feature_extractor.stride
        self._set_channels(self.feature_extractor.num_mel_bins, LOWEST_FREQUENCY, "kaldi")

    def utterance(self, audio: np.ndarray) -> Utterance:
        self._check_length(audio)
        features = self._extract(audio)
        frames = features.input_features.unflatten(2, (self.stride, -1)).flatten(1, 2)  # (1, T / 2, 2 C) to (1, T, C)
        n_frames = self.stride * int(features.attention_mask.sum())
        return Utterance(frames[:, :n_frames], frames[:, n_frames:], self.model.dtype)

    def _padded(self, features: Tensor) -> Utterance:
        n_frames = features.shape[1]
        n_rest = n_frames % self.stride
        if n_frames < self.stride:
            raise ValueError(f"features of {n_frames} frames are too short: {self.name} needs at least {self.stride}.")
        padding = features.new_zeros(1, self.stride if n_rest else 0, features.shape[2])
        return Utterance(features[:, : n_frames - n_rest], padding, self.model.dtype)

    def _stacked(self, spectrogram: Tensor, utterance: Utterance) -> Tensor:
        """The model's input (B, T / 2, 2 C)."""
        frames = torch.cat((spectrogram, utterance.padding.expand(len(spectrogram), -1, -1)), dim=1)
        return frames.unflatten(1, (-1, self.stride)).flatten(2).to(self.model.dtype)

    def _mask(self, utterance: Utterance) -> Tensor | None:
        """The mask of the stacked frames, (1, T / 2); None for all."""
        if not utterance.padding.shape[1]:
            return None
        n_heard, n_padding = (part.shape[1] // self.stride for part in (utterance.spectrogram, utterance.padding))
        heard = torch.ones(1, n_heard, dtype=torch.long, device=utterance.spectrogram.device)
        return nn.functional.pad(heard, (0, n_padding))


class ParakeetFeatures(HuggingFaceModel):
    """NeMo's normalised log mel energies. The incomplete frame at the end is masked by the model and left out."""

    normalized = True

    def __init__(self, model: Any, processor: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(model, processor, *args, **kwargs)
        self.frames_per_second = self.sample_rate / self.feature_extractor.hop_length
        self._set_channels(self.feature_extractor.feature_size, 0, "slaney")
        encoder = model.config.encoder_config
        self.window: int = encoder.subsampling_factor * encoder.max_position_embeddings


class WhisperFeatures(FreezesPadding):
    """Whisper's log mel energies in a window of 30 s, which includes the silence after the utterance."""

    window: int

    def __init__(self, model: Any, processor: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(model, processor, *args, **kwargs)
        self.frames_per_second = self.sample_rate / self.feature_extractor.hop_length
        self._set_channels(self.feature_extractor.feature_size, 0, "slaney")

    def utterance(self, audio: np.ndarray) -> Utterance:
        self._check_length(audio)
        features = self.feature_extractor(
            audio,
            sampling_rate=self.sample_rate,
            padding="max_length",
            max_length=int(self.window / self.frames_per_second * self.sample_rate),
            return_tensors="pt",
        ).input_features
        frames = features.transpose(1, 2).to(self.model.device)  # (1, C, window) to (1, window, C)
        n_frames = min(-(-len(audio) // self.feature_extractor.hop_length), self.window)
        return Utterance(frames[:, :n_frames], frames[:, n_frames:], self.model.dtype)

    def _padded(self, features: Tensor) -> Utterance:
        # Whisper clips at 8 below the largest log10 energy and divides by 4, so that silence is 2 below the maximum
        silence = (features.max() - 2).expand(1, self.window - features.shape[1], features.shape[2])
        return Utterance(features, silence, self.model.dtype)
