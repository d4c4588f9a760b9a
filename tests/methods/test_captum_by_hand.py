"""The wrapper gives the same results as direct calls of Captum's methods."""

import numpy as np
import pytest
import torch
from captum.attr import (
    FeatureAblation,
    GradientAttribution,
    GradientShap,
    InputXGradient,
    IntegratedGradients,
    KernelShap,
    NoiseTunnel,
    Occlusion,
    PerturbationAttribution,
    Saliency,
    ShapleyValueSampling,
)
from captum.log import log_usage
from toys import IDS, innermost, lime, over, wrapped

from captum_spes import KLDivergence, SpeechToTextAttribution, TokenLogit, TokenLogProbability

# As Captum by hand


def sampled(method, n_samples, **arguments):
    return method, {"n_samples": n_samples, **arguments}, {"n_samples": 15}


BY_HAND = {
    "IntegratedGradients": (IntegratedGradients, {"n_steps": 7}, {"n_steps": 7}),
    "Saliency": (Saliency, {}, {}),
    "Saliency, signed": (Saliency, {"abs": False}, {"abs": False}),
    "InputXGradient": (InputXGradient, {}, {}),
    "GradientShap": sampled(GradientShap, 6, stdevs=0.3),
    "NoiseTunnel over Saliency": (over(Saliency), {"nt_samples": 5, "stdevs": 0.2, "nt_type": "smoothgrad_sq"}, {}),
    "NoiseTunnel over IntegratedGradients": (
        *(over(IntegratedGradients), {"nt_samples": 3, "stdevs": 0.2, "n_steps": 4}),
        {"n_steps": 4},
    ),
    "FeatureAblation": (FeatureAblation, {}, {}),
    "Occlusion": (
        *(Occlusion, {"sliding_window_shapes": (20, 8), "strides": (10, 4)}),
        {"sliding_window_shapes": (1,)},
    ),
    "ShapleyValueSampling": sampled(ShapleyValueSampling, 2),
    "KernelShap": sampled(KernelShap, 20),
    "Lime": sampled(lime, 20),
    "NoiseTunnel over FeatureAblation": (over(FeatureAblation), {"nt_samples": 2, "stdevs": 0.2}, {}),
}


def by_hand(method, score, row, seed, inputs, **arguments):
    """Captum's method, made with one token's score."""
    torch.manual_seed(seed)
    np.random.seed(seed)
    return method(lambda x: score(x)[:, row]).attribute(inputs.clone().requires_grad_(), **arguments)[0].detach()


@pytest.mark.parametrize("score", [None, TokenLogit])
@pytest.mark.parametrize("name", BY_HAND)
def test_the_wrapper_adds_nothing_to_captum(tiny_model, audio, parts, name, score):
    utterance, tokens, encoded, reference, mask = parts
    method, arguments, token_arguments = BY_HAND[name]
    takes_mask = name.endswith(("FeatureAblation", "Sampling", "KernelShap", "Lime"))
    takes_baselines = not name.endswith(("Saliency", "signed", "InputXGradient"))
    explanation = wrapped(method, tiny_model, score).attribute(
        audio,
        IDS,
        sampling_rate=16000,
        seed=3,
        **arguments,
        **({"n_token_samples": token_arguments["n_samples"]} if "n_samples" in token_arguments else {}),
        **({"feature_mask": mask} if takes_mask else {}),
    )
    score = score or (TokenLogProbability if issubclass(innermost(method), GradientAttribution) else KLDivergence)
    logits = lambda x: tiny_model.logits(tiny_model.encode(x, utterance), tokens)  # noqa: E731
    on_spectrogram = score.from_prediction(logits, reference, tokens.target)
    on_gate = score.from_prediction(lambda gate: tiny_model.logits(encoded, tokens, gate), reference, tokens.target)
    gate = torch.ones(1, 4)
    given = dict(arguments)
    if takes_mask:
        given["feature_mask"] = mask
    if takes_baselines:
        given["baselines"] = tiny_model.baseline(utterance).expand_as(utterance.spectrogram)
        token_arguments = {**token_arguments, "baselines": torch.zeros(1, 4)}
    token_method = innermost(method) if name.startswith("NoiseTunnel") else method
    for row in range(3):
        expected = by_hand(method, on_spectrogram, row, 3, utterance.spectrogram, **given)
        torch.testing.assert_close(explanation.spectrogram_attr[row], expected, atol=1e-5, rtol=1e-3)
        assert expected.abs().max() > 1e-4
        expected = by_hand(token_method, on_gate, row, 3, gate, **token_arguments)
        n = int(explanation.n_previous[row])
        torch.testing.assert_close(explanation.token_attr[row, :n], expected[:n], atol=1e-5, rtol=1e-3)
        assert expected.abs().max() > 1e-4


