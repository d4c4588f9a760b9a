"""The class of alignments, which hold the times of words and phones, and its files."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from captum_spes._files import why_unreadable, write_atomically
from captum_spes.alignment.formats import json_text, read_json, read_textgrid, textgrid_text
from captum_spes.alignment.segments import Segment, spoken

# in the order in which they are tried: files with phones first
SUFFIXES = (".TextGrid", ".phone.json", ".json")
EXTRA = "alignment"
LATEST_SECONDS = 1e7  # later times are errors


@dataclass(frozen=True)
class Alignment:
    """The words of an utterance, and their phones where these are known. Silence is left out.

    Attributes:
        words: the words in the order of time.
        phones: the phones in the order of time; empty if they are not known.
        source: the source of the times, as a text: an aligner, a model, or a file.

    Raises:
        ValueError: a segment ends before it begins, or begins before the segment before it.

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
                if not last <= segment.begin < segment.end < LATEST_SECONDS:  # refuses NaN as well
                    raise ValueError(
                        f"{segment.text!r} from {segment.begin} to {segment.end} s is out of order: a segment must "
                        "end after it begins, must not begin before the segment before it, and must end before "
                        f"{LATEST_SECONDS:g} s."
                    )
                last = segment.begin

    def phones_of(self, word: Segment) -> list[Segment]:
        """The phones whose middle is within a word.

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
            ValueError: the file does not exist or holds no alignment, or there is no such tier, or the tier has points
                in time.
            ImportError: the extra ``alignment``, which reads TextGrids, is missing.

        Warns:
            UserWarning: some words have no times, because the aligner did not find them.

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
            raise ValueError(f"{path} is not a readable alignment: {error}.".replace("..", ".")) from error

    def save(self, path: str | os.PathLike[str], duration: float | None = None) -> None:
        """Writes a TextGrid or JSON file, including the source, which :meth:`load` can read.

        Args:
            path: path of the file, which ends with ``.TextGrid`` or ``.json``.
            duration: seconds of the whole utterance. Default: the end of the last word.

        Raises:
            ValueError: the suffix is another one, or the duration is shorter than the words, or a TextGrid is to hold
                words or phones that overlap.
            ImportError: the extra ``alignment``, which writes TextGrids, is missing.

        Example::

            >>> alignment.save("speech.json")
        """
        end = max((segment.end for segment in (*self.words, *self.phones)), default=0.0)
        whole = end if duration is None else duration
        if whole < end:
            raise ValueError(f"the alignment ends at {end} s, after the duration of {duration} s: give a longer one.")
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
