"""Figures of spectrograms and attributions: they draw arrays, and are returned, never shown.

All of them are plain ``matplotlib.figure.Figure`` objects that pyplot knows nothing of, so that none stays open:
``figure.savefig("explanation.pdf")`` writes one, and a notebook shows one that ends a cell.
"""

from __future__ import annotations

import math
import textwrap
import unicodedata
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.cm import ScalarMappable
    from matplotlib.collections import LineCollection
    from matplotlib.colors import Colormap, ListedColormap, Normalize
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

# Sizes in points (72 an inch) and inches, at the figure's natural size.
TITLE_SIZE, LABEL_SIZE, TICK_SIZE, VALUE_SIZE = 10.0, 9.0, 8.0, 7.0
LINE_HEIGHT = 1.25  # of a line of text, in font sizes
PAGE_WIDTH, PAGE_HEIGHT = 14.0, 18.0  # for panels; axes, colour bar and margins come on top
SIDE_MARGIN = 0.8  # frequency axis
BAR_MARGIN = 1.0  # time axis, colour bar and its label
BAR_LENGTH, BAR_WIDTH = 5.5, 0.14
BORDER_WIDTH, BORDER_OPACITY = 0.4, 0.75  # points

# Hz, in the order in which they are labelled as far as there is room.
ROUND_FREQUENCIES = (1000, 4000, 2000, 500, 8000, 250, 100, 16000)
ENERGY_LABEL = "log-mel energy (the model's units)"

# The spectrogram beneath a map stays in the lighter half of the greys, and the map's opacity grows with its value:
# both can be read. Plasma's part from pink to blue and PuOr stay apart from grey for colour-blind readers too, to whom
# the reds of many maps are a grey, and they keep their order in print: here light is little.
MAP, MAP_PART, SIGNED_MAP = "plasma_r", (0.3, 0.95), "PuOr"
OPACITY, OPACITY_EXPONENT = 0.9, 1.3
GREY_HEADROOM = 2.0
# Without magma's last part, on which a patch's white border would be lost.
ENERGY_MAP, ENERGY_PART = "magma", (0.0, 0.88)

# Fonts for the scripts that matplotlib's own font does not have, used where they are installed. Colour emoji fonts
# are left out: matplotlib cannot draw them.
FALLBACK_FONTS = (
    *("Noto Sans CJK SC", "Noto Sans CJK JP", "Noto Sans CJK KR", "Noto Sans SC", "Source Han Sans SC"),
    *("WenQuanYi Micro Hei", "WenQuanYi Zen Hei", "Droid Sans Fallback", "Microsoft YaHei", "SimHei", "Malgun Gothic"),
    *("Yu Gothic", "PingFang SC", "PingFang HK", "Hiragino Sans", "Hiragino Sans GB", "AppleGothic"),
    *("Arial Unicode MS", "Noto Sans Arabic", "Noto Sans Hebrew", "Noto Sans Devanagari", "Noto Sans Bengali"),
    *("Noto Sans Tamil", "Noto Sans Thai", "Nirmala UI", "Leelawadee UI", "Noto Emoji", "Segoe UI Symbol", "Symbola"),
)
MISSING_GLYPH = "□"


def plot_spectrogram(spectrogram: Tensor, frames_per_second: float, mel_frequencies: Tensor) -> Figure:
    """Draws a spectrogram: time × mel channels, with the frequencies that the channels stand for.

    Args:
        spectrogram: log-mel energies, (T, C).
        frames_per_second: frames a second of the spectrogram.
        mel_frequencies: centre of each mel channel in Hz, rising, (C,).

    Returns:
        Figure: to save or to change; pyplot does not know it.

    Raises:
        ValueError: shapes that do not fit each other, or values that are not finite.

    Example::

        >>> import torch
        >>> from captum_spes.visualization import plot_spectrogram
        >>> figure = plot_spectrogram(torch.rand(200, 80), 100, torch.linspace(40, 7700, 80))
        >>> [ax.get_xlabel() for ax in figure.axes]
        ['time (s)', "log-mel energy (the model's units)"]
    """
    mel = _MelSpectrogram(spectrogram, frames_per_second, mel_frequencies)
    width, height = mel.single_width, 2.8
    figure = _figure(width + SIDE_MARGIN, height + BAR_MARGIN)
    ax = figure.add_subplot()
    image = mel.draw(ax, mel.energy, cmap=_part_of(ENERGY_MAP, ENERGY_PART))
    mel.label(ax, width, height)
    _add_colorbar(figure, image, ENERGY_LABEL)
    return figure


