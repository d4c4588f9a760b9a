"""Measures faithfulness, reliability and cost of SPES, GradientSPES and other methods, by budget.

    python benchmarks/estimators.py ../shared/speech --work spes-output/estimators \\
        --output benchmarks/results/estimators

The shortest human recordings are explained with Whisper tiny.en, with the padding frozen where the probe allows it.
Each map is measured by the WER under deletion and insertion of the sentence's map (AUC), by the comprehensiveness and
sufficiency of the maps of the tokens (nats a token), by the pointing game (is the peak of a word's map in its aligned
span?), and by processor time. Reliability is the correlation of the maps of two halves of the samples. SPES takes its
default patches, of which there are at most as many as samples, or large ones, 20, 40 and 60 a second. Maps of methods
with a value for each bin are also measured at the resolution of SPES: *patches* has the sum over each patch, averaged
over patches of 400, 500 and 600 a second. The longest run is of the first recordings only.

The measures of each map are a file in the work folder, and the same command continues a run that was stopped; --report
computes nothing.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from corpora import by_duration, read_corpus
from matplotlib.figure import Figure
from measures import MEASURES, alignment_of, measure
from provenance import command, machine, publish
from torch import Tensor

from captum_spes import slic_feature_mask
from captum_spes._files import write_atomically
from captum_spes._text import markdown_table
from captum_spes.metrics.bootstrap import MIN_PAIRS, draw_utterances, interval
from captum_spes.models import load_model, prepare
from captum_spes.speech_to_text.catalogue import METHODS

FINE, COARSE = (400, 500, 600), (20, 40, 60)
LONGEST = "SPES, 20,000"
SECONDS = (1, 3, 10, 30)  # of the ticks of the figure
COLUMNS = {
    "seconds": False,
    "reliability": True,
    **{name: high for name, high in MEASURES.items() if name != "seconds"},
}


@dataclass(frozen=True)
class Run:
    """A method with a budget.

    Attributes:
        method: its name in the catalogue.
        n_samples: its number of samples; None for methods without.
        arguments: further arguments of the explanation.
        pooled: whether its map is also measured at the resolution of SPES's patches.
    """

    method: str
    n_samples: int | None = None
    arguments: dict[str, Any] = field(default_factory=dict)
    pooled: bool = False

    def explain(self, model, utterance, tokens):
        method = METHODS[self.method]
        arguments = dict(self.arguments)
        if self.n_samples is not None:
            method, arguments["n_token_samples"] = method.with_samples(self.n_samples), 48
        if patches := arguments.pop("patches", None):
            arguments["feature_mask"] = partial(
                slic_feature_mask, patches_per_second=patches, frames_per_second=model.frames_per_second
            )
        return method.explain(model, utterance, tokens, "fast", **arguments)


RUNS = {
    "random": Run("random"),
    "energy": Run("energy", pooled=True),
    "cross-attention": Run("cross_attention"),
    "cross-attention, alignment heads": Run("cross_attention_alignment"),
    "AttnLRP": Run("attn_lrp", pooled=True),
    "Integrated Gradients, 10 steps": Run("integrated_gradients", arguments={"n_steps": 10}),
    "Integrated Gradients, 50 steps": Run("integrated_gradients", arguments={"n_steps": 50}, pooled=True),
    "GradientSPES of bins, 24": Run("gradient_spes_bins", 24),
    **{f"GradientSPES, {n}": Run("gradient_spes", n) for n in (6, 24, 96)},
    "Occlusion": Run("occlusion"),
    "KernelShap": Run("kernel_shap"),
    "feature-wise, 1,000": Run("feature_wise", 1_000),
    "Bubble Noise, 1,000": Run("bubble_noise", 1_000),
    **{f"SPES, large patches, {n:,}": Run("spes", n, {"patches": COARSE}) for n in (300, 1_000, 3_000)},
    **{f"SPES, {n:,}": Run("spes", n) for n in (300, 1_000, 3_000)},
    LONGEST: Run("spes", 20_000),
}
# by curve of the figure: its runs, from cheap to expensive
CURVES = {
    "SPES": [f"SPES, {n:,}" for n in (300, 1_000, 3_000)],
    "SPES, large patches": [f"SPES, large patches, {n:,}" for n in (300, 1_000, 3_000)],
    "GradientSPES": [f"GradientSPES, {n}" for n in (6, 24, 96)],
    "Integrated Gradients": [f"Integrated Gradients, {n} steps" for n in (10, 50)],
    "AttnLRP": ["AttnLRP"],
    "cross-attention": ["cross-attention"],
    "Bubble Noise": ["Bubble Noise, 1,000"],
    "feature-wise": ["feature-wise, 1,000"],
    "Occlusion": ["Occlusion"],
    "KernelShap": ["KernelShap"],
}
PAIRS = (
    ("GradientSPES, 24", "SPES, 1,000"),
    ("GradientSPES, 96", "SPES, 3,000"),
    ("AttnLRP", "SPES, 1,000"),
    ("AttnLRP", "GradientSPES, 24"),
    ("AttnLRP, patches", "SPES, 1,000"),
    ("Integrated Gradients, 50 steps", "AttnLRP"),
    ("SPES, large patches, 1,000", "SPES, 1,000"),
    ("SPES, 1,000", "feature-wise, 1,000"),
    ("SPES, 1,000", "Bubble Noise, 1,000"),
    ("SPES, 1,000", "energy"),
    ("GradientSPES, 24", "energy"),
    ("AttnLRP", "energy"),
    ("Integrated Gradients, 10 steps", "energy"),
    ("Integrated Gradients, 10 steps", "GradientSPES, 24"),
    ("SPES, 1,000", "Occlusion"),
    ("SPES, 1,000", "KernelShap"),
    ("SPES, 1,000", "energy, patches"),
)
Results = dict[str, dict[str, dict[str, float | None]]]  # by recording, map and measure


def pooled(attributions: Tensor, mask: Tensor) -> Tensor:
    """Replaces every bin's value (K, T, C) by the sum over its patch, averaged over the granularities."""
    flat = attributions.flatten(1).double()
    total = torch.zeros_like(flat)
    for ids in mask.flatten(1):
        sums = torch.zeros(len(flat), int(ids.max()) + 1, dtype=torch.float64).index_add_(1, ids, flat)
        total += sums[:, ids] / len(mask)
    return total.view_as(attributions).float()


