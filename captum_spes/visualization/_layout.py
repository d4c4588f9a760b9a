"""Layout of figures: axes of spectrograms, grids of panels, matrices of tokens, the colour bar."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from captum_spes.visualization._text import LINE_HEIGHT, clean_labels, shorten, text_width, token_text, wrap

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.cm import ScalarMappable
    from matplotlib.collections import LineCollection
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

# Sizes in points (1/72 inch) and inches, at the figure's natural size.
TITLE_SIZE, LABEL_SIZE, TICK_SIZE, VALUE_SIZE = 10.0, 9.0, 8.0, 7.0
PAGE_WIDTH, PAGE_HEIGHT = 14.0, 18.0  # for panels, without axes, colour bar and margins
SIDE_MARGIN = 0.8  # frequency axis
BAR_MARGIN = 1.0  # time axis, colour bar and its label
CAPTION_HEIGHT, CAPTION_SIZE = 0.2, 6.5  # line below a figure, in inches and points
BAR_LENGTH, BAR_WIDTH = 5.5, 0.14
BORDER_WIDTH, BORDER_OPACITY = 0.4, 0.75  # points

# Frequencies in Hz, in the order in which they are labelled as long as there is room.
ROUND_FREQUENCIES = (1000, 4000, 2000, 500, 8000, 250, 100, 16000)


@dataclass
class MelSpectrogram:
    """A checked spectrogram (T, C), and how pictures of its shape are drawn on axes of seconds and mel channels."""

    energy: Any  # Tensor, then (T, C) array
    frames_per_second: float
    mel_frequencies: Any  # Tensor, then (C,) array

    def __post_init__(self) -> None:
        if self.energy.ndim != 2 or 0 in self.energy.shape:
            raise ValueError(f"the spectrogram must be of shape (T, C), not {tuple(self.energy.shape)}.")
        self.energy = checked_array("the spectrogram", self.energy, tuple(self.energy.shape))
        self.mel_frequencies = checked_array("mel_frequencies", self.mel_frequencies, self.energy.shape[1:])
        if (np.diff(self.mel_frequencies) <= 0).any():
            raise ValueError("mel_frequencies must rise from channel to channel.")
        if not 0 < self.frames_per_second < math.inf:
            raise ValueError(f"frames_per_second must be positive, not {self.frames_per_second}.")

    @property
    def duration(self) -> float:
        """Seconds."""
        return len(self.energy) / self.frames_per_second

    @property
    def single_width(self) -> float:
        """The width in inches of a picture that is alone on the page."""
        return min(max(2 * self.duration, 5.5), PAGE_WIDTH)

    @property
    def quiet(self) -> float:
        """The energy that is drawn white: a low quantile, so that one silent bin does not use half of the greys."""
        return float(np.quantile(self.energy, 0.02))

    @property
    def span(self) -> float:
        """The range from ``quiet`` to the loudest bin, which is never 0, because matplotlib divides by it."""
        return max(float(self.energy.max()) - self.quiet, 1e-6)

    def draw(self, ax: Axes, picture: np.ndarray, **kwargs: Any) -> AxesImage:
        """Draws (T, C) values. Channel c is at height c, because the mel channels are the model's own scale."""
        extent = (0, self.duration, -0.5, self.energy.shape[1] - 0.5)
        return ax.imshow(picture.T, origin="lower", aspect="auto", extent=extent, **kwargs)

    def label(self, ax: Axes, width: float, height: float, time: bool = True, frequency: bool = True) -> None:
        """Labels the axes of a picture with a size in inches; without ``time`` or ``frequency`` keeps its ticks."""
        from matplotlib.ticker import MaxNLocator

        ax.tick_params(labelsize=TICK_SIZE, labelbottom=time, labelleft=frequency)
        ax.xaxis.set_major_locator(MaxNLocator(nbins=max(2, min(10, int(width / 0.4))), steps=[1, 2, 5, 10]))
        positions, labels = self.frequency_ticks(height)
        ax.set_yticks(positions, labels=labels)
        if time:
            ax.set_xlabel("time (s)", fontsize=LABEL_SIZE)
        if frequency:
            # the short word fits beside the lowest panel
            ax.set_ylabel("frequency (kHz)" if height > 1.3 else "kHz", fontsize=LABEL_SIZE)

    def frequency_ticks(self, height: float) -> tuple[list[float], list[str]]:
        """Positions in channels and labels in kHz of round frequencies, as many as fit a height in inches."""
        low, high = self.mel_frequencies[[0, -1]]
        chosen: list[float] = []
        gap = LINE_HEIGHT * TICK_SIZE / (72 * height) * len(self.mel_frequencies)  # channels
        for frequency in [f for f in ROUND_FREQUENCIES if low <= f <= high] or [low, high]:
            if all(abs(self.channel(frequency) - self.channel(other)) >= gap for other in chosen):
                chosen.append(frequency)
        return [self.channel(f) for f in sorted(chosen)], [f"{f / 1000:.4g}" for f in sorted(chosen)]

    def channel(self, frequency: float) -> float:
        """The position of a frequency between the channels' centres."""
        return float(np.interp(frequency, self.mel_frequencies, np.arange(len(self.mel_frequencies))))


