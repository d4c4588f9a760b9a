"""How stable SPES is by its number of samples: is the paper's 20,000 the right number?

    python benchmarks/stability.py ../shared/speech --work spes-output/stability --output benchmarks/results/stability

The shortest recordings that Whisper tiny.en transcribes with a WER of 20 % or less are explained twice, by runs with
different seeds. A run has pieces of 5,000 samples, each with a seed of its own; the map of 10,000 samples is the mean
of the first two pieces, and so on up to 40,000. For each number of samples the table has

- the correlation of the two runs' maps of the tokens, Pearson's over all bins, mean and lowest of the tokens;
- the AUC of deletion and insertion (the sentence's map) and the comprehensiveness of the words, mean of all runs;
- their spread: the mean absolute difference of the two runs of a recording.

Each piece and each measure is a file in the work folder, and the same command continues a run that was stopped.
"""

from __future__ import annotations

import argparse
import json
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from corpora import by_duration, read_corpus
from matplotlib.figure import Figure
from measures import correlations
from provenance import command, machine, publish
from tqdm import tqdm

from captum_spes import SpeechToTextExplanation
from captum_spes._files import write_atomically
from captum_spes._text import markdown_table
from captum_spes.evaluation.corpus import CorpusUtterance
from captum_spes.metrics import comprehensiveness, deletion, insertion, wer
from captum_spes.models import SpeechToTextModel, load_model, prepare
from captum_spes.models import text as text_of
from captum_spes.speech_to_text.catalogue import METHODS

RUNS = 2
PIECE = 5_000
PIECES = (1, 2, 4, 8)  # of which the maps are made
MEASURES = ("deletion", "insertion", "comprehensiveness")
MAX_WER = 20


def explained(model: SpeechToTextModel, items: list[CorpusUtterance], args: argparse.Namespace) -> list[list[Path]]:
    """Explains each recording in pieces; returns the files of the pieces of all runs for each recording."""
    seeds = range(args.seed, args.seed + RUNS * max(PIECES))
    files = [[args.work / f"{item.id}-{seed}.safetensors" for seed in seeds] for item in items]
    method = METHODS["spes"].with_samples(PIECE)
    missing = sum(not path.is_file() for own in files for path in own)
    with tqdm(total=missing, desc="explaining") as bar:
        for item, own in zip(items, files):
            pieces = [(path, seed) for path, seed in zip(own, seeds) if not path.is_file()]
            prepared = prepare(model, item.path, dtype="auto") if pieces else None
            for path, seed in pieces:
                arguments = {"n_token_samples": 48, "perturbations_per_eval": args.batch_size, "seed": seed}
                method.explain(model, *prepared, "paper", **arguments).save(path)
                bar.update()
    return files


def mean_map(paths: list[Path]) -> SpeechToTextExplanation:
    """The explanation with the mean map of some pieces."""
    pieces = [SpeechToTextExplanation.load(path) for path in paths]
    maps = torch.stack([piece.spectrogram_attr.double() for piece in pieces]).mean(0).float()
    return replace(pieces[0], spectrogram_attr=maps)


def measured(model: SpeechToTextModel, path: Path, explanation: SpeechToTextExplanation) -> dict[str, float]:
    if not path.is_file():
        found = {
            "deletion": deletion(model, explanation).auc,
            "insertion": insertion(model, explanation).auc,
            "comprehensiveness": comprehensiveness(model, explanation.words()).aopc,
        }
        write_atomically(path, json.dumps(found))
    return json.loads(path.read_text(encoding="utf-8"))


def study(model: SpeechToTextModel, items: list[CorpusUtterance], args: argparse.Namespace) -> list[dict]:
    """The correlations and measures for each number of pieces."""
    files = explained(model, items, args)
    found: list[dict] = []
    for n_pieces in PIECES:
        row: dict = {"n_samples": n_pieces * PIECE, "correlations": [], "measures": []}
        for item, own in zip(tqdm(items, desc=f"measuring {n_pieces * PIECE:,} samples"), files):
            starts = range(0, len(own), max(PIECES))
            maps = [mean_map(own[start : start + n_pieces]) for start in starts]
            row["correlations"].append(correlations(*maps))
            row["measures"].append(
                [
                    measured(model, args.work / f"{item.id}-{args.seed + start}-{n_pieces}.json", each)
                    for start, each in zip(starts, maps)
                ]
            )
        found.append(row)
    return found


def table(found: list[dict]) -> list[str]:
    rows = [("samples", "correlation of two runs", "lowest token", *(f"{name}, spread" for name in MEASURES))]
    for row in found:
        cells = []
        for name in MEASURES:
            values = np.array([[run[name] for run in runs] for runs in row["measures"]])
            digits = 2 if name == "comprehensiveness" else 1
            cells.append(f"{values.mean():.{digits}f}, {abs(values[:, 0] - values[:, 1]).mean():.{digits}f}")
        each = [value for values in row["correlations"] for value in values]
        rows.append((f"{row['n_samples']:,}", f"{np.mean(each):.3f}", f"{min(each):.3f}", *cells))
    return markdown_table(rows)


def draw(found: list[dict], items: list[CorpusUtterance]) -> Figure:
    """Draws the correlation and two measures of each recording by the number of samples."""
    figure = Figure(figsize=(11, 3.2), layout="constrained")
    left, *others = figure.subplots(1, 3)
    numbers = [row["n_samples"] for row in found]
    for index, item in enumerate(items):
        name = item.id.rsplit("_", 1)[-1]
        left.plot(numbers, [np.mean(row["correlations"][index]) for row in found], "o-", label=name)
        for axes, measure in zip(others, ("deletion", "comprehensiveness")):
            for run in range(RUNS):
                values = [row["measures"][index][run][measure] for row in found]
                axes.plot(numbers, values, "o-" if run == 0 else "o--", color=f"C{index}", markersize=4)
            axes.set(ylabel=measure)
    left.set(ylabel="correlation of two runs", ylim=(None, 1))
    for axes in (left, *others):
        axes.set(xlabel="samples", xscale="log")
        axes.set_xticks(numbers, labels=[f"{number:,}" for number in numbers])
        axes.minorticks_off()
        axes.spines[["top", "right"]].set_visible(False)
    left.legend(frameon=False, fontsize=8, loc="lower right")
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("speech", type=Path, help="folder of corpora of human speech")
    parser.add_argument("--work", type=Path, default=Path("spes-output/stability"), help="what is done is kept here")
    parser.add_argument("--output", type=Path, help="also write the table (.md), figure (.png) and numbers (.json)")
    parser.add_argument("--n-recordings", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--device")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    warnings.filterwarnings("ignore", "the maps are noisy")
    args.work.mkdir(parents=True, exist_ok=True)
    model = load_model("whisper-tiny.en", device=args.device)
    items: list[CorpusUtterance] = []
    for item in by_duration(read_corpus(args.speech).utterances):
        if len(items) == args.n_recordings:
            break
        heard = text_of(model, prepare(model, item.path, context="full")[1])
        if wer([heard], [item.transcription or ""]) <= MAX_WER:
            items.append(item)
    found = study(model, items, args)
    lines = [
        *table(found),
        "",
        f"`{command()}`: {len(items)} human recordings, two runs each; Whisper tiny.en; seeds from {args.seed}; "
        f"{machine()}.",
    ]
    publish(lines, args.output)
    if args.output:
        args.output.with_suffix(".json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        draw(found, items).savefig(args.output.with_suffix(".png"), dpi=150)


if __name__ == "__main__":
    main()
