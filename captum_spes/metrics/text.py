"""Scores of texts against references: word error rate and BLEU, for a text and for a corpus."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Sequence
from typing import Literal, Protocol

import numpy as np

from captum_spes._extras import require
from captum_spes.words import signs, spaced

# the name of a normaliser, or a function from text to text
NormalizerName = Literal["english", "basic", "none"]
Normalizer = NormalizerName | Callable[[str], str]


class TextScore(Protocol):
    """A score of texts that adds up over a corpus: each text gives counts, and the score is a function of their sums.

    Attributes:
        name: its name in tables.
        higher_is_better: whether a good text has a high score.
    """

    name: str
    higher_is_better: bool

    def counts(self, text: str, reference: str) -> np.ndarray:
        """The counts of a text, float64 (n,)."""

    def score(self, counts: np.ndarray) -> np.ndarray:
        """The score, from 0 to 100, for counts or sums of counts: (…, n) to (…,)."""


class WordErrorRate:
    """Substituted, deleted and inserted words in percent of the reference's words (jiwer), capped at 100 for each text.

    The number of wrong words of a text is capped at the number of words of its reference, so that a text that repeats
    itself does not outweigh all others. The paper caps its scores for the same reason (§5, footnote 6). In scripts
    without spaces, such as Chinese, Japanese and Thai, each character counts as a word, unless a function of your own
    divides the text into words.

    Args:
        normalizer: the normaliser of both texts: ``"english"`` and ``"basic"`` (other languages) are Whisper's
            text normalisers, from the package whisper-normalizer, but ``"basic"`` keeps the signs that distinguish
            words, such as those of vowels in Hindi; ``"none"`` changes nothing; or your own function.

    Raises:
        ValueError: there is no such normaliser.
        ImportError: the extra ``speech`` is not installed.

    Example::

        >>> from captum_spes.metrics import WordErrorRate
        >>> score = WordErrorRate()
        >>> counts = score.counts("so that is the next step", "So what's the next step?")
        >>> counts  # wrong words, words of the reference
        array([1., 6.])
        >>> round(float(score.score(counts)), 1)
        16.7
        >>> score.counts("so so so so so", "So what?")  # four words are wrong
        array([2., 2.])
    """

    name = "WER"
    higher_is_better = False

    def __init__(self, normalizer: Normalizer = "english") -> None:
        self.normalizer = normalizer if isinstance(normalizer, str) else getattr(normalizer, "__name__", "own")
        self.normalize = find_normalizer(normalizer)
        self.split = spaced if isinstance(normalizer, str) else str  # a function may divide texts by itself
        self.compare = require("jiwer").process_words

    def counts(self, text: str, reference: str) -> np.ndarray:
        """The number of wrong words, capped at the reference's words, and the number of the reference's words: (2,).

        Raises:
            ValueError: the reference has no words.
        """
        words = self.normalize(reference)
        if not any(map(str.isalnum, words)):
            raise ValueError(f"the reference {reference!r} has no words: a word error rate needs at least one.")
        result = self.compare(self.split(words), self.split(self.normalize(text)))
        n_wrong = result.substitutions + result.deletions + result.insertions
        n_words = result.substitutions + result.deletions + result.hits
        return np.array([min(n_wrong, n_words), n_words], dtype=np.float64)

    def score(self, counts: np.ndarray) -> np.ndarray:
        """The rate for counts or sums of counts, (…, 2) to (…,)."""
        return 100 * counts[..., 0] / counts[..., 1]


class Bleu:
    """BLEU by sacrebleu with its default settings (13a tokens, four n-grams, exponential smoothing).

    Longer n-grams than the texts have are left out (sacrebleu's ``effective_order``), so that a short text that equals
    its reference has 100.

    In scripts without spaces, such as Chinese, Japanese and Thai, each character counts as a word, for Chinese as by
    sacrebleu's tokens ``zh``.

    Raises:
        ImportError: the extra ``speech`` is not installed.

    Example::

        >>> from captum_spes.metrics import Bleu
        >>> score = Bleu()
        >>> counts = score.counts("So what was the next step", "So what was the next step?")
        >>> round(float(score.score(counts)), 1)
        84.6
    """

    name = "BLEU"
    higher_is_better = True

    def __init__(self) -> None:
        self.bleu = require("sacrebleu.metrics").BLEU(effective_order=True)

    def counts(self, text: str, reference: str) -> np.ndarray:
        """The matching and all n-grams of each order, and the lengths of text and reference, (10,).

        Raises:
            ValueError: the reference has no words.
        """
        if not reference.strip():
            raise ValueError(f"the reference {reference!r} has no words: BLEU needs at least one.")
        result = self.bleu.sentence_score(spaced(text), [spaced(reference)])
        return np.array([*result.counts, *result.totals, result.sys_len, result.ref_len], dtype=np.float64)

    def score(self, counts: np.ndarray) -> np.ndarray:
        """The BLEU for counts or sums of counts, (…, 10) to (…,)."""
        rows = counts.reshape(-1, 10).astype(int).tolist()
        found = [self.bleu.compute_bleu(row[:4], row[4:8], *row[8:], "exp", effective_order=True) for row in rows]
        return np.array([bleu.score for bleu in found]).reshape(counts.shape[:-1])


def wer(hypotheses: Sequence[str], references: Sequence[str], normalizer: Normalizer = "english") -> float:
    """The word error rate of a corpus in percent, capped at 100 for each text; see :class:`WordErrorRate`.

    Args:
        hypotheses: the texts of a model.
        references: a reference for each text.
        normalizer: the normaliser of both, as in :class:`WordErrorRate`.

    Raises:
        ValueError: the numbers of texts and references differ or are 0, or a reference has no words.

    Example::

        >>> from captum_spes.metrics import wer
        >>> wer(["so what", "the next stop"], ["So, what?", "The next step."])
        20.0
    """
    return _corpus(WordErrorRate(normalizer), hypotheses, references)


def bleu(hypotheses: Sequence[str], references: Sequence[str]) -> float:
    """The BLEU of a corpus; see :class:`Bleu`.

    Args:
        hypotheses: the texts of a model.
        references: a reference for each text.

    Raises:
        ValueError: the numbers of texts and references differ or are 0, or a reference has no words.

    Example::

        >>> from captum_spes.metrics import bleu
        >>> round(bleu(["What was the last step?"], ["What was the next step?"]), 1)
        38.0
    """
    return _corpus(Bleu(), hypotheses, references)


def find_score(score: str | TextScore) -> TextScore:
    """Finds a score by its name, ``"wer"`` or ``"bleu"``; returns a score unchanged.

    Raises:
        ValueError: there is no such score.
    """
    if not isinstance(score, str):
        return score
    scores: dict[str, Callable[[], TextScore]] = {"wer": WordErrorRate, "bleu": Bleu}
    if score not in scores:
        raise ValueError(f"there is no score {score!r}: give 'wer' or 'bleu'.")
    return scores[score]()


def _corpus(score: TextScore, hypotheses: Sequence[str], references: Sequence[str]) -> float:
    if isinstance(hypotheses, str) or isinstance(references, str):
        raise ValueError("hypotheses and references must be lists of texts, not single texts.")
    if len(hypotheses) != len(references) or not references:
        raise ValueError(
            f"there are {len(hypotheses)} hypotheses and {len(references)} references: give one reference for each, "
            "at least one."
        )
    counts = [score.counts(text, reference) for text, reference in zip(hypotheses, references)]
    return float(score.score(np.sum(counts, axis=0)))


def find_normalizer(normalizer: Normalizer) -> Callable[[str], str]:
    """The function of a name; functions as they are.

    Raises:
        ValueError: no such normaliser.
        ImportError: the extra ``speech`` is not installed.
    """
    if callable(normalizer):
        return normalizer
    if normalizer == "english":
        return require("whisper_normalizer.english").EnglishTextNormalizer()
    if normalizer == "basic":
        basic = require("whisper_normalizer.basic").BasicTextNormalizer()
        basic.clean = _without_symbols
        return basic
    if normalizer == "none":
        return str.strip
    raise ValueError(f"there is no normalizer {normalizer!r}: give 'english', 'basic', 'none' or a function.")


def _without_symbols(text: str) -> str:
    """A text with spaces for symbols, without accents that are no part of a letter; Whisper's own removes all marks."""
    kept = []
    for character in unicodedata.normalize("NFKC", text):
        category = unicodedata.category(character)[0]
        if category in "SP":
            kept.append(" ")
        elif category != "M" or signs(character):
            kept.append(character)
    return "".join(kept)
