"""Passes of a model that serve all tokens, whichever Captum method asks for them."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import copy
from typing import Any

import numpy as np
import torch
from captum.attr import Attribution
from torch import Tensor, nn

from captum_spes.methods import check_completeness

# bytes of gradients that are kept for tokens to come; where they exceed it, fewer tokens share their passes
MEMORY = 2**30


class SharedPasses:
    """Runs a method of single scores once for each token, on passes of the model that all tokens share.

    Captum's methods attribute one score of an example, while one pass of a speech-to-text model scores all K tokens.
    A method that is started again with the same random numbers puts the same questions: forwards at the same points,
    or gradients there. So the first token's questions are answered for all of them, by K scores from a forward and K
    backwards through its graph, and the later ones are answered from memory. A method that asks something new
    gets a new answer: the result never depends on it, only the time.

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
        self.questions: list[Tensor] = []
        self.answers: list[Tensor] = []  # one a question, tokens first
        self.group = (0, n_tokens)  # the tokens that are answered for
        self.token = self.n_asked = 0
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
        self.group = (0, self.n_tokens)
        return torch.cat([self._attribute(method, token, inputs, arguments, seed) for token in range(self.n_tokens)])

    def count(self, method: Attribution, inputs: Tensor, arguments: dict[str, Any], seed: int) -> int:
        """How many inputs the method will pass through the model, found by asking it without a model."""
        self.pretend = True
        try:
            self._attribute(rewrapped(method, self._forward, self._gradients), 0, inputs, arguments, seed)
            return sum(map(len, self.questions))
        finally:
            self.pretend = False
            self._forget(0)

    def _attribute(
        self, method: Attribution, token: int, inputs: Tensor, arguments: dict[str, Any], seed: int
    ) -> Tensor:
        if token == self.group[1]:
            self.group = (token, min(2 * token - self.group[0], self.n_tokens))
            self._forget(0)
        self.token, self.n_asked = token, 0
        with reproducible(seed, inputs.device):
            # gradient methods would warn of an input that requires no gradients, and set it themselves
            return method.attribute(inputs.detach().requires_grad_(), **arguments).detach()

    def _forward(self, inputs: Tensor) -> Tensor:
        """What stands as the method's forward function: one score an example."""
        return self._answer(inputs, self._scores)

    def _gradients(self, forward_fn: Any, inputs: Any, *_: Any, **__: Any) -> tuple[Tensor, ...]:
        """What stands in for Captum's ``compute_gradients``."""
        (tensor,) = inputs if isinstance(inputs, tuple) else (inputs,)
        return (self._answer(tensor, self._all_gradients).to(tensor),)

    def _answer(self, inputs: Tensor, answer: Callable[[Tensor], Tensor]) -> Tensor:
        question, index = _fingerprint(inputs), self.n_asked
        if index < len(self.questions) and not torch.equal(question, self.questions[index]):
            self._forget(index)
        if index == len(self.questions):
            self.questions.append(question)
            self.answers.append(answer(inputs))
            self._make_room()
        self.n_asked += 1
        return self.answers[index][self.token - self.group[0]]

    def _forget(self, index: int) -> None:
        """Drops the questions from one on, and their answers."""
        del self.questions[index:], self.answers[index:]

    def _make_room(self) -> None:
        """Answers for the first half of the tokens only, as often as memory wants it."""
        first, last = self.group
        size = sum(answer.numel() * answer.element_size() for answer in self.answers)
        while size > MEMORY and last - self.token > 1:
            last = self.token + (last - self.token + 1) // 2
            self.answers = [answer[: last - first].clone() for answer in self.answers]
            size = sum(answer.numel() * answer.element_size() for answer in self.answers)
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


def attribute_hooked(
    method: Attribution,
    model: Any,
    score: Callable[[Tensor], Tensor],
    inputs: Tensor,
    arguments: dict[str, Any],
    n_tokens: int,
) -> Tensor:
    """Attributions of all tokens, (K, …), by a method that hooks the model's modules.

    One row of the batch a token: a second backward through hooked modules would not find what they had kept.
    """
    rows = inputs.expand(n_tokens, *inputs.shape[1:]).clone()
    expanded = {name: value.expand_as(rows) if name == "baselines" else value for name, value in arguments.items()}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Setting (forward, )?(forward|backward) hooks")
        module = _ScoreModule(model, score)
        attributions = rewrapped(method, module).attribute(rows, target=list(range(n_tokens)), **expanded).detach()
    if "baselines" in arguments:
        with torch.no_grad():
            differences = score(inputs) - score(arguments["baselines"])
        check_completeness(method, attributions, differences[0])
    return attributions


class _ScoreModule(nn.Module):
    """The score as a module, for methods that hook those of the model."""

    def __init__(self, model: Any, score: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.model = model
        self.score = score

    def forward(self, inputs: Tensor) -> Tensor:
        return self.score(inputs)


def rewrapped(method: Attribution, forward_func: Any, gradient_func: Any = None) -> Any:
    """A copy of a method, and of the method inside it, for another forward function."""
    method = copy(method)
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
    """Captum's methods draw from the global generators: seeds them, and leaves them as they were."""
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
    """A number for each example, which no other example will have."""
    flat = inputs.detach().flatten(1).double()
    weights = torch.rand(flat.shape[1], dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return flat @ weights.to(flat.device)
