"""Tests metrics: do they prefer a known truth, order degraded maps, and agree in the ranking of methods?

    python benchmarks/meta_evaluation.py ../shared/speech/ljspeech --work spes-output/meta-evaluation \\
        --output benchmarks/results/meta_evaluation

Four parts, on recordings that Whisper tiny.en transcribes with a WER of 20 % or less, the shortest first:

- *ladder*: a GradientSPES map mixed with 0, 25, 50, 75 and 100 % noise. Does each metric order the five, and how many
  utterances does it need?
- *joined*: two recordings with a pause of half a second between them. The words of one can depend on the frames of
  the other only through the previous tokens: do the maps of words and the metrics show it?
- *band*: a recording below 2 kHz, with steady noise at the level of its upper band above. The text can only depend on
  the lower band: do the maps and the metrics show it?
- *methods*: five methods by all metrics and four baselines. Do the metrics rank the methods in the same order?

Each utterance of each part is a file in the work folder, and the same command continues a run that was stopped.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import combinations
from pathlib import Path

import numpy as np
import scipy.signal
import torch
from provenance import command, machine, publish
from scipy.stats import kendalltau

from captum_spes._files import write_atomically
from captum_spes.audio import load_audio
from captum_spes.evaluation import load_corpus
from captum_spes.metrics import (
    comprehensiveness,
    degrade,
    deletion,
    insertion,
    ladder_order,
    planted_auc,
    sufficiency,
    wer,
)
from captum_spes.metrics.baselines import BASELINES
from captum_spes.models import load_model
from captum_spes.speech_to_text.catalogue import METHODS
from captum_spes.words import is_word

RATE = 16_000
SHARES = (0, 0.25, 0.5, 0.75, 1)
STEPS = (1, 5, 10, 20, 50)  # steps of all metrics, so that they test the same bins
PAUSE_SECONDS = 0.5
CUT_HZ = 2_000
MAX_WER = 20
CHOSEN = ("gradient_spes", "integrated_gradients", "spes", "energy", "random")
# by name: whether a good map has a high score
METRICS = {
    "deletion (WER)": True,
    "insertion (WER)": False,
    "SRG": True,
    "comprehensiveness, words, AUC": True,
    "comprehensiveness, words, AOPC": True,
    "sufficiency, words, AUC": False,
    "sufficiency, words, AOPC": False,
    "comprehensiveness, sentence, AUC": True,
    "comprehensiveness, sentence, AOPC": True,
    "sufficiency, sentence, AUC": False,
    "sufficiency, sentence, AOPC": False,
}


class Study:
    """The model, and the folder of the results."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.model = load_model("whisper-tiny.en", device="cpu")
        self.folder = folder
        self.seed = seed

    def explain(self, name: str, audio: np.ndarray):
        """The explanation of the model's text by a method with its fast budget."""
        method = METHODS[name]
        attribution = method.wrap(self.model)
        utterance, tokens = attribution.prepare(audio, sampling_rate=RATE)
        return method.explain(self.model, utterance, tokens, "fast", seed=self.seed)

    def once(self, part: str, name: str, measure) -> dict:
        """The result of ``measure()``, from its file if it exists."""
        path = self.folder / part / f"{name}.json"
        if not path.is_file():
            start = time.perf_counter()
            try:
                found = measure()
            except ValueError as error:
                found = {"problem": str(error)}
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, json.dumps({**found, "seconds": time.perf_counter() - start}))
            print(f"{part}, {name}: {time.perf_counter() - start:.0f} s", flush=True)
        return json.loads(path.read_text(encoding="utf-8"))

    def scores(self, words, sentence) -> dict[str, float]:
        """All metrics of the maps of words and of a sentence."""
        found = {}
        texts = [metric(self.model, sentence, percentages=STEPS, seed=self.seed) for metric in (deletion, insertion)]
        found["deletion (WER)"], found["insertion (WER)"] = (curve.auc for curve in texts)
        found["SRG"] = found["deletion (WER)"] - found["insertion (WER)"]
        for metric in (comprehensiveness, sufficiency):
            for name, rows in (("words", words), ("sentence", sentence)):
                curve = metric(self.model, rows, percentages=STEPS, seed=self.seed)
                found[f"{metric.__name__}, {name}, AUC"] = curve.auc
                found[f"{metric.__name__}, {name}, AOPC"] = curve.aopc
        return found

    # Parts

    def ladder(self, audio: np.ndarray) -> dict:
        explanation = self.explain("gradient_spes", audio)
        words, sentence = explanation.words(), explanation.sentence()
        rungs = []
        for share in SHARES:
            rungs.append(
                self.scores(*(_with_maps(rows, degrade(_maps(rows), share, self.seed)) for rows in (words, sentence)))
            )
        return {"text": explanation.text, "rungs": rungs}

    def planted(self, audio: np.ndarray, relevant) -> dict:
        """Measures how well maps find a known truth, and whether metrics prefer it to its opposite.

        Args:
            audio: the recording.
            relevant: a function from an explanation to the bins that can matter to each word, bool (W, T, C).
        """
        found: dict = {"areas": {}}
        for name in CHOSEN:
            explanation = self.explain(name, audio)
            words = explanation.words()
            rows = [row for row, text in enumerate(words.tokens) if is_word(text)]
            truth = relevant(explanation)  # the same for all methods, because the text and the recording are the same
            found["areas"][name] = float(planted_auc(words.spectrogram_attr[rows], truth[rows]).mean())
        found["text"] = explanation.text
        for metric in (comprehensiveness, sufficiency):
            falls = [
                metric(self.model, _with_maps(words, maps), percentages=STEPS, seed=self.seed).row_aucs[0][rows]
                for maps in (truth.float(), -truth.float())
            ]
            sign = 1 if metric is comprehensiveness else -1
            found[metric.__name__] = float((sign * (falls[0] - falls[1]) > 0).float().mean())
        return found

    def methods(self, audio: np.ndarray) -> dict:
        found: dict = {"scores": {}, "baselines": {}}
        for name in CHOSEN:
            explanation = self.explain(name, audio)
            sentence = explanation.sentence()
            found["scores"][name] = self.scores(explanation.words(), sentence)
            found["baselines"][name] = {
                f"{metric.__name__}, {baseline}": metric(
                    self.model, sentence, percentages=STEPS, baselines=baseline, seed=self.seed
                ).auc
                for metric in (comprehensiveness, sufficiency)
                for baseline in BASELINES
            }
        return found