def measured(model, run: Run, utterance, tokens, alignment) -> dict[str, dict[str, float | None]]:
    """The measures of a run's map, and of its pooled map under ``patches``."""
    start = time.process_time()
    explanation = run.explain(model, utterance, tokens)
    seconds = time.process_time() - start
    reliability = None if explanation.reliability is None else float(explanation.reliability.mean())
    maps = {"": explanation}
    if run.pooled:
        mask = slic_feature_mask(utterance.spectrogram, FINE, frames_per_second=model.frames_per_second)
        maps["patches"] = replace(explanation, spectrogram_attr=pooled(explanation.spectrogram_attr, mask))
    found = {}
    for name, each in maps.items():
        values = measure(lambda *_, each=each: each, model, utterance, tokens, alignment)
        found[name] = {**values, "seconds": seconds, "reliability": reliability}
    return found


def run_all(speech: Path, work: Path, number: int, n_longest: int, report: bool) -> Results:
    """The measures of all runs for each recording, as far as they are done."""
    model = load_model("whisper-tiny.en", device="cpu")
    work.mkdir(parents=True, exist_ok=True)
    results: Results = {}
    items = by_duration(read_corpus(speech).utterances)[:number]
    # the longest run comes last
    order = [(item, name) for item in items for name in RUNS if name != LONGEST]
    order += [(item, LONGEST) for item in items[:n_longest]]
    prepared: dict[str, Any] = {}
    for item, name in order:
        file = work / f"{item.id}-{name.replace(' ', '-')}.json"
        if not file.is_file():
            if report:
                continue
            if item.id not in prepared:
                utterance, tokens = prepare(model, item.path, dtype="auto")
                text = "".join(model.token_texts(tokens.target[:-1]))
                prepared = {item.id: (utterance, tokens, alignment_of(item.path, text))}
            found = measured(model, RUNS[name], *prepared[item.id])
            write_atomically(file, json.dumps(found))
            print(item.id, name, {key: value and round(value, 2) for key, value in found[""].items()}, flush=True)
        for kind, values in json.loads(file.read_text(encoding="utf-8")).items():
            results.setdefault(item.id, {})[f"{name}, {kind}" if kind else name] = values
    needed = RUNS.keys() - {LONGEST}
    return {key: found for key, found in results.items() if needed <= found.keys()}


# The report


def column(results: Results, name: str, measure_name: str) -> np.ndarray:
    values = [found[name][measure_name] for found in results.values() if name in found]
    return np.array([np.nan if value is None else value for value in values], dtype=float)


