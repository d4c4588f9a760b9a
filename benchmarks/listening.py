"""Measures whether a word is still recognised from its most salient regions alone, and without them.

    python benchmarks/make_corpus.py build/human --n-sentences 0 --joined 0 --real ../shared/speech
    python benchmarks/listening.py build/human --n-utterances 12 [--n-words 5]

Whisper tiny.en takes the place of a listener. Words are explained by GradientSPES, a share of the bins is kept or
removed by ``SpeechToTextExplanation.to_audio``, and the model transcribes the result like any other file. The word's
own map is compared with three others and the same number of bins: the maps of the other words of the utterance, with
patches of the same sizes; the energy of the spectrogram; and a random order.

For each utterance, words are drawn that occur once. A text may have a few tokens more than the original. The texts are
stored in the work folder, and the same command continues a run that was stopped.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import replace
from importlib.resources import as_file, files
from itertools import product
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from provenance import command, machine

from captum_spes import SpeechToTextExplanation
from captum_spes._files import write_atomically
from captum_spes._text import markdown_table
from captum_spes.audio import load_audio
from captum_spes.evaluation.corpus import CorpusUtterance, load_corpus
from captum_spes.metrics.bootstrap import draw_utterances, interval
from captum_spes.models import SpeechToTextModel, Tokens, load_model
from captum_spes.speech_to_text.catalogue import find_method
from captum_spes.words import is_word

METHOD, PRESET = "gradient_spes", "fast"
SHARES = (0.05, 0.1, 0.2)
WAYS = ("keep", "remove")
BACKGROUNDS = ("noise", "silence")
SETTINGS = list(product(WAYS, BACKGROUNDS, SHARES))
MAPS = {"own": "the word's own map", "other": "maps of other words", "energy": "energy", "random": "random"}
RATE = 16_000  # samples per second of the corpus and of the sample
SAMPLE, EXAMPLE_WORD, EXAMPLE_SHARE, EXAMPLE_SAMPLES = "so_what_was_the_next_step.wav", "next", 0.1, 48
SPARE_TOKENS = 5  # tokens that a text may have in addition to those of the prompt and the original
SEED = 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--n-utterances", type=int, default=8)
    parser.add_argument("--n-words", type=int, default=5, help="of an utterance, at most")
    parser.add_argument("--work", type=Path, default=Path("spes-output/listening"), help="what is done is kept here")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results"))
    args = parser.parse_args()
    model = load_model("whisper-tiny.en", device="cpu")
    args.work.mkdir(parents=True, exist_ok=True)
    data = args.work / "texts.json"
    found = json.loads(data.read_text()) if data.is_file() else {}
    items = in_turn(load_corpus(args.corpus).utterances)
    chosen: list[CorpusUtterance] = []
    while len(chosen) < args.n_utterances and items:
        item = items.pop(0)
        if item.id not in found:
            print(f"{len(chosen) + 1} of {args.n_utterances}: {item.id}", flush=True)
            found[item.id] = listen(model, item, args.n_words)
            write_atomically(data, json.dumps(found, indent=1, ensure_ascii=False) + "\n")
        chosen.append(item)
    report({item.id: found[item.id] for item in chosen}, chosen, args)
    example(model, args).savefig(args.output / "listening-example.png", dpi=100)


def in_turn(items: list[CorpusUtterance]) -> list[CorpusUtterance]:
    """Single sentences without added noise, alternating between voices, the shortest first."""
    voices = defaultdict(list)
    for item in sorted(items, key=lambda item: float(item.fields["duration"])):
        if item.fields["n_sentences"] == "1" and not item.fields["condition"]:
            voices[item.fields["voice"]].append(item)
    rows = max(map(len, voices.values()))
    return [item for row in range(rows) for voice in sorted(voices) for item in voices[voice][row : row + 1]]


def listen(model: SpeechToTextModel, item: CorpusUtterance, n_words: int) -> dict:
    """The model's texts of an utterance of which parts are kept or removed."""
    method = find_method(METHOD)
    whole = model.utterance(load_audio(item.path, model.sample_rate))
    attribution = method.wrap(model)
    text = attribution.text(model.generate(whole))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about noisy maps
        utterance, tokens = attribution.prepare(item.path)
        explanation = method.explain(model, utterance, tokens, PRESET, seed=SEED)
    words = explanation.words()
    counts = Counter(words_of(text))
    rows = [row for row, word in enumerate(words.tokens) if is_word(word) and counts[word.lower()] == 1]
    rows = sorted(random.Random(f"{SEED} {item.id}").sample(rows, min(n_words, len(rows))))
    sources = {words.tokens[row].lower(): (words, row) for row in rows}
    energy = explanation.spectrogram - model.baseline(utterance)[0]
    chance = torch.rand(energy.shape, generator=torch.Generator().manual_seed(SEED))
    for name, values in {"energy": energy, "random": chance}.items():
        sources[f"<{name}>"] = replace(explanation.sentence(), spectrogram_attr=values[None]), 0
    return {
        "text": text,
        "reliability": float(words.reliability[rows].mean()),
        "words": [words.tokens[row].lower() for row in rows],
        "heard": {name: heard(model, item, *source) for name, source in sources.items()},
    }


