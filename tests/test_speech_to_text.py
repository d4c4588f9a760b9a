"""The wrapper with a tiny random Whisper, a model whose answer is known, and the real one."""

import copy
from dataclasses import replace
from functools import partial
from itertools import count

import numpy as np
import pytest
import torch
from captum.attr import (
    Attribution,
    DeepLift,
    DeepLiftShap,
    FeatureAblation,
    FeaturePermutation,
    IntegratedGradients,
    KernelShap,
    LayerIntegratedGradients,
    NoiseTunnel,
    ShapleyValues,
    ShapleyValueSampling,
)
from toy_model import ToyModel

from captum_spes import (
    SPES,
    Contrast,
    GradientSPES,
    KLDivergence,
    SpeechToTextAttribution,
    SpeechToTextExplanation,
    TokenProbability,
    grid_feature_mask,
    slic_feature_mask,
)
from captum_spes.attr import AttnLRP
from captum_spes.audio import load_audio
from captum_spes.metrics import deletion, infidelity
from captum_spes.models import Tokens
from captum_spes.models.context import refreeze
from captum_spes.speech_to_text.quality import low_reliability
from tests.test_explanation import make

QUICK = {"n_samples": 30, "n_token_samples": 20, "sampling_rate": 16000}


pytestmark = pytest.mark.filterwarnings("ignore:the maps are noisy")


class Toy(ToyModel):
    """Token k depends on mel channel k in frames 10 to 20, and on previous token ``looks_at[k]``."""

    looks_at = (0, 1, 1)

    def logits(self, encoded, tokens, token_gate=None):
        heard = encoded[:, 10:20, : len(tokens.target)].mean(1)  # (B, K)
        if token_gate is not None:
            heard = heard * token_gate[:, list(self.looks_at[: len(tokens.target)])]
        return torch.stack((3 * heard, -3 * heard), dim=-1)


def test_the_known_model_is_explained():
    explanation = SpeechToTextAttribution(SPES(Toy())).attribute(
        np.sin(np.arange(16000) / 9).astype(np.float32) / 2, n_samples=3000, n_token_samples=8, sampling_rate=16000,
        feature_mask=lambda x: grid_feature_mask(x, (10, 1)), perturbations_per_eval=100,
    )  # fmt: skip
    assert explanation.tokens == [" a", " b", " c"] and explanation.previous_tokens == ["<s>", " a", " b"]
    for row in range(3):
        frame, channel = divmod(int(explanation.spectrogram_attr[row].argmax()), 8)
        assert 10 <= frame < 20 and channel == row
        assert explanation.token_attr[row].argmax() == Toy.looks_at[row]
    assert torch.equal(explanation.token_attr != 0, explanation.is_previous)
    assert explanation.top_previous_tokens() == ["<s>", " a", " a"]


def test_what_is_stored(tiny_model, audio):
    explanation = SpeechToTextAttribution(SPES(tiny_model)).attribute(
        audio, gen_args={"max_new_tokens": 6, "num_beams": 2}, seed=7, **QUICK
    )
    n_rows = len(explanation.tokens)
    assert isinstance(explanation, SpeechToTextExplanation)
    assert explanation.spectrogram_attr.shape == (n_rows, 60, 16)
    assert explanation.token_attr.shape == (n_rows, n_rows + 1) == explanation.is_previous.shape
    assert explanation.previous_tokens[:2] == ["<|startoftranscript|>", "<|notimestamps|>"]
    assert explanation.previous_tokens[2:] == explanation.tokens[:-1]
    assert explanation.reliability.shape == (n_rows,) and explanation.feature_mask.shape == (3, 60, 16)
    metadata = explanation.metadata
    assert metadata["method"] == "SPES" and metadata["score"] == "KLDivergence" and metadata["target"] == "generated"
    assert metadata["arguments"] == {"n_samples": 30, "perturbation_prob": 0.5} and metadata["seed"] == 7
    assert metadata["feature_mask"]["patches_per_second"] == "(40, 50, 60)"
    assert metadata["feature_mask"]["compactness"] == "0.1"
    assert metadata["token_arguments"] == {"n_samples": 20, "perturbation_prob": 0.4}
    assert metadata["gen_args"] == {"max_new_tokens": 6, "num_beams": 2}
    assert metadata["context_seconds"] == 1.0 and metadata["dtype"] == "float32" and not metadata["partial"]
    assert torch.__version__.startswith(metadata["versions"]["torch"])
    assert metadata["done"] == {"previous tokens": 20, "spectrogram": 30}


