"""Reads transcripts of other systems: JSON of Whisper and similar programs, WebVTT, SubRip, or plain text."""

from __future__ import annotations

import html
import json
import math
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from captum_spes._files import why_unreadable
from captum_spes.alignment.formats import are_words
from captum_spes.alignment.segments import Segment
from captum_spes.words import is_unspaced

_CLOCK = r"(?:(\d+):)?(\d{1,2}):(\d{2})[.,](\d{3})"
_CUE = re.compile(rf"^\s*{_CLOCK}\s+-->\s+{_CLOCK}.*$")
_TAG = re.compile(r"</?[a-zA-Z][^<>]*>|<\d[\d:.]*>|\{\\[^{}]*\}")  # <i>, <00:00.100> and {\an8}
_ARROW = re.compile(r"^\s*[\d:.,]+\s*-->", re.MULTILINE)  # text may hold an arrow as well
_JSON = re.compile(r'\s*(?:\{\s*["}]|\[\s*[{\]])')  # text may begin with [noise]
_FOREIGN = "its JSON is not that of Whisper, faster-whisper, whisper.cpp or Transformers"
LONGEST_WORD = 3.0  # seconds; a sentence of one word may have a pause
MAX_OVERLAP = 2.0  # seconds of two segments that are cut in the middle of what they share


@dataclass(frozen=True)
class Transcript:
    """The text of another system, with its times if they are known.

    Attributes:
        text: the whole text, on one line.
        segments: segments of the text with their times; empty for plain text. The last may have no end (infinity).
        words: words of the text with their times; empty if these are unknown.
        source: the name of the file.

    Example::

        >>> from captum_spes.alignment import Segment, Transcript
        >>> transcript = Transcript("So what?", [Segment("So what?", 0.0, 0.6)])
        >>> transcript.parts(max_seconds=30, duration=0.6)
        [((0.0, 0.6), Transcript(text='So what?', segments=[Segment(text='So what?', begin=0.0, end=0.6)], words=[], \
source=''))]
    """

    text: str
    segments: list[Segment] = field(default_factory=list)
    words: list[Segment] = field(default_factory=list)
    source: str = ""

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Transcript:
        """Reads a transcript. The content of the file determines its format.

        Args:
            path: JSON of OpenAI's Whisper, whisperX, faster-whisper (a list of its segments, or an object that has
                them), whisper.cpp or a pipeline of Transformers; WebVTT; SubRip (``.srt``); or plain text.

        Raises:
            ValueError: the file is missing or unreadable, has JSON of another kind or impossible times, or no text.

        Example::

            >>> from pathlib import Path
            >>> from captum_spes.alignment import Transcript
            >>> lines = ["WEBVTT", "", "00:00.200 --> 00:00.600", "So what?"]
            >>> Path("saved.vtt").write_text(chr(10).join(lines))
            40
            >>> Transcript.load("saved.vtt").segments
            [Segment(text='So what?', begin=0.2, end=0.6)]
        """
        path = Path(path)
        if reason := why_unreadable(path):
            raise ValueError(f"{path} {reason}: give the path of a transcript.")
        try:
            content = path.read_text(encoding="utf-8-sig")
            segments, words, text = _contents(content, is_json=path.suffix.lower() == ".json")
            if not text:
                raise ValueError("it has no text")
            return cls(text, segments, sorted(words, key=lambda word: word.begin), path.name)
        except OSError as error:
            raise ValueError(f"{path} cannot be read ({error.strerror}): check its permissions.") from error
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path} is no transcript that can be read: {str(error).rstrip('.')}.") from error

    def parts(self, max_seconds: float, duration: float) -> list[tuple[tuple[float, float], Transcript]]:
        """Groups whole segments into parts that are not longer than the model's window.

        A part begins and ends in the middle of the pauses around its segments, but at most a second away from them, or
        less if it would be too long otherwise.

        Args:
            max_seconds: the longest duration of a part.
            duration: the duration of the recording in seconds.

        Returns:
            list: for each part its begin and end in seconds, and its transcript, whose times start at the part's begin.

        Raises:
            ValueError: there are no segments, one is longer than ``max_seconds``, or one begins after the recording.
        """
        if not self.segments:
            raise ValueError(
                f"the transcript {self.source} has no times, by which a long recording is cut: give JSON, WebVTT or "
                "SubRip, or cut out the part that the text belongs to."
            )
        if self.segments[-1].begin >= duration:
            raise ValueError(
                f"the last segment of the transcript {self.source} begins at {self.segments[-1].begin:g} s, and the "
                f"recording lasts {duration:g} s: give the transcript of this recording."
            )
        segments = self._spaced()
        if math.isinf(segments[-1].end):
            segments[-1] = replace(segments[-1], end=duration)
        blocks = _blocks(segments)
        spans = [(block[0].begin, max(segment.end for segment in block)) for block in blocks]
        spans = _with_margins(spans, max_seconds, duration)
        groups: list[list[int]] = []
        for number, (block, (begin, end)) in enumerate(zip(blocks, spans)):
            if round(end - begin, 6) > max_seconds:
                name = block[0].text.strip()
                overlapping = ", with those that overlap it," if len(block) > 1 else ""
                raise ValueError(
                    f"the segment {name!r:.60} of the transcript {self.source}{overlapping} lasts longer than "
                    f"the {max_seconds:g} s that are explained at once."
                )
            if groups and end - spans[groups[-1][0]][0] <= max_seconds:
                groups[-1].append(number)
            else:
                groups.append([number])
        return [
            self._part(
                [segment for number in group for segment in blocks[number]], spans[group[0]][0], spans[group[-1]][1]
            )
            for group in groups
        ]

    def _spaced(self) -> list[Segment]:
        """The segments, each with the space that the text has before it."""
        spaced: list[Segment] = []
        place, before = 0, ""
        for segment in self.segments:
            found = self.text.find(segment.text, place)
            space = self.text[place : max(found, place)]
            if found < 0 or space.strip():  # the text is not that of the segments
                space = _space(before, segment.text)
            else:
                place = found + len(segment.text)
            spaced.append(replace(segment, text=space + segment.text))
            before = segment.text
        return spaced

    def _part(self, group: list[Segment], begin: float, end: float) -> tuple[tuple[float, float], Transcript]:
        segments = [_moved(segment, begin) for segment in group]
        words = [_moved(word, begin) for word in self.words if begin <= word.middle < end]
        return (begin, end), Transcript(_line("".join(one.text for one in group)), segments, words, self.source)


