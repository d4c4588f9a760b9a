"""Frozen padding: the encoder computes the speech alone and attends to recorded keys and values of the padding."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import count
from typing import Any

import torch
from torch import Tensor, nn
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from captum_spes.models.huggingface import HuggingFaceModel
from captum_spes.models.protocol import MARGIN, Utterance

# Number of encoder positions that are computed at the edge and dropped, because the convolutions see zeros there in
# place of padding.
EDGE = 2
# number of full windows in a batch while their states are recorded
RECORDED_AT_ONCE = 4

Attention = Callable[..., tuple[Tensor, Tensor | None]]
_numbers = count()


@dataclass(frozen=True, eq=False)
class FrozenPadding:
    """Keys and values of the padding, which the attention of later passes appends to those that it computes.

    A model with a window of fixed length computes all of it, although most of it is padding, whose states hardly depend
    on the speech. These states are recorded in passes of the full window and kept constant; later passes compute only
    the encoder's first ``n_positions`` positions.

    Attributes:
        n_positions: number n of encoder positions that are computed: those of the utterance and a margin.
        states: for each attention module, by its name in the model, the keys and values of the padding's P positions,
            both of shape (1, heads, P, D).
        tail: the final encoder states of the padding, (1, P, D'), for models that read them without
            cross-attention; None for the others.
        log_sizes: the logarithm of the number of positions that each of P keys represents, (P,); None if each
            represents one.
        merged_by: number of positions that are averaged into one key and one value.

    Example::

        >>> from captum_spes.audio import load_audio
        >>> from captum_spes.models import load_model
        >>> model = load_model("whisper-tiny.en")
        >>> utterance = model.utterance(load_audio("speech.wav", model.sample_rate))
        >>> frozen = model.freeze_padding(utterance, utterance.spectrogram)
        >>> frozen.merge(8).merged_by
        8
        >>> frozen.to("cpu").n_positions == frozen.n_positions
        True
    """

    n_positions: int
    states: Mapping[str, tuple[Tensor, Tensor]]
    tail: Tensor | None = None
    log_sizes: Tensor | None = None
    merged_by: int = 1

    def merge(self, by: int) -> FrozenPadding:
        """Averages the keys and values of groups of ``by`` neighbouring positions of the padding.

        A key that represents m positions counts m times in the softmax, since log m is added to its attention logits.
        """
        if self.log_sizes is not None:
            raise ValueError("this padding is merged already: merge the padding that was recorded.")
        if by == 1 or not self.states:
            return self
        states = {name: (_merged(keys, by), _merged(values, by)) for name, (keys, values) in self.states.items()}
        positions, _ = next(iter(self.states.values()))
        sizes = positions.new_ones(positions.shape[2]).split(by)
        log_sizes = torch.stack([size.sum() for size in sizes]).log() if positions.shape[2] else positions.new_zeros(0)
        return replace(self, states=states, log_sizes=log_sizes, merged_by=by)

    def beyond(self, n_positions: int, positions_at_once: int = 1) -> FrozenPadding:
        """The padding beyond the first ``n_positions`` positions, so that later passes compute more positions.

        Args:
            n_positions: number of positions that are computed, at least as many as now.
            positions_at_once: number of encoder positions that one state of ``tail`` has been made of.

        Returns:
            FrozenPadding: the states that passes of the full window record from position ``n_positions`` on.

        Raises:
            ValueError: this padding is merged.

        Example::

            >>> from captum_spes.audio import load_audio
            >>> from captum_spes.models import load_model
            >>> model = load_model("whisper-tiny.en")
            >>> utterance = model.utterance(load_audio("speech.wav", model.sample_rate))
            >>> frozen = model.freeze_padding(utterance, utterance.spectrogram)
            >>> frozen.beyond(frozen.n_positions + 1).n_positions == frozen.n_positions + 1
            True
        """
        if self.log_sizes is not None:
            raise ValueError("this padding is merged already: take the padding that was recorded.")
        skip = n_positions - self.n_positions
        return replace(
            self,
            n_positions=n_positions,
            states={name: (keys[:, :, skip:], values[:, :, skip:]) for name, (keys, values) in self.states.items()},
            tail=None if self.tail is None else self.tail[:, skip // positions_at_once :],
        )

    def to(self, device: torch.device | str) -> FrozenPadding:
        """The same on another device."""
        return replace(
            self,
            states={name: (keys.to(device), values.to(device)) for name, (keys, values) in self.states.items()},
            tail=None if self.tail is None else self.tail.to(device),
            log_sizes=None if self.log_sizes is None else self.log_sizes.to(device),
        )

    @contextmanager
    def attended(self, model: nn.Module) -> Iterator[None]:
        """A context, for a ``with`` statement, in which the attention modules of a model also attend to the padding.

        Example::

            >>> from captum_spes.audio import load_audio
            >>> from captum_spes.models import load_model
            >>> model = load_model("whisper-tiny.en")
            >>> utterance = model.utterance(load_audio("speech.wav", model.sample_rate))
            >>> frozen = model.freeze_padding(utterance, utterance.spectrogram)
            >>> with frozen.attended(model.model):
            ...     pass  # passes of the shortened window
        """
        modules = {name: model.get_submodule(name) for name in self.states}
        states = {module: self.states[name] for name, module in modules.items()}

        def attend(
            module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
        ) -> tuple[Tensor, Tensor | None]:
            key, value = (
                torch.cat((own, padding.to(own.dtype).expand(len(own), -1, -1, -1)), dim=2)
                for own, padding in zip((key, value), states[module])
            )
            if self.log_sizes is not None:
                own_positions = self.log_sizes.new_zeros(key.shape[2] - len(self.log_sizes))
                attention_mask = torch.cat((own_positions, self.log_sizes)).to(query.dtype)[None, None, None]
            return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)

        with attention_replaced(modules.values(), attend):
            yield


def record(
    model: nn.Module, attentions: Iterable[nn.Module], n_positions: int, run: Callable[[], None]
) -> dict[str, tuple[Tensor, Tensor]]:
    """Records keys and values of attention modules from position n on, averaged over all rows of the passes in ``run``.

    Args:
        model: the model that holds the modules.
        attentions: the attention modules.
        n_positions: n.
        run: runs the passes of the full window.

    Returns:
        dict: for each module, by its name in the model, keys and values of shape (1, heads, P, D), float32.

    Raises:
        RuntimeError: a module does not call Transformers' attention functions.
    """
    recorded = set(attentions)
    modules = {module: name for name, module in model.named_modules() if module in recorded}
    sums: dict[str, list[Tensor]] = {}
    n_rows: dict[str, int] = {}

    def keep(
        module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
    ) -> tuple[Tensor, Tensor | None]:
        name = modules[module]
        found = [states[:, :, n_positions:].detach().float().sum(0, keepdim=True) for states in (key, value)]
        sums[name] = [before + new for before, new in zip(sums[name], found)] if name in sums else found
        n_rows[name] = n_rows.get(name, 0) + len(key)
        return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)

    with torch.no_grad(), attention_replaced(modules, keep):
        run()
    if missing := sorted(set(modules.values()) - sums.keys()):
        raise RuntimeError(
            f"the padding cannot be frozen, because the attention module {missing[0]} does not call the attention "
            "functions of Transformers: use context='full', or a newer version of transformers."
        )
    return {name: (keys / n_rows[name], values / n_rows[name]) for name, (keys, values) in sums.items()}


@contextmanager
def attention_replaced(modules: Iterable[nn.Module], function: Attention) -> Iterator[None]:
    """A context in which some attention modules call another attention function.

    The function is registered with Transformers under its own name, and the modules read this name from a copy of
    their config, so that no other module of the model is affected. Everything is undone, also if a forward raises.
    """
    name = f"captum_spes_{next(_numbers)}"
    before: dict[Any, Any] = {module: module.config for module in modules}
    configs: dict[int, Any] = {}
    ALL_ATTENTION_FUNCTIONS[name] = function
    try:
        for module, config in before.items():
            if id(config) not in configs:
                configs[id(config)] = copy.copy(config)
                configs[id(config)]._attn_implementation = name
            module.config = configs[id(config)]
        yield
    finally:
        for module, config in before.items():
            module.config = config
        del ALL_ATTENTION_FUNCTIONS[name]


class FreezesPadding(HuggingFaceModel):
    """Base of the adapters for models with a window of fixed length and an encoder like Whisper's.

    The encoder halves the frames in its second convolution, adds a table of positions, and runs ``layers`` with
    ``self_attn`` modules.
    """

    window: int
    # the number of encoder positions that the model reads as one
    positions_at_once = 1

    def freeze_padding(self, utterance: Utterance, references: Tensor, margin: int = MARGIN) -> FrozenPadding:
        """Records the states of the padding in passes of the full window.

        Args:
            utterance: an utterance in its full window.
            references: spectrograms (R, T, C) that replace that of the utterance, and whose states are averaged.
                Perturbed ones are best, since later passes score perturbed spectrograms.
            margin: number of encoder positions after the last one of the utterance that later passes compute.

        Returns:
            FrozenPadding: the states of the padding; empty if the utterance and the margin fill the window.

        Raises:
            ValueError: the references are not finite.
            RuntimeError: the model's attention does not call Transformers' attention functions.
        """
        if not references.isfinite().all():
            raise ValueError("the reference spectrograms hold NaN or infinite values: give finite ones.")
        n_positions = self.computed_positions(utterance, margin)
        with torch.no_grad(), self._running(utterance.dtype):
            return self._record(replace(utterance, frozen=None), references.split(RECORDED_AT_ONCE), n_positions)

    def computed_positions(self, utterance: Utterance, margin: int = MARGIN) -> int:
        """The number of encoder positions that passes with frozen padding compute, at most those of the window."""
        n_positions = -(-utterance.spectrogram.shape[1] // 2) + margin
        return min(-(-n_positions // self.positions_at_once) * self.positions_at_once, self.window // 2)

    def _record(self, utterance: Utterance, references: Sequence[Tensor], n_positions: int) -> FrozenPadding:
        """The states of the padding from position n on, for batches of reference spectrograms."""
        raise NotImplementedError

    def _windows(self, spectrograms: Tensor, utterance: Utterance, n_frames: int | None = None) -> Tensor:
        """The encoder's input (B, C, n_frames) for spectrograms (B, T, C), by default the full window."""
        n_padding = utterance.padding.shape[1] if n_frames is None else n_frames - spectrograms.shape[1]
        padding = utterance.padding[:, :n_padding].expand(len(spectrograms), -1, -1)
        return torch.cat((spectrograms, padding), dim=1).transpose(1, 2).to(self.model.dtype)


def first_positions(encoder: Any, frames: Callable[[int], Tensor], n_positions: int) -> Tensor:
    """The states (B, n, D) of an encoder's first n positions, computed without the positions after them.

    Args:
        encoder: an encoder like Whisper's.
        frames: returns the encoder's input (B, C, F) for a number of frames F.
        n_positions: n.
    """
    n_computed = min(n_positions + EDGE, encoder.config.max_source_positions)
    short = shortened(encoder, n_computed)

    def drop_edge(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        return (args[0][:, :n_positions], *args[1:]), kwargs

    handle = short.layers[0].register_forward_pre_hook(drop_edge, with_kwargs=True)
    try:
        return short(frames(2 * n_computed)).last_hidden_state
    finally:
        handle.remove()


def _merged(states: Tensor, by: int) -> Tensor:
    return torch.cat([part.mean(2, keepdim=True) for part in states.split(by, 2)], 2) if states.shape[2] else states


def shortened(encoder: Any, n_positions: int) -> Any:
    """A copy of an encoder for a shorter window, with the same weights and hooks and fewer position embeddings."""
    short = copy.copy(encoder)
    short.config = copy.copy(encoder.config)
    short.config.max_source_positions = n_positions
    table = nn.Embedding.from_pretrained(encoder.embed_positions.weight[:n_positions].detach())
    short._modules = {**encoder._modules, "embed_positions": table}
    return short
