"""Whisper models of Hugging Face transformers."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import DynamicCache, EncoderDecoderCache, GenerationMixin, WhisperForConditionalGeneration
from transformers.audio_utils import hertz_to_mel, mel_to_hertz
from transformers.modeling_outputs import BaseModelOutput
from transformers.utils import logging

from captum_spes.models.protocol import Tokens, Utterance

if TYPE_CHECKING:
    from transformers import WhisperProcessor
    from transformers.models.whisper.modeling_whisper import WhisperEncoder


# arguments of generate() that the adapter sets, or that would change what the decoder is started with
RESERVED = {"decoder_input_ids", "encoder_outputs", "input_features", "prompt_ids", "return_dict_in_generate"}


class WhisperModel:
    """A :class:`~captum_spes.models.SpeechToTextModel` from a Hugging Face Whisper.

    The model is run in eval mode and left as it was: its mode, hooks, dtype, device and the state of the random
    number generators.

    Args:
        model: the Whisper model.
        processor: its processor (feature extractor and tokenizer).
        name: how results call it. Default: the name that it was loaded by.
        language: language of multilingual models' transcripts, as a code such as ``"en"``. Default: detected.
        task: ``"transcribe"``, or ``"translate"`` for English text from any language (multilingual models).

    Raises:
        ValueError: a language or task that the model does not know.
    """

    baseline_name = "mean of each mel channel over the utterance"

    def __init__(
        self,
        model: WhisperForConditionalGeneration,
        processor: WhisperProcessor,
        name: str | None = None,
        language: str | None = None,
        task: str = "transcribe",
    ) -> None:
        self.model = model
        self.feature_extractor = processor.feature_extractor
        self.tokenizer = processor.tokenizer
        self.name = name or model.config._name_or_path or type(model).__name__
        self.sample_rate: int = self.feature_extractor.sampling_rate
        self.frames_per_second: float = self.sample_rate / self.feature_extractor.hop_length
        self.mel_frequencies = _mel_centres(self.feature_extractor.feature_size, self.sample_rate)
        self.embedding_dim: int = model.config.d_model
        # the encoder's second convolution halves the frames
        self.window = 2 * model.config.max_source_positions
        self._prompt = self._fixed_prompt(language, task)
        self._detect_language = self._is_multilingual and language is None

    # Audio and spectrograms

    def utterance(self, audio: np.ndarray) -> Utterance:
        longest = self.window / self.frames_per_second
        if len(audio) > longest * self.sample_rate:
            raise ValueError(
                f"the audio lasts {len(audio) / self.sample_rate:.1f} s, longer than the {longest:g} s window of "
                f"{self.name}: cut it into shorter utterances."
            )
        features = self.feature_extractor(
            audio,
            sampling_rate=self.sample_rate,
            padding="max_length",
            max_length=int(longest * self.sample_rate),
            return_tensors="pt",
        ).input_features
        frames = features.transpose(1, 2).to(self.model.device)  # (1, C, window) to (1, window, C)
        n_frames = min(-(-len(audio) // self.feature_extractor.hop_length), self.window)
        return Utterance(frames[:, :n_frames], frames[:, n_frames:], self.model.dtype)

    def from_features(self, features: Tensor) -> Utterance:
        n_channels = len(self.mel_frequencies)
        if features.dim() != 3 or len(features) != 1 or features.shape[2] != n_channels or not features.numel():
            raise ValueError(
                f"features must be one spectrogram of shape (1, frames, {n_channels}), not {tuple(features.shape)}."
            )
        if features.shape[1] > self.window:
            raise ValueError(f"features of {features.shape[1]} frames exceed the model's window of {self.window}.")
        if not features.isfinite().all():
            raise ValueError("the features hold NaN or infinite values: check the audio that they were made from.")
        features = features.float().to(self.model.device)
        # Whisper clips at 8 below the largest log10 energy and divides by 4: silence lies 2 below the maximum
        silence = (features.max() - 2).expand(1, self.window - features.shape[1], n_channels)
        return Utterance(features, silence, self.model.dtype)

    def baseline(self, utterance: Utterance) -> Tensor:
        """Each mel channel's mean over the utterance's own frames, shape (1, 1, C).

        The paper's 0 after normalisation, which its models apply to each channel of an utterance (§4.1.1).
        """
        return utterance.spectrogram.mean(1, keepdim=True)

    # Text

    def generate(self, utterance: Utterance, **gen_args: Any) -> Tokens:
        prompt = self._start(utterance)
        [target] = self.generate_batch(utterance.spectrogram, utterance, prompt, **gen_args)
        return Tokens(prompt, target, generated=True)

    def generate_batch(
        self, spectrograms: Tensor, utterance: Utterance, prompt: Tensor, **gen_args: Any
    ) -> list[Tensor]:
        if reserved := sorted(RESERVED & gen_args.keys()):
            raise ValueError(f"gen_args cannot hold {', '.join(reserved)}: the model is given these by itself.")
        if "max_new_tokens" in gen_args:
            # no more than it has positions for: transformers refuses, where all that is meant is a limit
            n_positions = self.model.config.max_target_positions - len(prompt)
            gen_args["max_new_tokens"] = min(gen_args["max_new_tokens"], n_positions)
        with torch.no_grad(), self._running(utterance.dtype), _quiet():
            # Not Whisper's own generate, which seeks through long audio by the timestamps that it finds and fails where
            # a perturbed input brings some. A new BaseModelOutput each time: beam search expands it in place.
            output = GenerationMixin.generate(
                self.model,
                encoder_outputs=BaseModelOutput(last_hidden_state=self._encode(spectrograms, utterance)),
                decoder_input_ids=prompt.expand(len(spectrograms), -1),
                return_dict_in_generate=True,
                **gen_args,
            )
        return [self._until_end(target) for target in output["sequences"][:, len(prompt) :]]

    def tokens(self, target: str | Sequence[int] | Tensor, utterance: Utterance) -> Tokens:
        if isinstance(target, str):
            if not target.strip():
                raise ValueError("the target text is empty: give the words to explain, or None to let the model write.")
            # Whisper's texts begin with a space
            try:
                ids = self.tokenizer.encode(" " + target.strip(), add_special_tokens=False)
            except TypeError:  # text that is no valid Unicode
                ids = []
            if self.tokenizer.decode(ids).strip() != target.strip():
                raise ValueError(f"the tokenizer of {self.name} cannot encode the target {target!r}.")
        else:
            ids = torch.as_tensor(target).flatten().tolist()
            size = self.model.config.vocab_size
            if not ids or not all(isinstance(i, int) and 0 <= i < size for i in ids):
                raise ValueError(f"target ids must be integers from 0 to {size - 1}, at least one: {ids[:8]}")
        prompt = self._start(utterance)
        longest = self.model.config.max_target_positions - len(prompt)
        if len(ids) > longest:
            raise ValueError(f"the target has {len(ids)} tokens, but {self.name} writes at most {longest}.")
        return Tokens(prompt, torch.tensor(ids, device=self.model.device))

    def token_texts(self, ids: Tensor) -> list[str]:
        """The text of each token. Of the tokens that share a character (bytes of it), the last has it."""
        texts: list[str] = []
        pending: list[int] = []
        for token in ids.tolist():
            pending.append(token)
            text = self.tokenizer.decode(pending, skip_special_tokens=False, clean_up_tokenization_spaces=False)
            unfinished = text.endswith("\N{REPLACEMENT CHARACTER}") and len(pending) < 4
            texts.append("" if unfinished else text)
            if not unfinished:
                pending = []
        return texts

    def is_special(self, ids: Tensor) -> list[bool]:
        special = set(self.tokenizer.all_special_ids) | set(self.tokenizer.added_tokens_decoder)
        return [token in special for token in ids.tolist()]

    # Predictions

    def encode(self, spectrogram: Tensor, utterance: Utterance) -> Encoded:
        with self._running(utterance.dtype):
            return Encoded(self._encode(spectrogram, utterance), utterance.dtype)

    def logits(self, encoded: Encoded, tokens: Tokens, token_gate: Tensor | None = None) -> Tensor:
        previous = tokens.previous[None]
        if token_gate is not None and (token_gate.dim() not in (2, 3) or token_gate.shape[1] != previous.shape[1]):
            raise ValueError(
                f"token_gate of shape {tuple(token_gate.shape)} does not fit {previous.shape[1]} previous tokens: "
                f"expected (batch, {previous.shape[1]})."
            )
        n_rows = len(encoded.hidden) if token_gate is None else max(len(encoded.hidden), len(token_gate))
        decoder = self.model.model.decoder
        with self._running(encoded.dtype):
            cache = None if len(encoded.hidden) == n_rows else self._shared_cache(encoded, n_rows)
            with _gated(decoder.embed_tokens, token_gate):
                states = decoder(
                    previous.expand(n_rows, -1),
                    encoder_hidden_states=encoded.hidden.expand(n_rows, -1, -1),
                    past_key_values=cache,
                    use_cache=cache is not None,
                )
            return self.model.proj_out(states.last_hidden_state[:, len(tokens.prompt) - 1 :])

    # Parts

    @property
    def _is_multilingual(self) -> bool:
        return bool(getattr(self.model.generation_config, "is_multilingual", False))

    def _until_end(self, target: Tensor) -> Tensor:
        """What was written, without the padding that follows the end."""
        end = (target == self.model.generation_config.eos_token_id).nonzero()
        return target[: int(end[0]) + 1] if len(end) else target

    def _fixed_prompt(self, language: str | None, task: str) -> list[int]:
        """The ids that every decoding starts with; a language that is to be detected comes after the first."""
        config = self.model.generation_config
        if task not in ("transcribe", "translate"):
            raise ValueError(f"task must be 'transcribe' or 'translate', not {task!r}.")
        prompt = [config.decoder_start_token_id or self.model.config.decoder_start_token_id]
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
            with torch.no_grad(), self._running(utterance.dtype):
                hidden = self._encode(utterance.spectrogram, utterance)
                language = self.model.detect_language(encoder_outputs=BaseModelOutput(last_hidden_state=hidden))
            prompt = [prompt[0], int(language[0]), *prompt[1:]]
        return torch.tensor(prompt, device=self.model.device)

    def _encode(self, spectrogram: Tensor, utterance: Utterance) -> Tensor:
        """Encoder states (B, frames / 2, D)."""
        padding = utterance.padding.expand(len(spectrogram), -1, -1)
        frames = torch.cat((spectrogram, padding), dim=1).transpose(1, 2)  # Whisper wants (B, C, T)
        if frames.shape[2] % 2:
            frames = nn.functional.pad(frames, (0, 1), mode="replicate")
        encoder = self.model.model.encoder
        if frames.shape[2] != self.window:
            encoder = _shortened(encoder, frames.shape[2] // 2)
        return encoder(frames.to(self.model.dtype)).last_hidden_state

    def _shared_cache(self, encoded: Encoded, n_rows: int) -> EncoderDecoderCache:
        """The decoder's keys and values of one utterance, computed once and lent to every row of a batch."""
        needs_grad = torch.is_grad_enabled() and encoded.hidden.requires_grad
        if encoded.cross_attention is None or needs_grad:
            cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
            start = torch.zeros(1, 1, dtype=torch.long, device=encoded.hidden.device)  # any token will do
            self.model.model.decoder(start, encoder_hidden_states=encoded.hidden, past_key_values=cache, use_cache=True)
            encoded.cross_attention = [(layer.keys, layer.values) for layer in cache.cross_attention_cache.layers]
        cross = DynamicCache()
        for index, (keys, values) in enumerate(encoded.cross_attention):
            cross.update(keys[:0], values[:0], index)  # makes the layer
            cross.layers[index].keys = keys.expand(n_rows, -1, -1, -1)
            cross.layers[index].values = values.expand(n_rows, -1, -1, -1)
        return EncoderDecoderCache(DynamicCache(), cross)

    @contextmanager
    def _running(self, dtype: torch.dtype) -> Iterator[None]:
        """Eval mode, and autocast for a dtype other than the weights', while it lasts."""
        if dtype == torch.float32 != self.model.dtype:
            raise ValueError(
                f"the weights of {self.name} are {self.model.dtype}: for float32 call model.float() first."
            )
        training = [module for module in self.model.modules() if module.training]
        for module in training:
            module.training = False
        try:
            with torch.autocast(self.model.device.type, dtype, enabled=dtype != self.model.dtype):
                yield
        finally:
            for module in training:
                module.training = True