def test_it_is_spes_on_the_models_scores(tiny_model, audio):
    """The wrapper adds nothing to the method: the same numbers by hand."""
    utterance = tiny_model.utterance(audio)
    tokens = tiny_model.tokens([60, 61, 62], utterance)
    mask = slic_feature_mask(utterance.spectrogram, (200, 300))
    explanation = SpeechToTextAttribution(SPES(tiny_model)).attribute(
        audio, target=[60, 61, 62], feature_mask=mask, seed=1, perturbations_per_eval=4, **QUICK
    )
    with torch.no_grad():
        encoded = tiny_model.encode(utterance.spectrogram, utterance)
        reference = tiny_model.logits(encoded, tokens)
    score = KLDivergence(lambda x: tiny_model.logits(tiny_model.encode(x, utterance), tokens), reference)
    expected = SPES(score).attribute(
        utterance.spectrogram, tiny_model.baseline(utterance), feature_mask=mask, n_samples=30, centered=False, seed=1
    )
    torch.testing.assert_close(explanation.spectrogram_attr, expected, atol=1e-5, rtol=1e-4)
    score = KLDivergence(lambda gate: tiny_model.logits(encoded, tokens, gate), reference)
    expected = SPES(score).attribute(torch.ones(1, 4), n_samples=20, centered=False, perturbation_prob=0.4)
    torch.testing.assert_close(
        explanation.token_attr, torch.where(explanation.is_previous, expected, 0), atol=1e-5, rtol=1e-4
    )


def test_masks_and_baselines_that_broadcast(tiny_model, audio):
    """Features that are bands of time, and mel channels."""
    attribution = SpeechToTextAttribution(SPES(tiny_model))
    bands = attribution.attribute(
        audio,
        [60, 61],
        feature_mask=lambda x: torch.arange(x.shape[1]).view(1, -1, 1) // 6,
        baselines=torch.rand(16),
        **QUICK,
    )
    assert bands.feature_mask.shape == (1, 60, 16)
    assert torch.equal(bands.spectrogram_attr[:, 0, 0], bands.spectrogram_attr[:, 5, 15])
    full = attribution.attribute(audio, [60, 61], feature_mask=bands.feature_mask, baselines=torch.tensor(0.5), **QUICK)
    assert full.spectrogram_attr.shape == bands.spectrogram_attr.shape


def test_nothing_is_computed_for_arguments_that_cannot_be(tiny_model, audio):
    with pytest.raises(ValueError, match="n_samples must be"):
        SpeechToTextAttribution(SPES(tiny_model)).attribute(
            audio, [60, 61], callback=lambda *_: pytest.fail("computed"), **{**QUICK, "n_samples": 2}
        )


