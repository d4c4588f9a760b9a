"""Shapley and Banzhaf values of the words of an utterance, and interactions of pairs of words."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import torch
from captum._utils.progress import NullProgress, progress
from torch import Tensor

from captum_spes._extras import require
from captum_spes.alignment import Alignment
from captum_spes.attr.batches import check_positive
from captum_spes.forward_func import TokenLogProbability
from captum_spes.models.protocol import SpeechToTextModel, Tokens, Utterance
from captum_spes.speech_to_text.plan import format_baseline
from captum_spes.speech_to_text.targets import TokenPrediction
from captum_spes.visualization import plot_interactions
from captum_spes.words import is_word, word_spans

if TYPE_CHECKING:
    from matplotlib.figure import Figure

EXTRA = "shapley"
Index = Literal["shapley", "banzhaf"]


@dataclass(frozen=True, eq=False)
class Player:
    """A part of the inputs, in the spectrogram or among the previous tokens, that is kept or hidden as a whole.

    Attributes:
        name: its name.
        bins: the bins of the spectrogram that belong to it, bool (T, C); None for a player that is text.
        tokens: the numbers of the previous tokens that belong to it.

    Example::

        >>> import torch
        >>> from captum_spes.speech_to_text.interactions import Player
        >>> Player("the first half second", bins=torch.arange(100)[:, None].expand(100, 80) < 50).name
        'the first half second'
    """

    name: str
    bins: Tensor | None = None
    tokens: tuple[int, ...] = ()


@dataclass(frozen=True, eq=False)
class Interactions:
    """Values of P players and their pairs for W written words; see :func:`interactions`.

    Attributes:
        words: the W words of the text that the values explain.
        players: the names of the players.
        values: the value of each player, (W, P), in nats.
        pairs: the interaction of each pair of players, symmetric with a diagonal of 0, (W, P, P). It is positive if
            the two together have a larger effect than the sum of their separate effects.
        index: ``"shapley"`` or ``"banzhaf"``.
        exact: whether all coalitions were scored, rather than a sample.
        n_coalitions: the number of scored coalitions.

    Example::

        >>> import torch
        >>> from captum_spes.speech_to_text.interactions import Interactions
        >>> pairs = torch.tensor([[[0.0, 0.5], [0.5, 0.0]]])
        >>> found = Interactions(["so"], ["so", "what"], torch.tensor([[2.0, 0.1]]), pairs, "shapley", True, 4)
        >>> found.plot("so").savefig("so.png")
    """

    words: list[str]
    players: list[str]
    values: Tensor
    pairs: Tensor
    index: Index
    exact: bool
    n_coalitions: int

    def plot(self, word: str | int) -> Figure:
        """Draws the values and pairs for one word, by its text or its number.

        Raises:
            ValueError: the text does not have the word, or has it more than once.
        """
        found = [n for n, text in enumerate(self.words) if word in (n, n - len(self.words), text)]
        if len(found) != 1:
            raise ValueError(
                f"the word {word!r} is {len(found)} times in the text: give one of {self.words}, or its number."
            )
        [row] = found
        title = f"{'Shapley' if self.index == 'shapley' else 'Banzhaf'} values and interactions for “{self.words[row]}”"
        return plot_interactions(self.values[row], self.pairs[row], self.players, title, "nats")


def word_players(
    model: SpeechToTextModel,
    utterance: Utterance,
    alignment: Alignment,
    bands: Sequence[tuple[float, float]] | None = None,
) -> list[Player]:
    """Makes a player of the sound of each word of an alignment, or of each word in each frequency band.

    Args:
        model: the model.
        utterance: the utterance, from :meth:`.SpeechToTextAttribution.prepare`.
        alignment: the times of its words.
        bands: lowest and highest frequency of each band in Hz. Default: all frequencies together.

    Returns:
        list of Player: the players. Bins of pauses do not belong to a player.

    Raises:
        ValueError: a word or a band has no bin.

    Example::

        >>> from captum_spes import SPES, SpeechToTextAttribution
        >>> from captum_spes.alignment import Alignment, Segment
        >>> from captum_spes.models import load_model
        >>> from captum_spes.speech_to_text.interactions import word_players
        >>> model = load_model("whisper-tiny.en")
        >>> utterance, tokens = SpeechToTextAttribution(SPES(model)).prepare("speech.wav", "so what")
        >>> alignment = Alignment([Segment("so", 0.0, 0.2), Segment("what", 0.2, 0.5)], source="by hand")
        >>> bands = [(0, 1000), (1000, 8000)]
        >>> [player.name for player in word_players(model, utterance, alignment, bands)]
        ['so 0–1 kHz', 'so 1–8 kHz', 'what 0–1 kHz', 'what 1–8 kHz']
    """
    times = (torch.arange(utterance.spectrogram.shape[1]) + 0.5) / model.frames_per_second
    frequencies = torch.as_tensor(np.asarray(model.mel_frequencies))
    players = []
    for segment in alignment.words:
        frames = (times >= segment.begin) & (times < segment.end)
        for low, high in bands or [(0.0, float("inf"))]:
            channels = (frequencies >= low) & (frequencies < high)
            name = segment.text if bands is None else f"{segment.text} {low / 1000:g}–{high / 1000:g} kHz"
            if not frames.any() or not channels.any():
                raise ValueError(f"the player {name!r} has no bin of the spectrogram: check its times and frequencies.")
            players.append(Player(name, frames[:, None] & channels[None]))
    if not players:
        raise ValueError("the alignment has no words: give one with words, or your own players.")
    return players


def text_players(model: SpeechToTextModel, tokens: Tokens) -> list[Player]:
    """Makes a player of each word that something follows, with its name in quotation marks.

    Punctuation, special tokens and the prompt do not belong to a player.

    Example::

        >>> from captum_spes import SPES, SpeechToTextAttribution
        >>> from captum_spes.models import load_model
        >>> from captum_spes.speech_to_text.interactions import text_players
        >>> model = load_model("whisper-tiny.en")
        >>> utterance, tokens = SpeechToTextAttribution(SPES(model)).prepare("speech.wav", "so what was the")
        >>> [player.name for player in text_players(model, tokens)]  # nothing is written after the last word
        ['“so”', '“what”', '“was”']
    """
    texts = model.token_texts(tokens.target)
    n_prompt = len(tokens.prompt)
    players = []
    for start, stop in word_spans(texts)[:-1]:
        text = "".join(texts[start:stop]).strip()
        if is_word(text):
            players.append(Player(f"“{text}”", tokens=tuple(range(n_prompt + start, n_prompt + stop))))
    return players


def interactions(
    model: SpeechToTextModel,
    utterance: Utterance,
    tokens: Tokens,
    players: Sequence[Player],
    *,
    index: Index = "shapley",
    budget: int = 1024,
    baselines: Tensor | float | None = None,
    perturbations_per_eval: int = 16,
    seed: int = 0,
    show_progress: bool = False,
) -> Interactions:
    """Divides the log-probability of each written word among players, and computes the interactions of pairs.

    The players of a coalition are kept and the others are hidden: their bins are set to the baseline, and the
    embeddings of their tokens to 0. The value of a coalition is the teacher-forced log-probability of a word, summed
    over its tokens; all words are scored in the same passes. A player's Shapley value is its mean contribution over all
    orders of the players (Shapley, 1953), and its Banzhaf value the mean contribution over all coalitions of the others
    (Banzhaf, 1965). The interaction of a pair is the mean effect of both together beyond the sum of their separate
    effects (Grabisch & Roubens, 1999). The values are computed by `shapiq <https://github.com/mmschlk/shapiq>`_.

    Args:
        model: the model.
        utterance: the utterance, from :meth:`.SpeechToTextAttribution.prepare`.
        tokens: the tokens of its text, from :meth:`.SpeechToTextAttribution.prepare`.
        players: players from :func:`word_players` and :func:`text_players`, or your own. A player that is a word has
            the value 0 for words that are written before it.
        index: ``"shapley"``, whose values add up to the difference between all players and none, or ``"banzhaf"``,
            which gives all coalitions equal weights.
        budget: largest number of scored coalitions. With all 2^P coalitions the result is exact; with fewer it is
            estimated by regressions on random coalitions, KernelSHAP-IQ (Fumagalli et al., 2024) or Faith-Banzhaf
            (Tsai et al., 2023).
        baselines: the values that replace hidden bins, as in :meth:`.SpeechToTextAttribution.attribute`.
        perturbations_per_eval: number of coalitions in a batch.
        seed: the seed of the random coalitions.
        show_progress: shows a progress bar that counts coalitions.

    Returns:
        Interactions: values and interactions for all words.

    Raises:
        ValueError: there are fewer than two players, players share bins or tokens, there is no such index, the
            budget is too small for the regression, or the baselines do not fit.
        ImportError: the extra ``shapley`` is missing.

    Example::

        >>> from captum_spes import SPES, SpeechToTextAttribution
        >>> from captum_spes.alignment import Alignment, Segment
        >>> from captum_spes.models import load_model
        >>> from captum_spes.speech_to_text.interactions import interactions, text_players, word_players
        >>> model = load_model("whisper-tiny.en")
        >>> utterance, tokens = SpeechToTextAttribution(SPES(model)).prepare("speech.wav", "so what")
        >>> alignment = Alignment([Segment("so", 0.0, 0.2), Segment("what", 0.2, 0.5)], source="by hand")
        >>> players = word_players(model, utterance, alignment) + text_players(model, tokens)
        >>> found = interactions(model, utterance, tokens, players)
        >>> found.players, found.exact, found.n_coalitions
        (['so', 'what', '“so”'], True, 8)
        >>> found.values.shape, found.pairs.shape
        (torch.Size([2, 3]), torch.Size([2, 3, 3]))
    """
    if index not in get_args(Index):
        raise ValueError(f"index must be one of {', '.join(get_args(Index))}, not {index!r}.")
    check_positive(perturbations_per_eval=perturbations_per_eval)
    n_parameters = 1 + len(players) + len(players) * (len(players) - 1) // 2
    is_exact = 2 ** len(players) <= budget
    if not is_exact and budget < 2 * n_parameters:
        raise ValueError(
            f"a budget of {budget} is too small for {len(players)} players and their pairs: give at least "
            f"{2 * n_parameters}, or fewer players."
        )
    game = _Game(model, utterance, tokens, players, baselines, perturbations_per_eval)
    require("shapiq", EXTRA)
    with progress(desc="Coalitions", total=min(budget, 2 ** len(players))) if show_progress else NullProgress() as bar:
        game.on_scored = bar.update
        solve = partial(_solve, len(players), index, None if is_exact else budget, seed)
        rows = [solve(game.of_word(word)) for word in range(len(game.words))]
    values, pairs = (torch.from_numpy(np.stack(part)).float() for part in zip(*rows))
    return Interactions(
        game.words,
        [player.name for player in players],
        values,
        pairs,
        index,
        is_exact,
        len(game.known),
    )


class _Game:
    """Scores all words for coalitions, each of which passes through the model once.

    Attributes:
        words: the words of the text.
        known: the scores (W,) of earlier coalitions, by their bits.
    """

    def __init__(
        self,
        model: SpeechToTextModel,
        utterance: Utterance,
        tokens: Tokens,
        players: Sequence[Player],
        baselines: Tensor | float | None,
        batch_size: int,
    ) -> None:
        self.model, self.utterance, self.batch_size = model, utterance, batch_size
        self.prediction = TokenPrediction(model, tokens, TokenLogProbability)
        self.owners = _owners(utterance, len(self.prediction.previous), players)
        self.baseline = format_baseline(model.baseline(utterance) if baselines is None else baselines, utterance)
        spans = word_spans(self.prediction.rows)
        self.words = ["".join(self.prediction.rows[start:stop]).strip() for start, stop in spans]
        self.weights = torch.zeros(len(self.prediction.rows), len(spans), dtype=torch.float64)
        for word, (start, stop) in enumerate(spans):
            self.weights[start:stop, word] = 1
        self.known: dict[bytes, np.ndarray] = {}
        self.on_scored: Callable[[int], Any] = lambda n: None

    def of_word(self, word: int) -> Callable[[np.ndarray], np.ndarray]:
        """The game of one word, a function from coalitions, bool (N, P), to its log-probabilities, (N,)."""

        def scores(coalitions: np.ndarray) -> np.ndarray:
            coalitions = np.atleast_2d(coalitions).astype(bool)
            keys = [np.packbits(coalition).tobytes() for coalition in coalitions]
            new = {key: coalition for key, coalition in zip(keys, coalitions) if key not in self.known}
            for start in range(0, len(new), self.batch_size):
                batch = dict(list(new.items())[start : start + self.batch_size])
                found = self._score(torch.from_numpy(np.stack(list(batch.values()))))
                self.known.update(zip(batch, found.numpy()))
                self.on_scored(len(batch))
            return np.array([self.known[key][word] for key in keys])

        return scores

    @torch.no_grad()
    def _score(self, coalitions: Tensor) -> Tensor:
        """Log-probabilities (N, W) of all words for coalitions, bool (N, P)."""
        bins, gates = self.owners
        spectrogram = self.utterance.spectrogram
        # bins and tokens without a player have the number P, and are always kept
        there = torch.cat((coalitions, coalitions.new_ones(len(coalitions), 1)), 1).to(spectrogram.device)
        heard = torch.where(there[:, bins], spectrogram, torch.as_tensor(self.baseline, device=spectrogram.device))
        encoded = self.model.encode(heard.to(spectrogram.dtype), self.utterance)
        gate = there[:, gates].to(spectrogram.dtype) if len(gates) else None
        outputs = self.prediction.outputs(encoded, gate)
        return self.prediction.score(lambda found: found, outputs[:1])(outputs).double().cpu() @ self.weights


def _owners(utterance: Utterance, n_previous: int, players: Sequence[Player]) -> tuple[Tensor, Tensor]:
    """The number of the player that each bin (T, C) and each previous token (J,) belongs to; P for none."""
    if len(players) < 2:
        raise ValueError(f"there must be at least two players, not {len(players)}.")
    shape = utterance.spectrogram.shape[1:]
    bins = torch.full(shape, len(players), device=utterance.spectrogram.device)
    gates = torch.full((n_previous,), len(players), device=utterance.spectrogram.device)
    for number, player in enumerate(players):
        if player.bins is not None:
            if player.bins.shape != shape or player.bins.dtype != torch.bool:
                raise ValueError(
                    f"the bins of player {player.name!r} are {player.bins.dtype} of shape {tuple(player.bins.shape)}: "
                    f"expected bool of shape {tuple(shape)}."
                )
            mine = player.bins.to(bins.device)
            if (bins[mine] < len(players)).any():
                raise ValueError(
                    f"the player {player.name!r} shares bins with another one: give each bin to one player only."
                )
            bins[mine] = number
        for token in player.tokens:
            if not 0 <= token < n_previous or gates[token] < len(players):
                raise ValueError(
                    f"token {token} of player {player.name!r} is not one of the {n_previous} previous tokens, or "
                    "belongs to another player."
                )
            gates[token] = number
    return bins, gates


def _solve(
    n_players: int, index: Index, budget: int | None, seed: int, game: Callable[[np.ndarray], np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Values (P,) and pairs (P, P) of a game by shapiq, exact without a budget."""
    import shapiq

    if budget is None:
        found = shapiq.ExactComputer(game, n_players=n_players)("SII" if index == "shapley" else "BII", 2)
    elif index == "shapley":
        found = shapiq.KernelSHAPIQ(n_players, 2, "SII", random_state=seed).approximate(budget, game)
    else:
        found = shapiq.RegressionFBII(n_players, 2, random_state=seed).approximate(budget, game)
    values = np.array([found[(player,)] for player in range(n_players)])
    pairs = np.zeros((n_players, n_players))
    for first in range(n_players):
        for second in range(first + 1, n_players):
            pairs[first, second] = pairs[second, first] = found[(first, second)]
    if index == "banzhaf" and budget is not None:
        # The best quadratic game has the Banzhaf interactions; its linear terms lack half of each interaction.
        values = values + pairs.sum(1) / 2
    return values, pairs
