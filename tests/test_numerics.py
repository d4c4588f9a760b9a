"""Scores that overflow, and sums of many small numbers."""

from functools import partial

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from captum_spes import (
    SPES,
    BubbleNoise,
    GradientSPES,
    KLDivergence,
    SpeechToTextAttribution,
    TokenLogit,
    TokenLogProbability,
    TokenProbability,
    grid_feature_mask,
)
from captum_spes.models import load_model
from captum_spes.speech_to_text.numerics import Outputs
from captum_spes.speech_to_text.targets import TextPrediction, TokenPrediction

METHODS = [SPES, BubbleNoise, GradientSPES]
X = torch.rand(1, 6, 4, generator=torch.Generator().manual_seed(0))


def explain(model, audio, method, score=None, **arguments):
    mask = {} if method is BubbleNoise else {"feature_mask": partial(grid_feature_mask, patch_size=(10, 4))}
    return SpeechToTextAttribution(method(model), score).attribute(
        audio,
        torch.tensor([5, 6, 7]),
        sampling_rate=16000,
        n_samples=12,
        n_token_samples=6,
        perturbations_per_eval=4,
        **mask,
        **arguments,
    )


@pytest.mark.filterwarnings("ignore:the maps are noisy")
@pytest.mark.parametrize("method", METHODS)
def test_a_model_that_overflows_is_run_in_float32(method, tiny_whisper, tiny_processor, audio):
    with torch.no_grad():
        tiny_whisper.model.decoder.layer_norm.weight *= 1e6  # more than float16 holds
    model = load_model(tiny_whisper, tiny_processor)
    with pytest.warns(UserWarning, match="overflows in float16 on this utterance") as caught:
        found = explain(model, audio, method, TokenLogit, dtype=torch.float16)
    assert sum("overflows" in str(one.message) for one in caught) == 1
    expected = explain(model, audio, method, TokenLogit)
    assert found.spectrogram_attr.std() > 0
    assert torch.equal(found.spectrogram_attr, expected.spectrogram_attr)
    assert torch.equal(found.token_attr, expected.token_attr)


class Casts(TorchDispatchMode):
    """Counts how often parameters are converted to another precision."""

    def __init__(self, model):
        super().__init__()
        self.parameters = {parameter.data_ptr() for parameter in model.parameters()}
        self.number = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten._to_copy.default and args[0].data_ptr() in self.parameters:
            self.number += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.filterwarnings("ignore:the maps are noisy")
@pytest.mark.parametrize("method", METHODS)
def test_weights_are_cast_once_for_all_samples(method, tiny_model, audio):
    attribution = SpeechToTextAttribution(method(tiny_model))
    utterance, tokens = attribution.prepare(audio, [60, 61], sampling_rate=16000, dtype=torch.bfloat16)
    numbers = []
    for n_samples in (4, 12):
        with Casts(tiny_model.model) as casts:
            attribution.attribute(utterance, tokens, n_samples=n_samples, n_token_samples=2, perturbations_per_eval=2)
        numbers.append(casts.number)
    assert numbers[0] == numbers[1] > 0
    assert not torch.is_autocast_enabled("cpu")


def overflowing(monkeypatch, model, dtype):
    """In this dtype, the model now overflows for some inputs: the dtypes of its passes."""
    passes, logits = [], model.logits

    def limited(encoded, tokens, token_gate=None):
        found = logits(encoded, tokens, token_gate)
        passes.append(encoded.dtype)
        if encoded.dtype == dtype and token_gate is None and len(found) > 1:
            found = torch.where(encoded.hidden[:, :1, :1] > 0, torch.nan, found)
        return found

    monkeypatch.setattr(model, "logits", limited)
    return passes


@pytest.mark.filterwarnings("ignore:the maps are noisy")
def test_only_what_overflows_is_computed_again(tiny_model, audio, monkeypatch):
    expected = explain(tiny_model, audio, SPES, dtype=torch.bfloat16)
    passes = overflowing(monkeypatch, tiny_model, torch.bfloat16)
    with pytest.warns(UserWarning, match="overflows in bfloat16"):
        found = explain(tiny_model, audio, SPES, dtype=torch.bfloat16)
    assert 0 < passes.count(torch.float32) < passes.count(torch.bfloat16)
    assert found.spectrogram_attr.isfinite().all()
    stacked = torch.stack([found.spectrogram_attr.flatten(), expected.spectrogram_attr.flatten()])
    assert torch.corrcoef(stacked)[0, 1] > 0.99


def with_infinite_gradients(monkeypatch, model):
    """In bfloat16."""
    logits = model.logits

    def overflows(encoded, tokens, token_gate=None):
        found = logits(encoded, tokens, token_gate)
        if encoded.dtype == torch.bfloat16 and found.requires_grad:
            found.register_hook(lambda gradient: gradient * torch.inf)
        return found

    monkeypatch.setattr(model, "logits", overflows)


