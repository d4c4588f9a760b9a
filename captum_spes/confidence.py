"""The confidence of a model in its text: probabilities, entropies and alternatives."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeGuard

import torch
from torch import Tensor

# a word is doubtful if all alternatives together are more probable
DOUBTFUL = 0.5
N_ALTERNATIVES = 5
# limits of the verdicts: shares of a word's probability that are lost without its own sound
HEARD = 0.8
GUESSED = 0.5

Verdict = Literal["heard", "guessed", "unsure"]


@dataclass(frozen=True)
class Confidence:
    """The model's own distribution for each of K rows: tokens, words, or the sentence.

    It is the distribution for the unperturbed input, before generation suppresses or rescales tokens. Speech models
    are often more confident than accurate: the probability says how the model chose, not how often it is wrong.

    Attributes:
        probabilities: the probability of each row, from 0 to 1; for a word the product over its tokens.
        least: the smallest probability of the row's tokens, (K,).
        entropy: the entropy of each row in bits, which is 0 if nothing else could have been written; for a word the
            sum over its tokens.
        alternatives: for each row the most probable other tokens and their probabilities, the largest first. Those of a
            word replace its least probable token, with the word's text before it.
        unheard: for each row the probability that remains when the sound of its word is hidden; None if the times of
            the words are not known.

    Raises:
        ValueError: lists have different lengths, or values are not probabilities, entropies or texts.

    Example::

        >>> from captum_spes.confidence import Confidence
        >>> confidence = Confidence(
        ...     probabilities=[0.9, 0.4, 0.5], least=[0.9, 0.4, 0.5], entropy=[0.5, 1.5, 1.0],
        ...     alternatives=[[(" So", 0.1)], [(" ill", 0.3)], [("er", 0.2), (" man", 0.1)]])
        >>> words = confidence.grouped([(0, 1), (1, 3)], [" an", " old", "est"])
        >>> words.probabilities, words.entropy, words.alternatives[1]
        ([0.9, 0.2], [0.5, 2.5], [('ill', 0.3)])
        >>> words.doubtful
        [False, True]
        >>> heard = Confidence([0.9], [0.9], [0.5], [[(" So", 0.1)]], unheard=[0.09])
        >>> heard.heard, heard.verdicts
        ([0.9], ['heard'])
    """

    probabilities: list[float]
    least: list[float]
    entropy: list[float]
    alternatives: list[list[tuple[str, float]]]
    unheard: list[float] | None = None

    def __post_init__(self) -> None:
        unheard = self.probabilities if self.unheard is None else self.unheard
        columns = (self.probabilities, self.least, self.entropy, self.alternatives, unheard)
        if not all(isinstance(column, list) and len(column) == len(self.probabilities) for column in columns):
            raise ValueError("the confidence must have a probability, an entropy and alternatives for each row.")
        others = [pair for row in self.alternatives for pair in (row if isinstance(row, list) else [None])]
        if not all(isinstance(pair, tuple) and len(pair) == 2 and isinstance(pair[0], str) for pair in others):
            raise ValueError("alternatives must be pairs of a text and its probability.")
        shares = [*self.probabilities, *self.least, *unheard, *(pair[1] for pair in others)]
        if not all(is_number(share) and 0 <= share <= 1 for share in shares):
            raise ValueError("probabilities must be numbers from 0 to 1.")
        if not all(is_number(value) and 0 <= value < math.inf for value in self.entropy):
            raise ValueError("entropies must be numbers of bits, at least 0.")

    def __len__(self) -> int:
        return len(self.probabilities)

    @property
    def doubtful(self) -> list[bool]:
        """For each row, whether its probability is below one half."""
        return [probability < DOUBTFUL for probability in self.probabilities]

    @property
    def heard(self) -> list[float] | None:
        """The share of each row's probability that is lost when the sound of its word is hidden, from 0 to 1.

        Near 1 the word was heard. Near 0 the model would also have written it without its sound: it was guessed
        from the words before, or from the sound of other words.
        """
        if self.unheard is None:
            return None
        pairs = zip(self.probabilities, self.unheard)
        return [1 - min(left / probability, 1) if probability else 0.0 for probability, left in pairs]

    @property
    def verdicts(self) -> list[Verdict] | None:
        """The verdict for each share, ``"heard"`` from 0.8 on, ``"guessed"`` below 0.5, and ``"unsure"`` between."""
        shares = self.heard
        if shares is None:
            return None
        return ["heard" if share >= HEARD else "guessed" if share < GUESSED else "unsure" for share in shares]

    def grouped(self, spans: Sequence[tuple[int, int]], tokens: Sequence[str]) -> Confidence:
        """The confidence of words: products of probabilities, sums of entropies, alternatives of the weakest token.

        Args:
            spans: for each word its first token, and the one after its last.
            tokens: the texts of the tokens.
        """
        weakest = [min(range(start, stop), key=self.least.__getitem__) for start, stop in spans]
        return Confidence(
            [math.prod(self.probabilities[start:stop]) for start, stop in spans],
            [self.least[token] for token in weakest],
            [math.fsum(self.entropy[start:stop]) for start, stop in spans],
            [
                [("".join([*tokens[start:token], text]).strip(), share) for text, share in self.alternatives[token]]
                for (start, _), token in zip(spans, weakest)
            ],
            None if self.unheard is None else [math.prod(self.unheard[start:stop]) for start, stop in spans],
        )

    def to_content(self) -> dict[str, Any]:
        """Returns plain lists, which :meth:`from_content` reads back.

        Example::

            >>> from captum_spes.confidence import Confidence
            >>> confidence = Confidence([0.9], [0.9], [0.5], [[(" So", 0.1)]])
            >>> Confidence.from_content(confidence.to_content()) == confidence
            True
        """
        return asdict(self)

    @classmethod
    def from_content(cls, content: Any) -> Confidence:
        """Reads the content of a file; raises a ValueError if it has another form."""
        names = ("probabilities", "least", "entropy", "alternatives", "unheard")
        if not isinstance(content, dict) or content.keys() != set(names):
            raise ValueError(f"the confidence must have {', '.join(names)}.")
        alternatives = content["alternatives"]
        if not isinstance(alternatives, list) or not all(isinstance(row, list) for row in alternatives):
            raise ValueError("alternatives must be lists, one for each row.")
        pairs = [[tuple(pair) if isinstance(pair, list) else pair for pair in row] for row in alternatives]
        return cls(**{**content, "alternatives": pairs})


def token_confidence(
    log_probs: Tensor, token_ids: Tensor, token_texts: Callable[[Tensor], list[str]], path: Tensor | None = None
) -> Confidence:
    """The confidence of tokens, from the predictions of which they were chosen.

    Args:
        log_probs: log-probabilities or logits, (K, V); with a path (F, V).
        token_ids: the ids of the tokens that were written, (K,).
        token_texts: a function that returns the texts of ids.
        path: for each of the F rows the number of its token, (F,), for models that write one token over several
            frames (CTC). The distribution of a token is then the mean over its frames.

    Example::

        >>> import torch
        >>> from captum_spes.confidence import token_confidence
        >>> prediction = torch.tensor([[0.5, 0.25, 0.25], [0.0, 1.0, 0.0]]).log()
        >>> found = token_confidence(prediction, torch.tensor([0, 1]), lambda ids: ["abc"[i] for i in ids.tolist()])
        >>> [round(value, 3) for value in found.probabilities], [round(value, 3) for value in found.entropy]
        ([0.5, 1.0], [1.5, 0.0])
        >>> [[text for text, _ in row] for row in found.alternatives]
        [['b', 'c'], []]
    """
    token_ids = token_ids.cpu()
    probabilities = _distributions(log_probs, len(token_ids), path)
    written = probabilities.gather(1, token_ids[:, None])[:, 0].clamp(0, 1)
    entropy = (torch.special.entr(probabilities).sum(1) / math.log(2)).clamp(min=0)
    others = probabilities.scatter(1, token_ids[:, None], 0).topk(min(N_ALTERNATIVES, probabilities.shape[1] - 1))
    texts = {token: token_texts(torch.tensor([token]))[0] for token in others.indices.unique().tolist()}
    alternatives = [
        # tokens that are the first bytes of a character have no text
        [(texts[token] or "\N{REPLACEMENT CHARACTER}", share) for token, share in zip(ids, shares) if share > 0]
        for ids, shares in zip(others.indices.tolist(), others.values.tolist())
    ]
    return Confidence(written.tolist(), written.tolist(), entropy.tolist(), alternatives)


def token_probabilities(log_probs: Tensor, token_ids: Tensor, path: Tensor | None = None) -> Tensor:
    """The probabilities of tokens alone, float64 (K,); the arguments are those of :func:`token_confidence`.

    Example::

        >>> import torch
        >>> from captum_spes.confidence import token_probabilities
        >>> round(float(token_probabilities(torch.tensor([[0.5, 0.25, 0.25]]).log(), torch.tensor([0]))), 3)
        0.5
    """
    probabilities = _distributions(log_probs, len(token_ids), path)
    return probabilities.gather(1, token_ids.cpu()[:, None])[:, 0].clamp(0, 1)


def _distributions(log_probs: Tensor, n_tokens: int, path: Tensor | None) -> Tensor:
    """The distribution of each token, float64 (K, V) on the CPU; with a path the mean over the token's frames."""
    probabilities = log_probs.detach().cpu().double().softmax(-1)
    if path is None:
        return probabilities
    rows = torch.zeros(n_tokens, probabilities.shape[1], dtype=torch.float64)
    counts = torch.bincount(path.cpu(), minlength=n_tokens).clamp(min=1)
    return rows.index_add(0, path.cpu(), probabilities) / counts[:, None]


def is_number(value: object) -> TypeGuard[float]:
    """Whether a value of a file is a number."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)
