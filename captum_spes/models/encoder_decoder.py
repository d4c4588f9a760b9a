"""Encoder–decoder models of Hugging Face transformers that hear a mel spectrogram."""

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
from captum_spes.models.protocol import Task, Tokens, Utterance

# arguments of generate() that the adapter sets, or that would change what the decoder is started with
RESERVED = {
    *("decoder_input_ids", "encoder_outputs", "input_features", "attention_mask", "prompt_ids"),
    *("return_dict_in_generate", "forced_bos_token_id"),
}


class Encoded:
    """What the decoder needs of spectrograms.

    Attributes:
        hidden: encoder states, (B, T', D).
        mask: which of them are heard, (B, T'); None for all.
        dtype: the precision in which they were made.
        frozen: states of the padding that the decoder attends to as well; None where ``hidden`` has the full window.
        cross_attention: the decoder's view of them, once it is needed.
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
        """Lets the model attend to the frozen padding, where there is any, while it lasts."""
        return nullcontext() if self.frozen is None else self.frozen.attended(model)


class EncoderDecoderModel(HuggingFaceModel, ABC):
    """A :class:`~captum_spes.models.SpeechToTextModel` from an encoder–decoder; a family's class says what differs.

    Args:
        model: the model.
        processor: its processor (feature extractor and tokenizer), or the feature extractor alone.
        name: how results call it. Default: the name that it was loaded by.
        language: language of the text, for models that are told; the codes are the family's.
        task: ``"transcribe"`` or ``"translate"``.

    Raises:
        ValueError: a language or task that the model does not know.
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
        """The ids that every decoding starts with."""

    @abstractmethod
    def _encode(self, spectrogram: Tensor, utterance: Utterance) -> Tensor:
        """Encoder states (B, T', D) of spectrograms (B, T, C)."""

    def _mask(self, utterance: Utterance) -> Tensor | None:
        """Which frames of the encoder's input are heard, (1, T''), as its ``attention_mask``; None for all."""
        return None

    def _decoder_mask(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """Which of the encoder states (B, T', D) are heard, (B, T')."""
        raise NotImplementedError

    def _encoder_outputs(self, hidden: Tensor) -> BaseModelOutput:
        """Encoder states as the model itself would give them."""
        return BaseModelOutput(last_hidden_state=hidden)

    def _start(self, utterance: Utterance) -> Tensor:
        """The ids that the decoding of an utterance starts with."""
        return torch.tensor(self._prompt, device=self.model.device)

    def _n_positions(self) -> int:
        """Tokens that the decoder has positions for."""
        return self.model.config.max_target_positions

    # The protocol

    def generate(self, utterance: Utterance, **gen_args: Any) -> Tokens:
        prompt = self._start(utterance)
        [target] = self.generate_batch(utterance.spectrogram, utterance, prompt, **gen_args)
        return Tokens(prompt, target, generated=True)

    def generate_batch(
        self, spectrograms: Tensor, utterance: Utterance, prompt: Tensor, **gen_args: Any
    ) -> list[Tensor]:
        if reserved := sorted(RESERVED & gen_args.keys()):
            raise ValueError(f"gen_args cannot hold {', '.join(reserved)}: the model is given these by itself.")
        mask = self._mask(utterance)
        if mask is not None:
            gen_args["attention_mask"] = mask.expand(len(spectrograms), -1)
        with torch.no_grad():
            encoded = self.encode(spectrograms, replace(utterance, frozen=None))
        return self.write(encoded, prompt, **gen_args)

    def write(self, encoded: Encoded, prompt: Tensor, **gen_args: Any) -> list[Tensor]:
        """The ids (K,) that the decoder writes after ``prompt`` from each row of the encoder's states."""
        n_positions = self._n_positions() - len(prompt)
        config = self.model.generation_config
        if "max_new_tokens" in gen_args:
            # no more than it has positions for: transformers refuses, where all that is meant is a limit
            gen_args["max_new_tokens"] = min(gen_args["max_new_tokens"], n_positions)
        elif "max_length" not in gen_args:
            # said again, for versions of transformers differ in what the config's own limits mean, and stop at 20
            # where there is none
            limit = n_positions if config.max_length is None else config.max_length - len(prompt)
            gen_args["max_new_tokens"] = max(min(config.max_new_tokens or limit, n_positions), 1)
        with torch.no_grad(), self._running(encoded.dtype), encoded.attended(self.model), quiet():
            # Not a family's own generate: Whisper's seeks through long audio by the timestamps that it finds and fails
            # where a perturbed input brings some. Beam search expands the outputs in place: they are made here.
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
        # not every family's decoder knows the argument
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
            return self.model.get_output_embeddings()(states.last_hidden_state[:, len(tokens.prompt) - 1 :])

    def task_of(self, utterance: Utterance, tokens: Tokens) -> Task:
        """Whether the tokens are in the language of the speech, or in another; most models are not told, but given."""
        return self.task

    # Parts

    def _decoder_start(self) -> int:
        config = self.model.generation_config
        return config.decoder_start_token_id or self.model.config.decoder_start_token_id

    def _shared_cache(self, encoded: Encoded, n_rows: int) -> EncoderDecoderCache:
        """The decoder's keys and values of one utterance, computed once and lent to every row of a batch."""
        needs_grad = torch.is_grad_enabled() and encoded.hidden.requires_grad
        if encoded.cross_attention is None or needs_grad:
            cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
            start = torch.zeros(1, 1, dtype=torch.long, device=encoded.hidden.device)  # any token will do
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
