"""Predictions to explain: every token, the text as a whole, or a word contrasted with another word or none."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from captum_spes.confidence import Confidence, token_confidence
from captum_spes.forward_func import ContrastiveProbability, CTCLogLikelihood
from captum_spes.models.protocol import SpeechToTextModel, Tokens, Utterance
from captum_spes.speech_to_text.foils import ids_in_place, strongest_foil
from captum_spes.speech_to_text.profiles import SCORES, Score
from captum_spes.words import word_spans

NO_WORD = "∅"  # stands for an empty foil in the name of a row


@dataclass(frozen=True)
class Contrast:
    """A word of the text and a foil, another word that might have been written in its place.

    Explanations of a contrast follow Conti et al. (2025, "The Unheard Alternative"). Both words are scored on the same
    perturbed inputs, by :class:`.ContrastiveProbability`. Either may be a phrase of several words.

    Without a foil, the word is compared with its strongest competitor: the other word with the largest probability in
    its place. The metadata of the explanation name it (``contrast``).

    An empty foil asks why a word was inserted: the word is compared with the next word of the text, which would be
    written in its place. If the next word is the same, as in *the the cat*, the two texts are compared from the first
    token in which they differ. To ask why a word was left out, give a phrase as the foil:
    ``Contrast("like", foil="not like")``.

    Args:
        word: a word of the target text, or several consecutive ones such as ``"next step"``; or the number of a word,
            from 0, if the text has it more than once, or the numbers of the first and last word of a phrase, such as
            ``(2, 3)``. A string is always text, and an integer always a number.
        foil: the other word or phrase; ``""`` for no word. Default: the strongest competitor.
        difference: use the score p(word) − p(foil) rather than p(word) / (p(word) + p(foil)).
        word_boundaries: whether the probability of a word of several tokens is that of the whole *word*
            (Pimentel & Meister, 2024), or the product of its tokens' probabilities, which also counts longer words
            with the same beginning. The product is always used if the word or the foil is the end of the text, after
            which no word begins, and if the texts first differ after a repeated word.

    Example::

        >>> from captum_spes import SPES, Contrast, SpeechToTextAttribution
        >>> from captum_spes.models import load_model
        >>> attribution = SpeechToTextAttribution(SPES(load_model("whisper-tiny.en")))
        >>> contrast = Contrast("what", foil="was")
        >>> explanation = attribution.attribute("speech.wav", "so what", contrast=contrast, n_samples=90)
        >>> explanation.tokens
        ['what (not was)']
        >>> attribution.attribute("speech.wav", "so what", contrast=Contrast("so", foil=""), n_samples=90).tokens
        ['so (not ∅)']
        >>> found = attribution.attribute("speech.wav", "so what", contrast=Contrast("what"), n_samples=90)
        >>> found.metadata["contrast"]["word"], found.metadata["contrast"]["foil"] != "what"
        ('what', True)
    """

    word: str | int | tuple[int, int]
    foil: str | None = None
    difference: bool = False
    word_boundaries: bool = True


class Prediction:
    """Maps the outputs of a model to one score for each explained row.

    Attributes:
        rows: the name of each row.
        previous: ids of the previous tokens, (J,).
        n_previous: for each row the number of previous tokens that are its features, (K,).
        score_name: the name of the forward function.
        grouped: whether the rows are not the model's tokens.
        independent_rows: whether the score of each row depends on one row of the model's logits.
        contrast: the contrast in plain values; None for tokens.
    """

    rows: list[str]
    previous: Tensor
    n_previous: Tensor
    score_name: str
    grouped = False
    independent_rows = False

    def __init__(self, model: SpeechToTextModel) -> None:
        self.model = model
        self.contrast: dict[str, Any] | None = None

    def outputs(self, encoded: Any, token_gate: Tensor | None = None) -> Any:
        """The outputs of the model that the score needs."""
        raise NotImplementedError

    def score(self, outputs: Callable[..., Any], original: Any) -> Callable[..., Tensor]:
        """The forward function (B, K), from a function of the inputs and its result for the original inputs."""
        raise NotImplementedError

    def confidence(self, original: Any) -> Confidence | None:
        """The model's confidence in each row, from the original outputs; None if the rows are not text of the model."""
        return None