def _blocks(segments: Sequence[Segment]) -> list[list[Segment]]:
    """Groups the segments that cannot be cut from each other, because several people speak at the same time."""
    blocks: list[list[Segment]] = []
    latest = 0.0
    for segment in segments:
        overlap = latest - segment.begin
        if blocks and (segment.end <= latest or overlap > MAX_OVERLAP):
            blocks[-1].append(segment)
        else:
            blocks.append([segment])
        latest = max(latest, segment.end)
    return blocks


def _with_margins(
    spans: Sequence[tuple[float, float]], max_seconds: float, duration: float
) -> list[tuple[float, float]]:
    """Widens spans to the middles of the pauses around them, by a second at most and while they are short enough."""
    middles = [(end + begin) / 2 for (_, end), (begin, _) in pairwise(spans)]
    wide = []
    for (begin, end), first, last in zip(spans, (0.0, *middles), (*middles, duration)):
        left, right = max(begin - 1, first), min(end + 1, last)
        begin, end = max(begin, left), min(end, right)  # what overlaps is cut in the middle
        if right - left > max_seconds and (margins := (right - left) - (end - begin)):
            share = max(max_seconds - (end - begin), 0) / margins
            left, right = begin - share * (begin - left), end + share * (right - end)
        wide.append((left, right))
    return wide


def _moved(segment: Segment, begin: float) -> Segment:
    """The segment with times relative to ``begin``."""
    return Segment(segment.text.strip(), max(segment.begin - begin, 0.0), segment.end - begin)


def _contents(content: str, is_json: bool) -> tuple[list[Segment], list[Segment], str]:
    if is_json or _JSON.match(content):
        try:
            whole = json.loads(content)
        except ValueError as error:
            raise ValueError(f"it is no valid JSON ({error})") from error
        try:
            return _json_contents(whole)
        except (TypeError, OverflowError) as error:
            raise ValueError(_FOREIGN) from error
    segments = _cues(content) if _ARROW.search(content) else []
    if content.lstrip().startswith("WEBVTT") or segments:
        return _ordered(segments), [], _joined([segment.text for segment in segments])
    return [], [], _joined(content.splitlines())


def _json_contents(whole: Any) -> tuple[list[Segment], list[Segment], str]:
    """Segments, words and text of the JSON of several programs."""
    items = whole
    if isinstance(whole, dict):
        items = next((whole[name] for name in ("segments", "chunks", "transcription") if name in whole), None)
        if items is None and isinstance(whole.get("text"), str):
            return [], [], _joined(whole["text"].splitlines())
    if not isinstance(items, list) or not items or not all(isinstance(item, dict) for item in items):
        raise ValueError(_FOREIGN)
    if not all(isinstance(item.get("text"), str) for item in items):
        raise ValueError("its JSON has segments without text, unlike that of Whisper and faster-whisper")
    segments = [_segment(item["text"], *_times(item)) for item in items[:-1]]
    begin, end = _times(items[-1])
    # a pipeline of Transformers leaves out the last end if the model wrote none
    segments.append(_segment(items[-1]["text"], begin, math.inf if end is None and "timestamp" in items[-1] else end))
    written = _ordered([segment for segment in segments if segment.text])
    return written, _words(whole, items, segments), _text(whole, items)


