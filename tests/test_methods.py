"""The wrapper with every method: known answers, the same as Captum by hand, passes, arguments, contrasts, refusals."""

import math
import warnings
from functools import partial

import numpy as np
import pytest
import torch
from captum.attr import (
    LRP,
    Deconvolution,
    DeepLift,
    FeatureAblation,
    GradientAttribution,
    GradientShap,
    GuidedBackprop,
    GuidedGradCam,
    InputXGradient,
    IntegratedGradients,
    KernelShap,
    Lime,
    LimeBase,
    NoiseTunnel,
    Occlusion,
    PerturbationAttribution,
    Saliency,
    ShapleyValueSampling,
)
from captum.log import log_usage
from scipy.stats import spearmanr
from torch import nn

from captum_spes import (
    SPES,
    BubbleNoise,
    ContrastiveProbability,
    GradientSPES,
    KLDivergence,
    SpeechToTextAttribution,
    SpeechToTextExplanation,
    TokenLogit,
    TokenLogProbability,
    TokenProbability,
    grid_feature_mask,
    slic_feature_mask,
)
from captum_spes.models import Tokens, Utterance
from captum_spes.speech_to_text.profiles import default_patches
from captum_spes.speech_to_text.targets import Contrast, WordPrediction

IDS = [60, 61, 62]
N_PATCHES = 16
GRID = partial(grid_feature_mask, patch_size=(10, 2))  # of 40 frames × 8 channels
DECISIVE = (6, 9, 3)  # the patch of each of the toy's tokens


@pytest.fixture(autouse=True)
def _quiet():
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "the maps are noisy")
        yield


def spectrogram():
    """1 × 40 × 8, one level a patch, so that SLIC finds the patches."""
    levels = torch.tensor([1.0, 1.4, 0.7, 1.2, 0.8, 1.5, 1.1, 0.6]).repeat(2)
    noise = torch.rand(1, 40, 8, generator=torch.Generator().manual_seed(0))
    return levels[GRID(torch.zeros(1, 40, 8))] + 0.02 * noise


class Toy:
    """Token k's logit is linear in the spectrogram, most of it from patch DECISIVE[k], and in the gate."""

    name, sample_rate, frames_per_second = "toy", 16000, 40.0
    mel_frequencies = np.linspace(100, 7000, 8)
    baseline_name, embedding_dim = "0", 4
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

    def from_features(self, features):
        return Utterance(features, torch.zeros(1, 0, 8))

    def baseline(self, utterance):
        return torch.zeros(1, 1, 8)

    def generate(self, utterance, **gen_args):
        return Tokens(torch.tensor([0]), torch.tensor([1, 2, 3]), generated=True)

    def generate_batch(self, spectrograms, utterance, prompt, **gen_args):
        return [torch.tensor([1, 2, 3]) for _ in spectrograms]

    def tokens(self, target, utterance):
        return Tokens(torch.tensor([0]), torch.as_tensor(target))

    def token_texts(self, ids):
        return [("<s>", " a", " b", " c")[i] for i in ids.tolist()]

    def is_special(self, ids):
        return [i == 0 for i in ids.tolist()]

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


# Known answers

SMALL_BUBBLES = {
    "n_samples": 4000,
    "bubbles_per_second": 24.0,
    "bubble_seconds": 0.35,
    "bubble_channels": 3.0,
    "baselines": 1.05,
}
EVERY_METHOD = {
    "SPES": (SPES, {"n_samples": 2000, "feature_mask": GRID}),
    "BubbleNoise": (BubbleNoise, SMALL_BUBBLES),
    "FeatureAblation": (FeatureAblation, {}),
    "Occlusion": (Occlusion, {}),
    "ShapleyValueSampling": (ShapleyValueSampling, {}),
    "KernelShap": (KernelShap, {"n_samples": 500}),
    "Lime": (lime, {"n_samples": 200}),
    "IntegratedGradients": (IntegratedGradients, {}),
    "Saliency": (Saliency, {}),
    "InputXGradient": (InputXGradient, {}),
    "GradientShap": (GradientShap, {}),
    "NoiseTunnel over Saliency": (over(Saliency), {}),
    "NoiseTunnel over IntegratedGradients": (over(IntegratedGradients), {}),
    "NoiseTunnel over FeatureAblation": (over(FeatureAblation), {"nt_samples": 3}),
}


