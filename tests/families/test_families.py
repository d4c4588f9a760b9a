"""Requirements for all families."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from family_cases import LENGTHS, canary

from captum_spes import SPES, SpeechToTextAttribution, grid_feature_mask
from captum_spes.metrics._restore import restore
from captum_spes.models import SpeechToTextModel, load_model


def test_protocol(any_case, audio):
    model, utterance = any_case.adapter, any_case.adapter.utterance(audio)
    assert isinstance(model, SpeechToTextModel)
    assert utterance.spectrogram.shape == (1, any_case.family.n_frames, 80)
    assert len(model.mel_frequencies) == 80
    assert model.frames_per_second == 100 and (np.diff(model.mel_frequencies) > 0).all()
    means = utterance.spectrogram.mean(1)
    assert model.normalized == model.baseline_name.startswith("0")
    if model.normalized:
        torch.testing.assert_close(means, torch.zeros(1, 80), atol=1e-3, rtol=0)
        means = torch.zeros(1, 80)
    assert torch.equal(model.baseline(utterance)[0], means)


@pytest.mark.parametrize("n_samples", LENGTHS)
def test_logits_are_those_of_the_plain_forward(case, audio, n_samples):
    utterance = case.adapter.utterance(audio[:n_samples])
    tokens = case.adapter.tokens([10, 11, 12, 13, 14], utterance)
    assert tokens.prompt.tolist() == case.family.prompt
    with torch.no_grad():
        ours = case.adapter.logits(case.adapter.encode(utterance.spectrogram, utterance), tokens)
        plain = case.plain(**case.inputs(audio[:n_samples]), decoder_input_ids=tokens.previous[None]).logits
    assert ours.shape == (1, 5, 60)
    plain = plain[:, len(tokens.prompt) - 1 :]
    torch.testing.assert_close(ours.log_softmax(-1), plain.log_softmax(-1), atol=1e-5, rtol=0)


@pytest.mark.parametrize("n_samples", LENGTHS)
def test_logits_are_those_of_generate(case, audio, n_samples):
    utterance = case.adapter.utterance(audio[:n_samples])
    generated = case.adapter.generate(utterance, max_new_tokens=8)
    output = case.plain.generate(
        **case.inputs(audio[:n_samples]),
        **case.family.generate,
        max_new_tokens=8,
        return_dict_in_generate=True,
        output_scores=True,
    )
    assert generated.generated and output.sequences[0].tolist() == [*case.family.prompt, *generated.target.tolist()]
    with torch.no_grad():
        ours = case.adapter.logits(case.adapter.encode(utterance.spectrogram, utterance), generated)
    plain = torch.stack(output.scores, dim=1)
    torch.testing.assert_close(ours.log_softmax(-1), plain.log_softmax(-1), atol=1e-5, rtol=0)


def test_texts_of_a_batch_are_those_of_single_ones(autoregressive, audio):
    model = autoregressive
    utterance = model.utterance(audio[:9500])
    spectrograms = utterance.spectrogram * torch.tensor([0.2, 0.6, 1.0, -1.5])[:, None, None]
    prompt = model.tokens([10], utterance).prompt
    together = model.generate_batch(spectrograms, utterance, prompt, max_new_tokens=8)
    for one, target in zip(spectrograms, together, strict=True):
        assert torch.equal(model.generate(replace(utterance, spectrogram=one[None]), max_new_tokens=8).target, target)
    assert len({tuple(target.tolist()) for target in together}) > 1


def test_gate(autoregressive, audio):
    model, utterance = autoregressive, autoregressive.utterance(audio)
    tokens = model.tokens([10, 11, 12, 13, 14], utterance)
    n_previous = len(tokens.previous)
    encoded = model.encode(utterance.spectrogram, utterance)
    gates = torch.cat((1 - torch.eye(n_previous), torch.ones(1, n_previous)))
    with torch.no_grad():
        plain = model.logits(encoded, tokens)
        gated = model.logits(encoded, tokens, gates)
    torch.testing.assert_close(gated[-1:], plain, atol=1e-5, rtol=0)  # a gate of ones changes nothing
    for column in range(n_previous):
        # step k reads the previous tokens up to and with prompt + k - 1
        changed = (gated[column] - plain[0]).abs().amax(-1) > 1e-4
        first = max(column - len(tokens.prompt) + 1, 0)
        assert not changed[:first].any() and changed[first:].all(), column


@pytest.mark.parametrize(("n_spectrograms", "n_gates"), [(1, 3), (3, 1), (3, 3)])
def test_batches_of_either(autoregressive, audio, n_spectrograms, n_gates):
    torch.manual_seed(0)
    model, utterance = autoregressive, autoregressive.utterance(audio[:9500])
    tokens = model.tokens([10, 11, 12, 13, 14], utterance)
    spectrograms = utterance.spectrogram + torch.rand(n_spectrograms, *utterance.spectrogram.shape[1:])
    gates = torch.rand(n_gates, len(tokens.previous), *([model.embedding_dim] if n_gates == 3 else []))
    with torch.no_grad():
        together = model.logits(model.encode(spectrograms, utterance), tokens, gates)
        alone = [
            model.logits(
                model.encode(spectrograms[row % n_spectrograms][None], utterance), tokens, gates[row % n_gates][None]
            )
            for row in range(3)
        ]
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-4, rtol=1e-4)


def test_gradients_flow_to_both(autoregressive, audio):
    model, utterance = autoregressive, autoregressive.utterance(audio)
    tokens = model.tokens([10, 11, 12, 13, 14], utterance)
    spectrogram = utterance.spectrogram.clone().requires_grad_()
    gate = torch.ones(2, len(tokens.previous), requires_grad=True)
    scores = model.logits(model.encode(spectrogram, utterance), tokens, gate).log_softmax(-1)[..., 10]
    scores.sum().backward()
    assert spectrogram.grad.abs().sum() > 0 and (gate.grad.abs().sum(0) > 0).all()


@pytest.mark.parametrize("n_samples", LENGTHS)
def test_features_survive_the_round_trip(any_case, audio, n_samples):
    model = any_case.adapter
    utterance = model.utterance(audio[:n_samples])
    again = model.from_features(utterance.spectrogram)
    assert torch.equal(again.spectrogram, utterance.spectrogram)
    with pytest.raises(ValueError, match="one spectrogram of shape"):
        model.from_features(torch.rand(1, 50, 79))


@pytest.mark.filterwarnings("ignore:the maps are noisy")
def test_an_utterance_is_explained(case, model, audio):
    explanation = SpeechToTextAttribution(SPES(model)).attribute(
        audio[:9500],
        "so what",
        sampling_rate=16000,
        n_samples=8,
        n_token_samples=8,
        feature_mask=lambda spectrogram: grid_feature_mask(spectrogram, (20, 40)),
    )
    assert explanation.text == "so what" and "".join(explanation.tokens) == " so what"
    n_frames = explanation.spectrogram.shape[0]
    assert 0 < case.family.n_frames - n_frames < 3
    assert explanation.spectrogram_attr.shape == (len(explanation.tokens), n_frames, 80)
    assert explanation.token_attr.shape == (len(explanation.tokens), len(explanation.previous_tokens))
    assert not explanation.token_attr[~explanation.is_previous].any()
    assert (explanation.token_attr[explanation.is_previous] > 0).all() and explanation.spectrogram_attr.max() > 0
    assert explanation.metadata["baseline"] == model.baseline_name
    assert explanation.words().tokens == ["so", "what"]
    utterance, tokens = SpeechToTextAttribution(SPES(model)).prepare(audio[:9500], "so what", sampling_rate=16000)
    again, same = restore(model, explanation)
    with torch.no_grad():
        ours, theirs = (
            model.logits(model.encode(u.spectrogram, u), t) for u, t in ((utterance, tokens), (again, same))
        )
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


def test_model_is_left_as_found(any_case, audio):
    torch.manual_seed(0)
    plain, processor = any_case.family.make()
    plain.train()
    modes = [module.training for module in plain.modules()]
    state = torch.get_rng_state()
    model = load_model(plain, processor, **any_case.family.load)
    utterance = model.utterance(audio)
    tokens = model.generate(utterance, max_new_tokens=4)
    encoded = model.encode(utterance.spectrogram, utterance)
    first, second = (model.logits(encoded, tokens, torch.ones(2, len(tokens.previous))) for _ in range(2))
    assert torch.equal(first, second)  # no dropout
    if len(tokens.previous):
        with pytest.raises((ValueError, RuntimeError)):
            model.logits(encoded, tokens, torch.ones(3, len(tokens.previous), 5))
    assert [module.training for module in plain.modules()] == modes
    assert torch.equal(torch.get_rng_state(), state)
    assert not any(module._forward_hooks for module in plain.modules())


def test_a_feature_extractor_alone(any_case, audio):
    if any_case.family.make is canary:
        with pytest.raises(ValueError, match="needs its whole processor, whose chat template makes the prompt"):
            load_model(any_case.plain, any_case.processor.feature_extractor)
        return
    model = load_model(any_case.plain, any_case.feature_extractor, **any_case.family.load)
    tokens = model.tokens([10, 11], model.utterance(audio))
    assert model.token_texts(tokens.target) == [" 10", " 11"] and not any(model.is_special(tokens.target))
    assert model.is_special(torch.tensor([any_case.family.special])) == [True]
    with pytest.raises(ValueError, match="given a feature extractor and no tokenizer: give the target's token ids"):
        model.tokens("so", model.utterance(audio))


def test_texts(any_case):
    model = any_case.adapter
    if model.tokenizer is None:
        return
    ids = model._target_ids("so what was")
    texts = model.token_texts(torch.tensor([any_case.family.special, *ids]))
    assert texts[0] == any_case.processor.tokenizer.convert_ids_to_tokens(any_case.family.special)
    assert "".join(texts[1:]).strip() == "so what was" and not any(model.is_special(torch.tensor(ids)))
    with pytest.raises(ValueError, match="cannot encode the text 'Ψ'"):
        model._target_ids("Ψ")
