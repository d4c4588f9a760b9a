"""Shapley and Banzhaf values and interactions of games with known values, and of words as players."""

from itertools import combinations
from math import factorial

import numpy as np
import pytest
import torch
from toy_model import ToyModel

from captum_spes import SPES, SpeechToTextAttribution
from captum_spes.alignment import Alignment, Segment
from captum_spes.models import Tokens
from captum_spes.speech_to_text.interactions import Interactions, Player, interactions, text_players, word_players
from captum_spes.visualization import plot_interactions

pytest.importorskip("shapiq")

IDS = [60, 61, 62]
N_BINS, N_TOKENS = 4, 3


class Toy(ToyModel):
    """Log-probabilities of three tokens by a given function of which bins and which previous tokens are there."""

    frames_per_second, n_channels = 4.0, 1
    n_special = 0

    def __init__(self, games):
        self.games, self.n_rows = games, 0

    def utterance(self, audio):
        return self.from_features(torch.ones(1, N_BINS, 1))

    def generate(self, utterance, **gen_args):
        return self.tokens(None, utterance)

    def generate_batch(self, spectrograms, utterance, prompt, **gen_args):
        return [self.tokens(None, None).target] * len(spectrograms)

    def tokens(self, target, utterance):
        return Tokens(torch.tensor([0]), torch.tensor([1, 1, 1]))

    def token_texts(self, ids):
        return [" a", " b", " c"][: len(ids)]

    def logits(self, encoded, tokens, token_gate=None):
        gate = torch.ones(len(encoded), N_TOKENS) if token_gate is None else token_gate
        self.n_rows += len(encoded)
        there = torch.cat((encoded[..., 0], gate), 1)
        log_probs = torch.stack([game(there) for game in self.games], 1)[..., None]  # (B, K, 1), all below 0
        return torch.cat(((-log_probs.exp()).log1p(), log_probs), -1)


def shapley(game, n):
    """By the definition."""
    values = np.zeros(n)
    for player in range(n):
        others = [other for other in range(n) if other != player]
        for size in range(n):
            weight = factorial(size) * factorial(n - size - 1) / factorial(n)
            for coalition in combinations(others, size):
                values[player] += weight * (game({*coalition, player}) - game(set(coalition)))
    return values


def banzhaf(game, n):
    values = np.zeros(n)
    for player in range(n):
        others = [other for other in range(n) if other != player]
        for size in range(n):
            for coalition in combinations(others, size):
                values[player] += (game({*coalition, player}) - game(set(coalition))) / 2 ** (n - 1)
    return values


def pair_interaction(game, n, first, second, weights):
    """The weighted mean of what two players add together beyond what each adds alone."""
    others = [other for other in range(n) if other not in (first, second)]
    total = 0.0
    for size in range(n - 1):
        for coalition in combinations(others, size):
            both, none = {*coalition, first, second}, set(coalition)
            total += weights(size) * (game(both) - game(none | {first}) - game(none | {second}) + game(none))
    return total


def products(there):
    """Bin 0 needs bin 1; bin 2 helps alone; bin 3 and the token before stand in for each other."""
    return -6 + 2 * there[:, 0] * there[:, 1] + there[:, 2] + torch.maximum(there[:, 3], there[:, N_BINS])


def as_game(function, n):
    def game(coalition):
        there = torch.ones(1, N_BINS + N_TOKENS)
        there[0, :n] = torch.tensor([float(player in coalition) for player in range(n)])
        return float(function(there))

    return game


def bin_players():
    return [Player(f"bin {n}", torch.arange(N_BINS)[:, None] == n) for n in range(N_BINS)]


def play(games, players, **arguments):
    model = Toy(games)
    utterance = model.utterance(None)
    return model, interactions(model, utterance, model.tokens(None, utterance), players, **arguments)


PLAYERS = [*bin_players(), Player("token", tokens=(0,))]