@pytest.mark.parametrize("name", EVERY_METHOD)
def test_every_method_finds_what_decides(name):
    method, arguments = EVERY_METHOD[name]
    explanation = wrapped(method, Toy()).attribute(spectrogram(), perturbations_per_eval=100, **arguments)
    assert explanation.tokens == [" a", " b", " c"] and explanation.previous_tokens == ["<s>", " a", " b"]
    grid = GRID(explanation.spectrogram[None])[0]
    for row, patch in enumerate(DECISIVE):
        attr = explanation.spectrogram_attr[row]
        assert method is BubbleNoise or attr[grid == patch].max() == attr.max() > 0  # whose noise leaves single bins
        assert pooled(attr[None])[0].argmax() == patch
    assert explanation.token_attr.argmax(1).tolist() == list(Toy.looks_at)
    assert torch.equal(explanation.token_attr != 0, explanation.is_previous)


# a method, its budget, and the rank correlation with the patches' weights: by a linear score and by others
RANKING = [
    (IntegratedGradients, {}, 1, 1),
    (GradientShap, {"stdevs": 0.0}, 1, 1),
    (FeatureAblation, {"feature_mask": GRID}, 1, 1),
    (Occlusion, {"sliding_window_shapes": (10, 2), "strides": (10, 2)}, 1, 1),
    (SPES, {"feature_mask": GRID, "n_samples": 10_000}, 0.95, 0.9),
    (ShapleyValueSampling, {"feature_mask": GRID, "n_samples": 40}, 1, 0.9),
    (KernelShap, {"feature_mask": GRID, "n_samples": 500}, 1, 0.7),
    (lime, {"feature_mask": GRID, "n_samples": 500}, 0.95, 0.7),
]


@pytest.mark.parametrize("score", [TokenLogit, KLDivergence])
@pytest.mark.parametrize(("method", "arguments", "linear", "other"), RANKING)
def test_methods_rank_the_patches_of_a_linear_scorer_alike(method, arguments, linear, other, score):
    toy = Toy()
    least = linear if score is TokenLogit else other
    explanation = wrapped(method, toy, score).attribute(spectrogram(), perturbations_per_eval=512, **arguments)
    expected = toy.patch_scores(spectrogram())
    found = pooled(explanation.spectrogram_attr)
    for row in range(3):
        assert spearmanr(found[row], expected[row]).statistic >= least - 1e-9


@pytest.mark.parametrize(
    ("method", "arguments"),
    [
        (IntegratedGradients, {}),
        (InputXGradient, {}),
        (FeatureAblation, {"feature_mask": GRID}),
        (ShapleyValueSampling, {"feature_mask": GRID, "n_samples": 2, "n_token_samples": 1}),
        (KernelShap, {"feature_mask": GRID, "n_samples": 200}),
    ],
)
def test_values_of_a_linear_scorer(method, arguments):
    """Each patch's share of the logit itself, and each previous token's."""
    toy = Toy()
    explanation = wrapped(method, toy, TokenLogit).attribute(spectrogram(), **arguments)
    share = 3 / 4  # of the logit, less the mean over the vocabulary
    attr = explanation.spectrogram_attr
    if explanation.feature_mask is not None:
        attr = attr / 20  # each bin has its patch's score
    torch.testing.assert_close(pooled(attr), share * toy.patch_scores(spectrogram()), atol=2e-4, rtol=1e-3)
    torch.testing.assert_close(explanation.token_attr, share * toy.gate_weights, atol=1e-4, rtol=1e-3)


def test_probabilities_of_a_linear_scorer():
    """Hiding one patch, and one previous token, in closed form."""
    toy = Toy()
    explanation = wrapped(FeatureAblation, toy, TokenProbability).attribute(spectrogram(), feature_mask=GRID)
    patches, tokens = toy.patch_scores(spectrogram()), toy.gate_weights
    logit = (patches.sum(1) + tokens.sum(1))[:, None]
    original = logit.exp() / (logit.exp() + 3)
    for attr, removed in ((pooled(explanation.spectrogram_attr) / 20, patches), (explanation.token_attr, tokens)):
        left = (logit - removed).exp()
        torch.testing.assert_close(attr, original - left / (left + 3), atol=1e-5, rtol=1e-3)


def test_bubble_noise_finds_a_single_decisive_region():
    """Only the decisive patch weighs anything."""
    toy = Toy()
    grid = GRID(spectrogram())[0]
    for row, patch in enumerate(DECISIVE):
        toy.weights[row] *= grid == patch
    attr = wrapped(BubbleNoise, toy).attribute(spectrogram(), **SMALL_BUBBLES).spectrogram_attr
    for row, patch in enumerate(DECISIVE):
        frame, channel = divmod(int(attr[row].argmax()), 8)
        assert grid[frame, channel] == patch
        assert pooled(attr)[row].argsort(descending=True)[0] == patch
        inside, outside = attr[row][grid == patch], attr[row][grid != patch]
        assert inside.mean() > outside.mean() + 3 * outside.std()


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