# The methods that Captum does not know


class HalfTheWay(PerturbationAttribution):
    """Without a feature mask: how the score falls half the way to the baseline, all bins alike."""

    def attribute(self, inputs, baselines=None, way=0.5):
        impact = self.forward_func(inputs) - self.forward_func(inputs + way * (baselines - inputs))
        return impact[:, None, None] * torch.ones_like(inputs) if inputs.dim() == 3 else impact[:, None] * inputs


class Squared(GradientAttribution):
    """The squared gradient."""

    @log_usage()
    def attribute(self, inputs, target=None):
        return self.gradient_func(self.forward_func, inputs, target)[0].square()


class ByAutograd(GradientAttribution):
    """The gradient of the squared score, by autograd itself."""

    def attribute(self, inputs):
        return torch.autograd.grad(self.forward_func(inputs).square().sum(), inputs)[0]


def test_a_perturbation_method_of_the_users(parts, tiny_model):
    utterance, tokens, _, reference, _ = parts
    method = HalfTheWay(tiny_model)
    with pytest.warns(UserWarning, match="the maps of Half The Way are the same everywhere"):
        explanation = SpeechToTextAttribution(method).attribute(utterance, tokens, way=0.25)
    with torch.no_grad():
        mixed = utterance.spectrogram + 0.25 * (tiny_model.baseline(utterance) - utterance.spectrogram)
        perturbed = tiny_model.logits(tiny_model.encode(mixed, utterance), tokens)
    impact = -KLDivergence(lambda _: perturbed, reference)(mixed)[0]
    torch.testing.assert_close(explanation.spectrogram_attr[:, 5, 5], impact, atol=1e-6, rtol=1e-3)
    assert explanation.feature_mask is None and explanation.metadata["method"] == "Half The Way"
    assert explanation.metadata["passes"]["spectrogram"] == {"forward": 2, "backward": 0}


@pytest.mark.parametrize("method", [Squared, ByAutograd])
def test_a_gradient_method_of_the_users(parts, tiny_model, method):
    utterance, tokens, encoded, *_ = parts
    explanation = wrapped(method, tiny_model).attribute(utterance, tokens)
    inputs, gate = utterance.spectrogram.clone().requires_grad_(), torch.ones(1, 4, requires_grad=True)
    for x, attr, logits in (
        (inputs, explanation.spectrogram_attr, lambda x: tiny_model.logits(tiny_model.encode(x, utterance), tokens)),
        (gate, explanation.token_attr, lambda gate: tiny_model.logits(encoded, tokens, gate)),
    ):
        scores = TokenLogProbability(logits, tokens.target)(x)[0]
        for row in range(3):
            (gradient,) = torch.autograd.grad(scores[row], x, retain_graph=True)
            expected = gradient.square() if method is Squared else 2 * scores[row].detach() * gradient
            n = None if x is inputs else int(explanation.n_previous[row])
            torch.testing.assert_close(attr[row][:n], expected[0][:n], atol=1e-5, rtol=1e-3)
    assert explanation.metadata["passes"]["spectrogram"]["backward"] == 3


def test_noise_over_a_method_of_the_users(parts, tiny_model):
    utterance, tokens, *_ = parts
    plain = wrapped(Squared, tiny_model).attribute(utterance, tokens)
    noisy = wrapped(over(Squared), tiny_model).attribute(utterance, tokens, stdevs=1e-6, nt_samples=2)
    torch.testing.assert_close(noisy.spectrogram_attr, plain.spectrogram_attr, atol=1e-5, rtol=1e-2)
    assert torch.equal(noisy.token_attr, plain.token_attr)


def test_the_callers_methods_stay(parts, tiny_model):
    utterance, tokens, *_ = parts
    inner = IntegratedGradients(tiny_model)
    outer = NoiseTunnel(inner)
    before = dict(vars(inner)), dict(vars(outer))
    SpeechToTextAttribution(outer).attribute(utterance, tokens, n_steps=2, nt_samples=2)
    assert (vars(inner), vars(outer)) == before
    assert inner.forward_func is outer.forward_func is tiny_model and outer.attribution_method is inner
