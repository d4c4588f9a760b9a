"""An error of a text against a reference, with what explains it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from captum_spes.confidence import Verdict

if TYPE_CHECKING:
    from captum_spes.explanation import SpeechToTextExplanation

ErrorKind = Literal["substitution", "insertion", "deletion"]


@dataclass(frozen=True, eq=False)
class TextError:
    """A stretch of a text that differs from the reference. What is not known is None.

    Attributes:
        kind: ``"substitution"``, ``"insertion"`` (nothing of it is in the reference) or ``"deletion"`` (nothing was
            written in its place).
        written: what the model wrote; empty for a deletion.
        expected: what stands in the reference; empty for an insertion.
        words: the numbers of the first written word and of the one after the last, among those of
            :meth:`.SpeechToTextExplanation.words`; of a deletion twice that of the word that follows.
        begin: seconds, when the written words are spoken; of a deletion, the end of the word before.
        end: seconds; of a deletion, the beginning of the word that follows.
        probability: that the model gave the written words, or the word that follows a deletion.
        heard: the share of the probability that is lost when the own sound of the words is hidden, the mean of the
            words.
        verdict: ``"heard"``, ``"guessed"`` or ``"unsure"``, of the least heard word.
        expected_probability: that the model gave the expected words in their place.
        explanation: the contrast of what was written with what was expected.
        reason: what the explanation says, in a sentence.

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
