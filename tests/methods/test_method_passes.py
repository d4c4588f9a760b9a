"""Passes that all tokens share, their counts, batches and seeds."""

from functools import partial

import numpy as np
import pytest
import torch
from captum.attr import GradientShap, KernelShap, Saliency, ShapleyValueSampling
from toys import COUNTED, GRADIENTS, IDS, over, wrapped

from captum_spes import grid_feature_mask


@pytest.fixture
def rows_passed(tiny_model, monkeypatch):
    """Counts the rows of encoder, decoder and gradients."""
    counts = {"encode": 0, "logits": 0, "grad": 0}
    encode, logits, grad = type(tiny_model).encode, type(tiny_model).logits, torch.autograd.grad

    def counting_encode(self, spectrogram, utterance):
        counts["encode"] += len(spectrogram)
        return encode(self, spectrogram, utterance)

    def counting_logits(self, encoded, tokens, token_gate=None):
        counts["logits"] += len(encoded.hidden) if token_gate is None else len(token_gate)
        return logits(self, encoded, tokens, token_gate)

    def counting_grad(outputs, inputs, *args, **kwargs):
        if outputs.dim() == 3:  # from the decoder's states back; the vocabulary before it is passed once for all tokens
            counts["grad"] += len(inputs)
        return grad(outputs, inputs, *args, **kwargs)

    monkeypatch.setattr(type(tiny_model), "encode", counting_encode)
    monkeypatch.setattr(type(tiny_model), "logits", counting_logits)
    monkeypatch.setattr(torch.autograd, "grad", counting_grad)
    return counts


@pytest.mark.parametrize("name", COUNTED)
def test_all_tokens_share_their_passes_and_they_are_counted(tiny_model, audio, rows_passed, name):
    method, arguments = COUNTED[name]
    forwards = {}
    for n_tokens in (1, 5):
        rows_passed.update(encode=0, logits=0, grad=0)
        explanation = wrapped(method, tiny_model).attribute(
            audio,
            [60, 61, 62, 63, 64][:n_tokens],
            sampling_rate=16000,
            feature_mask=partial(grid_feature_mask, patch_size=(20, 8))
            if name in ("FeatureAblation", "Lime")
            else None,
            **arguments,
        )
        passes = explanation.metadata["passes"]
        forwards[n_tokens] = passes["spectrogram"]["forward"]
        # beside what the method asks for, one pass of the unperturbed utterance
        assert rows_passed["encode"] == passes["spectrogram"]["forward"] + 1
        assert rows_passed["logits"] == sum(stage["forward"] for stage in passes.values()) + 1
        assert rows_passed["grad"] == sum(stage["backward"] for stage in passes.values())
        for stage in passes.values():
            assert stage["backward"] == (n_tokens * stage["forward"] if name in GRADIENTS else 0)
    assert forwards[1] == forwards[5] > 0
    expected = {"SPES": 10, "BubbleNoise": 10, "FeatureAblation": 7, "IntegratedGradients": 6, "Saliency": 1}
    expected |= {"InputXGradient": 1, "GradientShap": 6, "NoiseTunnel": 12}
    assert forwards[5] == expected.get(name, forwards[5])


@pytest.mark.parametrize("name", COUNTED)
def test_batch_size_changes_nothing(tiny_model, audio, name):
    method, arguments = COUNTED[name]
    one, many = (
        wrapped(method, tiny_model).attribute(
            audio, IDS, sampling_rate=16000, perturbations_per_eval=per_eval, **arguments
        )
        for per_eval in (3, 64)
    )
    torch.testing.assert_close(one.spectrogram_attr, many.spectrogram_attr, atol=1e-5, rtol=1e-3)
    torch.testing.assert_close(one.token_attr, many.token_attr, atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize("name", COUNTED)
def test_a_callback_sees_the_passes_rise_to_their_total(tiny_model, audio, name, capsys):
    method, arguments = COUNTED[name]
    seen = []
    explanation = wrapped(method, tiny_model).attribute(
        audio,
        IDS,
        sampling_rate=16000,
        show_progress=True,
        perturbations_per_eval=4,
        callback=lambda *stage: seen.append(stage),
        **arguments,
    )
    assert list(dict.fromkeys(stage for stage, _, _ in seen)) == ["previous tokens", "spectrogram"]
    for stage, passes in explanation.metadata["passes"].items():
        done = [done for name, done, _ in seen if name == stage]
        assert done == sorted(set(done)) and {total for name, _, total in seen if name == stage} == {done[-1]}
        assert done[-1] == passes["forward"] - (stage in explanation.metadata["done"])  # SPES's original, uncounted
    assert "100%" in capsys.readouterr().err
    assert not explanation.metadata["partial"]


@pytest.mark.parametrize("method", [KernelShap, ShapleyValueSampling, GradientShap, over(Saliency)])
def test_a_seed_is_a_result_and_the_generators_stay(tiny_model, audio, method):
    def attr(seed):
        explanation = wrapped(method, tiny_model).attribute(audio, IDS, sampling_rate=16000, seed=seed)
        return explanation.spectrogram_attr

    state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()
    first = attr(1)
    assert torch.equal(torch.get_rng_state(), state) and (np.random.get_state()[1] == numpy_state).all()
    torch.manual_seed(5)
    assert torch.equal(attr(1), first) and not torch.allclose(attr(2), first)
