"""How stable SPES is by its number of samples: is the paper's 20,000 the right number?

    python benchmarks/stability.py ../shared/speech --work spes-output/stability --output benchmarks/results/stability

The shortest recordings that Whisper tiny.en transcribes with a WER of 20 % or less are explained twice, by runs with
different seeds. A run has pieces of 5,000 samples, each with a seed of its own; the map of 10,000 samples is the mean
of the first two pieces, and so on up to 40,000. For each number of samples the table has

- the correlation of the two runs' maps of the tokens, Pearson's over all bins, mean and lowest of the tokens;
- the AUC of deletion and insertion (the sentence's map) and the comprehensiveness of the words, mean of all runs;
- their spread: the mean absolute difference of the two runs of a recording.

Each piece and each measure is a file in the work folder, and the same command continues a run that was stopped.
--earlier adds recordings to the results of an earlier run.
"""

from __future__ import annotations

import argparse
import json
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

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

Found = dict[str, list[dict[str, Any]]]  # by recording, a row for each number of samples


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


def study(model: SpeechToTextModel, items: list[CorpusUtterance], args: argparse.Namespace) -> Found:
    """The correlations and measures of each recording, for each number of pieces."""
    found: Found = {}
    for item, own in zip(tqdm(items, desc="measuring"), explained(model, items, args)):
        starts = range(0, len(own), max(PIECES))
        found[item.id] = []
        for n_pieces in PIECES:
            maps = [mean_map(own[start : start + n_pieces]) for start in starts]
            files = [args.work / f"{item.id}-{args.seed + start}-{n_pieces}.json" for start in starts]
            measures = [measured(model, path, each) for path, each in zip(files, maps)]
            row = {"n_samples": n_pieces * PIECE, "correlations": correlations(*maps), "measures": measures}
            found[item.id].append(row)
    return found


def table(found: Found) -> list[str]:
    rows = [("samples", "correlation of two runs", "lowest token", *(f"{name}, spread" for name in MEASURES))]
    for of_number in zip(*found.values()):
        cells = []
        for name in MEASURES:
            values = np.array([[run[name] for run in row["measures"]] for row in of_number])
            digits = 2 if name == "comprehensiveness" else 1
            cells.append(f"{values.mean():.{digits}f}, {abs(values[:, 0] - values[:, 1]).mean():.{digits}f}")
        each = [value for row in of_number for value in row["correlations"]]
        rows.append((f"{of_number[0]['n_samples']:,}", f"{np.mean(each):.3f}", f"{min(each):.3f}", *cells))
    return markdown_table(rows)


def draw(found: Found) -> Figure:
    """Draws the correlation and two measures of each recording by the number of samples."""
    figure = Figure(figsize=(11, 3.2), layout="constrained")
    left, *others = figure.subplots(1, 3)
    for index, (recording, rows) in enumerate(found.items()):
        numbers = [row["n_samples"] for row in rows]
        name = recording.rsplit("_", 1)[-1]
        left.plot(numbers, [np.mean(row["correlations"]) for row in rows], "o-", label=name)
        for axes, measure in zip(others, ("deletion", "comprehensiveness")):
            for run in range(RUNS):
                values = [row["measures"][run][measure] for row in rows]
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
    parser.add_argument("--earlier", type=Path, metavar="JSON", help="results whose recordings are not run again")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--device")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    warnings.filterwarnings("ignore", "the maps are noisy")
    earlier: Found = json.loads(args.earlier.read_text(encoding="utf-8")) if args.earlier else {}
    args.work.mkdir(parents=True, exist_ok=True)
    model = load_model("whisper-tiny.en", device=args.device)
    items: list[CorpusUtterance] = []
    for item in by_duration(read_corpus(args.speech).utterances):
        if len(items) + len(earlier) >= args.n_recordings:
            break
        if item.id in earlier:
            continue
        heard = text_of(model, prepare(model, item.path, context="full")[1])
        if wer([heard], [item.transcription or ""]) <= MAX_WER:
            items.append(item)
    found = {**earlier, **study(model, items, args)}
    lines = [
        *table(found),
        "",
        f"`{command()}`: {len(found)} human recordings, two runs each; Whisper tiny.en; seeds from {args.seed}; "
        f"{machine()}.",
    ]
    publish(lines, args.output)
    if args.output:
        args.output.with_suffix(".json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        draw(found).savefig(args.output.with_suffix(".png"), dpi=150)


if __name__ == "__main__":
    main()
