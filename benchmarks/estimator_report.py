"""Tables and figure of the results of estimators.py."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from captum_spes._files import markdown_table
from captum_spes.metrics import rank_correlation
from captum_spes.metrics._curve import auc

LONG = "SPES fine, N = 20,160"
UNIT = "SPES fine, N = 1,008"  # its time divided by its samples is the time of a forward
N_RESAMPLES = 2_000
MEASURES = {
    "deletion": "deletion ↑",
    "first": "deletion of the first 20 % ↑",
    "silence": "deletion by silence ↑",
    "base_deletion": "deletion, base decodes ↑",
    "insertion": "insertion ↓",
    "base_insertion": "insertion, base decodes ↓",
    "size": "size ↓",
    "pointing": "pointing game ↑",
    "rank_correlation": "rank correlation with long SPES, × 100 ↑",
}
SMALLER_IS_BETTER = {"insertion", "base_insertion", "size"}
# of the figure: a curve for each family
FAMILIES = {
    "SPES, fine patches": [f"SPES fine, N = {n}" for n in ("144", "1,008", "3,024", "5,040", "10,080", "20,160")],
    "SPES, coarse patches": [f"SPES coarse, N = {n}" for n in ("144", "1,008", "3,024")],
    "GradientSPES": [f"GradientSPES, {n} draws, patches" for n in (6, 12, 24, 96, 384)],
    "GradientSPES, bins": [f"GradientSPES, {n} draws" for n in (24, 96, 384)],
    "GradientSPES of the sentence": [f"GradientSPES sentence, {n} draws, patches" for n in (24, 96)],
    "Integrated Gradients": [f"Integrated Gradients, {n} steps" for n in (25, 100)],
    "Feature Ablation": ["Feature Ablation"],
    "Kernel SHAP": ["Kernel SHAP"],
    "Occlusion": ["Occlusion"],
    "Bubble Noise": ["Bubble Noise, N = 1,008"],
    "feature-wise": ["feature-wise, N = 1,008"],
}

# of an utterance: what each map reached, by its name
Scores = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Study:
    """The results for U utterances."""

    scores: Mapping[str, Scores]

    def names(self) -> list[str]:
        return list(dict.fromkeys(name for scores in self.scores.values() for name in scores))

    def with_map(self, *names: str) -> list[str]:
        """The utterances that have these maps."""
        return [utterance for utterance, scores in self.scores.items() if all(name in scores for name in names)]

    def value(self, utterance: str, name: str, measure: str) -> float | None:
        """An area from 0 to 100, for a WER that is capped at 100; or another number unchanged."""
        entry = self.scores[utterance][name]
        if measure in ("size", "pointing", "rank_correlation", "seconds"):
            return entry["cost"][0] if measure == "seconds" else entry.get(measure)
        curve = entry.get("deletion" if measure == "first" else measure)
        if curve is None or (measure == "first" and "1" not in curve):
            return None
        chosen = [s for s in map(int, curve) if (s <= 20 if measure == "first" else s % 5 == 0)]
        return float(auc(tuple(chosen), np.array([min(curve[str(step)], 100) for step in chosen])))

    def values(self, name: str, measure: str, utterances: Sequence[str]) -> np.ndarray | None:
        found = [self.value(utterance, name, measure) for utterance in utterances]
        return None if None in found or not found else np.array(found, dtype=float)


def interval(values: np.ndarray) -> tuple[float, float]:
    """The middle 95 % of the means of bootstrap draws of the values."""
    draws = np.random.default_rng(0).integers(0, len(values), (N_RESAMPLES, len(values)))
    low, high = np.percentile(values[draws].mean(1), (2.5, 97.5))
    return float(low), float(high)


def main_table(study: Study, utterances: Sequence[str], measures: Sequence[str]) -> list[str]:
    """A row for each map that all utterances have, with its cost and its means; the best of each measure is bold."""
    names = [name for name in study.names() if set(study.with_map(name)) >= set(utterances) and ", run " not in name]
    columns = {
        measure: [study.values(name, measure, utterances) for name in names]
        for measure in measures
        if any(study.values(name, measure, utterances) is not None for name in names)
    }
    rows = [["map", "forwards", "backwards", "time", *(MEASURES[measure] for measure in columns)]]
    best = {}
    for measure, column in columns.items():
        means = [value.mean() for value in column if value is not None]
        best[measure] = min(means) if measure in SMALLER_IS_BETTER else max(means)
    unit = _seconds(study, UNIT, utterances) / 1_008
    for row, name in enumerate(names):
        costs = np.array([study.scores[utterance][name]["cost"] for utterance in utterances])
        cells = [name, *(f"{round(value):,}" for value in costs[:, 1:].mean(0))]
        cells.append(f"{_seconds(study, name, utterances) / unit:,.0f}")
        for measure, column in columns.items():
            values = column[row]
            text = "" if values is None else f"{values.mean():.1f}"
            cells.append(f"**{text}**" if values is not None and values.mean() == best[measure] else text)
        rows.append(cells)
    return markdown_table(rows)


def _seconds(study: Study, name: str, utterances: Sequence[str]) -> float:
    values = study.values(name, "seconds", utterances)
    assert values is not None
    return float(values.sum())


def paired_table(study: Study, pairs: Sequence[tuple[str, str]], measures: Sequence[str]) -> list[str]:
    """A row for each pair of maps: the mean differences on the same utterances, with verdicts by their intervals."""
    rows = [["map", "against", "utterances", *(MEASURES[measure] for measure in measures)]]
    for name, other in pairs:
        utterances = study.with_map(name, other)
        if not utterances:
            continue
        cells = [name, other, str(len(utterances))]
        for measure in measures:
            first, second = (study.values(one, measure, utterances) for one in (name, other))
            cells.append("" if first is None or second is None else _difference(first - second, measure))
        rows.append(cells)
    return markdown_table(rows)


def _difference(values: np.ndarray, measure: str) -> str:
    low, high = interval(values)
    text = f"{values.mean():+.1f} [{low:+.1f}, {high:+.1f}]"
    if low <= 0 <= high or len(values) < 6:
        return text
    better = (values.mean() < 0) == (measure in SMALLER_IS_BETTER)
    return f"{text} {'better' if better else 'worse'}"


def stability(
    study: Study, pieces: Mapping[str, list[Tensor]], names: Mapping[int, Sequence[str]], piece: int
) -> list[str]:
    """Correlations between runs of SPES with different seeds and deviations of their metrics, by the number of samples.

    Args:
        study: the metrics of the maps of the runs.
        pieces: for each utterance the maps (K, T, C) of its pieces.
        names: names of the maps of the runs, by the number of pieces of a run.
        piece: number of samples in a piece.
    """
    rows = [["samples", "utterances", "runs of each", "correlation of a token's map", "rank correlation"]]
    rows[0] += [f"{measure}: deviation over the runs" for measure in ("deletion", "insertion")]
    for size, runs_of_size in names.items():
        linear, ranks, counts, deviations = [], [], [], []
        for utterance, maps in pieces.items():
            known = [name for name in runs_of_size if name in study.scores.get(utterance, {})]
            runs = [torch.stack(maps[i : i + size]).mean(0) for i in range(0, len(maps) - size + 1, size)][: len(known)]
            if len(runs) < 2:
                continue
            counts.append(len(runs))
            for first, second in combinations(runs, 2):
                pairs = zip(first.flatten(1), second.flatten(1))
                linear.append(float(torch.stack([torch.corrcoef(torch.stack(pair))[0, 1] for pair in pairs]).mean()))
                ranks.append(float(rank_correlation(first, second).mean()))
            areas = [[study.value(utterance, name, measure) for name in known] for measure in ("deletion", "insertion")]
            deviations.append(np.std(np.array(areas, dtype=float), axis=1, ddof=1))
        if counts:
            n_runs = str(min(counts)) if min(counts) == max(counts) else f"{min(counts)} to {max(counts)}"
            means = [f"{np.mean(values):.2f}" for values in (linear, ranks)]
            spread = [f"{value:.1f}" for value in np.mean(deviations, axis=0)]
            rows.append([f"{size * piece:,}", str(len(counts)), n_runs, *means, *spread])
    return markdown_table(rows)


def plot(study: Study, groups: Mapping[str, Sequence[str]]) -> Figure:
    """Draws deletion and insertion over time, with a curve for each family, and baseline methods as lines."""
    figure = Figure(figsize=(11, 4.2 * len(groups)), layout="constrained")
    rows = figure.subplots(len(groups), 2, squeeze=False)
    for axes, (title, utterances) in zip(rows, groups.items()):
        for ax, measure in zip(axes, ("deletion", "insertion")):
            for number, (family, names) in enumerate(FAMILIES.items()):
                _draw_family(ax, study, utterances, measure, family, names, number)
            for name, style in (("energy", "--"), ("random", ":")):
                values = study.values(name, measure, utterances)
                if values is not None:
                    ax.axhline(values.mean(), color="0.4", linestyle=style, linewidth=1.2, label=f"{name} (no pass)")
            ax.set_xscale("log")
            ax.set_xlabel("time, in forwards of the model")
            arrow = "↓" if measure in SMALLER_IS_BETTER else "↑"
            ax.set_title(f"{measure.capitalize()} {arrow}, {len(utterances)} utterances ({title})", fontsize=11)
            ax.grid(alpha=0.25)
            ax.spines[["top", "right"]].set_visible(False)
    figure.legend(*rows[-1, 0].get_legend_handles_labels(), loc="outside right center", frameon=False, fontsize=9)
    return figure


def _draw_family(
    ax: Any, study: Study, utterances: Sequence[str], measure: str, family: str, names: Sequence[str], number: int
) -> None:
    unit = _seconds(study, UNIT, utterances) / 1_008
    points = []
    for name in names:
        if set(study.with_map(name)) >= set(utterances):
            values = study.values(name, measure, utterances)
            assert values is not None
            points.append((_seconds(study, name, utterances) / unit, values.mean(), *interval(values)))
    if points:
        time, means, low, high = np.array(points).T
        errors = np.array([means - low, high - means])
        style = {"color": f"C{number % 10}", "marker": "o" if number < 10 else "s", "markersize": 5}
        ax.errorbar(time, means, errors, linewidth=1.6, elinewidth=0.8, label=family, **style)