@pytest.fixture
def parts(tiny_model, audio):
    """An utterance, its tokens, the encoder's states, the original prediction, and a mask of large patches."""
    utterance = tiny_model.utterance(audio)
    tokens = tiny_model.tokens(IDS, utterance)
    with torch.no_grad():
        encoded = tiny_model.encode(utterance.spectrogram, utterance)
        reference = tiny_model.logits(encoded, tokens)
    return utterance, tokens, encoded, reference, grid_feature_mask(utterance.spectrogram, (15, 8))


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


# Passes


@pytest.fixture
def rows_passed(tiny_model, monkeypatch):
    """Rows that the encoder and the decoder were given, and rows of the gradients that were taken."""
    counts = {"encode": 0, "logits": 0, "grad": 0}
    encode, logits, grad = type(tiny_model).encode, type(tiny_model).logits, torch.autograd.grad

    def counting_encode(self, spectrogram, utterance):
        counts["encode"] += len(spectrogram)
        return encode(self, spectrogram, utterance)

    def counting_logits(self, encoded, tokens, token_gate=None):
        counts["logits"] += len(encoded.hidden) if token_gate is None else len(token_gate)
        return logits(self, encoded, tokens, token_gate)

    def counting_grad(outputs, inputs, *args, **kwargs):
        counts["grad"] += len(inputs)
        return grad(outputs, inputs, *args, **kwargs)

    monkeypatch.setattr(type(tiny_model), "encode", counting_encode)
    monkeypatch.setattr(type(tiny_model), "logits", counting_logits)
    monkeypatch.setattr(torch.autograd, "grad", counting_grad)
    return counts


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


# Methods that hook modules


def relu_parts(model, features):
    """Of the one layer: what comes to it for an input and for its baseline, and its weights, (3, 6) and (6, 320)."""
    with torch.no_grad():
        all_embeddings = model.embedding.sum(0)
        before = model.reads(features.flatten(1)) + all_embeddings
        baseline = model.reads.bias + all_embeddings
    return before[0], baseline, model.writes.weight.detach(), model.reads.weight.detach()


@pytest.mark.parametrize("per_eval", [1, 8, 64])
def test_deep_lift(per_eval):
    """By the rescale rule of a single layer, and complete."""
    model = ReluToy()
    explanation = wrapped(DeepLift, model).attribute(spectrogram(), perturbations_per_eval=per_eval)
    before, baseline, writes, reads = relu_parts(model, spectrogram())
    slope = (before.relu() - baseline.relu()) / (before - baseline)
    assert (slope != (before > 0)).sum() > 0  # it is not the gradient
    expected = 0.75 * torch.einsum("kh,h,hi->ki", writes, slope, reads) * spectrogram().flatten()
    torch.testing.assert_close(explanation.spectrogram_attr.flatten(1), expected, atol=1e-5, rtol=1e-3)
    total = 0.75 * (writes @ (before.relu() - baseline.relu()))
    torch.testing.assert_close(explanation.spectrogram_attr.sum((1, 2)), total, atol=1e-4, rtol=1e-3)
    # the previous tokens of each row, those that come later are no features of it
    with torch.no_grad():
        encoded = model.reads(spectrogram().flatten(1))
        slope = ((before.relu() - encoded.relu()) / (before - encoded))[0]
        expected = 0.75 * torch.einsum("kh,h,jh->kj", writes, slope, model.embedding)
    torch.testing.assert_close(
        explanation.token_attr, torch.where(explanation.is_previous, expected, 0), atol=1e-5, rtol=1e-3
    )


@pytest.mark.parametrize(("method", "open_gates_only"), [(GuidedBackprop, True), (Deconvolution, False)])
def test_changed_gradients_of_relu(method, open_gates_only):
    model = ReluToy()
    explanation = wrapped(method, model).attribute(spectrogram())
    before, _, writes, reads = relu_parts(model, spectrogram())
    logits = before.relu() @ writes.T + model.writes.bias.detach()
    probability = logits.exp() / (logits.exp() + 3)  # of the token, beside three logits of 0
    upstream = ((1 - probability)[:, None] * writes).relu()
    if open_gates_only:
        upstream = upstream * (before > 0)
    torch.testing.assert_close(explanation.spectrogram_attr.flatten(1), upstream @ reads, atol=1e-5, rtol=1e-3)
    assert explanation.metadata["passes"]["spectrogram"] == {"forward": 3, "backward": 3}


class Chosen(nn.Module):
    """One token's score of a model, by hand."""

    def __init__(self, model, score, row):
        super().__init__()
        self.model, self.row = model, row
        utterance = model.from_features(spectrogram())
        tokens = model.generate(utterance)
        self.score = score(lambda x: model.logits(model.encode(x, utterance), tokens), tokens.target)

    def forward(self, x):
        return self.score(x)[:, self.row]


