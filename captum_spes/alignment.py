"""When the words and phones of an utterance are spoken: files, a forced aligner, and Whisper's own attention."""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any

import numpy as np

from captum_spes._extras import require
from captum_spes._files import write_atomically
from captum_spes.audio import AudioLike, load_audio
from captum_spes.models.protocol import SpeechToTextModel, Tokens, Utterance
from captum_spes.words import is_word, letters, word_spans

# the most telling first: those with phones
SUFFIXES = (".TextGrid", ".phone.json", ".json")
EXTRA = "alignment"
ALIGNER_RATE = 16_000
ALIGNER_FRAMES = 100  # a second
# silence and noise in the words and phones of common aligners
SILENCES = {"", "sil", "<sil>", "sp", "spn", "pau", "<s>", "</s>", "<eps>", "[noise]", "[speech]", "<p:>", "+spn+"}
# those of the Montreal Forced Aligner, of WebMAUS and of other habits
WORD_TIERS, PHONE_TIERS = ("words", "word", "ort-mau"), ("phones", "phone", "phonemes", "mau")
SOURCE_TIER = "source"
MAX_SECONDS = 1e7  # nothing that is spoken lasts longer


@dataclass(frozen=True)
class Segment:
    """A word or a phone, and when it is spoken.

    Attributes:
        text: the word, or the phone in the aligner's symbols.
        begin: seconds.
        end: seconds, after the beginning.

    Example::

        >>> from captum_spes.alignment import Segment
        >>> Segment("so", 0.2, 0.5).middle
        0.35
    """

    text: str
    begin: float
    end: float

    @property
    def middle(self) -> float:
        """Seconds."""
        return (self.begin + self.end) / 2


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
    def load(cls, path: str | os.PathLike[str]) -> Alignment:
        """Reads an alignment.

        Args:
            path: a Praat TextGrid (``.TextGrid``) with a tier ``words`` and, maybe, a tier ``phones``, as the Montreal
                Forced Aligner writes them; or JSON (``.json``) as pocketsphinx writes it, with words in ``w``, their
                phones in the words' own ``w``, and ``t``, ``b``, ``d`` for text, begin and duration in seconds.

        Raises:
            ValueError: no such file, or one that holds no alignment.
            ImportError: the extra ``alignment`` is missing, which reads TextGrids.

        Example::

            >>> from captum_spes.alignment import Alignment
            >>> alignment.save("speech.json")
            >>> Alignment.load("speech.json").words
            [Segment(text='so', begin=0.2, end=0.6), Segment(text='no', begin=0.8, end=1.2)]
        """
        path = Path(path)
        if not path.is_file():
            raise ValueError(f"{path} does not exist: give the path of an alignment.")
        try:
            if path.suffix.lower() == ".textgrid":
                words, phones, source = _read_textgrid(path)
            elif path.suffix.lower() == ".json":
                words, phones, source = _read_json(path)
            else:
                raise ValueError("it is neither a .TextGrid nor a .json file")
            return cls(_spoken(words, word=True), _spoken(phones), source or path.name)
        except OSError as error:
            raise ValueError(f"{path} cannot be read ({error.strerror}): check its permissions.") from error
        except KeyError as error:
            raise ValueError(f"{path} is no alignment that can be read: it has no {error.args[0]!r}.") from error
        except (ValueError, TypeError, AttributeError, IndexError, OverflowError, RecursionError) as error:
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
        write_atomically(path, self._as_textgrid(whole) if suffix == ".textgrid" else self._as_json(whole))

    def _as_json(self, duration: float) -> str:
        words = [
            _timed(word) | ({"w": [_timed(phone) for phone in self.phones_of(word)]} if self.phones else {})
            for word in self.words
        ]
        text = " ".join(word.text for word in self.words)
        whole = {"b": 0.0, "d": round(duration, 6), "t": text, "source": self.source, "w": words}
        return json.dumps(whole, ensure_ascii=False) + "\n"

    def _as_textgrid(self, duration: float) -> str:
        textgrid = require("praatio.textgrid", EXTRA)
        duration = round(duration, 6)
        grid = textgrid.Textgrid(0, duration)
        tiers = {"words": self.words, "phones": self.phones, SOURCE_TIER: [Segment(self.source, 0, duration)]}
        for name, segments in tiers.items():
            if segments:
                entries = [(round(item.begin, 6), round(item.end, 6), item.text) for item in segments]
                grid.addTier(textgrid.IntervalTier(name, entries, 0, duration))
        with tempfile.TemporaryDirectory() as folder:  # praatio writes files alone
            path = Path(folder, "alignment.TextGrid")
            grid.save(str(path), format="long_textgrid", includeBlankSpaces=True)
            return path.read_text(encoding="utf-8")


