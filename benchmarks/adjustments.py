"""Do complementary masks, or a regression, make maps less noisy at the same number of passes?

    python benchmarks/adjustments.py ../shared/speech --work spes-output/adjustments \\
        --output benchmarks/results/adjustments.md

For the shortest human recordings, random masks of patches (500 a second, half of them hidden) and their complements are
scored once by Whisper tiny.en. The maps of N passes are then made in these ways:

- *Eq. 3*: the mean impact of the masks that hide a patch (paper, Eq. 3), from independent masks;
- *pairs*: the same from N / 2 masks and their complements, z and 1 - z;
- *ridge*: a ridge regression of the impact on the masks, which adjusts for the other patches (regularised Banzhaf
  values), with the penalty of the best result among 50, 200 and 1,000;
- *pairs, ridge*: a ridge regression of half the difference of z and 1 - z on z.

For gradients at random masks, as of GradientSPES, a map is the mean of independent gradients of unit length, or of
those at masks and their complements.

The table has two numbers for each: the correlation (over bins, mean of the tokens) with the map of the second half of
all masks and complements, which is not used otherwise, and that of two maps of N passes each. What is scored is kept in
the work folder.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from corpora import by_duration, read_corpus
from provenance import command, machine, publish
from torch import Tensor
from tqdm import tqdm

from captum_spes import KLDivergence, slic_feature_mask
from captum_spes._text import markdown_table
from captum_spes.models import load_model, prepare

PATCHES_PER_SECOND = 500
N_PAIRS, N_GRADIENT_PAIRS = 3_000, 96
N_PASSES, N_GRADIENTS = (200, 400, 700), (12, 24)
PENALTIES = (50.0, 200.0, 1_000.0)
BATCH = 48


def scored(path: Path, work: Path, seed: int) -> dict[str, Tensor]:
    """Masks (M, P), impacts of them and of their complements, (M, K), gradients (G, K, P) and areas (P,)."""
    file = work / f"{path.stem}-{seed}.pt"
    if file.is_file():
        return torch.load(file)
    model = load_model("whisper-tiny.en", device="cpu")
    utterance, tokens = prepare(model, path, dtype="auto")
    spectrogram, baseline = utterance.spectrogram, model.baseline(utterance)

    def logits(inputs: Tensor) -> Tensor:
        return model.logits(model.encode(inputs, utterance), tokens)

    with torch.no_grad():
        score = KLDivergence(logits, logits(spectrogram))
    ids = slic_feature_mask(spectrogram, (PATCHES_PER_SECOND,), frames_per_second=model.frames_per_second)[0]
    masks = torch.rand(N_PAIRS, int(ids.max()) + 1, generator=torch.Generator().manual_seed(seed)) < 0.5

    def inputs(hidden: Tensor) -> Tensor:
        """The spectrogram with hidden patches; the share (B, P) of a patch that is hidden may be any number."""
        share = hidden[:, ids.flatten()].view(len(hidden), *spectrogram.shape[1:])
        return spectrogram + share * (baseline - spectrogram)

    @torch.no_grad()
    def impacts(rows: Tensor, desc: str) -> Tensor:
        parts = tqdm(rows.float().split(BATCH), desc=f"{path.stem}, {desc}")
        return torch.cat([-score(inputs(part)) for part in parts])

    def gradient(row: Tensor) -> Tensor:
        hidden = row.float()[None].requires_grad_()
        rows = [torch.autograd.grad(-value, hidden, retain_graph=True)[0][0] for value in score(inputs(hidden))[0]]
        return torch.nn.functional.normalize(torch.stack(rows), dim=1)

    both = (masks, ~masks)
    found = {
        "masks": masks,
        "impacts": torch.stack([impacts(rows, desc) for rows, desc in zip(both, ("masks", "complements"))]),
        "gradients": torch.stack(
            [torch.stack([gradient(row) for row in tqdm(rows[:N_GRADIENT_PAIRS], desc="gradients")]) for rows in both]
        ),
        "areas": torch.bincount(ids.flatten()),
    }
    torch.save(found, file.with_suffix(".part"))
    file.with_suffix(".part").rename(file)
    return found


def mean_impact(masks: Tensor, impacts: Tensor) -> Tensor:
    return masks.T @ impacts / masks.sum(0)[:, None]


def ridge(masks: Tensor, centred_impacts: Tensor, penalty: float) -> Tensor:
    """The coefficients (P, K) of a ridge regression of impacts (M, K), less their mean, on masks (M, P)."""
    centred = masks - 0.5
    kernel = centred @ centred.T + penalty * torch.eye(len(masks), dtype=masks.dtype)
    return centred.T @ torch.linalg.solve(kernel, centred_impacts)


def ways(masks: Tensor, impacts: Tensor) -> dict[str, Callable[[int, int], Tensor]]:
    """For each way the map (P, K) of a number of passes, and the number of the first mask that is used."""
    of_mask, of_complement = impacts

    def some(first: int, n: int) -> slice:
        return slice(first, first + n)

    def pairs(n: int, first: int) -> Tensor:
        own = some(first, n // 2)
        both = torch.cat((masks[own], 1 - masks[own])), torch.cat((of_mask[own], of_complement[own]))
        return mean_impact(*both)

    def difference(n: int, first: int, penalty: float) -> Tensor:
        own = some(first, n // 2)
        return ridge(masks[own], (of_mask[own] - of_complement[own]) / 2, penalty)

    def regression(n: int, first: int, penalty: float) -> Tensor:
        own = of_mask[some(first, n)]
        return ridge(masks[some(first, n)], own - own.mean(0), penalty)

    found = {
        "Eq. 3": lambda n, first: mean_impact(masks[some(first, n)], of_mask[some(first, n)]),
        "pairs": pairs,
    }
    for penalty in PENALTIES:
        found[f"ridge, penalty {penalty:g}"] = partial(regression, penalty=penalty)
        found[f"pairs, ridge, penalty {penalty:g}"] = partial(difference, penalty=penalty)
    return found


def gradient_ways(gradients: Tensor) -> dict[str, Callable[[int, int], Tensor]]:
    return {
        "gradients": lambda n, first: gradients[0, first : first + n].mean(0).T,
        "gradients, pairs": lambda n, first: gradients[:, first : first + n // 2].mean((0, 1)).T,
    }


def correlation(first: Tensor, second: Tensor, areas: Tensor) -> float:
    """Pearson's correlation of two maps (P, K) over the bins, mean of the tokens."""
    weights = (areas / areas.sum())[:, None]
    centred = [(each - (weights * each).sum(0)) * weights.sqrt() for each in (first, second)]
    return float(torch.nn.functional.cosine_similarity(*centred, dim=0).mean())


