"""Forward functions, compared with scipy and closed forms, also at the smallest probabilities."""

import itertools
import math

import pytest
import torch
from captum.attr import DeepLift, FeatureAblation, IntegratedGradients
from scipy.stats import entropy

from captum_spes import SPES, KLDivergence, TokenLogProbability, TokenProbability
from captum_spes.forward_func import ContrastiveProbability, TokenLogit


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
    itself = KLDivergence(identity, reference)(reference)
    torch.testing.assert_close(itself, torch.zeros(1, 3), atol=1e-6, rtol=0)
    assert (itself <= 0).all()
    # without gradients it works in place, on values of its own
    before = prediction.clone().requires_grad_()
    assert torch.equal(KLDivergence(identity, reference)(before).detach(), scores)
    assert torch.equal(before, prediction)


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


def test_token_logit_is_centred_and_linear():
    torch.manual_seed(3)
    logits, other = torch.randn(2, 2, 3, 5)
    ids = torch.tensor([4, 0, 2])
    score = TokenLogit(identity, ids)
    expected = logits[:, torch.arange(3), ids] - logits.mean(-1)
    torch.testing.assert_close(score(logits), expected)
    torch.testing.assert_close(score(logits.log_softmax(-1)), expected)
    torch.testing.assert_close(score(2 * logits - other), 2 * score(logits) - score(other))
    assert score(1e4 * logits).abs().max() > 1e3  # no floor
    made = TokenLogit.from_prediction(identity, logits[:1], ids)
    torch.testing.assert_close(made(logits), expected)


class Scored(torch.nn.Module):
    """A network and its score in one module, as DeepLift takes them."""

    def __init__(self, network, score):
        super().__init__()
        self.network = network
        self.score = score

    def forward(self, inputs):
        return self.score(self.network, torch.tensor([1]))(inputs)


@pytest.mark.parametrize(("score", "complete"), [(TokenLogit, True), (TokenLogProbability, False)])
def test_deep_lift_is_complete_for_the_logit(score, complete):
    torch.manual_seed(4)
    network = torch.nn.Sequential(torch.nn.Linear(6, 16), torch.nn.ReLU(), torch.nn.Linear(16, 4, bias=False))
    model = Scored(network, score)
    inputs, baselines = 3 * torch.randn(1, 6), torch.randn(1, 6)
    attributions = DeepLift(model).attribute(inputs, baselines)
    delta = attributions.sum() - (model(inputs) - model(baselines)).sum()
    assert (delta.abs() < 1e-4) == complete


VOCABULARY = 5  # a language of two beginnings of words, two continuations and the end of the text
STARTS = torch.tensor([True, True, False, False, True])


def markov(seed):
    """Transition probabilities of a first-order language model, (V, V)."""
    return torch.randn(VOCABULARY, VOCABULARY, generator=torch.Generator().manual_seed(seed)).softmax(-1)


def teacher_forced(transitions, context, word):
    """The model's predictions before each token of the word and after its last, (1, n + 1, V)."""
    return transitions[[context, *word]].log()[None]


def probability_of_word(transitions, context, word):
    """By counting all texts: how often the tokens up to the next beginning of a word are this word.

    Among the texts that go on as this word does: with a new word, or (unmarked) with anything else.
    """
    starts, transitions = STARTS.tolist(), transitions.tolist()
    matching = total = 0.0
    for text in itertools.product(range(VOCABULARY), repeat=len(word) + 2):
        if starts[text[0]] != starts[word[0]]:
            continue
        probability = math.prod(transitions[a][b] for a, b in zip((context, *text), text))
        total += probability
        following = [position for position in range(1, len(text)) if starts[text[position]]]
        if following and text[: following[0]] == word:
            matching += probability
    return matching / total


