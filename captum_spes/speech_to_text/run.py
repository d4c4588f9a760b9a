"""Runs an attribution method for one utterance, and counts and reports its passes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

import torch
from captum._utils.progress import NullProgress, progress
from captum.attr import Attribution
from torch import Tensor

from captum_spes.attr import SPES, BubbleNoise, CrossAttention, GradientSPES
from captum_spes.attr.batches import fastest_batch_size
from captum_spes.models.threads import exclusive
from captum_spes.speech_to_text import profiles
from captum_spes.speech_to_text.numerics import Outputs, weights_cast_once
from captum_spes.speech_to_text.passes import HookedPasses, SharedPasses, rewrapped
from captum_spes.speech_to_text.plan import Plan
from captum_spes.speech_to_text.targets import TokenPrediction

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

Stage = Callable[[str, int, int], bool | None]

# default number of perturbations in a batch
BATCH_SIZE = 16


@dataclass(frozen=True)
class RunOptions:
    """How a method is run. Except for the seed, the options change the result only by rounding.

    Attributes:
        perturbations_per_eval: perturbations in a batch; None for a number that is fast on the device.
        seed: the seed of all that is random.
        show_progress: whether each call shows a progress bar.
        callback: called after every batch as ``callback(stage, done, total)``.
        process_group: ranks that share the perturbations.
        checkpoints: folder of the files from which a killed run continues.
    """

    perturbations_per_eval: int | None = None
    seed: int = 0
    show_progress: bool = False
    callback: Stage | None = None
    process_group: ProcessGroup | None = None
    checkpoints: Path | None = None


@dataclass(frozen=True, eq=False)
class Maps:
    """The attributions of one run. K rows, J previous tokens, T frames, C channels.

    Attributes:
        spectrogram: shape (K, T, C).
        reliability: shape (K,); None for methods that do not measure it.
        tokens: shape (K, J).
        mask: the feature mask to which the values belong; None if every bin has its own value.
    """

    spectrogram: Tensor
    reliability: Tensor | None
    tokens: Tensor
    mask: Tensor | None


class Run:
    """Runs the method of a plan on the model.

    Attributes:
        done: the number of samples of each stage, for methods of this library.
        passes: the number of inputs of each stage that passed forwards and backwards through the model.
        stopped: whether the callback ended the run.
        seconds_per_sample: how long each sample of the spectrogram took, in the mean over all batches but the first;
            None where there were no further batches, and for methods of Captum.
    """

    def __init__(self, plan: Plan, options: RunOptions) -> None:
        self.plan = plan
        self.options = options
        self.prediction = plan.prediction
        self.outputs = Outputs(plan.prediction, plan.utterance)
        self.inputs = plan.utterance.spectrogram
        self.done: dict[str, int] = {}
        self.passes: dict[str, dict[str, int]] = {}
        self.stopped = False
        self.seconds_per_sample: float | None = None
        self._first_batch: tuple[int, float] | None = None  # the samples done after it, and when it ended
        self._pooling: int | None = None  # the index of the mask over which GradientSPES has pooled
        self._attention: tuple[Tensor, Tensor] | None = None
        with torch.no_grad():
            self.original = self.outputs.of_gate()

    def attribute(self) -> Maps:
        """The attributions of the spectrogram and of the previous tokens."""
        with exclusive(), weights_cast_once(self.plan.utterance):
            return self._attribute_jointly() if self.plan.joint else self._attribute_separately()

    def _attribute_separately(self) -> Maps:
        """Attributions of both inputs, of which one is perturbed at a time."""
        # The tokens come first: they take little time, so that a run that is stopped has their maps.
        tokens = self._attribute_tokens()
        spectrogram, reliability = self._attribute_spectrogram()
        mask = self.plan.mask if self._pooling is None else self.plan.pooling_masks[self._pooling]
        return Maps(spectrogram, reliability, tokens, mask)

    def _attribute_tokens(self) -> Tensor:
        """Attributions (K, J) of the previous tokens; the encoder runs once, and the decoder for each sample."""
        plan = self.plan
        if not len(self.prediction.previous):
            return torch.zeros(len(self.prediction.rows), 0)
        gate = self._gate()
        arguments = profiles.baselines_for(plan.token_method, 0.0, gate) | plan.token_arguments
        attr, _ = self._attribute("previous tokens", plan.token_method, gate, self.outputs.of_gate, arguments)
        return self._of_tokens(attr)

    def _attribute_spectrogram(self) -> tuple[Tensor, Tensor | None]:
        """Attributions (K, T, C) of the spectrogram, and their reliability."""
        plan = self.plan
        masks: dict[str, Any] = {} if plan.mask is None else {"feature_mask": plan.mask}
        if plan.pooling_masks and not plan.joint:
            masks["pooling_masks"] = plan.pooling_masks
        arguments = profiles.baselines_for(plan.method, plan.baseline, self.inputs) | masks | plan.arguments
        return self._attribute("spectrogram", plan.method, self.inputs, self.outputs.of_spectrogram, arguments)

    def _attribute_jointly(self) -> Maps:
        """SPES's attributions of both inputs, perturbed at the same time."""
        plan, stage = self.plan, "both"
        assert plan.mask is not None  # of SPES
        gate = self._gate()
        gate_mask = torch.arange(gate.numel(), device=gate.device).view(gate.shape) + plan.mask.max() + 1
        probabilities = (plan.arguments["perturbation_prob"], plan.token_arguments["perturbation_prob"])
        score = self.prediction.score(self.outputs.of_spectrogram, self.original)
        (attr, token_attr), (reliability, _) = rewrapped(plan.method, score).attribute(
            (self.inputs, gate),
            centered=False,
            baselines=(plan.baseline, 0.0),
            feature_mask=(plan.mask, gate_mask),
            **self._own_arguments(stage),
            **{**plan.arguments, "perturbation_prob": probabilities},
        )
        self._count_samples(stage, plan.method)
        return Maps(attr, reliability, self._of_tokens(token_attr), plan.mask)

    def _gate(self) -> Tensor:
        """A gate of ones for the previous tokens: (1, J), or (1, J, D) for the values of their embeddings."""
        shape = [1, len(self.prediction.previous)]
        if self.plan.token_values:
            shape.append(self.prediction.model.embedding_dim)
        return torch.ones(shape, device=self.inputs.device)

    def _of_tokens(self, attr: Tensor) -> Tensor:
        """Attributions (K, J) of tokens from those of a gate, (K, J) or (K, J, D)."""
        return attr.flatten(2).mean(2) if self.plan.token_values else attr

    def _attribute(
        self,
        stage: str,
        method: Attribution,
        inputs: Tensor,
        outputs: Callable[[Tensor], Any],
        arguments: dict[str, Any],
    ) -> tuple[Tensor, Tensor | None]:
        """Attributions (K, …), and the reliability if the method measures it."""
        if isinstance(method, CrossAttention):
            return self._attend(stage, method, inputs, arguments), None
        score = self.prediction.score(outputs, self.original)
        if not isinstance(method, profiles.ALL_TOKENS):
            return self._attribute_token_by_token(stage, method, inputs, score, arguments), None
        own = self._own_arguments(stage)
        if isinstance(method, (SPES, BubbleNoise)):
            own["centered"] = False  # Eq. 3 of the paper
        if isinstance(method, GradientSPES):
            own |= {"perturbations_per_eval": self._gradient_batch_size(stage), "return_pooling": True}
            score = self.outputs.with_finite_gradients(self.outputs.with_shared_vocabulary(score))
        found = rewrapped(method, score).attribute(inputs, **arguments, **own)
        self._count_samples(stage, method)
        if isinstance(method, GradientSPES):
            *found, pooling = found
            self._pooling = pooling if "pooling_masks" in arguments else None
        return tuple(found)

    def _attribute_token_by_token(
        self,
        stage: str,
        method: Attribution,
        inputs: Tensor,
        score: Callable[..., Tensor],
        arguments: dict[str, Any],
    ) -> Tensor:
        """Attributions (K, …) by a method of Captum, which runs once for each row and shares passes between rows."""
        batch_size = self._batch_size(stage) if profiles.asks_model(method) else 1
        if "perturbations_per_eval" in profiles.accepted(method):
            arguments = {"perturbations_per_eval": batch_size, **arguments}
        score, n_rows = self._counted(stage, score), len(self.prediction.rows)
        passes: HookedPasses | SharedPasses
        if profiles.is_hooked(method):
            passes = HookedPasses(self.prediction.model, score, n_rows, batch_size)
        else:
            passes = SharedPasses(self.outputs.with_shared_vocabulary(score), n_rows, batch_size)
        seed, callback = self.options.seed, self.options.callback
        show = self.options.show_progress
        total = passes.count(method, inputs, arguments, seed) if show or callback else 0
        desc = f"{profiles.title(method)} attribution"
        with progress(desc=desc, total=total) if show else NullProgress() as bar:

            def on_pass(forward: int, backward: int) -> None:
                self._count(stage, backward=backward)
                bar.update(forward)
                if callback is not None:
                    done = self.passes[stage]["forward"]
                    callback(stage, done, max(total, done))

            return passes.attribute(method, inputs, arguments, seed, on_pass)

    def _attend(self, stage: str, method: CrossAttention, inputs: Tensor, arguments: dict[str, Any]) -> Tensor:
        """The decoder's attention (K, …) to the frames or to the previous tokens."""
        if self._attention is None:
            assert isinstance(self.prediction, TokenPrediction)  # other predictions are refused
            model: Any = self.prediction.model
            self._attention = model.attention_weights(self.plan.utterance, self.prediction.tokens)
            self._count(stage, forward=1)  # one pass serves both calls
        cross, own = self._attention
        if arguments.get("heads") == "alignment":
            arguments = {**arguments, "heads": self._alignment_heads()}
        return rewrapped(method, lambda _: cross if inputs.dim() == 3 else own).attribute(inputs, **arguments)

    def _alignment_heads(self) -> list[tuple[int, int]]:
        model: Any = self.prediction.model
        heads: list[tuple[int, int]] | None = model.alignment_heads
        if heads is None:
            raise ValueError(f"the generation config of {model.name} names no alignment_heads: use all heads.")
        return heads

    # What the methods are given

    def _own_arguments(self, stage: str) -> dict[str, Any]:
        """The arguments of this library's methods that Captum's methods do not have."""
        checkpoints = self.options.checkpoints
        return {
            "perturbations_per_eval": self._batch_size(stage),
            "show_progress": self.options.show_progress,
            "seed": self.options.seed,
            "return_reliability": True,
            "callback": partial(self._after_batch, stage),
            "process_group": self.options.process_group,
            "checkpoint": checkpoints and checkpoints / f"{stage.replace(' ', '-')}.safetensors",
        }

    def _batch_size(self, stage: str) -> int:
        """Perturbations in a batch: the given number, or one that is fast on this device."""
        if self.options.perturbations_per_eval is not None:
            return self.options.perturbations_per_eval
        # on a CPU the size makes little difference, and a fixed size gives the same result to the last bit
        return BATCH_SIZE if self.inputs.device.type == "cpu" or stage == "previous tokens" else self._fastest

    def _gradient_batch_size(self, stage: str) -> int:
        """Perturbations in a batch of GradientSPES, whose graph is kept for a backward for each token."""
        size = self._batch_size(stage)
        if self.options.perturbations_per_eval is not None or self.inputs.device.type != "cpu":
            return max(size // 4, 1)
        # a batch with many tokens takes long: smaller batches update the progress bar more often, and cost little
        return min(max(2 * size // len(self.prediction.rows), 1), 4)

    @cached_property
    def _fastest(self) -> int:
        """The batch size for spectrograms that a short probe finds fast."""
        score = self.prediction.score(self.outputs.of_spectrogram, self.original)

        @torch.no_grad()
        def evaluate(n_rows: int) -> float:
            return score(self.inputs.expand(n_rows, -1, -1)).sum().item()  # waits for the device

        return fastest_batch_size(evaluate)

    # What is counted

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
        """Counts the inputs that all ranks passed through the model: the samples, and the unperturbed input."""
        n_done = self.done[stage]
        if isinstance(method, GradientSPES):
            self._count(stage, n_done, n_done * len(self.prediction.rows))
        else:
            self._count(stage, n_done + 1)

    def _after_batch(self, stage: str, done: int, total: int) -> bool:
        self.done[stage] = done
        if stage == "spectrogram":
            now = monotonic()
            first, start = self._first_batch = self._first_batch or (done, now)
            if done > first:
                self.seconds_per_sample = (now - start) / (done - first)
        callback = self.options.callback
        stop = callback is not None and bool(callback(stage, done, total))
        self.stopped |= stop and done < total
        return stop
