"""``captum-spes export``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import typer

from captum_spes._files import write_atomically
from captum_spes.alignment import Alignment, Segment, match_words
from captum_spes.cli.output import say
from captum_spes.explanation import SpeechToTextExplanation
from captum_spes.explanation.listening import part_span
from captum_spes.words import is_mark, text_words

Format = Literal["json", "csv", "textgrid"]
SUFFIXES: dict[Format, str] = {"json": ".json", "csv": ".csv", "textgrid": ".TextGrid"}


def export(
    explanation: Annotated[Path, typer.Argument(help="Explanation (.safetensors).")],
    format: Annotated[Format, typer.Option(help="json, csv, or textgrid for Praat.")] = "json",
    alignment: Annotated[
        Path | None,
        typer.Option(
            help="Times of the words (.TextGrid, .json), of the whole recording also for a part of it. "
            "Default: the times at which the model attended."
        ),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The file. Default: beside the explanation.")
    ] = None,
) -> None:
    """Write the explanation of each word as JSON, a CSV table or a Praat TextGrid, for other programs."""
    found = SpeechToTextExplanation.load(explanation)
    path = output or explanation.with_suffix(SUFFIXES[format])
    if path.is_dir():
        example = path / f"words{SUFFIXES[format]}"
        raise ValueError(f"{path} is a folder: give the name of a file as --output, such as {example}.")
    if not path.parent.is_dir():
        raise ValueError(f"the folder {path.parent} does not exist: make it first, or give another --output.")
    times = None
    if alignment is not None:
        spoken = _own_words(found, Alignment.load(alignment).words)
        words = found if found.grouped else found.words()
        is_contrast = found.metadata.get("contrast") is not None
        times = [_time_of_contrast(found, spoken)] if is_contrast else match_words(words.tokens, spoken)
    write = {"json": found.to_json, "csv": found.to_csv, "textgrid": found.to_textgrid}[format]
    write_atomically(path, write(times))
    say(f"Wrote {path}")


def _own_words(explanation: SpeechToTextExplanation, words: Sequence[Segment]) -> Sequence[Segment]:
    """The words of a recording that belong to an explained part of it, in seconds from the beginning of the part."""
    span = part_span(explanation)
    if span is None:
        return words
    start, stop = span
    return [
        Segment(word.text, max(word.begin, start) - start, min(word.end, stop) - start)
        for word in words
        if start < word.end and word.begin < stop
    ]


def _time_of_contrast(explanation: SpeechToTextExplanation, spoken: Sequence[Segment]) -> Segment | None:
    """The time of the word that a contrast explains, which the name of its row is not; None if it is not aligned.

    Raises:
        ValueError: its place in the text is not known.
    """
    texts = [match[0] for match in text_words(explanation.text) if not is_mark(match[0])]
    try:
        contrast = explanation.metadata["contrast"]
        if is_mark(contrast["word"]):
            return None
        own = [match[0] for match in text_words(contrast["word"])]
        # the previous tokens are those of the prompt and those of the text before the word
        before = explanation.previous_tokens[len(explanation.previous_tokens) - contrast["token_span"][0] :]
    except (KeyError, IndexError, TypeError) as error:
        raise ValueError("the contrast does not name its word and tokens: leave out --alignment.") from error
    first = sum(not is_mark(match[0]) for match in text_words("".join(before)))
    if texts[first : first + len(own)] != own:
        raise ValueError(f"the word {contrast['word']!r} is not at its place in the text: leave out --alignment.")
    found = [segment for segment in match_words(texts, spoken)[first : first + len(own)] if segment is not None]
    return Segment(contrast["word"], found[0].begin, found[-1].end) if found else None
