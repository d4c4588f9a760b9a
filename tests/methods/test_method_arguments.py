"""Scores, arguments and refused arguments of methods."""

import math

import numpy as np
import pytest
import torch
from captum.attr import (
    DeepLift,
    FeatureAblation,
    GradientShap,
    InputXGradient,
    IntegratedGradients,
    KernelShap,
    Lime,
    NoiseTunnel,
    Occlusion,
    Saliency,
)
from toys import GRID, IDS, ReluToy, Toy, over, spectrogram, wrapped

from captum_spes import SPES, BubbleNoise, Contrast, ContrastiveProbability, KLDivergence, TokenLogit

# Scores


@pytest.mark.parametrize(
    "method",
    [Saliency, InputXGradient, over(Saliency), over(InputXGradient)],
)
def test_a_score_without_gradient_is_refused(tiny_model, method):
    with pytest.raises(ValueError, match=r"gradient of KLDivergence is 0 .* use score=TokenLogProbability"):
        wrapped(method, tiny_model, KLDivergence)


@pytest.mark.parametrize("score", [ContrastiveProbability, "kl", KLDivergence(lambda x: x, torch.zeros(1, 2, 3))])
def test_what_is_no_score_is_refused(tiny_model, score):
    with pytest.raises(TypeError, match="score must be one of the classes KLDivergence, TokenProbability"):
        wrapped(FeatureAblation, tiny_model, score)


def test_integrated_gradients_of_the_divergence_are_complete(tiny_model, audio, parts):
    utterance, tokens, encoded, reference, _ = parts
    explanation = wrapped(IntegratedGradients, tiny_model, KLDivergence).attribute(
        audio, IDS, sampling_rate=16000, n_steps=200, method="riemann_trapezoid"
    )
    assert explanation.metadata["score"] == "KLDivergence"
    with torch.no_grad():
        baseline = tiny_model.baseline(utterance).expand_as(utterance.spectrogram)
        hidden = tiny_model.logits(tiny_model.encode(baseline, utterance), tokens)
        silent = tiny_model.logits(encoded, tokens, torch.zeros(1, 4))
    for perturbed, attr in ((hidden, explanation.spectrogram_attr.flatten(1)), (silent, explanation.token_attr)):
        impact = -KLDivergence(lambda _, p=perturbed: p, reference)(perturbed)[0]
        torch.testing.assert_close(attr.sum(1), impact, atol=1e-3, rtol=0.05)
        assert impact.max() > 0.01


def test_default_scores(tiny_model, audio):
    def score(method, **arguments):
        return wrapped(method, tiny_model).attribute(audio, IDS, sampling_rate=16000, **arguments).metadata["score"]

    assert score(FeatureAblation) == score(BubbleNoise, n_samples=3, n_token_samples=3) == "KLDivergence"
    assert score(Saliency) == score(over(IntegratedGradients), n_steps=1) == "TokenLogProbability"
    assert score(over(FeatureAblation), nt_samples=1) == "KLDivergence"
    assert wrapped(DeepLift, ReluToy()).attribute(spectrogram()).metadata["score"] == "TokenLogit"


# Arguments


def arguments_of(explanation):
    return explanation.metadata["arguments"], explanation.metadata["token_arguments"]


