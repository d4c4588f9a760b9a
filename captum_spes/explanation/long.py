"""The explanation of a recording that is longer than its model's window: explanations of its parts in a folder."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from captum_spes._files import write_json
from captum_spes.explanation.figures import MEAN_LABEL, SIGNED_LABEL, is_signed, relative
from captum_spes.explanation.result import SpeechToTextExplanation
from captum_spes.visualization import TranscriptLine, plot_transcript
from captum_spes.words import is_mark, is_word

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INDEX = "parts.json"
VERSION = 1


@dataclass(frozen=True)
class Word:
    """A word and the time of the maximum of its map.

    Attributes:
        text: the word, as the model wrote it.
        time: time in seconds, from the beginning of the recording, of the maximum of its map; the mean over several
            frames with equal maxima.

    Example::

        >>> from captum_spes.explanation.long import Word
        >>> Word("step", 61.5)
        Word(text='step', time=61.5)
    """

    text: str
    time: float


@dataclass(frozen=True)
class Part:
    """A part of a recording.

    Attributes:
        start: its begin in seconds from the beginning of the recording.
        stop: its end in seconds.
        text: the text that the model wrote; empty if it wrote no words.
        tokens: the explained tokens, including special tokens such as the end of the text.
        words: the words of the text.
        done: whether it is explained, or known to have no words.

    Example::

        >>> from captum_spes.explanation.long import Part
        >>> Part(start=60, stop=75.5).done
        False
    """

    start: float
    stop: float
    text: str = ""
    tokens: list[str] = field(default_factory=list)
    words: list[Word] = field(default_factory=list)
    done: bool = False


class LongExplanation(Sequence[SpeechToTextExplanation]):
    """The explanations of the parts of a long recording, which are in a folder and loaded one at a time.

    It is a sequence of :class:`SpeechToTextExplanation` for the parts with words. Each is read from its file when it is
    accessed. Metrics take it like a list, and pool its parts. ::

        folder/parts.json                          settings; texts, tokens and words of the parts, with their times
        folder/part-001/explanation.safetensors

    Attributes:
        folder: the folder.
        duration: seconds of the recording.
        parts: all parts, including those that are not explained yet.
        settings: the settings of all explanations.

    Example::

        >>> from captum_spes import SPES, LongExplanation, SpeechToTextAttribution
        >>> from captum_spes.models import load_model
        >>> attribution = SpeechToTextAttribution(SPES(load_model("whisper-tiny.en")))
        >>> talk = attribution.attribute_long("speech.wav", "speech-parts", n_samples=30)
        >>> len(talk.parts), talk.missing, talk[0].text == talk.text
        (1, [], True)
        >>> part, explanation = talk.at(0)
        >>> explanation.tokens == talk.tokens[:1], all(part.start <= word.time <= part.stop for word in talk.words)
        (True, True)
        >>> talk.plot(0, 60).savefig("first_minute.png")
        >>> again = LongExplanation.load("speech-parts")
        >>> [again.path(number).name for number in again.explained], LongExplanation.exists("speech-parts")
        (['explanation.safetensors'], True)
    """

    def __init__(self, folder: Path, duration: float, parts: Sequence[Part], settings: dict[str, Any]) -> None:
        self.folder = folder
        self.duration = duration
        self.parts = list(parts)
        self.settings = settings

    def __repr__(self) -> str:
        done = sum(part.done for part in self.parts)
        return f"<LongExplanation of {self.duration:.2f} s in {self.folder}: {done} of {len(self.parts)} parts>"

    # The sequence

    @property
    def explained(self) -> list[int]:
        """The numbers of the parts that have an explanation."""
        return [number for number, part in enumerate(self.parts) if part.tokens]

    @property
    def missing(self) -> list[int]:
        """The numbers of the parts that are not explained yet."""
        return [number for number, part in enumerate(self.parts) if not part.done]

    def __len__(self) -> int:
        return len(self.explained)

    @overload
    def __getitem__(self, index: int) -> SpeechToTextExplanation: ...
    @overload
    def __getitem__(self, index: slice) -> list[SpeechToTextExplanation]: ...
    def __getitem__(self, index: int | slice) -> SpeechToTextExplanation | list[SpeechToTextExplanation]:
        found = self.explained[index]
        if isinstance(found, list):
            return [SpeechToTextExplanation.load(self.path(number)) for number in found]
        return SpeechToTextExplanation.load(self.path(found))

    def path(self, number: int) -> Path:
        """The file of a part's explanation; its folder may also hold figures of the part."""
        return self.folder / f"part-{number + 1:03}" / "explanation.safetensors"

    # Reading

    @property
    def text(self) -> str:
        """The text of the whole recording."""
        return " ".join(part.text for part in self.parts if part.text)

    @property
    def tokens(self) -> list[str]:
        """All explained tokens, including the special tokens at the end of each part."""
        return [token for part in self.parts for token in part.tokens]

    @property
    def words(self) -> list[Word]:
        """All words with their times, from the beginning of the recording."""
        return [word for part in self.parts for word in part.words]

    def at(self, token: int) -> tuple[Part, SpeechToTextExplanation]:
        """The part that contains a token, and the explanation of this token alone.

        Args:
            token: its number in :attr:`tokens`; negative numbers count from the end.

        Raises:
            ValueError: there is no such token.
        """
        if not -len(self.tokens) <= token < len(self.tokens):
            raise ValueError(f"there is no token {token}: the recording has {len(self.tokens)} tokens.")
        row = token % len(self.tokens)
        for number in self.explained:
            part = self.parts[number]
            if row < len(part.tokens):
                break
            row -= len(part.tokens)
        whole = SpeechToTextExplanation.load(self.path(number))
        rows = slice(row, row + 1)
        return part, replace(
            whole,
            tokens=whole.tokens[rows],
            spectrogram_attr=whole.spectrogram_attr[rows],
            token_attr=whole.token_attr[rows],
            n_previous=whole.n_previous[rows],
            reliability=None if whole.reliability is None else whole.reliability[rows],
            confidence=whole.confidence and whole.confidence.grouped([(row, row + 1)], whole.tokens),
            grouped=True,
        )

    def plot(self, start: float = 0, stop: float | None = None) -> Figure:
        """Draws a section of the recording: the words at their times above the map of the text, a line for each part.

        Args:
            start: begin of the section in seconds.
            stop: end of the section in seconds. Default: the end of the recording. A readable figure has a few minutes.

        Raises:
            ValueError: there are no words in the section.
        """
        stop = self.duration if stop is None else stop
        lines = []
        signed = None
        for number in self.explained:
            part = self.parts[number]
            if part.stop <= start or part.start >= stop:
                continue
            explanation = SpeechToTextExplanation.load(self.path(number))
            if signed is None:  # for signed maps such as those of gradients: 0 is no effect, the largest value is 1
                signed = is_signed(explanation)
            sentence = explanation.sentence()
            if signed:
                sentence = relative(relative(explanation).sentence(normalize=False))
            rate = sentence.frames_per_second
            # the frames of the part that are in the section
            first, last = (round(max(time - part.start, 0) * rate) for time in (start, stop))
            if first >= min(last, len(sentence.spectrogram)):  # less than half a frame
                continue
            begin = part.start + first / rate
            lines.append(
                TranscriptLine(
                    begin,
                    sentence.spectrogram[first:last],
                    sentence.spectrogram_attr[0, first:last].clamp(-1, 1),
                    [(w.text, w.time) for w in part.words if begin <= w.time <= stop and is_word(w.text)],
                )
            )
        if not lines:
            raise ValueError(
                f"there are no words between {start:g} and {stop:g} s: give another section of the {self.duration:g} s."
            )
        return plot_transcript(lines, rate, sentence.mel_frequencies, SIGNED_LABEL if signed else MEAN_LABEL)

    # Files

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> LongExplanation:
        """Reads the explanation of a long recording from its folder.

        Raises:
            ValueError: the folder does not exist, or its index is damaged or of a newer version.
        """
        path = Path(folder) / INDEX
        if not cls.exists(folder):
            raise ValueError(f"{path} does not exist: give the folder of a long recording's explanation.")
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            version = content["version"]
            if version > VERSION:
                raise ValueError(f"it is of version {version}, newer than this library reads ({VERSION})")
            parts = [Part(**{**part, "words": [Word(**word) for word in part["words"]]}) for part in content["parts"]]
            return cls(Path(folder), float(content["duration"]), parts, dict(content["settings"]))
        except (KeyError, TypeError, ValueError, RecursionError) as error:
            raise ValueError(f"{path} is damaged ({error}): delete it to explain the recording again.") from error

    @staticmethod
    def exists(folder: str | os.PathLike[str]) -> bool:
        """Whether a folder holds the explanation of a long recording."""
        return (Path(folder) / INDEX).is_file()

    def write_index(self) -> None:
        """Writes ``parts.json`` into the folder, which is made if it does not exist.

        Example::

            >>> from pathlib import Path
            >>> from captum_spes import LongExplanation
            >>> from captum_spes.explanation.long import Part
            >>> talk = LongExplanation(Path("saved"), 90.0, [Part(0, 50), Part(50, 90)], settings={})
            >>> talk.write_index()
            >>> LongExplanation.load("saved")
            <LongExplanation of 90.00 s in saved: 0 of 2 parts>
        """
        content = {
            "version": VERSION,
            "duration": self.duration,
            "settings": self.settings,
            "parts": [asdict(part) for part in self.parts],
        }
        self.folder.mkdir(parents=True, exist_ok=True)
        write_json(self.folder / INDEX, content)

    def finish(self, number: int, explanation: SpeechToTextExplanation | None) -> None:
        """Writes the explanation of a part into the folder; None marks a part without words.

        Example::

            >>> from pathlib import Path
            >>> from captum_spes import LongExplanation
            >>> from captum_spes.explanation.long import Part
            >>> talk = LongExplanation(Path("saved"), 90.0, [Part(0, 50), Part(50, 90)], settings={})
            >>> talk.finish(0, None)
            >>> talk.finish(1, explanation)
            >>> LongExplanation.load("saved").text, talk.explained, talk.missing
            ('So no.', [1], [])
        """
        part = self.parts[number]
        if explanation is not None:
            self.path(number).parent.mkdir(parents=True, exist_ok=True)
            explanation.save(self.path(number))
            words = [Word(word.text, part.start + word.time) for word in peak_times(explanation)]
            part = replace(part, text=explanation.text, tokens=explanation.tokens, words=words)
        self.parts[number] = replace(part, done=True)
        self.write_index()


def peak_times(explanation: SpeechToTextExplanation) -> list[Word]:
    """The words of an explanation, each with the time of the maximum of its map."""
    words = explanation if explanation.grouped else explanation.words()
    curves = words.spectrogram_attr.amax(2)  # (K, T)
    peaks = [float(row.argwhere().double().mean()) for row in curves == curves.amax(1, keepdim=True)]
    rate = words.frames_per_second
    return [Word(text, (peak + 0.5) / rate) for text, peak in zip(words.tokens, peaks) if not is_mark(text)]
