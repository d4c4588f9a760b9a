"""Sanity check: rank correlations between each method's maps of the model and of a model with random weights.

    python benchmarks/sanity.py [--output benchmarks/results/sanity.md]

This is the test of Adebayo et al. (2018) with the bundled Whisper tiny.en and the bundled sample, for the same tokens.
A second seed of the method's random numbers and of the random weights measures how well the method agrees with itself.
If this correlation is low, the correlation with random weights cannot be distinguished from that of noise.
"""

from __future__ import annotations

import argparse
import time
import warnings
from functools import partial
from pathlib import Path

import torch
from captum.attr import (
    FeatureAblation,
    GradientShap,
    InputXGradient,
    IntegratedGradients,
    KernelShap,
    Lime,
    NoiseTunnel,
    Occlusion,
    Saliency,
    ShapleyValueSampling,
)
from provenance import command, machine, publish

import captum_spes
from captum_spes import SPES, BubbleNoise, grid_feature_mask, slic_feature_mask
from captum_spes.attr import AttnLRP, CrossAttention, Energy, GradientSPES
from captum_spes.metrics import parameter_randomization, rank_correlation
from captum_spes.models import load_model, prepare
from captum_spes.models.context import describe_context

SAMPLE = Path(captum_spes.__file__).parent / "data" / "so_what_was_the_next_step.wav"
TEXT = "So what was the next step?"
SEEDS = (0, 1)
FEW = {"n_token_samples": 1}  # the maps of the previous tokens are not used
COARSE = partial(slic_feature_mask, patches_per_second=(20, 40, 60))
SINGLE_BINS = partial(grid_feature_mask, patch_size=(1, 1))


def methods(n_samples: int) -> dict[str, tuple]:
    """Each method, with its arguments if they are not the defaults."""
    return {
        "energy (control)": (Energy, {}),
        "SPES, patches 20-40-60": (SPES, {"n_samples": n_samples, "feature_mask": COARSE, **FEW}),
        "SPES, single bins, p = 0.7": (
            SPES,
            {"n_samples": n_samples, "feature_mask": SINGLE_BINS, "perturbation_prob": 0.7, **FEW},
        ),
        "Bubble Noise": (BubbleNoise, {"n_samples": n_samples, **FEW}),
        "GradientSPES": (GradientSPES, {"n_samples": max(n_samples // 20, 1), **FEW}),
        "AttnLRP": (AttnLRP, {}),
        "cross-attention": (CrossAttention, {}),
        "Feature Ablation": (FeatureAblation, {}),
        "Occlusion": (Occlusion, {}),
        "Shapley Value Sampling": (ShapleyValueSampling, {"token_arguments": {"n_samples": 1}}),
        "Kernel Shap": (KernelShap, {}),
        "Lime": (Lime, {}),
        "Saliency": (Saliency, {}),
        "Saliency, NoiseTunnel": (lambda model: NoiseTunnel(Saliency(model)), {}),
        "Input X Gradient": (InputXGradient, {}),
        "Integrated Gradients": (IntegratedGradients, {}),
        "Gradient Shap": (GradientShap, {}),
    }


def row(name: str, method, model, utterance, tokens, arguments: dict) -> str:
    start = time.perf_counter()
    results = [parameter_randomization(model, method, utterance, tokens, seed=seed, **arguments) for seed in SEEDS]
    first, second = (result.original.spectrogram_attr for result in results)
    passes = results[0].original.metadata["passes"].get("spectrogram", {"forward": 0, "backward": 0})
    signed = torch.cat([result.correlations for result in results])  # (seeds, K)
    absolute = torch.cat([result.absolute_correlations for result in results])
    print(f"{name}: {time.perf_counter() - start:.0f} s", flush=True)
    spread = signed.mean(0)
    cells = [f"{signed.mean():.2f}", f"{spread.min():.2f} – {spread.max():.2f}", f"{absolute.mean():.2f}"]
    if all(is_constant(result.randomized[0].spectrogram_attr) for result in results):
        cells = ["constant maps", "", ""]  # whose correlation of 0 says nothing
    cost = f"{passes['forward']} + {passes['backward']}"
    return f"| {' | '.join([name, cost, f'{rank_correlation(first, second).mean():.2f}', *cells])} |"


def is_constant(maps: torch.Tensor) -> bool:
    return bool((maps.flatten(1).max(1).values == maps.flatten(1).min(1).values).all())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, help="also write the table here")
    parser.add_argument("--n-samples", type=int, default=1_000, help="perturbations of SPES and Bubble Noise")
    args = parser.parse_args()
    warnings.filterwarnings("ignore", "the maps are noisy")
    model = load_model("whisper-tiny.en", device="cpu")
    utterance, tokens = prepare(model, SAMPLE, TEXT)
    lines = [
        "| method | passes, forward + backward | with another seed | with random weights | the tokens' range | of the "
        "absolute values |",
        "|---|---|---|---|---|---|",
        *(row(name, method, model, utterance, tokens, own) for name, (method, own) in methods(args.n_samples).items()),
    ]
    lines += [
        "",
        f"`{command()}`: rank correlations of a token's map by the model "
        "with the map by a copy whose parameters have their own values in random order, mean over the tokens of "
        f'"{TEXT}" and over the seeds {SEEDS[0]} and {SEEDS[1]} (of weights and method); the range is that of the '
        f"tokens' means. Whisper tiny.en in float32 (window: {describe_context(model, utterance)}); {machine()}.",
    ]
    publish(lines, args.output)


if __name__ == "__main__":
    main()
