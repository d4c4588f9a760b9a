"""SPES: closed forms, known answers, refused inputs. See test_interoperability.py for comparisons with Captum."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from captum_spes import SPES, BubbleNoise, GradientSPES, grid_feature_mask
from captum_spes.attr import AttnLRP, Energy


def mean_impact(score, inputs, baselines, mask, prob):
    """Eq. 3 in expectation, from all 2^P combinations, by the definition."""
    features = mask.unique().tolist()
    total = dict.fromkeys(features, 0.0)
    for hidden in itertools.product([False, True], repeat=len(features)):
        weight, keep = 1.0, torch.ones_like(inputs, dtype=torch.bool)
        for feature, is_hidden in zip(features, hidden):
            weight *= prob if is_hidden else 1 - prob
            if is_hidden:
                keep &= mask != feature
        impact = (score(inputs) - score(torch.where(keep, inputs, torch.as_tensor(baselines)))).item()
        for feature, is_hidden in zip(features, hidden):
            if is_hidden:
                total[feature] += weight * impact / prob  # P(feature hidden) = prob
    result = torch.zeros_like(inputs)
    for feature, value in total.items():
        result[(mask == feature).expand_as(result)] = value
    return result


def score_one(x):
    """A nonlinear scorer."""
    return (x.flatten(1) @ torch.tensor([1.0, -2.0, 0.5, 1.5, 3.0, -1.0])).sin()


INPUTS = torch.tensor([[[0.5, -1.0, 2.0], [1.5, 0.3, -0.7]]])
MASK = torch.tensor([[[0, 0, 1], [2, 3, 3]]])


def test_few_features_are_enumerated_exactly():
    calls = []

    def score(x):
        calls.append(len(x))
        return score_one(x)

    attribution = SPES(score).attribute(
        INPUTS, 0.2, feature_mask=MASK, n_samples=100, perturbations_per_eval=5, centered=False
    )
    expected = mean_impact(score_one, INPUTS, 0.2, MASK, 0.5)
    torch.testing.assert_close(attribution, expected, atol=1e-5, rtol=0)
    assert sum(calls) == 1 + 2**4


def test_sampling_approaches_the_mean_impact():
    attribution = SPES(score_one).attribute(
        INPUTS,
        0.2,
        feature_mask=MASK.expand(2, -1, -1, -1),
        n_samples=40_000,
        perturbations_per_eval=1000,
        perturbation_prob=0.3,
        centered=False,
    )
    expected = mean_impact(score_one, INPUTS, 0.2, MASK, 0.3)
    torch.testing.assert_close(attribution, expected, atol=0.02, rtol=0)


def test_a_stopped_enumeration_is_balanced():
    attribution = SPES(lambda x: x.sum(1)).attribute(
        torch.ones(1, 8), n_samples=256, perturbations_per_eval=16, centered=False, callback=lambda done, _: done >= 32
    )
    assert (attribution > 2.5).all()


def test_linear_score_has_the_closed_form():
    """On a linear scorer S_i = (1 - p) d_i + p Σ d, where d_i is the effect of feature i alone."""
    weights = torch.tensor([1.0, -2.0, 0.5, 3.0])
    attribution = SPES(lambda x: x @ weights).attribute(
        torch.ones(1, 4), n_samples=16, perturbation_prob=0.3, centered=False
    )
    torch.testing.assert_close(attribution[0], 0.7 * weights + 0.3 * weights.sum())


@pytest.mark.parametrize("granularities", [1, 3])
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("per_eval", [1, 2, 3, 16])
def test_result_does_not_depend_on_batching(granularities, batch, per_eval):
    torch.manual_seed(1)
    # In float64: a float32 matrix product rounds differently for another batch size, and differently on each CPU.
    inputs = torch.rand(batch, 4, 6, dtype=torch.float64)
    weights = torch.rand(5, 24, dtype=torch.float64)
    masks = torch.stack([grid_feature_mask(inputs, (1 + s, 2)) for s in range(granularities)])
    masks = masks if granularities > 1 else masks[0]

    def score(x):
        return (x.flatten(1) @ weights.T).sin()

    # 13 features and a budget below 2^12: samples are drawn
    arguments = {"feature_mask": masks, "n_samples": 50, "seed": 3}
    expected = SPES(score).attribute(inputs, **arguments)
    assert expected.shape == (batch * 5, 4, 6)
    actual = SPES(score).attribute(inputs, perturbations_per_eval=per_eval, **arguments)
    torch.testing.assert_close(actual, expected, atol=1e-12, rtol=0)
    # an example has the attribution that it has alone
    alone = SPES(score).attribute(inputs[-1:], **arguments)
    torch.testing.assert_close(alone, expected[-5:], atol=1e-12, rtol=0)


@settings(max_examples=20)
@given(st.permutations(range(4)), st.integers(1, 7), st.integers(0, 2**32))
def test_permuting_the_batch_permutes_the_result(order, per_eval, seed):
    torch.manual_seed(2)
    inputs = torch.rand(4, 20)
    masks = torch.stack([torch.randperm(20) // size for size in (1, 2, 3, 4)])  # of 20, 10, 7 and 5 features

    def attribute(rows):
        return SPES(lambda x: x.square().sum(1)).attribute(
            inputs[rows], feature_mask=masks[rows], n_samples=30, perturbations_per_eval=per_eval, seed=seed
        )

    torch.testing.assert_close(attribute(list(order)), attribute(list(range(4)))[list(order)])


def test_ids_are_only_names():
    inputs = torch.rand(1, 12)
    mask = torch.arange(12)[None] // 2
    named = torch.tensor([907, -3, 14, 15, 16, 100])[mask]
    ranks = torch.tensor([5, 0, 1, 2, 3, 4])[mask]  # the same order, without gaps
    spes = SPES(lambda x: x.square().sum(1))
    arguments = {"n_samples": 20}
    assert torch.equal(
        spes.attribute(inputs, feature_mask=named, **arguments), spes.attribute(inputs, feature_mask=ranks, **arguments)
    )


def test_seeds_differ_and_repeat():
    inputs = torch.rand(1, 40)
    runs = [SPES(lambda x: x.square().sum(1)).attribute(inputs, n_samples=50, seed=seed) for seed in (0, 0, 1)]
    assert torch.equal(runs[0], runs[1])
    assert not torch.allclose(runs[0], runs[2])
    numbers = {"seed": np.int64(1), "n_samples": np.int64(50), "perturbations_per_eval": np.int64(1)}
    assert torch.equal(SPES(lambda x: x.square().sum(1)).attribute(inputs, **numbers), runs[2])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_dtypes(dtype):
    inputs = torch.linspace(-1, 1, 12, dtype=dtype)[None]
    attribution = SPES(lambda x: (x * 2).sum(1)).attribute(inputs, n_samples=100)
    assert attribution.dtype == dtype
    expected = SPES(lambda x: (x * 2).sum(1)).attribute(inputs.double(), n_samples=100)
    torch.testing.assert_close(attribution.double(), expected, atol=0.05, rtol=0.02)


@pytest.mark.parametrize("scores", [(), (5,)], ids=["one score", "five scores"])
@pytest.mark.parametrize("per_example_mask", [False, True])
def test_the_decisive_patch_is_found(scores, per_example_mask):
    """A model that looks at one patch of each example, in single, batched and multi-granularity form."""
    inputs = torch.rand(2, 12, 8) + 1
    decisive = torch.zeros(2, 12, 8, dtype=torch.bool)
    decisive[0, 3:6, 2:4] = True
    decisive[1, 9:12, 6:8] = True

    def score(x):
        value = torch.where(decisive.repeat(len(x) // 2, 1, 1), x, 0).sum((1, 2)).tanh()
        return value if not scores else value[:, None] * torch.arange(1, 6)

    fine, coarse = grid_feature_mask(inputs, (3, 2)), grid_feature_mask(inputs, (6, 2))
    masks = torch.stack((fine, coarse))
    if per_example_mask:
        masks = torch.stack((masks, masks.flip(-1) + 7), dim=1).squeeze(2)
    attribution = SPES(score).attribute(inputs, feature_mask=masks, n_samples=400, perturbations_per_eval=16)
    for row, attr in enumerate(attribution):
        target = decisive[row // max(len(attribution) // 2, 1)]
        assert attr[target].min() > attr[~target].max()


def test_reliability_is_the_correlation_of_the_halves():
    torch.manual_seed(0)
    inputs, weights = torch.rand(1, 30), torch.rand(30)
    spes = SPES(lambda x: torch.stack((x @ weights, torch.zeros(len(x))), dim=1))
    few = spes.attribute(inputs, n_samples=100, return_reliability=True)[1]
    attribution, many = spes.attribute(inputs, n_samples=5000, perturbations_per_eval=100, return_reliability=True)
    assert attribution.shape == (2, 30) and many.shape == (2,)
    assert few[0] < many[0] and many[0] > 0.9
    assert many[1] == 0  # a constant score agrees with itself on nothing
    exact = SPES(lambda x: x[:, :4].sum(1)).attribute(inputs[:, :4], n_samples=16, return_reliability=True)[1]
    assert exact == 1


def test_callback_counts_and_stops():
    seen = []

    def callback(done, total):
        seen.append((done, total))
        return done >= 48

    inputs = torch.rand(1, 30)
    spes = SPES(lambda x: x.sum(1))
    stopped = spes.attribute(inputs, n_samples=1000, perturbations_per_eval=16, callback=callback)
    assert seen == [(16, 1000), (32, 1000), (48, 1000)]
    torch.testing.assert_close(stopped, spes.attribute(inputs, n_samples=48, perturbations_per_eval=16))
    few = torch.rand(1, 5)
    _, reliability = spes.attribute(few, n_samples=32, return_reliability=True, callback=lambda done, _: done >= 10)
    assert reliability < 1  # an enumeration that was stopped is not exact


def test_progress_has_the_right_total(capsys):
    SPES(lambda x: x.sum(1)).attribute(torch.rand(1, 30), n_samples=50, perturbations_per_eval=16, show_progress=True)
    assert "SPES attribution: 100%" in capsys.readouterr().err


def difference_of_means(score, inputs, mask, prob):
    """By the definition, from all combinations: the mean impact with a feature hidden less the mean without."""
    hidden = mean_impact(score, inputs, 0.2, mask, prob)
    kept = torch.zeros_like(hidden)
    for feature in mask.unique():
        without = mask != feature
        # the perturbations that keep the feature are those of the other features alone
        everything = [f for f in mask.unique().tolist() if f != int(feature)]
        total = 0.0
        for combination in itertools.product([False, True], repeat=len(everything)):
            weight, shown = 1.0, inputs.clone()
            for other, is_hidden in zip(everything, combination):
                weight *= prob if is_hidden else 1 - prob
                shown = torch.where(mask == other, 0.2, shown) if is_hidden else shown
            total += weight * (score(inputs) - score(shown)).item()
        kept[(~without).expand_as(kept)] = total
    return hidden - kept


@pytest.mark.parametrize("prob", [0.5, 0.3])
def test_centered_values_are_differences_of_means(prob):
    arguments = {"feature_mask": MASK, "n_samples": 100, "perturbation_prob": prob, "perturbations_per_eval": 5}
    attribution = SPES(score_one).attribute(INPUTS, 0.2, **arguments)
    expected = difference_of_means(score_one, INPUTS, MASK, prob)
    torch.testing.assert_close(attribution, expected, atol=1e-5, rtol=0)
    sampled = SPES(score_one).attribute(
        INPUTS,
        0.2,
        **{**arguments, "feature_mask": MASK.expand(2, -1, -1, -1), "n_samples": 8_000},
    )
    torch.testing.assert_close(sampled, expected, atol=0.09, rtol=0)


def test_a_feature_that_does_nothing_has_the_value_0():
    weights = torch.tensor([0.0, 0.0, 5.0, 1.0])
    spes = SPES(lambda x: x @ weights)
    assert torch.equal(spes.attribute(torch.ones(1, 4), n_samples=16)[0], weights)
    assert spes.attribute(torch.ones(1, 4), n_samples=16, centered=False)[0].tolist() == [3, 3, 5.5, 3.5]
    # hidden in all perturbations, or in none: there is nothing to compare
    one = SPES(lambda x: x.sum(1)).attribute(torch.ones(1, 30), n_samples=1)
    assert torch.equal(one, torch.zeros(1, 30))


@pytest.mark.parametrize(
    ("argument", "instead"),
    [
        ("return_convergence_delta", "use return_reliability"),
        ("return_input_shape", "leave it out"),
        ("internal_batch_size", "use perturbations_per_eval"),
    ],
)
@pytest.mark.parametrize("method", [SPES, BubbleNoise, GradientSPES])
def test_arguments_of_other_methods_are_refused_with_what_serves_instead(method, argument, instead):
    with pytest.raises(TypeError, match=f"{method.__name__} takes no {argument}: .*{instead}"):
        method(lambda x: x.sum((1, 2))).attribute(torch.ones(1, 4, 4), n_samples=4, **{argument: True})


@pytest.mark.parametrize("argument", ["return_convergence_delta", "n_steps", "internal_batch_size"])
@pytest.mark.parametrize("method", [AttnLRP, Energy])
def test_no_argument_is_named_that_the_method_lacks(method, argument):
    with pytest.raises(TypeError, match=f"{method.__name__} takes no {argument}: leave it out"):
        method(torch.sum).attribute(torch.ones(1, 4), **{argument: True})


def test_a_probability_that_rounds_to_one_is_refused():
    with pytest.raises(ValueError, match="strictly between 0 and 1"):
        SPES(lambda x: x.sum(1)).attribute(torch.ones(1, 3), perturbation_prob=1 - 1e-9)


@pytest.mark.parametrize("n_samples", [8, 6])  # all masks, and some
def test_another_default_device_changes_nothing(n_samples):
    """Sums lie on the CPU, wherever torch makes other tensors; "meta" stands for a GPU."""
    x, weights = torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([3.0, 1.0, 2.0])
    makes = [SPES(lambda x: x @ weights), GradientSPES(lambda x: x @ weights)]
    expected = [make.attribute(x, n_samples=n_samples) for make in makes]
    with torch.device("meta"):
        found = [make.attribute(x, n_samples=n_samples) for make in makes]
    for one, other in zip(found, expected):
        assert torch.equal(one, other)


def test_integers_do_not_overflow_in_the_energy():
    pixels = torch.tensor([[3, 200]], dtype=torch.uint8)
    assert Energy(torch.sum).attribute(pixels, baselines=128).tolist() == [[-125.0, 72.0]]
    assert Energy(torch.sum).attribute(pixels > 9).tolist() == [[0.0, 1.0]]


def test_never_hidden_gets_zero():
    attribution = SPES(lambda x: x.sum(1) + 5).attribute(torch.ones(1, 400), n_samples=1, centered=False)
    hidden = attribution != 0
    assert 100 < hidden.sum() < 300
    assert torch.equal(attribution[hidden], attribution[hidden][:1].expand(int(hidden.sum())))


def test_joint_granularities_and_probabilities():
    """A mask of several granularities beside one of a single one, each input with its own probability."""
    hidden = []

    def score(x, gate):
        hidden.append(((x == 0).float().mean(), (gate == 0).float().mean()))
        return x[:, 4:6].sum((1, 2)) + 10 * gate[:, 3]

    x, gate = torch.ones(1, 12, 4), torch.ones(1, 20)
    masks = torch.stack([grid_feature_mask(x, (2, 2)), grid_feature_mask(x, (4, 4))])
    attribution = SPES(score).attribute(
        (x, gate),
        feature_mask=(masks, torch.arange(20)[None] + 100),
        n_samples=2000,
        perturbations_per_eval=50,
        perturbation_prob=(0.2, 0.7),
    )
    rates = torch.tensor(hidden[1:]).mean(0)
    torch.testing.assert_close(rates, torch.tensor([0.2, 0.7]), atol=0.02, rtol=0)
    assert attribution[1].argmax() == 3
    assert attribution[0][0, 4:6].min() > attribution[0][0, 8:].max()


def test_empty_half_and_odd_counts():
    masks = torch.stack([torch.arange(12)[None] // size for size in (1, 2, 3)])
    calls = []

    def score(x):
        calls.append(len(x))
        return x.sum(1)

    SPES(score).attribute(torch.ones(1, 12), feature_mask=masks, n_samples=7, perturbations_per_eval=4)
    assert calls == [1, 4, 3]


def test_memory_does_not_grow_with_samples():
    import tracemalloc

    from captum_spes.attr._impacts import ImpactSums

    def peak(n_samples):
        sizes = []
        original = ImpactSums.add

        def add(self, *args):
            original(self, *args)
            sizes.append(self.impacts.numel() + self.counts.numel())

        ImpactSums.add = add
        try:
            tracemalloc.start()
            SPES(lambda x: x.sum(1)).attribute(torch.rand(1, 64), n_samples=n_samples, perturbations_per_eval=8)
            return max(sizes), tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
            ImpactSums.add = original

    (few, few_peak), (many, many_peak) = peak(40), peak(4000)
    assert few == many
    assert many_peak < 2 * few_peak + 200_000


# Refusals

ONES = torch.ones(1, 4)


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"perturbation_prob": 0.0}, ValueError, "strictly between 0 and 1"),
        ({"perturbation_prob": 1.0}, ValueError, "strictly between 0 and 1"),
        ({"perturbation_prob": float("nan")}, ValueError, "strictly between 0 and 1"),
        ({"perturbation_prob": (0.5, 0.5)}, ValueError, "2 values for 1 inputs"),
        ({"feature_mask": torch.zeros(1, 3, dtype=torch.long)}, ValueError, "does not fit the input of shape"),
        ({"feature_mask": torch.zeros(2, 4, dtype=torch.long)}, ValueError, "does not fit the input of shape"),
        ({"feature_mask": torch.zeros(2, 1, 1, 4, dtype=torch.long)}, ValueError, "does not fit the input of shape"),
        ({"feature_mask": torch.zeros(1, 4)}, TypeError, "integer feature ids"),
        ({"feature_mask": (torch.zeros(1, 4).long(), torch.zeros(1, 4).long())}, ValueError, "2 masks for 1 inputs"),
        ({"n_samples": 0}, ValueError, "n_samples must be"),
        ({"n_samples": 2, "feature_mask": torch.zeros(3, 1, 4).long()}, ValueError, "at least 3"),
        ({"n_samples": 10.5}, ValueError, "n_samples must be"),
        ({"perturbations_per_eval": 0}, ValueError, "perturbations_per_eval must be"),
        ({"seed": -1}, ValueError, "seed must be"),
    ],
)
def test_bad_arguments_get_one_clear_sentence(arguments, error, words):
    with pytest.raises(error, match=words):
        SPES(lambda x: x.sum(1)).attribute(ONES, **{"n_samples": 10, **arguments})


def test_a_missing_mask_of_a_tuple_is_refused():
    with pytest.raises(TypeError, match=r"feature_mask\[1\]"):
        SPES(lambda x, y: x.sum(1)).attribute((ONES, ONES), feature_mask=(torch.arange(4)[None], None), n_samples=9)
    with pytest.raises(ValueError, match="1 masks for 2 inputs"):
        SPES(lambda x, y: x.sum(1)).attribute((ONES, ONES), feature_mask=torch.arange(4)[None], n_samples=9)


def test_colliding_ids_with_two_probabilities_are_refused():
    masks = (torch.arange(4)[None], torch.arange(4)[None])
    with pytest.raises(ValueError, match="feature id 0 is in more than one input"):
        SPES(lambda x, y: x.sum(1)).attribute(
            (ONES, ONES), feature_mask=masks, n_samples=9, perturbation_prob=(0.5, 0.4)
        )


def test_granularities_that_differ_are_refused():
    masks = (torch.zeros(2, 1, 4).long(), torch.zeros(3, 1, 4).long())
    with pytest.raises(ValueError, match="2 and 3 granularities"):
        SPES(lambda x, y: x.sum(1)).attribute((ONES, ONES), feature_mask=masks, n_samples=9)


def test_a_score_that_does_not_grow_is_refused():
    with pytest.raises(ValueError, match="for a batch of 4"):
        SPES(lambda x: x.sum(1)[:1]).attribute(ONES, n_samples=8, perturbations_per_eval=4)


def test_scores_that_are_not_finite_are_refused():
    with pytest.raises(ValueError, match="unperturbed"):
        SPES(lambda x: x.sum(1) / 0).attribute(ONES, n_samples=8)
    with pytest.raises(ValueError, match=r"perturbation \d+ \(seed 5\) is not finite"):
        SPES(lambda x: x.sum(1).log()).attribute(ONES, n_samples=16, seed=5)
    with pytest.raises(TypeError, match="not str"):
        SPES(lambda x: "score").attribute(ONES, n_samples=8)
