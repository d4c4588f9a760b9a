"""GradientSPES, compared with known answers and with SPES."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from captum_spes import SPES, GradientSPES, KLDivergence, SpeechToTextAttribution, grid_feature_mask

T, C = 6, 4
PROB = 0.3


@pytest.fixture
def spectrogram():
    return torch.randn(1, T, C, generator=torch.Generator().manual_seed(0))


def weights(n_outputs=None):
    shape = (T, C) if n_outputs is None else (T, C, n_outputs)
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def linear(x):
    return (x * weights().to(x)).sum((1, 2))


def two_outputs(x):
    return torch.einsum("btc,tck->bk", x.tanh(), weights(2).to(x))


def z_score(values):
    return (values - values.mean()) / values.std()


def patches(*sizes):
    return torch.stack([grid_feature_mask(torch.zeros(1, T, C), size) for size in sizes])


# What it estimates


def test_a_linear_score_gives_the_differences_at_every_draw(spectrogram):
    attribution = GradientSPES(linear).attribute(spectrogram, baselines=0.5, n_samples=1)
    torch.testing.assert_close(attribution[0], (spectrogram[0] - 0.5) * weights())


def test_on_a_linear_score_it_is_spes_up_to_shift_and_scale(spectrogram):
    """SPES evaluates all 2^6 masks, so that its map is its expectation."""
    mask = patches((2, 2))
    spes = SPES(linear).attribute(spectrogram, feature_mask=mask, n_samples=64, perturbation_prob=PROB, centered=False)
    ours = GradientSPES(linear).attribute(
        spectrogram, feature_mask=mask, n_samples=3, perturbation_prob=PROB, pool_features=True
    )
    assert not torch.allclose(spes, ours)
    torch.testing.assert_close(z_score(spes), z_score(ours))
    shift = (spes - (1 - PROB) * ours).flatten()
    torch.testing.assert_close(shift, (PROB * linear(spectrogram)).expand_as(shift))  # p · Σ d


def test_granularities_are_pooled_as_spes_pools_them(spectrogram):
    """The mean of (1 - p) d + p Σ d over the granularities, d the sums of each over its patches."""
    mask = patches((2, 2), (3, 4))
    ours = GradientSPES(linear).attribute(spectrogram, feature_mask=mask, n_samples=2, pool_features=True)
    single = [
        SPES(linear).attribute(spectrogram, feature_mask=one, n_samples=64, perturbation_prob=PROB) for one in mask
    ]
    torch.testing.assert_close(z_score(ours), z_score(torch.stack(single).mean(0)))


def test_interactions_are_averaged():
    """Of x1 · x2 + x3 the main effect of x1, when x2 is hidden with probability p, is 1 - p."""
    attribution = GradientSPES(lambda x: x[:, 0] * x[:, 1] + x[:, 2]).attribute(
        torch.ones(1, 3), n_samples=4000, perturbations_per_eval=500, perturbation_prob=PROB
    )
    torch.testing.assert_close(attribution[0], torch.tensor([1 - PROB, 1 - PROB, 1.0]), atol=0.03, rtol=0)


def test_a_score_that_saturates_is_underrated():
    """As the docstring says: a step of 1 that is flat at both ends. SPES sees it whole."""
    inputs = torch.tensor([[1.0, 1.0]])

    def step(x):
        return torch.sigmoid(40 * (x[:, 0] - 0.5)) + 0.1 * x[:, 1]

    spes = SPES(step).attribute(inputs, n_samples=4)
    ours = GradientSPES(step).attribute(inputs, n_samples=16)
    assert spes[0, 0] > spes[0, 1] + 0.4
    assert ours[0, 0] < 1e-3 and ours[0, 1] == pytest.approx(0.1)


def test_it_ranks_a_kl_divergence_as_spes_does():
    """A decisive region of four bins, in a nonlinear model of eight classes."""
    projection = torch.zeros(T, C, 8)
    projection[2:4, 1:3] = torch.randn(2, 2, 8, generator=torch.Generator().manual_seed(2))
    inputs = torch.ones(1, T, C)

    def log_prob_func(x):
        return torch.einsum("btc,tcv->bv", x, projection)[:, None]

    score = KLDivergence(log_prob_func, log_prob_func(inputs))
    attribution = GradientSPES(score).attribute(inputs, n_samples=200, perturbations_per_eval=50)
    decisive = attribution[0, 2:4, 1:3]
    rest = attribution.clone()
    rest[0, 2:4, 1:3] = 0
    assert decisive.sum() > 0 and rest.abs().max() == 0


# Gradients of unit length


def test_normalized_gradients_of_a_linear_score_are_its_direction(spectrogram):
    found = GradientSPES(linear).attribute(spectrogram, baselines=0.5, n_samples=3, normalize=True)
    expected = (spectrogram[0] - 0.5) * weights()
    torch.testing.assert_close(found[0], expected / expected.norm())


def test_several_inputs_share_one_norm():
    inputs = torch.ones(1, 2), torch.ones(1, 3)
    found = GradientSPES(lambda x, y: 3 * x[:, 0] + 4 * y[:, 2]).attribute(inputs, n_samples=3, normalize=True)
    torch.testing.assert_close(found[0], torch.tensor([[0.6, 0.0]]))
    torch.testing.assert_close(found[1], torch.tensor([[0.0, 0.0, 0.8]]))


def test_each_score_and_example_has_its_own_norm(spectrogram):
    """Other factors of the scores, and other examples beside, change nothing."""
    inputs = torch.cat((spectrogram, spectrogram + 1)).double()
    arguments = {"n_samples": 10, "perturbations_per_eval": 4, "normalize": True}
    together = GradientSPES(lambda x: two_outputs(x) * torch.tensor([1.0, 100.0]).to(x)).attribute(inputs, **arguments)
    for example, output in itertools.product(range(2), range(2)):
        alone = GradientSPES(two_outputs).attribute(inputs[[example]], target=output, **arguments)
        torch.testing.assert_close(together[2 * example + output], alone[0])


def test_a_gradient_of_zero_counts_as_zero():
    def flat_where_hidden(x):  # where the second feature is hidden, half of the samples
        return x[:, 0] * (x[:, 1] > 0)

    found = GradientSPES(flat_where_hidden).attribute(torch.ones(1, 2), n_samples=400, normalize=True)
    assert found[0, 0] == pytest.approx(0.5, abs=0.1) and found[0, 1] == 0


@pytest.mark.parametrize(
    ("dtype", "slope"), [(torch.float16, 1000.0), (torch.float32, 1e-30), (torch.float32, 1e-40), (torch.float32, 1e30)]
)
def test_gradients_whose_squares_leave_the_range_have_unit_length(dtype, slope):
    method = GradientSPES(lambda x: x.float().sum(1) * slope)
    found = method.attribute(torch.ones(1, 10_000, dtype=dtype), n_samples=4, normalize=True)
    assert found.double().norm() == pytest.approx(1, abs=1e-3)
    method = GradientSPES(lambda x: x[:, 1:].float().sum(1) * slope)  # the first has a gradient of 0
    assert method.attribute(torch.ones(1, 3, dtype=dtype), n_samples=4, normalize=True)[0, 0] == 0


def test_a_few_steep_samples_do_not_outweigh_the_others():
    """Of 64 samples the few that hide the last three features are 1,000 times as steep, in the first feature."""

    def steep(x):
        return x @ torch.tensor([0.0, 2.0, 1.0, 0, 0, 0]).to(x) + 1000 * x[:, 0] * (x[:, 3:].sum(1) == 0)

    plain, normalized = (
        GradientSPES(steep).attribute(torch.ones(1, 6), n_samples=64, normalize=normalize)[0]
        for normalize in (False, True)
    )
    assert plain.argmax() == 0 and normalized.argmax() == 1


# Conventions


def test_shapes_and_dtypes():
    for dtype, batch in itertools.product((torch.float32, torch.float64), (1, 3)):
        inputs = torch.rand(batch, T, C, dtype=dtype)
        single = GradientSPES(linear).attribute(inputs, n_samples=4)
        both, reliability = GradientSPES(two_outputs).attribute(inputs, n_samples=4, return_reliability=True)
        assert single.shape == inputs.shape and single.dtype == dtype
        assert both.shape == (2 * batch, T, C) and both.dtype == dtype
        assert reliability.shape == (2 * batch,) and (reliability.abs() <= 1).all()


def test_precision_changes_the_rounding_alone(spectrogram):
    """The same masks in every precision: a smooth score, in float64, float32 and bfloat16."""

    def smooth(x):
        return torch.stack(((x * 0.3).flatten(1).cumsum(1).sin().sum(1), x.flatten(1).square().sum(1)), 1)

    exact, single, half = (
        GradientSPES(smooth).attribute(spectrogram.to(dtype), n_samples=12, feature_mask=patches((2, 2))).double()
        for dtype in (torch.float64, torch.float32, torch.bfloat16)
    )
    torch.testing.assert_close(single, exact, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(half, exact, atol=0.1 * float(exact.abs().max()), rtol=0)


def test_batched_outputs_equal_targets_one_by_one(spectrogram):
    inputs = torch.cat((spectrogram, spectrogram + 1)).double()
    arguments = {"feature_mask": patches((2, 2), (3, 4)), "n_samples": 10, "perturbations_per_eval": 3}
    together = GradientSPES(two_outputs).attribute(inputs, **arguments).unflatten(0, (2, 2))
    for target in range(2):
        alone = GradientSPES(two_outputs).attribute(inputs, target=target, **arguments)
        torch.testing.assert_close(together[:, target], alone)


@settings(max_examples=20)
@given(st.integers(1, 40), st.integers(0, 2**31), st.booleans())
def test_chunks_change_nothing(perturbations_per_eval, seed, pool_features):
    inputs = torch.linspace(-1, 1, T * C, dtype=torch.float64).view(1, T, C)  # float32 rounds by the size of a chunk
    arguments = {"feature_mask": patches((2, 2), (3, 4)), "n_samples": 13, "seed": seed, "pool_features": pool_features}
    expected = GradientSPES(two_outputs).attribute(inputs, **arguments)
    chunked = GradientSPES(two_outputs).attribute(inputs, perturbations_per_eval=perturbations_per_eval, **arguments)
    torch.testing.assert_close(chunked, expected)


def test_examples_do_not_depend_on_each_other(spectrogram):
    masks = torch.cat((patches((2, 2))[0], patches((3, 1))[0]))
    inputs = torch.cat((spectrogram, spectrogram * 2)).double()
    arguments = {"n_samples": 6, "pool_features": True}
    together = GradientSPES(linear).attribute(inputs, feature_mask=masks, **arguments)
    for row in range(2):
        alone = GradientSPES(linear).attribute(inputs[row : row + 1], feature_mask=masks[row : row + 1], **arguments)
        torch.testing.assert_close(together[row : row + 1], alone)


def test_a_feature_of_two_inputs_is_one():
    first, second = torch.ones(1, 2), torch.ones(1, 3)
    masks = torch.tensor([[0, 1]]), torch.tensor([[1, 2, 2]])
    attributions = GradientSPES(lambda a, b: a.sum(1) + 10 * b.sum(1)).attribute(
        (first, second), feature_mask=masks, n_samples=2, pool_features=True
    )
    assert [attribution.tolist() for attribution in attributions] == [[[1.0, 11.0]], [[11.0, 20.0, 20.0]]]


def test_a_budget_is_kept_and_a_callback_ends_it(spectrogram):
    spectrogram = spectrogram.double()
    calls = []

    def counting(x):
        calls.append(len(x))
        return two_outputs(x)

    seen = []
    GradientSPES(counting).attribute(spectrogram, n_samples=10, perturbations_per_eval=4)
    assert calls == [1, 4, 4, 1]  # the first one alone, to see how many fit
    stopped = GradientSPES(two_outputs).attribute(
        spectrogram, n_samples=10, perturbations_per_eval=4, callback=lambda *done: seen.append(done) or len(seen) == 2
    )
    assert seen == [(1, 10), (5, 10)]
    torch.testing.assert_close(stopped, GradientSPES(two_outputs).attribute(spectrogram, n_samples=5))


def test_a_graph_that_is_too_large_for_memory_makes_batches_small(spectrogram, monkeypatch):
    spectrogram = spectrogram.double()
    calls = []
    wide = torch.nn.Linear(T * C, 1000).double()

    def counting(x):
        calls.append(len(x))
        return wide(x.flatten(1)).sin().sum(1)

    expected = GradientSPES(counting).attribute(spectrogram, n_samples=9, perturbations_per_eval=8)
    assert calls == [1, 8]
    calls.clear()
    # a row keeps 1,000 values for the sine and its own input, the parameters do not count
    monkeypatch.setattr("captum_spes.attr.gradient_spes.GRAPH_MEMORY", 3 * 8 * (1000 + T * C))
    limited = GradientSPES(counting).attribute(spectrogram, n_samples=9, perturbations_per_eval=8)
    assert calls == [1, 3, 3, 2]
    torch.testing.assert_close(limited, expected)


def test_everything_is_left_as_it_was(spectrogram):
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(T * C, 2), torch.nn.Dropout()).train()
    inputs = spectrogram.clone().requires_grad_()
    with torch.no_grad():  # the method needs gradients all the same
        GradientSPES(model).attribute(inputs, target=1, n_samples=2)
    assert model.training and inputs.grad is None
    assert all(parameter.grad is None for parameter in model.parameters())


def test_reliability_rises_with_the_samples(spectrogram):
    def rough(x):
        return (x * weights()).flatten(1).cumsum(1).sin().sum(1)

    few, many = (
        GradientSPES(rough).attribute(spectrogram, n_samples=n, perturbations_per_eval=50, return_reliability=True)[1]
        for n in (4, 2000)
    )
    assert few < many and many > 0.7


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda x: GradientSPES(linear).attribute(x.long()), TypeError, "floating point"),
        (lambda x: GradientSPES(lambda x: linear(x.detach())).attribute(x), ValueError, "use SPES"),
        (lambda x: GradientSPES(lambda x: linear(x).sum()).attribute(x), ValueError, "a row of scores"),
        (lambda x: GradientSPES(lambda x: linear(x).sqrt()).attribute(-x.abs()), ValueError, r"seed 0\) is not finite"),
        (lambda x: GradientSPES(linear).attribute(x, n_samples=0), ValueError, "at least 1"),
        (lambda x: GradientSPES(linear).attribute(x, perturbation_prob=1), ValueError, "between 0 and 1"),
        (lambda x: GradientSPES(linear).attribute(x, feature_mask=torch.zeros(1, 2, 2).long()), ValueError, "fit"),
        (lambda x: GradientSPES(linear).attribute(x, baselines=torch.zeros(7)), ValueError, "broadcast"),
        (lambda x: GradientSPES(linear).attribute_future(), NotImplementedError, "use attribute"),
    ],
)
def test_refusals(spectrogram, call, error, message):
    with pytest.raises(error, match=message):
        call(spectrogram)


# On a model of speech


@pytest.mark.filterwarnings("ignore:the maps are noisy")
@pytest.mark.parametrize("pool_features", [False, True])
def test_through_the_wrapper(tiny_model, audio, pool_features):
    explanation = SpeechToTextAttribution(GradientSPES(tiny_model)).attribute(
        audio, "so what", sampling_rate=16000, n_samples=6, n_token_samples=4, pool_features=pool_features
    )
    n_tokens = len(explanation.tokens)
    assert explanation.metadata["method"] == "GradientSPES" and explanation.feature_mask.shape[0] == 3
    assert explanation.metadata["passes"] == {
        "previous tokens": {"forward": 5, "backward": 0},  # SPES's, which are cheaper
        "spectrogram": {"forward": 6, "backward": 6 * n_tokens},
    }
    assert explanation.reliability.shape == (n_tokens,)
    assert (explanation.spectrogram_attr != 0).any((1, 2)).all() and (
        explanation.token_attr[explanation.is_previous] != 0
    ).any()


def test_gradients_are_multiplied_by_the_inputs():
    assert GradientSPES(linear).multiplies_by_inputs


def test_a_baseline_that_is_learned_keeps_no_graph():
    baseline = torch.nn.Parameter(torch.rand(1, 4))
    found = GradientSPES(lambda x: x.square().sum(1)).attribute(torch.rand(1, 4), baselines=baseline, n_samples=4)
    assert not found.requires_grad


def test_a_checkpoint_of_a_single_score_is_refused_in_the_same_sentence(tmp_path):
    with pytest.raises(ValueError, match=r"forward_func returned scores of shape \(\) for a batch of 1"):
        GradientSPES(lambda x: x.sum()).attribute(torch.rand(1, 4), checkpoint=tmp_path / "run.safetensors")