class Encoded:
    """Encoder states (B, T', D), the precision they were made in, and the decoder's view of them once it is needed."""

    def __init__(self, hidden: Tensor, dtype: torch.dtype) -> None:
        self.hidden = hidden
        self.dtype = dtype
        self.cross_attention: list[tuple[Tensor, Tensor]] | None = None


def _mel_centres(n_channels: int, sample_rate: int) -> np.ndarray:
    """Centres in Hz of the Slaney mel filters that Whisper's features use."""
    top = hertz_to_mel(sample_rate / 2, mel_scale="slaney")
    return np.asarray(mel_to_hertz(np.linspace(0, top, n_channels + 2), mel_scale="slaney"))[1:-1]


def _shortened(encoder: WhisperEncoder, n_positions: int) -> WhisperEncoder:
    """The same encoder, sharing its weights and hooks, for a shorter window: Whisper's positions are a table."""
    short = copy.copy(encoder)
    short.config = copy.copy(encoder.config)
    short.config.max_source_positions = n_positions
    table = nn.Embedding.from_pretrained(encoder.embed_positions.weight[:n_positions].detach())
    short._modules = {**encoder._modules, "embed_positions": table}
    return short


@contextmanager
def _gated(embedding: nn.Module, token_gate: Tensor | None) -> Iterator[None]:
    """Multiplies the token embeddings by the gate while it lasts: value zeroing, which leaves the positions alone."""
    if token_gate is None:
        yield
        return

    def multiply(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        gate = token_gate if token_gate.dim() == 3 else token_gate[..., None]
        return output * gate.to(output.dtype)

    # ``prepend`` is left alone: hooks of the user's see the embedding first
    handle = embedding.register_forward_hook(multiply)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps transformers from warning of what its own generation code does."""
    level = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)
