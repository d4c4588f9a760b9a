"""A figure of a transcript: words at the times at which their maps have their maximum, above the spectrogram."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from captum_spes.visualization._colors import Scale
from captum_spes.visualization._layout import (
    BAR_MARGIN,
    LABEL_SIZE,
    PAGE_WIDTH,
    SIDE_MARGIN,
    TICK_SIZE,
    MelSpectrogram,
    add_colorbar,
    checked_array,
    new_figure,
)
from captum_spes.visualization._text import LINE_HEIGHT, clean_labels, text_width, token_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WORD_SIZE = 8.0  # points
MAX_ROWS = 8  # rows of words; the maps of all words may have their maximum at one time
WORD_GAP = 0.06  # inches between neighbours in a row
PAGE_SECONDS = 5.0  # seconds in the page's width if all lines are shorter
HEIGHT = 0.9  # height of a spectrogram in inches
FAINTEST = 0.25  # share of the values that are drawn white


@dataclass(frozen=True, eq=False)
class TranscriptLine:
    """A section of a recording. T frames, C mel channels.

    Attributes:
        start: seconds from the beginning of the recording.
        spectrogram: log-mel energies, (T, C).
        attributions: a map, (T, C).
        words: texts, each with its time from the beginning of the recording, in seconds.

    Example::

        >>> import torch
        >>> from captum_spes.visualization import TranscriptLine
        >>> line = TranscriptLine(60, torch.rand(100, 80), torch.rand(100, 80), [("so", 60.2), ("what", 60.5)])
        >>> line.words[0]
        ('so', 60.2)
    """

    start: float
    spectrogram: Tensor
    attributions: Tensor
    words: Sequence[tuple[str, float]]


def plot_transcript(
    lines: Sequence[TranscriptLine], frames_per_second: float, mel_frequencies: Tensor, value_label: str | None = None
) -> Figure:
    """Draws a long recording in lines, like the lines of a musical score: the words above their map.

    All lines have the same time scale and colour scale. Words are at their times, in up to eight rows, each with a line
    down to the map. The number of words for which there is no room is written above them.

    Args:
        lines: the lines in the order of time.
        frames_per_second: frames per second of the spectrograms.
        mel_frequencies: centre of each mel channel in Hz, rising, (C,).
        value_label: label of the colour bar.

    Returns:
        Figure: the figure, which is not registered with pyplot.

    Raises:
        ValueError: there are no lines, shapes do not fit each other, or values are not finite.

    Example::

        >>> import torch
        >>> from captum_spes.visualization import TranscriptLine, plot_transcript
        >>> lines = [TranscriptLine(s, torch.rand(300, 80), torch.rand(300, 80), [("so", s + 1)]) for s in (0, 3)]
        >>> figure = plot_transcript(lines, 100, torch.linspace(40, 7700, 80))
        >>> [text.get_text() for ax in figure.axes for text in ax.texts]
        ['so', 'so']
    """
    if not lines:
        raise ValueError("there is nothing to draw: give at least one line.")
    mels = [MelSpectrogram(line.spectrogram, frames_per_second, mel_frequencies) for line in lines]
    maps = [checked_array("attributions", line.attributions, mel.energy.shape) for line, mel in zip(lines, mels)]
    values = np.concatenate(maps)
    # the lowest values of maps without signs are an offset of all bins, which would use up the colours
    low, high = (float(np.quantile(values, quantile)) for quantile in (FAINTEST, 1))
    scale = Scale.of(values, value_label, (low, high) if values.min() >= 0 and low < high else None)
    seconds = max(PAGE_SECONDS, max(mel.duration for mel in mels))
    inches = PAGE_WIDTH / seconds
    rows = [_rows([(text, inches * (time - line.start)) for text, time in line.words]) for line in lines]
    row_height = LINE_HEIGHT * WORD_SIZE / 72
    # one more row, for the number of words that have no place
    heights = [HEIGHT + row_height * min(max(numbers, default=0) + 1, MAX_ROWS + 1) for numbers in rows]
    margin = 0.3  # inches for the times beneath each line
    figure = new_figure(PAGE_WIDTH + SIDE_MARGIN, sum(heights) + margin * len(lines) + BAR_MARGIN)
    grid = figure.add_gridspec(len(lines), 1, height_ratios=heights)
    for index, (line, mel, values, numbers, height) in enumerate(zip(lines, mels, maps, rows, heights)):
        ax = figure.add_subplot(grid[index])
        overlay = scale.draw(ax, values, mel)
        for image in ax.images:
            image.set_extent((line.start, line.start + mel.duration, -0.5, mel.energy.shape[1] - 0.5))
        mel.label(ax, PAGE_WIDTH, HEIGHT, time=True)
        ax.set_xlabel("time (s)" if line is lines[-1] else "", fontsize=LABEL_SIZE)
        ax.set_xlim(line.start, line.start + seconds)
        channels = mel.energy.shape[1] - 0.5
        a_row = row_height * channels / HEIGHT  # in channels
        ax.set_ylim(-0.5, channels + a_row * (height - HEIGHT) / row_height)
        ax.spines[["top", "right"]].set_visible(False)
        # the time axis ends with the line, because later times are in the next line
        stop = line.start + mel.duration
        ax.spines["bottom"].set_bounds(line.start, stop)
        ax.spines["left"].set_bounds(-0.5, channels)
        ax.set_xticks([tick for tick in ax.get_xticks() if line.start <= tick <= stop])
        ax.tick_params(labelsize=TICK_SIZE)
        _draw_words(ax, line.words, numbers, channels, a_row)
    add_colorbar(figure, overlay, scale.label + "; grey: spectrogram", extend=scale.extend)
    return figure


def _draw_words(ax: Axes, words: Sequence[tuple[str, float]], numbers: list[int], top: float, a_row: float) -> None:
    """Draws the words in their rows above the map, which ends at ``top``, and the number of those without a row."""
    if n_left_out := sum(number >= MAX_ROWS for number in numbers):
        ax.text(
            1, 1, f"and {n_left_out} more", fontsize=WORD_SIZE, ha="right", va="top",
            color="0.4", transform=ax.transAxes,
        )  # fmt: skip
    for (_, time), text, number in zip(words, clean_labels([text for text, _ in words]), numbers):
        if number >= MAX_ROWS:
            continue
        bottom = top + a_row * number
        ax.plot([time, time], [top, bottom + 0.2 * a_row], color="0.75", linewidth=0.5, zorder=1)
        ax.text(
            time, bottom + 0.5 * a_row, text, fontsize=WORD_SIZE, ha="center", va="center", zorder=2,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.3}, **token_text(),
        )  # fmt: skip


def _rows(words: Sequence[tuple[str, float]]) -> list[int]:
    """For words at positions in inches the lowest row in which each has room."""
    ends: list[float] = []  # of the rows
    rows: dict[int, int] = {}
    for index in sorted(range(len(words)), key=lambda index: words[index][1]):
        text, middle = words[index]
        half = (text_width(text, WORD_SIZE) + WORD_GAP) / 2
        row = next((number for number, end in enumerate(ends) if end <= middle - half), len(ends))
        ends[row : row + 1] = [middle + half]
        rows[index] = row
    return [rows[index] for index in range(len(words))]