@pytest.mark.parametrize("per_eval", [1, 5, None])
def test_batch_size_changes_nothing(tiny_model, audio, per_eval):
    attribution = SpeechToTextAttribution(SPES(tiny_model))
    runs = [attribution.attribute(audio, [60, 61, 62], perturbations_per_eval=n, **QUICK) for n in (16, per_eval)]
    torch.testing.assert_close(runs[0].spectrogram_attr, runs[1].spectrogram_attr, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(runs[0].token_attr, runs[1].token_attr, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("method", [SPES, GradientSPES, IntegratedGradients])
def test_the_text_as_a_whole(tiny_model, audio, method):
    """One row for the sum of the tokens' scores, in which all these methods are linear."""
    attribution = SpeechToTextAttribution(method(tiny_model))
    samples = {"n_steps": 4, "sampling_rate": 16000} if method is IntegratedGradients else QUICK
    if method is GradientSPES:
        samples = {**samples, "normalize": False}  # gradients of unit length do not add up
    tokens, text = (attribution.attribute(audio, [60, 61, 62], sentence=one, **samples) for one in (False, True))
    torch.testing.assert_close(
        text.spectrogram_attr, tokens.spectrogram_attr.sum(0, keepdim=True), atol=1e-4, rtol=1e-4
    )
    assert text.tokens == [tokens.text] and text.grouped
    assert text.n_previous.tolist() == [len(tokens.previous_tokens)]
    n_backwards = [e.metadata["passes"]["spectrogram"]["backward"] for e in (tokens, text)]
    assert n_backwards[0] == 3 * n_backwards[1]
    one, three = (deletion(tiny_model, e, percentages=(0, 50), maps="random").texts for e in (text, tokens))
    assert one == three
    with pytest.raises(ValueError, match="give that of the tokens"):
        infidelity(tiny_model, text)


def test_a_contrast_is_no_whole_text(tiny_model, audio):
    with pytest.raises(ValueError, match="give one of them"):
        SpeechToTextAttribution(SPES(tiny_model)).attribute(
            audio, [60, 61], contrast=Contrast(0, "so"), sentence=True, **QUICK
        )


def test_inputs_of_every_kind(tiny_model, audio, tmp_path):
    import soundfile

    soundfile.write(tmp_path / "a.wav", audio, 16000, subtype="FLOAT")
    attribution = SpeechToTextAttribution(SPES(tiny_model))
    quick = {"target": "so what", "n_samples": 6, "n_token_samples": 4}
    from_file = attribution.attribute(tmp_path / "a.wav", **quick)
    for inputs, rate in [(str(tmp_path / "a.wav"), None), (audio, 16000), (torch.from_numpy(audio), 16000)]:
        assert torch.equal(
            attribution.attribute(inputs, sampling_rate=rate, **quick).spectrogram_attr, from_file.spectrogram_attr
        )
    utterance, tokens = attribution.prepare(audio, "so what", sampling_rate=16000)
    with pytest.raises(ValueError, match="set by prepare"):
        attribution.attribute(utterance, tokens, context="full")
    prepared = attribution.attribute(utterance, tokens, n_samples=6, n_token_samples=4)
    assert torch.equal(prepared.spectrogram_attr, from_file.spectrogram_attr)
    features = attribution.attribute(from_file.spectrogram[None], **quick)
    torch.testing.assert_close(features.spectrogram, from_file.spectrogram)
    assert features.text == "so what" and features.metadata["target"] == "given"


def test_features_that_require_gradients(tiny_model, audio):
    features = tiny_model.utterance(audio).spectrogram.requires_grad_()
    arguments = {"n_samples": 3, "n_token_samples": 3, "context": "full"}
    explanation = SpeechToTextAttribution(SPES(tiny_model)).attribute(features, "so what", **arguments)
    assert not explanation.spectrogram.requires_grad
    assert torch.equal(copy.deepcopy(explanation).spectrogram, features[0].detach())


def test_feature_ablation_in_place_of_spes(tiny_model, audio):
    explanation = SpeechToTextAttribution(FeatureAblation(tiny_model)).attribute(
        audio, [60, 61], sampling_rate=16000, feature_mask=partial(slic_feature_mask, patches_per_second=30)
    )
    assert explanation.spectrogram_attr.shape == (2, 60, 16) and explanation.reliability is None
    assert explanation.metadata["method"] == "Feature Ablation"
    several = SpeechToTextAttribution(FeatureAblation(tiny_model)).attribute(
        audio, [60, 61], sampling_rate=16000, feature_mask=lambda x: slic_feature_mask(x, (30, 90))
    )
    assert len(several.feature_mask) == 1  # the granularity that was used
    assert torch.equal(several.spectrogram_attr, explanation.spectrogram_attr)
    with pytest.raises(TypeError, match="Feature Ablation takes no n_samples"):
        SpeechToTextAttribution(FeatureAblation(tiny_model)).attribute(audio, [60], sampling_rate=16000, n_samples=9)
    # the last previous token of a row, hidden alone
    utterance = tiny_model.utterance(audio)
    tokens = tiny_model.tokens([60, 61], utterance)
    gate = torch.ones(1, 3)
    with torch.no_grad():
        encoded = tiny_model.encode(utterance.spectrogram, utterance)
        reference = tiny_model.logits(encoded, tokens)
        gate[0, 2] = 0
        impact = -KLDivergence(lambda g: tiny_model.logits(encoded, tokens, g), reference)(gate)
    torch.testing.assert_close(explanation.token_attr[1, 2], impact[0, 1], atol=1e-5, rtol=1e-4)


def test_another_score(tiny_model, audio):
    kl, difference = (
        SpeechToTextAttribution(SPES(tiny_model), score=score).attribute(audio, [60, 61], **QUICK)
        for score in (KLDivergence, TokenProbability)
    )
    assert kl.spectrogram_attr.min() >= 0
    assert difference.spectrogram_attr.abs().max() <= 1 and difference.spectrogram_attr.min() < 0


def test_callers_method_and_model_stay(tiny_model, audio):
    spes = SPES(tiny_model)
    state = torch.get_rng_state()
    SpeechToTextAttribution(spes).attribute(audio, [60, 61], **QUICK)
    assert spes.forward_func is tiny_model
    assert torch.equal(torch.get_rng_state(), state)
    assert not tiny_model.model.model.decoder.embed_tokens._forward_hooks


def test_stopping_keeps_what_is_done(tiny_model, audio):
    seen = []

    def callback(stage, done, total):
        seen.append((stage, done, total))
        return stage == "spectrogram" and done >= 8

    explanation = SpeechToTextAttribution(SPES(tiny_model)).attribute(
        audio, [60, 61], callback=callback, perturbations_per_eval=4, **QUICK
    )
    assert explanation.metadata["partial"] and explanation.metadata["done"]["spectrogram"] == 8
    assert seen[-2:] == [("spectrogram", 4, 30), ("spectrogram", 8, 30)]
    assert explanation.spectrogram_attr.abs().sum() > 0


def test_a_stop_among_the_tokens_still_gives_both_maps(tiny_model, audio):
    explanation = SpeechToTextAttribution(SPES(tiny_model)).attribute(
        audio, [60, 61, 62, 63], callback=lambda *_: True, perturbations_per_eval=4, **QUICK
    )
    assert explanation.metadata["done"] == {"previous tokens": 4, "spectrogram": 4}
    assert explanation.metadata["partial"]


def test_noisy_maps_are_warned_of(tiny_model, audio):
    with pytest.warns(UserWarning, match=r"correlate at -?\d\.\d+ in the mean over the tokens .* samples"):
        SpeechToTextAttribution(SPES(tiny_model)).attribute(audio, [60, 61], **{**QUICK, "n_samples": 6})


@pytest.mark.parametrize(
    ("seconds_per_sample", "words"),
    [
        (None, "48 samples instead of 12 would reach"),
        (0.2, "12, less than a minute, would reach"),
        (1.5, "12, 1 minute, would"),
        (3.75, "12, 3 minutes, would"),
        (60, "12, 48 minutes, would"),
        (300, "12, 4 hours, would"),
        (3600, "12, 48 hours, would"),
    ],
)
def test_the_samples_and_the_time_that_would_do(seconds_per_sample, words):
    """From 0.2 to 0.5 takes four times the samples, by the formula of Spearman and Brown: 4 · 0.2 / (1 + 3 · 0.2)."""
    noisy = replace(make(), reliability=torch.full((4,), 0.2), metadata={"done": {"spectrogram": 12}})
    assert words in low_reliability(noisy, seconds_per_sample)


def test_the_speed_is_that_of_all_batches_but_the_first(tiny_model, audio, monkeypatch):
    """Three seconds pass before each batch of four samples."""
    said = []
    clock = count(0, 3)
    monkeypatch.setattr("captum_spes.speech_to_text.run.monotonic", lambda: next(clock))
    monkeypatch.setattr(
        "captum_spes.speech_to_text.attribution.quality_warnings", lambda _, seconds: [said.append(seconds)][:0]
    )
    SpeechToTextAttribution(SPES(tiny_model)).attribute(
        audio, [60, 61], **{**QUICK, "n_samples": 12}, perturbations_per_eval=4
    )
    assert said == [3 / 4]


def test_a_model_that_hears_nothing(tiny_model, audio, monkeypatch):
    monkeypatch.setattr(type(tiny_model), "generate", lambda self, u: Tokens(torch.tensor([1, 2]), torch.tensor([0])))
    attribution = SpeechToTextAttribution(SPES(tiny_model))
    with pytest.raises(ValueError, match="writes no words for this audio"):
        attribution.attribute(audio, **QUICK)
    assert attribution.attribute(audio, "so", **QUICK).text == "so"


def test_methods_without_pools_and_with_a_target_reliability(tiny_model, audio):
    """As by the fast budget of gradient_spes_bins."""
    explanation = SpeechToTextAttribution(GradientSPES(tiny_model)).attribute(
        audio, [60, 61], sampling_rate=16000, n_samples=4, n_token_samples=3, pool_features=False, min_reliability=0.99
    )
    assert explanation.spectrogram_attr.abs().sum() > 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64])
