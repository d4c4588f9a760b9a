"""The methods that estimators.py compares; each computes maps of an utterance in pieces that can be averaged."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from captum.attr import Attribution, FeatureAblation, IntegratedGradients, KernelShap, NoiseTunnel, Occlusion
from scipy.ndimage import gaussian_filter
from torch import Tensor

from captum_spes import (
    SPES,
    BubbleNoise,
    GradientSPES,
    KLDivergence,
    TokenLogProbability,
    grid_feature_mask,
    slic_feature_mask,
)
from captum_spes.attr._features import FeatureLayout, MaskSampler
from captum_spes.attr._impacts import ImpactSums
from captum_spes.attr._perturbations import draw_groups, perturbed_inputs
from captum_spes.models import SpeechToTextModel, Tokens, Utterance
from captum_spes.speech_to_text.passes import SharedPasses
from captum_spes.speech_to_text.profiles import Facts, baselines_for, spectrogram_arguments, uses_patches

BATCH = 16
FINE, MEDIUM, COARSE, COARSER, MIXED = (
    *((400, 500, 600), (100, 125, 150), (20, 40, 60), (5, 10, 15)),
    (20, 100, 500),
)
PIECE = 1_008  # samples: a multiple of the three granularities
SMALL_PIECE = 144
DRAWS = 24


class Case:
    """An utterance as input of a model, and the scores of its tokens."""

    def __init__(self, model: SpeechToTextModel, utterance: Utterance, tokens: Tokens) -> None:
        self.model = model
        self.utterance = utterance
        self.tokens = tokens
        self.spectrogram = utterance.spectrogram
        self.baseline = model.baseline(utterance).expand_as(self.spectrogram)
        self.forwards = self.backwards = 0
        with torch.no_grad():
            self.original = self._logits(self.spectrogram)

    def _logits(self, spectrogram: Tensor) -> Tensor:
        return self.model.logits(self.model.encode(spectrogram, self.utterance), self.tokens)

    def score(self, score_class: Any = KLDivergence) -> Callable[[Tensor], Tensor]:
        """The forward function (B, K), which counts its inputs."""
        function = score_class.from_prediction(self._logits, self.original, self.tokens.target)

        def counted(spectrogram: Tensor) -> Tensor:
            self.forwards += len(spectrogram)
            return function(spectrogram)

        return counted

    def score_of_mask(self, change: Callable[[Tensor], Tensor] = lambda shown: shown) -> Callable[[Tensor], Tensor]:
        """The forward function of the share of each bin that is shown, from 1 to 0, (B, T, C)."""
        score = self.score()

        def of_mask(shown: Tensor) -> Tensor:
            shown = change(shown)
            return score(self.spectrogram * shown + self.baseline * (1 - shown))

        return of_mask

    def mask(self, patches_per_second: tuple[int, ...]) -> Tensor:
        return slic_feature_mask(self.spectrogram, patches_per_second, frames_per_second=self.model.frames_per_second)


def spes(case: Case, seed: int, patches: tuple[int, ...], n_samples: int = PIECE, prob: float = 0.5) -> Tensor:
    return SPES(case.score()).attribute(
        case.spectrogram,
        case.baseline,
        feature_mask=case.mask(patches),
        n_samples=n_samples,
        perturbations_per_eval=BATCH,
        perturbation_prob=prob,
        centered=False,
        seed=seed,
    )


def gradient_spes(
    case: Case,
    seed: int,
    patches: tuple[int, ...] = FINE,
    sentence: bool = False,
    prob: float = 0.5,
    n_samples: int = DRAWS,
) -> Tensor:
    score = case.score()
    n_scores = 1 if sentence else len(case.tokens.target)
    case.backwards += n_samples * n_scores
    return GradientSPES((lambda x: score(x).sum(1)) if sentence else score).attribute(
        case.spectrogram,
        case.baseline,
        feature_mask=case.mask(patches),
        n_samples=n_samples,
        perturbations_per_eval=4,
        perturbation_prob=prob,
        pool_features=False,  # a map is pooled when it is evaluated
        seed=seed,
    )


def feature_wise(case: Case, seed: int) -> Tensor:
    bins = grid_feature_mask(case.spectrogram, patch_size=(1, 1))
    return SPES(case.score()).attribute(
        case.spectrogram,
        case.baseline,
        feature_mask=bins,
        n_samples=PIECE,
        perturbations_per_eval=BATCH,
        perturbation_prob=0.7,
        centered=False,
        seed=seed,
    )


def bubble_noise(case: Case, seed: int) -> Tensor:
    return BubbleNoise(case.score()).attribute(
        case.spectrogram,
        n_samples=PIECE,
        perturbations_per_eval=BATCH,
        frames_per_second=case.model.frames_per_second,
        centered=False,
        seed=seed,
    )


def captum(
    case: Case,
    seed: int,
    make: Callable[[Any], Attribution],
    score_class: Any = KLDivergence,
    patches: int | None = None,
    **given: Any,
) -> Tensor:
    """A method of Captum, whose passes are shared by all tokens."""
    method = make(case.model)
    mask = case.mask((patches,))[0] if patches else None
    facts = Facts(case.spectrogram, case.model.frames_per_second, mask, 0)
    arguments = spectrogram_arguments(method, facts, given) | baselines_for(method, case.baseline, case.spectrogram)
    if uses_patches(method):
        arguments["feature_mask"] = mask
    if isinstance(method, (FeatureAblation, KernelShap)):
        arguments["perturbations_per_eval"] = BATCH

    def on_pass(forward: int, backward: int) -> None:
        case.backwards += backward

    passes = SharedPasses(case.score(score_class), len(case.tokens.target), BATCH)
    return passes.attribute(method, case.spectrogram, arguments, seed, on_pass)


# Attempts to make SPES cheaper


def soft_edges(case: Case, seed: int) -> Tensor:
    """SPES with masks whose edges are blurred over some bins."""

    def blurred(shown: Tensor) -> Tensor:
        return torch.from_numpy(gaussian_filter(shown.numpy(), sigma=2, axes=(1, 2)))

    return _on_mask(case, case.score_of_mask(blurred), case.mask(FINE), PIECE, seed)


def coarse_to_fine(case: Case, seed: int) -> Tensor:
    """A third of the samples for coarse patches; the rest for fine patches in the more salient half of the map."""
    coarse, fine = case.mask(COARSE), case.mask(FINE)
    first = spes(case, seed, COARSE)
    centred = first.flatten(1) - first.flatten(1).mean(1, keepdim=True)
    salience = (centred / centred.std(1, keepdim=True)).mean(0).view(case.spectrogram.shape)
    refined = torch.where(salience > salience.median(), fine + coarse.max() + 1, coarse)
    return _on_mask(case, case.score_of_mask(), refined, 2 * PIECE, seed)


def energy_sampling(case: Case, seed: int) -> Tensor:
    """SPES that hides patches more often if they are louder than the baseline, with p from 0.3 to 0.7 by rank."""
    mask = case.mask(FINE)
    layout = FeatureLayout.create((case.spectrogram,), mask, 0.5)
    energy = (case.spectrogram - case.baseline).flatten()
    probs = layout.probs.clone()
    for granularity, ids in enumerate(layout.ids[0][:, 0]):
        count = torch.bincount(ids, minlength=layout.n_features).clamp(min=1)
        mean = torch.zeros(layout.n_features).scatter_add(0, ids, energy) / count
        probs[granularity, 0] = 0.3 + 0.4 * mean.argsort().argsort() / layout.n_features
    layout = replace(layout, probs=probs)
    sampler, score = MaskSampler(layout, seed), case.score()
    with torch.no_grad():
        sums = ImpactSums(layout, score(case.spectrogram), batch_size=1, per_eval=BATCH)

        def add(start: int, stop: int) -> None:
            groups = draw_groups(sampler, start, stop)
            sums.add(score(perturbed_inputs((case.spectrogram,), (case.baseline,), layout, groups)[0]), groups, seed)

        for start in range(0, PIECE, BATCH):
            add(start, min(start + BATCH, PIECE))
    return sums.attributions((case.spectrogram,), exact=False)[0][0]


def control_variate(case: Case, seed: int) -> Tensor:
    """SPES on the residual of GradientSPES's linear prediction of the impact, plus the map of the prediction."""
    slopes = gradient_spes(case, seed)  # (K, T, C)
    score, mask = case.score_of_mask(), case.mask(FINE)

    def left_over(shown: Tensor) -> Tensor:
        return score(shown) + (1 - shown).flatten(1) @ slopes.flatten(1).T

    rest = _on_mask(case, left_over, mask, PIECE, seed)
    return rest + 0.5 * pooled(slopes, mask)  # and p Σ d, which is the same everywhere