def plot_attributions(
    attributions: Tensor,
    spectrogram: Tensor,
    frames_per_second: float,
    mel_frequencies: Tensor,
    titles: Sequence[str],
    value_label: str | None = None,
    value_range: tuple[float, float] | None = None,
) -> Figure:
    """Draws attribution maps over the spectrogram, one panel a map, all on one colour scale (paper, Fig. 3, top).

    The spectrogram is grey, the darker the louder; a map's colour covers it the more, the larger its value. The
    colours stand for 0 to 1 where all values lie there, as normalised ones do; for 0 to the largest where values
    exceed 1; for both signs, around 0, where some are negative.

    Args:
        attributions: the maps, (K, T, C).
        spectrogram: log-mel energies, (T, C).
        frames_per_second: frames a second of the spectrogram.
        mel_frequencies: centre of each mel channel in Hz, rising, (C,).
        titles: one for each map, such as the token that it explains. A single one may run over several lines;
            of several, those too wide for their panel are cut.
        value_label: what the values are, written at the colour bar. None takes words that fit the colours' range.
        value_range: the values at both ends of the colours, to compare figures of maps that are not normalised.

    Returns:
        Figure: to save or to change; pyplot does not know it.

    Raises:
        ValueError: shapes that do not fit each other, or values that are not finite.

    Example::

        >>> import torch
        >>> from captum_spes.visualization import plot_attributions
        >>> figure = plot_attributions(
        ...     torch.rand(2, 200, 80), torch.rand(200, 80), 100, torch.linspace(40, 7700, 80), [" So", " what"])
        >>> [ax.get_title() for ax in figure.axes]
        ['So', 'what', '']
    """
    mel = _MelSpectrogram(spectrogram, frames_per_second, mel_frequencies)
    maps = _array("attributions", attributions, (len(attributions), *mel.energy.shape))
    if not len(maps) or len(titles) != len(maps):
        raise ValueError(f"there must be a map, and a title for each: {len(maps)} maps and {len(titles)} titles came.")
    scale = _Scale.of(maps, value_label, value_range)
    grid = _Grid.of(len(maps), mel)
    texts = _titles(titles, grid)
    figure = _figure(*grid.figure_size(max(text.count("\n") for text in texts) + 1), column_gap=grid.COLUMN_GAP)
    for index, (ax, values, text) in enumerate(zip(grid.panels(figure), maps, texts, strict=True)):
        mel.draw(ax, mel.energy, cmap="Greys", vmin=mel.quiet, vmax=mel.quiet + GREY_HEADROOM * mel.span)
        overlay = mel.draw(ax, values, cmap=scale.colors, norm=scale.norm)
        ax.set_title(text, fontsize=TITLE_SIZE, pad=4, **_token_text())
        mel.label(ax, grid.width, grid.height, time=grid.is_lowest(index), frequency=grid.is_first(index))
        # where the last row is not full, these labels hang into empty places and need no room between all rows
        ax.xaxis.set_in_layout(not grid.is_lowest(index) or grid.is_in_last_row(index))
    _add_colorbar(figure, overlay, scale.label + "; grey: spectrogram")
    return figure


