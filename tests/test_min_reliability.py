"""Runs that end at a reliability, and pooling over the finest reliable features."""

import math

import pytest
import torch

from captum_spes import SPES, BubbleNoise, GradientSPES, grid_feature_mask
from captum_spes.attr import _checkpoint
from captum_spes.attr.stopping import StoppingRule

METHODS = [SPES, BubbleNoise, GradientSPES]
X = torch.rand(1, 20, 12, generator=torch.Generator().manual_seed(0))
MASK = torch.stack([grid_feature_mask(X, size) for size in ((3, 2), (2, 3), (4, 2))])
FIRST = torch.randn(240, 30, generator=torch.Generator().manual_seed(1))
SECOND = torch.randn(30, 3, generator=torch.Generator().manual_seed(2))


def scores(x):
    """Of float32 products, whose last bits depend on the batch size, as a model's do."""
    return (x.flatten(1) @ FIRST).tanh() @ SECOND


# reached after some looks
TARGET = {SPES: 0.4, BubbleNoise: 0.25, GradientSPES: 0.9}


def arguments_of(method, per_eval=7):
    own = {"bubble_channels": 4, "bubble_seconds": 0.05, "bubbles_per_second": 60} if method is BubbleNoise else {}
    own = own or {"feature_mask": MASK}
    return {"return_reliability": True, "perturbations_per_eval": per_eval, "n_samples": 1000, **own}


def run(method, per_eval=7, callback=lambda done, total: None, **arguments):
    """The attribution, its reliability, and the numbers that the callback was last told."""
    told = []

    def note(done, total):
        told.append((done, total))
        return callback(done, total)

    found = method(scores).attribute(X, **{**arguments_of(method, per_eval), **arguments}, callback=note)
    return *found, told[-1]


@pytest.mark.parametrize("per_eval", [1, 7, 16])
@pytest.mark.parametrize("method", METHODS)
def test_a_run_that_ends_early_is_a_run_of_so_many_samples(method, per_eval):
    found, reliability, (done, total) = run(method, per_eval, min_reliability=TARGET[method])
    assert done == total < 1000
    assert reliability.mean() >= TARGET[method]
    expected, expected_reliability, told = run(method, per_eval, n_samples=done)
    assert told == (done, done)
    assert torch.equal(found, expected) and torch.equal(reliability, expected_reliability)


@pytest.mark.parametrize("method", METHODS)
def test_where_it_ends_does_not_depend_on_the_batches(method):
    ends = {run(method, per_eval, min_reliability=TARGET[method])[2] for per_eval in (5, 16, 100)}
    assert len(ends) == 1
    # it is the first look at which the target is reached
    ((done, _),) = ends
    rule = StoppingRule(TARGET[method], 12 if method is GradientSPES else 48, 1 if method is BubbleNoise else 3)
    *before, last = rule.looks(0, done)
    assert last == done and len(before) > 1
    for look in before:
        assert run(method, n_samples=look)[1].mean() < TARGET[method]


@pytest.mark.parametrize("method", METHODS)
def test_a_target_that_is_not_reached_takes_all_samples(method):
    found, reliability, told = run(method, n_samples=100, min_reliability=0.9999)
    assert told == (100, 100) and reliability.mean() < 0.9999
    assert torch.equal(found, run(method, n_samples=100)[0])


@pytest.mark.parametrize("method", METHODS)
def test_a_run_that_is_stopped_goes_on_to_the_same_end(method, tmp_path, monkeypatch):
    monkeypatch.setattr(_checkpoint, "SECONDS", 0)
    monkeypatch.setattr(_checkpoint, "PATIENCE", 0)
    whole, _, end = run(method, min_reliability=TARGET[method])
    path = tmp_path / "run.safetensors"
    arguments = {"min_reliability": TARGET[method], "checkpoint": path}
    for stop in (10, 30, end[0] - 1):
        run(method, callback=lambda done, total, stop=stop: done >= stop, **arguments)
    if path.exists():
        with pytest.raises(ValueError, match=r"min_reliability was 0.\d+ and is 0.5 now"):
            run(method, min_reliability=0.5, checkpoint=path)
    found, _, told = run(method, **arguments)
    assert told == end and torch.equal(found, whole)
    assert not list(tmp_path.iterdir())


def test_all_combinations_are_not_cut_short():
    calls = []
    spes = SPES(lambda x: calls.append(len(x)) or x.sum(1))
    attribution = spes.attribute(torch.ones(1, 8), n_samples=1000, perturbations_per_eval=16, min_reliability=0.1)
    assert sum(calls) == 1 + 2**8
    torch.testing.assert_close(attribution, torch.ones(1, 8))


