"""Compares contrastive maps of minimal pairs with plain maps of the same words by correlation and flip rate.

    python benchmarks/contrastive.py --output benchmarks/results/contrastive.md --figure docs/images/contrast.png

The sentences are spoken by flite (a speech synthesiser; Debian package: flite) and transcribed by the bundled Whisper
tiny.en. Sentences that the model transcribes wrongly are left out. The padding is frozen where the probe allows it, and
texts are decoded in the full window. Flips are those of Conti et al. (2025), see
``captum_spes.metrics.flip_rate``: the number of 20 texts, written without the top 1, 2, … 20 % of the bins, that have
the foil in the word's place.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import tempfile
import time
import warnings
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from captum.attr import IntegratedGradients
from make_corpus import run
from provenance import command, machine, publish

from captum_spes import SPES, Contrast, SpeechToTextAttribution, models, slic_feature_mask
from captum_spes.maps import percentile_ranks
from captum_spes.metrics import rank_correlation
from captum_spes.metrics.contrast import FlipRate, flip_rate
from captum_spes.models import SpeechToTextModel, Tokens, Utterance, load_model
from captum_spes.speech_to_text.targets import WordPrediction
from captum_spes.visualization import plot_comparison

MAX_NEW_TOKENS = 30  # limit for sentences that the model transcribes wrongly, and perhaps repeats
COARSE = partial(slic_feature_mask, patches_per_second=(20, 40, 60))
SEED = 0
MAPS = ("contrastive", "plain", "random")


@dataclass(frozen=True)
class Pair:
    voice: str
    sentence: str
    word: str
    foil: str


# Pairs were chosen by p(word) / (p(word) + p(foil)), before any map was made: very improbable foils were left out.
PAIRS = (
    Pair("slt", "Put the pan on the table.", "pan", "pen"),
    Pair("slt", "He is 50 years old.", "50", "15"),
    Pair("slt", "He wants to leave here.", "leave", "live"),
    Pair("kal", "The bag is on the chair.", "bag", "back"),
    Pair("slt", "I can't do it today.", "can't", "can"),
    Pair("slt", "I met the women there.", "women", "woman"),
    Pair("slt", "She took the coat from the table.", "coat", "code"),
    Pair("rms", "The man came home late.", "man", "men"),
)


@dataclass
class Case:
    """A pair that the model transcribes correctly, and its results."""

    pair: Pair
    utterance: Utterance
    tokens: Tokens
    share: float  # p(word) / (p(word) + p(foil))

    def __post_init__(self) -> None:
        self.explanations = {}  # by method
        self.plain = {}
        self.correlation: dict[str, float] = {}


def prepare(model: SpeechToTextModel, pair: Pair) -> Case | None:
    """Synthesises and transcribes the sentence of a pair; None if the transcript is wrong."""
    with tempfile.NamedTemporaryFile(suffix=".wav") as file:
        run("flite", "-voice", pair.voice, "-t", pair.sentence, "-o", file.name)
        utterance, tokens = models.prepare(model, file.name, dtype="auto", gen_args={"max_new_tokens": MAX_NEW_TOKENS})
    text = models.text(model, tokens)
    if text.lower().rstrip(".") != pair.sentence.lower().rstrip("."):
        print(f"left out: {pair.sentence!r} ({pair.voice}) is heard as {text!r}", flush=True)
        return None
    prediction = WordPrediction(model, tokens, Contrast(pair.word, pair.foil), utterance)
    with torch.no_grad():
        outputs = prediction.outputs(model.encode(utterance.spectrogram, utterance))
        share = float(prediction.score(lambda: outputs, outputs)())
    return Case(pair, utterance, tokens, share)


def explain(case: Case, name: str, attribution: SpeechToTextAttribution, arguments: dict) -> None:
    """The contrastive map and the plain one, with the same masks."""
    pair, inputs = case.pair, (case.utterance, case.tokens)
    contrastive = attribution.attribute(*inputs, contrast=Contrast(pair.word, pair.foil), seed=SEED, **arguments)
    words = attribution.attribute(*inputs, seed=SEED, **arguments).words()
    plain = words.spectrogram_attr[words.index(pair.word)]
    case.explanations[name], case.plain[name] = contrastive, plain
    case.correlation[name] = float(rank_correlation(contrastive.spectrogram_attr, plain[None]))


def flips(model: SpeechToTextModel, cases: list[Case], method: str, kind: str) -> FlipRate:
    explanations = [case.explanations[method] for case in cases]
    maps = {"contrastive": None, "plain": [case.plain[method] for case in cases], "random": "random"}[kind]
    return flip_rate(model, explanations, maps=maps, seed=SEED)


def table(cases: list[Case], methods: list[str], results: dict[tuple[str, str], FlipRate]) -> list[str]:
    """A row for each pair and method. The random order does not depend on a method and has one result for each pair."""
    lines = [
        "| sentence | foil | p | method | rank correlation | contrastive map | plain map | random order |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row, case in enumerate(cases):
        pair = case.pair
        sentence = pair.sentence.replace(pair.word, f"**{pair.word}**", 1)
        for method in methods:
            counts = []
            for kind in MAPS:
                result = results[method, kind]
                counts.append(f"{int(result.flips[row].sum())} / {int(result.found[row].sum())}")
            lines.append(
                f"| {sentence} ({pair.voice}) | {pair.foil} | {case.share:.3f} | {method} | "
                f"{case.correlation[method]:.2f} | {' | '.join(counts)} |"
            )
    for method in methods:
        correlation = sum(case.correlation[method] for case in cases) / len(cases)
        summary = []
        for kind in MAPS:
            result = results[method, kind]
            summary.append(f"{100 * result.rate.nanmean():.0f} % of {100 * result.coverage.mean():.0f} %")
        lines.append(f"| all: flip rate of coverage | | | {method} | {correlation:.2f} | {' | '.join(summary)} |")
    return lines


def best(cases: list[Case], results: dict[tuple[str, str], FlipRate], method: str) -> Case:
    """The pair whose contrastive map flips most texts in comparison with its plain map and with a random order."""
    flips = {kind: results[method, kind].flips.sum(1) for kind in MAPS}
    more = flips["contrastive"] - torch.maximum(flips["plain"], flips["random"])
    return cases[int(more.argmax())]


def figure(case: Case, method: str):
    """Draws the plain map above the contrastive one, by ranks, because the two scores have different scales."""
    explanation, pair = case.explanations[method], case.pair
    maps = torch.stack((case.plain[method], explanation.spectrogram_attr[0]))[:, None]
    return plot_comparison(
        percentile_ranks(maps),
        explanation.spectrogram,
        explanation.frames_per_second,
        explanation.mel_frequencies,
        methods=[f"{method}: why “{pair.word}”", f"{method}: why “{pair.word}” and not “{pair.foil}”"],
        titles=[explanation.text],
        value_label="percentile rank of the bin in its map (%)",
        value_range=(75, 100),
    )


def flite_version() -> str:
    found = re.search(r"flite-([\w.]+)", subprocess.run(["flite", "--version"], capture_output=True, text=True).stdout)
    return found[1] if found else "of unknown version"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, help="also write the table here")
    parser.add_argument("--figure", type=Path, help="draw the pair whose maps differ most in flips here")
    parser.add_argument("--n-samples", type=int, default=2_000, help="perturbations of SPES")
    parser.add_argument("--n-steps", type=int, default=50, help="of Integrated Gradients")
    parser.add_argument("--pairs", type=int, default=len(PAIRS), help="only so many of them")
    args = parser.parse_args()
    if shutil.which("flite") is None:
        print("skipped: the sentences are spoken by flite, which is not installed (Debian: apt install flite).")
        return
    start = time.perf_counter()
    warnings.filterwarnings("ignore", "the maps are noisy")
    model = load_model("whisper-tiny.en", device="cpu")
    methods = {
        "SPES": (SPES, {"n_samples": args.n_samples, "n_token_samples": 1, "feature_mask": COARSE}),
        "Integrated Gradients": (IntegratedGradients, {"n_steps": args.n_steps, "token_arguments": {"n_steps": 1}}),
    }
    cases = [case for pair in PAIRS[: args.pairs] if (case := prepare(model, pair)) is not None]
    results = {}
    for name, (method, arguments) in methods.items():
        attribution = SpeechToTextAttribution(method(model))
        for case in cases:
            explain(case, name, attribution, arguments)
            print(name, case.pair.sentence, f"{time.perf_counter() - start:.0f} s", flush=True)
        for kind in MAPS:
            done = (next(iter(methods)), "random")
            results[name, kind] = (
                results[done] if kind == "random" and done in results else flips(model, cases, name, kind)
            )
    lines = table(cases, list(methods), results)
    lines += [
        "",
        "p: the model's p(word) / (p(word) + p(foil)) for the sentence as it is. Rank correlation: Spearman's, of the "
        "contrastive with the plain map (the mean of the word's tokens). The last three columns: how many of the 20 "
        "texts written without the map's top 1, 2, … 20 % of the bins have the foil in the word's place / the foil or "
        "the word.",
        "",
        f"`{command()}`: {len(cases)} of {min(args.pairs, len(PAIRS))} sentences, which Whisper tiny.en writes as they "
        "were spoken, with frozen padding and bfloat16 where the probe allows them; "
        f"SPES: {args.n_samples:,} samples, patches 20-40-60, KL divergence for the plain map; Integrated Gradients: "
        f"{args.n_steps} steps, log-probability for the plain map; seed {SEED}; {machine()}, flite {flite_version()}.",
    ]
    publish(lines, args.output)
    if args.figure:
        figure(best(cases, results, "SPES"), "SPES").savefig(args.figure)


if __name__ == "__main__":
    main()