def find_alignment(audio: str | os.PathLike[str]) -> Path | None:
    """The alignment beside an audio file: ``name.TextGrid``, ``name.phone.json`` or ``name.json``, or None.

    Example::

        >>> from captum_spes.alignment import find_alignment
        >>> alignment.save("speech.json")
        >>> find_alignment("speech.wav").name
        'speech.json'
    """
    candidates = (Path(audio).with_suffix(suffix) for suffix in SUFFIXES)
    return next((path for path in candidates if path.is_file()), None)


# Aligners


def force_align(audio: AudioLike, text: str, sampling_rate: int | None = None) -> Alignment:
    """Finds the words and phones of an English text in audio, by pocketsphinx and the model that it ships.

    Args:
        audio: as for :func:`~captum_spes.audio.load_audio`.
        text: what is said in it, in ordinary writing.
        sampling_rate: samples a second of an array.

    Returns:
        Alignment: words without punctuation, and their phones in the symbols of the CMU dictionary.

    Raises:
        ValueError: words that are not in the dictionary, or a text that is not what is said.
        ImportError: the extra ``alignment`` is missing.

    Example::

        >>> from captum_spes.alignment import force_align
        >>> force_align("speech.wav", "So what was the next step?").save("speech.TextGrid")  # doctest: +SKIP
    """
    pocketsphinx = require("pocketsphinx", EXTRA)
    samples = load_audio(audio, ALIGNER_RATE, sampling_rate)
    data = (np.clip(samples, -1, 1) * 32767).astype(np.int16).tobytes()
    decoder = pocketsphinx.Decoder(lm=None, loglevel="FATAL", samprate=ALIGNER_RATE)
    words = list(_dictionary_words(decoder, text))
    if unknown := sorted({word for word in words if decoder.lookup_word(word) is None}):
        raise ValueError(
            f"the dictionary of pocketsphinx has no {', '.join(map(repr, unknown))}: it knows English words, "
            "written in letters. Change the text, or align by another source."
        )
    if not words:
        raise ValueError(f"there are no words to align in {text!r}.")
    try:
        decoder.set_align_text(" ".join(words))
        _decode(decoder, data)
        decoder.set_alignment()  # of the phones in the words that were found
        _decode(decoder, data)
    except RuntimeError as error:
        raise ValueError(f"the text cannot be found in the audio, so it is not what is said: {text!r}.") from error
    found: list[Segment] = []
    phones: list[Segment] = []
    for word in decoder.get_alignment():  # its entries last until the next
        found.append(_segment(word))
        phones += [_segment(phone) for phone in word]
    source = f"pocketsphinx {_version('pocketsphinx')}, forced alignment"
    return Alignment(_spoken(found, word=True), _spoken(phones), source)


def attention_alignment(model: SpeechToTextModel, utterance: Utterance, tokens: Tokens) -> Alignment:
    """When a model attends to each word that it writes: its own timestamps, without an aligner, in any language.

    A word begins where the decoder's attention reaches its first token, and ends where it reaches the next word.
    There are no pauses, and no phones. Times are those of the model itself, rather than of the sound: a map that agrees
    with them shows that two views of the model agree.

    Args:
        model: one whose adapter has ``token_times``, such as Whisper's.
        utterance: from :meth:`.SpeechToTextAttribution.prepare`.
        tokens: from there too.

    Raises:
        ValueError: a model that has no such times.

    Example::

        >>> from captum_spes.alignment import attention_alignment
        >>> utterance, tokens = attribution.prepare("speech.wav")  # doctest: +SKIP
        >>> attention_alignment(attribution.model, utterance, tokens).words[0]  # doctest: +SKIP
        Segment(text='So', begin=0.0, end=0.28)
    """
    token_times = getattr(model, "token_times", None)
    if token_times is None:
        raise ValueError(f"{model.name} does not tell when it attends to what: align by another source.")
    times = token_times(utterance, tokens).tolist()
    texts = model.token_texts(tokens.target)
    words = []
    for start, stop in word_spans(texts):
        text = "".join(texts[start:stop]).strip()
        begin, end = times[start][0], times[stop - 1][1]
        if is_word(text) and begin < end:
            words.append(Segment(text, begin, end))
    return Alignment(words, source=f"{model.name}, cross-attention")


def _dictionary_words(decoder: Any, text: str) -> Iterator[str]:
    """The words of a text as the dictionary writes them; one with a hyphen is two where it is not there as one."""
    for word in re.findall(r"[\w'’-]+", text.lower()):
        word = word.replace("’", "'").strip("-")
        parts = [word] if decoder.lookup_word(word) else re.split(r"-+", word)
        for part in parts:
            part = part if decoder.lookup_word(part) else part.strip("'_")
            if part:
                yield part


def _decode(decoder: Any, data: bytes) -> None:
    decoder.start_utt()
    decoder.process_raw(data, full_utt=True)
    decoder.end_utt()