def plot_token_attributions(
    attributions: Tensor,
    tokens: Sequence[str],
    previous_tokens: Sequence[str],
    is_feature: Tensor,
    value_label: str | None = None,
    value_range: tuple[float, float] | None = None,
) -> Figure:
    """Draws what each token owes to each of the tokens before it (paper, Fig. 3, bottom): rows explained by columns.

    Tokens that are no feature of a row, since they are written later, are hatched; their values are not looked at.
    Small matrices have their values written in.

    Args:
        attributions: (K, J), rows are explained by columns.
        tokens: the K explained tokens.
        previous_tokens: the J tokens that explain them.
        is_feature: which previous tokens are features of which row, bool (K, J).
        value_label: what the values are, written at the colour bar. None takes words that fit the colours' range.
        value_range: the values at both ends of the colours; as for :func:`plot_attributions`.

    Returns:
        Figure: to save or to change; pyplot does not know it.

    Raises:
        ValueError: shapes that do not fit each other, or features whose values are not finite.

    Example::

        >>> import torch
        >>> from captum_spes.visualization import plot_token_attributions
        >>> figure = plot_token_attributions(
        ...     torch.tensor([[0.3, 0.0], [0.1, 0.5]]), [" So", " what"], ["<s>", " So"],
        ...     is_feature=torch.tensor([[True, False], [True, True]]))
        >>> figure.axes[0].get_ylabel()
        'explained token'
    """
    shape = (len(tokens), len(previous_tokens))
    if 0 in shape:
        raise ValueError(f"there must be at least one token and one previous token, not {shape[0]} and {shape[1]}.")
    features = torch.as_tensor(is_feature).detach().cpu()
    if features.dtype != torch.bool or tuple(features.shape) != shape:
        raise ValueError(f"is_feature must be bool of shape {shape}, not {features.dtype} {tuple(features.shape)}.")
    mask = features.numpy()
    if tuple(attributions.shape) == shape:
        attributions = torch.as_tensor(attributions).detach().cpu().masked_fill(~features, 0)
    values = np.ma.masked_array(_array("attributions", attributions, shape), ~mask)
    scale = _Scale.of(values.compressed(), value_label, value_range)

    matrix = _Matrix.of(tokens, previous_tokens)
    figure = _figure(*matrix.figure_size)
    ax = figure.add_subplot()
    image = ax.imshow(values, cmap=scale.on_white, norm=scale.norm, aspect="auto", interpolation="nearest")
    matrix.label(ax)
    if not mask.all():
        _hatch_background(ax, "written later: no feature")
    if matrix.has_room:
        _write_values(ax, values, image)
    _add_colorbar(figure, image, scale.label + "; rows are explained by columns", matrix.side_margin)
    return figure


def plot_segmentation(
    feature_mask: Tensor, spectrogram: Tensor, frames_per_second: float, mel_frequencies: Tensor
) -> Figure:
    """Draws a spectrogram, and beneath it its patches, each in the colour of its mean (paper, Fig. 1).

    Args:
        feature_mask: the patch of each bin, integer ids (T, C).
        spectrogram: log-mel energies, (T, C).
        frames_per_second: frames a second of the spectrogram.
        mel_frequencies: centre of each mel channel in Hz, rising, (C,).

    Returns:
        Figure: to save or to change; pyplot does not know it.

    Raises:
        ValueError: shapes that do not fit each other, ids that are no integers, or values that are not finite.

    Example::

        >>> import torch
        >>> from captum_spes.visualization import plot_segmentation
        >>> halves = torch.arange(80).expand(200, 80) // 40
        >>> figure = plot_segmentation(halves, torch.rand(200, 80), 100, torch.linspace(40, 7700, 80))
        >>> [ax.get_title() for ax in figure.axes]
        ['spectrogram', '2 patches, each in the colour of its mean', '']
    """
    mel = _MelSpectrogram(spectrogram, frames_per_second, mel_frequencies)
    mask = torch.as_tensor(feature_mask).detach().cpu()
    if mask.is_floating_point() or tuple(mask.shape) != mel.energy.shape:
        expected = f"integers of the spectrogram's shape {mel.energy.shape}"
        raise ValueError(f"feature_mask must be {expected}, not {mask.dtype} {tuple(mask.shape)}.")
    _, ids = np.unique(mask.numpy(), return_inverse=True)
    means = (np.bincount(ids.ravel(), mel.energy.ravel()) / np.bincount(ids.ravel()))[ids.reshape(mel.energy.shape)]
    width, height = mel.single_width, 2.4
    figure = _figure(width + SIDE_MARGIN, 2 * (height + 0.3) + BAR_MARGIN)
    upper, lower = figure.subplots(2, 1)
    for ax, picture in ((upper, mel.energy), (lower, means)):
        colors = _part_of(ENERGY_MAP, ENERGY_PART)
        image = mel.draw(ax, picture, cmap=colors, vmin=mel.energy.min(), vmax=mel.energy.max())
        mel.label(ax, width, height, time=ax is lower)
    lower.add_collection(_borders(mask.numpy(), mel.frames_per_second), autolim=False)
    upper.set_title("spectrogram", fontsize=TITLE_SIZE, pad=4)
    n_patches = "1 patch" if ids.max() == 0 else f"{ids.max() + 1} patches"
    lower.set_title(f"{n_patches}, each in the colour of its mean", fontsize=TITLE_SIZE, pad=4)
    _add_colorbar(figure, image, ENERGY_LABEL)
    return figure