@pytest.mark.parametrize(
    ("method", "score"), [(DeepLift, TokenLogit), (GuidedBackprop, TokenLogit), (Deconvolution, TokenLogProbability)]
)
def test_noise_over_methods_that_hook(method, score):
    """The same noise for all tokens, as by hand."""
    model = ReluToy()
    explanation = wrapped(over(method), model, score).attribute(spectrogram(), nt_samples=4, stdevs=0.5, seed=3)
    plain = wrapped(method, model, score).attribute(spectrogram())
    assert torch.equal(explanation.token_attr, plain.token_attr)
    assert not torch.equal(explanation.spectrogram_attr, plain.spectrogram_attr)
    baselines = {"baselines": torch.zeros(1, 40, 8)} if method is DeepLift else {}
    for row in range(3):
        torch.manual_seed(3)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            expected = NoiseTunnel(method(Chosen(model, score, row))).attribute(
                spectrogram(), nt_samples=4, stdevs=0.5, **baselines
            )
        torch.testing.assert_close(explanation.spectrogram_attr[row], expected[0], atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize("method", [DeepLift, GuidedBackprop, over(DeepLift), over(Deconvolution)])
def test_hooks_are_counted_and_leave_nothing_behind(method):
    model = ReluToy()
    rows, seen = [], []
    logits = model.logits
    model.logits = lambda encoded, tokens, gate=None: (
        rows.append(len(encoded) if gate is None else len(gate)) or logits(encoded, tokens, gate)
    )
    made = method(model)
    inner = getattr(made, "attribution_method", made)
    before = {name: list(value) if isinstance(value, list) else value for name, value in vars(inner).items()}
    state = torch.get_rng_state()
    explanation = SpeechToTextAttribution(made).attribute(
        spectrogram(), callback=lambda *stage: seen.append(stage), perturbations_per_eval=4
    )
    passes = explanation.metadata["passes"]
    assert sum(rows) == sum(stage["forward"] for stage in passes.values()) + 1
    for stage in ("previous tokens", "spectrogram"):
        done = [done for name, done, _ in seen if name == stage]
        assert done[-1] == passes[stage]["forward"] and len(done) >= 3
        assert {total for name, _, total in seen if name == stage} == {done[-1]}
    assert vars(inner) == before and torch.equal(torch.get_rng_state(), state)
    assert not any(module._forward_hooks or module._backward_hooks for module in model.modules())


@pytest.mark.parametrize("method", [DeepLift, over(DeepLift)])
@pytest.mark.parametrize("activation", [nn.functional.gelu, nn.GELU(), lambda x: x * x.sigmoid()])
def test_deep_lift_is_refused_where_it_is_not_complete(method, activation):
    attribution = wrapped(method, ReluToy(activation))
    with pytest.raises(ValueError, match=r"DeepLift's attributions miss .* by \d+%: .* Take IntegratedGradients or"):
        attribution.attribute(spectrogram())


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: GuidedBackprop(ReluToy(nn.GELU())), "GuidedBackprop .* nn.ReLU modules .* none: take Saliency"),
        (lambda: Deconvolution(ReluToy(nn.GELU())), "Deconvolution .* nn.ReLU modules .* none: take Saliency"),
        (lambda: over(GuidedBackprop)(ReluToy(nn.GELU())), "GuidedBackprop .* nn.ReLU modules .* none: take Saliency"),
        (lambda: LRP(ReluToy()), "LRP cannot .* take IntegratedGradients or InputXGradient"),
        (lambda: GuidedGradCam(ReluToy(), ReluToy().reads), "GuidedGradCam .* take Saliency"),
        (lambda: LimeBase(Toy(), None, None, None, False, None, lambda x: x), "LimeBase .* take Lime or KernelShap"),
        (lambda: over(DeepLift)(Toy()), "DeepLift hooks the model's non-linearities"),
    ],
)
def test_methods_that_find_nothing_to_hook_or_to_explain(make, words):
    with pytest.raises(TypeError, match=words):
        SpeechToTextAttribution(make())


def test_changed_gradients_of_a_score_without_any_are_refused():
    with pytest.raises(ValueError, match="gradient of KLDivergence is 0"):
        wrapped(GuidedBackprop, ReluToy(), KLDivergence)


# One word against another

TEXT = "so what was the next step?"
LONG_WORDS = "so stop it's to-do his"  # of several tokens, "it's" begins with one that is a lone space


@pytest.fixture
def sentence(tiny_model, audio):
    return tiny_model.utterance(audio), tiny_model.tokens(TEXT, tiny_model.utterance(audio))


def begin_a_word(model):
    """By a tokenizer's eyes: a space, a mark such as the end, or punctuation that does not join letters; bool (V,)."""
    starts = []
    for index in torch.arange(model.model.config.vocab_size):
        (text,), (special,) = model.token_texts(index[None]), model.is_special(index[None])
        starts.append(special or (bool(text) and not (text[0].isalnum() or text[0] in "_-'")))
    return torch.tensor(starts)