@pytest.mark.parametrize(
    ("target", "foil"),
    [((0,), (1,)), ((0,), (1, 2)), ((0, 2), (0, 2, 3)), ((1, 3, 3), (0,)), ((0,), (4,)), ((2,), (3, 2))],
)
def test_words_are_counted_as_words(target, foil):
    """Brute force is the oracle. (0, 2) begins like (0, 2, 3); 4 ends the text; (2,) and (3, 2) begin unmarked."""
    for seed, context in itertools.product(range(3), (2, 0)):
        transitions = markov(seed)
        p_target, p_foil = (probability_of_word(transitions, context, word) for word in (target, foil))

        def predictions(scale, transitions=transitions, context=context):
            return [scale[:, None, None] + teacher_forced(transitions, context, word) for word in (target, foil)]

        scale = torch.tensor([0.0, 3.0, -2.0])  # shifts logits only
        relative = ContrastiveProbability(predictions, target, foil, STARTS)(scale)
        torch.testing.assert_close(relative, torch.full((3,), p_target / (p_target + p_foil)))
        difference = ContrastiveProbability(predictions, target, foil, STARTS, difference=True)(scale)
        torch.testing.assert_close(difference, torch.full((3,), p_target - p_foil), atol=1e-6, rtol=1e-5)


def test_without_word_starts_a_word_is_the_product_of_its_tokens():
    transitions = markov(0)
    target, foil = (0, 2), (1,)

    def predictions(_):
        return teacher_forced(transitions, 3, target), teacher_forced(transitions, 3, foil)

    p_target, p_foil = transitions[3, 0] * transitions[0, 2], transitions[3, 1]
    score = ContrastiveProbability(predictions, torch.tensor(target), torch.tensor(foil))
    torch.testing.assert_close(score(torch.zeros(1)), (p_target / (p_target + p_foil))[None])
    score = ContrastiveProbability(predictions, target, foil, difference=True)
    torch.testing.assert_close(score(torch.zeros(1)), (p_target - p_foil)[None])


def test_single_tokens_in_closed_form():
    logits = torch.randn(4, 7, generator=torch.Generator().manual_seed(0))
    probs = logits.softmax(-1)
    score = ContrastiveProbability(identity, [2], [5])
    torch.testing.assert_close(score(logits), probs[:, 2] / (probs[:, 2] + probs[:, 5]))
    torch.testing.assert_close(score(logits), torch.sigmoid(logits[:, 2] - logits[:, 5]))
    score = ContrastiveProbability(identity, [2], [5], difference=True)
    torch.testing.assert_close(score(logits), probs[:, 2] - probs[:, 5])
    half = ContrastiveProbability(identity, [2], [5])(logits.bfloat16())
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, ContrastiveProbability(identity, [2], [5])(logits.bfloat16().float()))


@pytest.mark.parametrize("word_starts", [None, STARTS])
@pytest.mark.parametrize("spread", [1.0, 100.0])
def test_swapping_the_words_mirrors_the_score(word_starts, spread):
    generator = torch.Generator().manual_seed(1)
    target = spread * torch.randn(6, 3, VOCABULARY, generator=generator)
    foil = spread * torch.randn(6, 2, VOCABULARY, generator=generator)
    foil[:, 0] = target[:, 0]  # the same context
    there = ContrastiveProbability(lambda x, y: (x, y), [0, 2], [1], word_starts)(target, foil)
    back = ContrastiveProbability(lambda x, y: (y, x), [1], [0, 2], word_starts)(target, foil)
    assert ((there >= 0) & (there <= 1)).all()
    torch.testing.assert_close(there, 1 - back)
    there = ContrastiveProbability(lambda x, y: (x, y), [0, 2], [1], word_starts, True)(target, foil)
    back = ContrastiveProbability(lambda x, y: (y, x), [1], [0, 2], word_starts, True)(target, foil)
    assert (there.abs() <= 1 + 1e-6).all()
    torch.testing.assert_close(there, -back)


