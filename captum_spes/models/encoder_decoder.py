"""Encoder–decoder models of Hugging Face transformers whose input is a mel spectrogram."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache, EncoderDecoderCache, GenerationMixin
from transformers.modeling_outputs import BaseModelOutput

from captum_spes.models.frozen_padding import FrozenPadding
from captum_spes.models.huggingface import HuggingFaceModel, gated, quiet
from captum_spes.models.protocol import Tokens, Utterance

# arguments of generate() that the adapter sets, or that would change the prompt of the decoder
RESERVED_GEN_ARGS = {
    *("decoder_input_ids", "encoder_outputs", "input_features", "attention_mask", "prompt_ids"),
    *("return_dict_in_generate", "forced_bos_token_id", "num_return_sequences"),
}


class Encoded:
    """The encoder's output for spectrograms, which the decoder attends to.

    Attributes:
        hidden: encoder states, (B, T', D).
        mask: the states that the decoder attends to, (B, T'); None for all.
        dtype: the precision in which they were computed.
        frozen: states of the padding that the decoder attends to as well; None if ``hidden`` has the full window.
        cross_attention: the decoder's keys and values of the states, computed when needed.
    """

    def __init__(
        self, hidden: Tensor, mask: Tensor | None, dtype: torch.dtype, frozen: FrozenPadding | None = None
    ) -> None:
        self.hidden = hidden
        self.mask = mask
        self.dtype = dtype
        self.frozen = frozen
        self.cross_attention: list[tuple[Tensor, Tensor]] | None = None

    def attended(self, model: nn.Module) -> AbstractContextManager[None]:
        """A context in which the model also attends to the frozen padding, if there is any."""
        return nullcontext() if self.frozen is None else self.frozen.attended(model)


class EncoderDecoderModel(HuggingFaceModel, ABC):
    """A :class:`~captum_spes.models.SpeechToTextModel` from an encoder–decoder; each family has a subclass.

    Args:
        model: the model.
        processor: its processor (feature extractor and tokenizer), or the feature extractor alone.
        name: its name in results. Default: the name with which it was loaded.
        language: language of the text, for models that take one, as a code of the family.
        task: ``"transcribe"`` or ``"translate"``.

    Raises:
        ValueError: the model does not know the language or the task.
    """

    def __init__(
        self,
        model: Any,
        processor: Any,
        name: str | None = None,
        language: str | None = None,
        task: str = "transcribe",
    ) -> None:
        super().__init__(model, processor, name, language, task)
        self.decoder = model.get_decoder()
        self.embedding_dim: int = self.decoder.embed_tokens.embedding_dim
        self._prompt = self._fixed_prompt(language, task)

    # What differs

    @abstractmethod
    def _fixed_prompt(self, language: str | None, task: str) -> list[int]:
        """The ids with which every decoding starts."""

    def _encode(self, spectrogram: Tensor, utterance: Utterance) -> Tensor:
        """Encoder states (B, T', D) of spectrograms (B, T, C)."""
        return self.model.get_encoder()(spectrogram.to(self.model.dtype)).last_hidden_state

    def _mask(self, utterance: Utterance) -> Tensor | None:
        """The ``attention_mask`` of the encoder's input frames, (1, T''); None for all."""
        return None

    def _decoder_mask(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """The mask (B, T') of the encoder states (B, T', D) that the decoder attends to."""
        raise NotImplementedError

    def _encoder_outputs(self, hidden: Tensor) -> BaseModelOutput:
        """Encoder states in the class that the model's own encoder returns."""
        return BaseModelOutput(last_hidden_state=hidden)

    def _start(self, utterance: Utterance) -> Tensor:
        """The ids with which the decoding of an utterance starts."""
        return torch.tensor(self._prompt, device=self.model.device)

    def _n_positions(self) -> int:
        """The number of positions of the decoder."""
        return self.model.config.max_target_positions

    # The protocol

    def generate(self, utterance: Utterance, **gen_args: Any) -> Tokens:
        prompt = self._start(utterance)
        [target] = self.generate_batch(utterance.spectrogram, utterance, prompt, **gen_args)
        return Tokens(prompt, target, generated=True)

    def generate_batch(
        self, spectrograms: Tensor, utterance: Utterance, prompt: Tensor, **gen_args: Any
    ) -> list[Tensor]:
        if reserved := sorted(RESERVED_GEN_ARGS & gen_args.keys()):
            raise ValueError(f"gen_args cannot hold {', '.join(reserved)}: the model is given these by itself.")
        mask = self._mask(utterance)
        if mask is not None:
            gen_args["attention_mask"] = mask.expand(len(spectrograms), -1)
        with torch.no_grad():
            encoded = self.encode(spectrograms, replace(utterance, frozen=None))
        return self.write(encoded, prompt, **gen_args)

    def write(self, encoded: Encoded, prompt: Tensor, **gen_args: Any) -> list[Tensor]:
        """The ids (K,) that the decoder writes after ``prompt`` for each row of the encoder's states."""
        n_positions = self._n_positions() - len(prompt)
        config = self.model.generation_config
        gen_args = {name: value for name, value in gen_args.items() if value is not None}
        # at most the decoder's positions: transformers raises an error for a larger limit
        if "max_new_tokens" in gen_args:
            gen_args["max_new_tokens"] = min(gen_args["max_new_tokens"], n_positions)
        elif "max_length" in gen_args:
            gen_args["max_length"] = min(gen_args["max_length"], self._n_positions())
        else:
            # the limit is given explicitly, because versions of transformers interpret the limits of the config
            # differently, and stop at 20 without one
            limit = n_positions if config.max_length is None else config.max_length - len(prompt)
            gen_args["max_new_tokens"] = max(min(config.max_new_tokens or limit, n_positions), 1)
        with torch.no_grad(), self._running(encoded.dtype), encoded.attended(self.model), quiet():
            # The generate() of GenerationMixin is used and not that of the family: Whisper's moves through long audio
            # by timestamps, and fails if a perturbed input produces some. Beam search expands the encoder outputs in
            # place, so they are made here.
            output = GenerationMixin.generate(
                self.model,
                encoder_outputs=self._encoder_outputs(encoded.hidden),
                decoder_input_ids=prompt.expand(len(encoded.hidden), -1),
                return_dict_in_generate=True,
                **gen_args,
            )
        return [self._until_end(target) for target in output["sequences"][:, len(prompt) :]]

    def tokens(self, target: str | Sequence[int] | Tensor, utterance: Utterance) -> Tokens:
        ids = self._target_ids(target)
        prompt = self._start(utterance)
        longest = self._n_positions() - len(prompt)
        if len(ids) > longest:
            raise ValueError(f"the target has {len(ids)} tokens, but {self.name} writes at most {longest}.")
        return Tokens(prompt, torch.tensor(ids, device=self.model.device))

    def encode(self, spectrogram: Tensor, utterance: Utterance) -> Encoded:
        mask = self._mask(utterance)
        with self._running(utterance.dtype):
            hidden = self._encode(spectrogram, utterance)
        return Encoded(hidden, None if mask is None else self._decoder_mask(hidden, mask), utterance.dtype)

    def logits(self, encoded: Encoded, tokens: Tokens, token_gate: Tensor | None = None) -> Tensor:
        previous = tokens.previous[None]
        check_gate(token_gate, previous.shape[1])
        n_rows = len(encoded.hidden) if token_gate is None else max(len(encoded.hidden), len(token_gate))
        # not every family's decoder takes the argument
        mask = {} if encoded.mask is None else {"encoder_attention_mask": encoded.mask.expand(n_rows, -1)}
        with self._running(encoded.dtype), encoded.attended(self.model):
            cache = None if len(encoded.hidden) == n_rows else self._shared_cache(encoded, n_rows)
            with gated(self.decoder.embed_tokens, token_gate):
                states = self.decoder(
                    previous.expand(n_rows, -1),
                    encoder_hidden_states=encoded.hidden.expand(n_rows, -1, -1),
                    past_key_values=cache,
                    use_cache=cache is not None,
                    **mask,
                )
            return self.head(states.last_hidden_state[:, len(tokens.prompt) - 1 :])

    @property
    def head(self) -> nn.Module:
        """The module that maps the decoder's states (B, K, D) to logits (B, K, V)."""
        head: nn.Module = self.model.get_output_embeddings()
        return head

    # Parts

    def _decoder_start(self) -> int:
        config = self.model.generation_config
        return config.decoder_start_token_id or self.model.config.decoder_start_token_id

    def _shared_cache(self, encoded: Encoded, n_rows: int) -> EncoderDecoderCache:
        """The decoder's keys and values of one utterance, computed once and shared by all rows of a batch."""
        needs_grad = torch.is_grad_enabled() and encoded.hidden.requires_grad
        if encoded.cross_attention is None or needs_grad:
            cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
            start = torch.zeros(1, 1, dtype=torch.long, device=encoded.hidden.device)  # any token serves
            self.decoder(start, encoder_hidden_states=encoded.hidden, past_key_values=cache, use_cache=True)
            encoded.cross_attention = [(layer.keys, layer.values) for layer in cache.cross_attention_cache.layers]
        cross = DynamicCache()
        for index, (keys, values) in enumerate(encoded.cross_attention):
            cross.update(keys[:0], values[:0], index)  # makes the layer
            cross.layers[index].keys = keys.expand(n_rows, -1, -1, -1)
            cross.layers[index].values = values.expand(n_rows, -1, -1, -1)
        return EncoderDecoderCache(DynamicCache(), cross)


def check_gate(token_gate: Tensor | None, n_previous: int) -> None:
    """Raises a ValueError for a gate that does not fit the previous tokens."""
    if token_gate is not None and (token_gate.dim() not in (2, 3) or token_gate.shape[1] != n_previous):
        raise ValueError(
            f"token_gate of shape {tuple(token_gate.shape)} does not fit {n_previous} previous tokens: "
            f"expected (batch, {n_previous})."
        )
