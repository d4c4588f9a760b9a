"""Results of an evaluation: areas with intervals, curves, paired tests, tables and a figure."""

from __future__ import annotations

import csv
import io
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from captum_spes._files import write_atomically, write_figure, write_json
from captum_spes._text import format_number
from captum_spes.evaluation._curves import Curve, measured_curves, split_baseline
from captum_spes.evaluation.summary import summary
from captum_spes.evaluation.word_errors import WordErrors
from captum_spes.explanation.figures import LOW_RELIABILITY
from captum_spes.metrics.bootstrap import LEVEL, MIN_PAIRS, N_RESAMPLES, draw_utterances, interval, interval_ends
from captum_spes.visualization import CurvePanel, plot_curves

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ROUNDING = 1e-9  # rounding error of areas from 0 to 100
DAGGER = "†"  # marks unreliable explanations
SPES = "spes"
MIN_RANKED = 3  # the ranks of fewer methods are not compared

Verdict = Literal["better", "worse", "undecided"]


@dataclass(frozen=True)
class MethodResult:
    """The results of one method for the U utterances of an evaluation.

    Attributes:
        curves: the curves by metric: ``"deletion"`` and ``"insertion"``, ``"comprehensiveness"`` and ``"sufficiency"``,
            ``"size"`` and ``"token size"``, the size of the previous tokens' maps. The name includes a baseline other
            than the mean: ``"deletion (noise)"``.
        seconds: the time of each explanation; None if its run was interrupted.
        forwards: for each explanation the number of inputs that passed through the model.
        backwards: for each explanation the number of gradients.
        reliability: for each explanation the mean over its tokens; None for methods that do not measure it.

    Example::

        >>> from captum_spes.metrics import SizeCurve
        >>> from captum_spes.evaluation.results import MethodResult
        >>> import torch
        >>> size = SizeCurve((0, 0.5, 1), torch.tensor([[100.0, 20, 0]]))
        >>> MethodResult({"size": size}, [60.0], [3000], [0], [0.5]).curves["size"].auc
        35.0
    """

    curves: Mapping[str, Curve]
    seconds: Sequence[float | None]
    forwards: Sequence[int]
    backwards: Sequence[int]
    reliability: Sequence[float | None]


@dataclass(frozen=True)
class Agreement:
    """The agreement of two metrics in the ranking of methods.

    Attributes:
        value: Kendall's tau of their areas, −1 to 1.
        low: lower end of the interval over the utterances.
        high: upper end.

    Example::

        >>> from captum_spes.evaluation.results import Agreement
        >>> Agreement(value=0.8, low=0.4, high=1.0).value
        0.8
    """

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Difference:
    """The difference of two areas on the same utterances.

    Attributes:
        value: the difference of the areas.
        low: lower end of the interval.
        high: upper end of the interval.
        verdict: whether the first method is better or worse, or undecided because the interval contains 0 or there are
            fewer than six utterances.

    Example::

        >>> from captum_spes.evaluation.results import Difference
        >>> Difference(value=4.1, low=1.6, high=6.7, verdict="better").verdict
        'better'
    """

    value: float
    low: float
    high: float
    verdict: Verdict