def word_probability(model, utterance, spectrogram, context, word, starts, gate=None):
    """Token by token, each from a call of its own; ``gate`` (J,) is of the context, ``starts`` (V,) or None."""

    def next_token(ids):
        tokens = Tokens(torch.cat((context, ids)), torch.tensor([0]))
        gates = None if gate is None else torch.cat((gate, torch.ones(len(ids))))[None]
        with torch.no_grad():
            return model.logits(model.encode(spectrogram, utterance), tokens, gates)[0, 0].softmax(-1)

    probability = torch.tensor(1.0)
    for index, token in enumerate(word):
        probability = probability * next_token(word[:index])[token]
    if starts is not None:
        probability = probability * next_token(word)[starts].sum() / next_token(word[:0])[starts].sum()
    return probability


def contrast_by_hand(model, utterance, context, word, foil, starts, difference, spectrogram, gate=None):
    p, q = (word_probability(model, utterance, spectrogram, context, ids, starts, gate) for ids in (word, foil))
    return p - q if difference else p / (p + q)


@pytest.mark.parametrize(
    ("text", "word", "foil", "difference", "word_boundaries"),
    [
        (TEXT, "was", "so", False, True),
        (TEXT, "was", "so", True, True),
        (TEXT, "next", "his", False, False),
        (LONG_WORDS, "stop", "power-to", False, True),
        (LONG_WORDS, "it's", "wide", False, True),
        (LONG_WORDS, "it's", "wide", True, True),
        (LONG_WORDS, "it's", "wide", False, False),
        (LONG_WORDS, "to-do", "doing", False, True),
    ],
)
def test_a_contrast_is_of_the_words_probabilities(tiny_model, audio, text, word, foil, difference, word_boundaries):
    utterance = tiny_model.utterance(audio)
    tokens = tiny_model.tokens(text, utterance)
    mask = grid_feature_mask(utterance.spectrogram, (30, 8))
    explanation = wrapped(FeatureAblation, tiny_model).attribute(
        utterance, tokens, feature_mask=mask, contrast=Contrast(word, foil, difference, word_boundaries)
    )
    start, stop = explanation.metadata["contrast"]["token_span"]
    assert torch.equal(tokens.target[start:stop], tiny_model.tokens(word, utterance).target)
    context = torch.cat((tokens.prompt, tokens.target[:start]))
    assert explanation.tokens == [f"{word} (not {foil})"] and explanation.grouped
    assert explanation.previous_tokens == tiny_model.token_texts(context)
    words = tokens.target[start:stop], tiny_model.tokens(foil, utterance).target
    starts = begin_a_word(tiny_model) if word_boundaries else None
    score = partial(contrast_by_hand, tiny_model, utterance, context, *words, starts, difference)
    original = score(utterance.spectrogram)
    baseline, found, expected = tiny_model.baseline(utterance), [], []
    for patch in mask.unique():
        found.append(explanation.spectrogram_attr[0][mask[0] == patch].unique().item())
        expected.append(original - score(torch.where(mask == patch, baseline, utterance.spectrogram)))
    for column in range(len(context)):
        found.append(explanation.token_attr[0, column])
        expected.append(original - score(utterance.spectrogram, 1 - torch.eye(len(context))[column]))
    found, expected = torch.tensor(found), torch.tensor(expected)
    assert difference or expected[:4].abs().max() > 0.005 < expected[4:].abs().max()
    torch.testing.assert_close(found / expected.abs().max(), expected / expected.abs().max(), atol=1e-3, rtol=1e-3)


def contrast_of(model, audio, text, contrast):
    utterance = model.utterance(audio)
    tokens = model.tokens(text, utterance)
    return tokens.target, WordPrediction(model, tokens, contrast, utterance)


def test_a_phrase_is_contrasted_as_a_whole(tiny_model, audio):
    target, phrase = contrast_of(tiny_model, audio, TEXT, Contrast("what  was", "so it was"))
    assert phrase.rows == ["what was (not so it was)"]
    start, stop = phrase.contrast["token_span"]
    assert "".join(tiny_model.token_texts(target[start:stop])).strip() == "what was"
    assert "".join(tiny_model.token_texts(phrase.foil_ids)).strip() == "so it was"
    composed = contrast_of(tiny_model, audio, "so cafe\u0301 was", Contrast("caf\u00e9 was", "to"))[1]
    assert composed.contrast["word"] == "cafe\u0301 was"


