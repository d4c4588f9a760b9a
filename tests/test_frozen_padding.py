"""Frozen padding compared with the full window, its probe, and the restoration of the model."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from captum.attr import IntegratedGradients, NoiseTunnel, Saliency

from captum_spes import SPES, Contrast, GradientSPES, KLDivergence, SpeechToTextAttribution, slic_feature_mask
from captum_spes.audio import load_audio
from captum_spes.evaluation.comparison import Comparison
from captum_spes.metrics._restore import restore_for_scores
from captum_spes.models import Tokens, prepare
from captum_spes.models.context import Agreement, check_context, describe_context, fit_utterance, refreeze
from captum_spes.models.frozen_padding import attention_replaced


@pytest.fixture
def utterance(tiny_model, audio):
    """0.3 s in a window of 1 s: 15 encoder positions of 50."""
    return tiny_model.utterance(audio[:4800])


@pytest.fixture
def tokens(tiny_model, utterance):
    return tiny_model.tokens([60, 61, 62, 63], utterance)


def logits(model, spectrogram, utterance, tokens):
    return model.logits(model.encode(spectrogram, utterance), tokens)


def frozen_from(model, utterance, references, margin=16, merge=1):
    return replace(utterance, frozen=model.freeze_padding(utterance, references, margin).merge(merge))


def perturbed(utterance, n, seed=0):
    noise = torch.randn(n, *utterance.spectrogram.shape[1:], generator=torch.Generator().manual_seed(seed))
    return utterance.spectrogram + 0.3 * noise


def test_nothing_frozen_is_the_full_window(tiny_model, utterance, tokens):
    inputs = perturbed(utterance, 3)
    frozen = frozen_from(tiny_model, utterance, inputs, margin=35)
    assert frozen.frozen.n_positions == 50
    with torch.no_grad():
        expected = logits(tiny_model, inputs, utterance, tokens)
        found = logits(tiny_model, inputs, frozen, tokens)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("margin", [0, 1, 16])
def test_an_input_that_the_padding_was_recorded_from_is_scored_as_in_the_full_window(
    tiny_model, utterance, tokens, margin
):
    """Its own keys and values are those of the full window: only the order of the sums differs."""
    own = perturbed(utterance, 1)
    frozen = frozen_from(tiny_model, utterance, own, margin)
    assert frozen.frozen.n_positions == 15 + margin
    with torch.no_grad():
        expected = logits(tiny_model, own, utterance, tokens)
        found = logits(tiny_model, own, frozen, tokens)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_odd_frames(tiny_model, audio):
    odd = tiny_model.utterance(audio[:4960])
    tokens = tiny_model.tokens([60, 61], odd)
    assert odd.spectrogram.shape[1] == 31
    frozen = frozen_from(tiny_model, odd, odd.spectrogram)
    with torch.no_grad():
        expected = logits(tiny_model, odd.spectrogram, odd, tokens)
        found = logits(tiny_model, odd.spectrogram, frozen, tokens)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_recorded_keys_are_those_of_the_full_run(tiny_model, tiny_whisper, utterance):
    references = perturbed(utterance, 3)
    frozen = tiny_model.freeze_padding(utterance, references)
    inputs = {}
    handles = [
        layer.self_attn.register_forward_pre_hook(
            lambda module, args, kwargs, index=index: inputs.update({index: (*args, *kwargs.values())[0]}),
            with_kwargs=True,
        )
        for index, layer in enumerate(tiny_whisper.model.encoder.layers)
    ]
    window = torch.cat((references, utterance.padding.expand(3, -1, -1)), 1).transpose(1, 2)
    with torch.no_grad():
        hidden = tiny_whisper.model.encoder(window).last_hidden_state
    for handle in handles:
        handle.remove()
    n = frozen.n_positions
    for index, layer in enumerate(tiny_whisper.model.encoder.layers):
        keys, values = frozen.states[f"model.encoder.layers.{index}.self_attn"]
        for found, projection in ((keys, layer.self_attn.k_proj), (values, layer.self_attn.v_proj)):
            expected = projection(inputs[index][:, n:]).mean(0).unflatten(1, (2, 8)).transpose(0, 1)
            torch.testing.assert_close(found[0], expected, atol=1e-5, rtol=0)
    for index, layer in enumerate(tiny_whisper.model.decoder.layers):
        keys, _ = frozen.states[f"model.decoder.layers.{index}.encoder_attn"]
        expected = layer.encoder_attn.k_proj(hidden[:, n:]).mean(0).unflatten(1, (2, 8)).transpose(0, 1)
        torch.testing.assert_close(keys[0], expected, atol=1e-5, rtol=0)


def test_padding_beyond_more_positions_is_that_recorded_there(tiny_model, utterance):
    references = perturbed(utterance, 2)
    near, far = (tiny_model.freeze_padding(utterance, references, margin) for margin in (4, 9))
    found = near.beyond(far.n_positions)
    assert found.n_positions == far.n_positions > near.n_positions
    for name, pair in far.states.items():
        assert all(map(torch.equal, found.states[name], pair))
    with pytest.raises(ValueError, match="merged already"):
        near.merge(2).beyond(far.n_positions)


@pytest.mark.parametrize("by", [2, 4, 8])
def test_merging_equal_states_changes_nothing(tiny_model, utterance, tokens, by):
    """A key that stands for m equal keys must count m times; 19 positions leave a smaller last block."""
    frozen = tiny_model.freeze_padding(utterance, perturbed(utterance, 2))
    states = {
        name: tuple(part.mean(2, keepdim=True).expand_as(part) for part in pair) for name, pair in frozen.states.items()
    }
    constant = replace(frozen, states=states)
    inputs = perturbed(utterance, 2, seed=1)
    with torch.no_grad():
        expected = logits(tiny_model, inputs, replace(utterance, frozen=constant), tokens)
        found = logits(tiny_model, inputs, replace(utterance, frozen=constant.merge(by)), tokens)
    assert constant.merge(by).states["model.encoder.layers.0.self_attn"][0].shape[2] == -(-19 // by)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    with pytest.raises(ValueError, match="merged already"):
        constant.merge(by).merge(2)


def test_one_encoding_serves_a_batch_of_gates(tiny_model, utterance, tokens):
    frozen = frozen_from(tiny_model, utterance, utterance.spectrogram, merge=4)
    gates = torch.rand(3, len(tokens.previous), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        encoded = tiny_model.encode(utterance.spectrogram, frozen)
        together = tiny_model.logits(encoded, tokens, gates)
        each = [
            tiny_model.logits(tiny_model.encode(utterance.spectrogram, frozen), tokens, gate[None]) for gate in gates
        ]
    torch.testing.assert_close(together, torch.cat(each), atol=1e-5, rtol=0)


def test_gradients_agree_with_finite_differences(tiny_whisper, tiny_processor, audio):
    from captum_spes.models import load_model

    model = load_model(tiny_whisper.double(), tiny_processor)
    utterance = model.utterance(audio[:4800])
    tokens = model.tokens([60, 61], utterance)
    frozen = frozen_from(model, utterance, utterance.spectrogram, merge=2)
    base = utterance.spectrogram.double()
    direction = torch.randn(base.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def score(step):
        return logits(model, base + step * direction, frozen, tokens).log_softmax(-1)[0, 1, 61]

    step = torch.zeros((), dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(score(step), step)
    with torch.no_grad():
        expected = (score(torch.tensor(1e-5)) - score(torch.tensor(-1e-5))) / 2e-5
    assert slope.abs() > 1e-6
    torch.testing.assert_close(slope, expected, rtol=1e-4, atol=1e-8)


def state_of(whisper):
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    configured = {name: module for name, module in whisper.named_modules() if hasattr(module, "config")}
    return (
        {name: (id(module.config), module.config._attn_implementation) for name, module in configured.items()},
        [name for name, module in whisper.named_modules() if module._forward_hooks or module._forward_pre_hooks],
        {name: tensor.clone() for name, tensor in whisper.state_dict().items()},
        list(ALL_ATTENTION_FUNCTIONS),
        whisper.config.max_source_positions,
    )


def assert_unchanged(before, after):
    assert before[0] == after[0] and before[1] == after[1] and before[3:] == after[3:]
    assert all(torch.equal(before[2][name], after[2][name]) for name in before[2])


def test_the_model_is_left_as_it_was_also_when_a_forward_raises(tiny_model, tiny_whisper, utterance, tokens):
    before = state_of(tiny_whisper)
    frozen = frozen_from(tiny_model, utterance, utterance.spectrogram)
    logits(tiny_model, utterance.spectrogram, frozen, tokens)
    assert_unchanged(before, state_of(tiny_whisper))

    def fail(*args):
        raise RuntimeError("a layer fails")

    handle = tiny_whisper.model.encoder.layers[1].register_forward_hook(fail)
    for call in (
        lambda: tiny_model.encode(utterance.spectrogram, frozen),
        lambda: tiny_model.freeze_padding(utterance, utterance.spectrogram),
    ):
        with pytest.raises(RuntimeError, match="a layer fails"):
            call()
    handle.remove()
    assert_unchanged(before, state_of(tiny_whisper))


def test_attention_that_cannot_be_recorded_is_refused(tiny_model, tiny_whisper, utterance, tokens, monkeypatch):
    """A layer that computes its attention by itself; auto takes the full window and says why."""
    attention = tiny_whisper.model.encoder.layers[0].self_attn
    monkeypatch.setattr(attention, "forward", lambda hidden_states, **kwargs: (hidden_states, None))
    with pytest.raises(RuntimeError, match="model.encoder.layers.0.self_attn does not call the attention functions"):
        fit_utterance(tiny_model, utterance, tokens, "frozen")
    found = fit_utterance(tiny_model, utterance, tokens, "auto")
    assert found.frozen is None and "does not call" in found.context["reason"]


def test_the_probe_refuses_a_model_that_reads_its_padding(tiny_model, tiny_whisper, utterance, tokens):
    """The decoder is given the states of the padding alone, which hold what they attended to in the speech."""

    def hide_speech(module, args, output):
        output.last_hidden_state[:, :31] = 0
        return output

    with torch.no_grad():
        assert fit_utterance(tiny_model, utterance, tokens, "auto").context
    handle = tiny_whisper.model.encoder.register_forward_hook(hide_speech)
    try:
        found = fit_utterance(tiny_model, utterance, tokens, "auto")
        with pytest.warns(UserWarning, match="Use context='full' or 'auto'"):
            frozen = fit_utterance(tiny_model, utterance, tokens, "frozen")
    finally:
        handle.remove()
    assert found.frozen is None and found.context["used"] == "full"
    assert found.context["probe"]["correlation"] is None or found.context["probe"]["correlation"] < 0.995
    assert frozen.frozen is not None


@pytest.mark.parametrize(
    "changes, holds",
    [
        ({}, True),
        ({"same_text": False}, False),
        ({"correlation": 0.994}, False),
        ({"correlation": float("nan")}, False),
        ({"token_correlations": [1.0, 0.94, 0.2]}, False),
        ({"token_correlations": [float("nan"), 1.0, 0.2]}, False),
        ({"weak": [False, False, False]}, False),
        ({"weak": [True, True, True]}, False),
    ],
)
def test_agreement(changes, holds):
    """The third token is weak: it is listed, and does not affect the choice."""
    given = {
        "same_text": True,
        "correlation": 0.999,
        "token_correlations": [1.0, 0.96, 0.2],
        "weak": [False, False, True],
        "names": [" a", " b", "."],
    }
    agreement = Agreement(**{**given, **changes})
    assert agreement.holds is holds
    if not changes:
        assert agreement.describe()["weak_tokens"] == [[".", 0.2]]
        assert agreement.describe()["lowest_token_correlation"] == 0.96


def test_the_cheapest_context_that_agrees(tiny_model, utterance, tokens, monkeypatch):
    from captum_spes.models import context

    tried = []

    def compare(self, candidate):
        tried.append((1, 0) if candidate.frozen is None else (candidate.frozen.merged_by, candidate.frozen.n_positions))
        good = tried[-1][0] <= 2
        return Agreement(good, 1.0, [1.0] * 4, [False] * 4, [" a", " b", " c", " d"])

    monkeypatch.setattr(context._Probe, "compare", compare)
    monkeypatch.setattr(context, "FORMS", ((8, 16), (8, 24), (4, 24), (2, 24), (1, 24)))
    found = fit_utterance(tiny_model, utterance, tokens)
    assert tried == [(8, 31), (8, 39), (4, 39), (2, 39)] and found.frozen.merged_by == 2
    assert (found.context["merged_by"], found.context["margin"]) == (2, 24)
    assert found.context["computed_seconds"] == 0.78
    assert "0.8 s are computed and the padding is frozen, merged by 2" in describe_context(tiny_model, found)
    monkeypatch.setattr(context, "_has_fast_bfloat16", lambda device: True)
    lower = fit_utterance(tiny_model, utterance, tokens, dtype="auto")
    assert lower.dtype == torch.bfloat16 and lower.context["bfloat16"]["same_text"]


def test_scores_that_are_constant_are_described(tiny_model, utterance):
    context = {"used": "frozen", "merged_by": 1, "computed_seconds": 0.6, "correlation": None}
    line = describe_context(tiny_model, replace(utterance, context=context))
    assert line.endswith("the padding is frozen; the scores of the probe are constant, so that they say nothing")


@pytest.mark.parametrize(("num_beams", "limit"), [(1, 3), (2, 8)])
def test_beams_are_not_cut_by_the_probe(tiny_model, utterance, monkeypatch, num_beams, limit):
    """A beam that the limit cuts would count as finished, and the text would differ."""
    given = []
    write = tiny_model.write

    def noted(*arguments, **gen_args):
        given.append(gen_args["max_new_tokens"])
        return write(*arguments, **gen_args)

    tokens = replace(tiny_model.tokens([60, 61, 62], utterance), generated=True)
    monkeypatch.setattr(tiny_model, "write", noted)
    fit_utterance(tiny_model, utterance, tokens, "frozen", gen_args={"num_beams": num_beams, "max_new_tokens": 8})
    assert given[-1] == limit


def test_refreezing_gives_the_same_states(tiny_model, utterance, tokens):
    found = fit_utterance(tiny_model, utterance, tokens, "frozen")
    again = refreeze(tiny_model, utterance, 1)
    for name, pair in found.frozen.states.items():
        assert all(torch.equal(*both) for both in zip(pair, again.frozen.states[name]))


def test_what_fills_the_window_is_run_in_full(tiny_model, audio):
    tokens = torch.tensor([60])
    for n_samples, context, share in ((16000, "auto", 100), (16000, "frozen", 100), (9600, "auto", 92)):
        utterance = tiny_model.utterance(np.tile(audio, 2)[:n_samples])
        found = fit_utterance(tiny_model, utterance, Tokens(tokens, tokens), context)
        assert found.frozen is None and found.context["used"] == "full"
        line = f"1 s, full window (the utterance and its margin fill {share}% of the window)"
        assert describe_context(tiny_model, found) == line
    assert fit_utterance(tiny_model, utterance, Tokens(tokens, tokens), "full").context == {"used": "full"}


def test_one_frame(tiny_model):
    one = tiny_model.from_features(torch.rand(1, 1, 16))
    tokens = tiny_model.tokens([60, 61], one)
    found = fit_utterance(tiny_model, one, tokens)
    with torch.no_grad():
        assert logits(tiny_model, one.spectrogram, found, tokens).isfinite().all()


def test_bad_references_and_contexts(tiny_model, utterance):
    with pytest.raises(ValueError, match="NaN or infinite"):
        tiny_model.freeze_padding(utterance, torch.full_like(utterance.spectrogram, float("nan")))
    for bad in (4.0, "short", None):
        with pytest.raises(ValueError, match="context must be one of full, frozen, auto"):
            check_context(tiny_model, bad, None)

    class Endless:
        name = "endless"

    with pytest.raises(ValueError, match="no window of fixed length: use context='full' or 'auto'"):
        check_context(Endless(), "frozen", None)


@pytest.mark.filterwarnings("ignore:the maps are noisy", "ignore:with frozen padding the text")
@pytest.mark.parametrize(
    "method, arguments",
    [
        (SPES, {"n_samples": 12}),
        (SPES, {"n_samples": 12, "joint": True}),
        (SPES, {"n_samples": 12, "token_values": True}),
        (GradientSPES, {"n_samples": 6}),
        (IntegratedGradients, {"n_steps": 3}),
        (Saliency, {}),
        (lambda model: NoiseTunnel(Saliency(model)), {"nt_samples": 2}),
    ],
)
def test_methods_run_on_frozen_padding(tiny_model, tiny_whisper, audio, method, arguments):
    before = state_of(tiny_whisper)
    attribution = SpeechToTextAttribution(method(tiny_model))
    explanation = attribution.attribute(audio[:4800], [60, 61, 62], sampling_rate=16000, context="frozen", **arguments)
    assert explanation.metadata["context"]["used"] == "frozen"
    assert explanation.spectrogram_attr.isfinite().all() and explanation.spectrogram_attr.abs().max() > 0
    assert_unchanged(before, state_of(tiny_whisper))


@pytest.mark.filterwarnings("ignore:the maps are noisy", "ignore:with frozen padding the text")
def test_a_contrast_on_frozen_padding(tiny_model, audio):
    contrast = Contrast("so", foil="to", word_boundaries=False)
    explanation = SpeechToTextAttribution(SPES(tiny_model)).attribute(
        audio[:4800], "so what", sampling_rate=16000, contrast=contrast, n_samples=12, context="frozen"
    )
    assert explanation.metadata["context"]["used"] == "frozen" and explanation.spectrogram_attr.isfinite().all()


@pytest.mark.filterwarnings("ignore:the maps are noisy", "ignore:with frozen padding the text")
def test_metrics_score_in_the_explanations_context(tiny_model, audio):
    explanation = SpeechToTextAttribution(SPES(tiny_model)).attribute(
        audio[:4800], [60, 61, 62], sampling_rate=16000, n_samples=12, context="frozen"
    )
    restored, _ = restore_for_scores(tiny_model, explanation)
    assert restored.frozen.merged_by == 1
    damaged = replace(
        explanation, metadata={**explanation.metadata, "context": {"used": "frozen", "merged_by": 3, "margin": 16}}
    )
    with pytest.raises(ValueError, match="damaged"):
        restore_for_scores(tiny_model, damaged)


@pytest.mark.slow
def test_whisper_scores_perturbed_speech_as_in_the_full_window(bundled_model, sample):
    """The bundled model and recording, on perturbed spectrograms that the states were not recorded from."""
    utterance = bundled_model.utterance(load_audio(sample, 16000))
    tokens = bundled_model.generate(utterance)
    mask = slic_feature_mask(utterance.spectrogram, 500, frames_per_second=100).view(-1)
    hidden = torch.rand(8, int(mask.max()) + 1, generator=torch.Generator().manual_seed(7)) < 0.5
    baseline, spectrogram = bundled_model.baseline(utterance), utterance.spectrogram
    spectrograms = torch.where(hidden[:, mask].view(8, -1, 80), baseline, spectrogram)
    frozen = frozen_from(bundled_model, utterance, spectrograms[:4], merge=8)
    assert frozen.frozen.n_positions < 150
    scores = []
    with torch.no_grad():
        for context in (utterance, frozen):
            run = partial(logits, bundled_model, utterance=context, tokens=tokens)
            scores.append(KLDivergence(run, run(spectrogram))(spectrograms[4:]))
    assert torch.corrcoef(torch.stack([score.flatten() for score in scores]))[0, 1] > 0.99


def test_attention_functions_may_be_nested(tiny_whisper):
    modules = [tiny_whisper.model.encoder.layers[0].self_attn]
    before = state_of(tiny_whisper)
    with attention_replaced(modules, print), attention_replaced(modules, len):
        assert modules[0].config is not tiny_whisper.config
    assert_unchanged(before, state_of(tiny_whisper))


def test_a_comparison_is_made_again_in_another_context(tiny_model, audio, tmp_path):
    """The maps of frozen padding are not those of the full window."""
    utterance, tokens = prepare(tiny_model, audio[:4800], "so what", sampling_rate=16000, context="full")
    used = []
    for fitted in (fit_utterance(tiny_model, utterance, tokens, "frozen"), utterance):
        found = Comparison(tiny_model, fitted, tokens, folder=tmp_path).run("saliency")
        used.append(found.metadata["context"]["used"])
    assert used == ["frozen", "full"]