@pytest.mark.parametrize("batch", [1, 7, 64])
def test_shapley_values_are_exact(batch):
    model, found = play([products, products, lambda there: -2 - there[:, 3]], PLAYERS, perturbations_per_eval=batch)
    assert found.exact and found.n_coalitions == model.n_rows == 2**5
    game = as_game(products, 5)
    expected = shapley(game, 5)
    assert np.allclose(expected, [1, 1, 1, 0.5, 0.5])
    assert np.allclose(found.values[0], expected, atol=1e-5)
    assert found.values[0].sum().item() == pytest.approx(game(range(5)) - game(()), abs=1e-5)
    assert np.allclose(found.values[2], [0, 0, 0, -1, 0], atol=1e-5)
    weights = lambda size: factorial(size) * factorial(5 - size - 2) / factorial(4)  # noqa: E731
    for first, second in combinations(range(5), 2):
        pair = pair_interaction(game, 5, first, second, weights)
        assert found.pairs[0, first, second].item() == pytest.approx(pair, abs=1e-5)
    assert found.pairs[0, 0, 1] > 1 and found.pairs[0, 3, 4] < -0.5  # needs; stands in for
    assert torch.equal(found.pairs, found.pairs.transpose(1, 2)) and not found.pairs.diagonal(dim1=1, dim2=2).any()


def test_banzhaf_values_are_exact():
    _, found = play([products] * 3, PLAYERS, index="banzhaf")
    game = as_game(products, 5)
    assert np.allclose(found.values[0], banzhaf(game, 5), atol=1e-5)
    for first, second in combinations(range(5), 2):
        pair = pair_interaction(game, 5, first, second, lambda size: 1 / 2**3)
        assert found.pairs[0, first, second].item() == pytest.approx(pair, abs=1e-5)


@pytest.mark.parametrize(("index", "tolerance"), [("shapley", 0.15), ("banzhaf", 1e-3)])
def test_estimates_of_a_quadratic_game(index, tolerance):
    """Values and pairs are all that it has, so that the regression for Banzhaf values is exact."""
    players = [*bin_players(), *(Player(f"token {n}", tokens=(n,)) for n in range(N_TOKENS))]

    def quadratic(there):
        return -6 + 2 * there[:, 0] * there[:, 1] + there[:, 2] - there[:, 3] * there[:, 5]

    model, found = play([quadratic] * 3, players, index=index, budget=90)
    _, exact = play([quadratic] * 3, players, index=index, budget=128)
    assert not found.exact and exact.exact
    assert model.n_rows == found.n_coalitions <= 90
    assert torch.allclose(found.values, exact.values, atol=tolerance)
    assert torch.allclose(found.pairs, exact.pairs, atol=tolerance)


def test_words_have_the_sum_of_their_tokens():
    model = Toy([products, products, products])
    model.token_texts = lambda ids: [" a", "b", " c"][: len(ids)]
    utterance = model.utterance(None)
    found = interactions(model, utterance, model.tokens(None, utterance), bin_players())
    assert found.words == ["ab", "c"]
    assert torch.allclose(found.values[0], 2 * found.values[1])


def test_refusals():
    model = Toy([products] * 3)
    inputs = model, model.utterance(None), model.tokens(None, None)
    with pytest.raises(ValueError, match="at least two players, not 1"):
        interactions(*inputs, PLAYERS[:1])
    with pytest.raises(ValueError, match="'bin 0' shares bins"):
        interactions(*inputs, [PLAYERS[0], PLAYERS[0]])
    with pytest.raises(ValueError, match=r"expected bool of shape \(4, 1\)"):
        interactions(*inputs, [PLAYERS[0], Player("other", torch.zeros(3, 1))])
    for token in (3, -1):
        with pytest.raises(ValueError, match=f"token {token} of player 'late' is not one of the 3"):
            interactions(*inputs, [PLAYERS[0], Player("late", tokens=(token,))])
    with pytest.raises(ValueError, match="index must be one of shapley, banzhaf"):
        interactions(*inputs, PLAYERS, index="owen")
    with pytest.raises(ValueError, match="budget of 20 is too small for 5 players"):
        interactions(*inputs, PLAYERS, budget=20)
    with pytest.raises(ValueError, match=r"baselines of shape \(3,\) do not broadcast"):
        interactions(*inputs, PLAYERS, baselines=torch.zeros(3))
    with pytest.raises(ValueError, match="baselines hold infinities or NaN"):
        interactions(*inputs, PLAYERS, baselines=float("nan"))
    with pytest.raises(ValueError, match="perturbations_per_eval"):
        interactions(*inputs, PLAYERS, perturbations_per_eval=0)
    assert not model.n_rows


