"""Comparison of methods on one utterance: maps, time, passes, infidelity, and rank correlations."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from captum_spes._files import write_atomically, write_figure, write_json
from captum_spes._text import markdown_line, markdown_table
from captum_spes.evaluation._timed import explain_timed
from captum_spes.explanation import SpeechToTextExplanation
from captum_spes.maps import percentile_ranks
from captum_spes.metrics import additive_attributions, infidelity, rank_correlation
from captum_spes.models.protocol import SpeechToTextModel, Tokens, Utterance
from captum_spes.speech_to_text.catalogue import NamedMethod, Preset, absolute, find_method
from captum_spes.speech_to_text.provenance import describe_run
from captum_spes.visualization import plot_comparison

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Fast methods of every kind, which together take some minutes on 2 cores.
DEFAULT_METHODS = (
    "spes",
    "feature_wise",
    "bubble_noise",
    "feature_ablation",
    "occlusion",
    "kernel_shap",
    "integrated_gradients",
    "integrated_gradients_abs",
    "gradient_shap",
    "saliency",
)
# number of random sets of hidden patches for the infidelity
PERTURBATIONS: dict[Preset, int] = {"instant": 64, "fast": 64, "paper": 500}
UNIFORM = "(uniform)"
# the percentile rank from which bins are coloured, which are those that deletion removes first
TOP_RANKS = (75.0, 100.0)
RANK_LABEL = "percentile rank of the bin in its map (%)"


class Comparison:
    """Explanations of the same tokens by several methods.

    Args:
        model: the model.
        utterance: the utterance, from :func:`captum_spes.models.prepare`.
        tokens: the tokens of its text, from :func:`captum_spes.models.prepare`.
        preset: ``"fast"`` for the fast budgets, ``"paper"`` for the full ones, ``"instant"`` for methods that draw no
            samples.
        seed: the seed of all random numbers.
        perturbations_per_eval: perturbations in a batch.
        gen_args: arguments of the generation that wrote the tokens; they are stored.
        folder: folder for each explanation, which is written as soon as it is finished as ``<method>.safetensors``, and
            for the checkpoints of runs that take longer than a minute. Explanations in the folder with the same
            utterance, tokens and arguments are not computed again. Default: explanations are only kept in memory.

    Attributes:
        explanations: the explanation of each method that was run, by its name.
        seconds: the seconds of each method; an absolute variant has those of its method. None for an explanation that
            continued an earlier run.

    Example::

        >>> from pathlib import Path
        >>> from captum_spes.evaluation.comparison import Comparison
        >>> from captum_spes.models import load_model, prepare
        >>> model = load_model("whisper-tiny.en")
        >>> prepared = prepare(model, "speech.wav", "so what")
        >>> comparison = Comparison(model, *prepared, folder=Path("."))
        >>> for name in ("gradient_shap", "integrated_gradients"):
        ...     explanation = comparison.run(name)
        >>> comparison.rank_correlation().shape
        torch.Size([2, 2])
        >>> len(comparison.table()), len(comparison.rank_table())
        (4, 3)
        >>> sorted(comparison.infidelity())
        ['(uniform)', 'gradient_shap', 'integrated_gradients']
        >>> comparison.to_dict()["text"]
        'so what'
        >>> comparison.plot_words().savefig("words.png")
        >>> comparison.plot_sentence().savefig("sentence.png")
        >>> comparison.path("gradient_shap").name
        'gradient_shap.safetensors'
        >>> paths = comparison.save(Path("."))
    """

    def __init__(
        self,
        model: SpeechToTextModel,
        utterance: Utterance,
        tokens: Tokens,
        preset: Preset = "fast",
        seed: int = 0,
        perturbations_per_eval: int | None = None,
        gen_args: dict[str, Any] | None = None,
        folder: Path | None = None,
    ) -> None:
        self.model = model
        self.utterance = utterance
        self.tokens = tokens
        self.preset: Preset = preset
        self.seed = seed
        self.perturbations_per_eval = perturbations_per_eval
        self.gen_args = gen_args
        self.folder = folder
        self.explanations: dict[str, SpeechToTextExplanation] = {}
        self.seconds: dict[str, float | None] = {}
        self._infidelity: dict[str, float | None] = {}

    def run(self, name: str, callback: Callable[[str, int, int], Any] | None = None) -> SpeechToTextExplanation:
        """Explains the tokens by a method of :data:`~captum_spes.speech_to_text.catalogue.METHODS`.

        Args:
            name: name of the method.
            callback: called after every batch as ``callback(stage, done, total)``.

        Raises:
            ValueError: there is no such method, or it cannot explain this model or its tokens; or the folder holds a
                damaged file or another run's checkpoint.
        """
        method = find_method(name)
        if method.arguments.get("sentence"):
            raise ValueError(f"{name} explains the text as a whole, so tokens cannot be compared: leave it out.")
        explanation = self._finished(name) or self._explain(method, name, callback)
        self.explanations[name] = explanation
        self.seconds[name] = explanation.metadata["seconds"]
        return explanation

    def path(self, name: str) -> Path | None:
        """The file of the explanation by a method; None without a folder."""
        return self.folder and self.folder / f"{name}.safetensors"

    def _explain(
        self, method: NamedMethod, name: str, callback: Callable[[str, int, int], Any] | None
    ) -> SpeechToTextExplanation:
        signed = name.removesuffix("_abs")
        if method.absolute and signed in self.explanations:
            explanation = absolute(self.explanations[signed])
        else:
            explanation, seconds = explain_timed(
                method,
                self.model,
                self.utterance,
                self.tokens,
                self.preset,
                self.folder and self.folder / "checkpoints" / name,
                perturbations_per_eval=self.perturbations_per_eval,
                seed=self.seed,
                gen_args=self.gen_args,
                callback=callback,
            )
            explanation.metadata["seconds"] = seconds
        explanation.metadata["compared"] = self._settings(method)
        if (path := self.path(name)) is not None:
            explanation.save(path)
            with suppress(OSError):  # the folder is not empty while others are not finished
                path.with_name("checkpoints").rmdir()
        return explanation

    def _finished(self, name: str) -> SpeechToTextExplanation | None:
        """The explanation that an earlier run with the same settings has written, if any."""
        path = self.path(name)
        if path is None or not path.is_file():
            return None
        explanation = SpeechToTextExplanation.load(path)
        return explanation if explanation.metadata.get("compared") == self._settings(find_method(name)) else None

    def _settings(self, method: NamedMethod) -> dict[str, Any]:
        """The settings of an explanation by a method."""
        arguments = method.arguments_of(self.model, self.preset, len(self.tokens.target))
        return describe_run(self.model, self.utterance, self.tokens, self.preset, self.seed, arguments, self.gen_args)

    # Numbers

    def infidelity(self) -> dict[str, float | None]:
        """The :func:`~captum_spes.metrics.infidelity` of each method, averaged over the tokens; smaller is better.

        ``"(uniform)"`` is that of the control, a map that is the same everywhere. None if spectrogram and tokens were
        perturbed jointly.
        """
        if self._infidelity.keys() != {*self.explanations, UNIFORM}:
            # the offset of a map of both inputs is not known
            found = {name: e for name, e in self.explanations.items() if not e.metadata["joint"]}
            first = next(iter(self.explanations.values()))
            maps = [additive_attributions(explanation) for explanation in found.values()]
            values = infidelity(
                self.model,
                first,
                attributions=torch.stack([*maps, torch.ones_like(first.spectrogram_attr).double()]),
                n_perturb_samples=PERTURBATIONS[self.preset],
                seed=self.seed,
            )
            measured = dict(zip([*found, UNIFORM], values.mean(1).tolist()))
            self._infidelity = {name: measured.get(name) for name in (*self.explanations, UNIFORM)}
        return self._infidelity

    def rank_correlation(self) -> Tensor:
        """Spearman's correlation between the methods' maps, averaged over the tokens: (M, M)."""
        maps = [explanation.spectrogram_attr for explanation in self.explanations.values()]
        correlation = torch.eye(len(maps))
        for row in range(len(maps)):
            for column in range(row):
                value = rank_correlation(maps[row], maps[column]).mean()
                correlation[row, column] = correlation[column, row] = value
        return correlation

    def to_dict(self) -> dict[str, Any]:
        """All numbers as plain values for JSON."""
        explanations = self.explanations.values()
        infidelities = self.infidelity()
        return {
            "text": next(iter(explanations)).text,
            "preset": self.preset,
            "seed": self.seed,
            "methods": {
                name: {
                    "method": explanation.metadata["method"],
                    "score": explanation.metadata["score"],
                    "seconds": self.seconds[name],
                    "passes": explanation.metadata["passes"],
                    "infidelity": infidelities[name],
                    "reliability": None if explanation.reliability is None else float(explanation.reliability.mean()),
                }
                for name, explanation in self.explanations.items()
            },
            "infidelity_of_a_uniform_map": infidelities[UNIFORM],
            "rank_correlation": self.rank_correlation().tolist(),
        }

    # Tables

    def table(self) -> list[tuple[str, ...]]:
        """A table with a row for each method, the header first: its costs and its infidelity."""
        rows: list[tuple[str, ...]] = [
            ("method", "score", "seconds", "forwards", "backwards", "infidelity", "reliability")
        ]
        results = self.to_dict()
        for name, entry in results["methods"].items():
            totals = (str(sum(stage[way] for stage in entry["passes"].values())) for way in ("forward", "backward"))
            numbers = (_rounded(entry["infidelity"], ".3g"), _rounded(entry["reliability"], ".2f"))
            rows.append((name, entry["score"], _rounded(entry["seconds"], ".1f"), *totals, *numbers))
        rows.append((UNIFORM, "", "", "", "", _rounded(results["infidelity_of_a_uniform_map"], ".3g"), ""))
        return rows

    def rank_table(self) -> list[tuple[str, ...]]:
        """A table of the rank correlations of all pairs of methods, the header first."""
        rows: list[tuple[str, ...]] = [
            ("rank correlation", *(str(number) for number in range(1, len(self.explanations) + 1)))
        ]
        for number, (name, values) in enumerate(zip(self.explanations, self.rank_correlation().tolist()), 1):
            rows.append((f"{number} {name}", *(f"{value:.2f}".replace("-", "−") for value in values)))
        return rows

    # Pictures

    def plot_words(self) -> Figure:
        """Draws a row for each method and a column for each word: the quarter of the bins with the highest ranks.

        Ranks are drawn because the distributions of different methods' values differ too much for one scale.
        """
        words = [explanation.words() for explanation in self.explanations.values()]
        return self._plot([explanation.spectrogram_attr for explanation in words], words[0].tokens)

    def plot_sentence(self) -> Figure:
        """Draws the map of the whole text for each method, in ranks as in :meth:`plot_words`."""
        sentences = [explanation.sentence() for explanation in self.explanations.values()]
        return self._plot([explanation.spectrogram_attr for explanation in sentences], sentences[0].tokens)

    def _plot(self, maps: list[Tensor], titles: list[str]) -> Figure:
        first = next(iter(self.explanations.values()))
        return plot_comparison(
            percentile_ranks(torch.stack(maps)),
            first.spectrogram,
            first.frames_per_second,
            first.mel_frequencies,
            methods=[_title(name, explanation) for name, explanation in self.explanations.items()],
            titles=titles,
            value_label=RANK_LABEL,
            value_range=TOP_RANKS,
        )

    # Files

    def save(self, folder: Path) -> list[Path]:
        """Writes comparison.json, comparison.md and the figures, but not the explanations, into a folder."""
        paths = [folder / name for name in ("comparison.json", "comparison.md", "words.png", "sentence.png")]
        write_json(paths[0], self.to_dict())
        write_atomically(paths[1], self._markdown())
        write_figure(paths[2], self.plot_words())
        write_figure(paths[3], self.plot_sentence())
        return paths

    def _markdown(self) -> str:
        entry = self.to_dict()
        return "\n".join(
            [
                f"# {markdown_line(entry['text'])}",
                "",
                f"Budgets: {entry['preset']}; seed {entry['seed']}. Forwards and backwards count inputs that pass "
                "through the model, for the spectrogram and for the previous tokens. Infidelity (smaller is better) is "
                "normalised; the control (uniform) is a map that is the same everywhere. Reliability is the "
                "correlation of two halves of the samples, for methods that measure it.",
                "",
                *markdown_table(self.table()),
                "",
                "Spearman's correlation between the maps of the same token, averaged over the tokens:",
                "",
                *markdown_table(self.rank_table()),
                "",
            ]
        )


def _rounded(value: float | None, digits: str) -> str:
    return "" if value is None else format(value, digits)


def _title(name: str, explanation: SpeechToTextExplanation) -> str:
    """The title of a method's maps: the method or its variant, and the mean reliability if it is known."""
    method = explanation.metadata["method"]
    plain = name.removesuffix("_abs").replace("_", "") == method.strip("|").replace(" ", "").lower()
    title = method if plain else name.replace("_", " ")
    if explanation.reliability is None:
        return title
    return f"{title}, reliability {float(explanation.reliability.mean()):.2f}"
