"""SPES compared with Captum's FeatureAblation and Lime: arguments, containers, shapes, dtypes and errors.

Numbers are compared too: on a linear score FeatureAblation, and Lime with a linear regression, give the effect d_i of
each feature, and so does SPES. With ``centered=False`` it gives (1 - p) d_i + p Σ d (Eq. 3), where Σ d is the effect of
one feature that is everything.
"""

import functools
import inspect

import pytest
import torch
from captum.attr import FeatureAblation, Lime, NoiseTunnel, PerturbationAttribution
from captum.metrics import infidelity, sensitivity_max

from captum_spes import SPES, BubbleNoise
from captum_spes.attr import Energy, Random

pytestmark = [
    pytest.mark.filterwarnings("ignore:You are providing multiple inputs for Lime"),
    pytest.mark.filterwarnings("ignore:Minimum element in feature mask is not 0"),
    pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning"),
]

DEVICES = [
    "cpu",
    pytest.param(
        "cuda",
        marks=[
            pytest.mark.cuda,
            pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device is here"),
        ],
    ),
]
beside_feature_ablation = pytest.mark.parametrize("effects", ["FeatureAblation"], indirect=True)
beside_lime = pytest.mark.parametrize("effects", ["Lime"], indirect=True)


class Linear(torch.nn.Module):
    """Five outputs, linear in one input or two."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first = torch.nn.Linear(6, 5)
        self.second = torch.nn.Linear(2, 5)

    def forward(self, x: torch.Tensor, y: torch.Tensor | None = None) -> torch.Tensor:
        out = self.first(x.flatten(1))
        return out if y is None else out + self.second(y)


MODEL = Linear()
torch.manual_seed(1)
X, Y = torch.rand(4, 2, 3), torch.rand(4, 2)
WEIGHTS = torch.tensor([1.0, -2.0, 0.5, 3.0, 0.0, 0.25])
IDS = torch.arange(6).view(1, 2, 3)


def weighted(x):
    """A scorer with one linear score for each example."""
    return x.flatten(1).to(WEIGHTS) @ WEIGHTS


def as_tuple(tensors):
    return tensors if isinstance(tensors, tuple) else (tensors,)


@pytest.fixture(params=["FeatureAblation", "Lime"])
def effects(request):
    """The effect of each feature on a linear score, by one of Captum's methods."""
    torch.manual_seed(2)
    if request.param == "FeatureAblation":
        return lambda forward_func, inputs, **arguments: FeatureAblation(forward_func).attribute(inputs, **arguments)
    pytest.importorskip("sklearn", reason="Captum's Lime needs scikit-learn (extra: dev)")
    from captum._utils.models.linear_model import SkLearnLinearRegression

    def lime(forward_func, inputs, **arguments):
        return Lime(forward_func, SkLearnLinearRegression()).attribute(inputs, n_samples=20, **arguments)

    return lime


def check_alike(effects, forward_func, inputs, *, feature_mask=None, per_eval=(1, 7), tolerance=1e-4, **arguments):
    """SPES's attributions are those that follow from Captum's, in the same containers, shapes, dtypes and devices."""
    everything = tuple(torch.zeros_like(inp[:1], dtype=torch.long) for inp in as_tuple(inputs))
    for size in per_eval:
        call = {"perturbations_per_eval": size, **arguments}
        actual, equation_3 = (
            SPES(forward_func).attribute(inputs, feature_mask=feature_mask, n_samples=256, centered=centered, **call)
            for centered in (True, False)
        )
        single = effects(forward_func, inputs, feature_mask=feature_mask, **call)
        total = effects(forward_func, inputs, feature_mask=everything, **call)
        assert type(actual) is type(single)
        assert len(as_tuple(actual)) == len(as_tuple(single))
        for a, s, d, all_d in zip(*map(as_tuple, (actual, equation_3, single, total))):
            torch.testing.assert_close(a, d, atol=tolerance, rtol=tolerance)
            torch.testing.assert_close(s, 0.5 * d + 0.5 * all_d, atol=tolerance, rtol=tolerance)
            assert not a.requires_grad


# Inputs and scores


@pytest.mark.parametrize(
    ("inputs", "per_eval"),
    [(X, [1, 7]), ((X,), [7]), ((X, Y), [30]), (X[:1], [1, 7]), ((X[:1], Y[:1]), [1, 30])],
    ids=["tensor", "tuple of one", "tuple", "one example", "tuple, one example"],
)
def test_containers(effects, inputs, per_eval):
    check_alike(effects, MODEL, inputs, target=1, per_eval=per_eval)


