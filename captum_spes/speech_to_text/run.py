"""The calls of an attribution method for one utterance."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from captum._utils.progress import NullProgress, progress
from captum.attr import Attribution
from torch import Tensor

import captum_spes.speech_to_text.profiles as methods
from captum_spes.attr import SPES, BubbleNoise, CrossAttention, GradientSPES
from captum_spes.attr._batches import fastest_batch_size
from captum_spes.models.protocol import Utterance
from captum_spes.speech_to_text.passes import HookedPasses, SharedPasses, rewrapped
from captum_spes.speech_to_text.targets import Prediction, TokenPrediction

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

Stage = Callable[[str, int, int], bool | None]

# perturbations in a batch where none are given
BATCH_SIZE = 16


class Run:
    """The calls of a method for one utterance."""

    def __init__(
        self,
        prediction: Prediction,
        utterance: Utterance,
        perturbations_per_eval: int | None,
        seed: int,
        show_progress: bool,
        callback: Stage | None,
        process_group: ProcessGroup | None = None,
        checkpoints: Path | None = None,
    ) -> None:
        self.model = prediction.model
        self.prediction = prediction
        self.utterance = utterance
        self.perturbations_per_eval = perturbations_per_eval
        self.seed = seed
        self.show_progress = show_progress
        self.callback = callback
        self.process_group = process_group
        self.checkpoints = checkpoints
        self.done: dict[str, int] = {}
        self.passes: dict[str, dict[str, int]] = {}
        self.stopped = self.overflowed = False
        # which of the masks to pool over was taken; None where there is no choice
        self.pooling: int | None = None
        self.encoded: dict[torch.dtype, Any] = {}
        self.attention: tuple[Tensor, Tensor] | None = None
        self.device = utterance.spectrogram.device
        with torch.no_grad():
            self.original = self._decoded()

    def attribute_tokens(self, method: Attribution, arguments: dict[str, Any], token_values: bool) -> Tensor:
        """Attributions (K, J) of the previous tokens: the encoder has run once, the decoder runs for each sample."""
        gate = self._gate(token_values)
        attr, _ = self._attribute(
            "previous tokens",
            method,
            gate,
            self._decoded,
            methods.baselines_for(method, 0.0, gate) | arguments,
        )
        return attr.flatten(2).mean(2) if token_values else attr

    def attribute_spectrogram(
        self, method: Attribution, baseline: Tensor | float, mask: Tensor | None, arguments: dict[str, Any]
    ) -> tuple[Tensor, Tensor | None]:
        """Attributions (K, T, C) of the spectrogram."""
        inputs = self.utterance.spectrogram
        if mask is not None:
            arguments = {"feature_mask": mask, **arguments}
        return self._attribute(
            "spectrogram",
            method,
            inputs,
            self._outputs,
            methods.baselines_for(method, baseline, inputs) | arguments,
        )

    def attribute_jointly(
        self,
        method: Attribution,
        baseline: Tensor | float,
        mask: Tensor | None,
        arguments: dict[str, Any],
        perturbation_prob: float,
        token_values: bool,
    ) -> tuple[Tensor, Tensor | None, Tensor]:
        """SPES's attributions of both: (K, T, C), their reliability, and (K, J)."""
        assert mask is not None  # of SPES
        stage = "both"
        gate = self._gate(token_values)
        gate_mask = torch.arange(gate.numel(), device=gate.device).view(gate.shape) + mask.max() + 1
        arguments = {**arguments, "perturbation_prob": (arguments["perturbation_prob"], perturbation_prob)}

        score = self.prediction.score(self._outputs, self.original)
        (attr, token_attr), (reliability, _) = rewrapped(method, score).attribute(
            (self.utterance.spectrogram, gate),
            centered=False,
            baselines=(baseline, 0.0),
            feature_mask=(mask, gate_mask),
            **self._own_arguments(stage),
            **arguments,
        )
        self._count_samples(stage, method)
        return attr, reliability, token_attr.flatten(2).mean(2) if token_values else token_attr

    def _batch_size(self, stage: str) -> int:
        """Perturbations in a batch: those given, or what is fast on this device."""
        if self.perturbations_per_eval is not None:
            return self.perturbations_per_eval
        # on a CPU the size makes little difference, and a fixed one gives the same result to the last bit
        return BATCH_SIZE if self.device.type == "cpu" or stage == "previous tokens" else self.fastest

    def _gradient_batch_size(self, stage: str) -> int:
        """Perturbations in a batch of GradientSPES, whose graph is kept for a backward for each token."""
        size = self._batch_size(stage)
        if self.perturbations_per_eval is not None or self.device.type != "cpu":
            return max(size // 4, 1)
        # many tokens take long: smaller batches let the progress bar move, and cost little
        return min(max(2 * size // len(self.prediction.rows), 1), 4)

    @cached_property
    def fastest(self) -> int:
        """The size of the batches of spectrograms that a short probe finds fast."""
        score = self.prediction.score(self._outputs, self.original)

        @torch.no_grad()
        def evaluate(n_rows: int) -> float:
            return score(self.utterance.spectrogram.expand(n_rows, -1, -1)).sum().item()  # waits for the device

        return fastest_batch_size(evaluate)

    def _outputs(self, spectrogram: Tensor, gate: Tensor | None = None) -> Any:
        """What the model makes of spectrograms in the utterance's place."""
        return self._finite(lambda utterance: self.prediction.outputs(self.model.encode(spectrogram, utterance), gate))

    def _decoded(self, gate: Tensor | None = None) -> Any:
        """What it makes of the utterance itself, for which the encoder need not run again."""
        return self._finite(lambda utterance: self.prediction.outputs(self._encoded(utterance), gate))

    def _encoded(self, utterance: Utterance) -> Any:
        if utterance.dtype not in self.encoded:
            with torch.no_grad():
                self.encoded[utterance.dtype] = self.model.encode(utterance.spectrogram, utterance)
        return self.encoded[utterance.dtype]

    def _finite(self, outputs: Callable[[Utterance], Any]) -> Any:
        """The outputs for the utterance, and where its precision overflows, those for it in float32.

        NaN that is left there, or of a model that has no float32, is for the method to refuse.
        """
        found = outputs(self.utterance)
        if self.utterance.dtype == torch.float32 or _is_finite(found) or self.wide is None:
            return found
        self._tell_overflow()
        return outputs(self.wide)

    def _tell_overflow(self) -> None:
        if self.overflowed:
            return
        self.overflowed = True
        name = str(self.utterance.dtype).removeprefix("torch.")
        warnings.warn(
            f"{self.model.name} overflows in {name} on this utterance: the batches in which it does are computed in "
            "float32.",
            stacklevel=2,
        )

    def _with_finite_gradients(self, score: Callable[..., Tensor]) -> Callable[..., Tensor]:
        """The same score, whose gradients are those in float32 where they overflow in the utterance's precision."""
        if self.utterance.dtype == torch.float32:
            return score

        def wide(inputs: Tensor) -> Tensor | None:
            if self.wide is None:
                return None
            self._tell_overflow()
            narrow, self.utterance = self.utterance, self.wide
            try:
                return score(inputs)
            finally:
                self.utterance = narrow

        return lambda inputs: _FiniteGradients.apply(inputs, score, wide) if inputs.requires_grad else score(inputs)

    @cached_property
    def wide(self) -> Utterance | None:
        """The utterance in float32; None for a model whose weights are narrower."""
        wide = replace(self.utterance, dtype=torch.float32)
        try:
            self._encoded(wide)
        except ValueError:
            return None
        return wide

    def _own_arguments(self, stage: str) -> dict[str, Any]:
        """What this library's methods take beside Captum's."""
        return {
            "perturbations_per_eval": self._batch_size(stage),
            "show_progress": self.show_progress,
            "seed": self.seed,
            "return_reliability": True,
            "callback": partial(self._after_batch, stage),
            "process_group": self.process_group,
            "checkpoint": self.checkpoints and self.checkpoints / f"{stage.replace(' ', '-')}.safetensors",
        }

    def _gate(self, token_values: bool) -> Tensor:
        n_previous = len(self.prediction.previous)
        shape = (1, n_previous, self.model.embedding_dim) if token_values else (1, n_previous)
        return torch.ones(shape, device=self.device)

    def _attribute(
        self,
        stage: str,
        method: Attribution,
        inputs: Tensor,
        outputs: Callable[[Tensor], Any],
        arguments: dict[str, Any],
    ) -> tuple[Tensor, Tensor | None]:
        """Attributions (K, …), and the reliability where the method tells it."""
        if isinstance(method, CrossAttention):
            return self._attend(stage, method, inputs, arguments), None
        score = self.prediction.score(outputs, self.original)
        n_rows = len(self.prediction.rows)
        if isinstance(method, methods.ALL_TOKENS):
            own = self._own_arguments(stage)
            if isinstance(method, (SPES, BubbleNoise)):
                own["centered"] = False  # Eq. 3 of the paper
            if isinstance(method, GradientSPES):
                own |= {"perturbations_per_eval": self._gradient_batch_size(stage), "return_pooling": True}
                score = self._with_finite_gradients(score)
            found = rewrapped(method, score).attribute(inputs, **arguments, **own)
            if isinstance(method, GradientSPES):
                *found, self.pooling = found
            self._count_samples(stage, method)
            return tuple(found)
        batch_size = self._batch_size(stage) if methods.asks_model(method) else 1
        if "perturbations_per_eval" in methods.accepted(method):
            arguments = {"perturbations_per_eval": batch_size, **arguments}
        score = self._counted(stage, score)
        passes: HookedPasses | SharedPasses
        if methods.is_hooked(method):
            passes = HookedPasses(self.model, score, n_rows, batch_size)
        else:
            passes = SharedPasses(score, n_rows, batch_size)
        total = passes.count(method, inputs, arguments, self.seed) if self.show_progress or self.callback else 0
        desc = f"{methods.title(method)} attribution"
        with progress(desc=desc, total=total) if self.show_progress else NullProgress() as bar:

            def on_pass(forward: int, backward: int) -> None:
                self._count(stage, backward=backward)
                bar.update(forward)
                if self.callback is not None:
                    done = self.passes[stage]["forward"]
                    self.callback(stage, done, max(total, done))

            return passes.attribute(method, inputs, arguments, self.seed, on_pass), None

    def _attend(self, stage: str, method: CrossAttention, inputs: Tensor, arguments: dict[str, Any]) -> Tensor:
        """The decoder's attention (K, …) to the frames or to the previous tokens, read in one pass for both."""
        if self.attention is None:
            assert isinstance(self.prediction, TokenPrediction)  # others are refused
            model: Any = self.model
            self.attention = model.attention_weights(self.utterance, self.prediction.tokens)
            self._count(stage, forward=1)
        cross, own = self.attention
        if arguments.get("heads") == "alignment":
            arguments = {**arguments, "heads": self._alignment_heads()}
        return rewrapped(method, lambda _: cross if inputs.dim() == 3 else own).attribute(inputs, **arguments)

    def _alignment_heads(self) -> list[tuple[int, int]]:
        model: Any = self.model
        heads: list[tuple[int, int]] | None = model.alignment_heads
        if heads is None:
            raise ValueError(f"the generation config of {self.model.name} names no alignment_heads: take all heads.")
        return heads

    def _counted(self, stage: str, score: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def counted(*inputs: Tensor) -> Tensor:
            self._count(stage, forward=len(inputs[0]))
            return score(*inputs)

        return counted

    def _count(self, stage: str, forward: int = 0, backward: int = 0) -> None:
        passes = self.passes.setdefault(stage, {"forward": 0, "backward": 0})
        passes["forward"] += forward
        passes["backward"] += backward

    def _count_samples(self, stage: str, method: Attribution) -> None:
        """Counts what all ranks passed through the model: the samples, and the unperturbed input."""
        n_done = self.done[stage]
        if isinstance(method, GradientSPES):
            self._count(stage, n_done, n_done * len(self.prediction.rows))
        else:
            self._count(stage, n_done + 1)

    def _after_batch(self, stage: str, done: int, total: int) -> bool:
        self.done[stage] = done
        stop = self.callback is not None and bool(self.callback(stage, done, total))
        self.stopped |= stop and done < total
        return stop


def _is_finite(outputs: Tensor | tuple[Tensor, ...]) -> bool:
    """Whether a model's logits can be scored: -inf is a token that it never writes."""
    return all(bool((part < torch.inf).all()) for part in (outputs if isinstance(outputs, tuple) else (outputs,)))


class _FiniteGradients(torch.autograd.Function):
    """A score whose gradients are taken from another one, where there is any, if they are not finite."""

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
                with torch.enable_grad():
                    ctx.wide_scores = ctx.wide(ctx.inputs)
            if ctx.wide_scores is not None:
                (found,) = torch.autograd.grad(ctx.wide_scores, ctx.inputs, gradient, retain_graph=True)
        return found, None, None
