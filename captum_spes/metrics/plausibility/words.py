"""The words of explanations, and the times at which they are spoken."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from captum_spes.alignment import Alignment, match_words
from captum_spes.explanation import SpeechToTextExplanation
from captum_spes.metrics.checks import Explanations, as_lists
from captum_spes.words import is_word

HIGH_THRESHOLD = 0.5  # a frame is high if its value is at least this, on a curve that is scaled to 0 to 1

Alignments = Alignment | Sequence[Alignment]


@dataclass(frozen=True)
class UnmatchedWord:
    """A word whose time is not known, and the reason.

    Attributes:
        utterance: number of its explanation.
        word: the word as the model wrote it.
        reason: the reason, as a sentence.

    Example::

        >>> from captum_spes.alignment import Alignment, Segment
        >>> from captum_spes.metrics import time_localization
        >>> alignment = Alignment([Segment("so", 0.2, 0.6)], source="by hand")
        >>> time_localization(explanation, alignment).unmatched
        [UnmatchedWord(utterance=0, word='no', reason='no word of the alignment matches it')]
    """

    utterance: int
    word: str
    reason: str


@dataclass(frozen=True, eq=False)
class SpokenWord:
    """A word of an explanation, its map and its span.

    Attributes:
        utterance: number of its explanation.
        text: the word as the model wrote it.
        begin: begin of its span in seconds.
        end: end of its span in seconds.
        attr: its map, the mean of the normalised maps of its tokens, (T, C).
        frames_per_second: frames of the map in a second.
    """

    utterance: int
    text: str
    begin: float
    end: float
    attr: np.ndarray
    frames_per_second: float

    @property
    def curve(self) -> np.ndarray:
        """The maximum over the frequencies of each frame, (T,)."""
        return self.attr.max(1)

    def inside(self, margin: float = 0.0) -> np.ndarray:
        """The frames whose centres are in its span, extended by a margin in seconds: bool (T,)."""
        return frames_in(len(self.attr), self.frames_per_second, self.begin - margin, self.end + margin)


def frames_in(n_frames: int, frames_per_second: float, begin: float, end: float) -> np.ndarray:
    """The frames whose centres are between two times in seconds, bool (T,)."""
    centres = (np.arange(n_frames) + 0.5) / frames_per_second
    return (begin <= centres) & (centres < end)


def spoken_words(
    explanations: Sequence[SpeechToTextExplanation], alignments: Sequence[Alignment]
) -> tuple[list[SpokenWord], list[UnmatchedWord]]:
    """The words whose times are known, and the other words; punctuation and special tokens are left out."""
    found, unmatched = [], []
    for number, (explanation, alignment) in enumerate(zip(explanations, alignments)):
        words = explanation.words()
        rate = explanation.frames_per_second
        for row, (text, segment) in enumerate(zip(words.tokens, match_words(words.tokens, alignment.words))):
            if not is_word(text):
                continue
            if segment is None:
                unmatched.append(UnmatchedWord(number, text, "no word of the alignment matches it"))
            elif not frames_in(len(words.spectrogram), rate, segment.begin, segment.end).any():
                unmatched.append(UnmatchedWord(number, text, "its span holds no frame of the audio"))
            else:
                attr = words.spectrogram_attr[row].double().numpy()
                found.append(SpokenWord(number, text, segment.begin, segment.end, attr, rate))
    return found, unmatched


def as_list(explanations: Explanations) -> list[SpeechToTextExplanation]:
    """One or several explanations as a list.

    Raises:
        ValueError: there is no explanation, or one has values that are not finite.
    """
    given = list(as_lists(explanations)[0])
    for explanation in given:
        if not (explanation.spectrogram_attr.isfinite().all() and explanation.token_attr.isfinite().all()):
            raise ValueError(
                f"the explanation of {explanation.text!r} holds NaN or infinite values: explain the text again."
            )
    return given


def check_tokens(explanations: Sequence[SpeechToTextExplanation]) -> None:
    """Raises a ValueError for an explanation whose rows are words or a sentence."""
    for explanation in explanations:
        if explanation.grouped:
            raise ValueError(
                f"the explanation of {explanation.text!r} is of words or a sentence: give that of the tokens."
            )


def check_attributed(explanation: SpeechToTextExplanation) -> None:
    """Raises a ValueError for an explanation without attributions of the previous tokens."""
    if not explanation.token_attr.any():
        raise ValueError(
            f"the explanation of {explanation.text!r} has no attributions of the previous tokens: use a method that "
            "attributes to them."
        )


def aligned(
    explanations: Explanations, alignments: Alignments
) -> tuple[list[SpeechToTextExplanation], list[Alignment]]:
    """Explanations with an alignment for each, as lists.

    Raises:
        ValueError: the numbers of explanations and alignments differ, or :func:`as_list` or :func:`check_tokens`
            refuses an explanation.
    """
    given = as_list(explanations)
    check_tokens(given)
    times = [alignments] if isinstance(alignments, Alignment) else list(alignments)
    if len(given) != len(times):
        raise ValueError(f"there are {len(times)} alignments for {len(given)} explanations: give one for each.")
    return given, times


def is_high(curve: np.ndarray, threshold: float) -> np.ndarray:
    """The frames with at least the threshold after the curve is scaled to 0 to 1; all frames of a constant curve."""
    above = curve - curve.min()
    return above >= threshold * above.max()


def mean_of(values: np.ndarray) -> float:
    """The mean of values, or NaN if there are none."""
    return float(values.mean()) if values.size else np.nan


def check_limits(tolerance: float, threshold: float) -> None:
    """Raises a ValueError for a tolerance or threshold that is out of range."""
    if not 0 <= tolerance < np.inf:
        raise ValueError(f"tolerance must be seconds of at least 0, not {tolerance}.")
    if not 0 < threshold <= 1:
        raise ValueError(f"threshold must be above 0 and at most 1, not {threshold}.")