def names_of(results: Results) -> list[str]:
    return list(dict.fromkeys(name for found in results.values() for name in found))


def table(results: Results) -> list[str]:
    """The mean and standard error of each measure."""
    rows = [("map", *(f"{name} {'↑' if high else '↓'}" for name, high in COLUMNS.items()))]
    for name in names_of(results):
        n = len(column(results, name, "seconds"))
        cells = []
        for measure_name in COLUMNS:
            values = column(results, name, measure_name)
            digits = 1 if np.nanmax(np.abs(values), initial=0) >= 10 else 2
            error = f" ± {values.std(ddof=1) / np.sqrt(n):.{digits}f}" if n > 1 else ""
            cells.append("" if np.isnan(values).any() else f"{values.mean():.{digits}f}{error}")
        rows.append((name if n == len(results) else f"{name} (recordings: {n})", *cells))
    return markdown_table(rows)


def paired_table(results: Results) -> list[str]:
    """The mean difference of pairs of maps on the same recordings, and its 95 % interval."""
    measures = [name for name in COLUMNS if name not in ("seconds", "reliability")]
    rows = [("map", "against", *(f"{name} {'↑' if COLUMNS[name] else '↓'}" for name in measures))]
    drawn = draw_utterances(len(results), seed=0)
    for first, second in PAIRS:
        cells = []
        for name in measures:
            difference = column(results, first, name) - column(results, second, name)
            low, high = interval(drawn @ difference / len(difference))
            better = low > 0 if COLUMNS[name] else high < 0
            worse = high < 0 if COLUMNS[name] else low > 0
            verdict = " better" if better else " worse" if worse else ""
            verdict = verdict if len(results) >= MIN_PAIRS else ""
            cells.append(f"{difference.mean():+.1f} [{low:+.1f}, {high:+.1f}]{verdict}")
        rows.append((first, second, *cells))
    return markdown_table(rows)


def draw(results: Results) -> Figure:
    """Draws reliability, deletion and comprehensiveness against processor time, a curve for each method."""
    figure = Figure(figsize=(12, 4), layout="constrained")
    panels = figure.subplots(1, 3)
    for axes, measure_name in zip(panels, ("reliability", "deletion", "comprehensiveness")):
        for index, (title, names) in enumerate(CURVES.items()):
            points = [[column(results, name, key).mean() for key in ("seconds", measure_name)] for name in names]
            marker = {"marker": "osD^vPX*<>"[index], "markersize": 5}
            axes.plot(*np.array(points).T, color=f"C{index}", label=title, **marker)
        if measure_name != "reliability":
            axes.axhline(column(results, "energy", measure_name).mean(), color="0.6", ls=":", label="energy")
        axes.set(xscale="log", xlabel="processor time (s)", ylabel=measure_name)
        axes.set_xticks(SECONDS, labels=[f"{seconds:g}" for seconds in SECONDS])
        axes.minorticks_off()
        axes.spines[["top", "right"]].set_visible(False)
    figure.legend(*panels[1].get_legend_handles_labels(), loc="outside lower center", ncols=5, frameon=False)
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("speech", type=Path, help="folder of corpora of human speech")
    parser.add_argument("--work", type=Path, default=Path("spes-output/estimators"), help="what is done is kept here")
    parser.add_argument("--output", type=Path, help="also write the tables (.md) and the figure (.png) here")
    parser.add_argument("--n-recordings", type=int, default=6)
    parser.add_argument("--n-longest", type=int, default=4, help="recordings with the longest run")
    parser.add_argument("--report", action="store_true", help="compute nothing, report what is there")
    args = parser.parse_args()
    warnings.filterwarnings("ignore", "the maps are noisy")
    torch.set_num_threads(1)
    results = run_all(args.speech, args.work, args.n_recordings, args.n_longest, args.report)
    if not results:
        raise SystemExit("no recording is complete: run the same command without --report.")
    lines = [
        *table(results),
        "",
        *paired_table(results),
        "",
        f"`{command()}`: mean ± standard error over {len(results)} recordings, and differences on the same recordings "
        "with their 95 % interval. Seconds: processor time of an explanation on one thread, of a machine with other "
        "work. "
        f"Whisper tiny.en, bfloat16 where the probe allows it; seed 0; {machine()}.",
    ]
    publish(lines, args.output)
    if args.output:
        draw(results).savefig(args.output.with_suffix(".png"), dpi=150)


if __name__ == "__main__":
    main()