def _maps(explanation) -> torch.Tensor:
    return explanation.spectrogram_attr


def _with_maps(explanation, maps: torch.Tensor):
    return replace(explanation, spectrogram_attr=maps)


def joined_truth(n_first: int, n_pause: int, first_text: str):
    """The frames of each word's own recording, for two recordings with a pause between them."""

    def relevant(explanation) -> torch.Tensor:
        words = explanation.words().tokens
        before = [_plain(text) for text in first_text.split() if is_word(text)]
        n_words = len(before)
        if [_plain(text) for text in words if is_word(text)][:n_words] != before:
            raise ValueError(
                f"{explanation.text!r} does not begin as {first_text!r}, so that its words have no places."
            )
        truth = torch.zeros(len(words), *explanation.spectrogram.shape, dtype=torch.bool)
        boundary = round((n_first + n_pause / 2) / RATE * explanation.frames_per_second)
        seen = 0
        for row, text in enumerate(words):
            truth[row, boundary:] = seen >= n_words
            truth[row, :boundary] = seen < n_words
            seen += is_word(text)
        return truth

    return relevant


def _plain(word: str) -> str:
    return "".join(character for character in word.casefold() if character.isalnum())


def band_truth(explanation) -> torch.Tensor:
    """The channels below the cut, for every word."""
    channels = explanation.mel_frequencies < CUT_HZ
    return channels.expand(len(explanation.words().tokens), len(explanation.spectrogram), -1)