@pytest.mark.parametrize("step", [1, 2, 3, 5])
@pytest.mark.parametrize("first", [12, 48])
def test_looks_are_at_most_a_quarter_apart(first, step):
    looks = list(StoppingRule(0.5, first, step).looks(0, 10_000))
    assert looks[0] == math.ceil(first / step) * step
    assert all(look % step == 0 for look in looks)
    assert all(b <= max(1.25 * a, a + step) for a, b in zip(looks, looks[1:]))
    assert len(looks) < 45
    assert list(StoppingRule(0.5, first, step).looks(looks[3], looks[5])) == looks[4:6]


@pytest.mark.parametrize("target", [0, 1, -0.5, 1.5, math.nan, "0.5"])
@pytest.mark.parametrize("method", METHODS)
def test_targets_that_mean_nothing_are_refused(method, target):
    with pytest.raises(ValueError, match="min_reliability must lie strictly between 0 and 1"):
        run(method, min_reliability=target)


# Pooling over the finest features that are reliable enough

CANDIDATES = [grid_feature_mask(X, size) for size in ((1, 1), (2, 2), (5, 3), (10, 6))]


def pooled(n_samples=24, **arguments):
    return GradientSPES(scores).attribute(
        X, feature_mask=MASK, n_samples=n_samples, perturbations_per_eval=4, **arguments
    )


def reliability_over(mask, n_samples=24):
    return pooled(n_samples, pooling_masks=[mask], return_reliability=True)[1].mean()


def test_the_finest_features_that_are_reliable_are_taken():
    by_candidate = [reliability_over(mask) for mask in CANDIDATES]
    for index, mask in enumerate(CANDIDATES):
        if by_candidate[index] < max([0.01, *by_candidate[:index]]):
            continue  # one that is finer is as reliable
        # no look of the run itself reaches the target for the finest candidate
        target = float(by_candidate[index]) - 1e-4
        if index == 0:
            continue
        attribution, reliability, taken = pooled(
            min_reliability=target, pooling_masks=CANDIDATES, return_reliability=True, return_pooling=True
        )
        assert taken == index
        assert torch.equal(attribution, pooled(pooling_masks=[mask]))
        assert reliability.mean() >= target


def test_the_coarsest_features_are_taken_where_none_are_reliable():
    attribution, taken = pooled(min_reliability=0.99999, pooling_masks=CANDIDATES, return_pooling=True)
    assert taken == 3
    assert torch.equal(attribution, pooled(pooling_masks=CANDIDATES[-1:]))


def test_the_run_ends_where_the_finest_features_are_reliable():
    told = []
    target = float(reliability_over(CANDIDATES[0], 36)) - 1e-4
    _, taken = pooled(
        2000,
        min_reliability=target,
        pooling_masks=CANDIDATES,
        return_pooling=True,
        callback=lambda *done: told.append(done),
    )
    assert taken == 0
    assert told[-1][0] == told[-1][1] <= 36
    assert reliability_over(CANDIDATES[0], told[-1][0]) >= target


def test_pooling_over_the_mask_itself_is_the_default():
    default, taken = pooled(return_pooling=True)
    assert taken == 0 and torch.equal(default, pooled(pooling_masks=[MASK]))
    bins, taken = pooled(pool_features=False, return_pooling=True)
    assert taken is None
    # every bin of a patch has the sum over the patch
    patch = CANDIDATES[2][0] == 0
    sums = pooled(pooling_masks=[CANDIDATES[2]])[:, patch]
    torch.testing.assert_close(sums, bins[:, patch].sum(1, keepdim=True).expand_as(sums))


def test_pooling_of_a_tuple_takes_a_mask_for_each_input():
    method = GradientSPES(lambda x, gate: scores(x) * gate.sum(1, keepdim=True))
    gate, ids = torch.ones(1, 5), torch.arange(5)[None] + 1000
    call = {"inputs": (X, gate), "feature_mask": (MASK, ids), "n_samples": 12}
    coarse = method.attribute(**call, pooling_masks=[(CANDIDATES[2], ids)])
    bins = method.attribute(**call, pool_features=False)
    torch.testing.assert_close(coarse[1], bins[1])
    patch = CANDIDATES[2][0] == 0
    torch.testing.assert_close(coarse[0][:, patch][:, 0], bins[0][:, patch].sum(1))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"pooling_masks": CANDIDATES}, "4 masks, of which the finest reliable one is taken: give min_reliability"),
        ({"pooling_masks": []}, "must be a list of feature masks .* not an empty one"),
        ({"pooling_masks": CANDIDATES[0]}, "must be a list of feature masks .* not a tensor"),
        ({"pooling_masks": CANDIDATES[:1], "pool_features": False}, "leave one of them out"),
        ({"pooling_masks": [torch.zeros(1, 3, 3).long()]}, "does not fit the input"),
    ],
)
def test_pooling_masks_that_do_not_fit_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        pooled(**arguments)
