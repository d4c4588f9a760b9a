"""Areas of the utterances of several runs, as in the JSON files of the results, taken together."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from captum_spes.evaluation.results import Difference, paired_difference
from captum_spes.metrics import WordErrorRate
from captum_spes.metrics._bootstrap import draw_utterances, interval

HIGHER_IS_BETTER = ("deletion", "SRG", "comprehensiveness")  # for word error rates
BY_WORDS = ("deletion", "insertion", "SRG")  # a word error rate of a corpus is that of its words
Utterances = Mapping[str, Mapping[str, Mapping[str, float]]]  # areas by utterance, metric and method


class Areas:
    """The areas of methods for utterances of several runs, in place of :class:`captum_spes.evaluation.results.Results`.

    The area of a corpus is the mean over its utterances, for word error rates weighted by the words of the
    transcriptions. A metric covers the utterances that have it.

    Args:
        utterances: areas by utterance, metric and method.
        n_words: the number of words of each transcription.
        settings: the settings of the runs.
        seed: the seed of the draws.
    """

    def __init__(
        self, utterances: Utterances, n_words: Mapping[str, float], settings: Mapping[str, Any], seed: int = 0
    ) -> None:
        self.utterances = list(utterances)
        self.by_utterance = utterances
        self.n_words = n_words
        self.settings = settings
        self.seed = seed
        self.metrics = list(dict.fromkeys(metric for found in utterances.values() for metric in found))
        first, *others = (found.keys() for areas in utterances.values() for found in areas.values())
        self.methods = [name for name in first if all(name in names for names in others)]

    def measured(self, metric: str) -> list[str]:
        """The utterances that have a metric."""
        return [name for name, found in self.by_utterance.items() if metric in found]

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

        n_utterances = len(self.measured(metric))
        value, drawn = self._value(metric, gain), self._drawn(metric, gain)
        return paired_difference(value, drawn, self.higher_is_better(metric), n_utterances)

    def _weights_and_values(
        self, metric: str, value: Callable[[Mapping[str, float]], float]
    ) -> tuple[np.ndarray, np.ndarray]:
        names = self.measured(metric)
        weights = [self.n_words[name] if metric in BY_WORDS else 1 for name in names]
        return np.array(weights, float), np.array([value(self.by_utterance[name][metric]) for name in names])

    def _value(self, metric: str, value: Callable[[Mapping[str, float]], float]) -> float:
        weights, values = self._weights_and_values(metric, value)
        return float(weights @ values / weights.sum())

    def _drawn(self, metric: str, value: Callable[[Mapping[str, float]], float]) -> np.ndarray:
        weights, values = self._weights_and_values(metric, value)
        draws = draw_utterances(len(values), self.seed) * weights
        return draws @ values / draws.sum(1)

    def to_dict(self) -> dict[str, Any]:
        """All numbers as plain values for JSON."""
        methods = {
            name: {
                metric: {"auc": self.areas(metric)[name], "interval": self.interval(metric, name)}
                for metric in self.metrics
            }
            for name in self.methods
        }
        return {"settings": self.settings, "methods": methods, "utterances": self.by_utterance}


def n_words(transcription: str) -> float:
    """The number of words of a transcription after Whisper's normaliser for English, as word error rates count them."""
    return float(WordErrorRate().counts("", transcription)[1])