def borders(ids: np.ndarray, frames_per_second: float) -> LineCollection:
    """The lines between bins of different ids, which are exact at every size and do not hide small patches."""
    from matplotlib.collections import LineCollection

    frame, start, stop = _runs(ids[1:] != ids[:-1])  # upright, behind a frame
    x = (frame + 1) / frames_per_second
    upright = np.stack([x, start - 0.5, x, stop - 0.5], axis=1)
    channel, start, stop = _runs((ids[:, 1:] != ids[:, :-1]).T)  # level, above a channel
    level = np.stack([start / frames_per_second, channel + 0.5, stop / frames_per_second, channel + 0.5], axis=1)
    lines = np.concatenate([upright, level]).reshape(-1, 2, 2)
    return LineCollection(list(lines), colors="white", linewidths=BORDER_WIDTH, alpha=BORDER_OPACITY)


def _runs(marked: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Runs of True in the rows of an (A, B) array: row, first, one after the last. A line for each run saves space."""
    edges = np.diff(np.pad(marked, ((0, 0), (1, 1))).astype(np.int8))
    row, start = np.nonzero(edges == 1)
    return row, start, np.nonzero(edges == -1)[1]


# Grids of panels


@dataclass(frozen=True)
class Grid:
    """Panels in rows and columns; width and height of one in inches."""

    n_panels: int
    n_columns: int
    width: float
    height: float

    MAX_COLUMNS = 6
    TITLE_GAP = 0.1  # inches, beside the title itself
    COLUMN_GAP = 0.24  # half the last time of a panel, and half the first of its neighbour

    @classmethod
    def of(cls, n_panels: int, mel: MelSpectrogram) -> Grid:
        """Chooses a grid with large panels, few empty places and the shape of a page; a single panel may be wider."""
        if n_panels == 1:
            return cls(1, 1, mel.single_width, 3.2)
        columns = range(1, min(n_panels, cls.MAX_COLUMNS) + 1)
        return min((cls._with_columns(n_panels, n, mel) for n in columns), key=lambda grid: grid._cost(mel))

    @classmethod
    def _with_columns(cls, n_panels: int, n_columns: int, mel: MelSpectrogram) -> Grid:
        n_rows = math.ceil(n_panels / n_columns)
        row = cls.TITLE_GAP + LINE_HEIGHT * TITLE_SIZE / 72
        # no narrower together than the colour bar
        narrowest, widest = (total / n_columns - cls.COLUMN_GAP for total in (BAR_LENGTH, PAGE_WIDTH))
        width = max(narrowest, min(widest, cls._ideal_width(mel)))
        # no lower than a frequency axis needs, even if the page grows
        return cls(n_panels, n_columns, width, min(max(PAGE_HEIGHT / n_rows - row, 0.7), 1.7))

    @staticmethod
    def _ideal_width(mel: MelSpectrogram) -> float:
        return min(max(1.3 * mel.duration, 2.6), PAGE_WIDTH)

    def _cost(self, mel: MelSpectrogram) -> float:
        width, height = self.figure_size(1)
        too_small = max(0.0, math.log(self._ideal_width(mel) / self.width)) + 1.3 * math.log(1.7 / self.height)
        no_page = abs(math.log(width / height / 1.4))
        too_tall = max(0.0, height - PAGE_HEIGHT - BAR_MARGIN)
        return too_small + 0.5 * no_page + self.n_rows * self.n_columns / self.n_panels + too_tall

    @property
    def n_rows(self) -> int:
        return math.ceil(self.n_panels / self.n_columns)

    def figure_size(self, title_lines: int) -> tuple[float, float]:
        """The size in inches of a figure whose titles have a number of lines."""
        title = self.TITLE_GAP + title_lines * LINE_HEIGHT * TITLE_SIZE / 72
        width = self.n_columns * (self.width + self.COLUMN_GAP) + SIDE_MARGIN
        return width, self.n_rows * (self.height + title) + BAR_MARGIN

    def within(self, figsize: tuple[float, float]) -> Grid:
        """The same rows and columns in a figure of another size, in inches."""
        width = (figsize[0] - SIDE_MARGIN) / self.n_columns - self.COLUMN_GAP
        height = (figsize[1] - BAR_MARGIN) / self.n_rows - self.TITLE_GAP - LINE_HEIGHT * TITLE_SIZE / 72
        if width < 0.3 or height < 0.3:
            raise ValueError(
                f"figsize {figsize} is too small for {self.n_panels} panels: give more inches, or fewer panels."
            )
        return replace(self, width=width, height=height)

    def panels(self, figure: Figure) -> Iterator[Axes]:
        places = figure.add_gridspec(self.n_rows, self.n_columns)
        for index in range(self.n_panels):
            yield figure.add_subplot(places[divmod(index, self.n_columns)])

    def is_lowest(self, index: int) -> bool:
        """Whether no panel is beneath it."""
        return index + self.n_columns >= self.n_panels

    def is_in_last_row(self, index: int) -> bool:
        return index // self.n_columns == self.n_rows - 1

    def is_first(self, index: int) -> bool:
        """Whether it begins a row."""
        return index % self.n_columns == 0


def panel_titles(titles: Sequence[str], grid: Grid) -> list[str]:
    return fitting_titles(clean_labels(titles), grid.width)


def fitting_titles(texts: Sequence[str], width: float) -> list[str]:
    """Cuts titles to the width of a panel in inches; a single title may have several lines instead."""
    if len(texts) == 1:
        return [wrap(texts[0], width, TITLE_SIZE, max_lines=8)]
    return [shorten(text, width, TITLE_SIZE) for text in texts]


# Matrices of tokens


@dataclass(frozen=True)
class Matrix:
    """A matrix of tokens × previous tokens: its labels, and the side of a cell in inches."""

    rows: list[str]
    columns: list[str]
    cell: float
    row_height: float

    LABEL_WIDTH = 1.8  # inches
    LOWEST = 1.2  # for the axis label beside it

    @classmethod
    def of(cls, tokens: Sequence[str], previous_tokens: Sequence[str]) -> Matrix:
        texts = clean_labels([*tokens, *previous_tokens])
        # no smaller than a label's line, even if the page grows
        cell = min(max(min(PAGE_WIDTH / len(previous_tokens), PAGE_HEIGHT / len(tokens)), 0.17), 0.5)
        columns = [shorten(text, cls.LABEL_WIDTH, TICK_SIZE) for text in texts[len(tokens) :]]
        lines = 6 if len(tokens) == 1 else int(cell * 72 / (LINE_HEIGHT * TICK_SIZE))  # one row may be a whole sentence
        rows = [wrap(text, cls.LABEL_WIDTH, TICK_SIZE, max_lines=max(1, lines)) for text in texts[: len(tokens)]]
        height = (max(row.count("\n") for row in rows) + 1) * LINE_HEIGHT * TICK_SIZE / 72
        return cls(rows, columns, cell, max(cell, height, cls.LOWEST / len(rows)))

    @property
    def side_margin(self) -> float:
        """Inches beside the matrix: row labels and axis label."""
        return max(text_width(line, TICK_SIZE) for row in self.rows for line in row.split("\n")) + 0.6

    @property
    def figure_size(self) -> tuple[float, float]:
        """Inches."""
        beneath = max(text_width(column, TICK_SIZE) for column in self.columns) * (0.71 if self.is_slanted else 1)
        width = len(self.columns) * self.cell + self.side_margin
        height = len(self.rows) * self.row_height + beneath + BAR_MARGIN + 0.5
        return max(width, BAR_LENGTH + SIDE_MARGIN), height

    @property
    def has_room(self) -> bool:
        """Whether a value can be written in a cell."""
        return self.cell >= 0.4

    @property
    def is_slanted(self) -> bool:
        """Whether there is room for slanted column labels, which need 1.4 times the height of a line."""
        return self.cell * 72 > 1.5 * LINE_HEIGHT * TICK_SIZE

    def label(self, ax: Axes) -> None:
        ax.set_xlabel("previous token", fontsize=LABEL_SIZE)
        ax.set_ylabel("explained token", fontsize=LABEL_SIZE)
        turn = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"} if self.is_slanted else {"rotation": 90}
        _set_token_ticks(ax.xaxis, self.columns, **turn)
        _set_token_ticks(ax.yaxis, self.rows)
        ax.tick_params(length=2)


def _set_token_ticks(axis: Axis, labels: list[str], **kwargs: Any) -> None:
    axis.set_ticks(range(len(labels)), labels=labels, fontsize=TICK_SIZE, **token_text(), **kwargs)


# Figures


def add_colorbar(
    figure: Figure, image: ScalarMappable, label: str, side_margin: float = SIDE_MARGIN, extend: str = "neither"
) -> None:
    """Adds one colour bar for all panels. Its thickness is fixed, while matplotlib's is a fraction of the height."""
    width, height = figure.get_size_inches() - (side_margin, 0)
    length = min(BAR_LENGTH, width)
    bar = figure.colorbar(
        image,
        ax=figure.axes,
        location="bottom",
        fraction=BAR_WIDTH / height,
        pad=0.1 / height,
        shrink=length / width,
        aspect=length / BAR_WIDTH,
        extend=extend,
        extendfrac=0.03,
    )
    bar.set_label(wrap(label, width, LABEL_SIZE, max_lines=6), fontsize=LABEL_SIZE)
    bar.ax.tick_params(labelsize=TICK_SIZE)


def add_caption(figure: Figure, text: str, grow: bool = True) -> None:
    """Adds a small line at the foot of a figure, which grows; or else its panels shrink."""
    height = figure.get_size_inches()[1] + (CAPTION_HEIGHT if grow else 0)
    share = CAPTION_HEIGHT / height
    figure.set_figheight(height)
    engine: Any = figure.get_layout_engine()
    engine.set(rect=(0, share, 1, 1 - share))
    figure.text(0.5, share / 3, text, ha="center", va="bottom", fontsize=CAPTION_SIZE, color="0.35", **token_text())


def hatch_panel(ax: Axes) -> None:
    """Hatches a panel to mark its values as unreliable."""
    hatch(ax, (0, 0), 1, 1, transform=ax.transAxes)


def hatch(ax: Axes, corner: tuple[float, float], width: float, height: float, **place: Any) -> None:
    """Hatches a rectangle, by default in the coordinates of the axes' data."""
    from matplotlib.patches import Rectangle

    style: dict[str, Any] = {"fill": False, "hatch": "////", "edgecolor": "0.8", "linewidth": 0, "zorder": 3}
    ax.add_patch(Rectangle(corner, width, height, **style, **place))


def checked_array(name: str, values: Tensor, shape: tuple[int, ...]) -> np.ndarray:
    """The values as floats. Raises a ValueError for another shape, or for values that are not finite."""
    if tuple(values.shape) != shape:
        raise ValueError(f"{name} must be of shape {shape}, not {tuple(values.shape)}.")
    array = torch.as_tensor(values).detach().cpu().float().numpy()
    if not np.isfinite(array).all():
        raise ValueError(f"{name} must be finite: there are NaN or infinite values.")
    return array


def new_figure(width: float, height: float, column_gap: float = 0.1) -> Figure:
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    return Figure(figsize=(width, height), layout=ConstrainedLayoutEngine(w_pad=column_gap / 2))
