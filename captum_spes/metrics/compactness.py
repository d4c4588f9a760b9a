"""Compactness: the share of the input that a map marks as important, over all thresholds."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from torch import Tensor

from captum_spes.explanation import SpeechToTextExplanation
from captum_spes.metrics.checks import Explanations, as_lists
from captum_spes.metrics.curve import as_tensor, auc, format_steps

THRESHOLDS = tuple(i / 20 for i in range(21))


@dataclass(frozen=True, eq=False)
class SizeCurve:
    """The percentage of features of U explanations with values at or above S thresholds; see :func:`size`.

    Attributes:
        steps: the thresholds, S numbers.
        utterance_scores: the percentage of each explanation, (U, S).

    Example::

        >>> import torch
        >>> from captum_spes.metrics import SizeCurve
        >>> curve = SizeCurve((0, 0.5, 1), torch.tensor([[100.0, 20, 0], [100, 40, 0]]))
        >>> curve.scores
        tensor([100.,  30.,   0.])
        >>> curve.auc
        40.0
    """

    steps: tuple[float, ...]
    utterance_scores: Tensor

    @property
    def scores(self) -> Tensor:
        """The mean percentage of the explanations, (S,)."""
        return self.utterance_scores.mean(0)

    @property
    def auc(self) -> float:
        """The area under :attr:`scores`, from 0 to 100."""
        return float(auc(self.steps, self.scores))


def size(
    explanations: Explanations,
    *,
    inputs: Literal["spectrogram", "tokens"] = "spectrogram",
    thresholds: Iterable[float] = THRESHOLDS,
) -> SizeCurve:
    """The percentage of features with values at or above thresholds; smaller is better (paper §5).

    The maps of the tokens are normalised to [0, 1] as in §4.3, for every method, and all bins (or previous tokens) of
    all maps are counted together. A previous token is a feature of the tokens after it only. Size does not measure
    whether a map is faithful: a map with one peak in a random place is the most compact of all.

    Args:
        explanations: explanations of the tokens of one or several utterances.
        inputs: whose map: ``"spectrogram"`` or ``"tokens"``, the previous tokens.
        thresholds: ascending numbers from 0 to 1.

    Returns:
        SizeCurve: with ``steps``, ``scores`` and ``auc``. Several explanations have equal weights.

    Raises:
        ValueError: a map holds NaN, the thresholds are not as above, or there is no explanation.

    Example::

        >>> import torch
        >>> from captum_spes import SpeechToTextExplanation
        >>> from captum_spes.metrics import size
        >>> explanation = SpeechToTextExplanation(
        ...     text="So what", tokens=[" So", " what"], previous_tokens=["<s>", " So"],
        ...     spectrogram=torch.rand(10, 4), spectrogram_attr=torch.rand(2, 10, 4) ** 4,
        ...     token_attr=torch.tensor([[0.3, 0.0], [0.1, 0.5]]), n_previous=torch.tensor([1, 2]),
        ...     frames_per_second=100, mel_frequencies=torch.linspace(100, 7000, 4))
        >>> 5 < size(explanation).auc < 50
        True
        >>> size(explanation, inputs="tokens").scores[0]
        tensor(100.)
    """
    if inputs not in ("spectrogram", "tokens"):
        raise ValueError(f"inputs must be 'spectrogram' or 'tokens', not {inputs!r}.")
    steps = format_steps("thresholds", thresholds, 0, 1)
    values = [_values(explanation.normalize(), inputs) for explanation in as_lists(explanations)[0]]
    return SizeCurve(steps, as_tensor(np.array([[100 * (value >= step).mean() for step in steps] for value in values])))


def _values(explanation: SpeechToTextExplanation, inputs: str) -> np.ndarray:
    if inputs == "tokens" and not explanation.previous_tokens:
        raise ValueError("the model writes all tokens at once, so that there are no previous tokens to measure.")
    values = (
        explanation.spectrogram_attr if inputs == "spectrogram" else explanation.token_attr[explanation.is_previous]
    )
    array = values.double().numpy()
    if not np.isfinite(array).all():
        raise ValueError("a map holds NaN or infinite values, so that its size is undefined.")
    return array
