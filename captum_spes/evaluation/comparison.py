"""Methods head to head on one utterance: maps, time, passes, infidelity, and how far their rankings agree."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from captum_spes._files import markdown_line, markdown_table, write_atomically
from captum_spes.attr.fingerprint import fingerprint
from captum_spes.evaluation._timed import explain_timed
from captum_spes.explanation import SpeechToTextExplanation
from captum_spes.maps import percentile_ranks
from captum_spes.metrics import additive_attributions, infidelity, rank_correlation
from captum_spes.models.protocol import SpeechToTextModel, Tokens, Utterance
from captum_spes.speech_to_text.catalogue import NamedMethod, Preset, absolute, find_method
from captum_spes.speech_to_text.provenance import describe_arguments, describe_inputs
from captum_spes.visualization import plot_comparison

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# The quick ones of every kind; together they take some minutes on 2 cores.
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
# random sets of hidden patches for the infidelity
PERTURBATIONS: dict[Preset, int] = {"instant": 64, "fast": 64, "paper": 500}
UNIFORM = "(uniform)"
# what of each map is coloured: the bins that deletion removes first
TOP_RANKS = (75.0, 100.0)
RANK_LABEL = "percentile rank of the bin in its map (%)"


class Comparison:
    """Explanations of the same tokens by several methods.

    Args:
        model: the model.
        utterance: what it hears, and
        tokens: what it writes, both from :func:`captum_spes.models.prepare`.
        preset: ``"fast"`` for the quick budgets, ``"paper"`` for the full ones, ``"instant"`` for methods that do not
            sample.
        seed: the seed of all that is random.
        perturbations_per_eval: perturbations in a batch.
        gen_args: arguments of the generation that wrote the tokens; they are stored.
        folder: where each explanation is written as soon as it is finished, ``<method>.safetensors``, and what takes
            longer than a minute while it is done. What is there already, of the same utterance, tokens and arguments,
            is not computed again. Default: explanations are kept in memory alone.

    Attributes:
        explanations: of each method that was run, by its name.
        seconds: that each took; a method's absolute variant takes what the method took. None of one that went on from
            where it was stopped.

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
            name: of the method.
            callback: called after every batch as ``callback(stage, done, total)``.

        Raises:
            ValueError: no such method, or one that cannot explain this model or its tokens; a damaged file or
                another run's checkpoint in the folder.
        """
        method = find_method(name)
        if method.arguments.get("sentence"):
            raise ValueError(f"{name} explains the text as a whole, and there is nothing to compare token by token.")
        explanation = self._finished(name) or self._explain(method, name, callback)
        self.explanations[name] = explanation
        self.seconds[name] = explanation.metadata["seconds"]
        return explanation

    def path(self, name: str) -> Path | None:
        """Where the explanation by a method is kept; None without a folder."""
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
            with suppress(OSError):  # others are not finished
                path.with_name("checkpoints").rmdir()
        return explanation

    def _finished(self, name: str) -> SpeechToTextExplanation | None:
        """What an earlier run of the same has left."""
        path = self.path(name)
        if path is None or not path.is_file():
            return None
        explanation = SpeechToTextExplanation.load(path)
        return explanation if explanation.metadata.get("compared") == self._settings(find_method(name)) else None

    def _settings(self, method: NamedMethod) -> dict[str, Any]:
        """What an explanation depends on; the batch size and the device round otherwise at most."""
        inputs = describe_inputs(self.model, self.utterance, self.tokens)
        arguments = method.arguments_of(self.model, self.preset, len(self.tokens.target))
        return {
            "model": self.model.name,
            "spectrogram": fingerprint(self.utterance.spectrogram),
            **{key: inputs[key] for key in ("token_ids", "previous_token_ids", "context_seconds", "dtype")},
            "preset": self.preset,
            "seed": self.seed,
            "arguments": describe_arguments(arguments),
            "gen_args": describe_arguments(self.gen_args),
        }

    # Numbers

    def infidelity(self) -> dict[str, float | None]:
        """Each method's :func:`~captum_spes.metrics.infidelity`, the mean over the tokens; smaller is better.

        ``"(uniform)"`` is that of the control to beat, a map that is the same everywhere. None where spectrogram and
        tokens were perturbed jointly.
        """
        if self._infidelity.keys() != {*self.explanations, UNIFORM}:
            # the offset of a map of both inputs cannot be found
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
        """Spearman's correlation between the methods' maps, the mean over the tokens: (M, M)."""
        maps = [explanation.spectrogram_attr for explanation in self.explanations.values()]
        correlation = torch.eye(len(maps))
        for row in range(len(maps)):
            for column in range(row):
                value = rank_correlation(maps[row], maps[column]).mean()
                correlation[row, column] = correlation[column, row] = value
        return correlation

    def to_dict(self) -> dict[str, Any]:
        """All numbers, as JSON holds them."""
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
        """One row a method, the header first: what it took, and how good it is."""
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
        """The correlation of every two methods' rankings, the header first."""
        rows: list[tuple[str, ...]] = [
            ("rank correlation", *(str(number) for number in range(1, len(self.explanations) + 1)))
        ]
        for number, (name, values) in enumerate(zip(self.explanations, self.rank_correlation().tolist()), 1):
            rows.append((f"{number} {name}", *(f"{value:.2f}".replace("-", "−") for value in values)))
        return rows

    # Pictures

    def plot_words(self) -> Figure:
        """One row a method, one column a word: the quarter of the bins with the highest ranks in each map.

        Ranks, because the values of different methods are spread too differently for one scale.
        """
        words = [explanation.words() for explanation in self.explanations.values()]
        return self._plot([explanation.spectrogram_attr for explanation in words], words[0].tokens)

    def plot_sentence(self) -> Figure:
        """One row a method: the map of the whole text, in ranks as in :meth:`plot_words`."""
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
        """Writes comparison.json, comparison.md and the figures into a folder; the explanations are not among them."""
        paths = [folder / name for name in ("comparison.json", "comparison.md", "words.png", "sentence.png")]
        write_atomically(paths[0], json.dumps(self.to_dict(), indent=1) + "\n")
        write_atomically(paths[1], self._markdown())
        self.plot_words().savefig(paths[2], dpi=150)
        self.plot_sentence().savefig(paths[3], dpi=150)
        return paths

    def _markdown(self) -> str:
        entry = self.to_dict()
        return "\n".join(
            [
                f"# {markdown_line(entry['text'])}",
                "",
                f"Budgets: {entry['preset']}; seed {entry['seed']}. Forwards and backwards count inputs that pass "
                "through the model, for the spectrogram and for the previous tokens. Infidelity (smaller is better) is "
                "normalised; (uniform) is a map that is the same everywhere, the control to beat. Reliability is the "
                "correlation of two halves of the samples, of methods that tell it.",
                "",
                *markdown_table(self.table()),
                "",
                "Spearman's correlation between the maps of the same token, the mean over the tokens:",
                "",
                *markdown_table(self.rank_table()),
                "",
            ]
        )


def _rounded(value: float | None, digits: str) -> str:
    return "" if value is None else format(value, digits)


def _title(name: str, explanation: SpeechToTextExplanation) -> str:
    """What stands beside a method's maps: the method, and the variant's name where the method has others."""
    method = explanation.metadata["method"]
    plain = name.removesuffix("_abs").replace("_", "") == method.strip("|").replace(" ", "").lower()
    return method if plain else name.replace("_", " ")
