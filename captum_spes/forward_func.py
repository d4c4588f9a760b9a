"""Forward functions, which score for each token how close a model's prediction is to the original one.

Each wraps a function of the inputs that returns log-probabilities, ``(B, K, V)`` or ``(B, V)``, and returns scores
``(B, K)`` or ``(B,)``. Larger scores mean that the prediction is closer to the original. Each can be the
``forward_func`` of any Captum method. :class:`.ContrastiveProbability` compares two words and gives one score for each
example, ``(B,)``.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

# logarithm of the smallest normal float32: smaller probabilities are replaced by it, so that every score is finite
LOG_FLOOR = math.log(torch.finfo(torch.float32).tiny)
# stands for log 0 in sums of logarithms, which need no floor at what float32 can hold: finite, and its exponential is 0
LOG_ZERO = -1e30


class _Score(ABC):
    """Scores predictions against a reference, which is stored or is the last argument of the call."""

    def __init__(self, log_prob_func: Callable[..., Tensor], reference: Tensor | None = None) -> None:
        self.log_prob_func = log_prob_func
        self.reference = reference

    @classmethod
    @abstractmethod
    def from_prediction(cls, log_prob_func: Callable[..., Tensor], log_probs: Tensor, token_ids: Tensor) -> _Score:
        """Makes the forward function for an original prediction, (1, K, V), and the tokens (K,) chosen from it."""

    def __call__(self, *inputs: Tensor) -> Tensor:
        if self.reference is None:
            if len(inputs) < 2 or not isinstance(inputs[-1], Tensor):
                raise ValueError(
                    f"{type(self).__name__} has no reference to compare the prediction with: give it as "
                    f"{type(self).__name__}(log_prob_func, reference=…), or to attribute() as additional_forward_args."
                )
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
        # Scoring examples one by one is several times faster: temporaries of one row, (K, V), stay in the cache.
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

    This is the paper's measure of a perturbation's impact (§4.2). It compares whole distributions and does not use the
    token that was chosen.

    The score is 0 at the reference itself, and so is its gradient. Gradient methods such as Saliency and Integrated
    Gradients need :class:`.TokenLogProbability` instead.

    Args:
        log_prob_func: returns log-probabilities of shape ``(B, K, V)`` or ``(B, V)`` for the inputs. They pass
            through a log-softmax in float32, so that logits can be returned as well.
        reference: log-probabilities (or logits) of the original prediction, with batch dimension 1. Without it the
            last argument of the call is the reference, expanded to the batch, as Captum passes
            ``additional_forward_args=reference``.

    Returns:
        Tensor: scores of shape ``(B, K)`` or ``(B,)``, float32, finite and never positive. 0 · log 0 counts as 0;
        probabilities below the smallest float32 are replaced by it.

    Raises:
        ValueError: the reference does not fit the batch or the shape of the predictions.

    Example::

        >>> import torch
        >>> from captum_spes import KLDivergence, SPES
        >>> model = torch.nn.Linear(8, 5)
        >>> inputs = torch.rand(1, 8)
        >>> score = KLDivergence(model, reference=model(inputs).detach())
        >>> score(inputs)
        tensor([0.], grad_fn=<StackBackward0>)
        >>> SPES(score).attribute(inputs, n_samples=500).shape
        torch.Size([1, 8])
    """

    @classmethod
    def from_prediction(
        cls, log_prob_func: Callable[..., Tensor], log_probs: Tensor, token_ids: Tensor
    ) -> KLDivergence:
        """Makes the forward function for the distributions ``log_probs``, (1, K, V)."""
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
        log_probs = log_probs.log_softmax(-1)
        if log_probs.requires_grad:
            divergence = probs * (log_probs.clamp(min=LOG_FLOOR) - log_reference)
        else:  # the same numbers, in place and a fifth faster
            divergence = log_probs.clamp_(min=LOG_FLOOR).sub_(log_reference).mul_(probs)
        return divergence.sum(-1).clamp(max=0)  # rounding may leave a sum just above 0


