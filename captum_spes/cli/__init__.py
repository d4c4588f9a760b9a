"""The command line, with a module for each command, which is imported when the command is run."""

from __future__ import annotations

import importlib
import io
import logging
import os
import signal
import sys
import warnings
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

from captum_spes import __version__
from captum_spes._log import LOGGER
from captum_spes.cli.errors import DEBUG, errors_as_sentences, fail
from captum_spes.cli.folders import no_empty_folders
from captum_spes.cli.output import say

# for each command its module, its function, and the first line of its help
COMMANDS = {
    "explain": (
        "explain",
        "explain",
        "Explain one utterance: the parts of the sound and the previous words on which each word depends.",
    ),
    "app": (
        "serve",  # a module "app" would hide the `app` of this package
        "app",
        "Explain recordings of your own in the browser: record or drop a file, click a word, ask why it is no other.",
    ),
    "compare": (
        "compare",
        "compare",
        "Compare attribution methods on one utterance: figures on one scale, and a table of cost and infidelity.",
    ),
    "evaluate": (
        "evaluate",
        "evaluate",
        "Evaluate attribution methods on a corpus: faithfulness and size, with intervals, tests and curves.",
    ),
    "analyze": (
        "analyze",
        "analyze_folder",
        "Analyse how plausible explanations are: do they agree with phonetics, and with how language works?",
    ),
    "listen": (
        "listen",
        "listen",
        "Hear an explanation: the recording with only its most salient regions, and without them, as WAV files.",
    ),
    "export": (
        "export",
        "export",
        "Write the explanation of each word as JSON, a CSV table or a Praat TextGrid, for other programs.",
    ),
    "report": (
        "report",
        "report",
        "Write an interactive report, one HTML file that plays the audio and shows the map of each word.",
    ),
}


class _Commands(Mapping[str, Any]):
    """The commands by name; each is made when it is accessed."""

    def __getitem__(self, name: str) -> Any:
        return _load(name)

    def __iter__(self) -> Iterator[str]:
        return iter(COMMANDS)

    def __len__(self) -> int:
        return len(COMMANDS)


@cache
def _load(name: str) -> Any:
    module, function, _ = COMMANDS[name]
    single = typer.Typer(add_completion=False)
    single.command(name)(getattr(importlib.import_module(f"captum_spes.cli.{module}"), function))
    return get_command(single)


class LazyGroup(TyperGroup):
    """A group that shows its help without the imports of the commands; PyTorch and Captum take seconds."""

    _is_listing = False

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.commands = _Commands()  # type: ignore[assignment]

    def list_commands(self, ctx: Any) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in COMMANDS:
            return None
        return TyperCommand(cmd_name, help=COMMANDS[cmd_name][2]) if self._is_listing else _load(cmd_name)

    def format_help(self, ctx: Any, formatter: Any) -> None:
        self._is_listing = True
        try:
            super().format_help(ctx, formatter)
        finally:
            self._is_listing = False

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:  # typer would end the program without a sentence
            _fail_interrupted()


def _fail_interrupted(*_: object) -> NoReturn:
    fail("interrupted: unwritten results are lost.", 128 + signal.SIGINT)


app = typer.Typer(
    cls=LazyGroup,
    help="Explain why a speech-to-text model wrote each word.",
    pretty_exceptions_enable=False,
    no_args_is_help=True,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        say(f"captum-spes {__version__}")
        raise typer.Exit()


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit.")
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help=f"Show the traceback of an error; so does {DEBUG}=1 in the environment.")
    ] = False,
) -> None:
    pass


class _Stderr(logging.Handler):
    """Prints log records as one line each on stderr."""

    def emit(self, record: logging.LogRecord) -> None:
        say(f"{record.levelname.capitalize()}: {record.getMessage()}", error=True)


def _log_warnings() -> None:
    """Prints what the logger "captum_spes" receives on stderr, and the warnings of other libraries as well."""
    if not any(isinstance(handler, _Stderr) for handler in LOGGER.handlers):
        LOGGER.addHandler(_Stderr())
        LOGGER.propagate = False
    warnings.showwarning = lambda message, *_, **__: LOGGER.warning("%s", message)


def run() -> None:
    """Runs the command line. Errors are single sentences on stderr; errors that the user can fix have exit code 2."""
    signal.signal(signal.SIGINT, _fail_interrupted)
    _log_warnings()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # characters that the terminal's encoding lacks must not be an error
            stream.reconfigure(errors="backslashreplace")
    arguments = sys.argv[1:]
    debug = os.environ.get(DEBUG, "0") not in ("", "0")
    if "--debug" in arguments:  # also after the command, where it is easily added
        debug = True
        arguments = [argument for argument in arguments if argument != "--debug"]
    with errors_as_sentences(debug), no_empty_folders():
        app(arguments, prog_name="captum-spes")