def _segment(entry: Any) -> Segment:
    return Segment(entry.name, entry.start / ALIGNER_FRAMES, (entry.start + entry.duration) / ALIGNER_FRAMES)


def _version(package: str) -> str:
    from importlib.metadata import version

    return version(package)


# Formats


def _timed(segment: Segment) -> dict[str, Any]:
    begin, duration = round(segment.begin, 6), round(segment.end - segment.begin, 6)
    return {"b": begin, "d": duration, "t": segment.text}


def _read_json(path: Path) -> tuple[list[Segment], list[Segment], str]:
    whole = json.loads(path.read_text(encoding="utf-8"))
    words = whole["w"]
    phones = [phone for word in words for phone in word.get("w", [])]
    return list(map(_read_segment, words)), list(map(_read_segment, phones)), str(whole.get("source", ""))


def _read_segment(item: dict[str, Any]) -> Segment:
    text, begin, duration = item["t"], item["b"], item["d"]
    if not isinstance(text, str) or any(type(seconds) not in (int, float) for seconds in (begin, duration)):
        raise ValueError(f"a segment has the text {text!r:.80} and the times {begin!r:.40} and {duration!r:.40}")
    return Segment(text, begin, round(begin + duration, 6))


def _read_textgrid(path: Path) -> tuple[list[Segment], list[Segment], str]:
    textgrid = require("praatio.textgrid", EXTRA)
    try:
        grid = textgrid.openTextgrid(str(path), includeEmptyIntervals=False, reportingMode="silence")
    except Exception as error:  # praatio has many, and no base class that tells them apart
        raise ValueError(str(error) or type(error).__name__) from error
    words, phones = (_tier(grid, names) for names in (WORD_TIERS, PHONE_TIERS))
    if words is None:
        raise ValueError(f"there is no tier named 'words', only {', '.join(grid.tierNames) or 'none'}")
    source = _tier(grid, (SOURCE_TIER,)) or []
    return words, phones or [], source[0].text if source else ""


def _tier(grid: Any, names: Sequence[str]) -> list[Segment] | None:
    """The intervals of the first tier of such a name; aligners put a speaker before it, "Ann - words"."""
    for tier in grid.tiers:
        if tier.name.lower().split(" - ")[-1].strip() in names:
            return [Segment(entry.label, entry.start, entry.end) for entry in tier.entries]
    return None


def _spoken(segments: Sequence[Segment], word: bool = False) -> list[Segment]:
    """Without silence, and without the number of a word's pronunciation, as in and(2)."""
    spoken = [segment for segment in segments if segment.text.strip().lower() not in SILENCES]
    if not word:
        return spoken
    return [Segment(re.sub(r"\(\d+\)$", "", item.text.strip()), item.begin, item.end) for item in spoken]


# Matching


def match_words(texts: Sequence[str], words: Sequence[Segment]) -> list[Segment | None]:
    """For each of some words the segment in which it is spoken, or None where none can be told.

    Letter case, accents and punctuation do not count. A word may be spoken in several segments, as *ill-disposed* in
    *ill* and *disposed*. Punctuation and marks have no segment, and neither has a word that differs from what was
    aligned: nothing is guessed.

    Args:
        texts: the words, such as those of ``explanation.words().tokens``.
        words: of an alignment.

    Example::

        >>> from captum_spes.alignment import Segment, match_words
        >>> words = [Segment("an", 0.0, 0.1), Segment("ill", 0.1, 0.4), Segment("disposed", 0.4, 1.0)]
        >>> match_words(["An", "ill-disposed", "man", "."], words)
        [Segment(text='an', begin=0.0, end=0.1), Segment(text='ill disposed', begin=0.1, end=1.0), None, None]
    """
    ours, theirs = [letters(text) for text in texts], [letters(word.text) for word in words]
    found: list[Segment | None] = [None] * len(ours)
    rows = [row for row, plain in enumerate(ours) if plain]
    matcher = SequenceMatcher(None, [ours[row] for row in rows], theirs, autojunk=False)
    for kind, start, stop, first, last in matcher.get_opcodes():
        if kind == "equal":
            for row, word in zip(rows[start:stop], words[first:last]):
                found[row] = word
            continue
        for row in rows[start:stop]:
            if run := _run(ours[row], theirs, first, last):
                spoken = words[run[0] : run[1]]
                text = " ".join(word.text for word in spoken)
                found[row] = Segment(text, spoken[0].begin, spoken[-1].end)
                first = run[1]
    return found


def _run(word: str, parts: Sequence[str], first: int, last: int) -> tuple[int, int] | None:
    """The first run of parts that joined are a word."""
    for start in range(first, last):
        for stop in range(start + 1, last + 1):
            joined = "".join(parts[start:stop])
            if joined == word:
                return start, stop
            if not word.startswith(joined):
                break
    return None
