"""Comprehensiveness and sufficiency of a model with known log-probabilities, and the baselines of all metrics."""

import math
from dataclasses import replace

import numpy as np
import pytest
import scipy.sparse
import scipy.sparse.linalg
import torch
from toy_model import ToyModel

from captum_spes import SPES, SpeechToTextAttribution, SpeechToTextExplanation
from captum_spes.metrics import comprehensiveness, deletion, sufficiency
from captum_spes.metrics.baselines import BASELINES, ROAD_NOISE, make_hider
from captum_spes.models import Utterance

T, C, K = 10, 10, 4  # a bin is one percent
SOUND, SILENCE = 1.0, 0.25
TEXTS = ["<s>", "</s>", " the", " bi", "rch"]
STEPS = (1, 5, 10, 20, 50)


class Toy(ToyModel):
    """Scores token k by how many of the five bins in its frames 2k, 2k + 1 and channels 0 to 4 are heard, and by the
    token before it: each bin of the ten adds 0.1 nats to the logit, the token before it adds 1."""

    n_channels, n_padding, silence = C, 6, SILENCE
    vocabulary, n_special = TEXTS, 2

    def __init__(self):
        self.n_passes = 0

    def encode(self, spectrogram, utterance):
        self.n_passes += len(spectrogram)
        heard = (spectrogram == SOUND).float()
        return torch.stack([heard[:, 2 * k : 2 * k + 2, :5].sum((1, 2)) for k in range(K)], dim=1)  # (B, K)

    def logits(self, encoded, tokens, token_gate=None):
        gate = torch.ones(1, K) if token_gate is None else token_gate
        evidence = 0.1 * encoded + gate[:, :K]
        logits = torch.zeros(len(evidence), K, len(TEXTS))
        return logits.scatter(2, tokens.target.expand(len(evidence), -1)[..., None], evidence[..., None])

    utterance = generate = generate_batch = tokens = None


def log_prob(evidence):
    return evidence - math.log(math.exp(evidence) + len(TEXTS) - 1)


def own_bins(row):
    """The truth: which bins a token's score depends on."""
    attributions = torch.zeros(T, C)
    attributions[2 * row : 2 * row + 2, :5] = 1
    return attributions


PERFECT = torch.stack([own_bins(row) for row in range(K)])


def explanation(maps=PERFECT, token_attr=None, **changes):
    ids = [2, 3, 4, 1]
    metadata = {
        "model": "toy",
        "token_ids": ids,
        "previous_token_ids": [0, *ids[:-1]],
        "context_seconds": 0.16,
        "dtype": "float32",
    }
    given = SpeechToTextExplanation(
        text="the birch",
        tokens=[TEXTS[i] for i in ids],
        previous_tokens=["<s>", *(TEXTS[i] for i in ids[:-1])],
        spectrogram=torch.full((T, C), SOUND),
        spectrogram_attr=maps,
        token_attr=torch.eye(K) if token_attr is None else token_attr,
        n_previous=torch.arange(K) + 1,
        frames_per_second=100,
        mel_frequencies=torch.linspace(100, 7000, C),
        metadata=metadata,
    )
    return replace(given, **changes)


@pytest.fixture
def model():
    return Toy()


# Curves that are known


def test_the_perfect_map_has_the_falls_of_its_own_bins(model):
    """Of the ten bins that decide, 1, 5, 10, 10 and 10 are hidden: 0.1 nats of evidence each."""
    curve = comprehensiveness(model, explanation())
    expected = [log_prob(2.0) - log_prob(2.0 - 0.1 * n) for n in (1, 5, 10, 10, 10)]
    assert curve.steps == STEPS
    torch.testing.assert_close(curve.falls[0], torch.tensor([expected] * K))
    torch.testing.assert_close(curve.scores, torch.tensor(expected))
    # the trapezoid rule by hand
    widths, means = np.diff(STEPS), np.add(expected[1:], expected[:-1]) / 2
    assert curve.auc == pytest.approx(float(widths @ means) / 49, rel=1e-5)
    assert curve.aopc == pytest.approx(np.mean(expected), rel=1e-5)


def test_the_perfect_map_is_sufficient_as_soon_as_it_has_its_bins(model):
    curve = sufficiency(model, explanation())
    expected = [log_prob(2.0) - log_prob(1.0 + 0.1 * n) for n in (1, 5, 10, 10, 10)]
    torch.testing.assert_close(curve.scores, torch.tensor(expected))