class TokenPrediction(Prediction):
    """Every token of a text."""

    def __init__(self, model: SpeechToTextModel, tokens: Tokens, score: Score) -> None:
        super().__init__(model)
        if score is CTCLogLikelihood:
            raise ValueError(f"{score.__name__} scores whole texts and not tokens: give another score.")
        self.tokens = tokens
        self.rows = self.model.token_texts(tokens.target)
        self.previous = tokens.previous
        n_features = len(tokens.prompt) + torch.arange(len(tokens.target))
        self.n_previous = n_features.clamp(max=len(self.previous))  # 0 for a model that writes all tokens at once
        self._score = score
        self.score_name = score.__name__
        self.independent_rows = tokens.path is None and score in SCORES

    def outputs(self, encoded: Any, token_gate: Tensor | None = None) -> Tensor:
        return self.model.logits(encoded, self.tokens, token_gate)

    def score(self, outputs: Callable[..., Any], original: Tensor) -> Callable[..., Tensor]:
        path = self.tokens.path
        if path is None:
            return self._score.from_prediction(outputs, original, self.tokens.target)
        tokens = path[path >= 0]
        score = self._score.from_prediction(outputs, original, self.tokens.target[tokens])
        weights = torch.nn.functional.one_hot(tokens, len(self.tokens.target)).float()
        weights /= weights.sum(0)  # the score of a token is the mean over its frames
        return lambda *inputs: score(*inputs) @ weights

    def confidence(self, original: Tensor) -> Confidence | None:
        if int(self.tokens.target.max()) >= original.shape[-1]:  # the outputs are not a distribution over the ids
            return None
        path = self.tokens.path
        frames = None if path is None else path[path >= 0]
        return token_confidence(original[0], self.tokens.target, self.model.token_texts, frames)


class PathsPrediction(Prediction):
    """A whole text, scored by all the paths with which a CTC model writes it.

    Args:
        model: a :class:`~captum_spes.models.ctc.CtcModel`.
        tokens: the tokens of the text.
        text: the name of the row.
    """

    score_name = CTCLogLikelihood.__name__
    grouped = True

    def __init__(self, model: Any, tokens: Tokens, text: str) -> None:
        super().__init__(model)
        if tokens.path is None:
            raise ValueError(f"{model.name} is not a CTC model, for which {self.score_name} is: give another score.")
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
    """The text as a whole: one row, whose score is the sum of its tokens' scores."""

    grouped = True

    def __init__(self, model: SpeechToTextModel, tokens: Tokens, score: Score, text: str) -> None:
        super().__init__(model, tokens, score)
        self.rows = [text]
        self.independent_rows = False
        self.n_previous = torch.tensor([len(self.previous)])

    def score(self, outputs: Callable[..., Any], original: Tensor) -> Callable[..., Tensor]:
        score = super().score(outputs, original)
        return lambda *inputs: score(*inputs).sum(1, keepdim=True)

    def confidence(self, original: Tensor) -> Confidence | None:
        tokens = self.model.token_texts(self.tokens.target)
        found = super().confidence(original)
        return None if found is None else found.grouped([(0, len(tokens))], tokens)