def _on_mask(case: Case, score: Callable[[Tensor], Tensor], mask: Tensor, n_samples: int, seed: int) -> Tensor:
    return SPES(score).attribute(
        torch.ones_like(case.spectrogram),
        feature_mask=mask,
        n_samples=n_samples,
        perturbations_per_eval=BATCH,
        centered=False,
        seed=seed,
    )


def pooled(attributions: Tensor, mask: Tensor) -> Tensor:
    """Replaces every bin's value (K, T, C) by the sum over its patch, averaged over the granularities."""
    flat = attributions.flatten(1).double()
    total = torch.zeros_like(flat)
    for ids in mask.flatten(1):
        sums = torch.zeros(len(flat), int(ids.max()) + 1, dtype=torch.float64).index_add_(1, ids, flat)
        total += sums[:, ids] / len(mask)
    return total.view_as(attributions).float()


Run = Callable[[Case, int], Tensor]
# for each name the function that computes a piece, and the number of pieces in each stage
CORE: dict[str, tuple[Run, int]] = {
    "energy": (lambda case, seed: (case.spectrogram - case.baseline).expand(len(case.tokens.target), -1, -1), 1),
    "random": (
        lambda case, seed: torch.rand(
            len(case.tokens.target), *case.spectrogram.shape[1:], generator=torch.Generator().manual_seed(seed)
        ),
        1,
    ),
    "gradient_spes": (gradient_spes, 4),
    "gradient_spes_sentence": (partial(gradient_spes, sentence=True), 4),
    "integrated_gradients_25": (
        partial(captum, make=IntegratedGradients, score_class=TokenLogProbability, n_steps=25),
        1,
    ),
    "integrated_gradients_100": (
        partial(captum, make=IntegratedGradients, score_class=TokenLogProbability, n_steps=100),
        1,
    ),
    "smooth_grad_ig": (
        partial(
            captum,
            make=lambda model: NoiseTunnel(IntegratedGradients(model)),
            score_class=TokenLogProbability,
            n_steps=10,
            nt_samples=4,
        ),
        1,
    ),
    "feature_ablation": (partial(captum, make=FeatureAblation, patches=60), 1),
    "kernel_shap": (partial(captum, make=KernelShap, patches=20), 1),
    "occlusion": (partial(captum, make=Occlusion), 1),
    **{
        f"spes_{name}_small": (partial(spes, patches=patches, n_samples=SMALL_PIECE), 1)
        for name, patches in {"coarser": COARSER, "coarse": COARSE, "medium": MEDIUM, "fine": FINE}.items()
    },
    "spes_fine": (partial(spes, patches=FINE), 3),
    "spes_coarse": (partial(spes, patches=COARSE), 3),
    "feature_wise": (feature_wise, 1),
    "bubble_noise": (bubble_noise, 1),
}
LONG: dict[str, tuple[Run, int]] = {"spes_fine": (CORE["spes_fine"][0], 20)}
LONGEST: dict[str, tuple[Run, int]] = {"spes_fine": (CORE["spes_fine"][0], 40)}
MANY: dict[str, tuple[Run, int]] = {"gradient_spes": (gradient_spes, 16)}
FEW: dict[str, tuple[Run, int]] = {"gradient_spes_few": (partial(gradient_spes, n_samples=6), 2)}
VARIANTS: dict[str, tuple[Run, int]] = {
    "gradient_spes_coarse": (partial(gradient_spes, patches=COARSE), 1),
    "spes_medium": (partial(spes, patches=MEDIUM), 3),
    "spes_mixed": (partial(spes, patches=MIXED), 1),
    "spes_p_0.3": (partial(spes, patches=FINE, prob=0.3), 1),
    "spes_p_0.7": (partial(spes, patches=FINE, prob=0.7), 1),
    "spes_soft_edges": (soft_edges, 1),
    "spes_coarse_to_fine": (coarse_to_fine, 1),
    "spes_energy_sampling": (energy_sampling, 1),
    "spes_control_variate": (control_variate, 1),
    "gradient_spes_p_0.3": (partial(gradient_spes, prob=0.3), 1),
    "gradient_spes_p_0.7": (partial(gradient_spes, prob=0.7), 1),
}


