"""Faithfulness by deletion and insertion: scores the texts that a model writes without the bins of a map."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from captum._utils.progress import NullProgress, progress
from torch import Tensor

from captum_spes.attr.batches import check_positive
from captum_spes.explanation import SpeechToTextExplanation
from captum_spes.maps import descending, top_bins
from captum_spes.metrics._rewriting import Rewriter
from captum_spes.metrics.baselines import Baseline, check_baseline
from captum_spes.metrics.checks import Explanations, Maps, as_lists, format_maps
from captum_spes.metrics.curve import as_tensor, auc, format_steps
from captum_spes.metrics.text import TextScore, find_score
from captum_spes.models.protocol import SpeechToTextModel

PERCENTAGES = tuple(range(0, 101, 5))

Change = Literal["deletion", "insertion"]


@dataclass(frozen=True, eq=False)
class DeletionCurve:
    """The texts and scores of U utterances at S steps of deletion or insertion; see :func:`deletion`.

    Attributes:
        steps: the percentages of the bins that were deleted or inserted, S numbers.
        texts: the texts that the model wrote, U lists of S texts.
        references: the references of the texts, U texts.
        score: the score of the texts.

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
        """The counts from which the score is computed, float64 (U, S, n)."""
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
    explanations: Explanations,
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
    """Measures how a model's text changes as the most important bins of the spectrogram are deleted (paper §5).

    The bins with the largest values of the sentence map are set to a baseline, step by step. At each step the model
    writes the text again, and the text is scored against a reference. If the map is faithful, the text breaks down
    early: the area under the curve is **high** for WER and **low** for BLEU. Compare with ``maps="random"``, and with
    the energy of the spectrogram, ``maps=spectrogram - baseline`` (the methods ``random`` and ``energy`` of the command
    line). The energy costs nothing and does well.

    The model writes in its full window, with the explanation's precision and arguments of generation. Coarse steps
    saturate: with the paper's steps of 5 % most of a text is gone at the first or second step.
    ``percentages=range(21)`` has finer steps.

    Args:
        model: the model that was explained.
        explanations: explanations of the tokens, or of the text as a whole, of one or several utterances.
        references: a reference text for each explanation. Default: the text that is explained, which is the model's
            own.
        percentages: percentages of the bins that are deleted, ascending.
        score: ``"wer"`` for transcripts, ``"bleu"`` for translations, or a score with its own settings, such as
            ``WordErrorRate(normalizer="basic")``.
        maps: maps that order the bins in place of the sentence maps: a map (T, C) for each, or ``"random"``.
        baselines: the values of deleted bins. ``"mean"`` is the model's baseline, each mel channel's mean over the
            utterance, which most maps are made with; a faithful map should also be faithful with other baselines.
            ``"silence"`` is the lowest value of each channel in the utterance; ``"noise"`` gives each bin the value of
            a random frame of its channel; ``"interpolation"`` is the noisy linear imputation of ROAD (Rong et al.,
            2022): the weighted mean of a bin's eight neighbours.
        max_new_tokens: largest number of tokens of a text. Default: twice the original's plus ten, at most 200.
        perturbations_per_eval: number of texts in one batch. With the same number the results are the same to the
            last bit; with another the model may round differently.
        seed: the seed of the random order, of the noise, and of the order of bins with equal values, such as those of
            a patch.
        show_progress: shows a progress bar that counts texts.

    Returns:
        DeletionCurve: with ``steps``, ``scores``, ``auc`` and the texts.

    Raises:
        ValueError: an explanation is of another model, of words or of a contrast; a map holds NaN or has another
            shape; references are empty or too few; or the steps or the baseline are not as above.

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
    explanations: Explanations,
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
    """Measures how soon a model's text is complete as the most important bins are inserted into the baseline.

    This is the counterpart of :func:`deletion`: all bins start at the baseline, and those with the largest values are
    inserted first. A faithful map has a **low** area under the curve for WER and a **high** one for BLEU.

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
    """The area between the curves of insertion and deletion, in accuracy; larger is better.

    It is by Blücher et al. (2024, "Decoupling pixel flipping and occlusion strategy for consistent XAI benchmarks"). A
    map must find bins that are sufficient for the text and bins that are necessary for it. Effects of the baseline
    that are the same for every order cancel out, so that a random order has about 0. For WER the accuracy is
    100 − WER.

    Args:
        deleted: from :func:`deletion`.
        inserted: from :func:`insertion`, with the same steps, references, score and normaliser.

    Returns:
        float: from −100 to 100.

    Raises:
        ValueError: the curves differ in steps, references, score or normaliser.

    Example::

        >>> from captum_spes.metrics import DeletionCurve, WordErrorRate, symmetric_relevance_gain
        >>> deleted = DeletionCurve((0, 50, 100), [["so what", "", ""]], ["So what?"], WordErrorRate())
        >>> inserted = DeletionCurve((0, 50, 100), [["", "so what", "so what"]], ["So what?"], WordErrorRate())
        >>> symmetric_relevance_gain(deleted, inserted)
        50.0
    """
    settings = [
        (curve.steps, curve.references, curve.score.name, getattr(curve.score, "normalizer", None))
        for curve in (deleted, inserted)
    ]
    if settings[0] != settings[1]:
        raise ValueError(
            "the curves of deletion and insertion must have the same steps, references, score and normaliser."
        )
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
    """The texts that :func:`deletion` or :func:`insertion` scores, for one explanation and its sentence map.

    Stored texts can be scored later, against other references. Arguments and errors are those of :func:`deletion`.

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
    """The text at each step, as the bins are deleted or inserted in an order."""
    top = top_bins(order, steps)
    return rewriter.texts(top if change == "deletion" else ~top, batch_size)


class _Cases:
    """Utterances with an order of their bins."""

    def __init__(
        self,
        model: SpeechToTextModel,
        explanations: Explanations,
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
        if isinstance(explanations, SpeechToTextExplanation) and isinstance(references, str):
            references = [references]
        explanations, maps = as_lists(explanations, maps)
        self.steps = format_steps("percentages", percentages, 0, 100)
        self.score = find_score(score)
        self.references = _format_references(explanations, references)
        for reference in self.references:
            self.score.counts("", reference)  # references that cannot be scored are refused before the model runs
        self.rewriters = [Rewriter(model, item, max_new_tokens, baselines, seed) for item in explanations]
        own = [explanation.sentence().spectrogram_attr[0] for explanation in explanations]
        self.orders = [descending(attributions, seed) for attributions in format_maps(own, maps)]

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
    if references is None:
        return [explanation.text for explanation in explanations]
    if isinstance(references, str) or len(references) != len(explanations):
        n_references = 1 if isinstance(references, str) else len(references)
        raise ValueError(
            f"there are {n_references} references for {len(explanations)} explanations: give one for each."
        )
    return list(references)