def test_arguments_serve_both_calls_or_the_spectrogram(tiny_model, audio):
    def attribute(method, **arguments):
        return arguments_of(wrapped(method, tiny_model).attribute(audio, IDS, sampling_rate=16000, **arguments))

    assert attribute(IntegratedGradients, n_steps=3) == ({"n_steps": 3}, {"n_steps": 3})
    assert attribute(IntegratedGradients) == ({"n_steps": 25}, {"n_steps": 25})
    assert attribute(IntegratedGradients, token_arguments={"n_steps": 9}) == ({"n_steps": 25}, {"n_steps": 9})
    assert attribute(IntegratedGradients, n_steps=3, token_arguments={"n_steps": 9}) == ({"n_steps": 3}, {"n_steps": 9})
    assert attribute(GradientShap, n_samples=4, stdevs=0.5) == ({"n_samples": 4, "stdevs": 0.5}, {"n_samples": 20})
    assert attribute(GradientShap, stdevs=0.5, token_arguments={"stdevs": 0.1}, n_token_samples=7) == (
        {"n_samples": 20, "stdevs": 0.5},
        {"n_samples": 7, "stdevs": 0.1},
    )
    assert attribute(over(IntegratedGradients), n_steps=3, nt_samples=2, stdevs=0.1) == (
        {"n_steps": 3, "nt_samples": 2, "stdevs": 0.1},
        {"n_steps": 3},
    )
    assert attribute(Occlusion, sliding_window_shapes=(30, 8), strides=(15, 8)) == (
        {"sliding_window_shapes": "(30, 8)", "strides": "(15, 8)"},
        {"sliding_window_shapes": "(1,)"},
    )
    assert attribute(KernelShap, n_token_samples=30) == ({"n_samples": 100}, {"n_samples": 30})


def test_arguments_change_the_result(tiny_model, audio):
    def attribute(method, **arguments):
        return wrapped(method, tiny_model).attribute(audio, IDS, sampling_rate=16000, **arguments)

    few, more = (attribute(IntegratedGradients, n_steps=n_steps) for n_steps in (2, 5))
    assert not torch.allclose(few.spectrogram_attr, more.spectrogram_attr)
    assert not torch.allclose(few.token_attr, more.token_attr)
    tokens_only = attribute(IntegratedGradients, n_steps=2, token_arguments={"n_steps": 5})
    assert torch.equal(tokens_only.spectrogram_attr, few.spectrogram_attr)
    assert torch.equal(tokens_only.token_attr, more.token_attr)
    other = attribute(IntegratedGradients, n_steps=2, baselines=0.3)
    assert not torch.allclose(other.spectrogram_attr, few.spectrogram_attr)
    assert torch.equal(other.token_attr, few.token_attr) and other.metadata["baseline"] == 0.3


