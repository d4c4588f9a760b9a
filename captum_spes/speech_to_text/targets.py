"""What is explained: the scores of every token, of the text as a whole, or of one word against another."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from captum_spes.forward_func import ContrastiveProbability, CTCLogLikelihood
from captum_spes.models.protocol import SpeechToTextModel, Tokens, Utterance
from captum_spes.speech_to_text.profiles import Score
from captum_spes.words import word_spans


@dataclass(frozen=True)
class Contrast:
    """Why this word and not that one: a word of the text, and the foil that might have been written in its place.

    After Conti et al. (2025, "The Unheard Alternative"). Both words are scored on the same perturbed inputs, by
    :class:`.ContrastiveProbability`.

    Args:
        word: a word of the target text, or its number where the text has it more than once.
        foil: the other word.
        difference: score p(word) − p(foil) rather than p(word) / (p(word) + p(foil)).
        word_boundaries: whether the probability of a word of several tokens is that of the whole *word*
            (Pimentel & Meister, 2024), or the product of its tokens', the plain chain rule, which counts longer words
            that begin alike.

    Example::

        >>> from captum_spes import SPES, Contrast, SpeechToTextAttribution
        >>> from captum_spes.models import load_model
        >>> attribution = SpeechToTextAttribution(SPES(load_model("whisper-tiny.en")))
        >>> contrast = Contrast("what", foil="was")
        >>> explanation = attribution.attribute("speech.wav", "so what", contrast=contrast, n_samples=90)
        >>> explanation.tokens
        ['what (not was)']
    """

    word: str | int
    foil: str
    difference: bool = False
    word_boundaries: bool = True


class Prediction:
    """What is explained: scores of some rows, which a method perturbs the inputs of.

    Attributes:
        rows: the name of each row.
        previous: ids of the previous tokens, (J,).
        n_previous: how many of them are features of each row, (K,).
        score_name: the forward function's.
        grouped: whether the rows are something else than the model's tokens.
        contrast: what is contrasted, in plain values; None for tokens.
    """

    rows: list[str]
    previous: Tensor
    n_previous: Tensor
    score_name: str
    grouped = False

    def __init__(self, model: SpeechToTextModel) -> None:
        self.model = model
        self.contrast: dict[str, Any] | None = None

    def outputs(self, encoded: Any, token_gate: Tensor | None = None) -> Any:
        """What the score's own function returns."""
        raise NotImplementedError

    def score(self, outputs: Callable[..., Any], original: Any) -> Callable[..., Tensor]:
        """The forward function (B, K) for a function of the inputs, and what that gives for the original ones."""
        raise NotImplementedError


class TokenPrediction(Prediction):
    """Every token of a text."""

    def __init__(self, model: SpeechToTextModel, tokens: Tokens, score: Score) -> None:
        super().__init__(model)
        if score is CTCLogLikelihood:
            raise ValueError(f"{score.__name__} is a score of whole texts and not of tokens.")
        self.tokens = tokens
        self.rows = self.model.token_texts(tokens.target)
        self.previous = tokens.previous
        n_features = len(tokens.prompt) + torch.arange(len(tokens.target))
        self.n_previous = n_features.clamp(max=len(self.previous))  # none, of a model that writes all at once
        self._score = score
        self.score_name = score.__name__

    def outputs(self, encoded: Any, token_gate: Tensor | None = None) -> Tensor:
        return self.model.logits(encoded, self.tokens, token_gate)

    def score(self, outputs: Callable[..., Any], original: Tensor) -> Callable[..., Tensor]:
        path = self.tokens.path
        if path is None:
            return self._score.from_prediction(outputs, original, self.tokens.target)
        tokens = path[path >= 0]
        score = self._score.from_prediction(outputs, original, self.tokens.target[tokens])
        weights = torch.nn.functional.one_hot(tokens, len(self.tokens.target)).float()
        weights /= weights.sum(0)  # a token's score is the mean over its frames
        return lambda *inputs: score(*inputs) @ weights


class PathsPrediction(Prediction):
    """A whole text, by all the paths on which a CTC model writes it.

    Args:
        model: of :class:`~captum_spes.models.ctc.CtcModel`.
        tokens: of the text.
        text: the name of the row.
    """

    score_name = CTCLogLikelihood.__name__
    grouped = True

    def __init__(self, model: Any, tokens: Tokens, text: str) -> None:
        super().__init__(model)
        if tokens.path is None:
            raise ValueError(f"{model.name} writes token after token: {self.score_name} is a score of CTC models.")
        self.rows = [text]
        self.previous = tokens.previous
        self.n_previous = torch.tensor([0])
        self.token_ids, self.blank = tokens.target, model.blank

    def outputs(self, encoded: Tensor, token_gate: Tensor | None = None) -> Tensor:
        return encoded

    def score(self, outputs: Callable[..., Any], original: Tensor) -> Callable[..., Tensor]:
        score = CTCLogLikelihood(outputs, self.token_ids, self.blank)
        return lambda *inputs: score(*inputs)[:, None]


