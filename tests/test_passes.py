"""SharedPasses: one pass of the model for all tokens, with the results of Captum's methods token by token."""

import numpy as np
import pytest
import torch
from captum.attr import (
    Attribution,
    FeatureAblation,
    GradientAttribution,
    GradientShap,
    IntegratedGradients,
    KernelShap,
    NoiseTunnel,
    Occlusion,
    PerturbationAttribution,
    Saliency,
    ShapleyValueSampling,
)

import captum_spes.speech_to_text.passes
from captum_spes.speech_to_text.passes import SharedPasses, reproducible, rewrapped

N_TOKENS = 5
INPUTS = torch.randn(1, 4, 3, generator=torch.Generator().manual_seed(0))
MASK = torch.arange(6).view(1, 2, 3).repeat_interleave(2, dim=1)


class Score:
    """Scores (B, K), not linear, that count the rows they see."""

    def __init__(self, n_tokens=N_TOKENS):
        self.weights = torch.randn(n_tokens, 4, 3, generator=torch.Generator().manual_seed(1))
        self.rows, self.largest = 0, 0

    def __call__(self, inputs):
        self.rows += len(inputs)
        self.largest = max(self.largest, len(inputs))
        return self.plain(inputs)

    def plain(self, inputs):
        return torch.einsum("btc,ktc->bk", inputs.tanh(), self.weights).sin() + inputs.square().mean((1, 2))[:, None]


def baselines(**arguments):
    return {"baselines": torch.zeros_like(INPUTS), **arguments}


METHODS = {
    "FeatureAblation": (FeatureAblation, baselines(feature_mask=MASK, perturbations_per_eval=4)),
    "Occlusion": (Occlusion, baselines(sliding_window_shapes=(2, 2), perturbations_per_eval=3)),
    "ShapleyValueSampling": (ShapleyValueSampling, baselines(feature_mask=MASK, n_samples=3)),
    "KernelShap": (KernelShap, baselines(feature_mask=MASK, n_samples=20, perturbations_per_eval=5)),
    "IntegratedGradients": (IntegratedGradients, baselines(n_steps=7)),
    "Saliency": (Saliency, {"abs": False}),
    "GradientShap": (GradientShap, baselines(n_samples=6, stdevs=0.2)),
    "NoiseTunnel": (lambda f: NoiseTunnel(IntegratedGradients(f)), baselines(n_steps=4, nt_samples=3, stdevs=0.2)),
    "NoiseTunnel in parts": (lambda f: NoiseTunnel(Saliency(f)), {"nt_samples": 5, "nt_samples_batch_size": 2}),
    "NoiseTunnel of a perturbation": (
        lambda f: NoiseTunnel(FeatureAblation(f)),
        baselines(feature_mask=MASK, nt_samples=3, stdevs=0.2),
    ),
}
GRADIENTS = ("IntegratedGradients", "Saliency", "GradientShap", "NoiseTunnel", "NoiseTunnel in parts")


def shared(make, arguments, score=None, batch_size=16, seed=7, on_pass=lambda forward, backward: None):
    score = score or Score()
    passes = SharedPasses(score, len(score.weights), batch_size)
    return passes.attribute(make(None), INPUTS, arguments, seed, on_pass)


def one_by_one(make, arguments, seed=7):
    """Captum, once for each token."""
    score, rows = Score(), []
    for token in range(N_TOKENS):
        torch.manual_seed(seed)
        np.random.seed(seed)
        method = make(lambda x, token=token: score.plain(x)[:, token])
        rows.append(method.attribute(INPUTS.clone().requires_grad_(), **arguments).detach())
    return torch.cat(rows)