def test_masks_that_hold_no_integers_are_refused(tiny_model, audio, dtype):
    with pytest.raises(TypeError, match="integer"):
        SpeechToTextAttribution(FeatureAblation(tiny_model)).attribute(
            audio, [60], sampling_rate=16000, feature_mask=lambda x: grid_feature_mask(x, (20, 40)).to(dtype)
        )


@pytest.mark.parametrize("method", [ShapleyValueSampling, KernelShap])
def test_the_numbers_of_patches_change_nothing(tiny_model, audio, method):
    maps = []
    for factor, offset in ((1, 0), (7, -3)):
        explanation = SpeechToTextAttribution(method(tiny_model)).attribute(
            audio,
            [60, 61],
            sampling_rate=16000,
            feature_mask=lambda x, a=factor, b=offset: a * grid_feature_mask(x, (20, 40)) + b,
            n_samples=20,
            n_token_samples=5,
        )
        maps.append(explanation.spectrogram_attr)
    assert torch.equal(*maps) and maps[0].abs().sum() > 0


@pytest.mark.parametrize("method", [IntegratedGradients, AttnLRP, GradientSPES])
def test_gradients_are_refused_in_inference_mode(tiny_model, audio, method):
    attribution = SpeechToTextAttribution(method(tiny_model))
    with torch.inference_mode(), pytest.raises(ValueError, match=r"needs gradients, which torch.inference_mode\(\)"):
        attribution.attribute(audio, [60, 61], sampling_rate=16000)