@pytest.mark.parametrize("shape", [(5, 2), (1, 1), (20, 16), ((5, 2),)])
def test_a_window_is_moved_by_half_of_it(tiny_model, audio, shape):
    explanation = wrapped(Occlusion, tiny_model).attribute(
        audio, IDS[:1], sampling_rate=16000, sliding_window_shapes=shape, perturbations_per_eval=200
    )
    frames, channels = shape if isinstance(shape[0], int) else shape[0]
    n_windows = math.prod(
        1 + math.ceil((size - window) / max(window // 2, 1)) for size, window in ((60, frames), (16, channels))
    )
    assert explanation.metadata["passes"]["spectrogram"]["forward"] == n_windows + 1


@pytest.mark.parametrize(
    ("method", "arguments", "words"),
    [
        (SPES, {"baselines": np.zeros((1, 1, 16))}, "baselines must be a number or a tensor, not ndarray"),
        (SPES, {"baselines": "mean"}, "baselines must be a number or a tensor, not str"),
        (SPES, {"feature_mask": np.zeros((1, 60, 16), int)}, "feature_mask must be a tensor, or a function"),
        (
            SPES,
            {"feature_mask": lambda spectrogram: None},
            "the function feature_mask returned None: expected a tensor",
        ),
        (SPES, {"contrast": "what"}, "contrast must be a Contrast, such as"),
        (SPES, {"contrast": Contrast([0, 1], "his")}, "the word of a contrast is its text, its number, or a pair"),
        (
            SPES,
            {"contrast": Contrast("what", 5)},
            "the foil of a contrast is its text, or None",
        ),
        (SPES, {"contrast": Contrast(1.0, "his")}, "the word of a contrast is its text, its number, or a pair"),
        (IntegratedGradients, {"nsteps": 3}, r"Integrated Gradients takes no nsteps; it takes method, n_steps\."),
        (IntegratedGradients, {"a": 1, "b": 2}, "takes no a and no b;"),
        (IntegratedGradients, {"internal_batch_size": 3}, "takes no internal_batch_size"),
        (IntegratedGradients, {"additional_forward_args": 3}, "takes no additional_forward_args"),
        (IntegratedGradients, {"return_convergence_delta": True}, "takes no return_convergence_delta"),
        (IntegratedGradients, {"token_arguments": {"baselines": 0}}, "takes no baselines; it takes method"),
        (IntegratedGradients, {"n_samples": 3}, "takes no n_samples"),
        (IntegratedGradients, {"n_token_samples": 3}, "takes no n_samples"),
        (IntegratedGradients, {"perturbation_prob": 0.5}, "takes no perturbation_prob"),
        (IntegratedGradients, {"feature_mask": GRID}, "Integrated Gradients takes no feature_mask: leave it out"),
        (IntegratedGradients, {"joint": True}, "takes no joint: leave it out"),
        (KernelShap, {"token_values": True}, "takes no token_values: leave it out"),
        (BubbleNoise, {"joint": True, "token_values": True}, "takes no joint and no token_values"),
        (BubbleNoise, {"feature_mask": GRID}, "takes no feature_mask"),
        (NoiseTunnel, {"joint": True}, "Noise Tunnel over SPES takes no joint"),
        (Occlusion, {"feature_mask": GRID}, "Occlusion takes no feature_mask"),
        (Saliency, {"baselines": 0.5}, "Saliency takes no baselines"),
        (Saliency, {"stdevs": 0.5}, "Saliency takes no stdevs; it takes abs"),
        (InputXGradient, {"n_steps": 3}, "takes no n_steps; it takes none"),
        (FeatureAblation, {"n_samples": 9}, "Feature Ablation takes no n_samples"),
        (FeatureAblation, {"n_token_samples": 9}, "Feature Ablation takes no n_samples"),
        (Lime, {"return_input_shape": False}, "Lime takes no return_input_shape; it takes n_samples"),
        (SPES, {"return_reliability": True}, "SPES takes no return_reliability"),
        (over(Saliency), {"nt_samples_batch_size": 2}, "Noise Tunnel over Saliency takes no nt_samples_batch_size"),
        (over(Saliency), {"baselines": 2}, "Noise Tunnel over Saliency takes no baselines"),
        (over(Saliency), {"token_arguments": {"nt_samples": 3}}, "Saliency takes no nt_samples; it takes abs"),
    ],
)
def test_arguments_that_a_method_does_not_take(tiny_model, audio, method, arguments, words):
    make = over(SPES) if method is NoiseTunnel else method
    with pytest.raises(TypeError, match=words):
        wrapped(make, tiny_model).attribute(audio, IDS, sampling_rate=16000, **arguments)


@pytest.mark.parametrize(
    ("method", "arguments", "words"),
    [
        (
            KernelShap,
            {"feature_mask": torch.zeros(1, 60, 16).long()},
            "KernelShap .* there is one: give a feature_mask",
        ),
        (KernelShap, {"n_samples": 0}, "n_samples must be"),
        (IntegratedGradients, {"perturbations_per_eval": 0}, "perturbations_per_eval must be"),
        (FeatureAblation, {"feature_mask": torch.zeros(1, 3, 16).long()}, "does not fit the input"),
    ],
)
def test_values_that_a_method_cannot_use(tiny_model, audio, method, arguments, words):
    with pytest.raises(ValueError, match=words):
        wrapped(method, tiny_model).attribute(
            audio, IDS, sampling_rate=16000, callback=lambda *_: pytest.fail("computed"), **arguments
        )


@pytest.mark.parametrize("arguments", [{}, {"n_token_samples": 50}])
def test_a_single_previous_token(arguments):
    """KernelShap has nothing to draw where there is one feature."""
    toy = Toy()
    explanation = wrapped(KernelShap, toy, TokenLogit).attribute(
        spectrogram(), [1], feature_mask=GRID, n_samples=100, **arguments
    )
    torch.testing.assert_close(explanation.token_attr, 0.75 * toy.gate_weights[:1, :1])
