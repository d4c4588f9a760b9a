"""An alignment: when the words and phones of an utterance are spoken, and the files that hold it."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from captum_spes._files import why_unreadable, write_atomically
from captum_spes.alignment.formats import json_text, read_json, read_textgrid, textgrid_text
from captum_spes.alignment.segments import Segment, spoken

# the most telling first: those with phones
SUFFIXES = (".TextGrid", ".phone.json", ".json")
EXTRA = "alignment"
MAX_SECONDS = 1e7  # nothing that is spoken lasts longer


@dataclass(frozen=True)
class Alignment:
    """The words of an utterance, and their phones where these are known. Silence is left out.

    Attributes:
        words: in the order of time.
        phones: in the order of time; empty where they are not known.
        source: where the times are from, in words: an aligner, a model, or a file.

    Raises:
        ValueError: a segment that ends before it begins, or begins before the one before it.

    Example::

        >>> from captum_spes.alignment import Alignment, Segment
        >>> alignment = Alignment(
        ...     words=[Segment("so", 0.2, 0.45)], phones=[Segment("S", 0.2, 0.31), Segment("OW", 0.31, 0.45)],
        ...     source="by hand")
        >>> [phone.text for phone in alignment.phones_of(alignment.words[0])]
        ['S', 'OW']
    """

    words: list[Segment]
    phones: list[Segment] = field(default_factory=list)
    source: str = "unknown"

    def __post_init__(self) -> None:
        for segments in (self.words, self.phones):
            last = 0.0
            for segment in segments:
                if not last <= segment.begin < segment.end < MAX_SECONDS:  # refuses NaN as well
                    raise ValueError(
                        f"{segment.text!r} from {segment.begin} to {segment.end} s is out of order: segments must not "
                        "end before they begin, nor begin before the one before them, nor last for years."
                    )
                last = segment.begin

    def phones_of(self, word: Segment) -> list[Segment]:
        """The phones whose middle lies in a word.

        Example::

            >>> [phone.text for phone in alignment.phones_of(alignment.words[1])]
            ['N', 'OW']
        """
        return [phone for phone in self.phones if word.begin <= phone.middle < word.end]

    # Files

    @classmethod
    def load(cls, path: str | os.PathLike[str], tier: str | None = None) -> Alignment:
        """Reads an alignment.

        Args:
            path: a Praat TextGrid (``.TextGrid``), or JSON (``.json``) of the Montreal Forced Aligner, Gentle, Whisper
                with word timestamps (OpenAI's, whisperX's, whisper-timestamped's, or a pipeline's of Transformers), or
                pocketsphinx.
            tier: the name of the tier with the words, or of one speaker, in a file that has tiers. Default: all tiers
                named ``words``, ``word``, ``wrd`` or ``ORT-MAU``, with or without a speaker's name (*Ann - words*);
                the words of several speakers are joined in the order of time. Phones are those of tiers named
                ``phones``, ``phone``, ``phn``, ``phonemes`` or ``MAU`` of the same speakers.

        Raises:
            ValueError: no such file, one that holds no alignment, or no such tier, or one of points in time.
            ImportError: the extra ``alignment`` is missing, which reads TextGrids.

        Warns:
            UserWarning: words that have no times, as aligners leave those that they do not find.

        Example::

            >>> from captum_spes.alignment import Alignment
            >>> alignment.save("speech.json")
            >>> Alignment.load("speech.json").words
            [Segment(text='so', begin=0.2, end=0.6), Segment(text='no', begin=0.8, end=1.2)]
        """
        path = Path(path)
        if reason := why_unreadable(path):
            raise ValueError(f"{path} {reason}: give the path of an alignment.")
        try:
            if path.suffix.lower() == ".textgrid":
                words, phones, source = read_textgrid(path, tier)
            elif path.suffix.lower() == ".json":
                words, phones, source = read_json(path, tier)
            else:
                raise ValueError("it is neither a .TextGrid nor a .json file")
            return cls(spoken(words, word=True), spoken(phones), source or path.name)
        except OSError as error:
            raise ValueError(f"{path} cannot be read ({error.strerror}): check its permissions.") from error
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path} is no alignment that can be read: {error}.".replace("..", ".")) from error

    def save(self, path: str | os.PathLike[str], duration: float | None = None) -> None:
        """Writes a TextGrid or JSON file, as :meth:`load` reads it, with the source in it.

        Args:
            path: ends with ``.TextGrid`` or ``.json``.
            duration: seconds of the whole utterance. Default: until the last word ends.

        Raises:
            ValueError: another suffix, or a duration that ends before the words.
            ImportError: the extra ``alignment`` is missing, which writes TextGrids.

        Example::

            >>> alignment.save("speech.json")
        """
        end = max((segment.end for segment in (*self.words, *self.phones)), default=0.0)
        whole = end if duration is None else duration
        if whole < end:
            raise ValueError(f"the alignment goes on until {end} s, longer than the duration of {duration} s.")
        suffix = Path(path).suffix.lower()
        if suffix not in (".textgrid", ".json"):
            raise ValueError(f"{path} must end with .TextGrid or .json.")
        if suffix == ".textgrid":
            content = textgrid_text(self.words, self.phones, self.source, whole)
        else:
            words = [(word, self.phones_of(word)) for word in self.words]
            content = json_text(words, self.source, whole, phones=bool(self.phones))
        write_atomically(path, content)


def find_alignment(audio: str | os.PathLike[str]) -> Path | None:
    """The alignment beside an audio file: ``name.TextGrid``, ``name.phone.json`` or ``name.json``, or None.

    Example::

        >>> from captum_spes.alignment import find_alignment
        >>> alignment.save("speech.json")
        >>> find_alignment("speech.wav").name
        'speech.json'
    """
    candidates = (Path(audio).with_suffix(name) for suffix in SUFFIXES for name in (suffix, suffix.lower()))
    return next((path for path in candidates if path.is_file()), None)