@pytest.mark.parametrize("batch_size", [1, 3, 16, 1000])
@pytest.mark.parametrize("name", METHODS)
def test_they_are_captums_answers_in_the_passes_of_one_token(name, batch_size):
    make, arguments = METHODS[name]
    score, steps = Score(), []
    found = shared(make, arguments, score, batch_size, on_pass=lambda *step: steps.append(step))
    torch.testing.assert_close(found, one_by_one(make, arguments), atol=1e-5, rtol=1e-4)
    assert found.std(0).min() > 0 and not found.requires_grad
    alone = Score(n_tokens=1)
    shared(make, arguments, alone)
    assert score.rows == alone.rows == sum(forward for forward, _ in steps)
    backward = N_TOKENS * score.rows if name in GRADIENTS else 0
    assert sum(rows for _, rows in steps) == backward
    assert score.largest <= (max(batch_size // 4, 1) if name in GRADIENTS else batch_size)


@pytest.mark.parametrize("name", METHODS)
def test_the_count_is_that_of_the_passes(name):
    make, arguments = METHODS[name]
    score = Score()
    passes = SharedPasses(score, N_TOKENS, batch_size=4)
    total = passes.count(make(None), INPUTS, arguments, seed=7)
    assert score.rows == 0
    steps = []
    found = passes.attribute(make(None), INPUTS, arguments, 7, lambda *step: steps.append(step))
    assert score.rows == total == sum(forward for forward, _ in steps) > 0
    # what was counted has left nothing behind
    torch.testing.assert_close(found, one_by_one(make, arguments), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("memory", [0, 200, 1000, 3000])
@pytest.mark.parametrize("name", METHODS)
def test_little_memory_changes_nothing_but_the_passes(name, memory, monkeypatch):
    make, arguments = METHODS[name]
    plenty, little = Score(), Score()
    expected = shared(make, arguments, plenty)
    monkeypatch.setattr(captum_spes.speech_to_text.passes, "GRADIENT_MEMORY", memory)
    steps = []
    found = shared(make, arguments, little, on_pass=lambda *step: steps.append(step))
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)
    times, rest = divmod(little.rows, plenty.rows)
    if memory == 0:  # nothing is shared
        assert little.rows >= N_TOKENS * plenty.rows
    if memory in (0, 3000):
        assert rest == 0 and 1 <= times <= N_TOKENS
    if name in GRADIENTS:  # no token's gradients are taken twice, but for those of the group that came out too large
        assert sum(backward for _, backward in steps) <= 2 * N_TOKENS * plenty.rows


@pytest.mark.parametrize(("memory", "kept"), [(10**9, N_TOKENS), (7 * 48 * 3, 3), (7 * 48 * 2, 2), (0, 1)])
def test_memory_is_kept_to(memory, kept, monkeypatch):
    """Gradients at 7 points of 48 bytes each, for as many tokens as fit; none are made that do not."""
    monkeypatch.setattr(captum_spes.speech_to_text.passes, "GRADIENT_MEMORY", memory)
    passes = SharedPasses(Score(), N_TOKENS, 16)
    sizes = []

    def on_pass(forward, backward):
        sizes.append(sum(answer.numel() * 4 for answer in passes.results))

    answer = passes._call

    def spying(*args):
        result = answer(*args)
        sizes.append(sum(answer.numel() * 4 for answer in passes.results))
        return result

    passes._call = spying
    make, arguments = METHODS["IntegratedGradients"]
    passes.attribute(make(None), INPUTS, arguments, 7, on_pass)
    assert max(sizes) == 7 * 48 * kept


def test_a_group_that_is_cut_keeps_its_first_answers(monkeypatch):
    """Many calls: memory runs out at a later one, and the first results are replayed for the remaining tokens."""
    monkeypatch.setattr(captum_spes.speech_to_text.passes, "GRADIENT_MEMORY", 48 * 3 * N_TOKENS)
    steps = []

    class Walk(GradientAttribution):
        """Sums gradients at six points, one at a time."""

        def attribute(self, inputs):
            return sum(self.gradient_func(self.forward_func, inputs * step / 6)[0] for step in range(1, 7))

    found = shared(Walk, {}, on_pass=lambda *step: steps.append(step))
    torch.testing.assert_close(found, one_by_one(Walk, {}), atol=1e-5, rtol=1e-4)
    n_groups = sum(forward for forward, _ in steps) / 6
    assert 1 < n_groups < N_TOKENS


# Methods that put other questions for other tokens


class Restless(PerturbationAttribution):
    """Draws from a generator of its own, and not always the same number of perturbations."""

    def __init__(self, forward_func):
        super().__init__(forward_func)
        self.generator = torch.Generator().manual_seed(3)
        self.drawn = []

    def attribute(self, inputs, same_first=False):
        count = 1 + int(torch.randint(3, (), generator=self.generator))
        kept = (torch.rand(count, 4, 3, generator=self.generator) > 0.5).float()
        self.drawn.append(kept)
        original = self.forward_func(inputs) if same_first else 0
        return (original - self.forward_func(inputs * kept)).view(-1, 1, 1).mul(1 - kept).sum(0, keepdim=True)


@pytest.mark.parametrize("memory", [10**9, 0])
@pytest.mark.parametrize("same_first", [False, True])
def test_a_method_that_draws_anew_for_every_token(same_first, memory, monkeypatch):
    monkeypatch.setattr(captum_spes.speech_to_text.passes, "GRADIENT_MEMORY", memory)
    score, method = Score(), Restless(None)
    found = shared(lambda _: method, {"same_first": same_first}, score)
    assert len({len(kept) for kept in method.drawn}) > 1 and len(method.drawn) == N_TOKENS
    for token, kept in enumerate(method.drawn):
        hidden = score.plain(INPUTS * kept)[:, token]
        original = score.plain(INPUTS)[0, token] if same_first else 0
        expected = ((original - hidden).view(-1, 1, 1) * (1 - kept)).sum(0)
        torch.testing.assert_close(found[token], expected, atol=1e-5, rtol=1e-4)


class Changing(GradientAttribution):
    """Wants scores first and gradients then, or the other way round, or scores alone, at one and the same point."""

    calls = 0

    def attribute(self, inputs):
        type(self).calls += 1
        kinds = ("sg", "gs", "s", "g", "sgs")[type(self).calls % 5]
        result = torch.zeros_like(inputs)
        for kind in kinds:
            if kind == "s":
                with torch.no_grad():
                    result = result + self.forward_func(inputs).view(-1, 1, 1)
            else:
                result = result + self.gradient_func(self.forward_func, inputs)[0]
        return result


def test_scores_are_not_taken_for_gradients(monkeypatch):
    monkeypatch.setattr(Changing, "calls", 0)
    found = shared(Changing, {})
    monkeypatch.setattr(Changing, "calls", 0)
    torch.testing.assert_close(found, one_by_one(Changing, {}), atol=1e-5, rtol=1e-4)


class ByAutograd(GradientAttribution):
    """The gradient of a function of the score, which Captum's own methods never take."""

    def attribute(self, inputs, rows=3):
        points = torch.cat([inputs * (row + 1) / rows for row in range(rows)])
        return torch.autograd.grad(self.forward_func(points).exp().sum(), inputs)[0]


class OfAnotherFunction(GradientAttribution):
    """Captum's function of gradients, for a function of the score and not for the score itself."""

    def attribute(self, inputs, rows=3):
        points = torch.cat([inputs * (row + 1) / rows for row in range(rows)])
        weights = torch.ones_like(points).requires_grad_()
        (gradients,) = self.gradient_func(lambda w: self.forward_func(w * points).exp(), weights)
        return gradients.sum(0, keepdim=True)


@pytest.mark.parametrize("memory", [10**9, 200])
@pytest.mark.parametrize("method", [ByAutograd, OfAnotherFunction])
def test_autograd_goes_through_the_scores(method, memory, monkeypatch):
    monkeypatch.setattr(captum_spes.speech_to_text.passes, "GRADIENT_MEMORY", memory)
    score, steps = Score(), []
    found = shared(method, {}, score, on_pass=lambda *step: steps.append(step))
    torch.testing.assert_close(found, one_by_one(method, {}), atol=1e-5, rtol=1e-4)
    if memory > 200:
        assert score.rows == 6 and sum(backward for _, backward in steps) == 3 * N_TOKENS


# What is left as found


class Failing(Attribution):
    def attribute(self, inputs):
        torch.rand(3)
        np.random.rand(3)
        self.forward_func(inputs)
        raise RuntimeError("on the way")


@pytest.mark.parametrize("make", [Failing, METHODS["KernelShap"][0], METHODS["GradientShap"][0]])
def test_the_generators_are_left_as_found(make):
    arguments = {Failing: {}, KernelShap: METHODS["KernelShap"][1], GradientShap: METHODS["GradientShap"][1]}[make]
    torch.manual_seed(11)
    np.random.seed(11)
    state, numpy_state = torch.get_rng_state(), np.random.get_state()
    passes = SharedPasses(Score(), N_TOKENS, 16)
    for run in (
        lambda: passes.attribute(make(None), INPUTS, arguments, 7, lambda *_: None),
        lambda: passes.count(make(None), INPUTS, arguments, 7),
    ):
        if make is Failing:
            with pytest.raises(RuntimeError, match="on the way"):
                run()
        else:
            run()
        assert torch.equal(torch.get_rng_state(), state)
        assert all(np.array_equal(a, b) for a, b in zip(np.random.get_state(), numpy_state))


def test_after_a_failure_it_starts_afresh():
    passes = SharedPasses(Score(), N_TOKENS, 16)
    make, arguments = METHODS["KernelShap"]
    for run in (passes.attribute, passes.count):
        with pytest.raises(RuntimeError, match="on the way"):
            run(Failing(None), INPUTS, {}, 7, *[lambda *_: None] * (run == passes.attribute))
        found = passes.attribute(make(None), INPUTS, arguments, 7, lambda *_: None)
        torch.testing.assert_close(found, one_by_one(make, arguments), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("memory", [10**9, 200])
def test_runs_of_one_object_know_nothing_of_each_other(memory, monkeypatch):
    """Methods that begin with the same call."""
    monkeypatch.setattr(captum_spes.speech_to_text.passes, "GRADIENT_MEMORY", memory)
    passes = SharedPasses(Score(), N_TOKENS, 16)
    for name in ("Saliency", "Saliency", "FeatureAblation", "Occlusion", "IntegratedGradients"):
        make, arguments = METHODS[name]
        found = passes.attribute(make(None), INPUTS, arguments, 7, lambda *_: None)
        torch.testing.assert_close(found, one_by_one(make, arguments), atol=1e-5, rtol=1e-4)
    make, arguments = METHODS["Saliency"]  # which asks less than the last one
    assert passes.count(make(None), INPUTS, arguments, 7) == 1
    assert passes.count(make(None), INPUTS, arguments, 7) == 1


def test_the_seed_decides():
    make, arguments = METHODS["KernelShap"]
    first = shared(make, arguments, seed=1)
    torch.manual_seed(99)
    np.random.seed(99)
    assert torch.equal(shared(make, arguments, seed=1), first)
    assert not torch.allclose(shared(make, arguments, seed=2), first)
    assert torch.isfinite(shared(make, arguments, seed=2**40)).all()  # numpy's own seeds end at 2**32


def test_reproducible_numbers():
    device = torch.device("cpu")
    with reproducible(5, device):
        first = torch.rand(2), np.random.rand()
    with reproducible(5, device):
        assert torch.equal(torch.rand(2), first[0]) and np.random.rand() == first[1]


def test_the_inputs_and_the_method_are_left_as_found():
    make, arguments = METHODS["NoiseTunnel"]
    method, before = make(len), INPUTS.clone()
    inner = method.attribution_method
    state = dict(vars(method)), dict(vars(inner))
    SharedPasses(Score(), N_TOKENS, 16).attribute(method, INPUTS, arguments, 7, lambda *_: None)
    assert (vars(method), vars(inner)) == state and method.attribution_method is inner
    assert torch.equal(INPUTS, before) and not INPUTS.requires_grad and INPUTS.grad is None


def test_a_method_is_rewrapped_to_the_innermost():
    outer = NoiseTunnel(NoiseTunnel(IntegratedGradients(len)))
    other = rewrapped(outer, max, min)
    assert other.forward_func is other.attribution_method.forward_func is max
    innermost = other.attribution_method.attribution_method
    assert innermost.forward_func is max and innermost.gradient_func is min
    assert outer.attribution_method.attribution_method.forward_func is len
    assert type(other) is NoiseTunnel and type(innermost) is IntegratedGradients
