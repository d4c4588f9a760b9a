"""The positions of the previous tokens on which tokens depend (paper §8.3)."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from captum_spes.attr.batches import check_positive
from captum_spes.explanation import SpeechToTextExplanation
from captum_spes.metrics.plausibility.kurtosis import MIN_COUNT
from captum_spes.metrics.plausibility.statistics import MeanComparison, compare_means, mean_interval
from captum_spes.metrics.plausibility.words import Explanations, as_list, check_attributed, check_tokens, mean_of
from captum_spes.visualization import plot_distributions

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MIN_SHARE = 0.25  # paper, Table 10

Position = Literal["start", "intermediate", "last"]
POSITIONS: tuple[Position, ...] = ("start", "intermediate", "last")
NAMES = {"start": "start tokens", "intermediate": "intermediate tokens", "last": "last token"}


@dataclass(frozen=True)
class ExplainedToken:
    """A token that is often explained most by an intermediate token (a row of the paper's Table 10).

    Attributes:
        token: the text of the token.
        count: the number of its occurrences.
        share: the share of its occurrences with the largest value at an intermediate token, 0 to 1.
        by: these intermediate tokens with their counts, the most frequent first.

    Example::

        >>> from captum_spes.metrics import previous_token_saliency
        >>> [found] = previous_token_saliency(explanations, min_count=4).explained
        >>> found.token, found.share, found.by
        ('<|endoftext|>', 1.0, [(' So', 4)])
    """

    token: str
    count: int
    share: float
    by: list[tuple[str, int]]


@dataclass(frozen=True, eq=False)
class PreviousTokens:
    """The attributions of previous tokens by their position; see :func:`previous_token_saliency`.

    Attributes:
        values: for each position, ``"start"``, ``"intermediate"`` and ``"last"``, the normalised attributions of each
            utterance.
        explained: the tokens, among those that occur often enough, that are explained by an intermediate token in at
            least ``min_share`` of their occurrences; the largest share first.
        n_often: the number of tokens that occur often enough.
        min_count: the number of occurrences that is enough.
        min_share: the least share of a token in ``explained``.

    Example::

        >>> from captum_spes.metrics import previous_token_saliency
        >>> found = previous_token_saliency(explanations, min_count=4)
        >>> round(found.mean("last"), 2), round(found.mean("start"), 2)
        (0.49, 0.17)
        >>> low, high = found.interval("last")
        >>> low < found.mean("last") < high
        True
        >>> print(found.compare("last", "start"))
        +0.329 [+0.325, +0.332], Welch t-test, two-sided: t = 4.0, p = 0.0010
        >>> found.plot().savefig("previous_tokens.png")
    """

    values: dict[Position, list[np.ndarray]]
    explained: list[ExplainedToken]
    n_often: int
    min_count: int
    min_share: float

    def mean(self, position: Position) -> float:
        """The mean of all values at a position; NaN if there are none."""
        return mean_of(np.concatenate(self.values[position]))

    def interval(self, position: Position) -> tuple[float, float]:
        """Its 95 % interval over the utterances."""
        return mean_interval(self.values[position])

    def compare(self, position: Position, other: Position) -> MeanComparison:
        """Compares the means at two positions, two-sided, as in the paper.

        Raises:
            ValueError: there are no values at one of the positions.
        """
        return compare_means(self.values[position], self.values[other], "two-sided")

    def plot(self) -> Figure:
        """Draws the distributions of the values at each position (paper, Fig. 11)."""
        groups = {NAMES[position]: np.concatenate(self.values[position]) for position in POSITIONS}
        return plot_distributions(
            {name: values for name, values in groups.items() if len(values)}, "attribution, normalised to 0–1"
        )


def previous_token_saliency(
    explanations: Explanations, *, min_count: int = MIN_COUNT, min_share: float = MIN_SHARE
) -> PreviousTokens:
    """Groups the attributions of previous tokens by position: the start, the last token, or between (paper §8.3).

    Values are those of the maps that are normalised to [0, 1] together with the spectrogram's. The start tokens are
    those of the prompt (one in the paper's models, two or more in Whisper). The last token is the one just before the
    explained token. The first token of a text is left out, because its last token is a start token.

    Args:
        explanations: explanations of the tokens of one or several utterances.
        min_count: tokens that occur less often are left out of ``explained``. Default: the paper's 100.
        min_share: tokens are left out of ``explained`` if the share of their occurrences that are explained most by an
            intermediate token is smaller. Default: the paper's 0.25.

    Returns:
        PreviousTokens: the values by position, comparisons of their means, and ``explained``.

    Raises:
        ValueError: there is no explanation, or one is of words or a sentence, or has no attributions of previous
            tokens.

    Example::

        >>> import torch
        >>> from captum_spes import SpeechToTextExplanation
        >>> from captum_spes.metrics import previous_token_saliency
        >>> explanation = SpeechToTextExplanation(
        ...     text="What is it?", tokens=[" What", " is", " it", "?"],
        ...     previous_tokens=["<s>", " What", " is", " it"],
        ...     spectrogram=torch.rand(10, 4), spectrogram_attr=torch.rand(4, 10, 4),
        ...     token_attr=torch.tensor([[.1, 0, 0, 0], [.1, .5, 0, 0], [.1, .2, .9, 0], [.1, .9, .2, .3]]),
        ...     n_previous=torch.tensor([1, 2, 3, 4]),
        ...     frames_per_second=10, mel_frequencies=torch.linspace(100, 7000, 4))
        >>> previous_token_saliency(explanation, min_count=1).explained
        [ExplainedToken(token='?', count=1, share=1.0, by=[(' What', 1)])]
    """
    given = as_list(explanations)
    check_tokens(given)
    check_positive(min_count=min_count)
    if not 0 <= min_share <= 1:
        raise ValueError(f"min_share must be from 0 to 1, not {min_share}.")
    values: dict[Position, list[np.ndarray]] = {position: [] for position in POSITIONS}
    counts: Counter[str] = Counter()
    tops: dict[str, Counter[str]] = defaultdict(Counter)
    for explanation in given:
        check_attributed(explanation)
        counts.update(explanation.tokens)
        rows = list(_rows(explanation))
        for position in POSITIONS:
            found = [row[position] for _, row in rows]
            values[position].append(np.concatenate(found) if found else np.zeros(0))
        for number, row in rows:
            if (column := _top_intermediate(row)) is not None:
                tops[explanation.tokens[number]][explanation.previous_tokens[len(row["start"]) + column]] += 1
    often = [token for token, count in counts.items() if count >= min_count]
    explained = [
        ExplainedToken(token, counts[token], tops[token].total() / counts[token], tops[token].most_common())
        for token in often
        if tops[token].total() and tops[token].total() / counts[token] >= min_share
    ]
    explained.sort(key=lambda item: -item.share)
    return PreviousTokens(values, explained, len(often), min_count, min_share)


def _rows(explanation: SpeechToTextExplanation) -> Iterator[tuple[int, dict[Position, np.ndarray]]]:
    """The values of each token except the first, by position."""
    attr = explanation.normalize().token_attr.double().numpy()
    n_start = int(explanation.n_previous[0])
    for number in range(1, len(attr)):
        n = int(explanation.n_previous[number])
        yield (
            number,
            {
                "start": attr[number, :n_start],
                "intermediate": attr[number, n_start : n - 1],
                "last": attr[number, n - 1 : n],
            },
        )


def _top_intermediate(row: dict[Position, np.ndarray]) -> int | None:
    """The intermediate token with the largest value of all tokens, the latest of several; None if it is another."""
    middle = row["intermediate"]
    if not len(middle) or middle.max() <= max(row["start"].max(initial=-np.inf), row["last"].max()):
        return None
    return int(np.flatnonzero(middle == middle.max())[-1])