# Spectrograms


@dataclass
class _MelSpectrogram:
    """A checked spectrogram (T, C), and how pictures of its shape are drawn on axes of seconds and mel channels."""

    energy: Any  # Tensor, then (T, C) array
    frames_per_second: float
    mel_frequencies: Any  # Tensor, then (C,) array

    def __post_init__(self) -> None:
        if self.energy.ndim != 2 or 0 in self.energy.shape:
            raise ValueError(f"the spectrogram must be of shape (T, C), not {tuple(self.energy.shape)}.")
        self.energy = _array("the spectrogram", self.energy, tuple(self.energy.shape))
        self.mel_frequencies = _array("mel_frequencies", self.mel_frequencies, self.energy.shape[1:])
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
        """Inches that suit a picture that has the page's width for itself."""
        return min(max(2 * self.duration, 5.5), PAGE_WIDTH)

    @property
    def quiet(self) -> float:
        """The energy that is drawn white: a low quantile, for one silent bin must not take half of the greys."""
        return float(np.quantile(self.energy, 0.02))

    @property
    def span(self) -> float:
        """From there to the loudest; never 0, which matplotlib could not divide by."""
        return max(float(self.energy.max()) - self.quiet, 1e-6)

    def draw(self, ax: Axes, picture: np.ndarray, **kwargs: Any) -> AxesImage:
        """Draws (T, C) values. Channel c is at height c, since mel channels are what the model sees evenly."""
        extent = (0, self.duration, -0.5, self.energy.shape[1] - 0.5)
        return ax.imshow(picture.T, origin="lower", aspect="auto", extent=extent, **kwargs)

    def label(self, ax: Axes, width: float, height: float, time: bool = True, frequency: bool = True) -> None:
        """Labels the axes of a picture of so many inches; without ``time`` or ``frequency`` ticks are left alone."""
        from matplotlib.ticker import MaxNLocator

        ax.tick_params(labelsize=TICK_SIZE, labelbottom=time, labelleft=frequency)
        ax.xaxis.set_major_locator(MaxNLocator(nbins=max(2, min(10, int(width / 0.5))), steps=[1, 2, 5, 10]))
        positions, labels = self.frequency_ticks(height)
        ax.set_yticks(positions, labels=labels)
        if time:
            ax.set_xlabel("time (s)", fontsize=LABEL_SIZE)
        if frequency:
            # the short word fits beside the lowest panel
            ax.set_ylabel("frequency (kHz)" if height > 1.3 else "kHz", fontsize=LABEL_SIZE)

    def frequency_ticks(self, height: float) -> tuple[list[float], list[str]]:
        """Positions in channels and labels in kHz of round frequencies, as many as an axis of so many inches takes."""
        low, high = self.mel_frequencies[[0, -1]]
        chosen: list[float] = []
        gap = LINE_HEIGHT * TICK_SIZE / (72 * height) * len(self.mel_frequencies)  # channels
        for frequency in [f for f in ROUND_FREQUENCIES if low <= f <= high] or [low, high]:
            if all(abs(self.channel(frequency) - self.channel(other)) >= gap for other in chosen):
                chosen.append(frequency)
        return [self.channel(f) for f in sorted(chosen)], [f"{f / 1000:.4g}" for f in sorted(chosen)]

    def channel(self, frequency: float) -> float:
        """Where a frequency lies between the channels' centres."""
        return float(np.interp(frequency, self.mel_frequencies, np.arange(len(self.mel_frequencies))))