def test_words_of_hardly_any_probability_are_still_compared():
    logits = torch.tensor([[0.0, -300.0, -301.0], [0.0, -torch.inf, -300.0], [0.0, -torch.inf, -torch.inf]])
    logits.requires_grad_()
    scores = ContrastiveProbability(identity, [1], [2])(logits)
    torch.testing.assert_close(scores, torch.tensor([1 / (1 + math.exp(-1)), 0.0, 0.5]))
    (gradient,) = torch.autograd.grad(scores.sum(), logits)
    assert gradient.isfinite().all() and gradient[0].abs().max() > 0.1
    # a context in which no word may begin, and a word that cannot end
    stuck = torch.tensor([[[-torch.inf] * 2 + [0.0, 0.0, -torch.inf]] * 2]).requires_grad_()
    for difference in (False, True):
        score = ContrastiveProbability(lambda x: (x, x), [0], [1], STARTS, difference)(stuck)
        (gradient,) = torch.autograd.grad(score.sum(), stuck)
        assert score.isfinite().all() and gradient.isfinite().all()


@pytest.mark.parametrize("difference", [False, True])
def test_gradients_of_the_contrast(difference):
    generator = torch.Generator().manual_seed(2)
    target = torch.randn(1, 3, VOCABULARY, generator=generator).requires_grad_()
    foil = torch.randn(1, 2, VOCABULARY, generator=generator)
    score = ContrastiveProbability(lambda x: (x, foil), [0, 2], [1], STARTS, difference)
    (gradient,) = torch.autograd.grad(score(target).sum(), target)
    step = 1e-2
    for position in itertools.product(range(3), range(VOCABULARY)):
        moved = torch.zeros_like(target)
        moved[0, position[0], position[1]] = step
        slope = (score(target + moved) - score(target - moved)).item() / (2 * step)
        assert gradient[0, position[0], position[1]].item() == pytest.approx(slope, abs=1e-4)


@pytest.mark.parametrize("difference", [20.0, -20.0])
def test_the_gradient_of_a_sure_contrast_is_not_zero(difference):
    """By hand, s (1 - s) of s = 1 / (1 + exp(-difference)), which float32 rounds to 1 for the first."""
    logits = torch.tensor([[difference, 0.0, -1e4]]).requires_grad_()
    score = ContrastiveProbability(lambda x: x, [0], [1])(logits)
    (gradient,) = torch.autograd.grad(score.sum(), logits)
    expected = math.exp(-20) / (1 + math.exp(-20)) ** 2
    assert gradient[0].tolist() == pytest.approx([expected, -expected, 0], rel=1e-4)


@pytest.mark.parametrize("difference", [False, True])
def test_evidence_for_the_target_and_for_the_foil_have_opposite_signs(difference):
    """Feature 0 makes only the target likely, feature 1 only the foil, feature 2 both alike, feature 3 neither."""
    transitions = torch.full((VOCABULARY, VOCABULARY), 1 / VOCABULARY)
    words = (0, 3, 2), (1, 2, 2)

    def predictions(inputs):
        evidence = torch.zeros(len(inputs), 4, VOCABULARY)  # speaks at each word's first token
        evidence[:, 0, 0] = inputs[:, 0] + inputs[:, 2]
        evidence[:, 0, 1] = inputs[:, 1] + inputs[:, 2]
        return [teacher_forced(transitions, 2, word) + evidence for word in words]

    score = ContrastiveProbability(predictions, *words, STARTS, difference)
    inputs = torch.full((1, 4), 2.0)
    ablation = FeatureAblation(score).attribute(inputs)[0]
    spes = SPES(score).attribute(inputs, n_samples=2000, perturbations_per_eval=100)[0]
    scale = score(torch.tensor([[2.0, 0, 0, 0]])) - score(torch.zeros(1, 4))  # what the evidence for the target can do
    for attribution in (ablation, spes):
        assert attribution[0] > 0.3 * scale and attribution[1] < -0.3 * scale
        torch.testing.assert_close(attribution[2:], torch.zeros(2), atol=0.05 * scale.item(), rtol=0)
    alone = torch.cat([score(row) for row in torch.eye(4)[:, None]])
    torch.testing.assert_close(score(torch.eye(4)), alone)