@pytest.mark.parametrize("foil", ["", None])
def test_a_word_against_none_is_scored_against_what_follows_it(tiny_model, audio, foil):
    prediction = contrast_of(tiny_model, audio, "so what was", Contrast("what", foil))[1]
    followed = contrast_of(tiny_model, audio, "so what was", Contrast("what", "was"))[1]
    assert prediction.rows == ["what (not ∅)"] and prediction.contrast["foil"] == ""
    for name in ("word_ids", "foil_ids", "previous"):
        assert torch.equal(getattr(prediction, name), getattr(followed, name))
    assert prediction.word_boundaries


def test_a_repeated_word_against_none_is_scored_where_the_texts_differ(tiny_model, audio):
    """ "so so what" without one "so" is "so what": the two differ from the second token of that text on."""
    texts = []
    for number in (0, 1):
        target, prediction = contrast_of(tiny_model, audio, "so so what", Contrast(number, ""))
        texts.append([prediction.previous[-1], *prediction.word_ids, *prediction.foil_ids])
        assert not number or prediction.word_boundaries
    so, what = target[0], target[2]
    assert texts[0] == texts[1] == [so, so, what]


def test_the_last_word_against_none_is_scored_against_the_end(tiny_model, audio):
    utterance = tiny_model.utterance(audio)
    written = tiny_model.tokens("so what", utterance)
    tokens = Tokens(written.prompt, torch.cat((written.target, torch.tensor([0]))))
    prediction = WordPrediction(tiny_model, tokens, Contrast("what", ""), utterance)
    assert prediction.foil_ids.tolist() == [0] and not prediction.word_boundaries  # nothing begins after the end
    explanation = wrapped(Saliency, tiny_model).attribute(utterance, tokens, contrast=Contrast("what", ""))
    assert explanation.spectrogram_attr.abs().max() > 0


def test_contrasts_by_gradients(tiny_model, sentence):
    """Complete, and the gradient's direction raises the word against its foil."""
    utterance, tokens = sentence
    contrast = Contrast("was", "so")
    complete = wrapped(IntegratedGradients, tiny_model).attribute(utterance, tokens, contrast=contrast, n_steps=100)
    context = torch.cat((tokens.prompt, tokens.target[:2]))
    words = tokens.target[2:3], tokens.target[:1]
    score = partial(contrast_by_hand, tiny_model, utterance, context, *words, begin_a_word(tiny_model), False)
    baseline = tiny_model.baseline(utterance).expand_as(utterance.spectrogram)
    change = score(utterance.spectrogram) - score(baseline)
    torch.testing.assert_close(complete.spectrogram_attr.sum(), change, atol=2e-3, rtol=0.05)
    assert change.abs() > 0.02
    gradient = wrapped(Saliency, tiny_model).attribute(utterance, tokens, contrast=contrast, abs=False).spectrogram_attr
    step = 0.01 * gradient / gradient.norm()
    rise = score(utterance.spectrogram + step) - score(utterance.spectrogram - step)
    torch.testing.assert_close(rise, 0.02 * gradient.norm(), atol=1e-5, rtol=0.02)
    assert complete.metadata["score"] == "ContrastiveProbability"


@pytest.mark.parametrize("method", [SPES, BubbleNoise, KernelShap, ShapleyValueSampling, over(Saliency)])
def test_contrasts_by_every_kind_of_method(tiny_model, sentence, method):
    utterance, tokens = sentence
    small = {} if method(None).__class__ is NoiseTunnel else {"n_samples": 20, "n_token_samples": 20}
    small |= {"nt_samples": 3} if not small else {}
    plain, swapped, difference, chain = (
        wrapped(method, tiny_model).attribute(utterance, tokens, contrast=contrast, **small)
        for contrast in (
            Contrast("was", "so"),
            Contrast(2, " so "),
            Contrast("was", "so", difference=True),
            Contrast("was", "so", word_boundaries=False),
        )
    )
    assert plain.tokens == ["was (not so)"] and plain.spectrogram_attr.shape == (1, 60, 16)
    assert torch.equal(plain.spectrogram_attr, swapped.spectrogram_attr)
    assert plain.metadata["contrast"] == swapped.metadata["contrast"]
    for other in (difference, chain):
        assert not torch.allclose(plain.spectrogram_attr, other.spectrogram_attr, rtol=1e-2)
        assert not torch.allclose(plain.token_attr, other.token_attr, rtol=1e-2)


@pytest.mark.parametrize("word", ["was", " was ", 2, -5])
def test_words_by_text_and_by_number(tiny_model, sentence, word):
    explanation = wrapped(Saliency, tiny_model).attribute(*sentence, contrast=Contrast(word, "so"))
    assert explanation.metadata["contrast"]["word"] == "was"
    assert explanation.tokens == ["was (not so)"]


