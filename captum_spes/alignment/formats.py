"""File formats of alignments: Praat's TextGrids, and the JSON of aligners and of Whisper."""

from __future__ import annotations

import json
import math
import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from captum_spes._extras import require
from captum_spes._log import warn
from captum_spes.alignment.segments import Segment
from captum_spes.words import is_unspaced, is_word

# names of tiers of the Montreal Forced Aligner, of WebMAUS, of TIMIT and of others
WORD_TIERS, PHONE_TIERS = ("words", "word", "wrd", "ort-mau"), ("phones", "phone", "phn", "phonemes", "mau")
SOURCE_TIER = "source"
# between the names of a speaker and of a tier: "Ann - words", "words@Ann", "Ann_words"
_SEPARATORS = r"\s*[-_@:/. ]\s*"
# suffixes of phones in Gentle and Kaldi, which give the position in the word
_PLACE_IN_WORD = re.compile(r"_[BIES]$")
MAX_CHARACTERS = 4  # of a word in a script without spaces

Contents = tuple[list[Segment], list[Segment], str]  # words, phones, and the source that the file names


# Tiers


@dataclass(frozen=True)
class Tier:
    """One tier of a TextGrid.

    Attributes:
        name: its name in the file.
        segments: its intervals; None for a tier of points in time.
    """

    name: str
    segments: list[Segment] | None


def contents_of_tiers(tiers: Sequence[Tier], wanted: str | None) -> Contents:
    """The words of all speakers, or of one tier, with the phones of the same speakers.

    Raises:
        ValueError: there is no such tier, or it has points in time.
    """
    chosen = _word_tiers(tiers, wanted)
    speakers = {_speaker(tier.name, WORD_TIERS) for tier in chosen}
    phones = [tier for tier in tiers if tier.segments and _speaker(tier.name, PHONE_TIERS) in speakers - {None}]
    if speakers == {None}:  # a tier with another name, which does not name a speaker
        phones = [tier for tier in tiers if tier.segments and _speaker(tier.name, PHONE_TIERS) == ""]
    source = next((tier.segments[0].text for tier in tiers if tier.name.lower() == SOURCE_TIER and tier.segments), "")
    return _joined(chosen), _joined(phones), source


def _word_tiers(tiers: Sequence[Tier], wanted: str | None) -> list[Tier]:
    if wanted is None:
        found = [tier for tier in tiers if _speaker(tier.name, WORD_TIERS) is not None]
    else:
        name = wanted.strip().lower()
        found = [tier for tier in tiers if tier.name.strip().lower() == name]
        found = found or [tier for tier in tiers if _speaker(tier.name, WORD_TIERS) == name]
    intervals = [tier for tier in found if tier.segments is not None]
    if found and not intervals:
        raise ValueError(
            f"the tier {found[0].name!r} has points in time: words need a beginning and an end, as in an interval tier"
        )
    if not found:
        names = ", ".join(repr(tier.name) for tier in tiers) or "none"
        kind = f"no tier named {wanted!r} and no speaker of that name" if wanted else "no tier named 'words'"
        raise ValueError(f"there is {kind}, only {names}" + ("" if wanted else ": choose one by its name, as tier"))
    return intervals


def _speaker(tier: str, names: Sequence[str]) -> str | None:
    """The speaker in a tier's name, or "" without one; None if the tier has none of the given names."""
    for name in names:
        match = re.fullmatch(
            rf"(?:(?P<first>.*?){_SEPARATORS})?{re.escape(name)}(?:{_SEPARATORS}(?P<last>.*))?", tier.strip().lower()
        )
        if match:
            return (match["first"] or match["last"] or "").strip()
    return None


def _joined(tiers: Sequence[Tier]) -> list[Segment]:
    segments = [segment for tier in tiers for segment in tier.segments or []]
    return sorted(segments, key=lambda segment: segment.begin) if len(tiers) > 1 else segments


def read_textgrid(path: Path, tier: str | None = None) -> Contents:
    """The contents of a TextGrid.

    Raises:
        ValueError: the file is not a TextGrid, or has no such tier.
        ImportError: the extra ``alignment`` is missing.
    """
    textgrid = require("praatio.textgrid", "alignment")
    try:
        grid = textgrid.openTextgrid(
            str(path), includeEmptyIntervals=False, reportingMode="silence", duplicateNamesMode="rename"
        )
    except Exception as error:  # praatio raises errors of many classes without a common base
        raise ValueError("it is not a TextGrid in Praat's format, or it is damaged") from error
    tiers = []
    for one in grid.tiers:
        is_interval = isinstance(one, textgrid.IntervalTier)
        segments = [Segment(entry.label, entry.start, entry.end) for entry in one.entries] if is_interval else None
        tiers.append(Tier(one.name, segments))
    return contents_of_tiers(tiers, tier)


def textgrid_text(words: list[Segment], phones: list[Segment], source: str, duration: float) -> str:
    """An alignment as a TextGrid, which names the source in a separate tier.

    Raises:
        ValueError: words or phones overlap.
        ImportError: the extra ``alignment`` is missing.
    """
    textgrid = require("praatio.textgrid", "alignment")
    if overlap(words) or overlap(phones):
        raise ValueError("a tier of a TextGrid cannot hold words or phones that overlap: write a .json file.")
    duration = round(duration, 6)
    grid = textgrid.Textgrid(0, duration)
    tiers = {"words": words, "phones": phones, SOURCE_TIER: [Segment(source, 0, duration)]}
    for name, segments in tiers.items():
        if segments:
            entries = [(round(item.begin, 6), round(item.end, 6), item.text) for item in segments]
            grid.addTier(textgrid.IntervalTier(name, entries, 0, duration))
    with tempfile.TemporaryDirectory() as folder:  # praatio can only write files
        path = Path(folder, "alignment.TextGrid")
        grid.save(str(path), format="long_textgrid", includeBlankSpaces=True)
        return path.read_text(encoding="utf-8")


