"""The state of one recording in the app: its text, and the explanations that were computed so far."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from captum_spes.audio import Recording
from captum_spes.explanation import SpeechToTextExplanation
from captum_spes.explanation.page import html
from captum_spes.models import SpeechToTextModel, Utterance, prepare, text
from captum_spes.models.context import fit_utterance
from captum_spes.speech_to_text.catalogue import METHODS
from captum_spes.speech_to_text.parts import longest_seconds
from captum_spes.speech_to_text.targets import Contrast, TextWords
from captum_spes.words import is_mark

# the method that samples nothing: it gives a picture in about a second
INSTANT = "attn_lrp"
# the method that is chosen when the app opens; its picture replaces the first one
SAMPLED = "gradient_spes"
# the longest recording, also for models without a window of fixed length
MAX_SECONDS = 30.0

Progress = Callable[[str, int, int], None]


class Session:
    """A recording, the text that the model wrote of it, and its explanations by method and contrast.

    Args:
        model: the model.
        recording: the recording, which lasts at most :func:`max_seconds`.

    Raises:
        ValueError: the recording is too long, or the model writes no words.

    Example::

        >>> from captum_spes.app.session import Session
        >>> from captum_spes.audio import read_recording
        >>> from captum_spes.models import load_model
        >>> session = Session(load_model("whisper-tiny.en"), read_recording("speech.wav"))
        >>> session.report("saliency").startswith("<!DOCTYPE html>")
        True
    """

    def __init__(self, model: SpeechToTextModel, recording: Recording) -> None:
        longest = max_seconds(model)
        if recording.seconds > longest:
            raise ValueError(
                f"the recording lasts {recording.seconds:.0f} s, and this page explains at most {longest:g} s: cut out "
                "a part of it, or explain all of it on the command line, with captum-spes explain."
            )
        self.model = model
        self.recording = recording
        self._utterance, self._tokens = prepare(model, recording, context="full")
        self._fitted: Utterance | None = None
        self._explanations: dict[tuple[str, Contrast | None], SpeechToTextExplanation] = {}

    @property
    def text(self) -> str:
        """The text that the model wrote."""
        return text(self.model, self._tokens)

    @property
    def words(self) -> list[str]:
        """The words of the text and its punctuation; their numbers are those that a :class:`.Contrast` takes."""
        words = TextWords(self.model.token_texts(self._tokens.target)).words
        return words[: next((number for number, word in enumerate(words) if is_mark(word)), None)]

    def explain(
        self, method: str, contrast: Contrast | None = None, callback: Progress | None = None
    ) -> SpeechToTextExplanation:
        """Explains the text by a method of the catalogue; a repeated call returns the same explanation.

        Args:
            method: the name of the method. :data:`INSTANT` takes the instant preset, and the others the fast preset.
            contrast: explain one word against another instead of every token.
            callback: called as ``callback(stage, done, total)``. An exception that it raises ends the run.

        Raises:
            ValueError: the method cannot explain this model, or the contrast does not fit the text.
        """
        key = method, contrast
        if key not in self._explanations:
            preset: Literal["instant", "fast"] = "instant" if method == INSTANT else "fast"
            self._explanations[key] = METHODS[method].explain(
                self.model,
                self._unperturbed() if method == INSTANT else self._fit(callback),
                self._tokens,
                preset,
                contrast=contrast,
                callback=callback,
            )
        return self._explanations[key]

    def report(self, method: str, contrast: Contrast | None = None) -> str:
        """The interactive page of an explanation, which plays the recording."""
        return html(self.explain(method, contrast), self.recording)

    def _unperturbed(self) -> Utterance:
        """The utterance with padding that is frozen without a probe, for the method without perturbations."""
        return fit_utterance(self.model, self._utterance, self._tokens, "unperturbed")

    def _fit(self, callback: Progress | None) -> Utterance:
        """The utterance in the cheapest context whose scores are those of the full window."""
        if self._fitted is None:
            self._fitted = fit_utterance(self.model, self._utterance, self._tokens, dtype="auto", callback=callback)
        return self._fitted


def max_seconds(model: SpeechToTextModel) -> float:
    """The longest recording that the app explains with a model."""
    return min(longest_seconds(model, MAX_SECONDS), MAX_SECONDS)


def methods_of(model: SpeechToTextModel) -> list[str]:
    """The names of the methods that can explain a model."""

    def explains(name: str) -> bool:
        try:
            METHODS[name].wrap(model)
        except ValueError:
            return False
        return True

    return [name for name in METHODS if explains(name)]
