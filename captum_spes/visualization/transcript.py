"""A transcript over its sound: words in the places where their maps peak, on one axis of time."""

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
    from matplotlib.figure import Figure

WORD_SIZE = 8.0  # points
MAX_ROWS = 8  # of words; where a map knows no word from another, all of them are in one place
WORD_GAP = 0.06  # inches between neighbours in a row
MIN_SECONDS = 10.0  # that fill the page's width, where all lines are shorter
HEIGHT = 0.9  # inches of a spectrogram
FAINTEST = 0.25  # of the values, those that are drawn white


@dataclass(frozen=True, eq=False)
class TranscriptLine:
    """A stretch of a recording. T frames, C mel channels.

    Attributes:
        start: seconds from the beginning of the recording.
        spectrogram: log-mel energies, (T, C).
        attributions: a map of it, (T, C).
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
    """Draws a long recording as lines beneath each other, as of a score: what was written, above its map.

    All lines have one scale of time, and their maps one scale of colours. Words stand at their times, in as many rows
    as they need, each with a line down to the map; how many words eight rows have no room for is written above.

    Args:
        lines: in the order of time.
        frames_per_second: frames a second of the spectrograms.
        mel_frequencies: centre of each mel channel in Hz, rising, (C,).
        value_label: what the values of the maps are, written at the colour bar.

    Returns:
        Figure: to save or to change; pyplot does not know it.

    Raises:
        ValueError: no lines, shapes that do not fit each other, or values that are not finite.

    Example::

        >>> import torch
        >>> from captum_spes.visualization import TranscriptLine, plot_transcript
        >>> lines = [TranscriptLine(s, torch.rand(300, 80), torch.rand(300, 80), [("so", s + 1)]) for s in (0, 3)]
        >>> figure = plot_transcript(lines, 100, torch.linspace(40, 7700, 80))
        >>> [text.get_text() for ax in figure.axes for text in ax.texts]
        ['so', 'so']
    """
    if not lines:
        raise ValueError("there is nothing to draw: give a line, or several.")
    mels = [MelSpectrogram(line.spectrogram, frames_per_second, mel_frequencies) for line in lines]
    maps = [checked_array("attributions", line.attributions, mel.energy.shape) for line, mel in zip(lines, mels)]
    values = np.concatenate(maps)
    # of values without a sign the lowest are an offset that all bins have, and would take up the colours
    low, high = (float(np.quantile(values, quantile)) for quantile in (FAINTEST, 1))
    scale = Scale.of(values, value_label, (low, high) if 0 <= low < high else None)
    seconds = max(MIN_SECONDS, max(mel.duration for mel in mels))
    inches = PAGE_WIDTH / seconds
    rows = [_rows([(text, inches * (time - line.start)) for text, time in line.words]) for line in lines]
    row_height = LINE_HEIGHT * WORD_SIZE / 72
    # one more than the words may have, for the number of those that have none
    heights = [HEIGHT + row_height * min(max(numbers, default=0) + 1, MAX_ROWS + 1) for numbers in rows]
    margin = 0.3  # the times beneath each line
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
        # axes are as long as what they measure: no time beyond the line's end, which the next line has
        stop = line.start + mel.duration
        ax.spines["bottom"].set_bounds(line.start, stop)
        ax.spines["left"].set_bounds(-0.5, channels)
        ax.set_xticks([tick for tick in ax.get_xticks() if line.start <= tick <= stop])
        ax.tick_params(labelsize=TICK_SIZE)
        if n_left_out := sum(number >= MAX_ROWS for number in numbers):
            ax.text(
                1, 1, f"and {n_left_out} more", fontsize=WORD_SIZE, ha="right", va="top",
                color="0.4", transform=ax.transAxes,
            )  # fmt: skip
        for (_, time), text, number in zip(line.words, clean_labels([text for text, _ in line.words]), numbers):
            if number >= MAX_ROWS:
                continue
            bottom = channels + a_row * number
            ax.plot([time, time], [channels, bottom + 0.2 * a_row], color="0.75", linewidth=0.5, zorder=1)
            ax.text(
                time, bottom + 0.5 * a_row, text, fontsize=WORD_SIZE, ha="center", va="center", zorder=2,
                bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.3}, **token_text(),
            )  # fmt: skip
    add_colorbar(figure, overlay, scale.label + "; grey: spectrogram", extend=scale.extend)
    return figure


def _rows(words: Sequence[tuple[str, float]]) -> list[int]:
    """For words at their places in inches the lowest row in which each has room."""
    ends: list[float] = []  # of the rows
    rows: dict[int, int] = {}
    for index in sorted(range(len(words)), key=lambda index: words[index][1]):
        text, middle = words[index]
        half = (text_width(text, WORD_SIZE) + WORD_GAP) / 2
        row = next((number for number, end in enumerate(ends) if end <= middle - half), len(ends))
        ends[row : row + 1] = [middle + half]
        rows[index] = row
    return [rows[index] for index in range(len(words))]