def _borders(ids: np.ndarray, frames_per_second: float) -> LineCollection:
    """The lines between bins of different ids: exact at every size, where a painted bin would hide a small patch."""
    from matplotlib.collections import LineCollection

    frame, start, stop = _runs(ids[1:] != ids[:-1])  # upright, behind a frame
    x = (frame + 1) / frames_per_second
    upright = np.stack([x, start - 0.5, x, stop - 0.5], axis=1)
    channel, start, stop = _runs((ids[:, 1:] != ids[:, :-1]).T)  # level, above a channel
    level = np.stack([start / frames_per_second, channel + 0.5, stop / frames_per_second, channel + 0.5], axis=1)
    lines = np.concatenate([upright, level]).reshape(-1, 2, 2)
    return LineCollection(list(lines), colors="white", linewidths=BORDER_WIDTH, alpha=BORDER_OPACITY)


def _runs(marked: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Runs of True in the rows of an (A, B) array: row, first, one after the last. A line a run keeps files small."""
    edges = np.diff(np.pad(marked, ((0, 0), (1, 1))).astype(np.int8))
    row, start = np.nonzero(edges == 1)
    return row, start, np.nonzero(edges == -1)[1]


# Grids of panels


@dataclass(frozen=True)
class _Grid:
    """Panels in rows and columns; width and height of one in inches."""

    n_panels: int
    n_columns: int
    width: float
    height: float

    MAX_COLUMNS = 6
    TITLE_GAP = 0.1  # inches, beside the title itself
    COLUMN_GAP = 0.24  # half the last time of a panel, and half the first of its neighbour

    @classmethod
    def of(cls, n_panels: int, mel: _MelSpectrogram) -> _Grid:
        """The grid with large panels, few empty places and a page's shape; a single panel is as wide as it likes."""
        if n_panels == 1:
            return cls(1, 1, mel.single_width, 3.2)
        columns = range(1, min(n_panels, cls.MAX_COLUMNS) + 1)
        return min((cls._with_columns(n_panels, n, mel) for n in columns), key=lambda grid: grid._cost(mel))

    @classmethod
    def _with_columns(cls, n_panels: int, n_columns: int, mel: _MelSpectrogram) -> _Grid:
        n_rows = math.ceil(n_panels / n_columns)
        row = cls.TITLE_GAP + LINE_HEIGHT * TITLE_SIZE / 72
        # no narrower together than the colour bar
        narrowest, widest = (total / n_columns - cls.COLUMN_GAP for total in (BAR_LENGTH, PAGE_WIDTH))
        width = max(narrowest, min(widest, cls._ideal_width(mel)))
        # no lower than a frequency axis needs, even if the page grows
        return cls(n_panels, n_columns, width, min(max(PAGE_HEIGHT / n_rows - row, 0.7), 1.7))

    @staticmethod
    def _ideal_width(mel: _MelSpectrogram) -> float:
        return min(max(1.3 * mel.duration, 2.6), PAGE_WIDTH)

    def _cost(self, mel: _MelSpectrogram) -> float:
        width, height = self.figure_size(1)
        too_small = max(0.0, math.log(self._ideal_width(mel) / self.width)) + 1.3 * math.log(1.7 / self.height)
        no_page = abs(math.log(width / height / 1.4))
        too_tall = max(0.0, height - PAGE_HEIGHT - BAR_MARGIN)
        return too_small + 0.5 * no_page + self.n_rows * self.n_columns / self.n_panels + too_tall

    @property
    def n_rows(self) -> int:
        return math.ceil(self.n_panels / self.n_columns)

    def figure_size(self, title_lines: int) -> tuple[float, float]:
        """Inches of a figure whose titles have so many lines."""
        title = self.TITLE_GAP + title_lines * LINE_HEIGHT * TITLE_SIZE / 72
        width = self.n_columns * (self.width + self.COLUMN_GAP) + SIDE_MARGIN
        return width, self.n_rows * (self.height + title) + BAR_MARGIN

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


def _titles(titles: Sequence[str], grid: _Grid) -> list[str]:
    texts = _clean_labels(titles)
    if grid.n_panels == 1:
        return [_wrap(texts[0], grid.width, TITLE_SIZE, max_lines=8)]
    return [_shorten(text, grid.width, TITLE_SIZE) for text in texts]


# Matrices of tokens


@dataclass(frozen=True)
class _Matrix:
    """A matrix of tokens × previous tokens: its labels, and the side of a cell in inches."""

    rows: list[str]
    columns: list[str]
    cell: float
    row_height: float

    LABEL_WIDTH = 1.8  # inches
    LOWEST = 1.2  # for the axis label beside it

    @classmethod
    def of(cls, tokens: Sequence[str], previous_tokens: Sequence[str]) -> _Matrix:
        texts = _clean_labels([*tokens, *previous_tokens])
        # no smaller than a label's line, even if the page grows
        cell = min(max(min(PAGE_WIDTH / len(previous_tokens), PAGE_HEIGHT / len(tokens)), 0.17), 0.5)
        columns = [_shorten(text, cls.LABEL_WIDTH, TICK_SIZE) for text in texts[len(tokens) :]]
        lines = 6 if len(tokens) == 1 else int(cell * 72 / (LINE_HEIGHT * TICK_SIZE))  # one row may be a whole sentence
        rows = [_wrap(text, cls.LABEL_WIDTH, TICK_SIZE, max_lines=max(1, lines)) for text in texts[: len(tokens)]]
        height = (max(row.count("\n") for row in rows) + 1) * LINE_HEIGHT * TICK_SIZE / 72
        return cls(rows, columns, cell, max(cell, height, cls.LOWEST / len(rows)))

    @property
    def side_margin(self) -> float:
        """Inches beside the matrix: row labels and axis label."""
        return max(_text_width(line, TICK_SIZE) for row in self.rows for line in row.split("\n")) + 0.6

    @property
    def figure_size(self) -> tuple[float, float]:
        """Inches."""
        beneath = max(_text_width(column, TICK_SIZE) for column in self.columns) * (0.71 if self.is_slanted else 1)
        width = len(self.columns) * self.cell + self.side_margin
        height = len(self.rows) * self.row_height + beneath + BAR_MARGIN + 0.5
        return max(width, BAR_LENGTH + SIDE_MARGIN), height

    @property
    def has_room(self) -> bool:
        """Whether a value can be written in a cell."""
        return self.cell >= 0.4

    @property
    def is_slanted(self) -> bool:
        """Whether column labels may be slanted rather than upright: that takes 1.4 times a line's height."""
        return self.cell * 72 > 1.5 * LINE_HEIGHT * TICK_SIZE

    def label(self, ax: Axes) -> None:
        ax.set_xlabel("previous token", fontsize=LABEL_SIZE)
        ax.set_ylabel("explained token", fontsize=LABEL_SIZE)
        turn = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"} if self.is_slanted else {"rotation": 90}
        _set_token_ticks(ax.xaxis, self.columns, **turn)
        _set_token_ticks(ax.yaxis, self.rows)
        ax.tick_params(length=2)


def _set_token_ticks(axis: Axis, labels: list[str], **kwargs: Any) -> None:
    axis.set_ticks(range(len(labels)), labels=labels, fontsize=TICK_SIZE, **_token_text(), **kwargs)


def _hatch_background(ax: Axes, text: str) -> None:
    """Hatches what no cell covers, and says what it means."""
    from matplotlib.patches import Patch

    hatch: dict[str, Any] = {"facecolor": "white", "edgecolor": "0.75", "hatch": "/////", "linewidth": 0.0}
    ax.patch.set(**hatch)
    legend = ax.legend(
        handles=[Patch(**hatch)], labels=[text], loc="lower right", bbox_to_anchor=(1, 1), fontsize=TICK_SIZE
    )
    legend.set_frame_on(False)


def _write_values(ax: Axes, values: np.ma.MaskedArray, image: ScalarMappable) -> None:
    for row, column in np.argwhere(~np.ma.getmaskarray(values)):
        red, green, blue, _ = image.to_rgba(values[row, column])
        dark = 0.299 * red + 0.587 * green + 0.114 * blue < 0.5
        text = f"{values[row, column]:.2f}" if abs(values[row, column]) < 10 else f"{values[row, column]:.3g}"
        text = text.replace("-", "−")  # as at the colour bar
        ax.text(column, row, text, ha="center", va="center", fontsize=VALUE_SIZE, color="white" if dark else "black")


# Colours


@dataclass(frozen=True)
class _Scale:
    """What colours stand for, in every panel of a figure."""

    norm: Normalize
    colors: Colormap  # the more opaque, the larger the value
    label: str

    @classmethod
    def of(cls, values: np.ndarray, label: str | None, value_range: tuple[float, float] | None) -> _Scale:
        from matplotlib.colors import Normalize

        low, high = _value_range(values) if value_range is None else value_range
        if not -math.inf < low < high < math.inf:
            raise ValueError(f"value_range must be two numbers, the smaller first, not {value_range}.")
        label = _value_label(low, high) if label is None else label
        return cls(Normalize(low, high), _fading_colors(signed=low < 0), label)

    @property
    def on_white(self) -> Colormap:
        """The same colours, opaque: as they look on paper."""
        from matplotlib.colors import ListedColormap

        colors = self.colors(np.arange(self.colors.N))
        opacity = colors[:, 3:]
        return ListedColormap(colors[:, :3] * opacity + 1 - opacity)


def _value_range(values: np.ndarray) -> tuple[float, float]:
    """0 to 1 where that holds all values, else 0 to the largest, or around 0."""
    low, high = (float(values.min()), float(values.max())) if values.size else (0.0, 1.0)
    rounding = 1e-6 * max(1.0, high)
    if low < -rounding:
        return -max(-low, high), max(-low, high)
    return 0.0, high if high > 1 + rounding else 1.0


def _value_label(low: float, high: float) -> str:
    if low < 0:
        return "attribution, both signs: positive = hiding it weakens the prediction, negative = strengthens it"
    scale = "normalised to 0–1" if (low, high) == (0, 1) else "not normalised"
    return f"attribution, {scale}: larger = hiding it changes the prediction more"


def _fading_colors(signed: bool) -> Colormap:
    from matplotlib.colors import ListedColormap

    colormap = _part_of(SIGNED_MAP, (0, 1)) if signed else _part_of(MAP, MAP_PART)
    colors = colormap(np.arange(colormap.N))
    size = np.abs(np.linspace(-1, 1, colormap.N)) if signed else np.linspace(0, 1, colormap.N)
    colors[:, 3] = OPACITY * size**OPACITY_EXPONENT
    return ListedColormap(colors)


def _part_of(name: str, part: tuple[float, float]) -> ListedColormap:
    from matplotlib import colormaps
    from matplotlib.colors import ListedColormap

    return ListedColormap(colormaps[name](np.linspace(*part, 256)))


def _add_colorbar(figure: Figure, image: ScalarMappable, label: str, side_margin: float = SIDE_MARGIN) -> None:
    """One bar for all panels, as thick in a tall figure as in a low one: matplotlib takes fractions of the height."""
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
    )
    bar.set_label(_wrap(label, width, LABEL_SIZE, max_lines=6), fontsize=LABEL_SIZE)
    bar.ax.tick_params(labelsize=TICK_SIZE)


