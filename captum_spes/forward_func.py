"""Forward functions: how close a model's prediction is to the original one, a score for each token.

Each wraps a function of the inputs that returns log-probabilities, ``(B, K, V)`` or ``(B, V)``, and returns scores
``(B, K)`` or ``(B,)`` that are larger the closer the prediction is to the original. Any of them can be the
``forward_func`` of any Captum method.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor

# log of the smallest normal float32: probabilities below it count as this one, so that every score is finite
LOG_FLOOR = math.log(torch.finfo(torch.float32).tiny)


class _Score(ABC):
    """Scores predictions against a reference, which is stored or the last of the call's arguments."""

    def __init__(self, log_prob_func: Callable[..., Tensor], reference: Tensor | None = None) -> None:
        self.log_prob_func = log_prob_func
        self.reference = reference

    @classmethod
    @abstractmethod
    def from_prediction(cls, log_prob_func: Callable[..., Tensor], log_probs: Tensor, token_ids: Tensor) -> _Score:
        """Scores closeness to an original prediction, (1, K, V), of which the tokens (K,) were chosen."""

    def __call__(self, *inputs: Tensor) -> Tensor:
        if self.reference is None:
            *inputs, reference = inputs  # type: ignore[assignment]
        else:
            reference = self.reference
        log_probs = self.log_prob_func(*inputs)
        reference = self._prepare(reference.to(log_probs.device), log_probs)
        if reference.shape[0] not in (1, log_probs.shape[0]):
            raise ValueError(
                f"the reference has {reference.shape[0]} rows for a batch of {log_probs.shape[0]}: store a reference "
                "with batch dimension 1, or pass it in additional_forward_args, where Captum expands it."
            )
        # Example by example: temporaries of one row, (K, V), stay in the cache and are several times faster.
        rows = reference.expand(log_probs.shape[0], *reference.shape[1:])
        return torch.stack([self._score(row.float(), ref) for row, ref in zip(log_probs, rows)])

    @abstractmethod
    def _prepare(self, reference: Tensor, log_probs: Tensor) -> Tensor:
        """The reference with a batch dimension, checked against the log-probabilities."""

    @abstractmethod
    def _score(self, log_probs: Tensor, reference: Tensor) -> Tensor:
        """Scores of one example: (K, V) or (V,) to (K,) or ()."""


class KLDivergence(_Score):
    r"""Scores :math:`-\mathrm{KL}(\text{reference} \,\|\, \text{prediction})`, so that the impact *is* the divergence.

    The paper's measure of a perturbation's impact (§4.2). It looks at the whole distribution: nothing else needs to
    be said of the token that was chosen.

    The score is 0 at the reference itself, and so is its gradient: gradient methods (Saliency, Integrated Gradients)
    want :class:`TokenLogProbability`.

    Args:
        log_prob_func: returns log-probabilities of shape ``(B, K, V)`` or ``(B, V)`` for the inputs. They pass
            through a log-softmax in float32, so that raw logits serve as well.
        reference: log-probabilities (or logits) of the original prediction, with batch dimension 1. Without it the
            last of the call's arguments is the reference, with the batch's dimension: what Captum makes of
            ``additional_forward_args=reference``.

    Returns:
        Tensor: scores of shape ``(B, K)`` or ``(B,)``, float32, finite and never positive. 0 · log 0 counts as 0;
        probabilities below the smallest float32 count as that.

    Raises:
        ValueError: the reference fits the predictions in neither batch nor shape.

    Example::

        >>> import torch
        >>> from captum_spes import KLDivergence, SPES
        >>> model = torch.nn.Linear(8, 5)
        >>> inputs = torch.rand(1, 8)
        >>> score = KLDivergence(model, reference=model(inputs).detach())
        >>> score(inputs)
        tensor([-0.], grad_fn=<StackBackward0>)
        >>> SPES(score).attribute(inputs, n_samples=500).shape
        torch.Size([1, 8])
    """

    @classmethod
    def from_prediction(
        cls, log_prob_func: Callable[..., Tensor], log_probs: Tensor, token_ids: Tensor
    ) -> KLDivergence:
        return cls(log_prob_func, log_probs)

    def _prepare(self, reference: Tensor, log_probs: Tensor) -> Tensor:
        if reference.shape[1:] != log_probs.shape[1:]:
            raise ValueError(
                f"the reference has shape {tuple(reference.shape)} and the predictions {tuple(log_probs.shape)}: "
                "they must agree in all but the batch."
            )
        log_reference = reference.float().log_softmax(-1).clamp(min=LOG_FLOOR)
        return torch.stack((log_reference, log_reference.exp()), dim=1)

    def _score(self, log_probs: Tensor, reference: Tensor) -> Tensor:
        log_reference, probs = reference
        divergence = probs * (log_reference - log_probs.log_softmax(-1).clamp(min=LOG_FLOOR))
        return -divergence.sum(-1).clamp(min=0)  # rounding may leave a sum just below 0


