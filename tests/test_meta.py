"""The meta-evaluation with toy models: known truth, and ladders of degraded maps."""

import numpy as np
import pytest
import torch
from scipy.stats import kendalltau, mannwhitneyu
from test_deletion import explanation as explanation_of_words
from test_deletion import model as writing_model  # noqa: F401 (a fixture)
from test_erasure import PERFECT, C, K, T, Toy, explanation, own_bins

from captum_spes import SPES, SpeechToTextAttribution, grid_feature_mask
from captum_spes.attr import Random
from captum_spes.metrics import (
    comprehensiveness,
    degrade,
    deletion,
    insertion,
    ladder_order,
    planted_auc,
    rank_correlation,
    sufficiency,
)
from captum_spes.models import Tokens

# a quarter of noise leaves the order of a map of two values as it is
SHARES = (0, 0.5, 0.75, 1)
TOKEN_METRICS = {"comprehensiveness": (comprehensiveness, True), "sufficiency": (sufficiency, False)}
TEXT_METRICS = {"deletion": (deletion, True), "insertion": (insertion, False)}


# Planted truth


def test_planted_auc_against_scipy():
    maps = torch.randint(0, 20, (3, 12, 9), generator=torch.Generator().manual_seed(0)).float()  # with ties
    relevant = torch.rand(12, 9, generator=torch.Generator().manual_seed(1)) < 0.3
    expected = [mannwhitneyu(m[relevant], m[~relevant]).statistic / (relevant.sum() * (~relevant).sum()) for m in maps]
    np.testing.assert_allclose(planted_auc(maps, relevant), expected, atol=1e-5)
    each = torch.stack([relevant, ~relevant, relevant])
    np.testing.assert_allclose(planted_auc(maps, each), [expected[0], 1 - expected[1], expected[2]], atol=1e-5)


def test_the_truth_is_found_and_its_opposite_is_not():
    relevant = own_bins(1).bool()
    maps = torch.stack([own_bins(1), -own_bins(1), torch.ones(T, C)])
    torch.testing.assert_close(planted_auc(maps, relevant), torch.tensor([1.0, 0.0, 0.5]))


@pytest.mark.parametrize(
    ("relevant", "message"),
    [
        (torch.zeros(T, C, dtype=torch.bool), "empty or holds all"),
        (torch.ones(T, C, dtype=torch.bool), "empty or holds all"),
        (torch.ones(T, C), "must be bool"),
        (torch.ones(C, T + 1, dtype=torch.bool), "must be bool"),
    ],
)
def test_regions_that_cannot_be_are_refused(relevant, message):
    with pytest.raises(ValueError, match=message):
        planted_auc(PERFECT, relevant)


class Listening(Toy):
    """The toy, for an attribution method: it takes the tokens as they are given."""

    def tokens(self, target, utterance):
        return Tokens(torch.tensor([0]), torch.as_tensor(target))

    def utterance(self, audio):
        raise NotImplementedError

    generate = generate_batch = utterance


def test_spes_finds_which_frames_and_band_decide_a_token():
    """A token depends on two frames and the lower half of the channels: frames and band are the planted truth."""
    attribution = SpeechToTextAttribution(SPES(Listening()))
    mask = grid_feature_mask(torch.ones(1, T, C), patch_size=(1, 1))
    found = attribution.attribute(
        explanation().spectrogram[None], [2, 3, 4, 1], feature_mask=mask, n_samples=3_000, n_token_samples=2
    )
    by_chance = SpeechToTextAttribution(Random(Listening())).attribute(explanation().spectrogram[None], [2, 3, 4, 1])
    areas = planted_auc(found.spectrogram_attr, PERFECT.bool())
    assert (areas > 0.99).all()
    # two times the deviation of the rank sum of 10 of 100 bins is 0.19
    assert (planted_auc(by_chance.spectrogram_attr, PERFECT.bool()).mean() - 0.5).abs() < 0.2
    assert comprehensiveness(Toy(), found).auc == pytest.approx(comprehensiveness(Toy(), explanation()).auc, abs=0.02)