def band_audio(audio: np.ndarray, seed: int) -> np.ndarray:
    """A recording below the cut-off, and steady noise with the original level above it."""
    low = scipy.signal.butter(10, CUT_HZ, "low", fs=RATE, output="sos")
    high = scipy.signal.butter(10, CUT_HZ, "high", fs=RATE, output="sos")
    noise = scipy.signal.sosfiltfilt(high, np.random.default_rng(seed).normal(size=len(audio)))
    upper = scipy.signal.sosfiltfilt(high, audio)
    noise *= upper.std() / noise.std()
    return (scipy.signal.sosfiltfilt(low, audio) + noise).astype(np.float32)


def recordings(model, folders: list[Path], number: int) -> list[tuple[str, np.ndarray, str]]:
    """Names, samples and the model's texts of the shortest recordings that the model transcribes well."""
    items = [item for folder in folders for item in load_corpus(folder).utterances]
    loaded = sorted(((item, load_audio(item.path, RATE)) for item in items), key=lambda pair: len(pair[1]))
    found = []
    for item, audio in loaded:
        if len(found) == number:
            break
        tokens = model.generate(model.utterance(audio))
        texts = zip(model.token_texts(tokens.target), model.is_special(tokens.target))
        text = "".join(part for part, is_mark in texts if not is_mark).strip()
        if item.transcription and wer([text], [item.transcription]) <= MAX_WER:
            found.append((item.id, audio, text))
    return found


# The report


def ladder_lines(found: list[dict]) -> list[str]:
    scores = {name: np.array([[rung[name] for rung in item["rungs"]] for item in found]) for name in METRICS}
    orders = {name: ladder_order(scores[name], higher) for name, higher in METRICS.items()}
    n = len(found)
    lines = [
        f"| metric | {' | '.join(f'{share:.0%} noise' for share in SHARES)} | in order with {n} utterances "
        "| best above worst with 1 | utterances needed |",
        "|---" * (len(SHARES) + 4) + "|",
    ]
    for name, order in orders.items():
        arrow = "↑" if METRICS[name] else "↓"
        means = " | ".join(f"{value:.2f}" for value in scores[name].mean(0))
        needed = order.needed() or f"more than {n}"
        lines.append(f"| {name} {arrow} | {means} | {order.ordered[-1]:.0%} | {order.extremes[0]:.0%} | {needed} |")
    return lines


def planted_lines(parts: dict[str, list[dict]]) -> list[str]:
    lines = [f"| | {' | '.join(CHOSEN)} | comprehensiveness | sufficiency |", "|---" * (len(CHOSEN) + 3) + "|"]
    for name, found in parts.items():
        areas = " | ".join(f"{np.mean([item['areas'][method] for item in found]):.2f}" for method in CHOSEN)
        right = " | ".join(f"{np.mean([item[m] for item in found]):.0%}" for m in ("comprehensiveness", "sufficiency"))
        lines.append(f"| {name} ({len(found)}) | {areas} | {right} |")
    return lines


