"""Compares variants of AttnLRP on human speech.

    python benchmarks/attn_lrp.py ../shared/speech --work spes-output/attn_lrp --output benchmarks/results/attn_lrp

The shortest recordings of LibriVox and LJ Speech are explained with Whisper tiny.en by AttnLRP, with the uniform rule
for both products of attention, the log-probability in place of the logit, the mean over random SPES masks, and a mean
with GradientSPES's map. The measures are those of measures.py.

The measures of each map are a file in the work folder, and the same command continues a run that was stopped.
"""

from __future__ import annotations

import argparse
import json
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from captum.attr import GradientAttribution
from corpora import by_duration, read_corpus
from matplotlib.figure import Figure
from measures import MEASURES, STEPS, TOKEN_STEPS, Explain, alignment_of, measure
from provenance import command, machine, publish
from torch.nn import functional as F

from captum_spes import SpeechToTextAttribution, TokenLogit, TokenLogProbability, slic_feature_mask
from captum_spes._files import write_atomically
from captum_spes._text import markdown_table
from captum_spes.attr import AttnLRP
from captum_spes.attr.attn_lrp import RULES
from captum_spes.attr.features import FeatureLayout, MaskSampler
from captum_spes.models import load_model, prepare
from captum_spes.speech_to_text.catalogue import METHODS


def scaled(tensor: torch.Tensor, share: float) -> torch.Tensor:
    """Returns the tensor, through which only a share of the relevance passes."""
    return tensor.detach() + share * (tensor - tensor.detach())


def uniform_attention(func, query, key, value, *args, **kwargs):
    """Divides the relevance of a product equally between its factors, for weights and values, and queries and keys."""
    return func(scaled(query, 0.25), scaled(key, 0.25), scaled(value, 0.5), *args, **kwargs)


UNIFORM = {**RULES, F.scaled_dot_product_attention: uniform_attention}


class MeanLRP(GradientAttribution):
    """AttnLRP with the mean of its gradient over random SPES masks."""

    def __init__(self, forward_func, n_masks: int) -> None:
        super().__init__(forward_func)
        self.n_masks = n_masks

    def attribute(self, inputs, baselines):
        if inputs.dim() < 3:  # previous tokens
            return self._lrp().attribute(inputs, baselines)
        layout = FeatureLayout.create((inputs.detach(),), slic_feature_mask(inputs.detach(), 500), 0.5)
        masks = MaskSampler(layout, seed=0).draw(0, 0, self.n_masks)
        rows = layout.hide(inputs.detach(), baselines, 0, 0, masks)[:, 0]
        # (x - (x - 1)) times the gradient is the gradient
        gradients = [self._lrp().attribute(row[None], row[None] - 1) for row in rows]
        return (inputs - baselines) * torch.stack(gradients).mean(0)

    def _lrp(self) -> AttnLRP:
        method = AttnLRP(self.forward_func)
        method.gradient_func = self.gradient_func
        return method


def gradient_spes(model, utterance, tokens):
    return METHODS["gradient_spes"].explain(model, utterance, tokens, "fast", n_token_samples=64)


def made(make, score=None) -> Explain:
    return lambda model, *inputs: SpeechToTextAttribution(make(model), score).attribute(*inputs)


def mixed(model, utterance, tokens):
    """The weighted mean of the z-scored maps."""
    first = METHODS["attn_lrp"].explain(model, utterance, tokens, "fast")
    second = gradient_spes(model, utterance, tokens)
    maps = [
        (e.spectrogram_attr - e.spectrogram_attr.mean((1, 2), keepdim=True))
        / e.spectrogram_attr.std((1, 2), keepdim=True).clamp(min=1e-12)
        for e in (first, second)
    ]
    return replace(second, spectrogram_attr=0.35 * maps[0] + 0.65 * maps[1])


VARIANTS: dict[str, Explain] = {
    "attn_lrp": made(AttnLRP, TokenLogit),
    "uniform rule": made(lambda model: AttnLRP(model, UNIFORM), TokenLogit),
    "mean of 4 masks": made(lambda model: MeanLRP(model, 4), TokenLogit),
    "log-probability": made(AttnLRP, TokenLogProbability),
    "log-probability, uniform rule": made(lambda model: AttnLRP(model, UNIFORM), TokenLogProbability),
    "log-probability, mean of 4 masks": made(lambda model: MeanLRP(model, 4), TokenLogProbability),
    "log-probability, mean of 8 masks": made(lambda model: MeanLRP(model, 8), TokenLogProbability),
    "gradient_spes": gradient_spes,
    "mixed with gradient_spes": mixed,
}