class CTCLogLikelihood:
    """Scores the log-probability of a text by a CTC model: the sum over all paths that collapse to it.

    See Graves et al. (2006). As ``score`` of :class:`~captum_spes.SpeechToTextAttribution` it explains the text as a
    whole instead of its tokens.

    Args:
        log_prob_func: returns log-probabilities (or logits) of all frames, ``(B, F, V)``, for the inputs.
        token_ids: token ids of the text, shape ``(K,)``.
        blank: id of the blank.

    Returns:
        Tensor: scores of shape ``(B,)``, float32 and finite.

    Raises:
        ValueError: the text has more tokens than fit into F frames, with a blank between two that are equal; or an id
            is not in the vocabulary, or is the blank.

    Example::

        >>> import torch
        >>> from captum_spes import CTCLogLikelihood
        >>> uniform = torch.zeros(1, 2, 4)
        >>> CTCLogLikelihood(lambda x: uniform, torch.tensor([3]), blank=0)(None).exp()  # 3 of 16 paths
        tensor([0.1875])
    """

    def __init__(self, log_prob_func: Callable[..., Tensor], token_ids: Tensor, blank: int) -> None:
        self.log_prob_func = log_prob_func
        self.token_ids = token_ids
        self.blank = blank

    @classmethod
    def from_prediction(
        cls, log_prob_func: Callable[..., Tensor], log_probs: Tensor, token_ids: Tensor, blank: int = 0
    ) -> CTCLogLikelihood:
        """Makes the forward function for the text ``token_ids``, (K,)."""
        return cls(log_prob_func, token_ids, blank)

    def __call__(self, *inputs: Tensor) -> Tensor:
        log_probs = self.log_prob_func(*inputs).float().log_softmax(-1).clamp(min=LOG_FLOOR)
        n_rows, n_frames, n_ids = log_probs.shape
        ids = torch.as_tensor(self.token_ids)
        if not 0 <= self.blank < n_ids or not ((ids >= 0) & (ids < n_ids) & (ids != self.blank)).all():
            raise ValueError(
                f"token ids {ids.tolist()} and blank {self.blank} do not fit a vocabulary of {n_ids}: expected ids "
                "below it, and none of the text that is the blank."
            )
        n_needed = len(self.token_ids) + int((self.token_ids[1:] == self.token_ids[:-1]).sum())
        if n_needed > n_frames:
            raise ValueError(
                f"the text needs {n_needed} frames, and the model has {n_frames}: give a shorter text, or longer audio."
            )
        loss = torch.nn.functional.ctc_loss(
            log_probs.transpose(0, 1),
            self.token_ids.expand(n_rows, -1),
            torch.full((n_rows,), n_frames),
            torch.full((n_rows,), len(self.token_ids)),
            blank=self.blank,
            reduction="none",
        )
        return -loss


