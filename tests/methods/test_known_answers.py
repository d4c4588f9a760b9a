"""All methods explain models whose correct explanations are known."""

import pytest
import torch
from captum.attr import (
    FeatureAblation,
    GradientShap,
    InputXGradient,
    IntegratedGradients,
    KernelShap,
    Occlusion,
    Saliency,
    ShapleyValueSampling,
)
from scipy.stats import spearmanr
from toys import DECISIVE, GRID, Toy, lime, over, pooled, spectrogram, wrapped

from captum_spes import SPES, BubbleNoise, KLDivergence, TokenLogit, TokenProbability

SMALL_BUBBLES = {
    "n_samples": 4000,
    "bubbles_per_second": 24.0,
    "bubble_seconds": 0.35,
    "bubble_channels": 3.0,
    "baselines": 1.05,
}
EVERY_METHOD = {
    "SPES": (SPES, {"n_samples": 2000, "feature_mask": GRID}),
    "BubbleNoise": (BubbleNoise, SMALL_BUBBLES),
    "FeatureAblation": (FeatureAblation, {}),
    "Occlusion": (Occlusion, {}),
    "ShapleyValueSampling": (ShapleyValueSampling, {}),
    "KernelShap": (KernelShap, {"n_samples": 500}),
    "Lime": (lime, {"n_samples": 200}),
    "IntegratedGradients": (IntegratedGradients, {}),
    "Saliency": (Saliency, {}),
    "InputXGradient": (InputXGradient, {}),
    "GradientShap": (GradientShap, {}),
    "NoiseTunnel over Saliency": (over(Saliency), {}),
    "NoiseTunnel over IntegratedGradients": (over(IntegratedGradients), {}),
    "NoiseTunnel over FeatureAblation": (over(FeatureAblation), {"nt_samples": 3}),
}


@pytest.mark.parametrize("name", EVERY_METHOD)
def test_every_method_finds_what_decides(name):
    method, arguments = EVERY_METHOD[name]
    explanation = wrapped(method, Toy()).attribute(spectrogram(), perturbations_per_eval=100, **arguments)
    assert explanation.tokens == [" a", " b", " c"] and explanation.previous_tokens == ["<s>", " a", " b"]
    grid = GRID(explanation.spectrogram[None])[0]
    for row, patch in enumerate(DECISIVE):
        attr = explanation.spectrogram_attr[row]
        assert method is BubbleNoise or attr[grid == patch].max() == attr.max() > 0  # whose noise leaves single bins
        assert pooled(attr[None])[0].argmax() == patch
    assert explanation.token_attr.argmax(1).tolist() == list(Toy.looks_at)
    assert torch.equal(explanation.token_attr != 0, explanation.is_previous)


# a method, its budget, and the rank correlation with the patches' weights: by a linear score and by others
RANKING = [
    (IntegratedGradients, {}, 1, 1),
    (GradientShap, {"stdevs": 0.0}, 1, 1),
    (FeatureAblation, {"feature_mask": GRID}, 1, 1),
    (Occlusion, {"sliding_window_shapes": (10, 2), "strides": (10, 2)}, 1, 1),
    (SPES, {"feature_mask": GRID, "n_samples": 10_000}, 0.95, 0.9),
    (ShapleyValueSampling, {"feature_mask": GRID, "n_samples": 40}, 1, 0.9),
    (KernelShap, {"feature_mask": GRID, "n_samples": 500}, 1, 0.7),
    (lime, {"feature_mask": GRID, "n_samples": 500}, 0.95, 0.7),
]


@pytest.mark.parametrize("score", [TokenLogit, KLDivergence])
@pytest.mark.parametrize(("method", "arguments", "linear", "other"), RANKING)
def test_methods_rank_the_patches_of_a_linear_scorer_alike(method, arguments, linear, other, score):
    toy = Toy()
    least = linear if score is TokenLogit else other
    explanation = wrapped(method, toy, score).attribute(spectrogram(), perturbations_per_eval=512, **arguments)
    expected = toy.patch_scores(spectrogram())
    found = pooled(explanation.spectrogram_attr)
    for row in range(3):
        assert spearmanr(found[row], expected[row]).statistic >= least - 1e-9


@pytest.mark.parametrize(
    ("method", "arguments"),
    [
        (IntegratedGradients, {}),
        (InputXGradient, {}),
        (FeatureAblation, {"feature_mask": GRID}),
        (ShapleyValueSampling, {"feature_mask": GRID, "n_samples": 2, "n_token_samples": 1}),
        (KernelShap, {"feature_mask": GRID, "n_samples": 200}),
    ],
)
def test_values_of_a_linear_scorer(method, arguments):
    """Each patch's share of the logit itself, and each previous token's."""
    toy = Toy()
    explanation = wrapped(method, toy, TokenLogit).attribute(spectrogram(), **arguments)
    share = 3 / 4  # of the logit, less the mean over the vocabulary
    attr = explanation.spectrogram_attr
    if explanation.feature_mask is not None:
        attr = attr / 20  # each bin has its patch's score
    torch.testing.assert_close(pooled(attr), share * toy.patch_scores(spectrogram()), atol=2e-4, rtol=1e-3)
    torch.testing.assert_close(explanation.token_attr, share * toy.gate_weights, atol=1e-4, rtol=1e-3)


def test_probabilities_of_a_linear_scorer():
    """Hiding one patch, and one previous token, in closed form."""
    toy = Toy()
    explanation = wrapped(FeatureAblation, toy, TokenProbability).attribute(spectrogram(), feature_mask=GRID)
    patches, tokens = toy.patch_scores(spectrogram()), toy.gate_weights
    logit = (patches.sum(1) + tokens.sum(1))[:, None]
    original = logit.exp() / (logit.exp() + 3)
    for attr, removed in ((pooled(explanation.spectrogram_attr) / 20, patches), (explanation.token_attr, tokens)):
        left = (logit - removed).exp()
        torch.testing.assert_close(attr, original - left / (left + 3), atol=1e-5, rtol=1e-3)


def test_bubble_noise_finds_a_single_decisive_region():
    """Only the decisive patch has an attribution."""
    toy = Toy()
    grid = GRID(spectrogram())[0]
    for row, patch in enumerate(DECISIVE):
        toy.weights[row] *= grid == patch
    attr = wrapped(BubbleNoise, toy).attribute(spectrogram(), **SMALL_BUBBLES).spectrogram_attr
    for row, patch in enumerate(DECISIVE):
        frame, channel = divmod(int(attr[row].argmax()), 8)
        assert grid[frame, channel] == patch
        assert pooled(attr)[row].argsort(descending=True)[0] == patch
        inside, outside = attr[row][grid == patch], attr[row][grid != patch]
        assert inside.mean() > outside.mean() + 3 * outside.std()
