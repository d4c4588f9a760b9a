"""``captum-spes report``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from captum_spes import SpeechToTextExplanation
from captum_spes.cli.output import say


def report(
    explanations: Annotated[
        list[Path],
        typer.Argument(help="Explanation (.safetensors), or several of the same text by different methods."),
    ],
    audio: Annotated[
        Path | None,
        typer.Option(help="The recording that was explained. Default: the original file, if it still exists."),
    ] = None,
    no_audio: Annotated[
        bool, typer.Option("--no-audio", help="Leave the recording out, for reports that must not contain the voice.")
    ] = False,
    output: Annotated[Path, typer.Option("--output", "-o", help="The HTML file.")] = Path("report.html"),
) -> None:
    """Write an interactive report, one HTML file that plays the audio and shows the map of each word."""
    first, *others = (SpeechToTextExplanation.load(path) for path in explanations)
    if output.is_dir():
        raise ValueError(
            f"{output} is a folder: give the name of an HTML file as --output, such as {output}/report.html."
        )
    if not output.parent.is_dir():
        raise ValueError(f"the folder {output.parent} does not exist: make it first, or give another --output.")
    if no_audio and audio is not None:
        raise ValueError("--audio and --no-audio exclude each other: leave out one of them.")
    first.to_html(output, audio=False if no_audio else audio, others=others)
    say(f"Wrote {output} ({output.stat().st_size / 1e6:.1f} MB)")