# Text


def _token_text() -> dict[str, Any]:
    """Properties of text that may be anything: no $formulas$, and fonts of other scripts where they are installed."""
    return {"parse_math": False, "usetex": False, "fontfamily": _font_families()}


def _font_families() -> list[str]:
    from matplotlib import font_manager, rcParams

    installed = set(font_manager.get_font_names())
    return [*rcParams["font.family"], *(name for name in FALLBACK_FONTS if name in installed)]


def _clean_labels(texts: Sequence[str]) -> list[str]:
    """Tokens as labels, with a box for characters that no font has; matplotlib would warn of each at every drawing."""
    texts = [_clean(text) for text in texts]
    missing = set().union(*texts) - _drawable_characters(frozenset().union(*texts))
    if missing:
        warnings.warn(
            f"no font has {' '.join(sorted(missing))}: boxes are drawn instead. Fonts such as Noto Sans CJK are used "
            "where installed; others through matplotlib.rcParams['font.family'].",
            stacklevel=4,  # where the figure was asked for
        )
    boxes = str.maketrans(dict.fromkeys(missing, MISSING_GLYPH))
    return [text.translate(boxes) for text in texts]


def _drawable_characters(characters: frozenset[str]) -> set[str]:
    from matplotlib import font_manager

    found: set[str] = set()
    for family in _font_families():
        properties = font_manager.FontProperties(family=[family])
        try:
            path = font_manager.findfont(properties, fallback_to_default=False)
        except ValueError:  # not installed
            continue
        found |= {character for character in characters if ord(character) in font_manager.get_font(path).get_charmap()}
        if found == characters:
            break
    return found


