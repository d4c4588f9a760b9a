"""Areas and curves of the utterances of several runs, from the JSON files of results, taken together."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from captum_spes.evaluation.results import Difference, paired_difference
from captum_spes.metrics import WordErrorRate
from captum_spes.metrics.bootstrap import draw_utterances, interval
from captum_spes.visualization import CurvePanel, plot_curves

HIGHER_IS_BETTER = ("deletion", "SRG", "comprehensiveness")  # for word error rates
BY_WORDS = ("deletion", "insertion", "SRG")  # a word error rate of a corpus is that of its words
LABELS = {
    "deletion": ("Deletion", "bins deleted, most important first (%)", "WER (%)"),
    "insertion": ("Insertion", "bins inserted, most important first (%)", "WER (%)"),
    "size": ("Size", "threshold of the normalised attribution", "bins above (%)"),
}


class Areas:
    """The areas of methods for utterances of several runs, in place of :class:`captum_spes.evaluation.results.Results`.

    The area of a corpus is the mean over its utterances, for word error rates weighted by the words of the
    transcriptions. A metric covers the utterances that have it.

    Args:
        runs: what ``to_dict`` of the results of each run gives; an utterance of two runs is that of the later.
        n_words: the number of words of each transcription.
        seed: the seed of the draws.
    """

    def __init__(self, runs: Sequence[Mapping[str, Any]], n_words: Mapping[str, float], seed: int = 0) -> None:
        self.runs = runs
        self.by_utterance: dict[str, Any] = {name: found for run in runs for name, found in run["utterances"].items()}
        self.utterances = list(self.by_utterance)
        self.n_words = n_words
        self.seed = seed
        self.metrics = list(dict.fromkeys(metric for found in self.by_utterance.values() for metric in found))
        first, *others = (areas.keys() for found in self.by_utterance.values() for areas in found.values())
        self.methods = [name for name in first if all(name in names for names in others)]

    def measured(self, metric: str) -> list[str]:
        """The utterances that have a metric."""
        return [name for name, found in self.by_utterance.items() if metric in found]

    def coverage(self) -> str:
        """A sentence on the metrics that some utterances do not have; empty if there are none."""
        numbers = {metric: len(self.measured(metric)) for metric in self.metrics}
        fewer = [f"{metric} ({n})" for metric, n in numbers.items() if n < len(self.utterances)]
        return f" Of fewer utterances: {', '.join(fewer)}." if fewer else ""

    def higher_is_better(self, metric: str) -> bool:
        return metric in HIGHER_IS_BETTER

    def areas(self, metric: str) -> dict[str, float]:
        return {name: self._value(metric, lambda found, name=name: found[name]) for name in self.methods}

    def interval(self, metric: str, method: str) -> tuple[float, float]:
        return interval(self._drawn(metric, lambda found: found[method]))

    def compare(self, metric: str, method: str | Sequence[str], other: str | Sequence[str]) -> Difference:
        groups = [[group] if isinstance(group, str) else group for group in (method, other)]

        def gain(found: Mapping[str, float]) -> float:
            better, worse = (float(np.mean([found[name] for name in group])) for group in groups)
            return better - worse

        value, drawn = self._value(metric, gain), self._drawn(metric, gain)
        return paired_difference(value, drawn, self.higher_is_better(metric), len(self.measured(metric)))

    def _weights(self, metric: str, names: Sequence[str]) -> np.ndarray:
        return np.array([self.n_words[name] if metric in BY_WORDS else 1 for name in names], float)

    def _weights_and_values(
        self, metric: str, value: Callable[[Mapping[str, float]], float]
    ) -> tuple[np.ndarray, np.ndarray]:
        names = self.measured(metric)
        return self._weights(metric, names), np.array([value(self.by_utterance[name][metric]) for name in names])

    def _value(self, metric: str, value: Callable[[Mapping[str, float]], float]) -> float:
        weights, values = self._weights_and_values(metric, value)
        return float(weights @ values / weights.sum())

    def _drawn(self, metric: str, value: Callable[[Mapping[str, float]], float]) -> np.ndarray:
        weights, values = self._weights_and_values(metric, value)
        draws = draw_utterances(len(values), self.seed) * weights
        return draws @ values / draws.sum(1)

    def curve(self, metric: str, method: str) -> tuple[list[float], list[float]]:
        """The steps and the values of a method's curve, the mean of the curves of the runs by their weights."""
        runs = [run for run in self.runs if metric in run["methods"][method]]
        weights = [self._weights(metric, list(run["utterances"])).sum() for run in runs]
        entries = [run["methods"][method][metric] for run in runs]
        return entries[0]["steps"], np.average([entry["scores"] for entry in entries], axis=0, weights=weights).tolist()

    def plot(self, metrics: Sequence[str], groups: Sequence[Sequence[str]]) -> Figure:
        """Draws curves, with a row of panels for each group of methods."""
        panels = []
        for group in groups:
            for metric in metrics:
                curves = {name: self.curve(metric, name) for name in group if name in self.methods}
                [steps, *_] = (steps for steps, _ in curves.values())
                areas = {name: area for name, area in self.areas(metric).items() if name in curves}
                values = {name: scores for name, (_, scores) in curves.items()}
                panels.append(CurvePanel(*LABELS[metric], steps=steps, curves=values, auc=areas))
        return plot_curves(panels)

    def to_dict(self) -> dict[str, Any]:
        """All numbers as plain values for JSON."""
        methods: dict[str, dict[str, Any]] = {}
        for name in self.methods:
            methods[name] = {}
            for metric in self.metrics:
                steps, scores = self.curve(metric, name)
                methods[name][metric] = {
                    "auc": self.areas(metric)[name],
                    "interval": self.interval(metric, name),
                    "steps": steps,
                    "scores": scores,
                }
        return {"settings": self.runs[-1]["settings"], "methods": methods, "utterances": self.by_utterance}


def n_words(transcription: str) -> float:
    """The number of words of a transcription after Whisper's normaliser for English, as word error rates count them."""
    return float(WordErrorRate().counts("", transcription)[1])
