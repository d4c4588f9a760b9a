"""Scores against scipy and by hand, on the floor and at the edges."""

import math

import pytest
import torch
from captum.attr import FeatureAblation, IntegratedGradients
from scipy.stats import entropy

from captum_spes import SPES, KLDivergence, TokenLogProbability, TokenProbability


def identity(x):
    return x


@pytest.mark.parametrize("normalised", [True, False])
def test_kl_matches_scipy(normalised):
    torch.manual_seed(0)
    reference, prediction = torch.randn(1, 3, 7), torch.randn(4, 3, 7)
    if normalised:
        reference, prediction = reference.log_softmax(-1), prediction.log_softmax(-1)
    scores = KLDivergence(identity, reference)(prediction)
    expected = -entropy(reference.softmax(-1).numpy(), prediction.softmax(-1).numpy(), axis=-1)
    torch.testing.assert_close(scores, torch.from_numpy(expected).float(), atol=1e-5, rtol=1e-5)
    assert torch.equal(KLDivergence(identity, reference)(reference), torch.zeros(1, 3))


def test_kl_is_finite_and_never_positive():
    zeros = torch.tensor([[[1.0, 0.0, 0.0]]]).log()
    half = torch.tensor([[[0.5, 0.5, 0.0]]]).log()
    assert KLDivergence(identity, zeros)(half).item() == pytest.approx(-math.log(2))
    floor = math.log(torch.finfo(torch.float32).tiny)
    expected = 0.5 * (floor - math.log(0.5)) + 0.5 * math.log(2)
    assert KLDivergence(identity, half)(zeros).item() == pytest.approx(expected)
    huge = torch.tensor([[[1e4, -1e4, 0.0]]])
    assert KLDivergence(identity, huge)(-huge).isfinite().all()
    assert (KLDivergence(identity, huge * 1e-6)(huge * 1.0000001e-6) <= 0).all()


def test_half_precision_is_scored_in_float32():
    prediction = torch.randn(2, 3, 50).bfloat16()
    for score in (KLDivergence(identity, prediction[:1]), TokenLogProbability(identity, torch.tensor([1, 2, 3]))):
        assert score(prediction).dtype == torch.float32
        torch.testing.assert_close(score(prediction), score(prediction.float()))


def test_token_scores():
    logits = torch.randn(2, 3, 5)
    ids = torch.tensor([4, 0, 2])
    expected = logits.log_softmax(-1)[:, torch.arange(3), ids]
    torch.testing.assert_close(TokenLogProbability(identity, ids)(logits), expected)
    torch.testing.assert_close(TokenProbability(identity, ids)(logits), expected.exp())
    one = TokenProbability(identity, torch.tensor(4))(logits[:, 0])
    torch.testing.assert_close(one, expected[:, 0].exp())


def test_log_probability_is_finite():
    logits = torch.tensor([[[0.0, -torch.inf, 1.0]]])
    score = TokenLogProbability(identity, torch.tensor([1]))(logits)
    assert score.item() == pytest.approx(math.log(torch.finfo(torch.float32).tiny))


def test_reference_as_additional_forward_arg():
    """Captum expands it with the batch; batches of examples have references of their own."""
    torch.manual_seed(1)
    model = torch.nn.Linear(6, 4)
    inputs = torch.rand(3, 6)
    reference = model(inputs).detach()
    given = SPES(KLDivergence(model)).attribute(
        inputs, additional_forward_args=reference, n_samples=64, perturbations_per_eval=5
    )
    for row in range(3):
        stored = SPES(KLDivergence(model, reference[row : row + 1])).attribute(inputs[row : row + 1], n_samples=64)
        torch.testing.assert_close(given[row : row + 1], stored, atol=1e-6, rtol=1e-5)
    ids = reference.argmax(-1)
    ablation = FeatureAblation(TokenProbability(model)).attribute(inputs, additional_forward_args=ids)
    assert ablation.shape == inputs.shape


def test_gradients_flow_but_the_kl_has_none_at_its_reference():
    torch.manual_seed(2)
    model = torch.nn.Linear(6, 4)
    inputs = torch.rand(1, 6, requires_grad=True)
    reference = model(inputs).detach()
    (at_reference,) = torch.autograd.grad(KLDivergence(model, reference)(inputs).sum(), inputs)
    assert at_reference.abs().max() < 1e-6
    score = TokenLogProbability(model, reference.argmax(-1))
    attributions, delta = IntegratedGradients(score).attribute(inputs, return_convergence_delta=True)
    assert attributions.abs().max() > 1e-3 and delta.abs().max() < 1e-2


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: KLDivergence(identity, torch.zeros(1, 3, 6))(torch.zeros(2, 3, 5)), "agree in all but the batch"),
        (lambda: KLDivergence(identity, torch.zeros(3, 3, 5))(torch.zeros(2, 3, 5)), "3 rows for a batch of 2"),
        (lambda: TokenProbability(identity, torch.tensor([5, 0, 0]))(torch.zeros(2, 3, 5)), "one id below 5"),
        (lambda: TokenProbability(identity, torch.tensor([0, 0]))(torch.zeros(2, 3, 5)), "do not fit predictions"),
    ],
)
def test_misfits_are_refused(make, words):
    with pytest.raises(ValueError, match=words):
        make()