@pytest.mark.parametrize("name", TOKEN_METRICS)
def test_metrics_prefer_the_planted_truth(name):
    metric, higher_is_better = TOKEN_METRICS[name]
    sign = 1 if higher_is_better else -1
    truth, chance, opposite = (
        sign * metric(Toy(), explanation(maps)).auc for maps in (PERFECT, torch.ones(K, T, C), -PERFECT)
    )
    assert truth > chance > opposite


# Ladders


def test_degraded_maps_lie_between_the_map_and_a_random_order():
    maps = torch.rand(2, 30, 20, generator=torch.Generator().manual_seed(5))
    rungs = [degrade(maps, share) for share in SHARES]
    correlations = torch.stack([rank_correlation(maps, rung) for rung in rungs])
    torch.testing.assert_close(correlations[0], torch.ones(2))
    assert (correlations.diff(dim=0) < 0).all()
    assert correlations[-1].abs().max() < 5 / 600**0.5  # five deviations of the rank correlation of 600 random bins
    assert torch.equal(degrade(maps, 0.5, seed=1), degrade(maps, 0.5, seed=1))
    assert not torch.equal(degrade(maps, 0.5, seed=1), degrade(maps, 0.5))
    assert degrade(torch.rand(3, 7), 0.3).shape == (3, 7)
    with pytest.raises(ValueError, match="from 0 to 1"):
        degrade(maps, 1.2)


@pytest.mark.parametrize("name", [*TOKEN_METRICS, *TEXT_METRICS])
def test_every_metric_orders_a_ladder_of_degraded_maps(name, writing_model):  # noqa: F811
    """Utterances of the toys are alike, but each has noise of its own: a few dozen are enough for every metric."""
    scores = []
    for seed in range(40):
        if name in TOKEN_METRICS:
            metric, higher_is_better = TOKEN_METRICS[name]
            rungs = [explanation(degrade(PERFECT, share, seed)) for share in SHARES]
            scores.append([metric(Toy(), rung).auc for rung in rungs])
        else:
            metric, higher_is_better = TEXT_METRICS[name]
            perfect = explanation_of_words()
            rungs = [degrade(perfect.spectrogram_attr[:1], share, seed)[0] for share in SHARES]
            scores.append([metric(writing_model, perfect, maps=rung).auc for rung in rungs])
    order = ladder_order(scores, higher_is_better)
    assert order.needed() is not None and order.extremes[-1] == 1


def test_metrics_agree_about_the_rungs():
    rungs = [explanation(degrade(PERFECT, share, seed=3)) for share in (0, 0.5, 1)]
    falls = [[metric(Toy(), rung).auc for rung in rungs] for metric, _ in TOKEN_METRICS.values()]
    assert kendalltau(falls[0], np.negative(falls[1])).statistic == pytest.approx(1)


def test_ladder_order_by_hand():
    """Two utterances, one in order and one not: of two draws a quarter is twice the first, a quarter twice the other,
    and their mean is in order."""
    order = ladder_order([[3, 2, 1], [1.0, 2.0, 1.5]], higher_is_better=True)
    # the means of both are 2, 2, 1.25: a tie is no order
    assert order.ordered == pytest.approx([0.5, 0.25], abs=0.05)
    assert order.extremes == pytest.approx([0.5, 0.75], abs=0.05)
    assert order.needed() is None
    turned = ladder_order([[1, 2, 3]] * 3, higher_is_better=False)
    assert turned.ordered.tolist() == [1, 1, 1] and turned.needed() == 1 and turned.n_utterances.tolist() == [1, 2, 3]


@pytest.mark.parametrize("scores", [[1, 2, 3], [[1], [2]], np.zeros((0, 3)), [[1, np.nan]]])
def test_scores_that_are_no_ladder_are_refused(scores):
    with pytest.raises(ValueError, match="two rungs or more"):
        ladder_order(scores, higher_is_better=True)