def contrast(predictions, target=(0,), foil=(1,), starts=None):
    return ContrastiveProbability(lambda x: x, target, foil, starts)(predictions)


def zeros(*shape):
    return torch.zeros(shape)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: contrast(zeros(2, 5), (3,), (3,)), "the same word"),
        (lambda: contrast(zeros(2, 5), ()), "target_ids is .* integer ids"),
        (lambda: contrast(zeros(2, 5), foil=torch.tensor([[1]])), r"foil_ids is .* of shape \(1, 1\)"),
        (lambda: contrast(zeros(2, 5), foil=(1.5,)), "foil_ids is torch.float32"),
        (lambda: contrast(zeros(2, 5), (5,)), r"ids \[5\] do not fit the target's .* from 0 to 4"),
        (lambda: contrast(zeros(2, 5), foil=(-1,)), r"ids \[-1\] do not fit the foil's"),
        (lambda: contrast(zeros(2, 5), (5,), starts=STARTS), r"ids \[5\] do not fit word_starts"),
        (lambda: contrast(zeros(2, 2, 5)), r"one prediction of shape \(2, 2, 5\) for both words"),
        (lambda: contrast(zeros(2, 5), (0, 2)), "two words of one token each"),
        (lambda: contrast(zeros(2, 5), starts=STARTS), "without word_starts"),
        (lambda: contrast([zeros(2, 2, 5)] * 3), "3 predictions: expected a pair"),
        (lambda: contrast((zeros(2, 1, 5), zeros(2, 2, 5))), r"the target's .* expected \(B, 2, V\)"),
        (lambda: contrast((zeros(2, 2, 5), zeros(2, 5))), r"the foil's .* shape \(2, 5\)"),
        (lambda: contrast((zeros(2, 2, 5), zeros(3, 2, 5))), "agree in batch and vocabulary"),
        (lambda: contrast((zeros(2, 2, 5), zeros(2, 2, 6))), "agree in batch and vocabulary"),
        (lambda: contrast((zeros(2, 2, 6),) * 2, starts=STARTS), "5 entries for a vocabulary of 6"),
        (lambda: contrast((zeros(2, 2, 5),) * 2, starts=STARTS.float()), "word_starts is torch.float32"),
        (lambda: contrast((zeros(2, 2, 5),) * 2, starts=STARTS[None]), r"of shape \(1, 5\)"),
        (lambda: contrast((zeros(2, 2, 5),) * 2, starts=torch.zeros(5, dtype=torch.bool)), "0 of them set"),
        (lambda: contrast((zeros(2, 2, 5),) * 2, foil=(2,), starts=STARTS), "only one of the first ids"),
        (lambda: TokenLogit(identity, torch.tensor([5, 0, 0]))(torch.zeros(2, 3, 5)), "one id below 5"),
        (lambda: KLDivergence(identity, torch.zeros(1, 3, 6))(torch.zeros(2, 3, 5)), "agree in all but the batch"),
        (lambda: KLDivergence(identity, torch.zeros(3, 3, 5))(torch.zeros(2, 3, 5)), "3 rows for a batch of 2"),
        (lambda: TokenProbability(identity, torch.tensor([5, 0, 0]))(torch.zeros(2, 3, 5)), "one id below 5"),
        (lambda: TokenProbability(identity, torch.tensor([0, 0]))(torch.zeros(2, 3, 5)), "do not fit predictions"),
    ],
)
def test_misfits_are_refused(make, words):
    with pytest.raises(ValueError, match=words):
        make()


@pytest.mark.parametrize("score", [KLDivergence, TokenLogProbability])
def test_a_missing_reference_is_named(score):
    model = torch.nn.Linear(8, 5)
    with pytest.raises(ValueError, match=f"{score.__name__} has no reference .* additional_forward_args"):
        SPES(score(model)).attribute(torch.rand(1, 8), n_samples=4)
