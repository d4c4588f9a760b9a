"""Model calls of Captum's methods, recorded for the first token and replayed for the others."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import copy
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from captum._utils.gradient import compute_gradients
from captum.attr import Attribution, DeepLift, NoiseTunnel
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from captum_spes.models.threads import lent
from captum_spes.speech_to_text.checks import check_completeness
from captum_spes.speech_to_text.profiles import accepted, innermost

# largest number of bytes of recorded gradients; beyond it, fewer tokens share their passes
GRADIENT_MEMORY = 2**30
# attributes in which Captum's methods keep the handles of their hooks
HANDLES = {"forward_handles", "backward_handles", "backward_hooks"}


class SharedPasses:
    """Runs a method of single scores once for each token, on passes of the model that all tokens share.

    Captum's methods attribute one score of an example, while one pass of a speech-to-text model scores all K tokens.
    A method that is started again with the same random numbers makes the same model calls, which are cached and
    replayed: the calls of the first token, for scores or gradients at some inputs, are computed for all tokens, as K
    scores of one forward and K backwards through its graph, and recorded. The same calls of later tokens are replayed
    from the record. A call that differs from the record is computed, and the record is continued from there: only the
    time depends on the record, never the result.

    Args:
        score: the scores of a batch, (B, …) to (B, K).
        n_tokens: the number of scores K.
        batch_size: inputs in one pass; of gradients a quarter as many, which keep their graph.
    """

    def __init__(self, score: Callable[[Tensor], Tensor], n_tokens: int, batch_size: int) -> None:
        self.score = score
        self.n_tokens = n_tokens
        self.batch_size = batch_size
        self.on_pass: Callable[[int, int], object] = lambda forward, backward: None
        self.calls: list[tuple[str, Tensor]] = []  # kind and fingerprint of the inputs
        self.results: list[Tensor] = []  # one for each call, tokens first
        self.group = (0, n_tokens)  # the tokens that the record is for
        self.token = self.n_calls = 0  # the current token, and how many calls it has made
        self.pretend = False

    def attribute(
        self,
        method: Attribution,
        inputs: Tensor,
        arguments: dict[str, Any],
        seed: int,
        on_pass: Callable[[int, int], object],
    ) -> Tensor:
        """Attributions of all tokens, (K, …), for an input of shape (1, …).

        ``on_pass`` is called after each pass with the number of inputs that went forwards and backwards.
        """
        self.on_pass = on_pass
        method = rewrapped(method, self._forward, self._gradients)
        self._start()
        return torch.cat([self._attribute(method, token, inputs, arguments, seed) for token in range(self.n_tokens)])

    def count(self, method: Attribution, inputs: Tensor, arguments: dict[str, Any], seed: int) -> int:
        """How many inputs the method will pass through the model, counted in a run without the model."""
        self._start()
        self.pretend = True
        try:
            self._attribute(rewrapped(method, self._forward, self._gradients), 0, inputs, arguments, seed)
            return sum(len(examples) for _, examples in self.calls)
        finally:
            self.pretend = False

    def _attribute(
        self, method: Attribution, token: int, inputs: Tensor, arguments: dict[str, Any], seed: int
    ) -> Tensor:
        if token == self.group[1]:
            self.group = (token, min(2 * token - self.group[0], self.n_tokens))
            self._forget(0)
        self.token, self.n_calls = token, 0
        with reproducible(seed, inputs.device):
            # gradient methods would otherwise warn about an input that requires no gradients, and set it themselves
            return method.attribute(inputs.detach().requires_grad_(), **arguments).detach()

    def _forward(self, inputs: Tensor) -> Tensor:
        """The forward function for the method: one score for each example."""
        if torch.is_grad_enabled() and inputs.requires_grad:
            return _Differentiable.apply(inputs, self)
        return self.scores(inputs)

    def _gradients(self, forward_fn: Any, inputs: Any, *args: Any, **kwargs: Any) -> tuple[Tensor, ...]:
        """Replaces Captum's ``compute_gradients``, which would compute scores beside the gradients."""
        if forward_fn != self._forward:  # a function of the forward function
            return compute_gradients(forward_fn, inputs, *args, **kwargs)
        (tensor,) = inputs if isinstance(inputs, tuple) else (inputs,)
        return (self.gradients(tensor),)

    def scores(self, inputs: Tensor) -> Tensor:
        """Scores (B,) of the token that is attributed."""
        return self._call("scores", inputs, 1, self._scores)

    def gradients(self, inputs: Tensor) -> Tensor:
        """Gradients (B, …) of these scores."""
        return self._call("gradients", inputs, inputs[0].numel(), self._all_gradients).to(inputs)

    def _call(self, kind: str, inputs: Tensor, size: int, compute: Callable[[Tensor], Tensor]) -> Tensor:
        """The result for the current token, ``size`` numbers for each example: replayed, or computed and recorded."""
        examples, index = _fingerprint(inputs), self.n_calls
        if index < len(self.calls):
            known_kind, known_examples = self.calls[index]
            if known_kind != kind or not torch.equal(known_examples, examples):
                self._forget(index)
        if index == len(self.calls):
            self._make_room(size * len(inputs) * inputs.element_size())
            self.results.append(compute(inputs))
            self.calls.append((kind, examples))
        self.n_calls += 1
        return self.results[index][self.token - self.group[0]]

    def _start(self) -> None:
        self.group = (0, self.n_tokens)
        self._forget(0)

    def _forget(self, index: int) -> None:
        """Drops the calls from ``index`` on, and their results."""
        del self.calls[index:], self.results[index:]

    def _make_room(self, size: int) -> None:
        """Halves the number of recorded tokens until another result of ``size`` bytes for each of them fits."""
        first, last = self.group
        size += sum(result[0].numel() * result.element_size() for result in self.results)
        while size * (last - first) > GRADIENT_MEMORY and last - self.token > 1:
            last = self.token + (last - self.token + 1) // 2
        if last < self.group[1]:
            self.results = [result[: last - first].clone() for result in self.results]
            self.group = (first, last)

    def _scores(self, inputs: Tensor) -> Tensor:
        """Scores (tokens, B) of the group."""
        if self.pretend:
            return inputs.new_zeros(1, len(inputs))
        scores = []
        with torch.no_grad():
            for rows in inputs.split(self.batch_size):
                scores.append(self.score(rows))
                self.on_pass(len(rows), 0)
        return torch.cat(scores)[:, slice(*self.group)].T

    def _all_gradients(self, inputs: Tensor) -> Tensor:
        """Gradients (tokens, B, …) of the group's scores, on the CPU. A loop over the graph is faster than a batch."""
        if self.pretend:
            return inputs.new_zeros(1, 1).expand(1, *inputs.shape)
        gradients = []
        for rows in inputs.detach().split(max(1, self.batch_size // 4)):
            gradients.append(self._gradients_of(rows.clone().requires_grad_()))
            self.on_pass(len(rows), len(rows) * len(gradients[-1]))
        return torch.cat(gradients, dim=1)

    @torch.enable_grad()  # NoiseTunnel turns them off
    def _gradients_of(self, rows: Tensor) -> Tensor:
        first, last = self.group
        scores = self.score(rows)[:, first:last].sum(0)
        return torch.stack(
            [
                torch.autograd.grad(score, rows, retain_graph=n < len(scores))[0].cpu()
                for n, score in enumerate(scores, 1)
            ]
        )


class _Differentiable(torch.autograd.Function):
    """Scores for methods that call autograd themselves; their gradients are recorded and replayed as well."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, passes: SharedPasses) -> Tensor:
        ctx.passes = passes
        ctx.save_for_backward(inputs)
        return passes.scores(inputs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, weights: Tensor) -> tuple[Tensor, None]:
        (inputs,) = ctx.saved_tensors
        with lent():
            gradients = ctx.passes.gradients(inputs)
        return weights.view(-1, *[1] * (inputs.dim() - 1)) * gradients, None


class HookedPasses:
    """Runs a method that hooks the model's modules, in place of :class:`SharedPasses`.

    Each token has a row of the batch, because hooked modules keep values only for one backward. If the method draws
    noise, tokens are run one by one, because the noise must be the same for all tokens.

    Args:
        model: the model whose modules are hooked.
        score: the scores of a batch, (B, …) to (B, K).
        n_tokens: the number of scores K.
        batch_size: inputs in one pass of a perturbation method; a quarter as many here.
    """

    def __init__(self, model: Any, score: Callable[[Tensor], Tensor], n_tokens: int, batch_size: int) -> None:
        self.module = _ScoreModule(model, score)
        self.n_tokens = n_tokens
        self.batch_size = max(1, batch_size // 4)

    def attribute(
        self,
        method: Attribution,
        inputs: Tensor,
        arguments: dict[str, Any],
        seed: int,
        on_pass: Callable[[int, int], object],
    ) -> Tensor:
        """Attributions of all tokens, (K, …), for an input of shape (1, …).

        Raises:
            ValueError: DeepLift's attributions do not add up; the message says why.
        """
        n_rows, batch_size = 1, self.batch_size
        if isinstance(method, NoiseTunnel):
            inner = method.attribution_method  # its completeness can be checked, unlike that of noisy attributions
            if isinstance(innermost(method), DeepLift):
                self.attribute(inner, inputs, _known(inner, arguments), seed, on_pass)
            n_rows, batch_size = arguments["nt_samples"], 1
        n_passed = n_rows * _rows_each(method)
        hooking = rewrapped(method, self.module)
        attributions = []
        for tokens in torch.arange(self.n_tokens).split(batch_size):
            rows = inputs.expand(len(tokens), *inputs.shape[1:]).clone().requires_grad_()
            expanded = {
                name: value.expand_as(rows) if name == "baselines" else value for name, value in arguments.items()
            }
            with reproducible(seed, inputs.device), warnings.catch_warnings():
                warnings.filterwarnings("ignore", "Setting (forward, )?(forward|backward) hooks")
                attributions.append(hooking.attribute(rows, target=tokens.tolist(), **expanded).detach())
            on_pass(len(tokens) * n_passed, len(tokens) * n_rows)
        result = torch.cat(attributions)
        if isinstance(method, DeepLift):
            with torch.no_grad():
                differences = self.module(inputs) - self.module(arguments["baselines"])
            on_pass(2, 0)
            check_completeness(result, differences[0])
        return result

    def count(self, method: Attribution, inputs: Tensor, arguments: dict[str, Any], seed: int) -> int:
        """How many inputs the method will pass through the model."""
        each = self.n_tokens * _rows_each(method)
        if not isinstance(method, NoiseTunnel):
            return each + 2 if isinstance(method, DeepLift) else each
        inner = method.attribution_method
        checked = self.count(inner, inputs, arguments, seed) if isinstance(innermost(method), DeepLift) else 0
        return each * arguments["nt_samples"] + checked


def _known(method: Attribution, arguments: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in arguments.items() if name in accepted(method)}


def _rows_each(method: Attribution) -> int:
    """DeepLift passes the baseline beside each input."""
    return 2 if isinstance(innermost(method), DeepLift) else 1


class _ScoreModule(nn.Module):
    """The score as a module, for methods that hook those of the model."""

    def __init__(self, model: Any, score: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.model = model
        self.score = score

    def forward(self, inputs: Tensor) -> Tensor:
        return self.score(inputs)


def rewrapped(method: Attribution, forward_func: Any, gradient_func: Any = None) -> Any:
    """A copy of a method, and of the method inside it, with another forward function."""
    method = copy(method)
    for name in HANDLES & vars(method).keys():  # lists to which the copy adds its own handles
        setattr(method, name, [])
    method.forward_func = forward_func
    if hasattr(method, "model"):  # the methods that hook its modules
        method.model = forward_func
    if gradient_func is not None and hasattr(method, "gradient_func"):
        method.gradient_func = gradient_func
    if hasattr(method, "attribution_method"):
        method.attribution_method = rewrapped(method.attribution_method, forward_func, gradient_func)
    return method


@contextmanager
def reproducible(seed: int, device: torch.device) -> Iterator[None]:
    """A context that seeds the global generators, from which Captum's methods draw, and restores them afterwards."""
    state = np.random.get_state()
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        torch.manual_seed(seed)
        np.random.seed(seed % 2**32)
        try:
            yield
        finally:
            np.random.set_state(state)


def _fingerprint(inputs: Tensor) -> Tensor:
    """Numbers that identify each example, (B, 4)."""
    flat = inputs.detach().flatten(1).float()
    return flat @ _weights(flat.shape[1]).to(flat.device)


@lru_cache(maxsize=2)
def _weights(size: int) -> Tensor:
    return torch.rand(size, 4, generator=torch.Generator().manual_seed(0))