class TextPrediction(TokenPrediction):
    """The text as a whole: one row, the sum of its tokens' scores."""

    grouped = True

    def __init__(self, model: SpeechToTextModel, tokens: Tokens, score: Score, text: str) -> None:
        super().__init__(model, tokens, score)
        self.rows = [text]
        self.n_previous = torch.tensor([len(self.previous)])

    def score(self, outputs: Callable[..., Any], original: Tensor) -> Callable[..., Tensor]:
        score = super().score(outputs, original)
        return lambda *inputs: score(*inputs).sum(1, keepdim=True)


class WordPrediction(Prediction):
    """A word, against the foil in its place."""

    score_name = ContrastiveProbability.__name__
    grouped = True

    def __init__(self, model: SpeechToTextModel, tokens: Tokens, contrast: Contrast, utterance: Utterance) -> None:
        super().__init__(model)
        if tokens.path is not None:
            raise ValueError(
                f"{model.name} writes all words at once: no word can be put in another's place for a contrast."
            )
        texts = self.model.token_texts(tokens.target)
        word, (start, stop) = _find_word(contrast.word, texts)
        foil = contrast.foil.strip()
        if foil in ("", word):
            raise ValueError(f"the foil {contrast.foil!r} of the word {word!r} is no other word: there is no contrast.")
        self.rows = [f"{word} (not {foil})"]
        self.previous = torch.cat((tokens.prompt, tokens.target[:start]))
        self.n_previous = torch.tensor([len(self.previous)])
        self.word_ids = tokens.target[start:stop]
        self.foil_ids = self.model.tokens(foil, utterance).target
        self.difference, self.word_boundaries = contrast.difference, contrast.word_boundaries
        self._starts: Tensor | None = None
        self.contrast = {
            "word": word,
            "foil": foil,
            "token_span": [start, stop],
            "foil_ids": self.foil_ids.tolist(),
            "difference": contrast.difference,
            "word_boundaries": contrast.word_boundaries,
        }

    def outputs(self, encoded: Any, token_gate: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return self._logits(encoded, self.word_ids, token_gate), self._logits(encoded, self.foil_ids, token_gate)

    def _logits(self, encoded: Any, ids: Tensor, token_gate: Tensor | None) -> Tensor:
        """The distributions before each token of a word, and the one after its last, (B, n + 1, V)."""
        tokens = Tokens(self.previous, torch.cat((ids, ids[-1:])))
        if token_gate is not None:  # the word's own tokens are no features
            token_gate = torch.cat(
                (token_gate, token_gate.new_ones(len(token_gate), len(ids), *token_gate.shape[2:])), 1
            )
        return self.model.logits(encoded, tokens, token_gate)

    def score(self, outputs: Callable[..., Any], original: tuple[Tensor, Tensor]) -> Callable[..., Tensor]:
        if self.word_boundaries and self._starts is None:  # it reads the whole vocabulary
            self._starts = word_starts(self.model, original[0].shape[-1])
        score = ContrastiveProbability(outputs, self.word_ids, self.foil_ids, self._starts, self.difference)
        return lambda *inputs: score(*inputs)[:, None]


def word_starts(model: SpeechToTextModel, vocab_size: int) -> Tensor:
    """Which ids cannot go on with a word: those that begin with a space or punctuation, or are special; bool (V,).

    Apostrophes and hyphens between letters belong to a word.
    """
    texts = [model.token_texts(torch.tensor([index]))[0] for index in range(vocab_size)]
    special = model.is_special(torch.arange(vocab_size))
    return torch.tensor([mark or len(word_spans(["a", text + "a"])) > 1 for text, mark in zip(texts, special)])


def _find_word(word: str | int, texts: list[str]) -> tuple[str, tuple[int, int]]:
    """A word of some tokens' text, and the tokens that it is made of."""
    # tokens that show nothing, a lone space or the first bytes of a character, belong to the word that they begin
    starts = [0, *(_before_blanks(texts, start) for start, _ in word_spans(texts)[1:])]
    spans = list(zip(starts, [*starts[1:], len(texts)]))
    words = ["".join(texts[start:stop]).strip() for start, stop in spans]
    if isinstance(word, str):
        word = word.strip()
    found = [number for number, text in enumerate(words) if word in (number, number - len(words), text)]
    if len(found) != 1:
        count = f"is there {len(found)} times" if found else "is not in the text"
        raise ValueError(f"the word {word!r} {count}: give one of {words}, or its number.")
    return words[found[0]], spans[found[0]]


def _before_blanks(texts: list[str], start: int) -> int:
    while not texts[start - 1].strip():
        start -= 1
    return start