@pytest.mark.parametrize("metric", [comprehensiveness, sufficiency])
def test_perfect_beats_chance_and_chance_beats_inverted(model, metric):
    sign = 1 if metric is comprehensiveness else -1
    areas = [sign * metric(model, explanation(maps)).auc for maps in (PERFECT, -PERFECT)]
    by_chance = [sign * metric(model, explanation(torch.ones(K, T, C)), seed=seed).auc for seed in range(10)]
    assert areas[0] > max(by_chance) and min(by_chance) > areas[1]


@pytest.mark.parametrize("metric", [comprehensiveness, sufficiency])
def test_a_constant_map_is_a_random_order(model, metric):
    """Of N bins hidden at random in a hundred, a tenth of N of the deciding ten on average."""
    constant = explanation(torch.ones(K, T, C))
    assert torch.equal(
        metric(model, constant, seed=3).falls[0], metric(model, explanation(), maps="random", seed=3).falls[0]
    )
    falls = torch.stack([metric(model, constant, seed=seed).scores for seed in range(200)])
    n_hidden = torch.tensor(STEPS) / 10 if metric is comprehensiveness else 10 - torch.tensor(STEPS) / 10
    expected = torch.tensor([log_prob(2.0) - log_prob(2.0 - 0.1 * n) for n in n_hidden.tolist()])
    # the mean of 200 draws of four tokens, each with a deviation of at most 1.7 bins of 0.1 nats; 5 deviations
    torch.testing.assert_close(falls.mean(0), expected, atol=5 * 0.17 / 200**0.5, rtol=0)


def test_words_and_sentence_are_means_of_their_tokens(model):
    """Each row hides by its own map; its score is the mean of its tokens'."""
    words = comprehensiveness(model, explanation().words(), percentages=(10, 20))
    assert words.falls[0].shape == (3, 2)
    fall = log_prob(2.0) - log_prob(1.0)
    half = log_prob(2.0) - log_prob(1.5)
    # "the" and the mark are single tokens; the map of "birch" covers 20 bins, in random order
    torch.testing.assert_close(words.falls[0][[0, 2]], torch.full((2, 2), fall))
    assert words.falls[0][1, 1] == pytest.approx(fall, abs=1e-6) and 0.8 * half < words.falls[0][1, 0] < fall
    sentence = comprehensiveness(model, explanation().sentence(), percentages=(20, 40))
    assert sentence.falls[0].shape == (1, 2)
    assert sentence.falls[0][0, 1] == pytest.approx(fall, abs=1e-6)


def test_previous_tokens(model):
    """A token's score depends on the one before it, as the maps say. Of 1, 2, 3, 4 features a half are 0, 1, 1, 2."""
    curve = comprehensiveness(model, explanation(), inputs="tokens", percentages=(50, 100))
    fall = log_prob(2.0) - log_prob(1.0)
    torch.testing.assert_close(curve.falls[0], torch.tensor([[0, fall], *[[fall, fall]] * 3]))
    torch.testing.assert_close(
        sufficiency(model, explanation(), inputs="tokens", percentages=(50, 100)).falls[0],
        torch.tensor([[fall, 0], *[[0, 0]] * 3]),
    )
    wrong = explanation(token_attr=1 - torch.eye(K))
    assert comprehensiveness(model, wrong, inputs="tokens", percentages=(50, 100)).scores[0] == 0


def test_several_explanations_count_as_much(model):
    curve = comprehensiveness(model, [explanation(), explanation(-PERFECT).sentence()])
    assert [falls.shape for falls in curve.falls] == [(K, 5), (1, 5)]
    torch.testing.assert_close(curve.scores, torch.stack([falls.mean(0) for falls in curve.falls]).mean(0))
    assert [areas.shape for areas in curve.row_aucs] == [(K,), (1,)]


# How it is computed