def heard(model: SpeechToTextModel, item: CorpusUtterance, source: SpeechToTextExplanation, row: int) -> list[str]:
    """The model's text for each of the settings."""
    sounds = [
        source.to_audio(item.path, row, background=background, **{way: share}) for way, background, share in SETTINGS
    ]
    # the corpus has the model's rate; the level of the padding depends on the loudest sound of each recording
    utterances = [model.utterance(samples) for samples in sounds]
    windows = [torch.cat((u.spectrogram, u.padding), dim=1) for u in utterances]
    whole = replace(utterances[0], spectrogram=windows[0], padding=utterances[0].padding[:, :0])
    prompt = model.tokens("a", whole).prompt
    longest = len(source.previous_tokens) + SPARE_TOKENS
    ids = model.generate_batch(torch.cat(windows), whole, prompt, max_new_tokens=longest)
    attribution = find_method(METHOD).wrap(model)
    return [attribution.text(Tokens(prompt, target)) for target in ids]


def example(model: SpeechToTextModel, args: argparse.Namespace) -> plt.Figure:
    """Draws the spectrograms of the bundled recording with a word kept and removed."""
    method = find_method(METHOD).with_samples(EXAMPLE_SAMPLES)
    with as_file(files("captum_spes") / "data" / SAMPLE) as path:
        prepared = method.wrap(model).prepare(path)
        words = method.explain(model, *prepared, PRESET, seed=SEED).words()
        sounds = {"the recording": load_audio(path, RATE)}
        for background, way in product(BACKGROUNDS[::-1], WAYS):
            verb = "kept" if way == "keep" else "removed"
            title = f"{EXAMPLE_SHARE:.0%} {verb}, {background}"
            sounds[title] = words.to_audio(path, EXAMPLE_WORD, background=background, **{way: EXAMPLE_SHARE})
    figure, axes = plt.subplots(1, len(sounds), figsize=(12, 2.8), sharey=True, layout="constrained")
    for axis, (title, samples) in zip(axes, sounds.items()):
        axis.set_facecolor("black")  # silence has no decibels
        with np.errstate(divide="ignore"):
            axis.specgram(samples, NFFT=512, noverlap=384, Fs=RATE, cmap="magma", vmin=-120, vmax=-35)
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("time (s)")
    axes[0].set_ylabel("frequency (Hz)")
    return figure


def words_of(text: str) -> list[str]:
    return re.findall(r"[\w'-]+", text.lower())


def outcomes(entry: dict, setting: int) -> dict[str, list[float]]:
    """For each word and each map, whether it is written (keep) or missing (remove); for several maps the share."""

    def succeeds(word: str, source: str) -> bool:
        return (word in words_of(entry["heard"][source][setting])) == (SETTINGS[setting][0] == "keep")

    words = entry["words"]
    others = {word: [other for other in words if other != word] for word in words}
    return {
        "own": [succeeds(word, word) for word in words],
        "other": [np.mean([succeeds(word, other) for other in others[word]]) for word in words],
        "energy": [succeeds(word, "<energy>") for word in words],
        "random": [succeeds(word, "<random>") for word in words],
    }


