"""The command line: one module a command."""

from __future__ import annotations

import io
import signal
import sys
import warnings

import torch
import typer
from torch.distributed import DistError

from captum_spes.cli import analyze, compare, evaluate, explain, listen, report
from captum_spes.cli.output import say

app = typer.Typer(
    help="Explain why a speech-to-text model wrote each word.",
    pretty_exceptions_enable=False,
    add_completion=False,
)
app.command()(explain.explain)
app.command()(compare.compare)
app.command()(evaluate.evaluate)
app.command("analyze")(analyze.analyze_folder)
app.command()(listen.listen)
app.command()(report.report)


def run() -> None:
    """Runs the command line with errors as single sentences on stderr, exit code 2 for what the user can mend."""
    signal.signal(signal.SIGINT, lambda *_: _fail("interrupted: what is not written yet is lost.", 128 + signal.SIGINT))
    warnings.showwarning = lambda message, *_, **__: say(f"Warning: {message}", error=True)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # what an old terminal's encoding lacks is no reason to fail
            stream.reconfigure(errors="backslashreplace")
    try:
        app()
    except (ValueError, ImportError, OSError) as error:
        _fail(str(error), 2)
    except DistError as error:
        _fail(
            f"the store of the ranks is gone, and so is what launched them ({error}). What is finished is kept; the "
            "same command goes on with the rest.",
            2,
        )
    except (MemoryError, torch.OutOfMemoryError):
        _fail("out of memory: use a smaller --batch-size.", 2)
    except Exception as error:  # a traceback says nothing to who uses a command
        if isinstance(error, RuntimeError) and ("not enough memory" in str(error) or "alloc" in str(error)):
            _fail("out of memory: use a smaller --batch-size.", 2)
        _fail(f"this should not have happened, please report it: {type(error).__name__}: {error}", 1)


def _fail(message: str, code: int) -> None:
    say(f"Error: {' '.join(message.split())}", error=True)
    sys.exit(code)