class _TokenScore(_Score):
    """Scores of chosen tokens. The reference is their ids."""

    @classmethod
    def from_prediction(cls, log_prob_func: Callable[..., Tensor], log_probs: Tensor, token_ids: Tensor) -> _TokenScore:
        return cls(log_prob_func, token_ids)

    def _prepare(self, reference: Tensor, log_probs: Tensor) -> Tensor:
        ids = reference.long()
        if ids.dim() < log_probs.dim() - 1:
            ids = ids[None]
        if ids.shape[1:] != log_probs.shape[1:-1] or not ((ids >= 0) & (ids < log_probs.shape[-1])).all():
            raise ValueError(
                f"token ids of shape {tuple(reference.shape)} do not fit predictions of shape "
                f"{tuple(log_probs.shape)}: expected one id below {log_probs.shape[-1]} for each prediction."
            )
        return ids

    def _score(self, log_probs: Tensor, reference: Tensor) -> Tensor:
        chosen = log_probs.gather(-1, reference[..., None]).squeeze(-1) - log_probs.logsumexp(-1)
        return chosen.clamp(min=LOG_FLOOR)


class TokenLogProbability(_TokenScore):
    """Scores the log-probability of the chosen tokens: the forward function for gradient methods.

    Args:
        log_prob_func: as for :class:`KLDivergence`.
        reference: the tokens' ids, of shape ``(K,)`` or ``(1, K)`` (for predictions ``(B, V)``: ``()`` or ``(1,)``).
            Without it the last of the call's arguments, of shape ``(B, K)`` or ``(B,)``.

    Returns:
        Tensor: scores of shape ``(B, K)`` or ``(B,)``, float32, finite and never positive.

    Raises:
        ValueError: the ids fit the predictions in neither shape nor range.

    Example::

        >>> import torch
        >>> from captum_spes import TokenLogProbability
        >>> logits = torch.log(torch.tensor([[[0.5, 0.25, 0.25]]]))
        >>> TokenLogProbability(lambda x: x, reference=torch.tensor([0]))(logits).exp()
        tensor([[0.5000]])
    """


class TokenProbability(_TokenScore):
    """Scores the probability of the chosen tokens; the impact is the probability difference.

    In place of :class:`KLDivergence` this is the paper's ablation "- KL" (§7.2). Arguments, shapes and errors are those
    of :class:`TokenLogProbability`; scores lie in [0, 1].

    Example::

        >>> import torch
        >>> from captum_spes import TokenProbability
        >>> logits = torch.log(torch.tensor([[[0.5, 0.25, 0.25]]]))
        >>> TokenProbability(lambda x: x, reference=torch.tensor([1]))(logits)
        tensor([[0.2500]])
    """

    def _score(self, log_probs: Tensor, reference: Tensor) -> Tensor:
        return super()._score(log_probs, reference).exp()