@pytest.mark.parametrize(
    ("text", "contrast", "words"),
    [
        ("so what so", Contrast("so", "to"), r"the word 'so' is there 2 times: give one of \['so', 'what', 'so'\]"),
        (TEXT, Contrast("will", "to"), "the word 'will' is not in the text: give one of"),
        (TEXT, Contrast(7, "to"), "the word 7 is not in the text"),
        (TEXT, Contrast(-8, "to"), "the word -8 is not in the text"),
        (TEXT, Contrast("was", "was"), "the foil 'was' of the word 'was' is no other word"),
        (TEXT, Contrast(2, " was "), "is no other word: there is no contrast"),
        (TEXT, Contrast("was", " "), "is no other word: there is no contrast"),
        (TEXT, Contrast("what his", "to"), "the word 'what his' is not in the text"),
        ("so what so what", Contrast("so what", "to"), "the word 'so what' is there 2 times"),
        ("so what", Contrast("what", ""), "nothing follows the last word of the text"),
        ("so what what", Contrast(1, None), "the text ends in repetitions of the word"),
    ],
)
def test_contrasts_that_cannot_be(tiny_model, audio, text, contrast, words):
    with pytest.raises(ValueError, match=words):
        wrapped(FeatureAblation, tiny_model).attribute(audio, text, sampling_rate=16000, contrast=contrast)


def test_a_contrast_has_its_own_score(tiny_model, audio):
    with pytest.raises(ValueError, match="a contrast has a score of its own: leave out score=KLDivergence"):
        wrapped(FeatureAblation, tiny_model, KLDivergence).attribute(
            audio, TEXT, sampling_rate=16000, contrast=Contrast("was", "so")
        )


# Jointly, and by the values of embeddings


def test_jointly_it_is_spes_on_both(tiny_model, parts):
    utterance, tokens, _, reference, mask = parts
    explanation = wrapped(SPES, tiny_model).attribute(
        utterance, tokens, feature_mask=mask, n_samples=60, joint=True, seed=2, token_perturbation_prob=0.3
    )
    score = KLDivergence(lambda x, gate: tiny_model.logits(tiny_model.encode(x, utterance), tokens, gate), reference)
    (attr, token_attr), (reliability, _) = SPES(score).attribute(
        (utterance.spectrogram, torch.ones(1, 4)),
        (tiny_model.baseline(utterance), 0),
        feature_mask=(mask, torch.tensor([[100, 101, 102, 103]])),
        n_samples=60,
        perturbation_prob=(0.5, 0.3),
        seed=2,
        return_reliability=True,
    )
    torch.testing.assert_close(explanation.spectrogram_attr, attr, atol=1e-5, rtol=1e-3)
    torch.testing.assert_close(explanation.reliability, reliability.float(), atol=1e-4, rtol=1e-3)
    token_attr = torch.where(explanation.is_previous, token_attr, 0)
    torch.testing.assert_close(explanation.token_attr, token_attr, atol=1e-5, rtol=1e-3)
    metadata = explanation.metadata
    assert metadata["joint"] and metadata["passes"] == {"both": {"forward": 61, "backward": 0}}
    assert metadata["done"] == {"both": 60} and metadata["token_arguments"] == {"perturbation_prob": 0.3}
    separate = wrapped(SPES, tiny_model).attribute(utterance, tokens, feature_mask=mask, n_samples=60, seed=2)
    assert not separate.metadata["joint"]
    assert not torch.allclose(separate.spectrogram_attr, explanation.spectrogram_attr, rtol=1e-2)


def test_jointly_the_few_previous_tokens_blur_the_spectrogram():
    """Appendix A.2.2, Table 4: at the same number of samples, what is left of the known answer."""
    toy = Toy()
    toy.gate_weights = 4 * Toy.gate_weights
    expected = toy.patch_scores(spectrogram())
    correlation, reliability = {}, {}
    for joint in (False, True):
        runs = [
            wrapped(SPES, toy, TokenLogit).attribute(
                spectrogram(), feature_mask=GRID, n_samples=150, seed=seed, joint=joint, perturbations_per_eval=150
            )
            for seed in range(6)
        ]
        maps = torch.stack([pooled(run.spectrogram_attr) for run in runs])
        pairs = [np.corrcoef(m[row], expected[row])[0, 1] for m in maps for row in range(3)]
        correlation[joint] = np.mean(pairs)
        reliability[joint] = float(torch.stack([run.reliability for run in runs]).mean())
    assert correlation[False] > 0.9 > correlation[True] + 0.1
    assert reliability[False] > reliability[True] + 0.2
    # as few passes as the spectrogram alone, in which the previous tokens are hidden as often as a patch
    assert runs[0].metadata["passes"] == {"both": {"forward": 151, "backward": 0}}
    assert [run.token_attr.argmax(1).tolist()[1] for run in runs] == [Toy.looks_at[1]] * 6