@pytest.mark.filterwarnings("ignore:the maps are noisy")
def test_gradients_that_overflow_are_those_of_float32(tiny_model, audio, monkeypatch):
    expected = explain(tiny_model, audio, GradientSPES)
    close = explain(tiny_model, audio, GradientSPES, dtype=torch.bfloat16)
    assert not torch.equal(close.spectrogram_attr, expected.spectrogram_attr)
    torch.testing.assert_close(close.spectrogram_attr, expected.spectrogram_attr, rtol=0, atol=0.1)
    with_infinite_gradients(monkeypatch, tiny_model)
    with pytest.warns(UserWarning, match="overflows in bfloat16") as caught:
        found = explain(tiny_model, audio, GradientSPES, dtype=torch.bfloat16)
    assert sum("overflows" in str(one.message) for one in caught) == 1
    # the original prediction alone is still bfloat16's
    assert not torch.equal(found.spectrogram_attr, close.spectrogram_attr)
    for attribution, other in (
        (found.spectrogram_attr, expected.spectrogram_attr),
        (found.token_attr, expected.token_attr),
    ):
        assert torch.corrcoef(torch.stack([attribution.flatten(), other.flatten()]))[0, 1] > 0.98


def test_weights_that_have_no_float32_are_an_error(tiny_model, audio, monkeypatch):
    tiny_model.model.bfloat16()
    overflowing(monkeypatch, tiny_model, torch.bfloat16)
    with pytest.raises(ValueError, match=r"the score of perturbation \d+ \(seed 0\) is not finite.*wider dtype"):
        explain(tiny_model, audio, SPES)


def test_gradients_that_have_no_float32_are_an_error(tiny_model, audio, monkeypatch):
    tiny_model.model.bfloat16()
    with_infinite_gradients(monkeypatch, tiny_model)
    with pytest.raises(ValueError, match=r"the gradient of perturbation 0 \(seed 0\) is not finite.*wider dtype"):
        explain(tiny_model, audio, GradientSPES)


@pytest.mark.parametrize("method", METHODS)
def test_the_first_perturbation_that_overflows_is_named(method):
    stacked = {"feature_mask": torch.stack([grid_feature_mask(X, size) for size in ((3, 2), (2, 2), (6, 1))])}
    bubbles = {"bubble_seconds": 0.03, "bubble_channels": 2, "bubbles_per_second": 100}
    given = {"n_samples": 60, "seed": 3, **(bubbles if method is BubbleNoise else stacked)}
    limit = (0.5 if method is BubbleNoise else 0.9) * X[:, :2, :2].sum()
    called = []

    def score(x):
        called.extend(x.detach())
        changed = (x.detach() - X)[:, :2, :2].abs().sum((1, 2))
        return x.flatten(1).sum(1) * torch.where(changed > limit, torch.nan, 1.0)

    messages = []
    for per_eval in (1, 16):
        called.clear()
        with pytest.raises(ValueError, match=r"perturbation \d+ \(seed 3\) is not finite") as error:
            method(score).attribute(X, perturbations_per_eval=per_eval, **given)
        messages.append(str(error.value))
        if per_eval == 1:  # as the message says, the last input is the one
            number = len(called) - (1 if method is GradientSPES else 2)
            assert f"perturbation {number} " in messages[0] and score(called[-1][None]).isnan().all()
            assert number
    assert messages[0] == messages[1]


@pytest.mark.parametrize("n_samples", [7, 701])
def test_sums_are_wider_than_what_is_summed(n_samples):
    inputs = torch.ones(1, 4, dtype=torch.bfloat16)
    weight = torch.tensor(0.1, dtype=torch.bfloat16)
    found = GradientSPES(lambda x: (x * weight).sum(1)).attribute(inputs, n_samples=n_samples, perturbations_per_eval=7)
    assert torch.equal(found, weight.expand(1, 4))
    constant = SPES(lambda x: torch.where((x == 1).all(1), 1, 1 - weight.float()))
    found = constant.attribute(torch.ones(1, 20), n_samples=n_samples, perturbations_per_eval=7, centered=False)
    torch.testing.assert_close(found, torch.full_like(found, float(weight)), rtol=1e-6, atol=0)


@pytest.mark.parametrize("score", [KLDivergence, TokenLogProbability, TokenProbability, TokenLogit])
def test_tokens_share_the_gradient_of_the_vocabulary(tiny_model, audio, score):
    """The gradients are those of a backward pass for each token, and the vocabulary is passed once."""
    utterance = tiny_model.utterance(audio)
    tokens = tiny_model.tokens([5, 6, 7], utterance)
    outputs = Outputs(TokenPrediction(tiny_model, tokens, score), utterance)
    original = outputs.of_gate().detach()
    plain = outputs.prediction.score(outputs.of_spectrogram, original)
    x = (utterance.spectrogram + 0.1).repeat(2, 1, 1).requires_grad_()
    passed = []
    handle = tiny_model.head.register_full_backward_hook(lambda *_: passed.append(1))
    found = jacobian(outputs.with_shared_vocabulary(plain), x)
    assert len(passed) == 1
    expected = jacobian(plain, x)
    handle.remove()
    assert len(passed) == 4 and expected.abs().max() > 0
    assert torch.allclose(found, expected, rtol=1e-5, atol=1e-6 * float(expected.abs().max()))


def jacobian(score, x):
    """The gradients of each column of the scores (B, K)."""
    scores = score(x)
    return torch.stack([torch.autograd.grad(column.sum(), x, retain_graph=True)[0] for column in scores.T])


def test_scores_of_several_tokens_share_nothing(tiny_model, audio):
    utterance = tiny_model.utterance(audio)
    tokens = tiny_model.tokens([5, 6, 7], utterance)
    outputs = Outputs(TextPrediction(tiny_model, tokens, TokenLogit, "so"), utterance)
    score = outputs.prediction.score(outputs.of_spectrogram, outputs.of_gate())
    assert outputs.with_shared_vocabulary(score) is score