# JSON


def read_json(path: Path, tier: str | None = None) -> Contents:
    """The contents of a JSON file of an aligner or of Whisper.

    Raises:
        ValueError: the file has another form, or no times of words.
    """
    whole = json.loads(path.read_text(encoding="utf-8-sig"))
    if not isinstance(whole, dict):
        raise ValueError("it does not hold a JSON object")
    try:
        if "tiers" in whole:
            return contents_of_tiers(_json_tiers(whole["tiers"]), tier)
        if tier is not None:
            raise ValueError(f"it has no tiers, and therefore none named {tier!r}")
        if "w" in whole:
            return _pocketsphinx(whole)
        return _words_with_times(whole)
    except KeyError as error:
        raise ValueError(f"it has no {error.args[0]!r}") from error
    except (TypeError, AttributeError, IndexError, OverflowError) as error:
        raise ValueError("it does not have the form of files of pocketsphinx, MFA, Gentle or Whisper") from error


def _json_tiers(tiers: Any) -> list[Tier]:
    """Reads tiers of the Montreal Forced Aligner and praatio, which have them by name or in a list."""
    items = tiers.items() if isinstance(tiers, dict) else [(item["name"], item) for item in tiers]
    found = []
    for name, item in items:
        is_interval = str(item.get("type", item.get("class", "interval"))).lower().startswith("interval")
        segments = [_segment(text, begin, end) for begin, end, text in item["entries"]] if is_interval else None
        found.append(Tier(name, segments))
    return found


def _pocketsphinx(whole: dict[str, Any]) -> Contents:
    words = list(map(_timed, whole["w"]))
    phones = [_timed(phone) for word in whole["w"] for phone in word.get("w", [])]
    if overlap(words):  # they share phones
        phones = sorted(dict.fromkeys(phones), key=lambda phone: phone.begin)
    return words, phones, str(whole.get("source", ""))


def overlap(segments: Sequence[Segment]) -> bool:
    """Whether segments overlap by more than a rounding error, such as the words of several speakers."""
    return any(round(after.begin, 6) < round(before.end, 6) for before, after in pairwise(segments))


def _timed(item: dict[str, Any]) -> Segment:
    text, begin, duration = item["t"], item["b"], item["d"]
    _check_times(text, begin, duration)
    return _segment(text, begin, round(begin + duration, 6))


def _words_with_times(whole: dict[str, Any]) -> Contents:
    """Reads the words of Whisper, in segments or as chunks of a pipeline, or of Gentle, whose phones have durations."""
    words = whole.get("words")
    if words is None and "segments" in whole:
        words = [word for segment in whole["segments"] for word in segment.get("words") or []]
    if words is None:
        words = [{"word": chunk["text"], "times": chunk["timestamp"]} for chunk in whole["chunks"]]
        if not are_words([word["word"] for word in words]):
            raise ValueError("its chunks are longer than words: transcribe with return_timestamps='word'")
    found, phones = [], []
    for word in words:
        text = word["word"] if "word" in word else word["text"]
        begin, end = word["times"] if "times" in word else (word.get("start"), word.get("end"))
        if begin is None or end is None or begin == end:  # the word was not found in the audio
            continue
        found.append(_segment(text, begin, end))
        for phone in word.get("phones", []):
            phones.append(_segment(_PLACE_IN_WORD.sub("", phone["phone"]), begin, round(begin + phone["duration"], 6)))
            begin = phones[-1].end
    if not found:
        raise ValueError("no word in it has times: transcribe with word timestamps")
    if len(found) < len(words):
        warn(
            f"{len(words) - len(found)} of {len(words)} words have no times in the alignment and are left out.",
            stacklevel=4,
        )
    return found, phones, ""


def are_words(texts: Sequence[str]) -> bool:
    """Whether texts are single words, rather than sentences."""
    # Transformers joins a dash and the word after it
    return all(
        sum(map(is_word, text.split())) < 2 and (len(text) <= MAX_CHARACTERS or not is_unspaced(text)) for text in texts
    )


def _segment(text: Any, begin: Any, end: Any) -> Segment:
    _check_times(text, begin, end)
    return Segment(text.strip(), float(begin), float(end))


def _check_times(text: Any, *times: Any) -> None:
    if not isinstance(text, str) or any(type(time) not in (int, float) or not math.isfinite(time) for time in times):
        raise ValueError(
            f"a segment has the text {text!r:.80} and the times " + " and ".join(f"{t!r:.40}" for t in times)
        )


def json_text(words: list[tuple[Segment, list[Segment]]], source: str, duration: float, phones: bool) -> str:
    """An alignment in the format of pocketsphinx, with the source.

    Args:
        words: the words, each with its phones.
        source: the source of the times.
        duration: seconds of the whole utterance.
        phones: whether phones are written.
    """
    items = [_item(word) | ({"w": list(map(_item, own))} if phones else {}) for word, own in words]
    text = " ".join(word.text for word, _ in words)
    whole = {"b": 0.0, "d": round(duration, 6), "t": text, "source": source, "w": items}
    return json.dumps(whole, ensure_ascii=False) + "\n"


def _item(segment: Segment) -> dict[str, Any]:
    begin, duration = round(segment.begin, 6), round(segment.end - segment.begin, 6)
    return {"b": begin, "d": duration, "t": segment.text}
