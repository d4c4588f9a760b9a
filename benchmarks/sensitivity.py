"""How much SPES depends on its patches, their smoothing and the probability of hiding, in clean speech and in noise.

    python benchmarks/sensitivity.py ../shared/speech --work spes-output/sensitivity \\
        --output benchmarks/results/sensitivity

The shortest human recordings are explained as they are, and in noise with the spectrum of speech; each time the text
that Whisper tiny.en writes is explained. One parameter at a time differs from the paper's values: 400, 500 and 600
patches a second, sigma 0, and p = 0.5. For each setting the table has the reliability, the comprehensiveness and
sufficiency of the words' maps, which need no decoding, the size, and the correlation of the tokens' maps with those of
the paper's values. Each setting has a seed of its own, and two runs with the paper's values show how much is noise.

Each explanation's measures are a file in the work folder, and the same command continues a run that was stopped.
"""

from __future__ import annotations

import argparse
import json
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from corpora import by_duration, read_corpus
from make_corpus import Recording, pcm, with_noise
from matplotlib.figure import Figure
from measures import correlations
from provenance import command, machine, publish
from tqdm import tqdm

from captum_spes import SpeechToTextExplanation, slic_feature_mask
from captum_spes._files import write_atomically
from captum_spes._text import markdown_table
from captum_spes.audio import load_audio
from captum_spes.metrics import comprehensiveness, size, sufficiency
from captum_spes.models import load_model, prepare
from captum_spes.speech_to_text.catalogue import METHODS

RATE = 16_000
STEPS = (5, 10, 20, 50)
PAPER = "the paper's values"
# by name: arguments of the mask, and of SPES
SETTINGS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    PAPER: ({}, {}),
    "100, 125, 150 patches a second": ({"patches_per_second": (100, 125, 150)}, {}),
    "20, 40, 60 patches a second": ({"patches_per_second": (20, 40, 60)}, {}),
    "sigma 1": ({"sigma": 1}, {}),
    "the paper's values, again": ({}, {}),
    "p = 0.3": ({}, {"perturbation_prob": 0.3}),
    "p = 0.7": ({}, {"perturbation_prob": 0.7}),
}
MEASURES = {
    "reliability": "reliability",
    "comprehensiveness": "comprehensiveness ↑",
    "sufficiency": "sufficiency ↓",
    "size": "size ↓",
    "correlation": "correlation with the paper's values",
}

Results = dict[str, list[dict[str, dict[str, float]]]]  # by condition, recording, setting and measure


def heard(name: str, samples: np.ndarray, snr: float | None) -> np.ndarray:
    """The recording, with noise at this ratio if one is given."""
    if snr is None:
        return samples
    recording = Recording(name, "", "human", "", "", pcm(samples), {})
    return with_noise(recording, snr, seed=0).samples.astype(np.float32) / 32768


def measure(model, samples: np.ndarray, args: argparse.Namespace) -> dict[str, dict[str, float]]:
    """The measures of each setting for a recording."""
    utterance, tokens = prepare(model, samples, sampling_rate=RATE, dtype="auto")
    found: dict[str, dict[str, float]] = {}
    first: SpeechToTextExplanation | None = None
    for number, (name, (mask, arguments)) in enumerate(SETTINGS.items()):
        explanation = METHODS["spes"].with_samples(args.n_samples).explain(
            model, utterance, tokens, "fast", n_token_samples=48, perturbations_per_eval=args.batch_size,
            feature_mask=partial(slic_feature_mask, frames_per_second=model.frames_per_second, **mask),
            seed=args.seed + number, **arguments,
        )  # fmt: skip
        first = first or explanation
        words = explanation.words()
        found[name] = {
            "reliability": float(explanation.reliability.mean()),
            "comprehensiveness": comprehensiveness(model, words, percentages=STEPS).aopc,
            "sufficiency": sufficiency(model, words, percentages=STEPS).aopc,
            "size": size(explanation).auc,
            "correlation": float(np.mean(correlations(explanation, first))),
        }
    return found


def draw(results: Results) -> Figure:
    """Draws a panel for each measure with a row for each setting: a dot for each recording, and a bar at the mean."""
    figure = Figure(figsize=(11, 3.2), layout="constrained")
    panels = figure.subplots(1, len(MEASURES), sharey=True)
    for axes, (key, title) in zip(panels, MEASURES.items()):
        for index, (condition, found) in enumerate(results.items()):
            for row, setting in enumerate(SETTINGS):
                values, height = [each[setting][key] for each in found], row + 0.25 * index
                label = condition if row == 0 else None
                axes.plot(values, [height] * len(values), "o", color=f"C{index}", alpha=0.35, markersize=4, label=label)
                axes.plot([np.mean(values)] * 2, [height - 0.12, height + 0.12], color=f"C{index}", linewidth=2)
        axes.set_title(title.replace(" with", "\nwith"), fontsize=9)
        axes.tick_params(labelsize=8)
        axes.grid(axis="x", alpha=0.3)
    panels[0].set_yticks(range(len(SETTINGS)), labels=SETTINGS)
    panels[0].invert_yaxis()
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=5, frameon=False)
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("speech", type=Path, help="folder of corpora of human speech")
    parser.add_argument("--work", type=Path, default=Path("spes-output/sensitivity"), help="what is done is kept here")
    parser.add_argument("--output", type=Path, help="also write the table (.md) and the figure (.png) here")
    parser.add_argument("--n-recordings", type=int, default=4)
    parser.add_argument("--n-samples", type=int, default=2_000)
    parser.add_argument("--snr", type=float, nargs="*", default=[10.0], metavar="DB", help="levels of noise")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    warnings.filterwarnings("ignore", "the maps are noisy")
    args.work.mkdir(parents=True, exist_ok=True)
    model = load_model("whisper-tiny.en")
    items = by_duration(read_corpus(args.speech).utterances)[: args.n_recordings]
    conditions: dict[str, float | None] = {"as recorded": None, **{f"noise at {snr:g} dB": snr for snr in args.snr}}
    results: Results = {name: [] for name in conditions}
    for item in tqdm(items, desc="recordings"):
        for name, snr in conditions.items():
            path = args.work / f"{item.id}-{snr}-{args.n_samples}-{args.seed}.json"
            if not path.is_file():
                samples = heard(item.id, load_audio(item.path, RATE), snr)
                write_atomically(path, json.dumps(measure(model, samples, args)))
            results[name].append(json.loads(path.read_text(encoding="utf-8")))
    rows = [("speech", "setting", *MEASURES.values())]
    for condition, found in results.items():
        for name in SETTINGS:
            means = (np.mean([each[name][key] for each in found]) for key in MEASURES)
            rows.append((condition, name, *(f"{value:.2f}" for value in means)))
    lines = [
        *markdown_table(rows),
        "",
        f"`{command()}`: mean of {len(items)} human recordings, SPES with {args.n_samples:,} samples; Whisper tiny.en; "
        f"seeds from {args.seed}; {machine()}.",
    ]
    publish(lines, args.output)
    if args.output:
        draw(results).savefig(args.output.with_suffix(".png"), dpi=150)


if __name__ == "__main__":
    main()
