"""Printing in the terminal, progress bars, and files of explanations."""

from __future__ import annotations

import math
import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text
from tqdm import tqdm

from captum_spes._files import write_figure
from captum_spes._text import printable

if TYPE_CHECKING:
    from types import FrameType

    from captum_spes.audio import Recording
    from captum_spes.explanation import LongExplanation, SpeechToTextExplanation

FIGURES = {"spectrogram", "segmentation", "sentence", "words", "times", "tokens", "previous_tokens"}
# width of tables in characters: in a narrow terminal, broken lines are better than missing numbers
MAX_WIDTH = 130
# seconds of a recording in one figure
OVERVIEW_SECONDS = 300.0


def say(text: object = "", error: bool = False) -> None:
    """Prints a text at once, on stderr for an error. Control characters are escaped."""
    print(printable(text), file=sys.stderr if error else sys.stdout, flush=True)


def say_written(paths: Iterable[object]) -> None:
    """Prints the paths of the files that were written."""
    say("\nWrote " + "\n      ".join(map(str, paths)))


def print_table(rows: Sequence[Sequence[str]], title: str) -> None:
    """Prints a table, its header first, as wide as its numbers need."""
    table = Table(title=title, title_justify="left", box=SIMPLE)
    for column in zip(*rows):
        width = max(map(cell_len, column))
        # names and numbers stay on one line, so that they can be copied and read; only sentences are folded
        is_short = width < 28
        table.add_column(column[0], no_wrap=is_short, min_width=width if is_short else 28)
    for row in rows[1:]:
        table.add_row(*(Text(printable(cell)) for cell in row))  # Text, because [red] would be markup
    width = max(Console(width=MAX_WIDTH).measure(table).maximum, Console(width=10_000).measure(table).minimum)
    say()
    Console(width=max(Console().width, width)).print(table)


def print_columns(rows: Sequence[Sequence[str]]) -> None:
    """Prints rows in columns, padded by their width in a terminal: Chinese characters and emoji have two cells."""
    cells = [[printable(cell) for cell in row] for row in rows]
    widths = [max(map(cell_len, column)) for column in zip(*cells)]
    for row in cells:
        say("  ".join(cell + " " * (width - cell_len(cell)) for cell, width in zip(row, widths)).rstrip())


@contextmanager
def progress(can_stop: bool, show: bool = True) -> Iterator[Callable[[str, int, int], bool]]:
    """A callback that draws a progress bar for each stage.

    Ctrl-C ends a method that can be stopped with its partial result, and other methods by a KeyboardInterrupt. A second
    Ctrl-C ends the program. Without ``show`` there is no bar, and Ctrl-C works in the same way.
    """
    interrupted = False
    bars: dict[str, Any] = {}

    def interrupt(number: int, frame: FrameType | None) -> None:
        nonlocal interrupted
        interrupted = True
        signal.signal(signal.SIGINT, previous)
        if can_stop and show:
            text = "Stopping after this batch; finished samples will be saved (Ctrl-C again discards them)."
            tqdm.write(text, sys.stderr)

    def callback(stage: str, done: int, total: int) -> bool:
        if stage not in bars or done < bars[stage].n:  # the next part of a long recording begins
            bars[stage] = tqdm(
                desc=f"{stage:15}", total=total, unit="perturbation", dynamic_ncols=True, disable=not show
            )
        bars[stage].update(done - bars[stage].n)
        if done == total or interrupted:
            bars[stage].close()
        if interrupted and not can_stop:
            raise KeyboardInterrupt
        return interrupted

    previous = signal.signal(signal.SIGINT, interrupt)
    try:
        yield callback
        if interrupted and not can_stop:  # after the last call
            raise KeyboardInterrupt
    finally:
        signal.signal(signal.SIGINT, previous)
        for bar in bars.values():
            bar.close()


def write_explanation(explanation: SpeechToTextExplanation, folder: Path, recording: Recording) -> list[Path]:
    """Writes an explanation, its figures, and its report, which plays the recording."""
    pictures: dict[str, Callable[[], Any]] = {
        "spectrogram": explanation.plot_spectrogram,
        **({} if explanation.feature_mask is None else {"segmentation": explanation.plot_segmentation}),
        "sentence": explanation.plot_sentence,
        **({} if explanation.grouped else {"words": explanation.plot_words, "times": explanation.plot_times}),
        "tokens": explanation.plot_tokens,
        **({"previous_tokens": explanation.plot_previous_tokens} if explanation.previous_tokens else {}),
    }
    for name in FIGURES - pictures.keys():
        (folder / f"{name}.png").unlink(missing_ok=True)  # may be left of another method or contrast
    paths = [folder / "explanation.safetensors"]
    explanation.save(paths[0])
    for name, plot in pictures.items():
        paths.append(folder / f"{name}.png")
        write_figure(paths[-1], plot())
    paths.append(folder / "report.html")
    explanation.to_html(paths[-1], audio=recording)
    return paths


def draw_overview(long: LongExplanation) -> list[Path]:
    """Draws a long recording as a whole, in figures of at most five minutes."""
    n_figures = math.ceil(long.duration / OVERVIEW_SECONDS)
    paths = []
    for number in range(n_figures):
        start = number * OVERVIEW_SECONDS
        path = long.folder / ("overview.png" if n_figures == 1 else f"overview-{number + 1:02}.png")
        if any(word for word in long.words if start <= word.time < start + OVERVIEW_SECONDS):
            write_figure(path, long.plot(start, min(start + OVERVIEW_SECONDS, long.duration)), dpi=120)
            paths.append(path)
    return paths
