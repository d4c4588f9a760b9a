"""Base class of all adapters of Hugging Face models: features, text, and running a model without changing it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, get_args

import numpy as np
import torch
from torch import Tensor, nn
from transformers.audio_utils import hertz_to_mel, mel_to_hertz
from transformers.utils import logging

from captum_spes.models.protocol import Task, Tokens, Utterance
from captum_spes.models.threads import exclusive
from captum_spes.words import is_mark, is_unspaced


class HuggingFaceModel:
    """The base of the adapters. The model is run in eval mode and left as it was: its mode, hooks, dtype, device and
    the state of the random number generators.

    Args:
        model: the model.
        processor: its processor (feature extractor and tokenizer), or the feature extractor alone. Without a tokenizer
            targets are token ids, and the text of each token is its id.
        name: its name in results. Default: the name with which it was loaded.
        language: the language that the model is told, as a code of its family; None for no language.
        task: ``"transcribe"`` or ``"translate"``.

    Raises:
        ValueError: the processor is of another class, or the task is another one.
    """

    frames_per_second: float
    mel_frequencies: np.ndarray
    # frames of the model's window; None if only the memory limits the length
    window: Any = None
    # whether the features are normalised to mean 0 in each mel channel of an utterance
    normalized = False
    # the tokenizers of some families begin every word with a space, including the first; scripts without spaces do not
    text_prefix = ""

    def __init__(
        self,
        model: Any,
        processor: Any,
        name: str | None = None,
        language: str | None = None,
        task: str = "transcribe",
    ) -> None:
        if task not in get_args(Task):
            raise ValueError(f"task must be one of {', '.join(get_args(Task))}, not {task!r}.")
        self.model = model
        self.feature_extractor, self.tokenizer = _parts(processor)
        self.name: str = name or model.config._name_or_path or type(model).__name__
        self.language = language
        self.task: Task = "translate" if task == "translate" else "transcribe"
        self.sample_rate: int = self.feature_extractor.sampling_rate
        self._special = self._special_ids()

    # Audio and spectrograms

    def utterance(self, audio: np.ndarray) -> Utterance:
        self._check_length(audio)
        return self._padded(self._features(audio))

    def from_features(self, features: Tensor) -> Utterance:
        n_channels = len(self.mel_frequencies)
        if features.dim() != 3 or len(features) != 1 or features.shape[2] != n_channels or not features.numel():
            raise ValueError(
                f"features must be one spectrogram of shape (1, frames, {n_channels}), not {tuple(features.shape)}."
            )
        if self.window is not None and features.shape[1] > self.window:
            raise ValueError(f"features of {features.shape[1]} frames exceed the model's window of {self.window}.")
        if not features.isfinite().all():
            raise ValueError("the features hold NaN or infinite values: check the audio that they were made from.")
        return self._padded(features.float().to(self.model.device))

    @property
    def baseline_name(self) -> str:
        mean = "mean of each mel channel over the utterance"
        return f"0, the {mean} after normalisation" if self.normalized else mean

    def baseline(self, utterance: Utterance) -> Tensor:
        """The mean of each mel channel over the utterance's own frames, shape (1, 1, C).

        This equals the paper's 0 after normalisation, which its models apply to each channel of an utterance (§4.1.1).
        """
        means = utterance.spectrogram.mean(1, keepdim=True)
        return torch.zeros_like(means) if self.normalized else means

    def _set_channels(self, n_channels: int, lowest: float, scale: str) -> None:
        """The centres in Hz of triangular mel filters, on the ``"slaney"`` or ``"kaldi"`` scale."""
        low, high = (float(hertz_to_mel(frequency, mel_scale=scale)) for frequency in (lowest, self.sample_rate / 2))
        self.mel_frequencies = np.asarray(mel_to_hertz(np.linspace(low, high, n_channels + 2), mel_scale=scale))[1:-1]

    def _check_length(self, audio: np.ndarray) -> None:
        if self.window is None or len(audio) <= self.window / self.frames_per_second * self.sample_rate:
            return
        raise ValueError(
            f"the audio lasts {len(audio) / self.sample_rate:.1f} s, longer than the "
            f"{self.window / self.frames_per_second:g} s window of {self.name}: explain it part by part, by "
            "SpeechToTextAttribution.attribute_long or captum-spes explain, or cut it into shorter utterances."
        )

    def _features(self, audio: np.ndarray) -> Tensor:
        """The utterance's own frames (1, T, C)."""
        features = self._extract(audio)
        return features.input_features[:, : int(features.attention_mask.sum())]

    def _extract(self, audio: np.ndarray, **kwargs: Any) -> Any:
        """The output of the feature extractor for samples: ``input_features``, and an ``attention_mask``."""
        features = self.feature_extractor(audio, sampling_rate=self.sample_rate, return_tensors="pt", **kwargs)
        if not features.input_features.isfinite().all():
            raise ValueError(
                "a mel channel of the audio is constant and cannot be normalised: give a recording with the model's "
                f"full bandwidth of {self.sample_rate / 2000:g} kHz."
            )
        return features.to(self.model.device, torch.float32)

    def _padded(self, features: Tensor) -> Utterance:
        """An utterance of its own frames (1, T, C) and the padding that follows them in the model's window."""
        return Utterance(features, features[:, :0], self.model.dtype)

    # Text

    def token_texts(self, ids: Tensor) -> list[str]:
        """The text of each token. A character whose bytes are in several tokens belongs to the last of them."""
        if self.tokenizer is None:
            return [f" {token}" for token in ids.tolist()]
        texts: list[str] = []
        pending: list[int] = []
        for token in ids.tolist():
            if token in self._special:
                texts.append(self.tokenizer.convert_ids_to_tokens(token))
                pending = []
                continue
            pending.append(token)
            text = self._text_within(pending)
            unfinished = text.endswith("\N{REPLACEMENT CHARACTER}") and len(pending) < 4
            texts.append("" if unfinished else text)
            if not unfinished:
                pending = []
        return texts

    def is_special(self, ids: Tensor) -> list[bool]:
        return [token in self._special for token in ids.tolist()]

    def _special_ids(self) -> set[int]:
        if self.tokenizer is not None:
            added = self.tokenizer.added_tokens_decoder  # in mistral-common a method that is not implemented
            items = added.items() if isinstance(added, Mapping) else ()
            # words may be added as well; time stamps are marks that are not special
            marks = {token_id for token_id, token in items if token.special or is_mark(str(token))}
            return set(self.tokenizer.all_special_ids) | marks
        names = ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id")
        configs = (self.model.config, self.model.config.get_text_config(decoder=True))
        found = (getattr(config, name, None) for name in names for config in configs)
        return {token for ids in found for token in (ids if isinstance(ids, list) else [ids]) if token is not None}

    def _text_within(self, ids: list[int]) -> str:
        """The text of tokens inside of a text, with the spaces that tokenizers leave out at the ends of a text."""
        anchor = self.tokenizer.encode("a", add_special_tokens=False)
        try:
            alone, twice, around = (self._decode(tokens) for tokens in (anchor, anchor * 2, [*anchor, *ids, *anchor]))
        except KeyError:  # the model's vocabulary is padded beyond that of the tokenizer
            return "".join(f"<{token}>" for token in ids)
        return around[len(alone) : len(around) - (len(twice) - len(alone))]

    def _decode(self, ids: list[int]) -> str:
        return self.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)

    def _target_ids(self, target: str | Sequence[int] | Tensor) -> list[int]:
        """The ids of a text, or the given ids after a check."""
        if isinstance(target, str):
            return self._encode_text(target.strip())
        size = self._vocab_size()
        try:
            ids = torch.as_tensor(target).flatten().tolist()
        except (TypeError, ValueError, RuntimeError) as error:
            raise ValueError(f"the target must be a text or token ids, not {target!r:.80}.") from error
        if not ids or not all(type(i) is int and 0 <= i < size for i in ids):
            raise ValueError(f"target ids must be integers from 0 to {size - 1}, at least one, not {ids[:8]}.")
        return ids

    def _encode_text(self, text: str, prefix: str | None = None) -> list[int]:
        if not text:
            raise ValueError("the target text is empty: give the words to explain, or None to let the model write.")
        if self.tokenizer is None:
            raise ValueError(
                f"{self.name} was given a feature extractor and no tokenizer: give the target's token ids."
            )
        if prefix is None:
            first_letter = next(filter(str.isalpha, text), "")  # a text may begin with a number or a quotation mark
            prefix = "" if is_unspaced(text[0] + first_letter) else self.text_prefix
        try:
            ids = self.tokenizer.encode(prefix + text, add_special_tokens=False)
            decoded = self._decode(ids).strip()
        except TypeError:  # the text is not valid Unicode
            ids, decoded = [], ""
        if decoded != text:
            raise ValueError(
                f"the tokenizer of {self.name} cannot encode the text {text!r}: it would become {decoded!r}."
            )
        return ids

    def _vocab_size(self) -> int:
        return self.model.config.get_text_config(decoder=True).vocab_size

    def task_of(self, utterance: Utterance, tokens: Tokens) -> Task:
        """The task: most models do not know the language of the speech, so that it is the task that was given."""
        return self.task

    # Running the model

    def _until_end(self, target: Tensor) -> Tensor:
        """The generated ids, without the padding that follows the end token."""
        end = torch.isin(
            target, torch.tensor(self.model.generation_config.eos_token_id, device=target.device)
        ).nonzero()
        return target[: int(end[0]) + 1] if len(end) else target

    @contextmanager
    def _running(self, dtype: torch.dtype) -> Iterator[None]:
        """A context with the model in eval mode, and with autocast for a dtype other than that of the weights.

        No other thread runs a model meanwhile. The random state is restored, because layerdrop draws random numbers
        even in eval mode before Transformers 5.23.
        """
        if dtype == torch.float32 != self.model.dtype:
            raise ValueError(
                f"the weights of {self.name} are {self.model.dtype}: call model.float() first to run it in float32."
            )
        with exclusive():
            training = [module for module in self.model.modules() if module.training]
            for module in training:
                module.training = False
            try:
                autocast = torch.autocast(self.model.device.type, dtype, enabled=dtype != self.model.dtype)
                with autocast, torch.random.fork_rng(devices=[]):
                    yield
            finally:
                for module in training:
                    module.training = True


def _parts(processor: Any) -> tuple[Any, Any]:
    """The feature extractor and tokenizer of a processor; for a feature extractor itself and None."""
    if hasattr(processor, "feature_extractor"):
        return processor.feature_extractor, processor.tokenizer
    if hasattr(processor, "sampling_rate"):
        return processor, None
    raise ValueError(
        f"a model in memory needs its processor, or its feature extractor alone, not {type(processor).__name__}: "
        "load_model(model, processor)."
    )


@contextmanager
def gated(embedding: nn.Module, token_gate: Tensor | None) -> Iterator[None]:
    """A context in which token embeddings are multiplied by the gate (value zeroing); positions are not changed."""
    if token_gate is None:
        yield
        return

    def multiply(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        gate = token_gate if token_gate.dim() == 3 else token_gate[..., None]
        return output * gate.to(output.dtype)

    # without ``prepend``, so that hooks of the user see the embedding first
    handle = embedding.register_forward_hook(multiply)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def quiet() -> Iterator[None]:
    """Suppresses warnings that transformers' own generation code causes."""
    level = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)
