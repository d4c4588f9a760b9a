"""Whisper models of Hugging Face transformers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from captum_spes._log import warn
from captum_spes.models.encoder_decoder import Encoded, EncoderDecoderModel
from captum_spes.models.features import WhisperFeatures
from captum_spes.models.frozen_padding import FrozenPadding, first_positions, record
from captum_spes.models.protocol import Task, Tokens, Utterance

if TYPE_CHECKING:
    from transformers import WhisperForConditionalGeneration


PREVIOUS = "<|startofprev|>"  # the mark before a prompt


class WhisperModel(WhisperFeatures, EncoderDecoderModel):
    """A :class:`~captum_spes.models.SpeechToTextModel` from a Hugging Face Whisper.

    Args:
        model: the Whisper model.
        processor: its processor (feature extractor and tokenizer), or the feature extractor alone.
        name: its name in results. Default: the name with which it was loaded.
        language: language of a multilingual model's text, as a code such as ``"en"``. Default: detected.
            A language other than that of the speech makes the model translate, such as ``"de"`` on English speech.
        task: ``"transcribe"``, or ``"translate"`` for English text from any language (multilingual models).

    Raises:
        ValueError: the model does not know the language or the task.
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

    # Times

    def token_times(self, utterance: Utterance, tokens: Tokens) -> Tensor:
        """Begin and end of each target token in seconds, from the decoder's attention to the audio, (K, 2).

        They are found like OpenAI's word timestamps: the weights of the attention heads that the generation config
        names are normalised, smoothed and averaged, and dynamic time warping finds a path through them. A token begins
        where the path reaches it, and ends where the next token begins.

        Raises:
            ValueError: the generation config names no heads, or heads that the model does not have.
        """
        if self.alignment_heads is None:
            raise ValueError(
                f"the generation config of {self.name} has no alignment_heads of this model, from which times are "
                "computed: use another alignment."
            )
        ends = torch.tensor(self.model.generation_config.eos_token_id, device=tokens.target.device).flatten()
        has_end = torch.isin(tokens.target[-1], ends)
        target = tokens.target if has_end else torch.cat((tokens.target, ends[:1]))
        cross, _ = self.attention_weights(utterance, Tokens(tokens.prompt, target))
        weights = torch.stack([cross[layer, head] for layer, head in self.alignment_heads])
        begins = torch.from_numpy(_warp(weights, self.model.config.median_filter_width))
        begins = (begins * 2 / self.frames_per_second).float()
        ends = torch.cat((begins[1:], torch.tensor([utterance.spectrogram.shape[1] / self.frames_per_second])))
        return torch.stack((begins, ends), dim=1)[: len(tokens.target)]

    @property
    def alignment_heads(self) -> list[tuple[int, int]] | None:
        """The cross-attention heads, as (layer, head), that follow the speech.

        None if the model names none, or heads that it does not have: a distilled model may name those of its teacher.
        """
        config = self.model.config
        named = getattr(self.model.generation_config, "alignment_heads", None) or []
        heads = [(int(layer), int(head)) for layer, head in named]
        exist = all(
            0 <= layer < config.decoder_layers and 0 <= head < config.decoder_attention_heads for layer, head in heads
        )
        return heads if heads and exist else None

    def attention_weights(self, utterance: Utterance, tokens: Tokens) -> tuple[Tensor, Tensor]:
        """The decoder's attention while it writes each target token, in one pass of the full window.

        Returns:
            (Tensor, Tensor): the weights of the cross-attention to the utterance's own encoder positions, each of two
            frames, (layers, heads, K, ⌈T / 2⌉), and of the self-attention to the previous tokens,
            (layers, heads, K, J). Rows of the first sum to less than 1; the rest is the attention to the padding.

        Example::

            >>> from captum_spes.audio import load_audio
            >>> from captum_spes.models import load_model
            >>> model = load_model("whisper-tiny.en")
            >>> utterance = model.utterance(load_audio("speech.wav", model.sample_rate))
            >>> cross, own = model.attention_weights(utterance, model.tokens("so what", utterance))
            >>> own.sum(-1).mean()
            tensor(1.)
        """
        layers = self.model.model.decoder.layers
        modules = [*(layer.encoder_attn for layer in layers), *(layer.self_attn for layer in layers)]
        with torch.no_grad(), self._running(utterance.dtype), _eager(self.model):
            hidden = self._encode(utterance.spectrogram, utterance)
            with _weights(modules) as found:
                self.model.model.decoder(tokens.previous[None], encoder_hidden_states=hidden, use_cache=False)
        # rows of the target, columns of the utterance's own frames
        first, columns = len(tokens.prompt) - 1, -(-utterance.spectrogram.shape[1] // 2)
        weights = [found[module][0, :, first:] for module in modules]
        cross, own = (torch.stack(part) for part in (weights[: len(layers)], weights[len(layers) :]))
        return cross[..., :columns].float(), own.float()

    def no_speech_probability(self, utterance: Utterance, tokens: Tokens) -> float | None:
        """The probability of no speech that the model predicts at the start of the transcript.

        OpenAI's Whisper leaves a text out if this is above 0.6 and the text is improbable. It is None if the vocabulary
        has no token for it.

        Example::

            >>> from captum_spes.audio import load_audio
            >>> from captum_spes.models import load_model
            >>> model = load_model("whisper-tiny.en")
            >>> utterance = model.utterance(load_audio("speech.wav", model.sample_rate))
            >>> model.no_speech_probability(utterance, model.tokens("so what", utterance))  # doctest: +SKIP
            0.02
        """
        no_speech = self._special_id("<|nospeech|>", "<|nocaptions|>")
        starts = (tokens.prompt == self._decoder_start()).nonzero()
        if no_speech is None or not len(starts):
            return None
        prompt = tokens.prompt[: int(starts[-1]) + 1]
        with torch.no_grad():
            logits = self.logits(self.encode(utterance.spectrogram, utterance), Tokens(prompt, prompt[-1:]))
        return float(logits[0, 0].double().softmax(-1)[no_speech])

    # Parts

    def _special_id(self, *names: str) -> int | None:
        """The id of the first of some marks that the tokenizer has."""
        known = {} if self.tokenizer is None else self.tokenizer.added_tokens_decoder
        ids = {str(token): index for index, token in known.items()}
        return next((ids[name] for name in names if name in ids), None)

    @property
    def _is_multilingual(self) -> bool:
        return bool(getattr(self.model.generation_config, "is_multilingual", False))

    def _fixed_prompt(self, language: str | None, task: str) -> list[int]:
        """The ids with which every decoding starts; a detected language is inserted after the first."""
        config = self.model.generation_config
        prompt = [self._decoder_start()]
        if self._is_multilingual:
            if not (getattr(config, "lang_to_id", None) and getattr(config, "task_to_id", None)):
                raise ValueError(
                    f"the generation config of {self.name} is outdated and has no lang_to_id and task_to_id: use that "
                    "of the model's latest version on the Hugging Face hub."
                )
            if language is not None:
                known = sorted(token[2:-2] for token in config.lang_to_id)
                if language not in known:
                    raise ValueError(f"{self.name} knows no language {language!r}: give one of {', '.join(known)}.")
                prompt.append(config.lang_to_id[f"<|{language}|>"])
            prompt.append(config.task_to_id[task])
        elif task == "translate" or language not in (None, "en"):
            raise ValueError(
                f"{self.name} is an English-only model and can only transcribe: leave out language and task, or use a "
                "multilingual model such as whisper-base."
            )
        if getattr(config, "no_timestamps_token_id", None) is not None:
            prompt.append(config.no_timestamps_token_id)
        return prompt

    def ids_without_space(self, text: str) -> Tensor:
        """The ids of a text that begins without a space, as Whisper writes Chinese and Japanese, (n,).

        Raises:
            ValueError: the tokenizer cannot encode the text.
        """
        return torch.tensor(self._encode_text(text, prefix=""), device=self.model.device)

    @property
    def takes_prompt(self) -> bool:
        """Whether its vocabulary has the mark before a prompt."""
        return self._special_id(PREVIOUS) is not None

    def _start(self, utterance: Utterance) -> Tensor:
        prompt = self._prompt
        if self._detect_language:
            prompt = [prompt[0], self._spoken_language(utterance), *prompt[1:]]
        return torch.tensor([*self._prompt_ids(utterance.prompt), *prompt], device=self.model.device)

    def _prompt_ids(self, text: str) -> list[int]:
        """The ids of the text before: its mark, and as many of the last tokens as Whisper itself reads of them."""
        if not text:
            return []
        ids = self._encode_text(text)
        if any(self.is_special(torch.tensor(ids))):
            raise ValueError(f"the prompt {text!r} has marks of the model among its words: leave them out.")
        longest = self.model.config.max_target_positions // 2 - 1
        if len(ids) > longest:
            warn(f"the prompt has {len(ids)} tokens: {self.name} reads the last {longest} of them.", stacklevel=3)
        mark = self._special_id(PREVIOUS)
        return ([] if mark is None else [mark]) + ids[-longest:]

    def task_of(self, utterance: Utterance, tokens: Tokens) -> Task:
        """The task; a transcript in a language other than that of the speech is a translation."""
        if self.task == "translate" or self._detect_language or not self._is_multilingual:
            return self.task
        return "transcribe" if self._language_id(tokens) == self._spoken_language(utterance) else "translate"

    def language_of(self, tokens: Tokens) -> str | None:
        """The language in the prompt, told or detected; None for English-only models."""
        if not self._is_multilingual:
            return None
        codes = {index: token[2:-2] for token, index in self.model.generation_config.lang_to_id.items()}
        return codes.get(self._language_id(tokens))

    def text_language(self, tokens: Tokens) -> str | None:
        """English for translations, which are into English; otherwise the language in the prompt."""
        return "en" if self.task == "translate" else self.language_of(tokens)

    def _language_id(self, tokens: Tokens) -> int:
        """The token after the start of the transcript, before which a prompt may stand."""
        start = int((tokens.prompt == self._decoder_start()).nonzero()[-1])
        return int(tokens.prompt[start + 1])

    def _spoken_language(self, utterance: Utterance) -> int:
        """The id of the language that the model detects in the speech."""
        with torch.no_grad(), self._running(utterance.dtype):
            hidden = self._encode(utterance.spectrogram, utterance)
            return int(self.model.detect_language(encoder_outputs=self._encoder_outputs(hidden))[0])

    def encode(self, spectrogram: Tensor, utterance: Utterance) -> Encoded:
        frozen = utterance.frozen
        if frozen is None:
            return super().encode(spectrogram, utterance)
        with self._running(utterance.dtype), frozen.attended(self.model):
            frames = partial(self._windows, spectrogram, utterance)
            hidden = first_positions(self.model.model.encoder, frames, frozen.n_positions)
        return Encoded(hidden, None, utterance.dtype, frozen)

    def _encode(self, spectrogram: Tensor, utterance: Utterance) -> Tensor:
        return self.model.model.encoder(self._windows(spectrogram, utterance)).last_hidden_state

    def _record(self, utterance: Utterance, references: Sequence[Tensor], n_positions: int) -> FrozenPadding:
        def run() -> None:
            for part in references:
                hidden = self._encode(part, utterance)
                any_token = torch.zeros(len(part), 1, dtype=torch.long, device=hidden.device)
                self.decoder(any_token, encoder_hidden_states=hidden, use_cache=False)

        encoder, decoder = self.model.model.encoder, self.model.model.decoder
        attentions = [*(layer.self_attn for layer in encoder.layers), *(layer.encoder_attn for layer in decoder.layers)]
        return FrozenPadding(n_positions, record(self.model, attentions, n_positions, run))


def _warp(weights: Tensor, filter_width: int) -> np.ndarray:
    """The column at which the path through attention weights (heads, K, columns) first reaches each row, (K,)."""
    from transformers.models.whisper.generation_whisper import _dynamic_time_warping, _median_filter

    deviation, mean = torch.std_mean(weights, dim=1, keepdim=True, unbiased=False)
    scores = (weights - mean) / deviation.clamp(min=torch.finfo(weights.dtype).tiny)
    matrix = _median_filter(scores, filter_width).mean(0)
    rows, columns = _dynamic_time_warping(-matrix.double().cpu().numpy())
    return columns[np.diff(rows, prepend=-1) > 0]


@contextmanager
def _eager(model: WhisperForConditionalGeneration) -> Iterator[None]:
    """A context with eager attention, which returns its weights; the fast implementations do not."""
    before = model.config._attn_implementation
    model.set_attn_implementation("eager")
    try:
        yield
    finally:
        model.set_attn_implementation(before)


@contextmanager
def _weights(modules: Sequence[nn.Module]) -> Iterator[dict[nn.Module, Tensor]]:
    """A context that collects the weights of attention modules.

    ``output_attentions`` would do so with hooks that Transformers never removes, and that cannot be pickled.
    """
    found: dict[nn.Module, Tensor] = {}

    def keep(module: nn.Module, args: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        found[module] = output[1]

    handles = [module.register_forward_hook(keep) for module in modules]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()
