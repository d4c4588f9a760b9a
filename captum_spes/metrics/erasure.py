"""Comprehensiveness and sufficiency: the tokens' log-probability without their top features, or with these alone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from captum._utils.progress import NullProgress, progress
from torch import Tensor

from captum_spes.attr.batches import check_positive
from captum_spes.explanation import SpeechToTextExplanation
from captum_spes.forward_func import TokenLogProbability
from captum_spes.maps import descending, top_bins
from captum_spes.metrics._restore import restore_for_scores
from captum_spes.metrics.baselines import Baseline, check_baseline, make_hider
from captum_spes.metrics.checks import Explanations, Maps, as_lists, format_maps
from captum_spes.metrics.curve import as_tensor, auc, format_steps
from captum_spes.models.protocol import SpeechToTextModel
from captum_spes.speech_to_text.targets import TokenPrediction
from captum_spes.words import word_spans

# of DeYoung et al. (2020), §4.1
RATIONALE_PERCENTAGES = (1, 5, 10, 20, 50)

Inputs = Literal["spectrogram", "tokens"]


@dataclass(frozen=True, eq=False)
class ErasureCurve:
    """The fall of log-probabilities at S steps; see :func:`comprehensiveness` and :func:`sufficiency`.

    Attributes:
        steps: the percentages of the features that were hidden, or kept, S numbers.
        falls: the fall for each row (token, word or sentence) of U explanations, in nats per token: U tensors (K, S).

    Example::

        >>> import torch
        >>> from captum_spes.metrics import ErasureCurve
        >>> curve = ErasureCurve((0, 10, 50), [torch.tensor([[0.0, 2.0, 4.0], [0.0, 4.0, 4.0]])])
        >>> curve.scores, curve.utterance_scores.shape
        (tensor([0., 3., 4.]), torch.Size([1, 3]))
        >>> curve.row_aucs
        [tensor([2.6000, 3.6000])]
        >>> round(curve.auc, 2), round(curve.aopc, 2)
        (3.1, 2.33)
    """

    steps: tuple[float, ...]
    falls: list[Tensor]

    @property
    def utterance_scores(self) -> Tensor:
        """The mean fall over the rows of each explanation, (U, S)."""
        return torch.stack([falls.mean(0) for falls in self.falls])

    @property
    def scores(self) -> Tensor:
        """The mean over the explanations, with equal weights, (S,)."""
        return self.utterance_scores.mean(0)

    @property
    def row_aucs(self) -> list[Tensor]:
        """The area of each row of each explanation, U tensors (K,)."""
        return [as_tensor(auc(self.steps, falls)) for falls in self.falls]

    @property
    def auc(self) -> float:
        """The area under :attr:`scores`, divided by the range of the steps, in nats per token."""
        return float(auc(self.steps, self.scores))

    @property
    def aopc(self) -> float:
        """The mean of :attr:`scores` over the steps, DeYoung et al.'s area over the perturbation curve."""
        return float(self.scores.mean())


def comprehensiveness(
    model: SpeechToTextModel,
    explanations: Explanations,
    *,
    inputs: Inputs = "spectrogram",
    percentages: Iterable[float] = RATIONALE_PERCENTAGES,
    maps: Maps | None = None,
    baselines: Baseline = "mean",
    perturbations_per_eval: int = 16,
    seed: int = 0,
    show_progress: bool = False,
) -> ErasureCurve:
    r"""How far the log-probability of a token falls without the most important features of its own map.

    This is the metric of DeYoung et al. (2020, "ERASER: A Benchmark to Evaluate Rationalized NLP Models", §4.1) for
    speech. For each row of an explanation, a token, a word or the sentence, the features with the largest values of
    *its* map are hidden, and the fall of its teacher-forced log-probability is measured,

    .. math:: \log p(y_k \mid x) - \log p(y_k \mid x \setminus \text{top } q\,\%),

    for several q. **Larger is better**: the map has found the features that the prediction needs. The score of a word
    or sentence is the mean over its tokens, so that all rows are in nats per token.

    :func:`~captum_spes.metrics.deletion` tests the map of the sentence alone, by texts that the model writes. Here
    every map is tested, nothing is decoded, and the score can fall before a word changes. It costs a pass for each row
    and step, and one more; equal masks share a pass.

    Args:
        model: the model that was explained.
        explanations: explanations of tokens, ``words()`` or ``sentence()``, of one or several utterances.
        inputs: ``"spectrogram"``, or ``"tokens"`` for the maps of the previous tokens, whose embeddings are zeroed.
            The features of a row are then the tokens before it, and only the decoder runs.
        percentages: percentages of the features that are hidden, ascending; the number of features is rounded down.
        maps: maps that order the features in place of the explanations' own maps: maps (K, T, C), or (K, J) for
            tokens, for each explanation; or ``"random"`` for a random order, the control.
        baselines: the values of hidden bins: ``"mean"`` (the model's baseline), ``"noise"``, ``"interpolation"`` or
            ``"silence"``; see :func:`~captum_spes.metrics.deletion`. The baseline of previous tokens is always 0.
        perturbations_per_eval: perturbations in a batch; it changes the speed, and the result by no more than the
            model's rounding.
        seed: the seed of the order of features with equal values, of the random order and of the noise.
        show_progress: shows a progress bar.

    Returns:
        ErasureCurve: with ``steps``, ``falls``, ``scores`` and ``auc``.

    Raises:
        ValueError: an explanation is of another model or of a contrast; a map holds NaN or has another shape; the
            steps or the baseline are not as above; or the model has no previous tokens.

    Example::

        >>> from captum_spes import SPES, SpeechToTextAttribution
        >>> from captum_spes.metrics import comprehensiveness
        >>> from captum_spes.models import load_model
        >>> model = load_model("whisper-tiny.en")
        >>> explanation = SpeechToTextAttribution(SPES(model)).attribute("speech.wav", "so what", n_samples=90)
        >>> curve = comprehensiveness(model, explanation)
        >>> curve.steps, curve.falls[0].shape
        ((1.0, 5.0, 10.0, 20.0, 50.0), torch.Size([2, 5]))
        >>> control = comprehensiveness(model, explanation, maps="random")
        >>> words = comprehensiveness(model, explanation.words(), baselines="silence")
        >>> comprehensiveness(model, explanation, inputs="tokens").falls[0].shape
        torch.Size([2, 5])
    """
    cases = _cases(model, explanations, inputs, percentages, maps, baselines, perturbations_per_eval, seed)
    return _measure(cases, keep=False, desc="Comprehensiveness" if show_progress else None)


