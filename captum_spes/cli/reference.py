"""Explains and draws the errors of a text for ``explain --reference``, and adds them to the report."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

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

SETTINGS = "explained"  # the entry of the metadata with the settings by which a later run recognises an explanation
NOT_EXPLAINED = "It is not explained, because the run was stopped."


def explain_reference(
    explanation: SpeechToTextExplanation,
    reference: str,
    inputs: Inputs,
    explain: Callable[..., SpeechToTextExplanation],
    settings: Callable[[Contrast], dict[str, Any]],
    folder: Path,
    recording: Recording,
) -> None:
    """Explains the errors of a text and writes errors.md, each contrast with its picture, and the report.

    Ctrl-C ends the explanation of errors. The finished ones are written, and the others are listed. Those that an
    earlier run has finished with the same settings are not explained again.

    Args:
        explanation: the explanation of the text.
        reference: what was said.
        inputs: the model, and the utterance and tokens that were explained.
        explain: explains a contrast, called as ``explain(contrast, checkpoint=folder)``.
        settings: what the explanation of a contrast depends on, by which it is recognised.
        folder: the folder of the results.
        recording: the recording, which the report plays.

    Raises:
        typer.Exit: it was stopped by Ctrl-C.
    """
    found = find_errors(explanation, reference)
    say(f"\n{len(found) or 'No'} error{'' if len(found) == 1 else 's'} against the reference")
    errors: list[TextError] = []
    paths = [folder / "errors.md"]
    paths[0].unlink(missing_ok=True)  # of another reference
    stopped = False

    def explain_or_read(contrast: Contrast) -> SpeechToTextExplanation:
        own = settings(contrast)
        found = finished((folder / _picture(len(errors) + 1)).with_suffix(".safetensors"), own)
        if found is None:
            checkpoint = _checkpoints(folder) / hashlib.sha256(json.dumps(own).encode()).hexdigest()[:16]
            try:
                found = explain(contrast, checkpoint=checkpoint)
            finally:
                with suppress(OSError):  # it is not empty after a run of more than a minute that was stopped
                    os.removedirs(checkpoint)
            found.metadata[SETTINGS] = own
        return found

    previous = signal.signal(signal.SIGINT, signal.default_int_handler)  # also between two explanations
    try:
        for error in explain_errors(found, inputs.model, inputs.utterance, inputs.tokens, explain_or_read):
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
    if not stopped:
        for stale in set(_files(folder)) - set(paths):
            stale.unlink(missing_ok=True)
        _remove_checkpoints(folder)
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


def finished(path: Path, settings: dict[str, Any]) -> SpeechToTextExplanation | None:
    """The explanation that an earlier run with the same settings has written into a file, if any."""
    try:
        explanation = SpeechToTextExplanation.load(path)
    except ValueError:  # there is none, or it is damaged
        return None
    is_same = explanation.metadata.get(SETTINGS) == settings and not explanation.metadata.get("partial")
    return explanation if is_same else None


def remove_errors(folder: Path) -> None:
    """Removes the files of errors that an earlier run wrote into a folder."""
    for path in (folder / "errors.md", *_files(folder)):
        path.unlink(missing_ok=True)
    _remove_checkpoints(folder)


def _files(folder: Path) -> list[Path]:
    """The files of single errors in a folder."""
    return [path for suffix in ("safetensors", "png") for path in (folder / "errors").glob(f"[0-9]*.{suffix}")]


def _checkpoints(folder: Path) -> Path:
    """The folder in which each error that is being explained has the folder of its checkpoint."""
    return folder / "checkpoint" / "errors"


def _remove_checkpoints(folder: Path) -> None:
    shutil.rmtree(_checkpoints(folder), ignore_errors=True)
    with suppress(OSError):  # it is not there, or holds the checkpoint of the text
        _checkpoints(folder).parent.rmdir()
