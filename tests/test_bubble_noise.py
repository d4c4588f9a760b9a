"""BubbleNoise: the formula of its noise, known answers, seeds, Captum's conventions, and refused inputs."""

import math
import tracemalloc

import numpy as np
import pytest
import torch
from captum.attr import FeatureAblation

from captum_spes.attr import BubbleNoise
from captum_spes.attr.bubble_noise import Bubbles, _add_noise

# bubbles for small spectrograms: 8 frames wide, 6 channels high
SMALL = {"bubbles_per_second": 40.0, "bubble_seconds": 0.08, "bubble_channels": 6.0}
TABLE_8 = [(10, 0.43, 31), (35, 0.25, 15), (115, 0.13, 9)]


def make_inputs(batch=1, frames=30, channels=12, seed=0):
    return torch.randn(batch, frames, channels, generator=torch.Generator().manual_seed(seed))


def power(x):
    return x.square().mean((1, 2))


class Classifier(torch.nn.Module):
    """A nonlinear scorer with five outputs."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.linear = torch.nn.Linear(12, 5)

    def forward(self, x, scale=1.0):
        return self.linear(x.tanh()).sin().mean(1) * scale


class Spy:
    """A scorer that records its inputs."""

    def __init__(self, score=power):
        self.score, self.seen = score, []

    def __call__(self, x):
        self.seen.append(x.clone())
        return self.score(x)

    def perturbed(self, n_samples):
        return torch.cat(self.seen[1:]).unflatten(0, (n_samples, -1))


def make_bubbles(shape=(30, 12), seed=0, frames_per_second=100.0, **arguments):
    return Bubbles.create(shape, seed=seed, frames_per_second=frames_per_second, **{**SMALL, **arguments})


def draw_by_definition(bubbles, index):
    """A and the unit noise of one sample, bin by bin and bubble by bubble."""
    (n_frames, n_channels), (width, height) = bubbles.shape, bubbles.size
    generator = np.random.default_rng([bubbles.seed, index])
    uniform = generator.random((bubbles.number, 2))
    unit_noise = generator.random(bubbles.shape, dtype=np.float32)
    profile = np.ones(bubbles.shape)
    for u, v in uniform:
        t, c = u * (n_frames + width) - width / 2, v * (n_channels + height) - height / 2
        for frame, channel in np.ndindex(*bubbles.shape):
            d2 = ((frame + 0.5 - t) / (width / 2)) ** 2 + ((channel + 0.5 - c) / (height / 2)) ** 2
            profile[frame, channel] = min(profile[frame, channel], d2)
    return torch.from_numpy(profile).float(), torch.from_numpy(unit_noise)


# The noise


@pytest.mark.parametrize(
    "size",
    [
        (0.08, 6.0),
        (0.073, 5.5),
        (0.005, 0.5),
        (0.02, 100.0),
        (10.0, 2.0),
        pytest.param((10.0, 100.0), marks=pytest.mark.slow),
    ],
    ids=["even", "uneven", "less than a bin", "all channels", "all frames", "all"],
)
def test_the_profile_is_the_formula(size):
    bubbles = make_bubbles(seed=3, bubble_seconds=size[0], bubble_channels=size[1])
    profiles, noises = bubbles.draw(5, 8)
    for index, profile, noise in zip(range(5, 8), profiles, noises):
        expected, expected_noise = draw_by_definition(bubbles, index)
        torch.testing.assert_close(profile, expected, atol=1e-5, rtol=0)
        assert torch.equal(noise, expected_noise)


@pytest.mark.parametrize("baseline", [0.0, 0.7, make_inputs(1, 1, 12, seed=5)], ids=["zero", "number", "channels"])
def test_the_perturbed_input_and_the_map_are_the_formula(baseline):
    inputs = make_inputs(2) * torch.tensor([1.0, 3.0])[:, None, None] + 1
    spy = Spy()
    arguments = {"n_samples": 5, "perturbations_per_eval": 2, "seed": 3, **SMALL}
    attribution = BubbleNoise(spy).attribute(inputs, baseline, centered=False, **arguments)
    centered = BubbleNoise(power).attribute(inputs, baseline, **arguments)
    assert torch.equal(spy.seen[0], inputs)
    perturbed = spy.perturbed(5)
    bubbles, base = make_bubbles(seed=3), torch.as_tensor(baseline).expand(1, 30, 12)[0]
    weighed, weights = torch.zeros(2, 30, 12), torch.zeros(30, 12)
    impacts = torch.zeros(2)
    for index in range(5):
        profile, unit_noise = draw_by_definition(bubbles, index)
        assert 0.1 < (profile == 1).float().mean() < 0.9 and profile.min() < 0.1
        weights += profile
        for example, x in enumerate(inputs):
            noise = x.min() + (x.max() - x.min()) * unit_noise
            expected = torch.where(profile == 1, noise, x + profile * (noise - base))
            torch.testing.assert_close(perturbed[index, example], expected, atol=1e-4, rtol=0)
            impact = (power(x[None]) - power(expected[None]))[0]
            weighed[example] += impact * profile
            impacts[example] += impact
    torch.testing.assert_close(attribution, weighed / weights, atol=1e-4, rtol=1e-4)
    shown = (impacts[:, None, None] - weighed) / (5 - weights)
    expected = torch.where((weights > 0) & (weights < 5), weighed / weights - shown, 0)
    # a bin that nearly always has all of the noise divides by a small number
    measured = (5 - weights > 0.1).expand_as(expected)
    torch.testing.assert_close(centered[measured], expected[measured], atol=1e-3, rtol=1e-3)


def test_outside_of_bubbles_nothing_is_left_and_inside_all_of_it():
    """Two spectrograms of one range differ, once perturbed, by as much as before in the bubbles, and nowhere else."""
    inputs = make_inputs(2).clamp(-1, 1)
    spy = Spy()
    BubbleNoise(spy).attribute(inputs, n_samples=20, **SMALL)
    difference = torch.stack([x[0] - x[1] for x in spy.perturbed(20)])
    differs = (inputs[0] - inputs[1]).abs() > 1e-3
    inside = (difference != 0) & differs
    assert 0.5 < inside.sum() / (20 * differs.sum()) < 0.8
    expected = (inputs[0] - inputs[1]).expand(20, -1, -1)
    torch.testing.assert_close(difference[inside], expected[inside], atol=1e-5, rtol=0)


def test_noise_is_uniform_in_the_range_and_fresh():
    inputs = make_inputs().clamp(-1, 2)
    spy = Spy()
    bubbles = {"bubbles_per_second": 0.001, "bubble_seconds": 0.001, "bubble_channels": 0.1}  # one, of nearly no size
    BubbleNoise(spy).attribute(inputs, n_samples=100, **bubbles)
    noise = spy.perturbed(100)[:, 0]
    low, high = inputs.min(), inputs.max()
    assert low <= noise.min() < low + 0.01 and high - 0.01 < noise.max() <= high
    unit = (noise.double() - low) / (high - low)
    quantiles = torch.linspace(0.1, 0.9, 9, dtype=torch.float64)
    torch.testing.assert_close(unit.quantile(quantiles), quantiles, atol=0.01, rtol=0)
    # white: bins, neighbours and samples know nothing of each other
    for first, second in ((unit[1:], unit[:-1]), (unit[:, 1:], unit[:, :-1]), (unit[:, :, 1:], unit[:, :, :-1])):
        assert torch.corrcoef(torch.stack([first.flatten(), second.flatten()]))[0, 1].abs() < 0.03


def test_a_narrow_dtype_keeps_the_border():
    """A just below 1 is inside, also where bfloat16 rounds it up."""
    x, noise = torch.full((1, 1, 2), 4.0).bfloat16(), torch.ones(1, 1, 1, 2).bfloat16()
    profile = torch.tensor([0.9999, 1.0]).view(1, 1, 1, 2)
    assert _add_noise(x, 0.0, profile, noise).flatten().tolist() == [5.0, 1.0]


# How much of it


def expected_shares(shape, size, number):
    """The share of bins that are noise alone and the mean A: d² of one bubble is uniform where below 1."""
    covered = math.pi / 4 * size[0] * size[1] / ((shape[0] + size[0]) * (shape[1] + size[1]))
    return (1 - covered) ** number, (1 - (1 - covered) ** (number + 1)) / (covered * (number + 1))


def test_every_bin_has_the_same_noise_on_average():
    bubbles = make_bubbles()
    profile, _ = bubbles.draw(0, 4000)
    alone, mean = expected_shares(bubbles.shape, bubbles.size, bubbles.number)
    assert abs(profile.mean() - mean) < 0.005
    assert abs((profile == 1).float().mean() - alone) < 0.005
    spread = profile.std(0) / math.sqrt(4000)
    assert ((profile.mean(0) - mean).abs() < 5 * spread).all()  # a corner as well as the middle


@pytest.mark.parametrize(("per_second", "seconds", "channels"), TABLE_8)
def test_about_half_is_noise_in_the_papers_configurations(per_second, seconds, channels):
    for frames, rate in ((200, 100.0), (400, 200.0)):
        bubbles = make_bubbles(
            (frames, 80),
            bubbles_per_second=per_second,
            bubble_seconds=seconds,
            bubble_channels=channels,
            frames_per_second=rate,
        )
        profile, _ = bubbles.draw(0, 60)
        assert 0.53 < profile.mean() < 0.58
        assert 0.24 < (profile == 1).float().mean() < 0.30


def test_bubbles_are_as_many_as_asked_for():
    """bubbles_per_second is the expected number of centres in a second of the spectrogram itself."""
    bubbles = make_bubbles((500, 80), bubbles_per_second=10.0, bubble_seconds=0.43, bubble_channels=31.0)
    assert abs(bubbles.number * (500 * 80) / (543 * 111) - 50) < 0.5
    assert make_bubbles(bubbles_per_second=1e-6).number == 1


# Known answers


def test_finds_a_single_decisive_region():
    inputs = make_inputs(1, 100, 40)
    region = torch.zeros(100, 40, dtype=torch.bool)
    region[50:60, 20:28] = True

    def score(x):
        return -(x - inputs)[:, region].square().mean(1)

    attribution = BubbleNoise(score).attribute(
        inputs,
        n_samples=600,
        perturbations_per_eval=50,
        bubbles_per_second=60.0,
        bubble_seconds=0.12,
        bubble_channels=10.0,
    )[0]
    assert region.flatten()[attribution.argmax()]
    far = torch.ones_like(region)
    far[38:72, 10:38] = False  # further than a bubble
    inside, outside = attribution[region].mean(), attribution[far]
    assert inside > outside.max()
    assert inside > outside.mean() + 5 * outside.std()


def test_a_score_that_nothing_changes_has_no_attribution():
    attribution = BubbleNoise(lambda x: x.new_ones(len(x))).attribute(make_inputs(2), n_samples=4, **SMALL)
    assert torch.equal(attribution, torch.zeros(2, 30, 12))


def test_a_constant_impact_is_every_bins_attribution():
    calls = []

    def score(x):
        calls.append(len(x))
        return torch.full((len(x),), 5.0 if len(calls) == 1 else 3.0)

    attribution = BubbleNoise(score).attribute(
        make_inputs(), n_samples=7, perturbations_per_eval=3, centered=False, **SMALL
    )
    torch.testing.assert_close(attribution, torch.full((1, 30, 12), 2.0))
    assert calls == [1, 3, 3, 1]


# What a seed means


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("per_eval", [2, 3, 16])
def test_result_does_not_depend_on_batching(batch, per_eval):
    # In float64: a float32 matrix product rounds differently for another batch size, and differently on each CPU.
    inputs, weights = make_inputs(batch).double(), make_inputs(5).flatten(1).double()
    method = BubbleNoise(lambda x: (x.flatten(1) @ weights.T).sin())
    arguments = {"n_samples": 20, "seed": 7, "return_reliability": True, **SMALL}
    one = method.attribute(inputs, **arguments)
    many = method.attribute(inputs, perturbations_per_eval=per_eval, **arguments)
    for actual, expected in zip(many, one):
        torch.testing.assert_close(actual, expected, atol=1e-6, rtol=1e-5)


def test_a_seed_is_a_result():
    inputs, method = make_inputs(), BubbleNoise(power)
    first, again, other = (method.attribute(inputs, n_samples=8, seed=seed, **SMALL) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.allclose(first, other, atol=1e-3)


def test_examples_know_nothing_of_each_other():
    inputs = make_inputs(3) * torch.tensor([1.0, 5.0, 0.2])[:, None, None]
    method = BubbleNoise(power)
    arguments = {"n_samples": 12, "perturbations_per_eval": 4, **SMALL}
    together = method.attribute(inputs, **arguments)
    order = torch.tensor([2, 0, 1])
    torch.testing.assert_close(method.attribute(inputs[order], **arguments), together[order], atol=1e-6, rtol=1e-5)
    alone = torch.cat([method.attribute(x[None], **arguments) for x in inputs])
    torch.testing.assert_close(alone, together, atol=1e-6, rtol=1e-5)
    assert together[1].abs().mean() > 5 * together[0].abs().mean()  # the noise is on each example's own scale


def test_the_model_and_the_generators_are_left_as_found():
    model = Classifier().train()
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()
    inputs = make_inputs().requires_grad_()
    kept = inputs.detach().clone()
    attribution = BubbleNoise(model).attribute(inputs, target=0, n_samples=4, **SMALL)
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert (np.random.get_state()[1] == numpy_state).all()
    assert model.training and torch.is_grad_enabled()
    assert torch.equal(inputs, kept) and inputs.grad is None and not attribution.requires_grad


# Captum's habits


@pytest.mark.parametrize(
    "target",
    [None, 1, torch.tensor(1), torch.tensor([0, 1, 2]), [0, 1, 2], (1,), [(0,), (1,), (2,)]],
    ids=["none", "int", "scalar tensor", "tensor", "list", "tuple", "list of tuples"],
)
@pytest.mark.parametrize("as_tuple", [False, True], ids=["tensor", "tuple of one"])
def test_shapes_are_those_of_feature_ablation(target, as_tuple):
    inputs = make_inputs(3, 4, 12)
    given = (inputs,) if as_tuple else inputs
    mask = torch.zeros(1, 4, 12, dtype=torch.long)
    expected = FeatureAblation(Classifier()).attribute(given, target=target, feature_mask=mask)
    actual, reliability = BubbleNoise(Classifier()).attribute(
        given, target=target, n_samples=6, perturbations_per_eval=4, return_reliability=True, **SMALL
    )
    assert isinstance(actual, tuple) == isinstance(reliability, tuple) == as_tuple
    if as_tuple:
        (actual,), (expected,), (reliability,) = actual, expected, reliability
    assert (actual.shape, actual.dtype, actual.device) == (expected.shape, expected.dtype, expected.device)
    assert reliability.shape == (len(actual),)


def test_rows_are_examples_times_outputs():
    inputs = make_inputs(3)
    method = BubbleNoise(Classifier())
    arguments = {"n_samples": 10, "perturbations_per_eval": 4, **SMALL}
    rows = method.attribute(inputs, **arguments).unflatten(0, (3, 5))
    for target in range(5):
        torch.testing.assert_close(rows[:, target], method.attribute(inputs, target=target, **arguments))


def test_every_target_form_selects_the_same():
    inputs = make_inputs(3)
    method = BubbleNoise(Classifier())
    arguments = {"n_samples": 10, "perturbations_per_eval": 4, **SMALL}
    singles = torch.cat([method.attribute(inputs[i : i + 1], target=i, **arguments) for i in range(3)])
    for target in (torch.tensor([0, 1, 2]), [0, 1, 2], [(0,), (1,), (2,)]):
        torch.testing.assert_close(method.attribute(inputs, target=target, **arguments), singles)


def test_additional_forward_args_are_expanded():
    inputs, scale = make_inputs(3), torch.tensor([[1.0], [2.0], [3.0]])
    method = BubbleNoise(Classifier())
    arguments = {"target": 1, "n_samples": 10, "perturbations_per_eval": 4, **SMALL}
    scaled = method.attribute(inputs, additional_forward_args=(scale,), **arguments)
    torch.testing.assert_close(scaled, method.attribute(inputs, **arguments) * scale[..., None])


@pytest.mark.parametrize("score", [lambda x: x.sum(), lambda x: float(x.sum())], ids=["tensor", "number"])
def test_one_score_for_the_whole_batch(score):
    inputs = make_inputs(3, 4, 12)
    expected = FeatureAblation(score).attribute(inputs)
    actual = BubbleNoise(score).attribute(inputs, n_samples=5, **SMALL)
    assert (actual.shape, actual.dtype) == (expected.shape, expected.dtype)
    with pytest.raises(ValueError, match="perturbations_per_eval=1"):
        BubbleNoise(score).attribute(inputs, n_samples=6, perturbations_per_eval=2, **SMALL)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_every_float_dtype(dtype):
    inputs = make_inputs()
    spy = Spy(lambda x: power(x.float()))
    attribution = BubbleNoise(spy).attribute(inputs.to(dtype), make_inputs(1, 1, 12), n_samples=20, **SMALL)
    assert {x.dtype for x in spy.seen} == {dtype}
    reference = BubbleNoise(power).attribute(inputs, make_inputs(1, 1, 12), n_samples=20, **SMALL)
    torch.testing.assert_close(attribution, reference, atol=0.03, rtol=0)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_device_changes_nothing():
    inputs, baseline = make_inputs(2), make_inputs(1, 1, 12)
    spy = Spy()
    arguments = {"baselines": baseline, "n_samples": 20, "perturbations_per_eval": 8, **SMALL}
    attribution = BubbleNoise(spy).attribute(inputs.cuda(), **arguments)
    assert attribution.is_cuda and all(x.is_cuda for x in spy.seen)
    torch.testing.assert_close(attribution.cpu(), BubbleNoise(power).attribute(inputs, **arguments))


def test_callback_counts_and_stops():
    seen = []

    def callback(done, total):
        seen.append((done, total))
        return done >= 48

    inputs, method = make_inputs(), BubbleNoise(power)
    arguments = {"perturbations_per_eval": 16, **SMALL}
    stopped = method.attribute(inputs, n_samples=1000, callback=callback, **arguments)
    assert seen == [(16, 1000), (32, 1000), (48, 1000)]
    assert torch.equal(stopped, method.attribute(inputs, n_samples=48, **arguments))
    seen.clear()
    method.attribute(inputs, n_samples=20, callback=callback, **arguments)
    assert seen == [(16, 20), (20, 20)]


def test_progress_has_the_right_total(capsys):
    arguments = {"n_samples": 50, "perturbations_per_eval": 16, **SMALL}
    BubbleNoise(power).attribute(make_inputs(), **arguments)
    assert not capsys.readouterr().err
    BubbleNoise(power).attribute(make_inputs(), show_progress=True, **arguments)
    assert "Bubble Noise attribution: 100%" in (shown := capsys.readouterr().err)
    assert "50/50" in shown


def test_reliability_is_the_correlation_of_two_halves_and_rises():
    inputs = make_inputs(1, 60, 24)

    def score(x):
        changed = (x - inputs).square()
        return -torch.stack([changed[:, 10:20, 4:10].mean((1, 2)), changed[:, 40:50, 14:20].mean((1, 2))], dim=1)

    method = BubbleNoise(score)
    runs = {}
    for n_samples in (1, 20, 1000):
        runs[n_samples] = method.attribute(
            inputs,
            n_samples=n_samples,
            perturbations_per_eval=50,
            centered=False,
            return_reliability=True,
            **SMALL,
        )
    assert torch.equal(runs[1][1], torch.zeros(2))
    assert (runs[20][1] < 0.6).all() and (runs[1000][1] > 0.8).all()

    # an even number of samples splits into those of even and of odd number, two runs of their own
    bubbles = make_bubbles((60, 24))
    profiles, unit_noise = bubbles.draw(0, 20)
    noise = inputs.min() + (inputs.max() - inputs.min()) * unit_noise
    impacts = -score(_add_noise(inputs, 0.0, profiles[:, None], noise[:, None])[:, 0])
    for row in range(2):
        halves = [
            torch.einsum("n,ntc->tc", impacts[half::2, row], profiles[half::2]) / profiles[half::2].sum(0)
            for half in range(2)
        ]
        correlation = torch.corrcoef(torch.stack([half.flatten() for half in halves]))[0, 1]
        torch.testing.assert_close(runs[20][1][row], correlation, atol=1e-4, rtol=0)


# Memory


def peak_memory(run):
    tracemalloc.start()
    try:
        run()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_long_spectrograms_are_painted_by_the_bubble():
    """30 s: 422 bubbles × 240,000 bins would take 400 MB."""
    bubbles = make_bubbles((3000, 80), bubbles_per_second=10.0, bubble_seconds=0.43, bubble_channels=31.0)
    assert bubbles.number == 422
    assert peak_memory(lambda: bubbles.draw(0, 2)) < 40e6


def test_memory_does_not_grow_with_samples():
    def run(n_samples):
        BubbleNoise(power).attribute(make_inputs(), n_samples=n_samples, perturbations_per_eval=8, **SMALL)

    run(8)
    assert peak_memory(lambda: run(800)) < 2 * peak_memory(lambda: run(16)) + 100_000


# Refusals

ONES = torch.ones(1, 4, 3)


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"inputs": (ONES, ONES)}, ValueError, "one spectrogram, not a tuple of 2"),
        ({"inputs": torch.ones(4, 3)}, ValueError, r"\(batch, frames, channels\), not \(4, 3\)"),
        ({"inputs": torch.ones(1, 1, 4, 3)}, ValueError, r"\(batch, frames, channels\)"),
        ({"inputs": torch.ones(1, 0, 3)}, ValueError, r"\(batch, frames, channels\)"),
        ({"inputs": torch.ones(1, 4, 3).long()}, TypeError, "floating point to add noise to them, not torch.int64"),
        ({"inputs": torch.full((1, 4, 3), float("nan"))}, ValueError, "not finite"),
        ({"inputs": ONES.clone().index_fill_(1, torch.tensor([2]), float("-inf"))}, ValueError, "not finite"),
        ({"baselines": torch.ones(2, 4, 3)}, ValueError, "aseline"),
        ({"baselines": torch.ones(1, 1, 2)}, ValueError, "aseline"),
        ({"n_samples": 0}, ValueError, "n_samples must be an integer of at least 1, not 0"),
        ({"n_samples": 10.5}, ValueError, "n_samples must be"),
        ({"perturbations_per_eval": 0}, ValueError, "perturbations_per_eval must be"),
        ({"bubbles_per_second": 0}, ValueError, "bubbles_per_second must be a positive number, not 0"),
        ({"bubble_seconds": -0.1}, ValueError, "bubble_seconds must be"),
        ({"bubble_channels": float("nan")}, ValueError, "bubble_channels must be"),
        ({"bubble_channels": "31"}, ValueError, "bubble_channels must be"),
        ({"frames_per_second": float("inf")}, ValueError, "frames_per_second must be"),
        ({"seed": -1}, ValueError, "seed must be an integer of at least 0"),
        ({"seed": 0.5}, ValueError, "seed must be"),
    ],
)
def test_bad_arguments_get_one_clear_sentence(arguments, error, words):
    calls = []

    def score(x):
        calls.append(len(x))
        return power(x)

    with pytest.raises(error, match=words):
        BubbleNoise(score).attribute(**{"inputs": ONES, "n_samples": 10, **arguments})
    assert not calls  # refused before the model is asked


def test_scores_that_are_not_finite_are_refused():
    with pytest.raises(ValueError, match="unperturbed"):
        BubbleNoise(lambda x: power(x) / 0).attribute(make_inputs(), n_samples=8)
    calls = []

    def score(x):
        calls.append(len(x))
        scores = power(x)
        scores[-1] = float("nan") if len(calls) == 3 else 0
        return scores

    with pytest.raises(ValueError, match=r"perturbation 7 \(seed 5\) is not finite"):
        BubbleNoise(score).attribute(make_inputs(), n_samples=16, perturbations_per_eval=4, seed=5)


def test_scores_of_another_shape_or_kind_are_refused():
    with pytest.raises(ValueError, match=r"shape \(1,\) for a batch of 4"):
        BubbleNoise(lambda x: power(x)[:1]).attribute(make_inputs(), n_samples=8, perturbations_per_eval=4)
    with pytest.raises(TypeError, match="not str"):
        BubbleNoise(lambda x: "score").attribute(make_inputs(), n_samples=8)


def test_attribute_future_is_refused():
    with pytest.raises(NotImplementedError, match="use attribute"):
        BubbleNoise(power).attribute_future(ONES)