def sufficiency(
    model: SpeechToTextModel,
    explanations: Explanations,
    *,
    inputs: Inputs = "spectrogram",
    percentages: Iterable[float] = RATIONALE_PERCENTAGES,
    maps: Maps | None = None,
    baselines: Baseline = "mean",
    perturbations_per_eval: int = 16,
    seed: int = 0,
    show_progress: bool = False,
) -> ErasureCurve:
    """How far the log-probability of a token falls with the most important features of its own map alone.

    This is the counterpart of :func:`comprehensiveness`: all but the top features are hidden. **Smaller is better**:
    the top features are sufficient for the prediction. Arguments, result and errors are those of
    :func:`comprehensiveness`, except that ``percentages`` of the features are kept.

    Example::

        >>> from captum_spes import SPES, SpeechToTextAttribution
        >>> from captum_spes.metrics import sufficiency
        >>> from captum_spes.models import load_model
        >>> model = load_model("whisper-tiny.en")
        >>> explanation = SpeechToTextAttribution(SPES(model)).attribute("speech.wav", "so what", n_samples=90)
        >>> sufficiency(model, explanation, percentages=(10, 50)).scores.shape
        torch.Size([2])
    """
    cases = _cases(model, explanations, inputs, percentages, maps, baselines, perturbations_per_eval, seed)
    return _measure(cases, keep=True, desc="Sufficiency" if show_progress else None)


def _cases(
    model: SpeechToTextModel,
    explanations: Explanations,
    inputs: Inputs,
    percentages: Iterable[float],
    maps: Maps | None,
    baselines: Baseline,
    perturbations_per_eval: int,
    seed: int,
) -> list[_Case]:
    """Checks the arguments, before the model runs, and makes a case of each explanation."""
    check_positive(perturbations_per_eval=perturbations_per_eval)
    check_baseline(baselines)
    if inputs not in ("spectrogram", "tokens"):
        raise ValueError(f"inputs must be 'spectrogram' or 'tokens', not {inputs!r}.")
    explanations, maps = as_lists(explanations, maps)
    steps = format_steps("percentages", percentages, 0, 100)
    return [
        _Case(model, explanation, inputs, steps, own, baselines, perturbations_per_eval, seed)
        for explanation, own in zip(explanations, _row_maps(explanations, inputs, maps))
    ]


def _measure(cases: list[_Case], keep: bool, desc: str | None) -> ErasureCurve:
    total = sum(len(case.masks) for case in cases)
    with progress(desc=desc, total=total) if desc else NullProgress() as bar:
        falls = []
        for case in cases:
            scores = []
            for batch in case.scores(keep):
                scores.append(batch)
                bar.update(len(batch))
            falls.append(case.falls(torch.cat(scores)))
    return ErasureCurve(cases[0].steps, falls)


