"""Compares how much each token depends on the spectrogram and on the previous tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from captum_spes.explanation import SpeechToTextExplanation
from captum_spes.metrics.plausibility.kurtosis import Kind, kinds_of
from captum_spes.metrics.plausibility.statistics import MeanComparison, compare_means, mean_interval
from captum_spes.metrics.plausibility.words import Explanations, as_list, check_attributed, check_tokens, mean_of
from captum_spes.visualization import plot_shares

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Measure = Literal["impact", "paired"]


@dataclass(frozen=True, eq=False)
class ContextShare:
    """The share of each token's importance that lies in the previous tokens; see :func:`context_share`.

    Attributes:
        tokens: the K tokens of each utterance.
        shares: for each utterance the shares of its tokens, (K,), from 0, only the spectrogram matters, to 1, only the
            previous tokens matter.
        measure: the measure of importance.

    Example::

        >>> from captum_spes.metrics import context_share
        >>> found = context_share(explanations)
        >>> found.guessed(threshold=0.8)
        [' So', '.', '<|endoftext|>']
        >>> round(found.mean("words"), 2), round(found.mean("marks"), 2)
        (0.74, 0.88)
        >>> low, high = found.interval("words")
        >>> low < found.mean("words") < high, len(found.of("words"))
        (True, 4)
        >>> print(found.test)
        +0.150 [+0.142, +0.156], Welch t-test, one-sided: t = 4.1, p = 0.0021
        >>> found.plot().savefig("heard_or_guessed.png")
    """

    tokens: list[list[str]]
    shares: list[np.ndarray]
    measure: Measure

    def guessed(self, threshold: float = 0.5, utterance: int = 0) -> list[str]:
        """The tokens of an utterance whose share is above a threshold."""
        pairs = zip(self.tokens[utterance], self.shares[utterance])
        return [token for token, share in pairs if share > threshold]

    def of(self, kind: Kind) -> list[np.ndarray]:
        """The shares of ``"words"``, ``"punctuation"`` or ``"marks"`` (special tokens), for each utterance."""
        return [shares[np.array(kinds_of(tokens)) == kind] for tokens, shares in zip(self.tokens, self.shares)]

    def mean(self, kind: Kind) -> float:
        """The mean share of all tokens of a kind; NaN if there are none."""
        return mean_of(np.concatenate(self.of(kind)))

    def interval(self, kind: Kind) -> tuple[float, float]:
        """Its 95 % interval over the utterances."""
        return mean_interval(self.of(kind))

    @property
    def test(self) -> MeanComparison:
        """Tests whether punctuation and special tokens depend more on the previous tokens than words do, one-sided.

        Raises:
            ValueError: there are no words, or only words.
        """
        others = [np.concatenate(both) for both in zip(self.of("punctuation"), self.of("marks"))]
        return compare_means(others, self.of("words"))

    def plot(self, utterance: int = 0) -> Figure:
        """Draws the shares of the spectrogram and of the previous tokens for each token of an utterance."""
        return plot_shares(self.tokens[utterance], self.shares[utterance])


def context_share(explanations: Explanations, *, measure: Measure = "impact") -> ContextShare:
    """The share of each token's importance that lies in the previous tokens rather than in the spectrogram.

    If the share is small, the model predicted the token from the sound; if it is large, from the text before. The share
    is the importance of the previous tokens divided by that of both inputs. There are two measures of importance:

    - ``"impact"`` is for SPES and other methods whose values are mean impacts of hiding, which have the same unit for
      both inputs. It compares the mean value of the previous tokens with the mean value of the bins, in the maps as
      the method returned them: how much does the prediction change when a part of the text is hidden, and how much when
      a part of the sound is hidden?
    - ``"paired"`` is for any method. It compares the largest value of the previous tokens with the largest value of the
      bins, in the maps that are normalised together. One of the two is 1, mostly that of the spectrogram, so that
      shares above a half are rare: compare tokens with each other.

    Args:
        explanations: explanations of the tokens of one or several utterances, for ``"impact"`` not normalised.
        measure: ``"impact"`` or ``"paired"``.

    Returns:
        ContextShare: with ``shares``, ``guessed()`` and ``plot()``.

    Raises:
        ValueError: there is no explanation, or one is of words or a sentence, or has no attributions of the previous
            tokens; or the measure is ``"impact"`` and maps are normalised or have negative values.

    Example::

        >>> import torch
        >>> from captum_spes import SpeechToTextExplanation
        >>> from captum_spes.metrics import context_share
        >>> explanation = SpeechToTextExplanation(
        ...     text="So.", tokens=[" So", "."], previous_tokens=["<s>", " So"],
        ...     spectrogram=torch.rand(10, 4),
        ...     spectrogram_attr=torch.tensor([3.0, 0.1])[:, None, None].repeat(1, 10, 4),
        ...     token_attr=torch.tensor([[1.0, 0.0], [0.7, 1.1]]), n_previous=torch.tensor([1, 2]),
        ...     frames_per_second=10, mel_frequencies=torch.linspace(100, 7000, 4))
        >>> context_share(explanation).shares[0].round(2).tolist()
        [0.25, 0.9]
    """
    given = as_list(explanations)
    check_tokens(given)
    if measure not in get_args(Measure):
        raise ValueError(f"measure must be one of {', '.join(get_args(Measure))}, not {measure!r}.")
    for explanation in given:
        check_attributed(explanation)
    values = [_means(explanation) if measure == "impact" else _largest(explanation) for explanation in given]
    return ContextShare(
        [list(explanation.tokens) for explanation in given], [_share(*pair) for pair in values], measure
    )


def _share(spectrogram: np.ndarray, text: np.ndarray) -> np.ndarray:
    total = spectrogram + text
    return np.where(total > 0, text / np.where(total > 0, total, 1), 0.5)


def _means(explanation: SpeechToTextExplanation) -> tuple[np.ndarray, np.ndarray]:
    if explanation.normalized or explanation.spectrogram_attr.min() < 0 or explanation.token_attr.min() < 0:
        raise ValueError(
            "the measure 'impact' is for maps of mean impacts such as those of SPES, but these maps are normalised or "
            "have negative values: use measure='paired'."
        )
    mask = explanation.is_previous
    text = (explanation.token_attr.double() * mask).sum(1) / mask.sum(1).clamp(min=1)
    return explanation.spectrogram_attr.double().mean((1, 2)).numpy(), text.numpy()


def _largest(explanation: SpeechToTextExplanation) -> tuple[np.ndarray, np.ndarray]:
    paired = explanation.normalize()
    return paired.spectrogram_attr.double().amax((1, 2)).numpy(), paired.token_attr.double().amax(1).numpy()