@dataclass(frozen=True)
class Piece:
    """A part of a run."""

    attributions: Tensor  # (K, T, C), or (1, T, C) of the sentence
    seconds: float  # CPU time of one thread
    forwards: int
    backwards: int


def run_piece(case: Case, run: Run, seed: int) -> Piece:
    case.forwards = case.backwards = 0
    start = time.process_time()
    attributions = run(case, seed).detach().float()
    seconds = time.process_time() - start
    # the offset of each map has no meaning, and would cost accuracy in half precision
    centred = attributions - attributions.mean((1, 2), keepdim=True)
    return Piece(centred, seconds, case.forwards, case.backwards)


@dataclass(frozen=True)
class MapRecipe:
    """How to make a map: the mean of consecutive pieces of a run, pooled over the fine patches or not."""

    run: str
    n_pieces: int = 1
    pool: bool = False
    first: int = 0  # the first piece; another one makes another run


# runs of SPES with different seeds, by the number of pieces, which show how much the results depend on the seed
RUNS = {1: 6, 5: 4, 10: 4, 20: 2}


def spes_name(pieces: int) -> str:
    """The name of SPES's map with fine patches."""
    return f"SPES fine, N = {pieces * PIECE:,}"


MAPS: dict[str, MapRecipe] = {
    "random": MapRecipe("random"),
    "energy": MapRecipe("energy"),
    "energy, patches": MapRecipe("energy", pool=True),
    "GradientSPES, 6 draws, patches": MapRecipe("gradient_spes_few", 1, pool=True),
    "GradientSPES, 12 draws, patches": MapRecipe("gradient_spes_few", 2, pool=True),
    "GradientSPES, 24 draws": MapRecipe("gradient_spes", 1),
    "GradientSPES, 24 draws, patches": MapRecipe("gradient_spes", 1, pool=True),
    "GradientSPES, 96 draws": MapRecipe("gradient_spes", 4),
    "GradientSPES, 96 draws, patches": MapRecipe("gradient_spes", 4, pool=True),
    "GradientSPES, 384 draws": MapRecipe("gradient_spes", 16),
    "GradientSPES, 384 draws, patches": MapRecipe("gradient_spes", 16, pool=True),
    "GradientSPES sentence, 24 draws": MapRecipe("gradient_spes_sentence", 1),
    "GradientSPES sentence, 24 draws, patches": MapRecipe("gradient_spes_sentence", 1, pool=True),
    "GradientSPES sentence, 96 draws": MapRecipe("gradient_spes_sentence", 4),
    "GradientSPES sentence, 96 draws, patches": MapRecipe("gradient_spes_sentence", 4, pool=True),
    "GradientSPES, coarse masks, 24 draws, bins": MapRecipe("gradient_spes_coarse", 1),
    "Integrated Gradients, 25 steps": MapRecipe("integrated_gradients_25"),
    "Integrated Gradients, 100 steps": MapRecipe("integrated_gradients_100"),
    "Integrated Gradients, 100 steps, patches": MapRecipe("integrated_gradients_100", pool=True),
    "SmoothGrad IG, 4 × 10 steps": MapRecipe("smooth_grad_ig"),
    "Feature Ablation": MapRecipe("feature_ablation"),
    "Kernel SHAP": MapRecipe("kernel_shap"),
    "Occlusion": MapRecipe("occlusion"),
    "feature-wise, N = 1,008": MapRecipe("feature_wise"),
    "Bubble Noise, N = 1,008": MapRecipe("bubble_noise"),
    **{f"SPES {name}, N = 144": MapRecipe(f"spes_{name}_small") for name in ("coarser", "coarse", "medium", "fine")},
    **{
        f"SPES {name}, N = {pieces * PIECE:,}": MapRecipe(f"spes_{name}", pieces)
        for pieces in (1, 3)
        for name in ("coarse", "medium", "mixed", "fine")
        if (name, pieces) != ("mixed", 3)
    },
    **{spes_name(pieces): MapRecipe("spes_fine", pieces) for pieces in (5, 10, 20, 40)},
    **{
        f"{spes_name(pieces)}, run {number}": MapRecipe("spes_fine", pieces, first=(number - 1) * pieces)
        for pieces, n_runs in RUNS.items()
        for number in range(2, n_runs + 1)
    },
    "SPES fine, p = 0.3, N = 1,008": MapRecipe("spes_p_0.3"),
    "SPES fine, p = 0.7, N = 1,008": MapRecipe("spes_p_0.7"),
    "SPES fine, soft edges, N = 1,008": MapRecipe("spes_soft_edges"),
    "SPES fine, p by energy, N = 1,008": MapRecipe("spes_energy_sampling"),
    "SPES fine, control variate, N = 1,008": MapRecipe("spes_control_variate"),
    "SPES coarse to fine, N = 3,024": MapRecipe("spes_coarse_to_fine"),
    "GradientSPES, p = 0.3, 24 draws": MapRecipe("gradient_spes_p_0.3"),
    "GradientSPES, p = 0.7, 24 draws": MapRecipe("gradient_spes_p_0.7"),
}

# maps that are also evaluated with another baseline and another model
MAIN = (
    *("random", "energy", "energy, patches", "GradientSPES, 24 draws, patches"),
    *("GradientSPES, 96 draws", "GradientSPES, 96 draws, patches", "GradientSPES sentence, 96 draws, patches"),
    *("Integrated Gradients, 100 steps", "Integrated Gradients, 100 steps, patches", "Feature Ablation"),
    *("SPES coarse, N = 3,024", "SPES fine, N = 3,024", "SPES fine, N = 20,160"),
)
