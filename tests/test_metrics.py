"""Faithfulness and robustness with models whose answer is known, a tiny random Whisper and the real one."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from captum.attr import FeatureAblation, IntegratedGradients, PerturbationAttribution
from scipy.stats import spearmanr
from toy_model import ToyModel

from captum_spes import (
    SPES,
    BubbleNoise,
    Contrast,
    GradientSPES,
    KLDivergence,
    SpeechToTextAttribution,
    SpeechToTextExplanation,
    TokenLogit,
    TokenLogProbability,
    grid_feature_mask,
)
from captum_spes.audio import load_audio
from captum_spes.metrics import (
    additive_attributions,
    infidelity,
    parameter_randomization,
    rank_correlation,
    sensitivity_max,
)
from captum_spes.metrics._additive import without_offset
from captum_spes.metrics._restore import restore

T, C, K = 40, 8, 3
PATCH = (20, 2)  # 8 patches: SPES enumerates their 256 combinations
WEIGHTS = (torch.rand(4, T // PATCH[0], C // PATCH[1], generator=torch.Generator().manual_seed(0)) - 0.3) / 20


pytestmark = pytest.mark.filterwarnings("ignore:the maps (are noisy|of .* are the same everywhere)")


class LinearModel(ToyModel):
    """Logits are linear in the bins, with one weight for all bins of a patch."""

    weights = WEIGHTS.repeat_interleave(PATCH[0], 1).repeat_interleave(PATCH[1], 2)  # (V, T, C)

    def __init__(self):
        self.heard = []

    def encode(self, spectrogram, utterance):
        self.heard.append(spectrogram.detach())
        return spectrogram

    def logits(self, encoded, tokens, token_gate=None):
        logits = torch.einsum("btc,vtc->bv", encoded, self.weights)[:, None].expand(-1, len(tokens.target), -1)
        return logits if token_gate is None else logits * token_gate.mean(1)[:, None, None]


class Energy(PerturbationAttribution):
    """A method whose map is the sound and does not depend on the model."""

    def attribute(self, inputs, feature_mask=None):
        return inputs.abs()


class Constant(PerturbationAttribution):
    """A method with a constant map."""

    def attribute(self, inputs, feature_mask=None):
        return torch.arange(inputs.numel()).view(inputs.shape).float()


FEATURES = torch.ones(1, T, C)
MASK = grid_feature_mask(FEATURES, PATCH)


def explain(method, score=TokenLogit, model=None, features=FEATURES, **arguments):
    return SpeechToTextAttribution(method(model or LinearModel()), score=score).attribute(features, **arguments)


def by_hand(attr, mask=None, **metadata):
    """An explanation with a map (T, C), as of one token."""
    return SpeechToTextExplanation(
        text="a",
        tokens=[" a"],
        previous_tokens=["<s>"],
        spectrogram=torch.ones(attr.shape),
        spectrogram_attr=attr[None].float(),
        token_attr=torch.ones(1, 1),
        n_previous=torch.tensor([1]),
        frames_per_second=100.0,
        mel_frequencies=torch.arange(attr.shape[1]).float(),
        feature_mask=mask,
        metadata=metadata,
    )


# Additive maps


ADDITIVE = {
    "ablation": partial(explain, FeatureAblation, feature_mask=MASK),
    "SPES": partial(explain, SPES, feature_mask=MASK, n_samples=256, n_token_samples=8),
    "SPES, p = 0.2": partial(explain, SPES, feature_mask=MASK, n_samples=256, n_token_samples=8, perturbation_prob=0.2),
    "integrated gradients": partial(explain, IntegratedGradients),
}


@pytest.mark.parametrize("name", ADDITIVE)
def test_of_an_additive_score_the_additive_maps_are_its_effects(name):
    effects = (LinearModel.weights - LinearModel.weights.mean(0))[1:]  # of TokenLogit, each bin's
    torch.testing.assert_close(additive_attributions(ADDITIVE[name]()), effects.double(), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("prob", [0.2, 0.5, 0.7])
def test_the_offset_of_eq_3_in_closed_form(prob):
    """Patches of 1, 2 and 5 bins."""
    mask = torch.tensor([[[7, 3, 3, 9], [9, 9, 9, 9]]])
    effects = {7: 0.5, 3: -1.0, 9: 4.0}
    total = sum(effects.values())
    attr = torch.zeros(2, 4)
    expected = torch.zeros(2, 4, dtype=torch.float64)
    for patch, effect in effects.items():
        attr[mask[0] == patch] = (1 - prob) * effect + prob * total
        expected[mask[0] == patch] = effect / int((mask == patch).sum())
    explanation = by_hand(attr, mask, method="SPES", arguments={"perturbation_prob": prob})
    torch.testing.assert_close(additive_attributions(explanation)[0], expected, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(
        without_offset(explanation)[0], attr.double() - prob * total, atol=1e-6, rtol=1e-5, check_dtype=False
    )


def test_granularities_are_pooled():
    """Every bin has the effect 2, whatever the patches; and by sampling, any effects add up to their sum."""
    masks = torch.cat([grid_feature_mask(FEATURES, size) for size in ((4, 4), (20, 8), (5, 2))])
    areas = torch.tensor([16.0, 160.0, 10.0])
    attr = torch.full((T, C), float(0.6 * 2 * areas.mean() + 0.4 * 2 * T * C))
    explanation = by_hand(attr, masks, method="SPES", arguments={"perturbation_prob": 0.4})
    torch.testing.assert_close(
        additive_attributions(explanation)[0], torch.full((T, C), 2.0).double(), atol=1e-4, rtol=1e-4
    )
    sampled = explain(SPES, feature_mask=masks[:, None], n_samples=3000, n_token_samples=4, perturbations_per_eval=100)
    effects = (LinearModel.weights - LinearModel.weights.mean(0))[1:]
    sums = additive_attributions(sampled).sum((1, 2))
    torch.testing.assert_close(sums, effects.double().sum((1, 2)), atol=0.1, rtol=0.05)


def test_the_offset_of_bubble_noise_is_its_mean_impact():
    spectrogram = torch.zeros(1, 30, 20)
    spectrogram[0, 0, 0] = 1  # so that noise lies between 0 and 1
    impacts = []

    def score(x):
        impacts.extend((x - spectrogram).sum((1, 2)).tolist())
        return -x.sum((1, 2))

    arguments = {"bubbles_per_second": 10.0, "bubble_seconds": 0.2, "bubble_channels": 12.0, "frames_per_second": 100.0}
    attr = BubbleNoise(score).attribute(
        spectrogram, n_samples=3000, perturbations_per_eval=50, centered=False, **arguments
    )
    mean_impact = float(np.mean(impacts[1:]))
    explanation = by_hand(attr[0], method="Bubble Noise", arguments=arguments)
    assert BubbleNoise.get_name() == "Bubble Noise"
    offset = (explanation.spectrogram_attr.double() - without_offset(explanation)).mean()
    assert offset == pytest.approx(mean_impact, rel=0.002)
    assert explanation.spectrogram_attr.mean() > 1.01 * mean_impact  # the plain mean is none
    # noise of 0.5 in a bin lowers the score by 0.5
    assert additive_attributions(explanation).sum() == pytest.approx(0.5 * 600, rel=0.02)


def test_pooled_gradients_are_divided_by_the_area_of_their_patches():
    """Of several granularities as well; a map of bins stays."""
    masks = torch.cat([grid_feature_mask(FEATURES, size) for size in ((4, 4), (20, 8))])
    effects = (LinearModel.weights - LinearModel.weights.mean(0))[1:].double()
    given = {"feature_mask": masks[:, None], "n_samples": 2, "n_token_samples": 1, "normalize": False}
    pooled = additive_attributions(explain(GradientSPES, **given))
    torch.testing.assert_close(pooled.sum((1, 2)), effects.sum((1, 2)), atol=1e-4, rtol=1e-4)
    bins = explain(GradientSPES, **given, pool_features=False)
    assert torch.equal(additive_attributions(bins), bins.spectrogram_attr.double())


def test_maps_of_bins_and_unknown_methods_stay():
    attr = torch.rand(T, C)
    for method in ("Saliency", "my own"):
        assert torch.equal(additive_attributions(by_hand(attr, method=method))[0], attr.double())
    assert torch.equal(additive_attributions(by_hand(attr, MASK, method="Gradient SPES"))[0], attr.double())


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"normalized": True}, "is normalised"),
        ({"metadata": {}}, "has no 'method'"),
        ({"metadata": {"method": "SPES"}}, "has no 'arguments'"),
        ({"metadata": {"method": "SPES", "arguments": {}}}, "have no perturbation_prob"),
        ({"metadata": {"method": "Bubble Noise", "arguments": {}}}, "have no bubbles_per_second"),
        ({"metadata": {"method": "SPES", "joint": True}}, "jointly"),
        ({"metadata": {"method": "|SPES|"}}, "absolute values"),
    ],
)
def test_what_has_no_additive_map(changes, words):
    explanation = replace(by_hand(torch.rand(T, C), MASK), **changes)
    with pytest.raises(ValueError, match=words):
        additive_attributions(explanation)


# Infidelity


@pytest.mark.parametrize("name", ADDITIVE)
def test_true_maps_have_no_infidelity_and_shuffled_ones_have(name):
    explanation = ADDITIVE[name]()
    check = partial(infidelity, LinearModel(), explanation, score=TokenLogit, n_perturb_samples=60)
    fall = check(attributions=torch.zeros(K, T, C))
    assert fall.min() > 0.001 and (check() / fall).max() < 1e-7
    assert check().shape == (K,) and check().dtype == torch.float32
    order = torch.randperm(T * C, generator=torch.Generator().manual_seed(1))
    shuffled = additive_attributions(explanation).flatten(1)[:, order].view(K, T, C)
    assert (check(attributions=shuffled) / fall).min() > 0.02


def test_eq_3_as_it_is_has_infidelity():
    """What the conversion is for."""
    explanation = ADDITIVE["SPES"]()
    check = partial(infidelity, LinearModel(), explanation, score=TokenLogit, n_perturb_samples=60)
    raw = check(attributions=explanation.spectrogram_attr) / check(attributions=torch.zeros(K, T, C))
    assert raw.min() > 0.02


def test_infidelity_in_closed_form():
    """The definition, by hand, on the perturbed spectrograms that the model was given."""
    model = LinearModel()
    explanation = explain(FeatureAblation, TokenLogProbability, model, feature_mask=grid_feature_mask(FEATURES, (5, 3)))
    model.heard.clear()
    mask = torch.stack([grid_feature_mask(FEATURES, (9, 3)), grid_feature_mask(FEATURES, (4, 1))])
    value = infidelity(
        model, explanation, feature_mask=mask, n_perturb_samples=50, perturbation_prob=0.3, perturbations_per_eval=7
    )
    assert [len(x) for x in model.heard] == [1, *[7] * 7, 1]  # the original and 50
    hidden = torch.cat(model.heard[1:]) == 0
    for k in range(K):
        log_probs = [
            model.logits(x, model.generate(None))[:, k].log_softmax(-1)[:, k + 1] for x in (FEATURES, ~hidden * 1.0)
        ]
        fall = (log_probs[0] - log_probs[1]).double().numpy()
        sums = (hidden * additive_attributions(explanation)[k]).sum((1, 2)).numpy()
        _, residual, *_ = np.linalg.lstsq(sums[:, None], fall, rcond=None)
        assert float(value[k]) == pytest.approx(residual[0] / 50, rel=1e-4)
    # whole patches of one granularity, three of ten
    shares = [
        torch.stack([hidden[:, granularity[0] == patch].float().mean(1) for patch in granularity.unique()], 1)
        for granularity in mask
    ]
    whole = torch.stack([((share == 0) | (share == 1)).all(1) for share in shares])
    assert whole.any(0).all() and 10 < whole[1].sum() < 50 and 0.25 < shares[1][whole[1]].mean() < 0.35


def test_all_methods_and_batch_sizes_have_the_same_perturbations():
    heard, values = [], []
    for method, size in [(FeatureAblation, 4), (IntegratedGradients, 16), (FeatureAblation, 100)]:
        model = LinearModel()
        explanation = explain(method, TokenLogProbability, model)
        model.heard.clear()
        values.append(infidelity(model, explanation, n_perturb_samples=20, perturbations_per_eval=size))
        heard.append(torch.cat(model.heard))
    assert torch.equal(heard[0], heard[1]) and torch.equal(heard[0], heard[2]) and len(heard[0]) == 21
    assert torch.allclose(values[0], values[2], rtol=1e-5) and not torch.allclose(values[0], values[1], rtol=1e-2)
    other = infidelity(LinearModel(), explanation, n_perturb_samples=20, seed=1)
    assert not torch.allclose(values[2], other, rtol=1e-3)


def test_a_map_of_zeros_foresees_nothing():
    explanation = explain(FeatureAblation)
    zeros = replace(explanation, spectrogram_attr=torch.zeros(K, T, C))
    model = LinearModel()
    value = infidelity(model, zeros, score=TokenLogit, n_perturb_samples=30)
    effects = (LinearModel.weights - LinearModel.weights.mean(0))[1:]
    falls = ((torch.cat(model.heard[1:]) == 0)[:, None] * effects).sum((2, 3))
    torch.testing.assert_close(value, falls.square().mean(0), rtol=1e-4, atol=1e-4)


def test_on_a_tiny_whisper(tiny_model, audio):
    explanation = SpeechToTextAttribution(Energy(tiny_model)).attribute(audio, [60, 61], sampling_rate=16000)
    for score in (TokenLogProbability, KLDivergence):
        value = infidelity(tiny_model, explanation, score=score, n_perturb_samples=20)
        assert value.shape == (2,) and value.isfinite().all() and value.min() > 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"n_perturb_samples": 0}, "n_perturb_samples must be"),
        ({"perturbations_per_eval": 0}, "perturbations_per_eval must be"),
        ({"perturbation_prob": 1.0}, "strictly between"),
        ({"attributions": torch.ones(K, T, 3)}, "attributions must be of shape"),
        ({"attributions": torch.full((K, T, C), torch.nan)}, "infinities or NaN"),
        ({"feature_mask": torch.ones(1, 3, 3).long()}, "does not fit the spectrogram"),
        ({"feature_mask": torch.ones(1, T, C)}, "does not fit the spectrogram"),
    ],
)
def test_bad_arguments_of_infidelity(arguments, words):
    with pytest.raises(ValueError, match=words):
        infidelity(LinearModel(), explain(FeatureAblation), **arguments)


# Restoring


def test_what_was_heard_is_restored(tiny_model, audio):
    """Exactly, where the model made the silence itself; the frame across the end is not stored."""
    features = tiny_model.utterance(audio).spectrogram
    attribution = SpeechToTextAttribution(Energy(tiny_model))
    utterance, tokens = attribution.prepare(features, [60, 61, 62])
    restored, same = restore(tiny_model, attribution.attribute(utterance, tokens))
    assert restored.n_frames == utterance.n_frames == 100
    assert torch.equal(same.prompt, tokens.prompt) and torch.equal(same.target, tokens.target)
    assert not same.generated
    first, second = (tiny_model.logits(tiny_model.encode(u.spectrogram, u), tokens) for u in (utterance, restored))
    assert torch.equal(first, second)


def test_the_precision_is_restored(tiny_model, audio):
    explanation = SpeechToTextAttribution(Energy(tiny_model)).attribute(
        audio, [60, 61], sampling_rate=16000, dtype=torch.bfloat16
    )
    assert restore(tiny_model, explanation)[0].dtype == torch.bfloat16


@pytest.mark.parametrize("seconds", [10**400, 1e308, -1, float("nan"), "1"])
def test_a_context_that_cannot_be_is_refused(tiny_model, audio, seconds):
    explanation = SpeechToTextAttribution(Energy(tiny_model)).attribute(audio, [60, 61], sampling_rate=16000)
    explanation.metadata["context_seconds"] = seconds
    with pytest.raises(ValueError, match="metadata is damaged: context_seconds has an impossible value"):
        restore(tiny_model, explanation)


@pytest.mark.slow
def test_the_real_model_predicts_the_same(bundled_model, sample):
    utterance = bundled_model.utterance(load_audio(sample, 16000))
    tokens = bundled_model.tokens("So what was the next step?", utterance)
    explanation = SpeechToTextAttribution(Energy(bundled_model)).attribute(utterance, tokens)
    restored, same = restore(bundled_model, explanation)
    assert torch.equal(same.previous, tokens.previous) and restored.n_frames == utterance.n_frames
    with torch.no_grad():
        first, second = (
            bundled_model.logits(bundled_model.encode(u.spectrogram, u), tokens).log_softmax(-1)
            for u in (utterance, restored)
        )
    assert (first.exp() * (first - second)).sum(-1).max() < 0.01
    assert not torch.equal(first, second)  # the day that it is, the documentation may say so


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda e: e.words(), "words or a sentence"),
        (lambda e: e.sentence(normalize=False), "words or a sentence"),
        (lambda e: replace(e, metadata={**e.metadata, "model": "another"}), "of 'another', not of the given"),
        (lambda e: replace(e, metadata={**e.metadata, "contrast": {"word": "a"}}), "of a contrast"),
        (lambda e: replace(e, metadata={"model": "linear"}), "has no token_ids and no previous_token_ids"),
    ],
)
def test_what_cannot_be_restored(change, words):
    with pytest.raises(ValueError, match=words):
        infidelity(LinearModel(), change(explain(FeatureAblation)))


# Sensitivity


def prepared(method, score=TokenLogit, model=None, features=FEATURES):
    attribution = SpeechToTextAttribution(method(model or LinearModel()), score=score)
    return attribution, *attribution.prepare(features)


def test_a_map_that_never_changes_is_not_sensitive():
    assert torch.equal(sensitivity_max(*prepared(Constant), n_perturb_samples=2), torch.zeros(K))


def test_sensitivity_in_closed_form():
    """The map that is the input changes by the noise: uniform in ± 0.1 times the range."""
    features = torch.rand(1, T, C, generator=torch.Generator().manual_seed(0)) * 5
    span = float(features.max() - features.min())
    once, often = (
        sensitivity_max(*prepared(Energy, features=features), perturb_radius=0.1, n_perturb_samples=n) for n in (1, 8)
    )
    expected = 0.1 * span * np.sqrt(T * C / 3) / features.norm()
    assert once.shape == (K,) and torch.equal(once, once[:1].expand(K))  # the same noise for all
    assert once[0] == pytest.approx(float(expected), rel=0.1)
    assert once[0] < often[0] < 1.2 * expected  # the largest of more


def test_the_offset_does_not_make_spes_look_stable():
    """On an additive score, SPES without its offset is FeatureAblation."""
    features = torch.rand(1, T, C, generator=torch.Generator().manual_seed(0))
    check = partial(sensitivity_max, perturb_radius=0.2, n_perturb_samples=3, feature_mask=MASK)
    ablation = check(*prepared(FeatureAblation, features=features))
    spes = check(*prepared(SPES, features=features), n_samples=256)
    torch.testing.assert_close(spes, ablation, atol=1e-4, rtol=1e-3)
    assert ablation.min() > 0.01


def test_a_seed_a_noise():
    features = torch.rand(1, T, C, generator=torch.Generator().manual_seed(0))
    state = torch.get_rng_state()
    values = [sensitivity_max(*prepared(Energy, features=features), n_perturb_samples=2, seed=s) for s in (0, 0, 1)]
    assert torch.equal(values[0], values[1]) and not torch.equal(values[0], values[2])
    assert torch.equal(torch.get_rng_state(), state)


def test_a_sentence_has_one_sensitivity():
    features = torch.rand(1, T, C, generator=torch.Generator().manual_seed(0))
    assert sensitivity_max(*prepared(IntegratedGradients, features=features), sentence=True, n_steps=2).shape == (1,)


def test_gradients_and_contrasts_on_a_tiny_whisper(tiny_model, audio):
    attribution = SpeechToTextAttribution(IntegratedGradients(tiny_model))
    utterance, tokens = attribution.prepare(audio, "so what", sampling_rate=16000)
    value = sensitivity_max(attribution, utterance, tokens, n_perturb_samples=1, n_steps=2)
    assert value.shape == tokens.target.shape and value.isfinite().all() and value.min() > 0
    attribution = SpeechToTextAttribution(SPES(tiny_model))
    value = sensitivity_max(
        attribution, utterance, tokens, n_perturb_samples=1, n_samples=6, contrast=Contrast("what", "so")
    )
    assert value.shape == (1,)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [({"n_perturb_samples": 0}, "n_perturb_samples must be"), ({"perturb_radius": 0.0}, "perturb_radius must be")],
)
def test_bad_arguments_of_sensitivity(arguments, words):
    with pytest.raises(ValueError, match=words):
        sensitivity_max(*prepared(Constant), **arguments)


# Randomised models


QUICK = {"target": "so what", "sampling_rate": 16000}


def test_what_ignores_the_model_stays_and_spes_does_not(tiny_model, audio):
    energy = parameter_randomization(tiny_model, Energy, audio, **QUICK)
    n_tokens = len(energy.original.tokens)
    assert torch.equal(energy.correlations, torch.ones(1, n_tokens))
    assert torch.equal(energy.absolute_correlations, torch.ones(1, n_tokens))
    mask = grid_feature_mask(tiny_model.utterance(audio).spectrogram, (10, 4))
    spes = parameter_randomization(
        tiny_model, SPES, audio, feature_mask=mask, n_samples=500, n_token_samples=1, perturbations_per_eval=50, **QUICK
    )
    assert spes.original.reliability.mean() > 0.5  # so that it is not the noise that has no correlation
    assert spes.correlations.shape == (1, n_tokens) and spes.correlations.mean() < 0.7
    torch.testing.assert_close(
        spes.correlations[0], rank_correlation(spes.original.spectrogram_attr, spes.randomized[0].spectrogram_attr)
    )


def test_the_model_stays_as_it_was(tiny_model, audio):
    before = {name: value.clone() for name, value in tiny_model.model.state_dict().items()}
    state = torch.get_rng_state()
    seen = []

    class Spy(FeatureAblation):
        def __init__(self, forward_func):
            seen.append(forward_func)
            super().__init__(forward_func)

    mask = grid_feature_mask(torch.zeros(1, 60, 16), (30, 16))
    parameter_randomization(tiny_model, Spy, audio, feature_mask=mask, **QUICK)
    assert all(torch.equal(value, before[name]) for name, value in tiny_model.model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)
    original, other = seen
    assert original is tiny_model and other is not tiny_model
    for name, value in other.model.named_parameters():
        assert torch.equal(value.flatten().sort().values, before[name].flatten().sort().values)  # its own values
        assert torch.equal(value, before[name]) == (len(value.unique()) == 1), name


def test_the_cascade_runs_from_the_output_to_the_input(tiny_model, audio):
    arguments = {**QUICK, "target": [60, 61], "n_steps": 2}
    cascade = parameter_randomization(tiny_model, IntegratedGradients, audio, cascade=True, **arguments)
    assert cascade.blocks == [
        "model.model.decoder.layer_norm",
        "model.model.decoder.layers.1",
        "model.model.decoder.layers.0",
        "model.model.decoder.embed_positions",
        "model.model.decoder.embed_tokens",
        "model.model.encoder.layer_norm",
        "model.model.encoder.layers.1",
        "model.model.encoder.layers.0",
        "model.model.encoder.embed_positions",
        "model.model.encoder.conv2",
        "model.model.encoder.conv1",
    ]
    assert cascade.correlations.shape == cascade.absolute_correlations.shape == (11, 2)
    assert cascade.correlations[0].min() > 0.99  # a normalisation that was never trained
    assert cascade.correlations[1].max() < 0.99
    maps = [explanation.spectrogram_attr for explanation in (cascade.original, cascade.randomized[-1])]
    torch.testing.assert_close(cascade.correlations[-1], rank_correlation(*maps))
    torch.testing.assert_close(cascade.absolute_correlations[-1], rank_correlation(maps[0].abs(), maps[1].abs()))
    assert not torch.allclose(cascade.correlations, cascade.absolute_correlations)
    at_once = parameter_randomization(tiny_model, IntegratedGradients, audio, **arguments)
    assert at_once.blocks == ["all 11 blocks"]
    torch.testing.assert_close(at_once.correlations, cascade.correlations[-1:])
    other = parameter_randomization(tiny_model, IntegratedGradients, audio, seed=1, **arguments)
    assert not torch.allclose(at_once.correlations, other.correlations)


@pytest.mark.filterwarnings("ignore:with frozen padding the text")
def test_the_padding_has_the_states_of_the_randomised_model(tiny_model, audio):
    arguments = {"feature_mask": grid_feature_mask(tiny_model.utterance(audio).spectrogram, (30, 16))}
    seen = []

    class Spy(FeatureAblation):
        def __init__(self, forward_func):
            seen.append(forward_func)
            super().__init__(forward_func)

    result = parameter_randomization(tiny_model, Spy, audio, context="frozen", **QUICK, **arguments)
    other = SpeechToTextAttribution(FeatureAblation(seen[-1]))
    expected = other.attribute(*other.prepare(audio, context="frozen", **QUICK), **arguments)
    torch.testing.assert_close(result.randomized[0].spectrogram_attr, expected.spectrogram_attr)


@pytest.mark.filterwarnings("ignore:with frozen padding the text")
def test_the_same_tokens_are_explained(tiny_model, audio):
    result = parameter_randomization(
        tiny_model, Energy, audio, sampling_rate=16000, gen_args={"max_new_tokens": 5}, context="frozen"
    )
    first, second = result.original.metadata, result.randomized[0].metadata
    assert first["token_ids"] == second["token_ids"]
    assert first["context"]["used"] == second["context"]["used"] == "frozen"


class LinearModule(LinearModel, torch.nn.Module):
    """A model that is a module, with a parameter of its own."""

    def __init__(self):
        torch.nn.Module.__init__(self)
        self.heard = []
        self.gain = torch.nn.Parameter(torch.rand(T, 1))

    def logits(self, encoded, tokens, token_gate=None):
        return super().logits(encoded * self.gain, tokens, token_gate)


def test_a_model_that_is_a_module():
    result = parameter_randomization(LinearModule(), FeatureAblation, FEATURES, cascade=True)
    assert result.blocks == ["gain"] and result.correlations.max() < 0.99


def test_modules_that_are_shared_are_one_block():
    model = LinearModel()
    model.model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2))
    model.head = model.model[1]
    assert parameter_randomization(model, Energy, FEATURES, cascade=True).blocks == ["model.1", "model.0"]


def test_a_model_without_parameters_is_refused():
    with pytest.raises(ValueError, match="toy holds no torch.nn.Module"):
        parameter_randomization(LinearModel(), FeatureAblation, FEATURES)


# Ranks


def test_rank_correlation_is_spearmans():
    generator = torch.Generator().manual_seed(0)
    first = torch.randint(0, 9, (4, 12, 7), generator=generator).float()  # with many ties
    second = first + 3 * torch.randn(first.shape, generator=generator)
    expected = [spearmanr(a.flatten(), b.flatten())[0] for a, b in zip(first, second)]
    torch.testing.assert_close(rank_correlation(first, second), torch.tensor(expected).float())
    rows = rank_correlation(first.flatten(1), second.flatten(1))
    torch.testing.assert_close(rows, torch.tensor(expected).float())


def test_a_constant_map_correlates_with_nothing():
    maps = torch.rand(2, 5, 3)
    maps[1] = 0.1
    result = rank_correlation(maps, maps)
    assert torch.allclose(result, torch.tensor([1.0, 0.0])) and result[1] == 0


@pytest.mark.parametrize(
    ("first", "second", "words"),
    [
        (torch.rand(2, 3), torch.rand(2, 4), "of one shape"),
        (torch.rand(3), torch.rand(3), "of one shape"),
        (torch.full((2, 3), torch.nan), torch.rand(2, 3), "finite"),
    ],
)
def test_bad_maps(first, second, words):
    with pytest.raises(ValueError, match=words):
        rank_correlation(first, second)