class _TokenScore(_Score):
    """Base of the scores of chosen tokens. The reference is their ids."""

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
        log_prob_func: as for :class:`.KLDivergence`.
        reference: the tokens' ids, of shape ``(K,)`` or ``(1, K)`` (for predictions ``(B, V)``: ``()`` or ``(1,)``).
            Default: the last argument of the call, of shape ``(B, K)`` or ``(B,)``.

    Returns:
        Tensor: scores of shape ``(B, K)`` or ``(B,)``, float32, finite and never positive.

    Raises:
        ValueError: the ids do not fit the shape or the vocabulary of the predictions.

    Example::

        >>> import torch
        >>> from captum_spes import TokenLogProbability
        >>> logits = torch.log(torch.tensor([[[0.5, 0.25, 0.25]]]))
        >>> TokenLogProbability(lambda x: x, reference=torch.tensor([0]))(logits).exp()
        tensor([[0.5000]])
    """


class TokenProbability(_TokenScore):
    """Scores the probability of the chosen tokens; the impact is the probability difference.

    In place of :class:`.KLDivergence` this is the paper's ablation "- KL" (§7.2). Arguments, shapes and errors are
    those of :class:`.TokenLogProbability`; scores lie in [0, 1].

    Example::

        >>> import torch
        >>> from captum_spes import TokenProbability
        >>> logits = torch.log(torch.tensor([[[0.5, 0.25, 0.25]]]))
        >>> TokenProbability(lambda x: x, reference=torch.tensor([1]))(logits)
        tensor([[0.2500]])
    """

    def _score(self, log_probs: Tensor, reference: Tensor) -> Tensor:
        return super()._score(log_probs, reference).exp()


class TokenLogit(_TokenScore):
    r"""Scores the logit of the chosen tokens minus the mean logit over the vocabulary.

    :math:`z_k - \frac{1}{V} \sum_j z_j` is linear in the logits, and equal for logits and log-probabilities. It is
    the score for methods whose attributions add up to a difference of scores by linear rules. Captum's DeepLift has no
    rule for the log-softmax, so that its completeness can be checked with this score and not with
    :class:`.TokenLogProbability`. Shrikumar et al. (2017, §3.6) normalise contributions to the logits before a softmax
    in the same way.

    Arguments, shapes and errors are those of :class:`.TokenLogProbability`. Scores are not bounded and may be
    infinite: a model that suppresses tokens with logits of −∞ must return the logits from before that.

    Example::

        >>> import torch
        >>> from captum_spes import TokenLogit
        >>> logits = torch.tensor([[[4.0, 1.0, 1.0]]])
        >>> TokenLogit(lambda x: x, reference=torch.tensor([0]))(logits)
        tensor([[2.]])
        >>> TokenLogit(lambda x: x, reference=torch.tensor([0]))(logits.log_softmax(-1))
        tensor([[2.]])
    """

    def _score(self, log_probs: Tensor, reference: Tensor) -> Tensor:
        return log_probs.gather(-1, reference[..., None]).squeeze(-1) - log_probs.mean(-1)


class ContrastiveProbability:
    r"""Scores a target word against a foil, for explanations of why the model wrote this word and not another.

    The relative score :math:`p_t / (p_t + p_f)` and the difference :math:`p_t - p_f` are the two scores of Conti et al.
    (2025, "The Unheard Alternative: Contrastive Explanations for Speech-to-Text Models"). In the relative score,
    evidence that supports both words equally cancels out, and evidence that decides between them remains. A feature
    with a positive attribution speaks for the target, and one with a negative attribution for the foil. (In SPES's maps
    this holds relative to the map's mean, because Eq. 3 adds the mean impact of all perturbations to every feature.)

    A word's probability in its context is the product over its tokens. If a tokenizer marks the tokens that *begin*
    a word, this product is the probability of all words that begin with these tokens, since only the next token shows
    that the word has ended. With ``word_starts`` it is corrected according to Pimentel and Meister (2024, "How to
    Compute the Probability of a Word"):

    .. math::
        p(w \mid c) = \prod_i p(s_i \mid c, s_{<i}) \;
            \frac{P(\text{a word begins} \mid c, w)}{P(\text{a word begins} \mid c)}

    Words that begin without the mark, such as the first word of a text for GPT-2's tokenizer, are compared with the
    tokens without the mark: the denominator is then the probability that no word begins. The words may also be phrases.

    Args:
        log_prob_func: returns for the inputs a pair of log-probabilities (or logits) in the same context: the
            predictions of the target, ``(B, n + 1, V)``, and those of the foil, ``(B, m + 1, V)``. They are the
            distributions before each token of the word, and the one after its last. If both words have one token and
            ``word_starts`` is not given, one tensor ``(B, V)`` is enough.
        target_ids: ids of the target's tokens, ``(n,)``.
        foil_ids: ids of the foil's tokens, ``(m,)``.
        word_starts: bool, ``(V,)``: the tokens that begin a word or end the text. Conti et al. count punctuation among
            them, except the apostrophe. None: the plain product.
        difference: use the score :math:`p_t - p_f`, in [−1, 1], instead of the relative score.

    Returns:
        Tensor: scores of shape ``(B,)``, float32 and finite. Relative scores lie in [0, 1]; they are computed from
        logarithms, and therefore accurate for words of any probability. If target and foil are swapped, the relative
        score becomes one minus the score, and the difference changes its sign.

    Raises:
        ValueError: ids are empty, not integers, or the same for both words; ``word_starts`` is not a bool vector
            or marks the beginning of only one of them; or, at the call, predictions do not fit the ids, each other or
            ``word_starts``.

    Example::

        >>> import torch
        >>> from captum_spes import ContrastiveProbability
        >>> logits = torch.log(torch.tensor([[0.6, 0.2, 0.2]]))
        >>> ContrastiveProbability(lambda x: x, target_ids=torch.tensor([0]), foil_ids=torch.tensor([1]))(logits)
        tensor([0.7500])
    """

    def __init__(
        self,
        log_prob_func: Callable[..., Tensor | Sequence[Tensor]],
        target_ids: Tensor | Sequence[int],
        foil_ids: Tensor | Sequence[int],
        word_starts: Tensor | None = None,
        difference: bool = False,
    ) -> None:
        self.log_prob_func = log_prob_func
        self.target_ids = _word_ids(target_ids, "target")
        self.foil_ids = _word_ids(foil_ids, "foil")
        if torch.equal(self.target_ids, self.foil_ids):
            raise ValueError(
                f"target and foil are the same word, {self.target_ids.tolist()}: give two different words to contrast."
            )
        self.word_starts = None if word_starts is None else self._checked_starts(word_starts)
        self.difference = difference

    def _checked_starts(self, word_starts: Tensor) -> Tensor:
        if word_starts.dtype != torch.bool or word_starts.dim() != 1 or not word_starts.any():
            raise ValueError(
                f"word_starts is {word_starts.dtype} of shape {tuple(word_starts.shape)}, {int(word_starts.sum())} of "
                "them set: expected torch.bool of shape (V,), true for the ids that begin a word or end the text."
            )
        for ids in (self.target_ids, self.foil_ids):
            _check_range(ids, len(word_starts), "word_starts")
        first = self.target_ids[0], self.foil_ids[0]
        if word_starts[first[0]] != word_starts[first[1]]:
            raise ValueError(
                f"by word_starts only one of the first ids {int(first[0])} (target) and {int(first[1])} (foil) begins "
                "a word: give both words as they would follow their context, with or without the mark (often a "
                "space) that the tokenizer puts into a word's first token."
            )
        return word_starts.cpu()

    def __call__(self, *inputs: Tensor) -> Tensor:
        target, foil = self._pair(self.log_prob_func(*inputs))
        log_target = self._log_probability(target, self.target_ids)
        log_foil = self._log_probability(foil, self.foil_ids)
        if self.difference:
            return log_target.exp() - log_foil.exp()
        difference = log_target - log_foil
        # near 1 the sigmoid is rounded, and its gradient would be 0
        return torch.where(difference > 0, 1 - (-difference).sigmoid(), difference.sigmoid())

    def _pair(self, predictions: Tensor | Sequence[Tensor]) -> Sequence[Tensor]:
        """Checks the predictions of both words, (B, n + 1, V) and (B, m + 1, V)."""
        if isinstance(predictions, Tensor):
            if predictions.dim() != 2 or len(self.target_ids) + len(self.foil_ids) > 2 or self.word_starts is not None:
                raise ValueError(
                    f"log_prob_func returned one prediction of shape {tuple(predictions.shape)} for both words, which "
                    "is enough only for two words of one token each, with shape (B, V) and without word_starts: return "
                    "a pair, the target's predictions and the foil's, each with the distribution after the word."
                )
            both = predictions[:, None].expand(-1, 2, -1)  # the distribution after the word is not used
            predictions = (both, both)
        if len(predictions) != 2:
            raise ValueError(
                f"log_prob_func returned {len(predictions)} predictions: expected a pair, the target's and the foil's."
            )
        for name, word, ids in zip(("target", "foil"), predictions, (self.target_ids, self.foil_ids)):
            if word.dim() != 3 or word.shape[1] != len(ids) + 1:
                raise ValueError(
                    f"the {name}'s predictions have shape {tuple(word.shape)}: expected (B, {len(ids) + 1}, V), one "
                    f"distribution before each of its {len(ids)} tokens and one after the last."
                )
            _check_range(ids, word.shape[-1], f"the {name}'s predictions")
        target, foil = predictions
        if target.shape[0] != foil.shape[0] or target.shape[-1] != foil.shape[-1]:
            raise ValueError(
                f"the target's predictions have shape {tuple(target.shape)} and the foil's {tuple(foil.shape)}: "
                "they must agree in batch and vocabulary."
            )
        if self.word_starts is not None and len(self.word_starts) != target.shape[-1]:
            raise ValueError(
                f"word_starts has {len(self.word_starts)} entries for a vocabulary of {target.shape[-1]}: "
                "expected one for each id."
            )
        return predictions

    def _log_probability(self, predictions: Tensor, ids: Tensor) -> Tensor:
        """The logarithm of a word's probability, (B,): predictions (B, n + 1, V) and its ids (n,)."""
        n_read = len(ids) if self.word_starts is None else len(ids) + 1
        starts = None if self.word_starts is None else self.word_starts.to(predictions.device)
        marked = self.word_starts is not None and bool(self.word_starts[ids[0]])
        ids = ids.to(predictions.device)[:, None]
        scores = []
        for logits in predictions:  # one by one, as in _Score: temporaries of one row stay in the cache
            log_probs = logits[:n_read].float().log_softmax(-1).clamp(min=LOG_ZERO)
            score = log_probs[: len(ids)].gather(-1, ids).sum()
            if starts is not None:
                rivals = starts if marked else ~starts  # all tokens that could be the first
                score = score + _log_mass(log_probs[-1], starts) - _log_mass(log_probs[0], rivals)
            scores.append(score)
        return torch.stack(scores)


def _word_ids(ids: Tensor | Sequence[int], name: str) -> Tensor:
    ids = torch.as_tensor(ids)
    if ids.dim() != 1 or len(ids) == 0 or ids.is_floating_point() or ids.dtype == torch.bool:
        raise ValueError(
            f"{name}_ids is {ids.dtype} of shape {tuple(ids.shape)}: expected the integer ids of a word's tokens, (n,)."
        )
    return ids.long().cpu()


def _check_range(ids: Tensor, n_vocabulary: int, of: str) -> None:
    if not ((ids >= 0) & (ids < n_vocabulary)).all():
        raise ValueError(f"token ids {ids.tolist()} do not fit {of}: expected ids from 0 to {n_vocabulary - 1}.")


def _log_mass(log_probs: Tensor, tokens: Tensor) -> Tensor:
    """The logarithm of the probability that the next token is one of ``tokens``, (), from (V,) and bool (V,)."""
    return log_probs.masked_fill(~tokens, LOG_ZERO).logsumexp(-1)
