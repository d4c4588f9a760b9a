"""Faithfulness by deletion and insertion: what a model writes without the bins that a map finds important."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from captum._utils.progress import NullProgress, progress
from torch import Tensor

from captum_spes.explanation import SpeechToTextExplanation
from captum_spes.maps import descending, top_bins
from captum_spes.metrics._checks import check_positive
from captum_spes.metrics._curve import as_tensor, auc, format_steps
from captum_spes.metrics._rewriting import Maps, Rewriter, format_maps
from captum_spes.metrics.baselines import Baseline, check_baseline
from captum_spes.metrics.text import TextScore, find_score
from captum_spes.models.protocol import SpeechToTextModel

PERCENTAGES = tuple(range(0, 101, 5))

Change = Literal["deletion", "insertion"]


@dataclass(frozen=True, eq=False)
class DeletionCurve:
    """What U utterances score at S steps of deletion or insertion; see :func:`deletion`.

    Attributes:
        steps: how many percent of the bins were deleted or inserted, S numbers.
        texts: what was written, U lists of S texts.
        references: what the texts were scored against, U texts.
        score: how.

    Example::

        >>> from captum_spes.metrics import DeletionCurve, WordErrorRate
        >>> curve = DeletionCurve((0, 50, 100), [["so what", "so", ""]], ["So what?"], WordErrorRate())
        >>> curve.scores, curve.utterance_scores.shape, curve.counts.shape
        (tensor([  0.,  50., 100.]), torch.Size([1, 3]), (1, 3, 2))
        >>> curve.auc
        50.0
    """

    steps: tuple[float, ...]
    texts: list[list[str]]
    references: list[str]
    score: TextScore

    @property
    def counts(self) -> np.ndarray:
        """What the score is made of, float64 (U, S, n)."""
        pairs = zip(self.texts, self.references)
        return np.array([[self.score.counts(text, reference) for text in texts] for texts, reference in pairs])

    @property
    def scores(self) -> Tensor:
        """The score of all utterances together at each step, (S,)."""
        return as_tensor(self.score.score(self.counts.sum(0)))

    @property
    def utterance_scores(self) -> Tensor:
        """The score of each utterance at each step, (U, S)."""
        return as_tensor(self.score.score(self.counts))

    @property
    def auc(self) -> float:
        """The area under :attr:`scores`, from 0 to 100."""
        return float(auc(self.steps, self.scores))


def deletion(
    model: SpeechToTextModel,
    explanations: SpeechToTextExplanation | Sequence[SpeechToTextExplanation],
    references: str | Sequence[str] | None = None,
    *,
    percentages: Iterable[float] = PERCENTAGES,
    score: str | TextScore = "wer",
    maps: Maps | None = None,
    baselines: Baseline = "mean",
    max_new_tokens: int | None = None,
    perturbations_per_eval: int = 32,
    seed: int = 0,
    show_progress: bool = False,
) -> DeletionCurve:
    """How a model's text falls apart as the most important bins of the spectrogram are deleted (paper §5).

    The bins with the largest values of the sentence map are set to a baseline, step by step; the model writes again,
    and its text is scored against a reference. A map is faithful when the text falls apart early: a
    **high** area under the curve for WER, a **low** one for BLEU. Compare with ``maps="random"``, and with the energy
    of the spectrogram, ``maps=spectrogram - baseline`` (the methods ``random`` and ``energy`` of the command line):
    the latter costs nothing and does well.

    The model writes in its full window, with the explanation's precision and arguments of generation. Coarse steps
    saturate: with the paper's steps of 5 % most of a text is gone at the first or second; ``percentages=range(21)``
    looks closer.

    Args:
        model: the model that was explained.
        explanations: of the tokens or of the text as a whole, one or several utterances.
        references: the texts to score against, one for each. Default: what the explanations explain, the model's own
            text.
        percentages: how much is deleted, ascending, in percent of the bins.
        score: ``"wer"`` for transcripts, ``"bleu"`` for translations, or a score with its own settings, such as
            ``WordErrorRate(normalizer="basic")``.
        maps: what to delete by in place of the sentence maps: a map (T, C) for each, or ``"random"``.
        baselines: what deleted bins become. ``"mean"`` is the model's baseline, each mel channel's mean over the
            utterance, with which most maps are made as well; a faithful map should be faithful with others, too.
            ``"silence"`` is the lowest value of each channel in the utterance; ``"noise"`` gives each bin the value of
            a random frame of its channel; ``"interpolation"`` is the noisy linear imputation of ROAD (Rong et al.,
            2022): the weighted mean of a bin's eight neighbours.
        max_new_tokens: tokens of a text. Default: twice the original's and ten, at most 200.
        perturbations_per_eval: texts that are written at once. With the same number the results are the same to the
            last bit; with another the model may round otherwise.
        seed: the seed of the order of bins with equal values, as all of a patch have, of the random order, and of the
            noise.
        show_progress: shows a progress bar, one step a text.

    Returns:
        DeletionCurve: with ``steps``, ``scores``, ``auc`` and the texts.

    Raises:
        ValueError: explanations of another model, of words or of a contrast; maps with NaN or of another shape;
            references that are empty or too few; steps or a baseline that are none.

    Example::

        >>> from captum_spes import SPES, SpeechToTextAttribution
        >>> from captum_spes.metrics import deletion
        >>> from captum_spes.models import load_model
        >>> model = load_model("whisper-tiny.en")
        >>> attribution = SpeechToTextAttribution(SPES(model))
        >>> explanation = attribution.attribute("speech.wav", "so what", n_samples=90)
        >>> curve = deletion(model, explanation, percentages=(0, 20, 50))
        >>> curve.steps, curve.scores.shape, len(curve.texts[0])
        ((0.0, 20.0, 50.0), torch.Size([3]), 3)
        >>> control = deletion(model, explanation, percentages=(0, 20, 50), maps="random")
        >>> 0 <= curve.auc <= 100 and 0 <= control.auc <= 100
        True
    """
    check_positive(perturbations_per_eval=perturbations_per_eval)
    cases = _Cases(model, explanations, references, percentages, score, maps, baselines, max_new_tokens, seed)
    return cases.write("deletion", perturbations_per_eval, "Deletion" if show_progress else None)


def insertion(
    model: SpeechToTextModel,
    explanations: SpeechToTextExplanation | Sequence[SpeechToTextExplanation],
    references: str | Sequence[str] | None = None,
    *,
    percentages: Iterable[float] = PERCENTAGES,
    score: str | TextScore = "wer",
    maps: Maps | None = None,
    baselines: Baseline = "mean",
    max_new_tokens: int | None = None,
    perturbations_per_eval: int = 32,
    seed: int = 0,
    show_progress: bool = False,
) -> DeletionCurve:
    """How soon a model's text comes back as the most important bins are put into an empty spectrogram.

    The counterpart of :func:`deletion`: all bins start at the baseline, and those with the largest values are heard
    first. A faithful map has a **low** area under the curve for WER, a **high** one for BLEU.

    Arguments, result and errors are those of :func:`deletion`.

    Example::

        >>> from captum_spes import SPES, SpeechToTextAttribution
        >>> from captum_spes.metrics import insertion
        >>> from captum_spes.models import load_model
        >>> model = load_model("whisper-tiny.en")
        >>> attribution = SpeechToTextAttribution(SPES(model))
        >>> explanation = attribution.attribute("speech.wav", "so what", n_samples=90)
        >>> insertion(model, explanation, percentages=(0, 50, 100)).scores.shape
        torch.Size([3])
    """
    check_positive(perturbations_per_eval=perturbations_per_eval)
    cases = _Cases(model, explanations, references, percentages, score, maps, baselines, max_new_tokens, seed)
    return cases.write("insertion", perturbations_per_eval, "Insertion" if show_progress else None)


def symmetric_relevance_gain(deleted: DeletionCurve, inserted: DeletionCurve) -> float:
    """How far insertion stays above deletion, in accuracy: the area between both curves, larger is better.

    Blücher et al. (2024, "Decoupling pixel flipping and occlusion strategy for consistent XAI benchmarks"): a map has
    to find what is enough for the text as well as what the text cannot do without, and effects of the baseline that
    are the same for every order cancel out; a random order has about 0. For WER accuracy is 100 − WER.

    Args:
        deleted: from :func:`deletion`.
        inserted: from :func:`insertion`, with the same steps, references and score.

    Returns:
        float: from −100 to 100.

    Raises:
        ValueError: curves of other steps, references or scores.

    Example::

        >>> from captum_spes.metrics import DeletionCurve, WordErrorRate, symmetric_relevance_gain
        >>> deleted = DeletionCurve((0, 50, 100), [["so what", "", ""]], ["So what?"], WordErrorRate())
        >>> inserted = DeletionCurve((0, 50, 100), [["", "so what", "so what"]], ["So what?"], WordErrorRate())
        >>> symmetric_relevance_gain(deleted, inserted)
        50.0
    """
    settings = [(curve.steps, curve.references, curve.score.name) for curve in (deleted, inserted)]
    if settings[0] != settings[1]:
        raise ValueError("the two curves must have the same steps, references and score.")
    gain = inserted.auc - deleted.auc
    return gain if deleted.score.higher_is_better else -gain


def rewrite(
    model: SpeechToTextModel,
    explanation: SpeechToTextExplanation,
    change: Change,
    *,
    percentages: Iterable[float] = PERCENTAGES,
    baselines: Baseline = "mean",
    perturbations_per_eval: int = 32,
    seed: int = 0,
) -> list[str]:
    """The texts that :func:`deletion` or :func:`insertion` scores, for one explanation and by its sentence map.

    Whoever keeps the texts can score them later, against other references. Arguments and errors are those of
    :func:`deletion`.

    Args:
        change: ``"deletion"`` or ``"insertion"``.

    Returns:
        list of str: the text at each step.

    Example::

        >>> from captum_spes import SPES, SpeechToTextAttribution
        >>> from captum_spes.metrics import rewrite
        >>> from captum_spes.models import load_model
        >>> model = load_model("whisper-tiny.en")
        >>> attribution = SpeechToTextAttribution(SPES(model))
        >>> explanation = attribution.attribute("speech.wav", "so what", n_samples=90)
        >>> len(rewrite(model, explanation, "deletion", percentages=(0, 20, 50)))
        3
    """
    check_positive(perturbations_per_eval=perturbations_per_eval)
    steps = format_steps("percentages", percentages, 0, 100)
    rewriter = Rewriter(model, explanation, baseline=baselines, seed=seed)
    order = descending(explanation.sentence().spectrogram_attr[0], seed)
    return list(_texts(rewriter, order, steps, change, perturbations_per_eval))


def _texts(
    rewriter: Rewriter, order: Tensor, steps: tuple[float, ...], change: Change, batch_size: int
) -> Iterator[str]:
    """What is written at each step, with the bins in an order deleted or inserted."""
    top = top_bins(order, steps)
    return rewriter.texts(top if change == "deletion" else ~top, batch_size)


class _Cases:
    """Utterances whose bins have an order."""

    def __init__(
        self,
        model: SpeechToTextModel,
        explanations: SpeechToTextExplanation | Sequence[SpeechToTextExplanation],
        references: str | Sequence[str] | None,
        percentages: Iterable[float],
        score: str | TextScore,
        maps: Maps | None,
        baselines: Baseline,
        max_new_tokens: int | None,
        seed: int,
    ) -> None:
        check_baseline(baselines)
        if max_new_tokens is not None:
            check_positive(max_new_tokens=max_new_tokens)
        if isinstance(explanations, SpeechToTextExplanation):
            explanations = [explanations]
            maps = [maps] if isinstance(maps, Tensor) else maps
            references = [references] if isinstance(references, str) else references
        self.steps = format_steps("percentages", percentages, 0, 100)
        self.score = find_score(score)
        self.references = _format_references(explanations, references)
        for reference in self.references:
            self.score.counts("", reference)  # what cannot be scored is refused before the model runs
        self.rewriters = [Rewriter(model, item, max_new_tokens, baselines, seed) for item in explanations]
        self.orders = [descending(attributions, seed) for attributions in format_maps(explanations, maps)]

    def write(self, change: Change, batch_size: int, desc: str | None) -> DeletionCurve:
        """Lets the model write each text."""
        texts: list[list[str]] = []
        total = len(self.rewriters) * len(self.steps)
        with progress(desc=desc, total=total) if desc else NullProgress() as bar:
            for rewriter, order in zip(self.rewriters, self.orders):
                texts.append([])
                for text in _texts(rewriter, order, self.steps, change, batch_size):
                    texts[-1].append(text)
                    bar.update(1)
        return DeletionCurve(self.steps, texts, self.references, self.score)


def _format_references(
    explanations: Sequence[SpeechToTextExplanation], references: str | Sequence[str] | None
) -> list[str]:
    if not explanations:
        raise ValueError("there is no explanation: give one, or several.")
    if references is None:
        return [explanation.text for explanation in explanations]
    if isinstance(references, str) or len(references) != len(explanations):
        n_references = 1 if isinstance(references, str) else len(references)
        raise ValueError(
            f"there are {n_references} references for {len(explanations)} explanations: give one for each."
        )
    return list(references)
