"""What an evaluation found: areas with intervals, curves, paired tests, and the table and figure of them."""

from __future__ import annotations

import csv
import io
import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from captum_spes._files import markdown_line, markdown_table, write_atomically
from captum_spes.metrics import DeletionCurve, SizeCurve
from captum_spes.metrics._bootstrap import LEVEL, N_RESAMPLES, draw_utterances, interval, interval_ends
from captum_spes.metrics._curve import auc
from captum_spes.metrics.text import TextScore
from captum_spes.visualization import CurvePanel, plot_curves

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# With fewer pairs no two-sided test at 5 % can decide: the sign test's smallest p of five is 6 %.
MIN_PAIRS = 6
ROUNDING = 1e-9  # of areas from 0 to 100
SPES = "spes"

Verdict = Literal["better", "worse", "undecided"]


@dataclass(frozen=True)
class MethodResult:
    """What one method reached on the U utterances of an evaluation.

    Attributes:
        deletion: what was written without the top bins; None where that was not measured.
        insertion: and with the top bins alone.
        sizes: of the maps of each input, ``"spectrogram"`` and ``"tokens"``.
        seconds: that each explanation took; None where a run was stopped before that was written down.
        forwards: inputs that passed through the model for each explanation.
        backwards: gradients for each.
        reliability: of each, the mean over its tokens; None for methods that do not tell.

    Example::

        >>> from captum_spes.metrics import SizeCurve
        >>> from captum_spes.evaluation.results import MethodResult
        >>> import torch
        >>> size = SizeCurve((0, 0.5, 1), torch.tensor([[100.0, 20, 0]]))
        >>> MethodResult(None, None, {"spectrogram": size}, [60.0], [3000], [0], [0.5]).sizes["spectrogram"].auc
        35.0
    """

    deletion: DeletionCurve | None
    insertion: DeletionCurve | None
    sizes: Mapping[str, SizeCurve]
    seconds: Sequence[float | None]
    forwards: Sequence[int]
    backwards: Sequence[int]
    reliability: Sequence[float | None]