def report(found: dict[str, dict], items: list[CorpusUtterance], args: argparse.Namespace) -> None:
    rows = [("", "in place of the rest", "share of the bins", *MAPS.values(), "own less other words'")]
    curves = {}
    for number, (way, background, share) in enumerate(SETTINGS):
        by_utterance = [outcomes(entry, number) for entry in found.values()]
        estimates = {name: estimate([u[name] for u in by_utterance]) for name in MAPS}
        curves[way, background, share] = estimates
        difference = estimate([np.subtract(u["own"], u["other"]) for u in by_utterance])
        what = "kept: word written" if way == "keep" else "removed: word gone"
        cells = [percent(*estimates[name]) for name in MAPS]
        rows.append((what, background, f"{100 * share:g} %", *cells, percent(*difference)))
    plot(curves).savefig(args.output / "listening.png", dpi=150)
    n_words = sum(len(entry["words"]) for entry in found.values())
    voices = Counter("read by a person" if item.fields["voice"] == "human" else "synthesised" for item in items)
    reliability = np.mean([entry["reliability"] for entry in found.values()])
    lines = [
        *markdown_table(rows),
        "",
        f"Of {n_words} words in {len(found)} sentences ({', '.join(f'{n} {kind}' for kind, n in voices.items())}), the "
        "share of those that Whisper tiny.en writes where only the most salient bins are kept, and of those that it "
        "does not write where they are removed; with 95 % bootstrap intervals over the utterances.",
        "",
        f"`{command()}`: {METHOD}, {PRESET} preset (reliability of the maps {reliability:.2f}), seed {SEED}; "
        f"{machine()}.",
    ]
    write_atomically(args.output / "listening.md", "\n".join(lines) + "\n")
    print("\n".join(lines))


def estimate(values: list) -> tuple[float, float, float]:
    """The mean over words, and its interval over utterances."""
    draws = draw_utterances(len(values), SEED)
    sums, counts = np.array([np.sum(v) for v in values]), np.array([len(v) for v in values])
    return float(sums.sum() / counts.sum()), *interval(draws @ sums / (draws @ counts))


def percent(value: float, low: float, high: float) -> str:
    return f"{100 * value:.0f} % [{100 * low:.0f}, {100 * high:.0f}]"


def plot(curves: dict) -> plt.Figure:
    figure, axes = plt.subplots(1, len(WAYS) * len(BACKGROUNDS), figsize=(12, 3.8), sharey=True, layout="constrained")
    for axis, (way, background) in zip(axes, product(WAYS, BACKGROUNDS)):
        for (name, label), color, shift in zip(MAPS.items(), ("#5e3c99", "#b2abd2", "#e66101", "#888888"), offsets()):
            points = np.array([curves[way, background, share][name] for share in SHARES])
            middle = points[:, 0]
            axis.errorbar(
                np.arange(len(SHARES)) + shift,
                100 * middle,
                100 * np.abs(points[:, 1:].T - middle),
                marker="o",
                capsize=2,
                color=color,
                label=label,
            )
        verb = "kept" if way == "keep" else "removed"
        axis.set_title(f"{verb}, {background} in place of {'the rest' if way == 'keep' else 'them'}", fontsize=10)
        axis.set_xticks(np.arange(len(SHARES)), [f"{100 * share:g} %" for share in SHARES])
        axis.set_xlabel("share of the bins")
        axis.set_ylabel("word written (%)" if way == "keep" else "word gone (%)")
        axis.tick_params(labelleft=True)
        axis.spines[["top", "right"]].set_visible(False)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncol=len(MAPS), frameon=False)
    axes[0].set_ylim(-3, 103)
    return figure


def offsets() -> Iterator[float]:
    """Horizontal offsets that keep points from hiding each other."""
    return iter(np.linspace(-0.12, 0.12, len(MAPS)))


if __name__ == "__main__":
    main()