def measure(data: dict[str, Tensor]) -> dict[tuple[str, int], tuple[float, float]]:
    """For each way and number of passes, the correlation with the reference and between two maps."""
    masks, areas = data["masks"].double(), data["areas"].double()
    impacts, gradients = data["impacts"].double(), data["gradients"].double()
    half = len(masks) // 2
    reference = mean_impact(torch.cat((masks[half:], 1 - masks[half:])), impacts[:, half:].flatten(0, 1))
    cases = [(reference, ways(masks, impacts), N_PASSES)]
    middle = gradients.shape[1] // 2
    cases.append((gradients[:, middle:].mean((0, 1)).T, gradient_ways(gradients), N_GRADIENTS))
    found = {}
    for reference, made, numbers in cases:
        for name, make in made.items():
            for n in numbers:
                two = make(n, 0), make(n, n)
                near = float(np.mean([correlation(each, reference, areas) for each in two]))
                found[name, n] = near, correlation(*two, areas)
    return found


def table(results: list[dict[tuple[str, int], tuple[float, float]]]) -> list[str]:
    rows = [("map", "passes", "correlation with the other passes", "correlation of two maps")]
    means = {key: np.mean([result[key] for result in results], axis=0) for key in results[0]}
    for numbers, names in (
        (N_PASSES, ("Eq. 3", "pairs", "ridge", "pairs, ridge")),
        (N_GRADIENTS, ("gradients", "gradients, pairs")),
    ):
        for n in numbers:
            for name in names:
                keys = [key for key in means if key[1] == n and key[0].split(", penalty")[0] == name]
                best = max(keys, key=lambda key: means[key][0])
                rows.append((best[0], str(n), *(f"{value:.3f}" for value in means[best])))
    return markdown_table(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("speech", type=Path, help="folder of corpora of human speech")
    parser.add_argument(
        "--work", type=Path, default=Path("spes-output/adjustments"), help="what is scored is kept here"
    )
    parser.add_argument("--output", type=Path, help="also write the table here")
    parser.add_argument("--n-recordings", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    paths = [item.path for item in by_duration(read_corpus(args.speech).utterances)[: args.n_recordings]]
    results = [measure(scored(path, args.work, args.seed)) for path in paths]
    lines = [
        *table(results),
        "",
        f"`{command()}`: mean of {len(paths)} recordings and their tokens; {PATCHES_PER_SECOND} patches a second, half "
        f"of them hidden; Whisper tiny.en; seed {args.seed}; {machine()}.",
    ]
    publish(lines, args.output)


if __name__ == "__main__":
    main()
