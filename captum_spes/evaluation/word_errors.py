"""Summarises the words of a corpus by kind of error: their probability, heard share, and reliability."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from captum_spes.errors.finding import check_reference, written_language
from captum_spes.explanation import SpeechToTextExplanation
from captum_spes.metrics.text import Normalizer

KINDS = ("correct", "substitution", "insertion", "deletion")
FACTS = ("probability", "heard", "reliability")


@dataclass
class KindOfWord:
    """The words of one kind of error, or the correct words.

    Attributes:
        count: the number of written words or, for deletions, of missing words of the references.
        probability: the probability of each written word, if it is known.
        heard: the share of each word's probability that is lost when the sound of the word is hidden, if it is known.
        reliability: for each method, the reliability of the map of each word.

    Example::

        >>> from captum_spes.evaluation.word_errors import KindOfWord
        >>> KindOfWord(count=1, probability=[0.4]).median("probability")
        0.4
    """

    count: int = 0
    probability: list[float] = field(default_factory=list)
    heard: list[float] = field(default_factory=list)
    reliability: dict[str, list[float]] = field(default_factory=dict)

    def median(self, fact: str, method: str = "") -> float | None:
        """The median over the words of ``fact``, which is one of FACTS; None if no word has a value.

        The reliability needs the name of a method.
        """
        values = self.reliability.get(method, []) if fact == "reliability" else getattr(self, fact)
        return statistics.median(values) if values else None


@dataclass(frozen=True)
class WordErrors:
    """The comparison of the words of a corpus with its transcriptions.

    Attributes:
        kinds: the words of each kind in KINDS: correct, substitution, insertion and deletion.
        n_utterances: the number of compared utterances.

    Example::

        >>> from captum_spes.evaluation.word_errors import find_word_errors, word_facts
        >>> found = find_word_errors([{"spes": {"words": word_facts(explanation)}}], ["So, yes."])
        >>> found.kinds["substitution"].count, round(found.kinds["correct"].median("reliability", "spes"), 2)
        (1, 0.9)
        >>> found.table()[0]
        ('words', 'number', 'probability', 'heard', 'reliability, spes')
        >>> found.to_dict()["correct"]["count"]
        1
    """

    kinds: dict[str, KindOfWord]
    n_utterances: int

    def table(self) -> list[tuple[str, ...]]:
        """A header, and a row for each kind with the medians over its words."""
        methods = sorted({method for words in self.kinds.values() for method in words.reliability})
        rows: list[tuple[str, ...]] = [
            ("words", "number", "probability", "heard", *(f"reliability, {method}" for method in methods))
        ]
        for kind, words in self.kinds.items():
            medians = [words.median("probability"), words.median("heard")]
            medians += [words.median("reliability", method) for method in methods]
            rows.append((kind, str(words.count), *("" if value is None else f"{value:.2f}" for value in medians)))
        return rows

    def to_dict(self) -> dict[str, Any]:
        """The counts and medians, as values for a JSON file."""
        return {
            kind: {
                "count": words.count,
                "probability": words.median("probability"),
                "heard": words.median("heard"),
                "reliability": {method: words.median("reliability", method) for method in words.reliability},
            }
            for kind, words in self.kinds.items()
        }


def word_facts(explanation: SpeechToTextExplanation) -> dict[str, Any]:
    """The probability, heard share and reliability of each word, as plain values; empty if rows are not tokens."""
    if explanation.grouped:
        return {}
    words = explanation.words(normalize=False)
    sure = words.confidence
    return {
        "tokens": explanation.tokens,
        "seconds": explanation.duration,
        "language": written_language(explanation),
        "probability": None if sure is None else sure.probabilities,
        "heard": None if sure is None else sure.heard,
        "reliability": None if words.reliability is None else words.reliability.tolist(),
    }


def find_word_errors(
    utterances: Sequence[Mapping[str, Mapping[str, Any]]],
    transcriptions: Sequence[str | None],
    normalizer: Normalizer | None = None,
) -> WordErrors | None:
    """Sorts the words of a corpus by kind of error.

    Args:
        utterances: for each utterance, the scores of each method; ``"words"`` in them comes from :func:`word_facts`.
        transcriptions: for each utterance its transcription, or None if it is unknown.
        normalizer: the normaliser of both texts, as in :func:`~captum_spes.errors.find_errors`.

    Returns:
        WordErrors: the words by kind, or None if no utterance can be compared with a transcription.
    """
    kinds = {kind: KindOfWord() for kind in KINDS}
    n_utterances = 0
    for scores, transcription in zip(utterances, transcriptions):
        facts = {method: found["words"] for method, found in scores.items() if found.get("words")}
        if not facts or not transcription:
            continue
        first = next(iter(facts.values()))
        try:
            compared = check_reference(
                transcription, first["tokens"], first["seconds"], normalizer, first.get("language")
            )
        except ValueError:  # the transcription cannot be compared with this text
            continue
        n_utterances += 1
        wrong = {
            compared.numbers[number]: one.kind for one in compared.differences for number in range(one.first, one.stop)
        }
        kinds["deletion"].count += sum(one.end - one.begin for one in compared.differences if one.kind == "deletion")
        for number in compared.numbers:
            words = kinds[wrong.get(number, "correct")]
            words.count += 1
            for fact in ("probability", "heard"):
                if first.get(fact) is not None:
                    getattr(words, fact).append(first[fact][number])
            for method, found in facts.items():
                values = found.get("reliability")
                if values is not None and found["tokens"] == first["tokens"]:
                    words.reliability.setdefault(method, []).append(values[number])
    return WordErrors(kinds, n_utterances) if n_utterances else None