def agreement_lines(found: list[dict]) -> list[str]:
    chosen = [name for name in CHOSEN if name != "random"]

    def tau(key: str, first: str, second: str) -> float:
        means = [
            [np.mean([item[key][method][name] for item in found]) for method in chosen] for name in (first, second)
        ]
        return float(kendalltau(*means).statistic)

    def good(name: str) -> int:
        return 1 if METRICS[name] else -1

    names = ["deletion (WER)", "insertion (WER)", "SRG", "comprehensiveness, words, AUC", "sufficiency, words, AUC",
             "comprehensiveness, sentence, AUC", "sufficiency, sentence, AUC"]  # fmt: skip
    lines = [f"| | {' | '.join(names[1:])} |", "|---" * len(names) + "|"]
    for index, name in enumerate(names[:-1]):
        cells = [""] * index + [
            f"{good(name) * good(other) * tau('scores', name, other) + 0.0:.2f}" for other in names[index + 1 :]
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    pairs = list(combinations(BASELINES, 2))
    lines += ["", f"| sentence | {' | '.join(f'{a}, {b}' for a, b in pairs)} |", "|---" * (len(pairs) + 1) + "|"]
    for metric in ("comprehensiveness", "sufficiency"):
        cells = (f"{tau('baselines', f'{metric}, {a}', f'{metric}, {b}'):.2f}" for a, b in pairs)
        lines.append(f"| {metric} | {' | '.join(cells)} |")
    return lines


def report(results: dict[str, list[dict]], note: str) -> str:
    lines = []
    if found := results["ladder"]:
        lines += [f"**Ladder** ({len(found)} utterances)", "", *ladder_lines(found), ""]
    if parts := {name: results[name] for name in ("joined", "band") if results[name]}:
        lines += [
            "**Planted truth**: area under the ROC curve of the words' maps, by method (0.5 by chance), and the share "
            "of words for which a metric prefers the truth to its opposite",
            "",
            *planted_lines(parts),
            "",
        ]
    if found := results["methods"]:
        lines += [
            f"**Agreement**: Kendall's tau of the ranks of {len(CHOSEN) - 1} methods ({len(found)} utterances)",
            "",
            *agreement_lines(found),
            "",
        ]
    return "\n".join([*lines, note, ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+", help="of recordings with transcriptions")
    parser.add_argument(
        "--work", type=Path, default=Path("spes-output/meta-evaluation"), help="what is done is kept here"
    )
    parser.add_argument("--output", type=Path, help="also write the tables (.md) and all numbers (.json) here")
    parser.add_argument("--ladders", type=int, default=12, help="recordings of the ladder and of the methods")
    parser.add_argument("--planted", type=int, default=6, help="joined and filtered recordings")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    warnings.filterwarnings("ignore", "the maps are noisy")
    study = Study(args.work, args.seed)
    found = recordings(study.model, args.folders, max(args.ladders, args.planted + 1))
    pause = np.zeros(round(PAUSE_SECONDS * RATE), np.float32)
    results: dict[str, list[dict]] = {"ladder": [], "joined": [], "band": [], "methods": []}

    def add(part: str, name: str, measure: Callable[[], dict]) -> None:
        results[part].append(study.once(part, name, measure))

    # recording by recording, so that a run that is stopped has results of each part
    for number, (name, audio, text) in enumerate(found[: max(args.ladders, args.planted)]):
        if number < args.ladders:
            add("ladder", name, partial(study.ladder, audio))
        if number < args.planted:
            other, second, _ = found[number + 1]
            joined = np.concatenate((audio, pause, second))
            add("joined", f"{name}+{other}", partial(study.planted, joined, joined_truth(len(audio), len(pause), text)))
            add("band", name, partial(study.planted, band_audio(audio, args.seed), band_truth))
        if number < args.ladders:
            add("methods", name, partial(study.methods, audio))
    seconds = sum(item["seconds"] for part in results.values() for item in part)
    problems = [item["problem"] for part in results.values() for item in part if "problem" in item]
    results = {name: [item for item in part if "problem" not in item] for name, part in results.items()}
    note = (
        f"`{command()}`: Whisper tiny.en; {machine()}; seed {args.seed}; {seconds / 3600:.1f} hours. AUC: area under "
        "the curve of the falls of log-probability at 1, 5, 10, 20 and 50 %; AOPC: their mean."
        + "".join(f" Left out: {problem}" for problem in problems)
    )
    publish(report(results, note).splitlines(), args.output)
    if args.output:
        args.output.with_suffix(".json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
