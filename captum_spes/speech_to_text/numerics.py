"""Outputs and gradients of a model.

They are computed again in float32 if the precision overflows, and gradients of all tokens share the pass through the
vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from captum_spes._log import warn
from captum_spes.models.protocol import Utterance
from captum_spes.models.threads import lent
from captum_spes.speech_to_text.targets import Prediction


@contextmanager
def weights_cast_once(utterance: Utterance) -> Iterator[None]:
    """A context in which autocast keeps the weights in the utterance's precision from one pass to the next.

    Autocast drops its casts at the end of the outermost context, which is otherwise that of a pass. On a CPU the casts
    take a fifth of a pass of 16 perturbations. A context in float32 does nothing, because nothing is cast.
    """
    if utterance.dtype == torch.float32:
        yield
        return
    device = utterance.spectrogram.device.type
    with torch.autocast(device, torch.get_autocast_dtype(device), enabled=torch.is_autocast_enabled(device)):
        yield


class Outputs:
    """Outputs of the model for spectrograms and gates in place of those of an utterance, for a prediction's score.

    If the outputs overflow in the utterance's precision, they are computed in float32, with one warning. The
    attribution method refuses NaN that remains in float32, or for a model whose weights are narrower than float32.

    Args:
        prediction: the prediction to explain.
        utterance: the utterance.
    """

    def __init__(self, prediction: Prediction, utterance: Utterance) -> None:
        self.prediction = prediction
        self.model = prediction.model
        self.utterance = utterance
        self._encoded: dict[torch.dtype, Any] = {}
        self._warned = False

    def of_spectrogram(self, spectrogram: Tensor, gate: Tensor | None = None) -> Any:
        """Outputs for spectrograms (B, T, C), which replace that of the utterance."""
        return self._finite(lambda utterance: self.prediction.outputs(self.model.encode(spectrogram, utterance), gate))

    def of_gate(self, gate: Tensor | None = None) -> Any:
        """Outputs for the utterance itself, which is encoded once, with gates (B, J) of the previous tokens."""
        return self._finite(lambda utterance: self.prediction.outputs(self._encode_once(utterance), gate))

    def with_finite_gradients(self, score: Callable[..., Tensor]) -> Callable[..., Tensor]:
        """The same score with gradients that are computed in float32 if they overflow in the utterance's precision."""
        if self.utterance.dtype == torch.float32:
            return score

        def wide(inputs: Tensor) -> Tensor | None:
            if self.wide is None:
                return None
            self._warn()
            narrow, self.utterance = self.utterance, self.wide
            try:
                return score(inputs)
            finally:
                self.utterance = narrow

        return lambda inputs: _FiniteGradients.apply(inputs, score, wide) if inputs.requires_grad else score(inputs)

    def with_shared_vocabulary(self, score: Callable[..., Tensor]) -> Callable[..., Tensor]:
        """The same scores, (B, K), whose gradients pass the vocabulary once for all rows and not once for each.

        This is possible where a row's score depends on one row of the decoder's states, which the model's ``head``
        maps to logits. Each of the K backward passes then begins at these states.
        """
        head = getattr(self.model, "head", None)
        if head is None or not self.prediction.independent_rows:
            return score

        def shared(inputs: Tensor) -> Tensor:
            needs_grad = inputs.requires_grad and torch.is_grad_enabled()
            return _RowGradients.apply(inputs, score, head) if needs_grad else score(inputs)

        return shared

    @cached_property
    def wide(self) -> Utterance | None:
        """The utterance in float32; None for a model whose weights are narrower."""
        wide = replace(self.utterance, dtype=torch.float32)
        try:
            self._encode_once(wide)
        except ValueError:
            return None
        return wide

    def _encode_once(self, utterance: Utterance) -> Any:
        if utterance.dtype not in self._encoded:
            with torch.no_grad():
                self._encoded[utterance.dtype] = self.model.encode(utterance.spectrogram, utterance)
        return self._encoded[utterance.dtype]

    def _finite(self, outputs: Callable[[Utterance], Any]) -> Any:
        found = outputs(self.utterance)
        if self.utterance.dtype == torch.float32 or _is_finite(found) or self.wide is None:
            return found
        self._warn()
        return outputs(self.wide)

    def _warn(self) -> None:
        if self._warned:
            return
        self._warned = True
        name = str(self.utterance.dtype).removeprefix("torch.")
        warn(
            f"{self.model.name} overflows in {name} on this utterance: batches that overflow are computed in float32.",
            stacklevel=2,
        )


def _is_finite(outputs: Tensor | tuple[Tensor, ...]) -> bool:
    """Whether logits can be scored; -inf is allowed, for tokens that the model never writes."""
    return all(bool((part < torch.inf).all()) for part in (outputs if isinstance(outputs, tuple) else (outputs,)))


class _RowGradients(torch.autograd.Function):
    """Scores (B, K), of which score k depends on state k of the states (B, K, D) that enter a module.

    One backward pass from the sum of the scores to the states gives the gradients of all scores by their own states.
    Each gradient by the inputs then takes a backward pass from the states alone.
    """

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, score: Callable[..., Tensor], head: nn.Module) -> Tensor:
        entered: list[Tensor] = []
        handle = head.register_forward_pre_hook(lambda module, args: entered.append(args[0]))
        try:
            with torch.enable_grad():
                ctx.inputs = inputs.detach().requires_grad_()
                ctx.scores = score(ctx.inputs)
        finally:
            handle.remove()
        ctx.states, ctx.slopes = entered[-1], None
        scores = ctx.scores.detach()
        if not ctx.scores.requires_grad:
            ctx.mark_non_differentiable(scores)
        return scores

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        if ctx.slopes is None:
            ones = torch.ones_like(ctx.scores)
            (ctx.slopes,) = torch.autograd.grad(ctx.scores, ctx.states, ones, retain_graph=True)
            ctx.scores = None  # frees the graph of the vocabulary
        # a slope that overflows in one row is kept out of the others
        weighted = torch.where(gradient[..., None] == 0, 0, gradient[..., None] * ctx.slopes).to(ctx.states)
        (found,) = torch.autograd.grad(ctx.states, ctx.inputs, weighted, retain_graph=True)
        return found, None, None


class _FiniteGradients(torch.autograd.Function):
    """A score whose gradients are taken from another score, if there is one, when they are not finite."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, narrow: Callable[..., Tensor], wide: Callable[..., Tensor | None]) -> Tensor:
        with torch.enable_grad():
            ctx.inputs = inputs.detach().requires_grad_()
            ctx.scores = narrow(ctx.inputs)
        ctx.wide, ctx.wide_scores = wide, None
        scores = ctx.scores.detach()
        if not ctx.scores.requires_grad:
            ctx.mark_non_differentiable(scores)
        return scores

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        (found,) = torch.autograd.grad(ctx.scores, ctx.inputs, gradient, retain_graph=True)
        if not found.isfinite().all():
            if ctx.wide_scores is None:
                with torch.enable_grad(), lent():
                    ctx.wide_scores = ctx.wide(ctx.inputs)
            if ctx.wide_scores is not None:
                (found,) = torch.autograd.grad(ctx.wide_scores, ctx.inputs, gradient, retain_graph=True)
        return found, None, None