class _Case:
    """The top features of each row and step of an explanation, and the scores of the model with or without them.

    Attributes:
        masks: the different sets of top features, bool (M, T · C) or (M, J).
        numbers: for each row and step the index of its mask, (K, S).
        weights: the share of each of the model's tokens in each row, (K, tokens).
    """

    def __init__(
        self,
        model: SpeechToTextModel,
        explanation: SpeechToTextExplanation,
        inputs: Inputs,
        steps: tuple[float, ...],
        maps: Tensor,
        baseline: Baseline,
        batch_size: int,
        seed: int,
    ) -> None:
        self.model, self.inputs, self.steps = model, inputs, steps
        self.baseline, self.batch_size, self.seed = baseline, batch_size, seed
        self.utterance, tokens = restore_for_scores(model, replace(explanation, grouped=False))
        self.prediction = TokenPrediction(model, tokens, TokenLogProbability)
        self.weights = _row_weights(explanation, self.prediction.rows)
        if inputs == "tokens" and len(explanation.previous_tokens) != len(self.prediction.previous):
            raise ValueError("the previous tokens are grouped to words: call words() without group_previous.")
        tops = [
            self._top(row, n_previous, seed) for row, n_previous in zip(maps, explanation.n_previous.tolist())
        ]  # K of (S, features)
        self.masks, self.numbers = _distinct(torch.stack(tops))

    def _top(self, row: Tensor, n_previous: int, seed: int) -> Tensor:
        """The top features of a row at each step, (S, features), without previous tokens that come after the row."""
        if self.inputs == "spectrogram":
            return top_bins(descending(row, seed), self.steps)
        top = torch.zeros(len(self.steps), len(row), dtype=torch.bool)
        top[:, :n_previous] = top_bins(descending(row[:n_previous], seed), self.steps)
        return top

    @torch.no_grad()
    def scores(self, keep: bool) -> Iterator[Tensor]:
        """Log-probabilities of all tokens with each mask, in batches (B, tokens); the first row hides nothing."""
        spectrogram = self.utterance.spectrogram
        encoded = self.model.encode(spectrogram, self.utterance)
        score = self.prediction.score(lambda outputs: outputs, self.prediction.outputs(encoded))
        yield score(self.prediction.outputs(encoded)).cpu()
        hide = make_hider(self.baseline, self.model, self.utterance, self.seed)
        for masks in self.masks.split(self.batch_size):
            hidden = (~masks if keep else masks).to(spectrogram.device)
            outputs: Any
            if self.inputs == "tokens":
                outputs = self.prediction.outputs(encoded, (~hidden).to(spectrogram.dtype))
            else:
                heard = hide(hidden.view(-1, *spectrogram.shape[1:]))
                outputs = self.prediction.outputs(self.model.encode(heard, self.utterance))
            yield score(outputs).cpu()

    def falls(self, scores: Tensor) -> Tensor:
        """How far the score of each row falls at each step, (K, S)."""
        falls = (scores[:1] - scores[1:]).double() @ self.weights.T  # (M, K)
        return falls.gather(0, self.numbers.T).T.float()


def _distinct(masks: Tensor) -> tuple[Tensor, Tensor]:
    """The distinct masks among (K, S, features), as (M, features), and the index of each mask, (K, S)."""
    known: dict[bytes, int] = {}
    flat = masks.flatten(0, 1)
    numbers = [known.setdefault(np.packbits(mask).tobytes(), len(known)) for mask in flat.numpy()]
    first = [numbers.index(number) for number in range(len(known))]
    return flat[first], torch.tensor(numbers).view(masks.shape[:2])


def _row_weights(explanation: SpeechToTextExplanation, tokens: list[str]) -> Tensor:
    """The share of each token in each row of an explanation, float64 (K, tokens)."""
    if not explanation.grouped:
        spans = [(index, index + 1) for index in range(len(tokens))]
    elif explanation.tokens == [explanation.text]:
        spans = [(0, len(tokens))]
    else:
        spans = word_spans(tokens)
    if len(spans) != len(explanation.tokens):
        raise ValueError(
            f"the explanation has {len(explanation.tokens)} rows, which are neither the {len(tokens)} tokens of its "
            "text nor its words nor the sentence."
        )
    weights = torch.zeros(len(spans), len(tokens), dtype=torch.float64)
    for row, (start, stop) in zip(weights, spans):
        row[start:stop] = 1 / (stop - start)
    return weights


def _row_maps(explanations: Sequence[SpeechToTextExplanation], inputs: Inputs, maps: Maps | None) -> list[Tensor]:
    """Maps (K, T, C) or (K, J) for each explanation, by default its own; constant maps for a random order.

    Raises:
        ValueError: maps do not fit the explanations, or there are no previous tokens.
    """
    name = "spectrogram_attr" if inputs == "spectrogram" else "token_attr"
    if inputs == "tokens" and not all(explanation.previous_tokens for explanation in explanations):
        raise ValueError("the model writes all tokens at once: there are no previous tokens to hide.")
    return format_maps([getattr(explanation, name) for explanation in explanations], maps)
