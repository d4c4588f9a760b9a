"""Audio language models of Hugging Face transformers, in which one decoder reads instruction, sound and text."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache, GenerationMixin
from transformers.masking_utils import create_bidirectional_mask

from captum_spes.models.encoder_decoder import check_gate
from captum_spes.models.features import WhisperFeatures
from captum_spes.models.frozen_padding import FrozenPadding, first_positions, record, shortened
from captum_spes.models.huggingface import gated, quiet
from captum_spes.models.protocol import Tokens, Utterance

DEFAULT_NEW_TOKENS = 448  # the limit of Whisper for its window
# arguments of generate() that the adapter sets
RESERVED_GEN_ARGS = {
    *("input_ids", "inputs_embeds", "input_features", "attention_mask", "return_dict_in_generate"),
    "num_return_sequences",
}


class Encoded:
    """The input of the decoder before its own text.

    Attributes:
        embeddings: embeddings of the instruction with the sound in it, (B, P, D).
        dtype: the precision in which they were computed.
        prefix: the last hidden state, and each layer's keys and values, for one utterance; computed when needed.
    """

    def __init__(self, embeddings: Tensor, dtype: torch.dtype) -> None:
        self.embeddings = embeddings
        self.dtype = dtype
        self.prefix: tuple[Tensor, list[tuple[Tensor, Tensor]]] | None = None


class AudioLanguageModel(WhisperFeatures, ABC):
    """A :class:`~captum_spes.models.SpeechToTextModel` from a decoder that reads embeddings of sound and of text.

    The sound replaces the placeholders in the instruction. Previous tokens are those that the model has
    written. The instruction is not a feature, although it passes through the same embedding.

    Args:
        model: the model.
        processor: its processor, which makes the instruction; or the feature extractor alone, for the sound without an
            instruction.
        name: its name in results. Default: the name with which it was loaded.
        language: language of the text, as the word that the instruction uses.
        task: ``"transcribe"`` or ``"translate"``.

    Raises:
        ValueError: the task is another one.
    """

    # the network has products of two of its parts (SwiGLU), for which relevance propagation has no rule
    has_gated_products = True

    def __init__(
        self,
        model: Any,
        processor: Any,
        name: str | None = None,
        language: str | None = None,
        task: str = "transcribe",
    ) -> None:
        super().__init__(model, processor, name, language, task)
        self.window = 2 * model.config.audio_config.max_source_positions
        self.embedding = model.get_input_embeddings()
        self.embedding_dim: int = self.embedding.embedding_dim
        ids = [model.config.audio_token_id] if self.tokenizer is None else self._instruction(processor, language)
        places = [place for place, token in enumerate(ids) if token == model.config.audio_token_id]
        if not places:
            raise ValueError(
                f"the instruction of {self.name} has no placeholder for the sound, token "
                f"{model.config.audio_token_id}: give the model's own processor."
            )
        self._before, self._after = ids[: places[0]], ids[places[-1] + 1 :]

    # Methods of the families

    @abstractmethod
    def _instruction(self, processor: Any, language: str | None) -> list[int]:
        """The token ids of the instruction, with placeholders for the sound."""

    @abstractmethod
    def _sound(self, spectrogram: Tensor, utterance: Utterance) -> Tensor:
        """Embeddings (B, A, D) of spectrograms (B, T, C) that replace that of the utterance."""

    # The protocol

    def generate(self, utterance: Utterance, **gen_args: Any) -> Tokens:
        nothing = torch.tensor([], dtype=torch.long, device=self.model.device)
        [target] = self.generate_batch(utterance.spectrogram, utterance, nothing, **gen_args)
        return Tokens(nothing, target, generated=True)

    def generate_batch(
        self, spectrograms: Tensor, utterance: Utterance, prompt: Tensor, **gen_args: Any
    ) -> list[Tensor]:
        if reserved := sorted(RESERVED_GEN_ARGS & gen_args.keys()):
            raise ValueError(f"gen_args cannot hold {', '.join(reserved)}: the model is given these by itself.")
        with torch.no_grad():
            encoded = self.encode(spectrograms, replace(utterance, frozen=None))
        return self.write(encoded, prompt, **gen_args)

    def write(self, encoded: Encoded, prompt: Tensor, **gen_args: Any) -> list[Tensor]:
        """The ids (K,) that the decoder writes for each row of encoded spectrograms after the instruction."""
        config = self.model.generation_config
        gen_args = {name: value for name, value in gen_args.items() if value is not None}
        if (
            not gen_args.keys() & {"max_new_tokens", "max_length"}
            and config.max_length is config.max_new_tokens is None
        ):
            gen_args["max_new_tokens"] = DEFAULT_NEW_TOKENS  # the default of transformers is 20
        embeddings = encoded.embeddings
        with torch.no_grad(), self._running(encoded.dtype), quiet():
            output = GenerationMixin.generate(
                self.model,
                inputs_embeds=embeddings,
                attention_mask=torch.ones(embeddings.shape[:2], dtype=torch.long, device=embeddings.device),
                return_dict_in_generate=True,
                **gen_args,
            )
        return [self._until_end(target) for target in output["sequences"]]

    def tokens(self, target: str | Sequence[int] | Tensor, utterance: Utterance) -> Tokens:
        ids = torch.tensor(self._target_ids(target), device=self.model.device)
        return Tokens(ids[:0], ids)

    def encode(self, spectrogram: Tensor, utterance: Utterance) -> Encoded:
        with self._running(utterance.dtype):
            sound = self._sound(spectrogram, utterance)
            before, after = (
                self.embedding(torch.tensor(ids, dtype=torch.long, device=sound.device)).expand(len(sound), -1, -1)
                for ids in (self._before, self._after)
            )
        return Encoded(torch.cat((before, sound.to(before.dtype), after), dim=1), utterance.dtype)

    def logits(self, encoded: Encoded, tokens: Tokens, token_gate: Tensor | None = None) -> Tensor:
        previous = tokens.previous[None]
        check_gate(token_gate, previous.shape[1])
        n_rows = max(len(encoded.embeddings), 1 if token_gate is None else len(token_gate))
        with self._running(encoded.dtype):
            with gated(self.embedding, token_gate):
                embedded = self.embedding(previous).expand(n_rows, -1, -1)
            if len(encoded.embeddings) < n_rows:
                states = self._after_prefix(encoded, embedded)
            else:
                whole = torch.cat((encoded.embeddings, embedded), dim=1)
                states = self._decoder()(inputs_embeds=whole, use_cache=False).last_hidden_state
                states = states[:, encoded.embeddings.shape[1] - 1 :]
            return self.model.lm_head(states)

    # Parts

    def _decoder(self) -> Any:
        return self.model.get_decoder()

    def _after_prefix(self, encoded: Encoded, embedded: Tensor) -> Tensor:
        """Hidden states (B, K, D) of texts (B, K - 1, D) after one prefix, which is computed once."""
        if encoded.prefix is None or (torch.is_grad_enabled() and encoded.embeddings.requires_grad):
            cache = DynamicCache()
            read = self._decoder()(inputs_embeds=encoded.embeddings, past_key_values=cache, use_cache=True)
            encoded.prefix = read.last_hidden_state[:, -1:], [(layer.keys, layer.values) for layer in cache.layers]
        last, layers = encoded.prefix
        n_rows = len(embedded)
        cache = DynamicCache()
        for index, states in enumerate(layers):
            cache.update(*(state.expand(n_rows, -1, -1, -1) for state in states), index)
        if not embedded.shape[1]:
            return last.expand(n_rows, -1, -1)
        read = self._decoder()(inputs_embeds=embedded, past_key_values=cache, use_cache=True)
        return torch.cat((last.expand(n_rows, -1, -1), read.last_hidden_state), dim=1)


class Qwen2AudioModel(AudioLanguageModel):
    """Qwen2-Audio, ``Qwen2AudioForConditionalGeneration``; arguments as in :class:`AudioLanguageModel`."""

    positions_at_once = 2

    def _instruction(self, processor: Any, language: str | None) -> list[int]:
        if self.task == "translate":
            words = f"Translate the speech into {language or 'English'}."
        else:
            words = f"Transcribe the speech{'' if language is None else f' in {language}'}."
        if processor.chat_template is None:  # a model that is not a chat model
            text = f"<|audio_bos|>{processor.audio_token}<|audio_eos|>{words}"
        else:
            content = [{"type": "audio", "audio_url": ""}, {"type": "text", "text": words}]
            text = processor.apply_chat_template(
                [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
            )
        return self.tokenizer(text).input_ids

    def _sound(self, spectrogram: Tensor, utterance: Utterance) -> Tensor:
        tower = self.model.model.audio_tower
        n_heard, n_pooled = tower._get_feat_extract_output_lengths(spectrogram.shape[1])
        n_positions = self.window // 2 if utterance.frozen is None else utterance.frozen.n_positions
        frames = self._windows(spectrogram, utterance, 2 * n_positions)
        hidden = frames.new_empty(len(frames), n_positions, 1)
        heard = torch.arange(n_positions, device=frames.device) < n_heard
        mask = create_bidirectional_mask(
            config=tower.config, inputs_embeds=hidden, attention_mask=heard.expand(len(frames), -1).long()
        )
        states = shortened(tower, n_positions)(frames, attention_mask=mask).last_hidden_state
        return self.model.model.multi_modal_projector(states)[:, :n_pooled]

    def _record(self, utterance: Utterance, references: Sequence[Tensor], n_positions: int) -> FrozenPadding:
        # The encoder does not attend to positions after the speech, so leaving them out is exact.
        return FrozenPadding(n_positions, {})


class VoxtralModel(AudioLanguageModel):
    """Voxtral, ``VoxtralForConditionalGeneration``; arguments as in :class:`AudioLanguageModel`.

    The instruction is the model's own request for a transcript, which cannot ask for a translation; ``language`` is
    that of the speech.
    """

    def _instruction(self, processor: Any, language: str | None) -> list[int]:
        if self.task == "translate":
            raise ValueError(f"{self.name} can only transcribe: leave out task.")
        request = processor.apply_transcription_request(
            np.zeros(self.sample_rate, np.float32),
            model_id=self.name,
            language=language,
            sampling_rate=self.sample_rate,
            format="WAV",
        )
        return request["input_ids"][0].tolist()

    def _sound(self, spectrogram: Tensor, utterance: Utterance) -> Tensor:
        frozen = utterance.frozen
        if frozen is None:
            return self._embeddings(self._tower(self._windows(spectrogram, utterance)).last_hidden_state)
        with frozen.attended(self.model):
            frames = partial(self._windows, spectrogram, utterance)
            own = self._embeddings(first_positions(self._tower, frames, frozen.n_positions))
        return own if frozen.tail is None else torch.cat((own, frozen.tail.to(own.dtype).expand(len(own), -1, -1)), 1)

    def _record(self, utterance: Utterance, references: Sequence[Tensor], n_positions: int) -> FrozenPadding:
        tails = []

        def run() -> None:
            for part in references:
                tails.append(self._sound(part, utterance)[:, n_positions // self.positions_at_once :])

        attentions = [layer.self_attn for layer in self._tower.layers]
        states = record(self.model, attentions, n_positions, run)
        return FrozenPadding(n_positions, states, tail=torch.cat(tails).float().mean(0, keepdim=True))

    @property
    def _tower(self) -> Any:
        return self.model.model.audio_tower

    @property
    def positions_at_once(self) -> int:  # type: ignore[override]
        """The number of encoder positions that the decoder reads as one."""
        config = self.model.config.audio_config
        return config.intermediate_size // config.hidden_size

    def _embeddings(self, states: Tensor) -> Tensor:
        """The decoder's embeddings (B, A, D) of encoder states (B, T', D')."""
        return self.model.model.multi_modal_projector(states.unflatten(1, (-1, self.positions_at_once)).flatten(2))