@pytest.mark.parametrize("joint", [False, True])
def test_values_of_embeddings_are_a_gate_of_values(tiny_model, parts, joint):
    utterance, tokens, encoded, reference, mask = parts
    explanation = wrapped(SPES, tiny_model).attribute(
        *(utterance, tokens), feature_mask=mask, n_samples=50, n_token_samples=40, token_perturbation_prob=0.1,
        token_values=True, joint=joint, seed=4,
    )  # fmt: skip
    gate = torch.ones(1, 4, 16)
    if joint:
        score = KLDivergence(lambda x, g: tiny_model.logits(tiny_model.encode(x, utterance), tokens, g), reference)
        _, expected = SPES(score).attribute(
            (utterance.spectrogram, gate),
            (tiny_model.baseline(utterance), 0),
            feature_mask=(mask, 1000 + torch.arange(64).view(1, 4, 16)),
            n_samples=50,
            perturbation_prob=(0.5, 0.1),
            seed=4,
        )
    else:
        score = KLDivergence(lambda gate: tiny_model.logits(encoded, tokens, gate), reference)
        expected = SPES(score).attribute(gate, n_samples=40, perturbation_prob=0.1, seed=4)
    expected = torch.where(explanation.is_previous, expected.mean(2), 0)
    assert expected.shape == (3, 4) and explanation.metadata["token_values"]
    torch.testing.assert_close(explanation.token_attr, expected, atol=1e-5, rtol=1e-3)


# What comes out


@pytest.mark.parametrize("contrast", [None, Contrast("was", "so")])
@pytest.mark.parametrize("name", ["IntegratedGradients", "BubbleNoise", "Lime", "NoiseTunnel", "Occlusion"])
def test_files_and_pictures(tiny_model, sentence, tmp_path, name, contrast):
    method, arguments = COUNTED[name]
    explanation = wrapped(method, tiny_model).attribute(*sentence, contrast=contrast, **arguments)
    explanation.save(tmp_path / "e.safetensors")
    loaded = SpeechToTextExplanation.load(tmp_path / "e.safetensors")
    assert loaded.metadata == explanation.metadata and loaded.tokens == explanation.tokens
    assert (loaded.feature_mask is None) == (explanation.feature_mask is None) == (name != "Lime")
    assert (loaded.metadata["contrast"] is None) == (contrast is None)
    for field in ("spectrogram_attr", "token_attr", "n_previous", "spectrogram"):
        assert torch.equal(getattr(loaded, field), getattr(explanation, field))
    if name == "IntegratedGradients":
        assert loaded.spectrogram_attr.min() < 0 < loaded.spectrogram_attr.max()
    figure = loaded.plot_tokens()
    titles = [axes.get_title() for axes in figure.axes]
    assert sum(bool(title) for title in titles) >= len(loaded.tokens)
    figure.canvas.draw()


def test_maps_that_say_nothing_are_warned_of(tiny_model, audio):
    with pytest.warns(UserWarning, match="maps of Lime are the same everywhere.*smaller penalty"):
        wrapped(Lime, tiny_model, TokenProbability).attribute(audio, IDS, sampling_rate=16000)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        explanation = wrapped(lime, tiny_model).attribute(audio, IDS, sampling_rate=16000)
    assert explanation.spectrogram_attr.std() > 0


@pytest.mark.parametrize(
    ("n_samples", "seconds", "patches"),
    [
        (20_000, 7.5, (400, 500, 600)),  # the paper's
        (3_750, 7.5, (400, 500, 600)),  # as many as there are patches
        (1_000, 4.0, (200, 250, 300)),
        (144, 4.0, (32, 40, 48)),
        (1, 0.5, (32, 40, 48)),
    ],
)
def test_patches_are_as_many_as_the_samples_can_tell_apart(n_samples, seconds, patches):
    assert default_patches(SPES(None), {"n_samples": n_samples}, seconds) == patches


def test_only_spes_has_patches_by_its_samples():
    assert default_patches(SPES(None), {}, 3.0) == (400, 500, 600)
    assert default_patches(GradientSPES(None), {"n_samples": 6}, 3.0) == (400, 500, 600)
    assert default_patches(FeatureAblation(None), {}, 3.0) == (60,)
    assert default_patches(Occlusion(None), {}, 3.0) is None


def test_few_samples_have_large_patches(tiny_model, audio):
    few, given = (
        SpeechToTextAttribution(SPES(tiny_model)).attribute(
            audio, IDS, sampling_rate=16000, n_samples=48, n_token_samples=4, feature_mask=mask
        )
        for mask in (None, partial(slic_feature_mask, patches_per_second=500))
    )
    assert few.metadata["feature_mask"]["patches_per_second"] == "(64, 80, 96)"  # of 0.6 s
    assert given.metadata["feature_mask"]["patches_per_second"] == "500"