def _words(whole: Any, items: Sequence[dict[str, Any]], segments: Sequence[Segment]) -> list[Segment]:
    """The words that have times: those of segments, or of the whole file, or chunks that are words."""
    words = [word for item in items for word in item.get("words") or []]
    if isinstance(whole, dict) and not words and isinstance(whole.get("words"), list):
        words = whole["words"]
    timed = [
        _segment(word.get("word", word.get("text")), word["start"], word["end"])
        for word in words
        if isinstance(word, dict) and word.get("start") is not None and word.get("end") is not None
    ]
    if endless := next((word for word in timed if math.isinf(word.end)), None):
        raise ValueError(f"the word {endless.text!r:.60} has no end")
    if "timestamp" in items[0] and are_words([segment.text for segment in segments]):
        timed = [segment for segment in segments if segment.end - segment.begin <= LONGEST_WORD]
    return [word for word in timed if word.text and word.begin < word.end]


def _text(whole: Any, items: Sequence[dict[str, Any]]) -> str:
    """The text that the file names, or that of its segments."""
    if isinstance(whole, dict) and isinstance(whole.get("text"), str) and whole["text"].strip():
        return _line(whole["text"])
    texts = [item["text"] for item in items]
    # whisper.cpp and Transformers write the space before each word, also where a segment is a piece of one; whisperX
    # leaves out some
    if "start" not in items[0] and any(text[:1].isspace() for text in texts):
        return _line("".join(texts))
    return _joined(texts)


def _times(item: dict[str, Any]) -> tuple[Any, Any]:
    """The begin and end of a segment in seconds."""
    if "timestamp" in item and isinstance(item["timestamp"], (list, tuple)) and len(item["timestamp"]) == 2:
        return item["timestamp"][0], item["timestamp"][1]
    if isinstance(item.get("offsets"), dict):  # of whisper.cpp, milliseconds
        begin, end = item["offsets"].get("from"), item["offsets"].get("to")
        return tuple(time / 1000 if isinstance(time, (int, float)) else None for time in (begin, end))  # type: ignore
    return item.get("start"), item.get("end")


def _segment(text: Any, begin: Any, end: Any) -> Segment:
    times = (begin, end)
    if not isinstance(text, str) or any(type(time) not in (int, float) or math.isnan(time) for time in times):
        raise ValueError(f"a segment has the text {text!r:.60} and the times {begin!r:.40} and {end!r:.40}")
    if not 0 <= begin <= end or math.isinf(begin):
        raise ValueError(f"the segment {text.strip()!r:.60} lasts from {begin} to {end} s")
    return Segment(_line(text), float(begin), float(end))


def _ordered(segments: Sequence[Segment]) -> list[Segment]:
    for before, after in pairwise(segments):
        if after.begin < before.begin:
            raise ValueError(f"the segment {after.text!r:.60} begins before the one that precedes it")
    return list(segments)


def _cues(content: str) -> list[Segment]:
    """The cues of WebVTT and SubRip: a line of times, and the lines of text below it until an empty one or the next."""
    cues: list[tuple[re.Match[str], list[str]]] = []
    is_open, before = False, ""
    is_numbered = False  # by a line before each cue, as SubRip has it
    for line in content.splitlines():
        if match := _CUE.match(line):
            if not cues:
                is_numbered = before.strip().isdecimal()
            elif is_open and is_numbered and before.strip().isdecimal() and cues[-1][1]:
                cues[-1][1].pop()  # the number of this cue
            cues.append((match, []))
            is_open = True
        elif not is_open and "-->" in line:
            raise ValueError(f"the line {line.strip()!r:.60} has no times as WebVTT and SubRip write them")
        elif is_open and line.strip():
            cues[-1][1].append(line)
        elif is_open and (cues[-1][1] or not line):  # captions of YouTube have a line of a space before the text
            is_open = False
        before = line
    said = [(match.groups(), _joined([html.unescape(_TAG.sub("", line)) for line in lines])) for match, lines in cues]
    return [_segment(text, _seconds(times[:4]), _seconds(times[4:])) for times, text in said if text]


def _seconds(clock: Sequence[str | None]) -> float:
    hours, minutes, seconds, thousandths = (int(part or 0) for part in clock)
    return 3600 * hours + 60 * minutes + seconds + thousandths / 1000


def _joined(texts: Sequence[str]) -> str:
    """The texts on one line, with spaces between them where their script has spaces."""
    joined = ""
    for text in texts:
        joined += _space(joined, text) + text
    return _line(joined)


def _space(before: str, after: str) -> str:
    """The space between two texts, which scripts without spaces lack."""
    return "" if is_unspaced(before[-1:] + after[:1]) else " "


def _line(text: str) -> str:
    return " ".join(text.split())