@pytest.mark.parametrize("perturbations_per_eval", [1, 3, 64])
@pytest.mark.parametrize("baselines", BASELINES)
def test_batches_are_the_loop(tiny_model, audio, perturbations_per_eval, baselines):
    """Against a loop that hides and scores row by row, of a model with weights."""
    attribution = SpeechToTextAttribution(SPES(tiny_model))
    utterance, tokens = attribution.prepare(audio, [5, 6, 7], sampling_rate=16000)
    found = attribution.attribute(utterance, tokens, n_samples=9, n_token_samples=2)
    curve = comprehensiveness(tiny_model, found, perturbations_per_eval=perturbations_per_eval, baselines=baselines)
    restored = tiny_model.from_features(found.spectrogram[None])
    hide = make_hider(baselines, tiny_model, restored)

    def log_probs(spectrogram):
        with torch.no_grad():
            logits = tiny_model.logits(tiny_model.encode(spectrogram, restored), tokens)
        return logits.double().log_softmax(-1)[0, torch.arange(3), tokens.target]

    original = log_probs(restored.spectrogram)
    for row, maps in enumerate(found.spectrogram_attr):
        # ties of a patch are broken as the metric breaks them
        order = np.lexsort((np.random.default_rng(0).random(maps.numel()), -maps.double().flatten().numpy()))
        for column, step in enumerate(STEPS):
            hidden = torch.zeros(maps.numel(), dtype=torch.bool)
            hidden[torch.from_numpy(order[: step * len(order) // 100].copy())] = True
            expected = original - log_probs(hide(hidden.view(1, *maps.shape)))
            # an interpolation stops at a residual, which rounding may pass an iteration earlier
            tolerance = 1e-3 if baselines == "interpolation" else 1e-4
            assert float(curve.falls[0][row, column]) == pytest.approx(float(expected[row]), abs=tolerance)


def test_a_loaded_explanation_has_the_same_bits(tiny_model, audio, tmp_path):
    attribution = SpeechToTextAttribution(SPES(tiny_model))
    explanation = attribution.attribute(audio, "so what", sampling_rate=16000, n_samples=9, n_token_samples=2)
    explanation.save(tmp_path / "e.safetensors")
    loaded = SpeechToTextExplanation.load(tmp_path / "e.safetensors")
    assert explanation.spectrogram.stride() != loaded.spectrogram.stride()
    found, again = (sufficiency(tiny_model, each) for each in (explanation, loaded))
    assert torch.equal(found.falls[0], again.falls[0])


def test_ties_are_broken_by_the_seed(model):
    flat = explanation(torch.ones(K, T, C))
    first, again, other = (comprehensiveness(model, flat, seed=seed).falls[0] for seed in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_equal_masks_share_a_pass(model):
    """Four rows and five steps are twenty masks, and five where all rows have one map."""
    comprehensiveness(model, explanation())
    assert model.n_passes == 1 + 20
    model.n_passes = 0
    comprehensiveness(model, explanation(own_bins(1).expand(K, T, C)))
    assert model.n_passes == 1 + 5
    model.n_passes = 0
    comprehensiveness(model, explanation(), inputs="tokens")
    assert model.n_passes == 1


# Baselines


def utterance_of(values):
    return Utterance(torch.as_tensor(values, dtype=torch.float32)[None], torch.zeros(1, 0, len(values[0])))


class Means:
    def baseline(self, utterance):
        return utterance.spectrogram.mean(1, keepdim=True)


RANDOM = np.random.default_rng(0).normal(size=(24, 12))


def test_baselines_are_the_utterances_own():
    utterance = utterance_of(RANDOM)
    spectrogram, everything = utterance.spectrogram, torch.ones(1, 24, 12, dtype=torch.bool)
    hidden = {name: make_hider(name, Means(), utterance)(everything) for name in BASELINES}
    torch.testing.assert_close(hidden["mean"], spectrogram.mean(1, keepdim=True).expand_as(spectrogram))
    torch.testing.assert_close(hidden["silence"], spectrogram.amin(1, keepdim=True).expand_as(spectrogram))
    for channel in range(12):
        assert set(hidden["noise"][0, :, channel].tolist()) <= set(spectrogram[0, :, channel].tolist())
    # without any neighbour that is heard there is nothing but the mean
    deviation = spectrogram.std(1, keepdim=True, unbiased=False)
    assert ((hidden["interpolation"] - hidden["mean"]).abs() < 5 * ROAD_NOISE * deviation).all()


@pytest.mark.parametrize("baseline", BASELINES)
def test_baselines_leave_what_is_heard_and_are_a_function_of_the_seed(baseline):
    utterance = utterance_of(RANDOM)
    mask = torch.rand(3, 24, 12, generator=torch.Generator().manual_seed(0)) < 0.6
    first, again, other = (make_hider(baseline, Means(), utterance, seed)(mask) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert torch.equal(first[~mask], utterance.spectrogram.expand(3, -1, -1)[~mask])
    assert torch.equal(first, other) == (baseline in ("mean", "silence"))


@pytest.mark.parametrize("share", [0.1, 0.6, 0.98])
def test_interpolation_solves_roads_linear_system(share):
    """Against a sparse solver with the weights of Rong et al. (2022), 1/6 beside and 1/12 across."""
    utterance = utterance_of(RANDOM)
    mask = torch.rand(2, 24, 12, generator=torch.Generator().manual_seed(1)) < share
    found = make_hider("interpolation", Means(), utterance)(mask)
    values = RANDOM.astype(np.float32).astype(float)
    for row, hidden in zip(found, mask.numpy()):
        numbers = -np.ones((24, 12), int)
        numbers[hidden] = np.arange(hidden.sum())
        matrix, right = scipy.sparse.lil_matrix((hidden.sum(),) * 2), np.zeros(hidden.sum())
        for i, j in np.argwhere(hidden):
            for di, dj in ((a, b) for a in (-1, 0, 1) for b in (-1, 0, 1) if a or b):
                if 0 <= i + di < 24 and 0 <= j + dj < 12:
                    weight = 1 / 12 if di and dj else 1 / 6
                    matrix[numbers[i, j], numbers[i, j]] += weight
                    if hidden[i + di, j + dj]:
                        matrix[numbers[i, j], numbers[i + di, j + dj]] -= weight
                    else:
                        right[numbers[i, j]] += weight * values[i + di, j + dj]
        expected = scipy.sparse.linalg.spsolve(matrix.tocsc(), right)
        difference = np.abs(row.numpy()[hidden] - expected)
        # ROAD's noise, five deviations of a channel, and what the solver leaves
        assert difference.max() < 5 * ROAD_NOISE * RANDOM.std(0).max() + 0.005


def test_interpolation_does_not_depend_on_the_batch():
    utterance = utterance_of(RANDOM)
    masks = torch.stack([torch.rand(24, 12, generator=torch.Generator().manual_seed(n)) < n / 10 for n in range(11)])
    hide = make_hider("interpolation", Means(), utterance)
    torch.testing.assert_close(hide(masks), torch.cat([hide(mask[None]) for mask in masks]), atol=5e-3, rtol=0)


# What is refused


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"percentages": (5,)}, "two or more"),
        ({"inputs": "text"}, "'spectrogram' or 'tokens'"),
        ({"baselines": "zero"}, "mean, noise, interpolation, silence"),
        ({"maps": torch.zeros(T, C)}, "do not fit"),
        ({"maps": torch.full((K, T, C), math.nan)}, "NaN"),
        ({"maps": "best"}, "'random'"),
        ({"perturbations_per_eval": 0}, "at least 1"),
    ],
)
def test_bad_arguments_are_refused_before_the_model_runs(model, arguments, message):
    with pytest.raises(ValueError, match=message):
        comprehensiveness(model, explanation(), **arguments)
    assert not model.n_passes


def test_explanations_that_cannot_be_measured(model):
    contrast = explanation()
    contrast.metadata["contrast"] = {"word": "the"}
    cases = [
        (contrast, {}, "contrast"),
        (explanation(metadata={**explanation().metadata, "model": "other"}), {}, "not of the given"),
        (explanation().words(group_previous=True), {"inputs": "tokens"}, "group_previous"),
        ([], {}, "no explanation"),
    ]
    for given, arguments, message in cases:
        with pytest.raises(ValueError, match=message):
            comprehensiveness(model, given, **arguments)


def test_deletion_takes_the_baselines_too(tiny_model, audio):
    found = SpeechToTextAttribution(SPES(tiny_model)).attribute(
        audio, [5, 6, 7], sampling_rate=16000, n_samples=9, n_token_samples=2
    )
    heard = {}
    generate = tiny_model.generate_batch

    for name in BASELINES:
        tiny_model.generate_batch = lambda rows, *args, name=name, **kwargs: (
            heard.setdefault(name, rows.clone()),
            generate(rows, *args, **kwargs),
        )[1]
        deletion(tiny_model, found, "a b c", percentages=(0, 50, 100), baselines=name, max_new_tokens=3)
    del tiny_model.generate_batch
    restored = tiny_model.from_features(found.spectrogram[None])
    for name, rows in heard.items():
        torch.testing.assert_close(rows[0], restored.spectrogram[0])
        everything = torch.ones_like(restored.spectrogram, dtype=torch.bool)
        torch.testing.assert_close(rows[2], make_hider(name, tiny_model, restored)(everything)[0])
    with pytest.raises(ValueError, match="mean, noise, interpolation, silence"):
        deletion(tiny_model, found, baselines="zero")


def test_rows_that_are_neither_tokens_nor_words_are_refused(model):
    damaged = replace(
        explanation().words(),
        tokens=["the birch", "</s>"],
        spectrogram_attr=PERFECT[:2],
        token_attr=torch.eye(K)[:2],
        n_previous=torch.tensor([1, 2]),
    )
    with pytest.raises(ValueError, match="2 rows"):
        comprehensiveness(model, damaged)
