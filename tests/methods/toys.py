"""Models whose explanations are known, and short ways to the wrapper."""

from functools import partial

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
from torch import nn
from toy_model import ToyModel

from captum_spes import SPES, BubbleNoise, SpeechToTextAttribution, grid_feature_mask

IDS = [60, 61, 62]
N_PATCHES = 16
GRID = partial(grid_feature_mask, patch_size=(10, 2))  # of 40 frames × 8 channels
DECISIVE = (6, 9, 3)  # the patch of each of the toy's tokens


def spectrogram():
    """1 × 40 × 8, one level a patch, so that SLIC finds the patches."""
    levels = torch.tensor([1.0, 1.4, 0.7, 1.2, 0.8, 1.5, 1.1, 0.6]).repeat(2)
    noise = torch.rand(1, 40, 8, generator=torch.Generator().manual_seed(0))
    return levels[GRID(torch.zeros(1, 40, 8))] + 0.02 * noise


class Toy(ToyModel):
    """Token k's logit is linear in the spectrogram, most of it from patch DECISIVE[k], and in the gate."""

    frames_per_second = 40.0
    gate_weights = torch.tensor([[0.5, 0.0, 0.0], [0.2, 0.6, 0.0], [0.3, 0.7, 0.1]])
    looks_at = (0, 1, 1)

    def __init__(self):
        patches = torch.stack([torch.randperm(16, generator=torch.Generator().manual_seed(k)) for k in range(3)])
        patches = (patches + 1) / 100
        for row, patch in enumerate(DECISIVE):
            patches[row, patch] = 0.4
        self.weights = patches[:, GRID(torch.zeros(1, 40, 8))[0]] / 20  # (K, T, C), a patch has 20 bins

    def patch_scores(self, features):
        """What each patch adds to each token's logit, (K, 16)."""
        return pooled(self.weights * features)

    def utterance(self, audio):
        return self.from_features(spectrogram())

    def encode(self, spectrogram, utterance):
        return torch.einsum("btc,ktc->bk", spectrogram, self.weights)

    def logits(self, encoded, tokens, token_gate=None):
        """Logits (B, K, 4): the target's own, and 0 for the others."""
        n_rows = len(tokens.target)
        gate = torch.ones(1, len(tokens.previous)) if token_gate is None else token_gate
        if gate.dim() == 3:
            gate = gate.mean(2)
        heard = encoded[:, :n_rows] + gate @ self.gate_weights[:n_rows, : len(tokens.previous)].T
        return heard[..., None] * nn.functional.one_hot(tokens.target, 4)


class ReluToy(nn.Module, Toy):
    """Token k's logit comes through modules: the spectrogram and the gated embeddings through a ReLU."""

    def __init__(self, activation=None, bias=0.0):
        super().__init__()
        Toy.__init__(self)
        torch.manual_seed(0)
        self.embedding = nn.Parameter(torch.randn(3, 6))
        self.reads = nn.Linear(320, 6)
        self.activation = activation or nn.ReLU()
        self.writes = nn.Linear(6, 3)

    def encode(self, spectrogram, utterance):
        return self.reads(spectrogram.flatten(1))

    def logits(self, encoded, tokens, token_gate=None):
        gate = torch.ones(1, len(tokens.previous)) if token_gate is None else token_gate
        states = self.activation(encoded + gate @ self.embedding[: len(tokens.previous)])
        heard = self.writes(states)[:, : len(tokens.target)]
        return heard[..., None] * nn.functional.one_hot(tokens.target, 4)


def pooled(maps):
    """Sums of maps (K, T, C) over the patches of the grid, (K, 16)."""
    ids = GRID(torch.zeros(1, 40, 8)).flatten()
    return torch.zeros(len(maps), N_PATCHES).index_add_(1, ids, maps.flatten(1))


def wrapped(method, model, score=None):
    return SpeechToTextAttribution(method(model), score=score)


def over(method):
    return lambda model: NoiseTunnel(method(model))


def innermost(method):
    made = method(None)
    return type(made.attribution_method if isinstance(made, NoiseTunnel) else made)


def lime(model):
    """Captum's Lime with a penalty that leaves something."""
    from captum._utils.models.linear_model import SkLearnLasso

    return Lime(model, interpretable_model=SkLearnLasso(alpha=1e-4))


TEXT = "so what was the next step?"

COUNTED = {
    "SPES": (SPES, {"n_samples": 9, "n_token_samples": 8}),
    "BubbleNoise": (BubbleNoise, {"n_samples": 9, "n_token_samples": 8}),
    "FeatureAblation": (FeatureAblation, {}),
    "Occlusion": (Occlusion, {}),
    "ShapleyValueSampling": (ShapleyValueSampling, {"n_samples": 2, "n_token_samples": 2}),
    "KernelShap": (KernelShap, {"n_samples": 20, "n_token_samples": 20}),
    "Lime": (lime, {"n_samples": 20, "n_token_samples": 20}),
    "IntegratedGradients": (IntegratedGradients, {"n_steps": 6}),
    "Saliency": (Saliency, {}),
    "InputXGradient": (InputXGradient, {}),
    "GradientShap": (GradientShap, {"n_samples": 6, "n_token_samples": 6}),
    "NoiseTunnel": (over(IntegratedGradients), {"n_steps": 4, "nt_samples": 3}),
}

GRADIENTS = ("IntegratedGradients", "Saliency", "InputXGradient", "GradientShap", "NoiseTunnel")
