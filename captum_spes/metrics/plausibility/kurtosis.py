"""The kurtosis of the maps of different tokens (paper §8.2)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from scipy import stats

from captum_spes.attr.batches import check_positive
from captum_spes.metrics.plausibility.statistics import MeanComparison, compare_means, mean_interval
from captum_spes.metrics.plausibility.words import Explanations, as_list, check_tokens, mean_of
from captum_spes.visualization import plot_token_bars
from captum_spes.words import is_mark, is_word, word_spans

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MIN_COUNT = 100  # paper §8.2

Kind = Literal["words", "punctuation", "marks"]


def kinds_of(tokens: Sequence[str]) -> list[Kind]:
    """The kind of each token; one without visible text, such as the first bytes of a character, has its word's."""
    kinds: list[Kind] = []
    for start, stop in word_spans(tokens):
        word = "".join(tokens[start:stop])
        kinds += [_kind_of(token if token.strip() else word) for token in tokens[start:stop]]
    return kinds


def _kind_of(text: str) -> Kind:
    return "marks" if is_mark(text) else "words" if is_word(text) else "punctuation"


@dataclass(frozen=True, eq=False)
class TokenKurtosis:
    """The kurtosis of the maps of each token that occurs often enough; see :func:`token_kurtosis`.

    Attributes:
        means: the mean kurtosis of the tokens that occur often enough, by their text, the largest first.
        counts: the number of occurrences of each of these tokens.
        values: for each kind, ``"words"``, ``"punctuation"`` and ``"marks"``, the kurtosis of every occurrence of any
            token, for each utterance.
        min_count: the number of occurrences that is enough.
        n_flat: number of constant maps, which have no kurtosis and are left out.

    Example::

        >>> from captum_spes.metrics import token_kurtosis
        >>> found = token_kurtosis(explanations, min_count=4)
        >>> found.top(2), found.bottom(1)
        ([' no', ' So'], ['<|endoftext|>'])
        >>> print(found.test)
        +20.298 [+20.134, +20.465], Welch t-test, one-sided: t = 11.7, p < 0.0001
        >>> low, high = found.interval("words")
        >>> low < found.mean("words") < high
        True
        >>> found.plot(n=2).savefig("kurtosis.png")
    """

    means: dict[str, float]
    counts: dict[str, int]
    values: dict[Kind, list[np.ndarray]]
    min_count: int
    n_flat: int

    def top(self, n: int = 5) -> list[str]:
        """The tokens with the largest kurtosis, the largest first."""
        return list(self.means)[:n]

    def bottom(self, n: int = 5) -> list[str]:
        """The tokens with the smallest kurtosis, the smallest last."""
        return list(self.means)[max(0, len(self.means) - n) :]

    @property
    def test(self) -> MeanComparison:
        """Tests whether words have a larger kurtosis than punctuation and marks, over all tokens, one-sided."""
        others = [np.concatenate(both) for both in zip(self.values["punctuation"], self.values["marks"])]
        return compare_means(self.values["words"], others)

    def mean(self, kind: Kind) -> float:
        """The mean of all occurrences of a kind; NaN if there are none."""
        return mean_of(np.concatenate(self.values[kind]))

    def interval(self, kind: Kind) -> tuple[float, float]:
        """Its 95 % interval over the utterances."""
        return mean_interval(self.values[kind])

    def plot(self, n: int = 5) -> Figure:
        """Draws the tokens with the largest and the smallest kurtosis (paper, Fig. 10).

        Raises:
            ValueError: no token occurs often enough.
        """
        if not self.means:
            raise ValueError(f"no token occurs {self.min_count} times: give a smaller min_count.")
        n = min(n, (len(self.means) + 1) // 2)  # no token is in both groups
        shown = list(dict.fromkeys([*self.top(n), *self.bottom(n)]))
        return plot_token_bars(
            shown,
            [self.means[token] for token in shown],
            counts=[self.counts[token] for token in shown],
            x_label=f"kurtosis of the spectrogram map, mean of the occurrences (at least {self.min_count})",
            n_top=n,
        )


def token_kurtosis(explanations: Explanations, *, min_count: int = MIN_COUNT) -> TokenKurtosis:
    """Measures how peaked the spectrogram maps of each token are (paper §8.2).

    It is the excess kurtosis of the values of a map, 0 for a normal distribution, averaged over the occurrences of a
    token. It does not depend on the scale of the map. Tokens that depend little on the sound should have a small one.

    Args:
        explanations: explanations of the tokens of one or several utterances.
        min_count: tokens that occur less often have no entry of their own. Default: the paper's 100.

    Returns:
        TokenKurtosis: with ``means`` by token, ``top()``, ``bottom()``, and a test of words against the other tokens.

    Raises:
        ValueError: there is no explanation, or one is of words or a sentence.

    Example::

        >>> import torch
        >>> from captum_spes import SpeechToTextExplanation
        >>> from captum_spes.metrics import token_kurtosis
        >>> attr = torch.rand(2, 10, 4)
        >>> attr[0, 2, 3] = 9
        >>> explanation = SpeechToTextExplanation(
        ...     text="So.", tokens=[" So", "."], previous_tokens=["<s>", " So"],
        ...     spectrogram=torch.rand(10, 4), spectrogram_attr=attr,
        ...     token_attr=torch.tensor([[0.3, 0.0], [0.1, 0.5]]), n_previous=torch.tensor([1, 2]),
        ...     frames_per_second=10, mel_frequencies=torch.linspace(100, 7000, 4))
        >>> token_kurtosis(explanation, min_count=1).top(1)
        [' So']
    """
    given = as_list(explanations)
    check_tokens(given)
    check_positive(min_count=min_count)
    by_token: dict[str, list[float]] = defaultdict(list)
    by_kind: dict[Kind, list[list[float]]] = {kind: [] for kind in ("words", "punctuation", "marks")}
    n_flat = 0
    for explanation in given:
        for groups in by_kind.values():
            groups.append([])
        maps = explanation.spectrogram_attr.flatten(1).double().numpy()
        for token, kind, attr in zip(explanation.tokens, kinds_of(explanation.tokens), maps):
            if np.ptp(attr) <= 1e-12 * np.abs(attr).max():
                n_flat += 1
                continue
            value = float(stats.kurtosis(attr))
            by_token[token].append(value)
            by_kind[kind][-1].append(value)
    often = {token: float(np.mean(values)) for token, values in by_token.items() if len(values) >= min_count}
    ranked = sorted(often, key=lambda token: -often[token])
    return TokenKurtosis(
        {token: often[token] for token in ranked},
        {token: len(by_token[token]) for token in ranked},
        {kind: [np.array(values) for values in groups] for kind, groups in by_kind.items()},
        min_count,
        n_flat,
    )
