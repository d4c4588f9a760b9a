"""Exports explanations for other programs: JSON, tables, and TextGrids for Praat."""

from __future__ import annotations

import csv
import io
import json
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from captum_spes._extras import require
from captum_spes.explanation.rows import WordRow
from captum_spes.words import is_word

EXTRA = "export"
COLUMNS = [item.name for item in fields(WordRow)]
# facts of a word for which a TextGrid has a tier each, beneath that of the words
TIERS = ("verdict", "heard", "probability", "reliability", "top_previous_token")
DIGITS = 6


def json_text(rows: Sequence[WordRow], facts: dict[str, Any]) -> str:
    """The rows as JSON, together with facts about the explanation."""
    words = [{name: _rounded(value) for name, value in asdict(row).items()} for row in rows]
    return json.dumps({**facts, "words": words}, ensure_ascii=False, indent=1, allow_nan=False) + "\n"


def csv_text(rows: Sequence[WordRow]) -> str:
    """The rows as comma-separated values with a header; unknown values are empty cells."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: _rounded(value) for name, value in _flat(row).items()} for row in rows)
    return text.getvalue()


def data_frame(rows: Sequence[WordRow]) -> Any:
    """The rows as a data frame; the alternatives of a row are one text."""
    return require("pandas", EXTRA).DataFrame([_flat(row) for row in rows], columns=COLUMNS)


def textgrid_text(rows: Sequence[WordRow], duration: float) -> str:
    """The words that have times as a TextGrid, with a tier for each fact about them.

    Raises:
        ValueError: no word has times.
    """
    textgrid = require("praatio.textgrid", EXTRA)
    timed: list[tuple[float, float, WordRow]] = []
    for row in rows:
        if row.begin is None or row.end is None or not is_word(row.text):
            continue
        begin = max(round(row.begin, DIGITS), timed[-1][1] if timed else 0.0)  # intervals of a tier never overlap
        if begin < round(row.end, DIGITS):
            timed.append((begin, round(row.end, DIGITS), row))
    if not timed:
        raise ValueError(
            "a TextGrid needs to know when words are spoken, and this explanation does not tell: give the times of an "
            "alignment (times=, --alignment)."
        )
    whole = max(round(duration, DIGITS), timed[-1][1])
    grid = textgrid.Textgrid(0, whole)
    for name in ("text", *TIERS):
        entries = [(begin, end, label) for begin, end, row in timed if (label := _label(getattr(row, name)))]
        if entries:
            tier = "words" if name == "text" else name.replace("_", " ")
            grid.addTier(textgrid.IntervalTier(tier, entries, 0, whole))
    with tempfile.TemporaryDirectory() as folder:  # praatio can only write files
        path = Path(folder, "words.TextGrid")
        grid.save(str(path), format="long_textgrid", includeBlankSpaces=True)
        return path.read_text(encoding="utf-8")


def _flat(row: WordRow) -> dict[str, Any]:
    others = row.alternatives
    text = None if others is None else "; ".join(f"{other.strip()} {share:.4f}" for other, share in others)
    return {name: getattr(row, name) for name in COLUMNS} | {"alternatives": text}


def _label(value: object) -> str:
    return "" if value is None else f"{value:.2f}" if isinstance(value, float) else str(value).strip()


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, DIGITS)
    return [_rounded(item) for item in value] if isinstance(value, (list, tuple)) else value
