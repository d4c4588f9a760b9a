"""Explains and draws the errors of a text for ``explain --reference``, and adds them to the report."""

from __future__ import annotations

import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import typer

from captum_spes import Contrast
from captum_spes._files import write_atomically, write_figure
from captum_spes.audio import Recording
from captum_spes.cli.folders import make_folder
from captum_spes.cli.inputs import Inputs
from captum_spes.cli.output import print_table, say, say_written
from captum_spes.errors import errors_text, explain_errors, find_errors
from captum_spes.errors.text import HEADER, error_row
from captum_spes.explanation import SpeechToTextExplanation
from captum_spes.explanation.errors import TextError

NOT_EXPLAINED = "It is not explained, because the run was stopped."


def explain_reference(
    explanation: SpeechToTextExplanation,
    reference: str,
    inputs: Inputs,
    explain: Callable[[Contrast], SpeechToTextExplanation],
    folder: Path,
    recording: Recording,
) -> None:
    """Explains the errors of a text and writes errors.md, each contrast with its picture, and the report.

    Ctrl-C ends the explanation of errors. The finished ones are written, and the others are listed.

    Raises:
        typer.Exit: it was stopped by Ctrl-C.
    """
    found = find_errors(explanation, reference)
    say(f"\n{len(found) or 'No'} error{'' if len(found) == 1 else 's'} against the reference")
    errors: list[TextError] = []
    paths = [folder / "errors.md"]
    stopped = False
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)  # also between two explanations
    try:
        for error in explain_errors(found, inputs.model, inputs.utterance, inputs.tokens, explain):
            number = len(errors) + 1
            say(f"\n[{number}/{len(found)}] {error.kind}: {error.title}")
            say(error.reason)
            paths += _write(error, number, folder)
            errors.append(error)
    except KeyboardInterrupt:
        stopped = True
        say(f"\nStopped after {len(errors)} of {len(found)} errors, which are saved.", error=True)
        errors += [replace(error, reason=NOT_EXPLAINED) for error in found[len(errors) :]]
    finally:
        signal.signal(signal.SIGINT, previous)
    pictures = [None if error.explanation is None else _picture(number) for number, error in enumerate(errors, 1)]
    if errors:
        print_table([HEADER, *(error_row(number, error) for number, error in enumerate(errors, 1))], "Errors")
    write_atomically(paths[0], errors_text(explanation.text, reference, errors, pictures))
    if errors:
        paths.append(folder / "report.html")
        explanation.to_html(paths[-1], audio=recording, errors=errors, reference=reference)
    say_written(paths)
    if stopped:
        raise typer.Exit(128 + signal.SIGINT)


def _picture(number: int) -> str:
    """The path of an error's picture in the folder."""
    return f"errors/{number}.png"


def _write(error: TextError, number: int, folder: Path) -> list[Path]:
    """Writes the contrast of an error, if it has one, and its picture."""
    if error.explanation is None:
        return []
    make_folder(folder / "errors")
    picture = folder / _picture(number)
    write_figure(picture, error.explanation.plot_tokens())  # first, because it takes longer and may be interrupted
    error.explanation.save(picture.with_suffix(".safetensors"))
    return [picture.with_suffix(".safetensors"), picture]


def remove_errors(folder: Path) -> None:
    """Removes the files of errors that an earlier run wrote into a folder."""
    for path in (
        folder / "errors.md",
        *(folder / "errors").glob("[0-9]*.safetensors"),
        *(folder / "errors").glob("[0-9]*.png"),
    ):
        path.unlink(missing_ok=True)