def run(folder: Path, work: Path, n_recordings: int) -> list[dict[str, dict[str, float]]]:
    """The measures of each variant for each recording."""
    model = load_model("whisper-tiny.en", device="cpu")
    work.mkdir(parents=True, exist_ok=True)
    results = []
    for path in [item.path for item in by_duration(read_corpus(folder).utterances)[:n_recordings]]:
        files = {name: work / f"{path.stem}-{name.replace(' ', '-')}.json" for name in VARIANTS}
        if not all(file.is_file() for file in files.values()):
            utterance, tokens = prepare(model, path)
            text = "".join(model.token_texts(tokens.target[:-1]))
            alignment = alignment_of(path, text)
            for name, file in files.items():
                if not file.is_file():
                    found = measure(VARIANTS[name], model, utterance, tokens, alignment)
                    print(path.stem, name, {key: round(value, 2) for key, value in found.items()}, flush=True)
                    write_atomically(file, json.dumps({"text": text, **found}))
        results.append({name: json.loads(file.read_text()) for name, file in files.items()})
    return results


def table(results: list[dict[str, dict[str, float]]]) -> list[str]:
    rows = [("method", *MEASURES)]
    for name in results[0]:
        cells = []
        for measure_name in MEASURES:
            values = np.array([result[name][measure_name] for result in results])
            error = values.std(ddof=1) / np.sqrt(len(values)) if len(values) > 1 else np.nan
            cells.append(
                f"{values.mean():.2f} ± {error:.2f}"
                if abs(values.mean()) < 10
                else f"{values.mean():.1f} ± {error:.1f}"
            )
        rows.append((name, *cells))
    return markdown_table(rows)


def draw(results: list[dict[str, dict[str, float]]]) -> Figure:
    """Draws a panel for each measure with a row for each variant: a dot for each recording, and a bar at the mean."""
    names = list(results[0])
    figure = Figure(figsize=(11, 0.3 * len(names) + 1.2), layout="constrained")
    for axes, (title, high) in zip(figure.subplots(1, len(MEASURES), sharey=True), MEASURES.items()):
        for row, name in enumerate(names):
            values = [result[name][title] for result in results]
            axes.plot(values, [row] * len(values), "o", color="#0072B2", alpha=0.35, markersize=4, markeredgewidth=0)
            axes.plot([np.mean(values)] * 2, [row - 0.35, row + 0.35], color="black", linewidth=2)
        axes.set_title(f"{title} {'↑' if high else '↓'}", fontsize=9)
        axes.tick_params(labelsize=8)
        axes.grid(axis="x", alpha=0.3)
        if title == "seconds":
            axes.set_xscale("symlog", linthresh=0.1)
    figure.axes[0].set_yticks(range(len(names)), labels=names)
    figure.axes[0].invert_yaxis()
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("speech", type=Path, help="folder of corpora of human speech")
    parser.add_argument("--work", type=Path, required=True, help="folder of what is done")
    parser.add_argument("--output", type=Path, required=True, help="the table and the figure, without a suffix")
    parser.add_argument("--n-recordings", type=int, default=6)
    args = parser.parse_args()
    warnings.filterwarnings("ignore", "the maps are noisy")
    torch.set_num_threads(1)
    results = run(args.speech, args.work, args.n_recordings)
    lines = [
        *table(results),
        "",
        f"`{command()}`: mean ± standard error over {len(results)} recordings. Deletion (higher is better) and "
        f"insertion (lower): AUC of the WER at {', '.join(map(str, STEPS))} %. Comprehensiveness (higher) and "
        f"sufficiency (lower): of the maps of the tokens, mean of {', '.join(map(str, TOKEN_STEPS))} %, nats a token. "
        "Pointing game: words whose peak is in their span, %. Seconds: processor time of the explanation on one "
        f"thread, of a machine with other work. Whisper tiny.en; seed 0; {machine()}.",
    ]
    publish(lines, args.output)
    draw(results).savefig(args.output.with_suffix(".png"), dpi=150)


if __name__ == "__main__":
    main()