class WordPrediction(Prediction):
    """A word or phrase of the text, compared with the foil in its place.

    Raises:
        ValueError: the text does not have the word exactly once, the foil is the same word, no foil is given and no
            other word is probable, the foil is empty and nothing follows the word, or the model writes all words at
            once.
    """

    score_name = ContrastiveProbability.__name__
    grouped = True

    def __init__(self, model: SpeechToTextModel, tokens: Tokens, contrast: Contrast, utterance: Utterance) -> None:
        super().__init__(model)
        if tokens.path is not None:
            raise ValueError(
                f"{model.name} writes all words at once, so that a word cannot be replaced by another for a contrast."
            )
        words = TextWords(self.model.token_texts(tokens.target))
        word, (start, stop) = words.find(contrast.word)
        self.previous = torch.cat((tokens.prompt, tokens.target[:start]))
        if contrast.foil is None:
            foil = strongest_foil(model, utterance, self.previous, tokens.target[start:stop], word)
        else:
            foil = " ".join(contrast.foil.split())
        if foil == word or (contrast.foil and not foil):
            raise ValueError(
                f"the foil {contrast.foil!r} of the word {word!r} is the same word or blank: give another word, or an "
                "empty foil for no word."
            )
        self.difference, self.word_boundaries = contrast.difference, contrast.word_boundaries
        self.word_ids = tokens.target[start:stop]
        if foil:
            self.foil_ids = ids_in_place(model, utterance, tokens, start, stop, foil)
            self.word_boundaries &= not any(self.model.is_special(self.word_ids))  # nothing begins after the end
        else:
            shift, self.word_ids, self.foil_ids = _deletion(tokens.target, start, stop, words.end_of_next(stop))
            start, stop = start + shift, stop + shift
            self.word_boundaries &= not shift and not any(self.model.is_special(self.foil_ids))
        self.rows = [f"{word} (not {foil or NO_WORD})"]
        self.previous = torch.cat((tokens.prompt, tokens.target[:start]))
        self.n_previous = torch.tensor([len(self.previous)])
        self._starts: Tensor | None = None
        self.contrast = {
            "word": word,
            "foil": foil,
            "token_span": [start, stop],
            "foil_ids": self.foil_ids.tolist(),
            "difference": self.difference,
            "word_boundaries": self.word_boundaries,
        }

    def outputs(self, encoded: Any, token_gate: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return self._logits(encoded, self.word_ids, token_gate), self._logits(encoded, self.foil_ids, token_gate)

    def _logits(self, encoded: Any, ids: Tensor, token_gate: Tensor | None) -> Tensor:
        """The distributions before each token of a word, and the one after its last, (B, n + 1, V)."""
        tokens = Tokens(self.previous, torch.cat((ids, ids[-1:])))
        if token_gate is not None:  # the word's own tokens are not features
            token_gate = torch.cat(
                (token_gate, token_gate.new_ones(len(token_gate), len(ids), *token_gate.shape[2:])), 1
            )
        return self.model.logits(encoded, tokens, token_gate)

    def score(self, outputs: Callable[..., Any], original: tuple[Tensor, Tensor]) -> Callable[..., Tensor]:
        if self.word_boundaries and self._starts is None:  # computed once, because it decodes the whole vocabulary
            self._starts = word_starts(self.model, original[0].shape[-1])
        score = ContrastiveProbability(outputs, self.word_ids, self.foil_ids, self._starts, self.difference)
        return lambda *inputs: score(*inputs)[:, None]


def word_starts(model: SpeechToTextModel, vocab_size: int) -> Tensor:
    """The ids that do not continue a word: they begin with a space or punctuation, or are special; bool (V,).

    Apostrophes and hyphens between letters belong to a word.
    """
    texts = [model.token_texts(torch.tensor([index]))[0] for index in range(vocab_size)]
    special = model.is_special(torch.arange(vocab_size))
    return torch.tensor([mark or len(word_spans(["a", text + "a"])) > 1 for text, mark in zip(texts, special)])


class TextWords:
    """The words of a text, and the tokens of each word.

    Args:
        texts: the text of each token.

    Attributes:
        words: the words and special tokens, without the space around them.
        spans: for each its first token, and the one after its last.
    """

    def __init__(self, texts: Sequence[str]) -> None:
        self.spans = word_spans(texts)
        self.words = [self._text(texts, *span) for span in self.spans]
        self._texts = texts

    @staticmethod
    def _text(texts: Sequence[str], start: int, stop: int) -> str:
        return " ".join("".join(texts[start:stop]).split())

    def find(self, word: str | int | tuple[int, int]) -> tuple[str, tuple[int, int]]:
        """A word or phrase by its numbers or by its text, and its tokens.

        Raises:
            ValueError: the text does not have it, or has it more than once.
        """
        found = self._phrases(word) if isinstance(word, str) else self._numbered(word)
        if len(found) != 1:
            count = f"is {len(found)} times in the text" if found else "is not in the text"
            raise ValueError(f"the word {word!r} {count}: give one of {self.words}, or its number.")
        first, last = found[0]
        span = self.spans[first][0], self.spans[last][1]
        return self._text(self._texts, *span), span

    def _numbered(self, numbers: int | tuple[int, int]) -> list[tuple[int, int]]:
        n_words = len(self.words)
        first, last = numbers if isinstance(numbers, tuple) else (numbers, numbers)
        if not (-n_words <= first < n_words and -n_words <= last < n_words) or first % n_words > last % n_words:
            return []
        return [(first % n_words, last % n_words)]

    def _phrases(self, phrase: str) -> list[tuple[int, int]]:
        """The first and the last word of each occurrence of the phrase."""
        wanted = _comparable(phrase)
        found = []
        for first in range(len(self.words)):
            for last in range(first, len(self.words)):
                text = _comparable(self._text(self._texts, self.spans[first][0], self.spans[last][1]))
                if text == wanted:
                    found.append((first, last))
                if not wanted.startswith(text):
                    break
        return found

    def end_of_next(self, stop: int) -> int:
        """The token after the word that follows the token before ``stop``.

        Raises:
            ValueError: no word follows.
        """
        ends = [end for start, end in self.spans if start >= stop]
        if not ends:
            raise ValueError(
                "nothing follows the last word of the text, not even an end token: an empty foil needs the token that "
                "would be written in the word's place."
            )
        return ends[0]


def _comparable(text: str) -> str:
    return unicodedata.normalize("NFC", " ".join(text.split()))


def _deletion(target: Tensor, start: int, stop: int, end: int) -> tuple[int, Tensor, Tensor]:
    """The contrast of a word, ``target[start:stop]``, with an empty foil, that is, with the text ``target[stop:end]``.

    Returns:
        The number of tokens at the beginning that are the same with and without the word, and the ids of both texts
        after them.
    """
    length, rest = stop - start, target[stop:]
    shift = 0
    while shift < len(rest) and target[start + shift] == rest[shift]:
        shift += 1
    if shift == len(rest):
        raise ValueError("the text ends in repetitions of the word: give the text with its end token.")
    foil_length = max(end - stop - shift, 1)
    return shift, target[start + shift : start + shift + length], rest[shift : shift + foil_length]
