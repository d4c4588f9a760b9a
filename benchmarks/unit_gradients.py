"""How many samples GradientSPES saves where the gradient of each sample has unit length (``normalize=True``).

    python benchmarks/unit_gradients.py [RECORDING ...] [--output benchmarks/results/unit_gradients.md]

Each recording is explained several times with different seeds, with and without ``normalize``, and pooled over the
coarsest patches of the fast preset. Two numbers are the means over tokens and seeds: the reliability, which is the
correlation of two halves of the samples, and the correlation of a run with the mean of all other runs *without*
``normalize``, which is the estimate that the option must not leave. By the Spearman-Brown formula the reliabilities
give the number of samples that equals one sample with unit length.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from provenance import command, machine, publish
from tqdm import tqdm

import captum_spes
from captum_spes import GradientSPES, KLDivergence, slic_feature_mask
from captum_spes._text import markdown_table
from captum_spes.models import load_model, prepare

SAMPLE = Path(captum_spes.__file__).parent / "data" / "so_what_was_the_next_step.wav"
PATCHES = (400, 500, 600)
POOLED = tuple(0.08 * rate for rate in PATCHES)


def explain(model, path: Path, n_samples: int, n_seeds: int) -> dict[bool, tuple[torch.Tensor, torch.Tensor]]:
    """With and without unit length: maps of shape (seeds, K, bins) and their reliabilities, (seeds, K)."""
    utterance, tokens = prepare(model, path)

    def logits(spectrogram: torch.Tensor) -> torch.Tensor:
        return model.logits(model.encode(spectrogram, utterance), tokens)

    with torch.no_grad():
        score = KLDivergence(logits, logits(utterance.spectrogram))
    fine, coarse = (
        slic_feature_mask(utterance.spectrogram, rates, frames_per_second=model.frames_per_second)
        for rates in (PATCHES, POOLED)
    )
    found = {}
    for normalize in (False, True):
        runs = [
            GradientSPES(score).attribute(
                utterance.spectrogram,
                model.baseline(utterance),
                feature_mask=fine,
                pooling_masks=[coarse],
                n_samples=n_samples,
                perturbations_per_eval=4,
                normalize=normalize,
                seed=seed,
                return_reliability=True,
            )
            for seed in tqdm(range(n_seeds), desc=f"{path.stem}, {'unit length' if normalize else 'plain'}")
        ]
        found[normalize] = torch.stack([run[0].flatten(1) for run in runs]), torch.stack([run[1] for run in runs])
    return found


def agreement(maps: torch.Tensor, plain: torch.Tensor) -> float:
    """The mean correlation of each run's map with the mean of the other runs without unit length."""
    rest = (plain.sum(0) - plain) / (len(plain) - 1)
    pairs = zip(maps.flatten(0, 1).double(), rest.flatten(0, 1).double())
    return float(np.nanmean([torch.corrcoef(torch.stack(pair))[0, 1] for pair in pairs]))


def odds(reliability: float) -> float:
    """What grows in proportion to the samples, by the Spearman-Brown formula."""
    return reliability / (1 - reliability)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recordings", type=Path, nargs="*", default=[SAMPLE], help="default: the bundled sample")
    parser.add_argument("--n-samples", type=int, default=12)
    parser.add_argument("--n-seeds", type=int, default=8)
    parser.add_argument("--output", type=Path, help="also write the table here")
    args = parser.parse_args()
    model = load_model("whisper-tiny.en", device="cpu")
    rows = [("recording", "reliability", "unit length", "correlation with other runs", "unit length", "samples saved")]
    for path in args.recordings:
        found = explain(model, path, args.n_samples, args.n_seeds)
        plain, unit = (float(found[normalize][1].nanmean()) for normalize in (False, True))
        near, nearer = (agreement(found[normalize][0], found[False][0]) for normalize in (False, True))
        saved = f"{odds(unit) / odds(plain):.2f}x"
        rows.append((path.stem, f"{plain:.2f}", f"{unit:.2f}", f"{near:.2f}", f"{nearer:.2f}", saved))
    lines = [
        *markdown_table(rows),
        "",
        f"`{command()}`: {args.n_samples} samples, seeds 0 to {args.n_seeds - 1}, masks of 400, 500 and 600 patches a "
        f"second, pooled over 32, 40 and 48 a second; Whisper tiny.en in float32; {machine()}.",
    ]
    publish(lines, args.output)


if __name__ == "__main__":
    main()
