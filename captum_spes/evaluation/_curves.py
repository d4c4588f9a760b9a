"""Curves of the metrics of an evaluation: for the corpus, for bootstrap draws of it, and for each utterance."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from captum_spes.metrics import DeletionCurve, ErasureCurve, SizeCurve
from captum_spes.metrics.curve import auc

if TYPE_CHECKING:
    from captum_spes.evaluation.results import MethodResult

Curves = Mapping[str, np.ndarray]
# the curve of a method for one metric
Curve = DeletionCurve | ErasureCurve | SizeCurve


@dataclass(frozen=True)
class MetricCurves:
    """The curves of all methods for one metric, at S steps.

    Attributes:
        title: heading of its panel in a figure; None for a metric without a panel.
        x_label: label of the steps.
        y_label: label of the values.
        higher_is_better: whether a good method has a large area.
        steps: S numbers.
        corpus: the curve of each method over all utterances, (S,).
        drawn: the curves of each method over R corpora drawn from the utterances, (R, S).
        utterances: the curves of each method for each of the U utterances, (U, S).
        y_range: limits of the axis of the values; None if the values are not bounded.
        digits: number of decimals of an area in tables.
    """

    title: str | None
    x_label: str
    y_label: str
    higher_is_better: bool
    steps: tuple[float, ...]
    corpus: Curves
    drawn: Curves
    utterances: Curves
    y_range: tuple[float, float] | None = (0, 100)
    digits: int = 1

    def area(self, curves: np.ndarray) -> np.ndarray:
        """The areas under curves (…, S), (…,)."""
        return auc(self.steps, curves)


def text_curves(found: Mapping[str, DeletionCurve], draws: np.ndarray, deleting: bool) -> MetricCurves:
    """The curves of deletion or insertion.

    Args:
        found: the texts of each method.
        draws: how often each of R drawn corpora holds each utterance, (R, U).
        deleting: True for deletion, False for insertion.
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


def mean_curves(name: str, found: Mapping[str, ErasureCurve | SizeCurve], draws: np.ndarray) -> MetricCurves:
    """The curves of a metric whose value for a corpus is the mean over its utterances."""
    scores = {method: curve.utterance_scores.double().numpy() for method, curve in found.items()}  # (U, S)
    first = next(iter(found.values()))
    if isinstance(first, ErasureCurve):
        verb = "hidden" if name == "comprehensiveness" else "kept"
        labels = name.capitalize(), f"bins {verb}, most important first (%)", "fall of log p (nats)"
        y_range, digits = None, 2
    else:
        inputs, features = ("tokens", "previous tokens") if name == "token size" else ("spectrogram", "bins")
        labels = f"Size, {inputs}", "threshold of the normalised attribution", f"{features} above (%)"
        y_range, digits = (0, 100), 1
    return MetricCurves(
        *labels,
        name == "comprehensiveness",
        first.steps,
        {method: values.mean(0) for method, values in scores.items()},
        {method: draws @ values / draws.shape[1] for method, values in scores.items()},
        scores,
        y_range,
        digits,
    )


def relevance_gain(deletion: MetricCurves, insertion: MetricCurves) -> MetricCurves:
    """Symmetric relevance gain: the accuracy of insertion minus that of deletion, at each step."""
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
        y_range=None,
    )


def measured_curves(methods: Mapping[str, MethodResult], draws: np.ndarray) -> dict[str, MetricCurves]:
    """The curves of every metric that all methods have, and of the gains that are derived from them."""
    first, *others = (result.curves for result in methods.values())
    curves: dict[str, MetricCurves] = {}
    for name in first:
        if not all(name in found for found in others):
            continue
        metric, baseline = split_baseline(name)
        found: dict[str, Any] = {method: result.curves[name] for method, result in methods.items()}
        if metric in ("deletion", "insertion"):
            metric_curves = text_curves(found, draws, deleting=metric == "deletion")
        else:
            metric_curves = mean_curves(metric, found, draws)
        if baseline != "mean":
            metric_curves = replace(metric_curves, title=f"{metric_curves.title}, {baseline}")
        curves[name] = metric_curves
        deletion, insertion = (curves.get(with_baseline(one, baseline)) for one in ("deletion", "insertion"))
        if metric in ("deletion", "insertion") and deletion is not None and insertion is not None:
            curves[with_baseline("SRG", baseline)] = relevance_gain(deletion, insertion)
    return curves


def with_baseline(metric: str, baseline: str) -> str:
    """The name of a metric with its baseline; the baseline mean is left out."""
    return metric if baseline == "mean" else f"{metric} ({baseline})"


def split_baseline(name: str) -> tuple[str, str]:
    """The metric and the baseline of a name that :func:`with_baseline` made."""
    metric, _, baseline = name.partition(" (")
    return metric, baseline.removesuffix(")") or "mean"