def test_a_sampling_rate_of_features_is_refused(tiny_model, audio):
    utterance = tiny_model.utterance(audio)
    for inputs in (utterance, utterance.spectrogram):
        with pytest.raises(ValueError, match="leave it out"):
            SpeechToTextAttribution(SPES(tiny_model)).attribute(inputs, [60, 61], sampling_rate=8000)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"seed": -1}, "seed must be"),
        ({"perturbations_per_eval": 0}, "perturbations_per_eval must be"),
        ({"context": "all"}, "context must be"),
        ({"dtype": torch.int8}, "dtype must be"),
    ],
)
def test_bad_arguments_are_refused_before_the_model_writes(tiny_model, audio, monkeypatch, arguments, words):
    written = []
    monkeypatch.setattr(type(tiny_model), "generate", lambda *_: written.append(1))
    with pytest.raises(ValueError, match=words):
        SpeechToTextAttribution(SPES(tiny_model)).attribute(audio, **{**QUICK, **arguments})
    assert not written


@pytest.mark.parametrize(
    ("method", "words"),
    [
        (FeaturePermutation, "FeaturePermutation cannot .* one utterance has none .* FeatureAblation"),
        (ShapleyValues, "factorial: use ShapleyValueSampling"),
        (DeepLiftShap, "use GradientShap"),
        (lambda model: LayerIntegratedGradients(model, model), "a layer of the model"),
        (lambda model: NoiseTunnel(FeaturePermutation(model)), "FeaturePermutation cannot"),
        (DeepLift, "DeepLift hooks the model's non-linearities.*functions.*use IntegratedGradients or GradientShap"),
        (Attribution, "Attribution is not supported: give a perturbation or gradient method"),
        (lambda model: SPES(torch.nn.Linear(2, 2)), "must be a speech-to-text model, not Linear"),
    ],
)
def test_refused_methods(tiny_model, method, words):
    with pytest.raises(TypeError, match=words):
        SpeechToTextAttribution(method(tiny_model))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"target": ""}, "target text is empty"),
        ({"feature_mask": torch.zeros(1, 3, 16).long()}, "does not fit the input"),
        ({"n_samples": 2}, "at least 3"),
        ({"perturbation_prob": 1.5}, "strictly between"),
        ({"token_perturbation_prob": 0.0}, "strictly between"),
        ({"context": 4.0}, "context must be"),
        ({"context": "Auto"}, "context must be"),
        ({"dtype": "bfloat16"}, "dtype must be"),
        ({"target": None, "gen_args": {"prompt_ids": [5]}}, "gen_args cannot hold prompt_ids"),
        ({"sampling_rate": None}, "needs its sampling_rate"),
    ],
)
def test_bad_arguments(tiny_model, audio, arguments, words):
    with pytest.raises(ValueError, match=words):
        SpeechToTextAttribution(SPES(tiny_model)).attribute(audio, **{"target": [60, 61], **QUICK, **arguments})