def _clean(text: str) -> str:
    """One line without the space that begins a word's token; what cannot be seen is written out.

    Example::

        >>> [_clean(text) for text in (" So", "", " ", "a\\nb", "<|en|>")]
        ['So', '(empty)', '␣', 'a↵b', '<|en|>']
    """
    if not text:
        return "(empty)"
    if set(text) == {" "}:
        return "␣"
    return "".join(map(_visible, text)).strip(" ") or text.encode("unicode_escape").decode()


def _visible(character: str) -> str:
    if character in "\n\r\t":
        return {"\n": "↵", "\r": "␍", "\t": "⇥"}[character]
    category = unicodedata.category(character)
    # joiners and variation selectors shape their neighbours and have no shape themselves
    if category == "Cf" or "\ufe00" <= character <= "\ufe0f":
        return ""
    if category in ("Cc", "Cs", "Cn"):
        return character.encode("unicode_escape").decode()
    return " " if category.startswith("Z") else character


def _text_width(text: str, size: float) -> float:
    """Inches. Measured rather than counted: a Chinese character is as wide as two or three Latin ones."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import TextToPath

    if not text:
        return 0.0
    properties = FontProperties(family=_font_families(), size=size)
    return TextToPath().get_text_width_height_descent(text, properties, ismath=False)[0] / 72


def _shorten(text: str, width: float, size: float) -> str:
    """The text, or as much of it as fits so many inches."""
    measured = _text_width(text, size)
    if measured <= width:
        return text
    kept = min(len(text), 1 + int(1.5 * len(text) * width / measured))  # near enough, for long texts
    while kept > 1 and _text_width(text[:kept] + "…", size) > width:
        kept -= 1
    return text[:kept].rstrip() + "…"


def _wrap(text: str, width: float, size: float, max_lines: int) -> str:
    """The text on lines of at most so many inches; what remains after the last line is cut."""
    n_lines = math.ceil(_text_width(text, size) / width)
    if n_lines <= 1:
        return text
    # from lines of about one length on, as letters are not all of one width
    for n_characters in range(len(text) // n_lines + 8, 0, -1):
        lines = textwrap.wrap(text, n_characters, max_lines=max_lines, placeholder="…")
        if all(_text_width(line, size) <= width for line in lines):
            break
    return "\n".join(lines)


def _array(name: str, values: Tensor, shape: tuple[int, ...]) -> np.ndarray:
    """The values as floats; refuses another shape, or values that are not finite."""
    if tuple(values.shape) != shape:
        raise ValueError(f"{name} must be of shape {shape}, not {tuple(values.shape)}.")
    array = torch.as_tensor(values).detach().cpu().float().numpy()
    if not np.isfinite(array).all():
        raise ValueError(f"{name} must be finite: there are NaN or infinite values.")
    return array


def _figure(width: float, height: float, column_gap: float = 0.1) -> Figure:
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    return Figure(figsize=(width, height), layout=ConstrainedLayoutEngine(w_pad=column_gap / 2))
