"""Curves of the metrics of an evaluation: of the corpus, of corpora drawn from it, and of each utterance."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from captum_spes.metrics import DeletionCurve, SizeCurve
from captum_spes.metrics._curve import auc

if TYPE_CHECKING:
    from captum_spes.evaluation.results import MethodResult

Curves = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class MetricCurves:
    """What every method reached by one metric, at S steps.

    Attributes:
        title: heading of its panel in a figure; None for a metric that has no panel.
        x_label: what the steps are.
        y_label: what the values are.
        higher_is_better: whether a good method has a large area.
        steps: S numbers.
        corpus: the curve of each method over all utterances, (S,).
        drawn: its curves over R corpora drawn from them, (R, S).
        utterances: its curves over each of the U utterances alone, (U, S).
    """

    title: str | None
    x_label: str
    y_label: str
    higher_is_better: bool
    steps: tuple[float, ...]
    corpus: Curves
    drawn: Curves
    utterances: Curves

    def area(self, curves: np.ndarray) -> np.ndarray:
        """The areas under curves (…, S), (…,)."""
        return auc(self.steps, curves)


def text_curves(found: Mapping[str, DeletionCurve], draws: np.ndarray, deleting: bool) -> MetricCurves:
    """The curves of deletion or insertion.

    Args:
        found: what was written, by method.
        draws: how often each of R drawn corpora holds each utterance, (R, U).
        deleting: whether it is deletion.
    """
    first = next(iter(found.values()))
    score = first.score
    counts = {name: curve.counts for name, curve in found.items()}  # (U, S, n)
    return MetricCurves(
        "Deletion" if deleting else "Insertion",
        f"bins {'deleted' if deleting else 'inserted'}, most important first (%)",
        score.name + (" (%)" if score.name == "WER" else ""),
        score.higher_is_better != deleting,
        first.steps,
        {name: score.score(values.sum(0)) for name, values in counts.items()},
        {name: score.score(np.tensordot(draws, values, axes=1)) for name, values in counts.items()},
        {name: score.score(values) for name, values in counts.items()},
    )


def size_curves(found: Mapping[str, SizeCurve], draws: np.ndarray, inputs: str) -> MetricCurves:
    """The curves of the size of the maps of one input: the mean over the utterances."""
    scores = {name: curve.utterance_scores.double().numpy() for name, curve in found.items()}  # (U, S)
    return MetricCurves(
        f"Size, {inputs}",
        "threshold of the normalised attribution",
        f"{'bins' if inputs == 'spectrogram' else 'previous tokens'} above (%)",
        False,
        next(iter(found.values())).steps,
        {name: values.mean(0) for name, values in scores.items()},
        {name: draws @ values / draws.shape[1] for name, values in scores.items()},
        scores,
    )


def relevance_gain(deletion: MetricCurves, insertion: MetricCurves) -> MetricCurves:
    """Symmetric relevance gain: insertion less deletion in accuracy, at each step."""
    sign = 1 if insertion.higher_is_better else -1

    def gains(inserted: Curves, deleted: Curves) -> Curves:
        return {name: sign * (inserted[name] - deleted[name]) for name in inserted}

    return MetricCurves(
        None,
        "bins deleted or inserted, most important first (%)",
        "insertion less deletion in accuracy",
        True,
        insertion.steps,
        gains(insertion.corpus, deletion.corpus),
        gains(insertion.drawn, deletion.drawn),
        gains(insertion.utterances, deletion.utterances),
    )


def measured_curves(methods: Mapping[str, MethodResult], draws: np.ndarray) -> dict[str, MetricCurves]:
    """The curves of every metric by which all methods were measured, in the order of the tables."""
    curves: dict[str, MetricCurves] = {}
    for name in ("deletion", "insertion"):
        texts = {method: getattr(result, name) for method, result in methods.items()}
        if all(curve is not None for curve in texts.values()):
            curves[name] = text_curves(texts, draws, deleting=name == "deletion")
    if len(curves) == 2:
        curves["SRG"] = relevance_gain(**curves)
    for name, inputs in (("size", "spectrogram"), ("token size", "tokens")):
        sizes = {method: result.sizes[inputs] for method, result in methods.items() if inputs in result.sizes}
        if len(sizes) == len(methods):
            curves[name] = size_curves(sizes, draws, inputs)
    return curves