@dataclass(frozen=True)
class Difference:
    """How much larger one area is than another on the same utterances.

    Attributes:
        value: of the areas, in which each utterance's WER is capped at 100.
        low: lower end of the interval.
        high: upper end.
        verdict: what that says of the first: whether it is better or worse, or that the interval holds 0 or the
            utterances are fewer than six.

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

    Areas are those of the corpus. Intervals come from 2,000 corpora of U utterances, drawn from the U with
    replacement; all methods are measured on the same draws, so that two methods can be compared in pairs. In the
    draws, and in all comparisons, each utterance's WER is capped at 100 %, lest one text that loops decides them. An
    interval is the middle 95 % of the draws, laid around the area of the corpus, which has the authors' cap alone.

    Args:
        utterances: their names, one or more.
        methods: what each method reached, in the order of the tables; one or more.
        problems: what was left out, by name: the reason in one sentence.
        settings: how it was done, to be kept with the numbers.
        seed: of the draws.

    Raises:
        ValueError: no utterance, no method, or methods that have no metric in common.

    Example::

        >>> from captum_spes.metrics import DeletionCurve, WordErrorRate
        >>> from captum_spes.evaluation.results import MethodResult, Results
        >>> curves = {"spes": [["so what", ""]] * 6, "random": [["so what", "what"]] * 6}
        >>> results = Results([f"u{number}" for number in range(6)], {
        ...     name: MethodResult(
        ...         DeletionCurve((0, 50), texts, ["so what"] * 6, WordErrorRate()), None, {},
        ...         seconds=[1.0] * 6, forwards=[9] * 6, backwards=[0] * 6,
        ...         reliability=[None] * 6)
        ...     for name, texts in curves.items()})
        >>> results.metrics, results.higher_is_better("deletion")
        (['deletion'], True)
        >>> results.areas("deletion")
        {'spes': 50.0, 'random': 25.0}
        >>> results.interval("deletion", "spes")
        (50.0, 50.0)
        >>> results.compare("deletion", "random", "spes")
        Difference(value=-25.0, low=-25.0, high=-25.0, verdict='worse')
        >>> results.table()
        [('method', 'deletion ↑'), ('spes', '50.0 [50.0, 50.0]'), ('random', '25.0 [25.0, 25.0]')]
        >>> results.paired_table(intervals=False)
        [('against spes', 'deletion'), ('random', 'worse (−25.0)')]
        >>> results.cost_table()[1]
        ('spes', '9', '0', '1', '')
        >>> results.to_dict()["compared_with"] == results.baseline
        True
        >>> results.plot(["deletion"]).savefig("deletion.png")
    """

    def __init__(
        self,
        utterances: Sequence[str],
        methods: Mapping[str, MethodResult],
        problems: Mapping[str, str] | None = None,
        settings: Mapping[str, Any] | None = None,
        seed: int = 0,
    ) -> None:
        self.utterances = list(utterances)
        self.methods = dict(methods)
        self.problems = dict(problems or {})
        self.settings = dict(settings or {})
        self.seed = seed
        self._metrics = _measured(self.methods) if self.methods else {}
        if not self.utterances or not self._metrics:
            raise ValueError(
                "there are no results: give utterances, and methods that are measured by the same metrics."
            )
        draws = draw_utterances(len(self.utterances), seed)
        # curves of the draws, (R, S), by metric and method
        self._drawn = {name: metric.draw(draws) for name, metric in self._metrics.items()}

    # Numbers

    @property
    def metrics(self) -> list[str]:
        """What was measured, some of ``"deletion"``, ``"insertion"``, ``"SRG"``, ``"size"`` and ``"token size"``."""
        both = "deletion" in self._metrics and "insertion" in self._metrics
        names = [name for name in ("deletion", "insertion") if name in self._metrics]
        return [*names, *(["SRG"] if both else []), *(name for name in ("size", "token size") if name in self._metrics)]

    def higher_is_better(self, metric: str) -> bool:
        """Whether a good method has a large area."""
        return metric == "SRG" or self._metrics[metric].higher_is_better

    def areas(self, metric: str) -> dict[str, float]:
        """The area of each method: 0 to 100; of SRG, insertion less deletion in accuracy, −100 to 100."""
        if metric == "SRG":
            deleted, inserted = self.areas("deletion"), self.areas("insertion")
            return {name: self._srg_sign * (inserted[name] - deleted[name]) + 0.0 for name in deleted}  # no -0.0
        found = self._metrics[metric]
        return {name: float(auc(found.steps, curve)) for name, curve in found.curves.items()}

    def interval(self, metric: str, method: str) -> tuple[float, float]:
        """The 95 % interval of a method's area over the utterances."""
        if metric == "SRG":
            inserted, deleted = (self._around(name, method) for name in ("insertion", "deletion"))
            drawn = self._srg_sign * (inserted - deleted)
        else:
            drawn = self._around(metric, method)
        return interval(auc(self._steps(metric), drawn))

    def compare(self, metric: str, method: str | Sequence[str], other: str | Sequence[str]) -> Difference:
        """A method's area less another's, and whether that makes it better; of several methods the mean area."""
        groups = [[group] if isinstance(group, str) else group for group in (method, other)]
        of_all, drawn = (
            np.subtract(*(np.mean([areas(metric, name) for name in group], axis=0) for group in groups))
            for areas in (self._bounded_areas, self._drawn_areas)
        )
        low, high = interval(drawn)
        sign = 1 if self.higher_is_better(metric) else -1
        decided = len(self.utterances) >= MIN_PAIRS and (low > ROUNDING or high < -ROUNDING)
        verdict: Verdict = "undecided" if not decided else "better" if sign * low > 0 else "worse"
        return Difference(float(of_all), low, high, verdict)

    @property
    def baseline(self) -> str:
        """The method that the others are compared with, ``"spes"`` or the first."""
        return SPES if SPES in self.methods else next(iter(self.methods))

    @property
    def _srg_sign(self) -> int:
        return 1 if self._metrics["insertion"].higher_is_better else -1

    def _steps(self, metric: str) -> tuple[float, ...]:
        return self._metrics["deletion" if metric == "SRG" else metric].steps

    def _bounded_areas(self, metric: str, method: str) -> np.ndarray:
        """The area with each utterance's own score limited, ()."""
        return self._areas_of(metric, method, {name: found.bounded_curves for name, found in self._metrics.items()})

    def _drawn_areas(self, metric: str, method: str) -> np.ndarray:
        """The same of each draw, (R,)."""
        return self._areas_of(metric, method, self._drawn)

    def _areas_of(self, metric: str, method: str, curves: Mapping[str, Mapping[str, np.ndarray]]) -> np.ndarray:
        if metric == "SRG":
            inserted, deleted = (curves[name][method] for name in ("insertion", "deletion"))
            return auc(self._steps(metric), self._srg_sign * (inserted - deleted))
        return auc(self._steps(metric), curves[metric][method])

    def _around(self, metric: str, method: str) -> np.ndarray:
        """The curves of the draws, (R, S), moved to where the curve of the corpus is."""
        found = self._metrics[metric]
        shift = found.curves[method] - found.bounded_curves[method]
        return np.clip(self._drawn[metric][method] + shift, 0, 100)

    def to_dict(self) -> dict[str, Any]:
        """All numbers, as JSON holds them."""
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
            "utterances": self._by_utterance(),
        }

    def _entry(self, metric: str, method: str) -> dict[str, Any]:
        entry: dict[str, Any] = {
            "auc": self.areas(metric)[method],
            "interval": self.interval(metric, method),
            "higher_is_better": self.higher_is_better(metric),
        }
        if method != self.baseline:
            found = self.compare(metric, method, self.baseline)
            entry["difference"] = {**vars(found)}
        if metric in self._metrics:
            curve = self._metrics[metric]
            entry |= {"steps": list(curve.steps), "scores": curve.curves[method].tolist()}
        return entry

    def _by_utterance(self) -> dict[str, Any]:
        """The area of every utterance alone: what other statistics may start from."""
        return {
            utterance: {
                metric: {
                    method: float(auc(found.steps, found.score(counts[number])))
                    for method, counts in found.counts.items()
                }
                for metric, found in self._metrics.items()
            }
            for number, utterance in enumerate(self.utterances)
        }

    # Tables

    def table(self, bold: bool = False) -> list[tuple[str, ...]]:
        """A row a method, the header first: areas with their intervals, as in the paper's Table 1."""
        arrows = {metric: "↑" if self.higher_is_better(metric) else "↓" for metric in self.metrics}
        columns = [self._column(metric, bold) for metric in self.metrics]
        rows = [("method", *(f"{metric} {arrows[metric]}" for metric in self.metrics))]
        return rows + [(name, *(column[name] for column in columns)) for name in self.methods]

    def cost_table(self) -> list[tuple[str, ...]]:
        """A row a method, the header first: what an explanation took, and how far halves of its samples agree."""
        rows: list[tuple[str, ...]] = [("method", "forwards", "backwards", "seconds", "reliability")]
        for name, result in self.methods.items():
            costs = (_format(_median(values)) for values in (result.forwards, result.backwards, result.seconds))
            reliability = _median(result.reliability)
            rows.append((name, *costs, "" if reliability is None else f"{reliability:.2f}"))
        return rows

    def _column(self, metric: str, bold: bool) -> dict[str, str]:
        areas = self.areas(metric)
        best = (max if self.higher_is_better(metric) else min)(areas.values())
        cells = {}
        for name, area in areas.items():
            text = _number(area)
            if bold and round(area, 1) == round(best, 1):
                text = f"**{text}**"
            if len(self.utterances) > 1:
                low, high = self.interval(metric, name)
                text += f" [{_number(low)}, {_number(high)}]"
            cells[name] = text
        return cells

    def paired_table(self, intervals: bool = True) -> list[tuple[str, ...]]:
        """A row a method, the header first: whether it is better or worse than SPES, and by how much."""
        rows: list[tuple[str, ...]] = [(f"against {self.baseline}", *self.metrics)]
        for name in self.methods:
            if name != self.baseline:
                found = (self.compare(metric, name, self.baseline) for metric in self.metrics)
                rows.append((name, *(_describe(difference, intervals) for difference in found)))
        return rows

    # Pictures

    def plot(self, metrics: Sequence[str] | None = None) -> Figure:
        """The curves of deletion, insertion and size with their intervals (paper, Fig. 5 and 6); of all, or some."""
        return plot_curves([self._panel(name) for name in metrics or self._metrics])

    def _panel(self, name: str) -> CurvePanel:
        metric = self._metrics[name]
        return CurvePanel(
            metric.title,
            metric.x_label,
            metric.y_label,
            steps=metric.steps,
            curves=metric.curves,
            bands={method: np.quantile(self._around(name, method), interval_ends(), axis=0) for method in self.methods},
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
            >>> results = Results(["speech"], {"spes": MethodResult(curve, None, {}, [1.0], [9], [0], [0.8])})
            >>> [path.name for path in results.save(Path("."))]
            ['results.json', 'summary.md', 'curves.csv', 'curves.png']
            >>> results.markdown().splitlines()[0]
            '# Model on 1 utterance'
        """
        paths = [folder / name for name in ("results.json", "summary.md", "curves.csv", "curves.png")]
        write_atomically(paths[0], json.dumps(self.to_dict(), indent=1, ensure_ascii=False) + "\n")
        write_atomically(paths[1], self.markdown())
        write_atomically(paths[2], self._csv())
        picture = io.BytesIO()
        self.plot().savefig(picture, dpi=150)
        write_atomically(paths[3], picture.getvalue())
        return paths

    def markdown(self) -> str:
        """The tables, and what is to be known of them."""
        lines = [
            f"# {markdown_line(self.settings.get('model', 'Model'))} on {_count(len(self.utterances), 'utterance')}",
            "",
            *markdown_table(self.table(bold=True)),
            "",
            *(f"- {note}" for note in self._notes()),
            "",
        ]
        lines += ["## Cost of an explanation", "", "The median.", "", *markdown_table(self.cost_table()), ""]
        if len(self.methods) > 1:
            lines += [
                f"## Against {self.baseline}",
                "",
                "Differences of the areas on the same draws, with the cap of the intervals: better or worse where the "
                f"interval leaves out 0. Fewer than {MIN_PAIRS} utterances decide nothing.",
                "",
                *markdown_table(self.paired_table()),
                "",
            ]
        if self.problems:
            lines += [
                "## Left out",
                "",
                *(f"- {markdown_line(f'{name}: {reason}')}" for name, reason in self.problems.items()),
                "",
            ]
        methods = self.settings.get("methods", {})
        given = {**self.settings, **{f"method {name}": value for name, value in methods.items()}}
        given.pop("methods", None)
        lines += [
            "## Settings",
            "",
            *(f"- {key}: `{json.dumps(value, ensure_ascii=False)}`" for key, value in given.items()),
        ]
        return "\n".join(lines) + "\n"

    def _notes(self) -> list[str]:
        capped = ""
        notes = []
        if "deletion" in self._metrics or "insertion" in self._metrics:
            score = next(metric.how for metric in self._metrics.values() if metric.how is not None)
            if score.name == "WER":
                capped = ", in which each utterance's WER is capped at 100"
            notes.append(
                f"Deletion, insertion: area under the {score.name} as the top bins of the sentence map are taken away, "
                "or put into an empty spectrogram; divided by the range of the steps, so that it reads 0 to 100."
            )
        if "SRG" in self.metrics:
            notes.append(
                "SRG: symmetric relevance gain, insertion less deletion in accuracy. A random order has about 0."
            )
        if "size" in self._metrics:
            notes.append("Size: area under the percentage of features above a threshold from 0 to 1.")
        return [
            *notes,
            f"In brackets: {LEVEL} % intervals over the utterances ({N_RESAMPLES:,} bootstrap draws){capped}.",
            "The best area of a column is bold.",
            *(
                ["random and energy (the spectrogram minus its baseline) know nothing of the model: floors to beat."]
                if {"random", "energy"} & self.methods.keys()
                else []
            ),
        ]

    def _csv(self) -> str:
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(("metric", "method", "step", "score", "low", "high"))
        for name, metric in self._metrics.items():
            for method, curve in metric.curves.items():
                bands = np.quantile(self._around(name, method), interval_ends(), axis=0)
                for row in zip(metric.steps, curve.tolist(), *bands.tolist()):
                    writer.writerow((name, method, *(f"{value:.6g}" for value in row)))
        return text.getvalue()


@dataclass(frozen=True)
class _Metric:
    """A curve a method of one metric: counts of each utterance and step that add up, (U, S, n), by method."""

    title: str
    x_label: str
    y_label: str
    higher_is_better: bool
    steps: tuple[float, ...]
    counts: dict[str, np.ndarray]
    bounded: dict[str, np.ndarray]  # with one utterance's part limited
    how: TextScore | None  # None: the mean

    @classmethod
    def of_texts(cls, deleting: bool, found: dict[str, DeletionCurve]) -> _Metric:
        first = next(iter(found.values()))
        counts = {name: curve.counts for name, curve in found.items()}
        return cls(
            "Deletion" if deleting else "Insertion",
            f"bins {'deleted' if deleting else 'inserted'}, most important first (%)",
            first.score.name + (" (%)" if first.score.name == "WER" else ""),
            first.score.higher_is_better != deleting,
            first.steps,
            counts,
            {name: first.score.bounded(values) for name, values in counts.items()},
            first.score,
        )

    @classmethod
    def of_sizes(cls, inputs: str, found: dict[str, SizeCurve]) -> _Metric:
        counts = {name: curve.utterance_scores.double().numpy()[..., None] for name, curve in found.items()}
        features = "bins" if inputs == "spectrogram" else "previous tokens"
        return cls(
            f"Size, {inputs}",
            "threshold of the normalised attribution",
            f"{features} above (%)",
            False,
            next(iter(found.values())).steps,
            counts,
            counts,
            None,
        )

    def score(self, counts: np.ndarray, n_utterances: int = 1) -> np.ndarray:
        """Of sums of counts over some utterances, (…, S, n) to (…, S)."""
        return counts[..., 0] / n_utterances if self.how is None else self.how.score(counts)

    @cached_property
    def curves(self) -> dict[str, np.ndarray]:
        """Of all utterances together, (S,)."""
        return {name: self.score(counts.sum(0), len(counts)) for name, counts in self.counts.items()}

    @cached_property
    def bounded_curves(self) -> dict[str, np.ndarray]:
        """With each utterance's own score limited, (S,)."""
        return {name: self.score(counts.sum(0), len(counts)) for name, counts in self.bounded.items()}

    def draw(self, draws: np.ndarray) -> dict[str, np.ndarray]:
        """Curves (R, S) of R draws, each of which tells how often it holds each utterance, (R, U)."""
        return {
            name: self.score(np.tensordot(draws, counts, axes=1), draws.shape[1])
            for name, counts in self.bounded.items()
        }


def _measured(methods: Mapping[str, MethodResult]) -> dict[str, _Metric]:
    """What all methods were measured by."""
    metrics = {}
    for name in ("deletion", "insertion"):
        curves = {method: getattr(result, name) for method, result in methods.items()}
        if all(curve is not None for curve in curves.values()):
            metrics[name] = _Metric.of_texts(name == "deletion", curves)
    for name, inputs in (("size", "spectrogram"), ("token size", "tokens")):
        sizes = {method: result.sizes.get(inputs) for method, result in methods.items()}
        known = {method: size for method, size in sizes.items() if size is not None}
        if len(known) == len(methods):
            metrics[name] = _Metric.of_sizes(inputs, known)
    return metrics


def _describe(difference: Difference, interval: bool) -> str:
    value, low, high = (_number(number, "+") for number in (difference.value, difference.low, difference.high))
    return f"{difference.verdict} ({value} [{low}, {high}])" if interval else f"{difference.verdict} ({value})"


def _number(value: float, sign: str = "") -> str:
    """With one decimal, a true minus, and no minus at all before 0."""
    return f"{round(value, 1) + 0.0:{sign}.1f}".replace("-", "−")


def _median(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None


def _format(value: float | None) -> str:
    return "" if value is None else f"{value:,.1f}" if value < 100 and value % 1 else f"{value:,.0f}"


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}{'' if number == 1 else 's'}"