def test_a_real_model_and_words(tiny_model, audio):
    utterance, tokens = SpeechToTextAttribution(SPES(tiny_model)).prepare(audio, "so what", sampling_rate=16000)
    alignment = Alignment([Segment("so", 0.0, 0.2), Segment("what", 0.25, 0.5)], source="by hand")
    players = word_players(tiny_model, utterance, alignment, [(0, 2000), (2000, 9000)])
    assert sum(int(player.bins.sum()) for player in players) == (20 + 25) * 16  # frames and channels
    players += text_players(tiny_model, tokens)
    assert [player.name for player in players][-1] == "“so”"
    found = interactions(tiny_model, utterance, tokens, players)
    assert found.exact and found.words == ["so", "what"]
    assert found.values[0, -1].abs() < 1e-5 and found.pairs[0, -1].abs().max() < 1e-5  # not yet written
    assert found.values[1, -1].abs() > 1e-4
    with torch.no_grad():
        hidden = utterance.spectrogram.clone()
        for player in players[:-1]:
            hidden = torch.where(player.bins, tiny_model.baseline(utterance), hidden)
        difference = [
            tiny_model.logits(tiny_model.encode(x, utterance), tokens)[0].log_softmax(-1)[0, tokens.target[0]]
            for x in (utterance.spectrogram, hidden)
        ]
    n_tokens_of_so = len(tiny_model.tokens("so", utterance).target)
    if n_tokens_of_so == 1:
        assert found.values[0].sum().item() == pytest.approx((difference[0] - difference[1]).item(), abs=1e-3)


@pytest.mark.parametrize(
    "texts, names",
    [
        ([" so", " p", "owered"], ["“so”"]),
        ([" so", " p", "owered", "<|endoftext|>"], ["“so”", "“powered”"]),
        ([" so", " p", "owered", "."], ["“so”", "“powered”"]),
        ([" so"], []),
    ],
)
def test_players_are_whole_words(texts, names):
    model = Toy([])
    model.token_texts = lambda ids: texts
    players = text_players(model, Tokens(torch.tensor([0]), torch.arange(len(texts))))
    assert [player.name for player in players] == names
    if len(names) == 2:
        assert [player.tokens for player in players] == [(1,), (2, 3)]


def test_words_without_a_bin_are_refused(tiny_model, audio):
    utterance = tiny_model.utterance(audio)
    late = Alignment([Segment("so", 5.0, 5.2)], source="by hand")
    with pytest.raises(ValueError, match="player 'so' has no bin"):
        word_players(tiny_model, utterance, late)
    with pytest.raises(ValueError, match="has no words"):
        word_players(tiny_model, utterance, Alignment([], source="by hand"))


def test_the_figure():
    pairs = torch.tensor([[0.0, 0.5, -0.1], [0.5, 0.0, 0.0], [-0.1, 0.0, 0.0]])
    names = ["so", "what", "“so”"]
    found = Interactions(["a", "b", "a"], names, torch.ones(3, 3), pairs.expand(3, 3, 3), "shapley", True, 8)
    figure = found.plot("b")
    figure.canvas.draw()
    bars, matrix, _ = figure.axes
    assert [bar.get_width() for bar in bars.patches] == [1, 1, 1]
    assert bars.get_ylim() == matrix.get_ylim()
    shown = matrix.images[0].get_array()
    assert shown.mask.tolist() == np.eye(3, dtype=bool).tolist() and shown[0, 1] == 0.5
    with pytest.raises(ValueError, match="the word 'a' is 2 times in the text"):
        found.plot("a")
    assert found.plot(-1) is not None
    with pytest.raises(ValueError, match="at least one"):
        plot_interactions(torch.ones(0), torch.ones(0, 0), [], "", "")