class Results:
    """The evaluation of several methods on the same U utterances.

    Areas are those of the corpus. Intervals are the middle 95 % of the areas of 2,000 corpora of U utterances, drawn
    from the U with replacement; all methods are measured on the same draws, so that two methods can be compared in
    pairs. The word error rate of each text is capped at 100 % (see :class:`~captum_spes.metrics.WordErrorRate`), in
    areas, intervals and tests alike.

    Args:
        utterances: the names of the utterances, at least one.
        methods: the results of each method, at least one, in the order of the tables.
        problems: for each utterance that was left out, by its name, the reason in one sentence.
        settings: the settings of the evaluation, which are stored with the numbers.
        seed: the seed of the draws.
        errors: the words of the corpus by kind of error; None where it has no transcriptions.

    Raises:
        ValueError: there is no utterance or no method, or the methods have no metric in common.

    Example::

        >>> from captum_spes.metrics import DeletionCurve, WordErrorRate
        >>> from captum_spes.evaluation.results import MethodResult, Results
        >>> curves = {"spes": [["so what", ""]] * 6, "energy": [["so what", "what"]] * 6}
        >>> results = Results([f"u{number}" for number in range(6)], {
        ...     name: MethodResult(
        ...         {"deletion": DeletionCurve((0, 50), texts, ["so what"] * 6, WordErrorRate())},
        ...         seconds=[1.0] * 6, forwards=[9] * 6, backwards=[0] * 6,
        ...         reliability=[None] * 6)
        ...     for name, texts in curves.items()})
        >>> results.metrics, results.higher_is_better("deletion")
        (['deletion'], True)
        >>> results.areas("deletion")
        {'spes': 50.0, 'energy': 25.0}
        >>> results.interval("deletion", "spes"), results.area_text("deletion", "spes")
        ((50.0, 50.0), '50.0')
        >>> results.compare("deletion", "energy", "spes")
        Difference(value=-25.0, low=-25.0, high=-25.0, verdict='worse')
        >>> results.winner("deletion"), results.ranking("deletion")
        ('spes', ['spes', 'energy'])
        >>> results.unreliable, results.label("spes")
        ([], 'spes')
        >>> results.table()
        [('method', 'deletion ↑'), ('spes', '50.0 [50.0, 50.0]'), ('energy', '25.0 [25.0, 25.0]')]
        >>> results.paired_table(intervals=False)
        [('against spes', 'deletion'), ('energy', 'worse (−25.0)')]
        >>> results.cost_table()[1]
        ('spes', '9', '0', '1', '')
        >>> results.to_dict()["compared_with"] == results.baseline
        True
        >>> results.agreement("deletion", "deletion"), results.agreement_tables()
        (Agreement(value=1.0, low=1.0, high=1.0), [])
        >>> results.plot(["deletion"]).savefig("deletion.png")
    """

    def __init__(
        self,
        utterances: Sequence[str],
        methods: Mapping[str, MethodResult],
        problems: Mapping[str, str] | None = None,
        settings: Mapping[str, Any] | None = None,
        seed: int = 0,
        errors: WordErrors | None = None,
    ) -> None:
        self.errors = errors
        self.utterances = list(utterances)
        self.methods = dict(methods)
        self.problems = dict(problems or {})
        self.settings = dict(settings or {})
        self.seed = seed
        draws = draw_utterances(max(len(self.utterances), 1), seed)
        self._curves = measured_curves(self.methods, draws) if self.methods and self.utterances else {}
        if not self._curves:
            raise ValueError(
                "there are no results: give utterances, and methods that are measured by the same metrics."
            )

    # Numbers

    @property
    def metrics(self) -> list[str]:
        """The metrics, such as ``"deletion"``, ``"insertion"``, ``"SRG"``, ``"size"`` and ``"token size"``."""
        return list(self._curves)

    def higher_is_better(self, metric: str) -> bool:
        """Whether a good method has a large area."""
        return self._curves[metric].higher_is_better

    def areas(self, metric: str) -> dict[str, float]:
        """The area of each method, from 0 to 100; for SRG, the difference of two accuracies, from −100 to 100."""
        curves = self._curves[metric]
        return {name: float(curves.area(curve)) + 0.0 for name, curve in curves.corpus.items()}  # + 0.0: no -0.0

    def area_text(self, metric: str, method: str) -> str:
        """The area of a method as in tables, with one decimal, or two for nats."""
        return format_number(self.areas(metric)[method], self._curves[metric].digits)

    def interval(self, metric: str, method: str) -> tuple[float, float]:
        """The 95 % interval of a method's area over the utterances."""
        curves = self._curves[metric]
        return interval(curves.area(curves.drawn[method]))

    def compare(self, metric: str, method: str | Sequence[str], other: str | Sequence[str]) -> Difference:
        """The difference between the areas of two methods, with a verdict; for several methods the mean area."""
        groups = [[group] if isinstance(group, str) else group for group in (method, other)]
        curves = self._curves[metric]
        of_corpus, drawn = (
            np.subtract(*(np.mean([curves.area(found[name]) for name in group], axis=0) for group in groups))
            for found in (curves.corpus, curves.drawn)
        )
        return paired_difference(float(of_corpus), drawn, self.higher_is_better(metric), len(self.utterances))

    def winner(self, metric: str) -> str | None:
        """The method that is better than every other by the paired test; None if there is none."""
        best = self.ranking(metric)[0]
        others = self.methods.keys() - {best}
        return best if others and all(self.compare(metric, best, name).verdict == "better" for name in others) else None

    def ranking(self, metric: str) -> list[str]:
        """The methods by their areas, the best first. Neighbours may differ by chance: see :meth:`compare`."""
        areas = self.areas(metric)
        return sorted(areas, key=areas.__getitem__, reverse=self.higher_is_better(metric))

    def agreement(self, metric: str, other: str) -> Agreement:
        """The agreement of two metrics in ranking the methods: Kendall's tau of their areas; ties count as 0.

        The control ``random`` is left out, because its rank says little about the other methods.

        Raises:
            ValueError: there are fewer than two methods besides ``random``.
        """
        pairs = list(combinations([name for name in self.methods if name != "random"], 2))
        if not pairs:
            raise ValueError("there are fewer than two methods besides random, so that ranks cannot be compared.")

        def better(name: str, drawn: bool) -> np.ndarray:
            """Whether the first or the second of each pair is better, 1 or −1, (…, pairs)."""
            curves = self._curves[name]
            found = curves.drawn if drawn else curves.corpus
            differences = [curves.area(found[a]) - curves.area(found[b]) for a, b in pairs]
            return (1 if curves.higher_is_better else -1) * np.sign(np.stack(differences, axis=-1))

        of_corpus, of_draws = (np.mean(better(metric, drawn) * better(other, drawn), -1) for drawn in (False, True))
        return Agreement(float(of_corpus), *interval(of_draws))

    @property
    def baseline(self) -> str:
        """The method with which the others are compared, ``"spes"`` or else the first."""
        return SPES if SPES in self.methods else next(iter(self.methods))

    @property
    def unreliable(self) -> list[str]:
        """The methods whose explanations have a median reliability below 0.5, so that another seed gives other maps."""
        known = {name: _median(result.reliability) for name, result in self.methods.items()}
        return [name for name, value in known.items() if value is not None and value < LOW_RELIABILITY]

    def to_dict(self) -> dict[str, Any]:
        """All numbers as plain values for JSON."""
        methods: dict[str, dict[str, Any]] = {}
        for name, result in self.methods.items():
            methods[name] = {metric: self._entry(metric, name) for metric in self.metrics}
            methods[name] |= {
                "forwards": _median(result.forwards),
                "backwards": _median(result.backwards),
                "seconds": _median(result.seconds),
                "reliability": _median(result.reliability),
            }
        return {
            "settings": self.settings,
            "n_utterances": len(self.utterances),
            "problems": self.problems,
            "level": LEVEL,
            "n_resamples": N_RESAMPLES,
            "seed_of_resamples": self.seed,
            "compared_with": self.baseline,
            "methods": methods,
            "words": None if self.errors is None else self.errors.to_dict(),
            "utterances": self._by_utterance(),
        }

    def _entry(self, metric: str, method: str) -> dict[str, Any]:
        curves = self._curves[metric]
        entry: dict[str, Any] = {
            "auc": self.areas(metric)[method],
            "interval": self.interval(metric, method),
            "higher_is_better": curves.higher_is_better,
        }
        if method != self.baseline:
            entry["difference"] = {**vars(self.compare(metric, method, self.baseline))}
        return {**entry, "steps": list(curves.steps), "scores": curves.corpus[method].tolist()}

    def _by_utterance(self) -> dict[str, Any]:
        """The area of every single utterance, for further statistics."""
        return {
            utterance: {
                metric: {method: float(curves.area(rows[number])) for method, rows in curves.utterances.items()}
                for metric, curves in self._curves.items()
            }
            for number, utterance in enumerate(self.utterances)
        }

    # Tables

    def label(self, method: str) -> str:
        """A method's name in the tables, with a dagger if its explanations are unreliable."""
        return f"{method} {DAGGER}" if method in self.unreliable else method

    def table(self, bold: bool = False) -> list[tuple[str, ...]]:
        """A table with a row for each method, the header first: areas with intervals, as in the paper's Table 1.

        Args:
            bold: whether the area of a metric's :meth:`winner` is bold.
        """
        arrows = {metric: "↑" if self.higher_is_better(metric) else "↓" for metric in self.metrics}
        columns = [self._column(metric, bold) for metric in self.metrics]
        rows = [("method", *(f"{metric} {arrows[metric]}" for metric in self.metrics))]
        return rows + [(self.label(name), *(column[name] for column in columns)) for name in self.methods]

    def cost_table(self) -> list[tuple[str, ...]]:
        """A table with a row for each method, the header first: the costs and the reliability of explanations."""
        rows: list[tuple[str, ...]] = [("method", "forwards", "backwards", "seconds", "reliability")]
        for name, result in self.methods.items():
            costs = (_format(_median(values)) for values in (result.forwards, result.backwards, result.seconds))
            reliability = _median(result.reliability)
            rows.append((self.label(name), *costs, "" if reliability is None else f"{reliability:.2f}"))
        return rows

    def _column(self, metric: str, bold: bool) -> dict[str, str]:
        winner, digits = self.winner(metric) if bold else None, self._curves[metric].digits
        cells = {}
        for name in self.methods:
            text = self.area_text(metric, name)
            if name == winner:
                text = f"**{text}**"
            if len(self.utterances) > 1:
                low, high = self.interval(metric, name)
                text += f" [{format_number(low, digits)}, {format_number(high, digits)}]"
            cells[name] = text
        return cells

    def paired_table(self, intervals: bool = True) -> list[tuple[str, ...]]:
        """A table with a row for each method, the header first: verdicts and differences compared with SPES."""
        rows: list[tuple[str, ...]] = [(f"against {self.baseline}", *self.metrics)]
        for name in self.methods:
            if name != self.baseline:
                cells = (
                    _describe(self.compare(metric, name, self.baseline), intervals, curves.digits)
                    for metric, curves in self._curves.items()
                )
                rows.append((self.label(name), *cells))
        return rows

    def agreement_tables(self) -> list[list[tuple[str, ...]]]:
        """Tables of the agreement of faithfulness metrics in ranking methods: one of metrics, and one of baselines.

        A table is left out if there are fewer than three methods besides ``random``, only one metric, or only one
        baseline.
        """
        if len(self.methods.keys() - {"random"}) < MIN_RANKED:
            return []
        names: dict[str, dict[str, str]] = {}  # names by metric and baseline
        for name in self.metrics:
            metric, baseline = split_baseline(name)
            if metric not in ("size", "token size"):
                names.setdefault(metric, {})[baseline] = name
        tables = []
        first = [next(iter(variants.values())) for variants in names.values()]
        if len(first) > 1:
            rows = [(a, *("" if a == b else self._tau(a, b) for b in first)) for a in first]
            tables.append([("Kendall's tau", *first), *rows])
        pairs = list(combinations(dict.fromkeys(baseline for variants in names.values() for baseline in variants), 2))
        if pairs:
            rows = [
                (metric, *(self._tau(known[a], known[b]) if {a, b} <= known.keys() else "" for a, b in pairs))
                for metric, known in names.items()
            ]
            tables.append([("Kendall's tau", *(f"{a}, {b}" for a, b in pairs)), *rows])
        return tables

    def _tau(self, metric: str, other: str) -> str:
        found = self.agreement(metric, other)
        return f"{format_number(found.value, 2)} [{format_number(found.low, 2)}, {format_number(found.high, 2)}]"

    # Pictures

    def plot(self, metrics: Sequence[str] | None = None) -> Figure:
        """Draws the curves of all or some metrics with their intervals (paper, Fig. 5 and 6)."""
        shown = metrics or [name for name, curves in self._curves.items() if curves.title is not None]
        return plot_curves([self._panel(name) for name in shown])

    def _panel(self, name: str) -> CurvePanel:
        curves = self._curves[name]
        return CurvePanel(
            curves.title or name,
            curves.x_label,
            curves.y_label,
            steps=curves.steps,
            curves=curves.corpus,
            bands={method: np.quantile(drawn, interval_ends(), axis=0) for method, drawn in curves.drawn.items()},
            y_range=curves.y_range,
            auc=self.areas(name),
        )

    # Files

    def save(self, folder: Path) -> list[Path]:
        """Writes results.json, summary.md, curves.csv and curves.png into a folder.

        Example::

            >>> from pathlib import Path
            >>> from captum_spes.metrics import DeletionCurve, WordErrorRate
            >>> from captum_spes.evaluation.results import MethodResult, Results
            >>> curve = DeletionCurve((0, 50), [["so what", ""]], ["so what"], WordErrorRate())
            >>> results = Results(["speech"], {"spes": MethodResult({"deletion": curve}, [1.0], [9], [0], [0.8])})
            >>> [path.name for path in results.save(Path("."))]
            ['results.json', 'summary.md', 'curves.csv', 'curves.png']
            >>> results.markdown().splitlines()[0]
            '# Model on 1 utterance'
        """
        paths = [folder / name for name in ("results.json", "summary.md", "curves.csv", "curves.png")]
        write_json(paths[0], self.to_dict())
        write_atomically(paths[1], self.markdown())
        write_atomically(paths[2], self._csv())
        write_figure(paths[3], self.plot())
        return paths

    def markdown(self) -> str:
        """The text of summary.md: the findings in two sentences, the curves, the tables, and notes on them."""
        return summary(self)

    def _csv(self) -> str:
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(("metric", "method", "step", "score", "low", "high"))
        for name, curves in self._curves.items():
            for method, curve in curves.corpus.items():
                bands = np.quantile(curves.drawn[method], interval_ends(), axis=0)
                for row in zip(curves.steps, curve.tolist(), *bands.tolist()):
                    writer.writerow((name, method, *(f"{value:.6g}" for value in row)))
        return text.getvalue()


def paired_difference(value: float, drawn: np.ndarray, higher_is_better: bool, n_utterances: int) -> Difference:
    """A difference of areas with its interval over the draws (R,), and the verdict."""
    low, high = interval(drawn)
    sign = 1 if higher_is_better else -1
    decided = n_utterances >= MIN_PAIRS and (low > ROUNDING or high < -ROUNDING)
    verdict: Verdict = "undecided" if not decided else "better" if sign * low > 0 else "worse"
    return Difference(value, low, high, verdict)


def _describe(difference: Difference, interval: bool, digits: int) -> str:
    value, low, high = (format_number(end, digits, "+") for end in (difference.value, difference.low, difference.high))
    return f"{difference.verdict} ({value} [{low}, {high}])" if interval else f"{difference.verdict} ({value})"


def _median(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None


def _format(value: float | None) -> str:
    return "" if value is None else f"{value:,.1f}" if value < 100 and value % 1 else f"{value:,.0f}"
