"""A figure that compares attribution methods, with a row for each method."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from captum_spes.visualization._colors import Scale
from captum_spes.visualization._layout import (
    BAR_LENGTH,
    BAR_MARGIN,
    LABEL_SIZE,
    TICK_SIZE,
    TITLE_SIZE,
    MelSpectrogram,
    add_colorbar,
    checked_array,
    fitting_titles,
    new_figure,
)
from captum_spes.visualization._text import LINE_HEIGHT, clean_labels, text_width, token_text, wrap

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def plot_comparison(
    attributions: Tensor,
    spectrogram: Tensor,
    frames_per_second: float,
    mel_frequencies: Tensor,
    methods: Sequence[str],
    titles: Sequence[str],
    value_label: str | None = None,
    value_range: tuple[float, float] | None = None,
) -> Figure:
    """Draws the maps of several methods: a row for each method, a column for each word, on one colour scale.

    More than ten words continue in further bands of rows. Colours are those of :func:`.plot_attributions`.

    The maps are drawn unchanged, and are comparable only if their values are. Values normalised to 0–1 are not
    comparable: one outlier leaves all other bins of Integrated Gradients near 0.5, and those of Saliency near 0. Use
    :func:`percentile_ranks` to compare which bins the methods find important, best with a ``value_range`` of 75 to 100,
    which colours the upper quarter of every map.

    Args:
        attributions: K maps of each of M methods, (M, K, T, C).
        spectrogram: log-mel energies, (T, C).
        frames_per_second: frames per second of the spectrogram.
        mel_frequencies: centre of each mel channel in Hz, rising, (C,).
        methods: the names of the methods, at the left.
        titles: a title for each column, such as the word that its maps explain. Titles that are too wide for their
            column are cut; a single one, such as the sentence, may have several lines.
        value_label: label of the colour bar. Default: a label that fits the range of the colours.
        value_range: the values at both ends of the colours, as in :func:`.plot_attributions`.

    Returns:
        Figure: the figure, which is not registered with pyplot.

    Raises:
        ValueError: shapes do not fit each other, or values are not finite.

    Example::

        >>> import torch
        >>> from captum_spes.visualization import percentile_ranks, plot_comparison
        >>> maps = torch.rand(2, 3, 200, 80)
        >>> figure = plot_comparison(
        ...     percentile_ranks(maps), torch.rand(200, 80), 100, torch.linspace(40, 7700, 80),
        ...     methods=["SPES", "Saliency"], titles=[" So", " what", "?"],
        ...     value_label="percentile rank of the bin in its map (%)", value_range=(75, 100))
        >>> [ax.get_title() for ax in figure.axes[:3]]
        ['So', 'what', '?']
    """
    mel = MelSpectrogram(spectrogram, frames_per_second, mel_frequencies)
    if not len(methods) or not len(titles):
        raise ValueError(
            f"give at least one method and one map: there are {len(methods)} methods and {len(titles)} titles."
        )
    maps = checked_array("attributions", attributions, (len(methods), len(titles), *mel.energy.shape))
    scale = Scale.of(maps, value_label, value_range)
    table = _Table.of(methods, titles, mel)
    figure = new_figure(*table.figure_size, column_gap=table.COLUMN_GAP)
    places = figure.add_gridspec(table.n_rows, table.n_columns)
    for method, word in np.ndindex(maps.shape[:2]):
        ax = figure.add_subplot(places[table.place(method, word)])
        overlay = scale.draw(ax, maps[method, word], mel)
        is_upper, is_lower, is_left = method == 0, method == len(maps) - 1, word % table.n_columns == 0
        mel.label(ax, table.width, table.height, time=is_lower, frequency=is_left)
        ax.tick_params(bottom=is_lower, left=is_left)
        if is_upper:
            ax.set_title(table.titles[word], fontsize=TITLE_SIZE, pad=4, **token_text())
        if is_left:
            table.write_name(ax, table.names[method])
    add_colorbar(figure, overlay, scale.label + "; grey: spectrogram", table.side_margin, scale.extend)
    return figure


@dataclass(frozen=True)
class _Table:
    """Rows of methods and columns of words, in several bands like the lines of a text if there are many words.

    The width and height of a panel and the width of the frequency axis are in inches.
    """

    names: list[str]
    titles: list[str]
    n_columns: int
    width: float
    height: float
    axis_width: float

    WIDTH, HEIGHT = 12.0, 11.0  # of all panels together, unless the panels would be too small
    MAX_COLUMNS = 10
    NARROWEST, LOWEST, HIGHEST = 1.0, 0.6, 1.8
    NAME_WIDTH = 1.35
    COLUMN_GAP, ROW_GAP = 0.16, 0.1
    TIME_AXIS = 0.4

    @classmethod
    def of(cls, methods: Sequence[str], titles: Sequence[str], mel: MelSpectrogram) -> _Table:
        n_bands = math.ceil(len(titles) / cls.MAX_COLUMNS)
        n_columns = math.ceil(len(titles) / n_bands)
        # together at least as wide as the colour bar
        narrowest = max(cls.NARROWEST, BAR_LENGTH / n_columns - cls.COLUMN_GAP)
        ideal = mel.single_width if n_columns == 1 else 0.8 * mel.duration
        width = max(narrowest, min(ideal, cls.WIDTH / n_columns - cls.COLUMN_GAP))
        height = cls.HEIGHT / (n_bands * len(methods)) - cls.ROW_GAP
        height = max(cls.LOWEST, min(height, 0.75 * width, cls.HIGHEST))
        texts = clean_labels([*methods, *titles])
        lines = int(height * 72 / (LINE_HEIGHT * LABEL_SIZE))
        names = [wrap(text, cls.NAME_WIDTH, LABEL_SIZE, max_lines=lines) for text in texts[: len(methods)]]
        axis_width = 0.45 + max(text_width(label, TICK_SIZE) for label in mel.frequency_ticks(height)[1])
        return cls(names, fitting_titles(texts[len(methods) :], width), n_columns, width, height, axis_width)

    @property
    def n_bands(self) -> int:
        return math.ceil(len(self.titles) / self.n_columns)

    @property
    def n_rows(self) -> int:
        return self.n_bands * len(self.names)

    def place(self, method: int, word: int) -> tuple[int, int]:
        """Row and column of a panel."""
        band, column = divmod(word, self.n_columns)
        return band * len(self.names) + method, column

    @property
    def figure_size(self) -> tuple[float, float]:
        """Inches."""
        title = (max(text.count("\n") for text in self.titles) + 1) * LINE_HEIGHT * TITLE_SIZE / 72
        width = self.n_columns * (self.width + self.COLUMN_GAP) + self.side_margin
        height = self.n_rows * (self.height + self.ROW_GAP) + self.n_bands * (title + self.TIME_AXIS)
        return width, height + BAR_MARGIN - self.TIME_AXIS

    @property
    def side_margin(self) -> float:
        """The width in inches of names and frequency axis."""
        return self.name_width + self.axis_width + 0.2

    @property
    def name_width(self) -> float:
        """The width of the names in inches."""
        return max(text_width(line, LABEL_SIZE) for name in self.names for line in name.split("\n"))

    def write_name(self, ax: Axes, name: str) -> None:
        """Writes a method's name at the left of the first panel of its row and of the frequency axis."""
        offset = (-72 * (self.name_width + self.axis_width), 0)
        properties = {"fontsize": LABEL_SIZE, "linespacing": 1.1, **token_text()}
        ax.annotate(name, (0, 0.5), offset, "axes fraction", "offset points", ha="left", va="center", **properties)