@pytest.mark.slow
def test_bundled_model_end_to_end(bundled_model, sample, tmp_path):
    """The real model: words light up in order, and the file keeps it all."""
    model = bundled_model
    utterance = model.utterance(load_audio(sample, 16000))
    tokens = model.generate(utterance)
    utterance = refreeze(model, utterance, 8)
    explanation = SpeechToTextAttribution(SPES(model)).attribute(
        utterance,
        tokens,
        n_samples=240,
        n_token_samples=64,
        feature_mask=partial(slic_feature_mask, patches_per_second=(10, 20)),
    )
    assert explanation.text == "So what was the next step?"
    words = explanation.words()
    assert words.tokens == ["So", "what", "was", "the", "next", "step", "?", "<|endoftext|>"]
    time = torch.arange(len(words.spectrogram))
    profile = words.spectrogram_attr[:6].amax(2)
    peak = time[profile.argmax(1)]
    assert peak[0] < peak[4] < peak[5] and peak[0] < 60 and peak[5] > 120
    explanation.save(tmp_path / "e.safetensors")
    assert torch.equal(SpeechToTextExplanation.load(tmp_path / "e.safetensors").token_attr, explanation.token_attr)


def test_translations_have_the_papers_threshold(tiny_model, audio, monkeypatch):
    """A mask's threshold of 7.5 s for transcripts is 5 s for translations, where nothing else is asked for."""

    def masks(**arguments):
        explanation = SpeechToTextAttribution(SPES(tiny_model)).attribute(
            audio, [60, 61], sampling_rate=16000, n_samples=6, n_token_samples=4, **arguments
        )
        return explanation.metadata["task"], explanation.metadata["feature_mask"]

    task, mask = masks()
    assert task == "transcribe" and (mask["max_seconds"], mask["frames_per_second"]) == ("7.5", "100.0")
    monkeypatch.setattr(type(tiny_model), "task_of", lambda self, utterance, tokens: "translate")
    task, mask = masks()
    assert task == "translate" and mask["max_seconds"] == "5.0" and mask["patches_per_second"] == "(32, 40, 48)"
    assert masks(feature_mask=partial(slic_feature_mask, patches_per_second=30))[1]["max_seconds"] == "5.0"
    assert masks(feature_mask=partial(slic_feature_mask, max_seconds=3))[1]["max_seconds"] == "3"
