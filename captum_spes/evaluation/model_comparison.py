"""Compares two models on one recording: their texts, the maps of shared words, and contrasts of other words."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from captum_spes._files import write_atomically, write_figure, write_json
from captum_spes._text import markdown_line, markdown_table
from captum_spes.audio import Recording
from captum_spes.errors import explain_errors
from captum_spes.errors.finding import differing_words
from captum_spes.evaluation.comparison import RANK_LABEL, TOP_RANKS
from captum_spes.explanation import SpeechToTextExplanation
from captum_spes.explanation.errors import TextError
from captum_spes.explanation.figures import relative
from captum_spes.maps import percentile_ranks
from captum_spes.models.protocol import SpeechToTextModel, Tokens, Utterance
from captum_spes.speech_to_text.targets import Contrast
from captum_spes.visualization import plot_comparison
from captum_spes.visualization.report import ReportMethod, ReportView, render_report

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, eq=False)
class Side:
    """One model's utterance, text and explanation of a recording.

    Attributes:
        model: the model.
        utterance: the recording as the model's input.
        tokens: the tokens that the model wrote.
        explanation: the explanation of these tokens, with one row for each.
        explain: a function that explains a contrast in the model's text.

    Example::

        >>> from captum_spes import SPES, SpeechToTextAttribution
        >>> from captum_spes.evaluation.model_comparison import Side
        >>> from captum_spes.models import load_model
        >>> attribution = SpeechToTextAttribution(SPES(load_model("whisper-tiny.en")))
        >>> utterance, tokens = attribution.prepare("speech.wav", "so what")
        >>> explanation = attribution.attribute(utterance, tokens, n_samples=30)
        >>> side = Side(attribution.model, utterance, tokens, explanation, explain=lambda contrast: explanation)
    """

    model: SpeechToTextModel
    utterance: Utterance
    tokens: Tokens
    explanation: SpeechToTextExplanation
    explain: Callable[[Contrast], SpeechToTextExplanation]


def check_shapes(names: Sequence[str], first: Tensor, second: Tensor) -> None:
    """Raises a ValueError if two models hear spectrograms (T, C) of other shapes."""
    shapes = tuple(first.shape), tuple(second.shape)
    if shapes[0] != shapes[1]:
        raise ValueError(
            f"{names[0]} hears a spectrogram of {shapes[0]} frames and channels, and {names[1]} one of {shapes[1]}: "
            "their maps have no common scale. Compare models of one family."
        )


class ModelComparison:
    """Aligns the texts that two models wrote of one recording, and explains their differences.

    The maps of words that both models wrote are shown side by side. For each difference, a contrast in each model
    compares its own words with those of the other model.

    Args:
        names: the names of the two models.
        sides: the utterance, text and explanation of each model.

    Raises:
        ValueError: the models have spectrograms of different shapes, or the texts have no word in common.

    Example::

        >>> from pathlib import Path
        >>> from captum_spes import SPES, SpeechToTextAttribution
        >>> from captum_spes.evaluation.model_comparison import ModelComparison, Side
        >>> from captum_spes.models import load_model
        >>> model = load_model("whisper-tiny.en")
        >>> attribution = SpeechToTextAttribution(SPES(model))
        >>> sides = []
        >>> for text in ("so what", "so was"):
        ...     prepared = attribution.prepare("speech.wav", text)
        ...     found = attribution.attribute(*prepared, n_samples=30)
        ...     explain = lambda contrast, prepared=prepared: attribution.attribute(
        ...         *prepared, contrast=contrast, n_samples=30)
        ...     sides.append(Side(model, *prepared, found, explain))
        >>> comparison = ModelComparison(["first", "second"], sides)
        >>> comparison.explain_differences()
        >>> [[error.title for error in pair] for pair in comparison.differences], comparison.shared
        ([['what (not was)', 'was (not what)']], [(0, 0)])
        >>> sorted(comparison.to_dict()), comparison.markdown().splitlines()[0]
        (['differences', 'shared_words', 'texts'], '# 1 difference between first and second')
        >>> comparison.table()[0]
        ('', 'kind', 'first', 'second', 'first: own', 'first: other', 'second: own', 'second: other')
        >>> comparison.plot_words().savefig("words.png")
        >>> '"errors"' in comparison.html(None)
        True
        >>> [path.name for path in comparison.save(Path("."), None)]
        ['comparison.json', 'comparison.md', 'words.png', 'report.html']
    """

    def __init__(self, names: Sequence[str], sides: Sequence[Side]) -> None:
        self.names = list(names)
        self.sides = list(sides)
        first, second = (side.explanation for side in self.sides)
        check_shapes(names, first.spectrogram, second.spectrogram)
        #: for each difference, the error of the first text against the second, and of the second against the first
        self.differences, self.shared = differing_words(first, second)

    def explain_differences(self, callback: Callable[[TextError], Any] | None = None) -> None:
        """Explains each difference in both models; ``callback`` is called with each error that is explained."""
        found: list[list[TextError]] = []
        for side, errors in zip(self.sides, zip(*self.differences)):
            explained = []
            for error in explain_errors(errors, side.model, side.utterance, side.tokens, side.explain):
                explained.append(error)
                if callback is not None:
                    callback(error)
            found.append(explained)
        self.differences = list(zip(*found))

    # Tables

    def table(self) -> list[tuple[str, ...]]:
        """A header and a row for each difference: the words of each model, and each model's probability of both."""
        rows: list[tuple[str, ...]] = [
            ("", "kind", *self.names, *(f"{name}: {whose}" for name in self.names for whose in ("own", "other")))
        ]
        for number, pair in enumerate(self.differences, 1):
            shares = [share for error in pair for share in (error.probability, error.expected_probability)]
            kind = "other words" if pair[0].kind == "substitution" else "only one"
            rows.append(
                (
                    str(number),
                    kind,
                    *(error.written for error in pair),
                    *("" if p is None else f"{p:.2g}" for p in shares),
                )
            )
        return rows

    def to_dict(self) -> dict[str, Any]:
        """The shared words and the differences, as values for a JSON file."""
        return {
            "texts": {name: side.explanation.text for name, side in zip(self.names, self.sides)},
            "shared_words": [self._word(0, first) for first, _ in self.shared],
            "differences": [
                {
                    name: {
                        "written": error.written,
                        "probability": error.probability,
                        "probability_of_the_other": error.expected_probability,
                        "heard": error.heard,
                        "reason": error.reason,
                    }
                    for name, error in zip(self.names, pair)
                }
                for pair in self.differences
            ],
        }

    def _word(self, side: int, number: int) -> str:
        return self._words(side).tokens[number]

    def _words(self, side: int) -> SpeechToTextExplanation:
        return self.sides[side].explanation.words()

    # Pictures

    def plot_words(self) -> Figure:
        """Draws the quarter of the bins with the highest ranks, with a row for each model and a column for each word.

        Raises:
            ValueError: the texts have no word in common.
        """
        if not self.shared:
            raise ValueError("the models have no word in common: there is nothing to draw side by side.")
        first = self.sides[0].explanation
        return plot_comparison(
            percentile_ranks(torch.stack([self._shared_maps(side) for side in (0, 1)])),
            first.spectrogram,
            first.frames_per_second,
            first.mel_frequencies,
            methods=self.names,
            titles=[self._word(0, number) for number, _ in self.shared],
            value_label=RANK_LABEL,
            value_range=TOP_RANKS,
        )

    def _shared_maps(self, side: int) -> Tensor:
        maps = self._words(side).spectrogram_attr
        return maps[[numbers[side] for numbers in self.shared]]

    def html(self, recording: Recording | None) -> str:
        """The report of the shared words and the differences, in which a switch selects the model."""
        first = self.sides[0].explanation
        shared = [self._word(0, number) for number, _ in self.shared]
        views = [
            ReportView("words", shared, [(row, row + 1) for row in range(len(shared))], [], [0] * len(shared)),
        ]
        if self.differences:
            titles = [" / ".join(error.written or "(nothing)" for error in pair) for pair in self.differences]
            spans = [(len(shared) + row, len(shared) + row + 1) for row in range(len(titles))]
            notes = [
                " ".join(f"{name}: {error.reason}" for name, error in zip(self.names, pair))
                for pair in self.differences
            ]
            views.append(ReportView("errors", titles, spans, [], [0] * len(titles), notes=notes))
        views = views if shared else views[1:]
        methods = [
            ReportMethod(
                name,
                self._shared_maps(side),
                [torch.zeros(len(view.titles), 0) for view in views],
                facts={"text": self.sides[side].explanation.text, **_facts(self.sides[side].explanation)},
                contrasts=torch.stack([self._map(side, pair[side]) for pair in self.differences])
                if self.differences
                else None,
            )
            for side, name in enumerate(self.names)
        ]
        return render_report(
            " / ".join(dict.fromkeys(side.explanation.text for side in self.sides)),
            first.spectrogram,
            first.frames_per_second,
            first.mel_frequencies,
            views,
            methods,
            audio=None if recording is None else (recording.samples, recording.sampling_rate),
            audio_name="" if recording is None else Path(recording.source.get("audio_file", "")).name,
        )

    def _map(self, side: int, error: TextError) -> Tensor:
        """The map of the contrast of an error or, if it has none, of its words."""
        if error.explanation is not None:
            return relative(error.explanation).spectrogram_attr[0]
        words = self._words(side)
        number = min(error.words[0], len(words.tokens) - 1)
        return words.spectrogram_attr[number : max(error.words[1], number + 1)].mean(0)

    # Files

    def save(self, folder: Path, recording: Recording | None) -> list[Path]:
        """Writes comparison.json, comparison.md, words.png and report.html into a folder."""
        paths = [folder / "comparison.json", folder / "comparison.md"]
        write_json(paths[0], self.to_dict())
        write_atomically(paths[1], self.markdown())
        if self.shared:
            paths.append(folder / "words.png")
            write_figure(paths[-1], self.plot_words())
        paths.append(folder / "report.html")
        write_atomically(paths[-1], self.html(recording))
        return paths

    def markdown(self) -> str:
        """The text of comparison.md."""
        n = len(self.differences)
        lines = [f"# {n or 'No'} difference{'' if n == 1 else 's'} between {' and '.join(self.names)}", ""]
        lines += [f"- {name}: {markdown_line(side.explanation.text)}" for name, side in zip(self.names, self.sides)]
        lines += ["", *(markdown_table(self.table()) if n else []), ""]
        for number, pair in enumerate(self.differences, 1):
            lines += [f"## {number}. {markdown_line(' / '.join(error.written or '(nothing)' for error in pair))}", ""]
            lines += [f"- {name}: {markdown_line(error.reason)}" for name, error in zip(self.names, pair)] + [""]
        if self.shared:
            lines += ["![The words that both wrote](words.png)", ""]
        return "\n".join(lines)


def _facts(explanation: SpeechToTextExplanation) -> dict[str, Any]:
    return {name: explanation.metadata.get(name) for name in ("model", "method", "arguments", "seed", "language")}
