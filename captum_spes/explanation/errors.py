"""An error of a text against a reference, with its explanation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from captum_spes.confidence import Verdict

if TYPE_CHECKING:
    from captum_spes.explanation import SpeechToTextExplanation

ErrorKind = Literal["substitution", "insertion", "deletion"]


@dataclass(frozen=True, eq=False)
class TextError:
    """A stretch of a text that differs from the reference. Attributes that are unknown are None.

    Attributes:
        kind: ``"substitution"``, ``"insertion"`` (the reference has no such words) or ``"deletion"`` (the model left
            out words of the reference).
        written: the words that the model wrote; empty for a deletion.
        expected: the words of the reference; empty for an insertion.
        words: the number of the first written word and the number after the last, as in
            :meth:`.SpeechToTextExplanation.words`. For a deletion, both are the number of the following word.
        begin: the time in seconds at which the written words begin; for a deletion, the end of the word before.
        end: the time in seconds at which the written words end; for a deletion, the beginning of the following word.
        probability: the model's probability of the written words or, for a deletion, of the following word.
        heard: the share of a word's probability that is lost when the sound of the word is hidden, averaged over the
            written words.
        verdict: ``"heard"``, ``"guessed"`` or ``"unsure"`` for the word with the smallest share.
        expected_probability: the model's probability of the expected words in the same place.
        explanation: the contrast of the written words with the expected words.
        reason: one or two sentences on what the explanation found.

    Example::

        >>> from captum_spes.explanation.errors import TextError
        >>> error = TextError("substitution", "old", "ill", (1, 2), begin=0.4, end=0.7, probability=0.5)
        >>> error.title
        'old (not ill)'
    """

    kind: ErrorKind
    written: str
    expected: str
    words: tuple[int, int]
    begin: float | None = None
    end: float | None = None
    probability: float | None = None
    heard: float | None = None
    verdict: Verdict | None = None
    expected_probability: float | None = None
    explanation: SpeechToTextExplanation | None = None
    reason: str = ""

    @property
    def title(self) -> str:
        """The error in a few words."""
        if self.kind == "insertion":
            return f"{self.written} (not said)"
        if self.kind == "deletion":
            return f"(no {self.expected})"
        return f"{self.written} (not {self.expected})"
