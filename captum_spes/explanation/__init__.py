"""Explanations: their maps, files, figures and reports, for an utterance and for a long recording."""

from captum_spes.explanation.long import LongExplanation, Part, Word
from captum_spes.explanation.result import SpeechToTextExplanation
from captum_spes.explanation.rows import WordRow

__all__ = ["LongExplanation", "Part", "SpeechToTextExplanation", "Word", "WordRow"]