@pytest.mark.parametrize("inputs", [torch.rand(4), torch.rand(4, 2, 1, 3)], ids=["1-d", "4-d"])
def test_ranks(effects, inputs):
    check_alike(effects, lambda x: x.reshape(len(x), -1).sum(1) * 2, inputs)


def test_an_input_without_features(effects):
    """As many previous tokens as there are before the first one: none."""
    check_alike(effects, lambda x, gate: weighted(x) + gate.sum(1), (X, torch.ones(4, 0)))
    check_alike(
        effects,
        lambda x, gate: weighted(x) + gate.sum(1),
        (X, torch.ones(4, 0)),
        feature_mask=(IDS // 2, torch.ones(1, 0, dtype=torch.long)),
    )


def test_inputs_without_any_feature():
    expected = FeatureAblation(lambda x: x.sum(1)).attribute(torch.ones(4, 0))
    assert torch.equal(SPES(lambda x: x.sum(1)).attribute(torch.ones(4, 0), n_samples=4), expected)


@pytest.mark.parametrize("other", [torch.rand(7), torch.rand(1, 2)], ids=["sparse", "one row"])
def test_inputs_of_other_batch_sizes(effects, other):
    """With one score for the whole batch and one perturbation at a time Captum asks for no equal batch sizes."""
    check_alike(effects, lambda x, y: weighted(x).sum() + y.sum(), (X, other), per_eval=[1])


@pytest.mark.parametrize(
    "dtype",
    [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.uint8, torch.bool],
    ids=str,
)
@beside_feature_ablation
def test_dtypes_of_inputs_and_scores(effects, dtype):
    inputs = (4 * X).to(dtype)

    def score(x):
        x = x if x.is_floating_point() else x.double()
        return (x.flatten(1) * WEIGHTS.to(x)).sum(1)

    tolerance = 1e-5 if dtype.itemsize > 2 or not dtype.is_floating_point else 0.1
    check_alike(effects, score, inputs, tolerance=tolerance)
    if not dtype.is_floating_point:  # the baseline is not cut down to an integer
        check_alike(effects, score, inputs, tolerance=tolerance, baselines=0.5)
        check_alike(effects, score, inputs, tolerance=tolerance, baselines=torch.full((1, 2, 3), 0.5))


def test_a_baseline_of_another_dtype_is_converted():
    """FeatureAblation would hand the model an input of the wider dtype, which its weights refuse."""
    expected = SPES(MODEL).attribute(X, baselines=X.mean(0, keepdim=True), target=1, n_samples=64)
    actual = SPES(MODEL).attribute(X, baselines=X.double().mean(0, keepdim=True), target=1, n_samples=64)
    torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize("device", DEVICES)
@beside_feature_ablation
def test_devices(effects, device):
    model = Linear().to(device)
    inputs = X.to(device), Y.to(device)
    check_alike(effects, model, inputs, per_eval=[30], target=torch.tensor([0, 1, 2, 4], device=device))
    masks = IDS // 2, torch.tensor([[9, 2]])  # on the CPU
    check_alike(effects, model, inputs, target=1, feature_mask=masks, baselines=(X.mean(0).to(device), 0.5))
    attribution = SPES(lambda x: weighted(x.cpu())).attribute(inputs[0], n_samples=64, perturbations_per_eval=7)
    assert attribution.device == inputs[0].device


GROWING = {
    "(B,)": weighted,
    "(B, 1)": lambda x: weighted(x)[:, None],
}
GROWING_OF_SEVERAL = {
    "(B, K)": MODEL,
    "(B, K, L)": lambda x: MODEL(x)[..., None] * torch.arange(1, 3),
    "(2 B,)": lambda x: x.flatten(1)[:, :2].flatten(),
}
FIXED = {
    "float": lambda x: float(weighted(x).sum()),
    "0-d": lambda x: weighted(x).sum(),
    "(1,)": lambda x: weighted(x).sum()[None],
}
FIXED_OF_SEVERAL = {"(7,)": lambda x: weighted(x).sum() * torch.arange(7)}


@pytest.mark.parametrize("score", GROWING.values(), ids=GROWING)
def test_scores_for_each_example(effects, score):
    check_alike(effects, score, X)


@pytest.mark.parametrize("score", GROWING_OF_SEVERAL.values(), ids=GROWING_OF_SEVERAL)
@beside_feature_ablation
def test_several_scores_for_each_example(effects, score):
    """Inputs that Lime refuses."""
    check_alike(effects, score, X)
    check_alike(effects, score, X[:1])


@pytest.mark.parametrize("score", [*FIXED.values(), *FIXED_OF_SEVERAL.values()], ids=[*FIXED, *FIXED_OF_SEVERAL])
@beside_feature_ablation
def test_scores_for_the_whole_batch(effects, score):
    check_alike(effects, score, X, per_eval=[1])
    for method, error, counts in ((FeatureAblation, AssertionError, {}), (SPES, ValueError, {"n_samples": 64})):
        with pytest.raises(error, match=r"perturbations_per_eval( > 1, forward_func's output|=1)"):
            method(score).attribute(X, perturbations_per_eval=7, **counts)


@beside_lime
@pytest.mark.parametrize("score", [FIXED["0-d"], FIXED["(1,)"]], ids=["0-d", "(1,)"])
def test_scores_for_the_whole_batch_as_in_lime(effects, score):
    check_alike(effects, score, X, per_eval=[1])


def test_integer_scores_have_attributions_that_are_no_integers():
    """FeatureAblation's are differences and stay integers; SPES's are means."""
    ints = (10 * X).long()
    for score in (lambda x: x.sum((1, 2)), lambda x: int(x.sum())):
        actual = SPES(score).attribute(ints, n_samples=64, centered=False)
        in_double = SPES(lambda x, score=score: torch.as_tensor(score(x)).double())
        expected = in_double.attribute(ints, n_samples=64, centered=False)
        assert FeatureAblation(score).attribute(ints).dtype == torch.int64
        assert actual.is_floating_point() and (actual % 1).any()
        torch.testing.assert_close(actual, expected, check_dtype=False)


# Targets, baselines, additional arguments

CHOSEN = [0, 1, 2, 4]
PER_EXAMPLE = {"tensor": torch.tensor(CHOSEN), "list": CHOSEN, "list of tuples": [(index,) for index in CHOSEN]}
TARGETS = {"int": 1, "negative": -1, "tuple": (1,), "tensor of one": torch.tensor([1]), **PER_EXAMPLE}
PAIR_TARGETS = {"pair": (1, 0), "list of pairs": [(0, 0), (1, 1), (2, 0), (4, 1)]}


@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
def test_targets(effects, target):
    check_alike(effects, MODEL, (X, Y), target=target, per_eval=[30])


@pytest.mark.parametrize("target", [torch.tensor(1), (slice(1, 3),), None], ids=["0-d", "slice", "none"])
@beside_feature_ablation
def test_targets_that_lime_refuses(effects, target):
    check_alike(effects, MODEL, X, target=target)


@pytest.mark.parametrize("target", PAIR_TARGETS.values(), ids=PAIR_TARGETS)
def test_targets_among_scores_of_three_dimensions(effects, target):
    check_alike(effects, GROWING_OF_SEVERAL["(B, K, L)"], X, target=target, per_eval=[7])


@pytest.mark.parametrize("target", [1, (1,), PER_EXAMPLE["list of tuples"]], ids=["int", "tuple", "list of tuples"])
@beside_feature_ablation
def test_targets_that_leave_several_scores(effects, target):
    check_alike(effects, GROWING_OF_SEVERAL["(B, K, L)"], X, target=target)


def test_a_target_for_each_example_selects_its_own():
    for target in PER_EXAMPLE.values():
        together = SPES(MODEL).attribute(X, target=target, n_samples=40, perturbations_per_eval=7)
        for row, index in enumerate(CHOSEN):
            alone = SPES(MODEL).attribute(X[row : row + 1], target=index, n_samples=40, perturbations_per_eval=7)
            torch.testing.assert_close(together[row : row + 1], alone)


@pytest.mark.parametrize(
    "target",
    [torch.tensor([0, 1]), [0, 1], [0], [(0,), (1,)], 7, (1, 1), torch.tensor(1.5), "one", [0, 1, 2, 9]],
    ids=str,
)
def test_wrong_targets_fail_as_in_feature_ablation(target):
    with pytest.raises((AssertionError, IndexError, RuntimeError)) as expected:
        FeatureAblation(MODEL).attribute(X, target=target)
    with pytest.raises(expected.type) as actual:
        SPES(MODEL).attribute(X, target=target, n_samples=10)
    assert str(actual.value) == str(expected.value)


BASELINES = {
    "none": None,
    "int": 1,
    "float": 0.5,
    "as the input": torch.rand(4, 2, 3),
    "one row": torch.rand(1, 2, 3),
    "a mean of each channel": torch.rand(1, 1, 3),
    "one for each example": torch.rand(4, 1, 1),
    "without a batch": torch.rand(2, 3),
    "channels alone": torch.rand(3),
    "one number": torch.rand(1),
}


@pytest.mark.parametrize("baselines", BASELINES.values(), ids=BASELINES)
def test_baselines(effects, baselines):
    check_alike(effects, MODEL, X, target=1, baselines=baselines, per_eval=[7])


@pytest.mark.parametrize(
    "baselines",
    [None, (0.5, 1), (torch.rand(4, 2, 3), torch.rand(1, 2)), (torch.rand(1, 1, 3), 0.0), (1, torch.rand(4, 2))],
    ids=["none", "numbers", "tensors", "tensor and number", "number and tensor"],
)
def test_baselines_of_a_tuple(effects, baselines):
    check_alike(effects, MODEL, (X, Y), target=1, baselines=baselines, per_eval=[30])


@beside_feature_ablation
def test_a_baseline_without_dimensions(effects):
    check_alike(effects, MODEL, X, target=1, baselines=torch.tensor(0.5), per_eval=[7])
    check_alike(effects, MODEL, (X, Y), target=1, baselines=(torch.tensor(0.5), 0.0), per_eval=[30])


@pytest.mark.parametrize(
    "args",
    [
        None,
        "word",
        2.0,
        [1, 2],
        torch.tensor([1, 2, 3, 4]),
        torch.tensor(4.0),
        (torch.rand(4, 1), 2.0, None),
        (torch.tensor(4.0), {"a": 1}, torch.rand(4, 2, 2)),
    ],
    ids=["none", "str", "float", "list", "tensor", "0-d", "tuple", "mixture"],
)
@pytest.mark.parametrize("inputs", [X, (X, Y)], ids=["tensor", "tuple"])
def test_additional_forward_args_arrive_as_from_feature_ablation(args, inputs):
    def seen_by(method, **counts):
        calls = []

        def score(*given):
            further = given[len(as_tuple(inputs)) :]
            calls.append([arg.tolist() if isinstance(arg, torch.Tensor) else arg for arg in further])
            return given[0].sum((1, 2))

        method(score).attribute(inputs, additional_forward_args=args, perturbations_per_eval=5, **counts)
        return calls

    n_features = sum(inp[0].numel() for inp in as_tuple(inputs))  # 6 or 8: batches of 1, 5 and what is left
    assert seen_by(SPES, n_samples=n_features) == seen_by(FeatureAblation)


def test_additional_forward_args_meet_their_examples(effects):
    scale = torch.tensor([[1.0], [2.0], [3.0], [5.0]])
    check_alike(effects, lambda x, scale: MODEL(x) * scale, X, target=CHOSEN, additional_forward_args=(scale,))


# Feature masks

MASKS = {
    "shared": IDS // 2,
    "for each example": torch.arange(24).view(4, 2, 3) // 3,
    "other numbers of features": torch.stack([IDS[0], IDS[0] // 2, IDS[0] // 6, IDS[0] % 2]),
    "rows": torch.tensor([[[4], [3]]]),
    "channels": torch.tensor([[[2, 0, 2]]]),
    "one for each example": torch.tensor([[[0]], [[1]], [[2]], [[3]]]),
    "gaps": IDS * 2 + 5,
    "scattered": torch.tensor([[[8, 8, 3], [3, 8, 5]]]),
}
MASKS_WITHOUT_A_BATCH = {
    "frames and channels": IDS[0] // 2,
    "frames": torch.tensor([[4], [3]]),
    "channels": torch.tensor([2, 0, 2]),
    "one": torch.tensor([4]),
}


@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
def test_feature_masks(effects, mask):
    check_alike(effects, MODEL, X, target=1, feature_mask=mask, per_eval=[1, 3])


@pytest.mark.parametrize("mask", MASKS_WITHOUT_A_BATCH.values(), ids=MASKS_WITHOUT_A_BATCH)
def test_feature_masks_without_a_batch(effects, mask):
    """With several perturbations in a batch FeatureAblation takes the perturbations for the batch of such a mask."""
    check_alike(effects, MODEL, X, target=1, feature_mask=mask, per_eval=[1])
    arguments = {"target": 1, "n_samples": 64, "perturbations_per_eval": 7}
    expected = SPES(MODEL).attribute(X, feature_mask=mask.expand(1, 2, 3), **arguments)
    assert torch.equal(SPES(MODEL).attribute(X, feature_mask=mask, **arguments), expected)


@pytest.mark.parametrize("mask", [torch.tensor(4), IDS - 3, IDS.to(torch.int8), IDS > 2], ids=str)
@beside_feature_ablation
def test_feature_masks_that_lime_refuses(effects, mask):
    check_alike(effects, MODEL, X, target=1, feature_mask=mask, per_eval=[1, 3])


MASK_TUPLES = {
    "own ids": (IDS // 2, torch.tensor([[10, 11]])),
    "shared ids": (IDS // 2, torch.tensor([[2, 7]])),
    "one for each example": (IDS // 3, 10 + torch.arange(8).view(4, 2)),
    "shared, for each example": (MASKS["for each example"], torch.tensor([[0, 5], [2, 2], [9, 4], [7, 6]])),
}


@pytest.mark.parametrize("masks", MASK_TUPLES.values(), ids=MASK_TUPLES)
def test_feature_masks_of_a_tuple(effects, masks):
    check_alike(effects, MODEL, (X, Y), target=CHOSEN, feature_mask=masks, per_eval=[7])


def test_shared_ids_are_one_feature():
    """A score that falls only where both places are hidden: together they decide it, apart neither does."""

    def attribute(method, *masks, **counts):
        masks = tuple(torch.tensor([mask]) for mask in masks)
        ones = torch.ones(1, 2)
        score = lambda x, y: torch.maximum(x[:, 1], y[:, 0])  # noqa: E731
        return torch.cat(method(score).attribute((ones, ones), feature_mask=masks, **counts), dim=1)[0].tolist()

    # the impact is 1 whenever feature 1 is hidden, and it is hidden in half of the perturbations that hide another
    assert attribute(FeatureAblation, [0, 1], [1, 2]) == [0, 1, 1, 0]
    assert attribute(SPES, [0, 1], [1, 2], n_samples=8, centered=False) == [0.5, 1, 1, 0.5]
    assert attribute(SPES, [0, 1], [1, 2], n_samples=8) == [0, 1, 1, 0]
    # x[1] and y[0] are hidden together in a quarter of all, in half of those that hide one of them
    assert attribute(FeatureAblation, [0, 1], [2, 3]) == [0, 0, 0, 0]
    assert attribute(SPES, [0, 1], [2, 3], n_samples=16, centered=False) == [0.25, 0.5, 0.5, 0.25]
    assert attribute(SPES, [0, 1], [2, 3], n_samples=16) == [0, 0.5, 0.5, 0]


def test_sampling_ranks_as_feature_ablation():
    weights = torch.linspace(-1, 2, 24)[torch.randperm(24, generator=torch.Generator().manual_seed(0))]
    inputs = torch.ones(1, 4, 6)

    def ranks(method, **counts):
        attribution = method(lambda x: x.flatten(1) @ weights).attribute(inputs, perturbations_per_eval=64, **counts)
        return attribution.flatten().argsort().argsort().double()

    spearman = torch.corrcoef(torch.stack([ranks(SPES, n_samples=4000), ranks(FeatureAblation)]))[0, 1]
    assert spearman > 0.97


# Errors: what fails in Captum fails here, by a ValueError that names the argument

REFUSED_BY_BOTH = {
    "list of inputs": (AssertionError, "tuple", {"inputs": [X]}),
    "a row of channels too long": (RuntimeError, "baselines", {"baselines": torch.rand(4)}),
    "one row too wide": (RuntimeError, "baselines", {"baselines": torch.rand(1, 2, 4)}),
    "two rows for four": (RuntimeError, "baselines", {"baselines": torch.rand(2, 2, 3)}),
    "a list of baselines": (AssertionError, "baseline", {"baselines": [0.5]}),
    "no number": (AssertionError, "baseline", {"baselines": "zero"}),
    "no baseline in a tuple": (AssertionError, "baseline", {"inputs": (X, Y), "baselines": (None, 0.0)}),
    "one baseline for two": (IndexError, "baselines", {"inputs": (X, Y), "baselines": 0.5}),
    "a mask too wide": (RuntimeError, "feature_mask", {"feature_mask": torch.zeros(1, 2, 4).long()}),
    "two masks for four": (RuntimeError, "feature_mask", {"feature_mask": torch.zeros(2, 2, 3).long()}),
    "no perturbation": (AssertionError, "perturbations_per_eval", {"perturbations_per_eval": 0}),
    "half a perturbation": (AssertionError, "perturbations_per_eval", {"perturbations_per_eval": 1.5}),
}
REFUSED_BY_SPES = {
    "two baselines for one": ("baselines", {"baselines": (0.0, 0.0)}),
    "a baseline of more dimensions": ("baselines", {"baselines": torch.rand(1, 4, 2, 3)}),
    "one mask for two": ("feature_mask", {"inputs": (X, Y), "feature_mask": IDS}),
    "two masks for one": ("feature_mask", {"feature_mask": (IDS, IDS)}),
    "no example": (r"inputs\[0\]", {"inputs": X[:0]}),
}


def attribute(method, arguments, **counts):
    """One score for each example of one input or two."""
    score = lambda x, y=None: weighted(x)  # noqa: E731
    return method(score).attribute(**{"inputs": X, **arguments}, **counts)


@pytest.mark.parametrize(("error", "words", "arguments"), REFUSED_BY_BOTH.values(), ids=REFUSED_BY_BOTH)
def test_what_captum_refuses_is_refused(error, words, arguments):
    with pytest.raises(error):
        attribute(FeatureAblation, arguments)
    with pytest.raises(ValueError, match=words):
        attribute(SPES, arguments, n_samples=10)


@pytest.mark.parametrize(("words", "arguments"), REFUSED_BY_SPES.values(), ids=REFUSED_BY_SPES)
def test_what_feature_ablation_takes_in_silence_is_refused(words, arguments):
    attribute(FeatureAblation, arguments)
    with pytest.raises(ValueError, match=words):
        attribute(SPES, arguments, n_samples=10)


def test_examples_share_their_features_where_they_share_a_score():
    mask = MASKS["for each example"]
    with pytest.raises(RuntimeError):
        FeatureAblation(FIXED["0-d"]).attribute(X, feature_mask=mask)
    with pytest.raises(ValueError, match="whose batch dimension is 1"):
        SPES(FIXED["0-d"]).attribute(X, feature_mask=mask, n_samples=64)


# Models

FORMS = {
    "module": lambda model: model,
    "data parallel": torch.nn.DataParallel,
    "script": torch.jit.script,
    "trace": lambda model: torch.jit.trace(model, torch.rand(1, 2, 3).to(model.first.weight)),
    "partial": functools.partial,
    "lambda": lambda model: lambda x: model(x),
    "method": lambda model: model.forward,
    "compiled": lambda model: torch.compile(model, backend="eager"),
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
@beside_feature_ablation
def test_forms_of_a_model(effects, form):
    device = "cuda" if torch.cuda.is_available() else "cpu"  # where DataParallel wants the module
    model, inputs = Linear().to(device), X.to(device)
    check_alike(effects, form(model), inputs, target=CHOSEN, per_eval=[7])
    plain = SPES(model).attribute(inputs, target=1, n_samples=64)
    torch.testing.assert_close(SPES(form(model)).attribute(inputs, target=1, n_samples=64), plain)


class Restless(Linear):
    """A model with a part in the other mode, a frozen weight and a call that fails."""

    def __init__(self, training):
        super().__init__()
        self.train(training)
        self.second.train(not training)
        self.first.weight.requires_grad_(False)
        self.fails_at = None
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        assert not torch.is_grad_enabled()
        if self.calls == self.fails_at:
            raise RuntimeError("the model has had enough")
        return super().forward(x)


def state_of(model):
    return {
        "modes": [module.training for module in model.modules()],
        "hooks": [[*module._forward_hooks, *module._forward_pre_hooks] for module in model.modules()],
        "grads": [(p.requires_grad, p.grad) for p in model.parameters()],
        "values": [p.tolist() for p in model.parameters()],
        "rng": torch.get_rng_state().tolist(),
    }


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("fails_at", [None, 1, 3], ids=["runs", "fails at first", "fails in between"])
def test_the_model_is_left_as_found(training, fails_at):
    model = Restless(training)
    model.fails_at = fails_at
    before, after = [], []
    model.first.register_forward_pre_hook(lambda module, given: before.append(len(given[0])))
    model.first.register_forward_hook(lambda module, given, output: after.append(len(output)))
    found = state_of(model)
    if fails_at is None:
        SPES(model).attribute(X, target=0, n_samples=10, perturbations_per_eval=4)
        assert before == after == [4, 16, 16, 8]  # one pass for each batch, and the user's hooks see it
    else:
        with pytest.raises(RuntimeError, match="had enough"):
            SPES(model).attribute(X, target=0, n_samples=10, perturbations_per_eval=4)
        assert len(after) == fails_at - 1
    assert state_of(model) == found
    assert torch.is_grad_enabled()


def test_the_arguments_are_left_as_found():
    mask, baselines, args = MASKS["for each example"].clone(), torch.rand(4, 2, 3), torch.rand(4, 1)
    inputs, target = X.clone().requires_grad_(), torch.tensor(CHOSEN)
    given = [inputs, mask, baselines, args, target]
    copies = [tensor.detach().clone() for tensor in given]
    versions = [tensor._version for tensor in given]
    attribution = SPES(lambda x, scale: MODEL(x) * scale).attribute(
        inputs, baselines, target, args, mask, n_samples=64, perturbations_per_eval=7
    )
    assert not attribution.requires_grad
    assert inputs.requires_grad and inputs.grad is None
    assert all(torch.equal(tensor, copy) for tensor, copy in zip(given, copies))
    assert [tensor._version for tensor in given] == versions
    plain = SPES(lambda x, scale: MODEL(x) * scale).attribute(
        copies[0], baselines, target, args, mask, n_samples=64, perturbations_per_eval=7
    )
    assert torch.equal(attribution, plain)


# The class


@pytest.mark.parametrize("method", [FeatureAblation, Lime])
def test_the_arguments_are_captums_in_captums_order(method):
    ours, theirs = (inspect.signature(cls.attribute).parameters for cls in (SPES, method))
    shared = [name for name in ours if name in theirs]
    assert shared == [name for name in theirs if name in ours]
    assert set(theirs) - set(shared) <= {"kwargs", "return_input_shape"}
    for name in set(shared) - {"n_samples"}:
        assert (ours[name].kind, ours[name].default) == (theirs[name].kind, theirs[name].default)
    own = [parameter for name, parameter in ours.items() if name not in shared and name != "n_samples"]
    assert own and all(parameter.kind is inspect.Parameter.KEYWORD_ONLY for parameter in own)


def test_arguments_by_position():
    given = (X, 0.5, CHOSEN, torch.rand(4, 1), IDS // 2)
    names = ("inputs", "baselines", "target", "additional_forward_args", "feature_mask")
    spes = SPES(lambda x, scale: MODEL(x) * scale)
    by_name = spes.attribute(**dict(zip(names, given)), n_samples=64, perturbations_per_eval=7)
    assert torch.equal(spes.attribute(*given, 64, 7, False), by_name)


def test_the_class_answers_as_captums():
    spes, ablation = SPES(MODEL), FeatureAblation(MODEL)
    assert isinstance(spes, PerturbationAttribution)
    assert SPES.get_name() == "SPES"
    assert spes.has_convergence_delta() is ablation.has_convergence_delta() is False
    assert hasattr(spes, "compute_convergence_delta") is hasattr(ablation, "compute_convergence_delta")
    assert spes.multiplies_by_inputs is ablation.multiplies_by_inputs
    # Captum's wrappers call the method below its log, and swap its forward function
    unlogged = SPES.attribute.__wrapped__(spes, X, target=1, n_samples=64)
    assert torch.equal(unlogged, spes.attribute(X, target=1, n_samples=64))
    spes.forward_func = lambda x: 2 * MODEL(x)
    torch.testing.assert_close(spes.attribute(X, target=1, n_samples=64), 2 * unlogged)
    with pytest.raises(NotImplementedError, match="use attribute"):
        spes.attribute_future(X, target=1)


# Captum's tools around it


@pytest.mark.parametrize("batch_size", [None, 2])
@pytest.mark.parametrize("inputs", [X, (X, Y)], ids=["tensor", "tuple"])
def test_noise_tunnel(inputs, batch_size):
    """The mean over noisy inputs of linear attributions is linear in them, so FeatureAblation's oracle holds."""
    several = isinstance(inputs, tuple)
    masks = (MASKS["for each example"], torch.tensor([[7, 8]]))
    baselines = (torch.rand(4, 2, 3), torch.rand(1, 2))
    arguments = {
        "target": torch.tensor(CHOSEN),
        "baselines": baselines if several else baselines[0],
        "feature_mask": masks if several else masks[0],
    }

    def smooth(method, *_, **given):
        torch.manual_seed(0)
        return NoiseTunnel(method(MODEL)).attribute(
            inputs, nt_samples=4, nt_samples_batch_size=batch_size, stdevs=0.1, **{**arguments, **given}
        )

    actual = smooth(SPES, n_samples=256, perturbations_per_eval=5)
    single = smooth(FeatureAblation)
    assert type(actual) is type(single)
    for a, d in zip(as_tuple(actual), as_tuple(single)):
        torch.testing.assert_close(a, d, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("inputs", [X, (X, Y)], ids=["tensor", "tuple"])
def test_infidelity(inputs):
    """Attributions explain the model's answer to noise better than the opposite ones do."""
    attribution = SPES(MODEL).attribute(inputs, target=1, n_samples=256, perturbations_per_eval=16)
    opposite = tuple(-a for a in as_tuple(attribution)) if isinstance(inputs, tuple) else -attribution

    def perturb(given, *_):
        kept = [(torch.rand_like(inp) > 0.5).to(inp) for inp in as_tuple(given)]
        noise = tuple(1 - keep for keep in kept)
        perturbed = tuple(inp * keep for inp, keep in zip(as_tuple(given), kept))
        return (noise, perturbed) if isinstance(given, tuple) else (noise[0], perturbed[0])

    def measure(given):
        torch.manual_seed(0)
        return infidelity(MODEL, perturb, inputs, given, target=1, n_perturb_samples=50)

    assert measure(attribution).shape == (4,)
    assert (measure(attribution) < measure(opposite)).all()


@pytest.mark.parametrize("inputs", [X, (X, Y)], ids=["tensor", "tuple"])
def test_sensitivity_max(inputs):
    """An input that is the same has the same attributions, since a seed is all that masks depend on."""
    arguments = {"target": torch.tensor(CHOSEN), "n_samples": 50, "perturbations_per_eval": 7}
    explain = SPES(MODEL).attribute
    same = sensitivity_max(explain, inputs, perturb_func=lambda given: given, n_perturb_samples=3, **arguments)
    assert (same < 1e-5).all()  # but for the last digits of another batch size
    assert (sensitivity_max(explain, inputs, perturb_radius=0.1, n_perturb_samples=3, **arguments) > 1e-3).all()


def test_visualize_image_attr():
    from captum.attr import visualization

    attribution = SPES(weighted).attribute(X, n_samples=64)[0]
    image = attribution.T[..., None].numpy()  # mel channels upwards, frames to the right
    _, axes = visualization.visualize_image_attr(image, sign="all", outlier_perc=0, use_pyplot=False)
    drawn = torch.as_tensor(axes.images[0].get_array().data)
    torch.testing.assert_close(drawn, attribution.T / attribution.abs().max(), check_dtype=False)


@pytest.mark.parametrize("method", [Random, Energy])
def test_floors_go_where_captums_methods_go(method):
    x = torch.rand(2, 4)
    assert NoiseTunnel(method(MODEL)).attribute(x, nt_samples=2).shape == x.shape
    assert sensitivity_max(method(MODEL).attribute, x).shape == (2,)
    first, second = method(MODEL).attribute((x, x[:, :2]))
    assert first.shape == x.shape and second.shape == (2, 2)
    integers = method(MODEL).attribute(torch.tensor([[3, 4]]))
    assert integers.any()


def test_graphs_of_a_model_that_needs_gradients_are_not_kept():
    def forward(x):
        with torch.enable_grad():
            return (x * torch.ones(4, requires_grad=True)).sum(1)

    for method in (SPES, BubbleNoise):
        x = torch.rand(1, 4) if method is SPES else torch.rand(1, 20, 16)
        score = forward if method is SPES else lambda x: forward(x[:, :4, 0])
        assert not method(score).attribute(x, n_samples=8).requires_grad


def test_random_maps_of_other_inputs_are_others():
    """Of the same seed, the maps follow from the inputs."""
    found = []
    for inputs in (torch.zeros(1, 9), torch.zeros(1, 9), torch.ones(1, 9)):
        torch.manual_seed(0)
        found.append(Random(torch.sum).attribute(inputs))
    assert torch.equal(found[0], found[1]) and not torch.equal(found[0], found[2])
