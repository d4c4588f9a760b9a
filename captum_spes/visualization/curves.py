"""Curves of an evaluation, such as deletion, insertion and size: one panel a metric, one line a method."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from captum_spes.visualization._layout import new_figure
from captum_spes.visualization._text import LINE_HEIGHT, clean_labels, shorten, text_width, token_text, wrap

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Points and inches. Larger than in other figures, for three panels beside each other shrink to half on a page.
TITLE_SIZE, LABEL_SIZE, TICK_SIZE = 12.0, 10.5, 9.5
LEGEND_SIZES = (9.0, 8.0, 7.0)
PANEL_WIDTH, PANEL_HEIGHT = 4.0, 3.2  # with title and axes, without legend
PANEL_GAP = 0.24
Y_AXIS = 0.65
MAX_COLUMNS = 3
ROOM = 0.025  # beyond the ends of the axes, as parts of them, or half of a thick line at 0 or 100 would be lost

# Okabe and Ito's colours for all kinds of colour vision, with a dark red for their yellow, which white paper swallows.
# Lengths without a common factor: no two of the first 20 methods have line style and marker in common, which is what
# a grey print shows, and no two of the first 28 colour and line style.
COLORS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#000000", "#56B4E9", "#882255")
DASHES: tuple[Any, ...] = ("-", (0, (5, 1.8)), (0, (6, 1.5, 1.2, 1.5)), (0, (1.6, 1.2)))
MARKERS = ("s", "^", "D", "v", "P")
GREY = "#808080"
N_MARKERS = 5  # on a line
MANY_CURVES = 4  # with more, bands lie over each other
BAND, FAINT_BAND = 0.18, 0.07  # opacities
MEL_TICKS = (0, 300, 600, 1000, 2000, 4000, 7000, 12000)  # Hz
# 15 mels up to 1 kHz, 27 for a factor of 6.4 above; matplotlib stretches the linear part by 10 / 9
MEL_LINEAR_DECADES = 0.9 * 15 * math.log10(6.4) / 27


@dataclass(frozen=True)
class CurvePanel:
    """One metric: a curve for each method over common steps.

    Attributes:
        title: the metric, such as "Deletion".
        x_label: label of the steps, with their unit.
        y_label: label of the values, with their unit.
        steps: rising steps, (S,).
        curves: the values of each method, (S,), by its name. NaN leaves a gap.
        bands: lower and upper ends of intervals around a method's curve, (2, S), which are shaded. They have the
            gaps of the curve. With more than four curves they are faint, except that of "spes".
        y_range: limits of the y axis, at which values are cut. None shows all values.
        auc: the area under a method's curve, beside its name.
        mel_scale: whether the steps are frequencies in Hz on a mel scale.

    Example::

        >>> from captum_spes.visualization import CurvePanel
        >>> panel = CurvePanel(
        ...     "Deletion", "bins deleted (%)", "WER (%)", steps=[0, 50, 100], curves={"spes": [0, 90, 100]})
        >>> panel.y_range
        (0, 100)
    """

    title: str
    x_label: str
    y_label: str
    steps: Sequence[float]
    curves: Mapping[str, ArrayLike]
    bands: Mapping[str, ArrayLike] = field(default_factory=dict)
    y_range: tuple[float, float] | None = (0, 100)
    auc: Mapping[str, float] = field(default_factory=dict)
    mel_scale: bool = False


def plot_curves(panels: Sequence[CurvePanel]) -> Figure:
    """Draws curves of several metrics in panels, with a line for each method (paper, Fig. 5 and 6).

    A method has the same colour, line style and marker in all panels, by the order in which the methods appear; after
    28 methods colours and line styles repeat. "spes" is thick and on top, and the controls "random" and "energy"
    are grey, in any order and letter case. At most three panels are in a row.

    There is one legend beneath all panels. If a panel has areas under its curves, each panel has its own legend.

    Args:
        panels: the metrics.

    Returns:
        Figure: the figure, which is not registered with pyplot.

    Raises:
        ValueError: there is no panel or no curve, steps do not rise, shapes do not fit each other, a method with a band
            or an area has no curve, or values other than gaps are not finite.

    Example::

        >>> from captum_spes.visualization import CurvePanel, plot_curves
        >>> deletion = CurvePanel(
        ...     "Deletion", "bins deleted, most important first (%)", "WER (%)", steps=[0, 50, 100],
        ...     curves={"spes": [0, 90, 100], "random": [0, 40, 100]}, auc={"spes": 70.0, "random": 45.0})
        >>> figure = plot_curves([deletion])
        >>> [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
        ['spes  70.0', 'random  45.0']
    """
    if not len(panels):
        raise ValueError("there is no panel to draw: give at least one.")
    metrics = [_Metric.of(panel) for panel in panels]
    sheet = _Sheet.of(metrics)
    styles = _styles(sheet.names)
    figure = new_figure(*sheet.figure_size, column_gap=PANEL_GAP)
    places = figure.add_gridspec(sheet.n_rows, sheet.n_columns)
    for index, metric in enumerate(metrics):
        ax = figure.add_subplot(places[divmod(index, sheet.n_columns)])
        metric.draw(ax, styles)
        sheet.write(ax, index)
        if sheet.has_legends:
            sheet.legends[index].add_beneath(ax, [styles[name] for name in metric.curves], sheet.x_axis(index))
    if not sheet.has_legends:
        sheet.legends[0].add_to(figure, list(styles.values()), loc="outside lower center", borderpad=0.6)
    return figure


# Values


@dataclass(frozen=True)
class _Metric:
    """A panel whose values are checked arrays: steps and curves (S,), bands (2, S)."""

    panel: CurvePanel
    steps: np.ndarray
    curves: dict[str, np.ndarray]
    bands: dict[str, np.ndarray]

    @classmethod
    def of(cls, panel: CurvePanel) -> _Metric:
        where = f"panel {panel.title!r}: "
        steps = np.asarray(panel.steps, dtype=float)
        if steps.ndim != 1 or not steps.size or not np.isfinite(steps).all() or (np.diff(steps) <= 0).any():
            raise ValueError(f"{where}steps must be finite and rise, (S,).")
        if not panel.curves:
            raise ValueError(f"{where}there is no curve: give at least one.")
        curves = {
            name: _checked(f"{where}the curve of {name!r}", values, steps.shape)
            for name, values in panel.curves.items()
        }
        for kind, names in (("a band", panel.bands), ("an area", panel.auc)):
            if lost := [name for name in names if name not in curves]:
                raise ValueError(f"{where}{lost[0]!r} has {kind}, but no curve.")
        bands = {}
        for name, values in panel.bands.items():
            band = _checked(f"{where}the band of {name!r}", values, (2, *steps.shape), curves[name])
            if (band[0] > band[1]).any():
                raise ValueError(f"{where}the lower ends of the band of {name!r} must come first.")
            bands[name] = np.where(np.isnan(curves[name]), np.nan, band)  # the band has the gaps of the curve
        if not np.isfinite(list(panel.auc.values())).all():
            raise ValueError(f"{where}areas must be finite.")
        if panel.y_range is not None and not -math.inf < panel.y_range[0] < panel.y_range[1] < math.inf:
            raise ValueError(f"{where}y_range must be two numbers, the smaller first, not {panel.y_range}.")
        return cls(panel, steps, curves, bands)

    def draw(self, ax: Axes, styles: Mapping[str, _Style]) -> None:
        n_steps = len(self.steps)
        for name, values in self.curves.items():
            style = styles[name]
            is_lone = _is_lone(values)
            if name in self.bands:
                opacity = style.faint_band if len(self.curves) > MANY_CURVES else BAND
                low, high = self.bands[name]
                place: dict[str, Any] = {"color": style.color, "zorder": style.order - 1}
                ax.fill_between(self.steps, low, high, linewidth=0, alpha=opacity, **place)
                # a single interval has no area to shade
                ax.vlines(self.steps[is_lone], low[is_lone], high[is_lone], alpha=0.5, **place)
            # markers are shifted from line to line, because they would otherwise hide each other
            every = math.ceil(n_steps / N_MARKERS)
            is_marked = is_lone | (np.arange(n_steps) % every == (2 * style.number + 1) % every)
            ax.plot(self.steps, values, markevery=np.flatnonzero(is_marked).tolist(), **style.line)
        self._set_limits(ax)

    def _set_limits(self, ax: Axes) -> None:
        first, last = self.steps[[0, -1]]
        if self.panel.mel_scale:
            # Slaney's scale: linear up to 1 kHz, logarithmic above
            ax.set_xscale("symlog", linthresh=1000, linscale=MEL_LINEAR_DECADES)
            ticks = [tick for tick in MEL_TICKS if first <= tick <= last or not tick]
            ax.set_xticks(ticks, labels=[f"{tick:,}" for tick in ticks])
            ax.minorticks_off()
        room = ROOM * (last - first) or 0.5
        ax.set_xlim(first - room, last + room)
        if first == last:
            ax.set_xticks([first])
        if self.panel.y_range is None:
            ax.margins(y=2 * ROOM)
        else:
            low, high = self.panel.y_range
            ax.set_ylim(low - ROOM * (high - low), high + ROOM * (high - low))

    def areas(self) -> list[str]:
        """The area beside each method's name, or an empty text; percentages have one decimal."""
        areas = self.panel.auc
        decimals = 1 if max(map(abs, areas.values()), default=0) > 1 else 3
        return [f"  {areas[name]:.{decimals}f}" if name in areas else "" for name in self.curves]


def _checked(what: str, values: ArrayLike, shape: tuple[int, ...], gaps: np.ndarray | None = None) -> np.ndarray:
    """The values as floats. Raises a ValueError for another shape, or for NaN where ``gaps`` has values."""
    array = np.asarray(values, dtype=float)
    if array.shape != shape:
        raise ValueError(f"{what} must be of shape {shape}, as the steps, not {array.shape}.")
    allowed = np.isnan(array) if gaps is None else np.isnan(array) & np.isnan(gaps)
    if not (np.isfinite(array) | allowed).all():
        raise ValueError(f"{what} must be finite{' where the curve is' if gaps is not None else ', or NaN for a gap'}.")
    return array


def _is_lone(values: np.ndarray) -> np.ndarray:
    """Whether a value has no neighbour with which it can be connected, (S,)."""
    is_known = np.isfinite(values)
    around = np.pad(is_known, 1)
    return is_known & ~around[:-2] & ~around[2:]


# Styles


@dataclass(frozen=True)
class _Style:
    """The style of a method's line, and its number among the methods."""

    number: int
    color: str
    dashes: Any
    marker: str
    width: float = 1.3
    marker_size: float = 4.0
    order: float = 3.0
    faint_band: float = FAINT_BAND

    @property
    def line(self) -> dict[str, Any]:
        """Properties of the line."""
        return {
            "color": self.color,
            "linestyle": self.dashes,
            "linewidth": self.width,
            "marker": self.marker,
            "markersize": self.marker_size,
            "zorder": self.order,
        }


def _styles(names: Iterable[str]) -> dict[str, _Style]:
    styles = {}
    n_others = 0
    for number, name in enumerate(names):
        match name.strip().lower():
            case "spes":
                styles[name] = _Style(number, "#D55E00", "-", "o", 2.6, 5.5, order=4, faint_band=BAND)
            case "random":
                styles[name] = _Style(number, GREY, (0, (4, 2)), "x", order=2.5)
            case "energy":
                styles[name] = _Style(number, GREY, (0, (1, 1.4)), "+", 1.6, 5.5, order=2.5)
            case _:
                looks = (looks[n_others % len(looks)] for looks in (COLORS, DASHES, MARKERS))
                styles[name] = _Style(number, *looks)
                n_others += 1
    return styles


# Texts


@dataclass(frozen=True)
class _Sheet:
    """Panels in rows and columns with their texts; the legends are those of the panels, or a single one."""

    names: list[str]  # in the order of appearance
    titles: list[str]
    x_labels: list[str]
    y_labels: list[str]
    legends: list[_Legend]
    has_legends: bool  # whether the panels have their own legends

    @classmethod
    def of(cls, metrics: Sequence[_Metric]) -> _Sheet:
        panels = [metric.panel for metric in metrics]
        names = list(dict.fromkeys(name for panel in panels for name in panel.curves))
        texts = [text for panel in panels for text in (panel.title, panel.x_label, panel.y_label)]
        cleaned = clean_labels([*names, *texts])
        labels = dict(zip(names, cleaned))
        lines = [label if text else "" for text, label in zip(texts, cleaned[len(names) :])]
        has_legends = any(panel.auc for panel in panels)
        if has_legends:
            legends = [_Legend.of([labels[n] for n in m.curves], m.areas(), PANEL_WIDTH) for m in metrics]
        else:
            width = _n_columns(len(panels)) * (PANEL_WIDTH + PANEL_GAP)
            legends = [_Legend.of(list(labels.values()), [""] * len(names), width - PANEL_GAP)]
        width, height = PANEL_WIDTH - Y_AXIS, PANEL_HEIGHT - 0.9
        return cls(
            names,
            [wrap(line, width, TITLE_SIZE, max_lines=2) for line in lines[0::3]],
            [wrap(line, width, LABEL_SIZE, max_lines=2) for line in lines[1::3]],
            [wrap(line, height, LABEL_SIZE, max_lines=2) for line in lines[2::3]],
            legends,
            has_legends,
        )

    @property
    def n_columns(self) -> int:
        return _n_columns(len(self.titles))

    @property
    def n_rows(self) -> int:
        return math.ceil(len(self.titles) / self.n_columns)

    @property
    def figure_size(self) -> tuple[float, float]:
        """Inches."""
        # without further lines and legends
        title = max(text.count("\n") for text in self.titles) * LINE_HEIGHT * TITLE_SIZE / 72
        label = max(text.count("\n") for text in self.x_labels) * LINE_HEIGHT * LABEL_SIZE / 72
        height = self.n_rows * (PANEL_HEIGHT + title + label)
        starts = range(0, len(self.legends), self.n_columns)
        height += sum(max(legend.height for legend in self.legends[i : i + self.n_columns]) for i in starts)
        return self.n_columns * (PANEL_WIDTH + PANEL_GAP), height

    def x_axis(self, index: int) -> float:
        """The distance in inches from a panel's curves to its legend, for ticks and labels."""
        n_lines = self.x_labels[index].count("\n") + 1 if self.x_labels[index] else 0
        return (11 + LINE_HEIGHT * (TICK_SIZE + n_lines * LABEL_SIZE)) / 72

    def write(self, ax: Axes, index: int) -> None:
        """Writes a panel's title and the labels of its axes."""
        ax.set_title(self.titles[index], fontsize=TITLE_SIZE, **token_text())
        ax.set_xlabel(self.x_labels[index], fontsize=LABEL_SIZE, **token_text())
        ax.set_ylabel(self.y_labels[index], fontsize=LABEL_SIZE, **token_text())
        ax.tick_params(labelsize=TICK_SIZE)
        ax.grid(color="0.92", linewidth=0.8)
        ax.set_axisbelow(True)
        ax.spines[["top", "right"]].set_visible(False)


def _n_columns(n_panels: int) -> int:
    """The number of columns for which rows are about equally full: 2 and 2 rather than 3 and 1."""
    return math.ceil(n_panels / math.ceil(n_panels / MAX_COLUMNS))


@dataclass(frozen=True)
class _Legend:
    """A legend: names in columns, their font size in points, the width in inches and other lengths in font sizes."""

    labels: list[str]
    size: float
    n_columns: int
    width: float

    HANDLE, HANDLE_GAP, COLUMN_GAP, ROW_GAP = 2.8, 0.5, 1.3, 0.25
    MAX_ROWS = 6

    @classmethod
    def of(cls, names: Sequence[str], endings: Sequence[str], width: float) -> _Legend:
        """A legend with a largest width in inches; the font is smaller if the legend would be long.

        Names that are too long for the width are cut, before their endings.
        """
        legends = [cls._of_size(size, names, endings, width) for size in LEGEND_SIZES]
        fewest = max(cls.MAX_ROWS, min(legend.n_rows for legend in legends))
        return next(legend for legend in legends if legend.n_rows <= fewest)

    @classmethod
    def _of_size(cls, size: float, names: Sequence[str], endings: Sequence[str], width: float) -> _Legend:
        handle, gap = (cls.HANDLE + cls.HANDLE_GAP) * size / 72, cls.COLUMN_GAP * size / 72
        labels = [
            shorten(name, width - handle - text_width(ending, size), size) + ending
            for name, ending in zip(names, endings)
        ]
        widths = [handle + text_width(label, size) for label in labels]
        for n_columns in range(len(labels), 0, -1):
            columns = np.array_split(widths, n_columns)  # as matplotlib does
            taken = sum(column.max() for column in columns) + (n_columns - 1) * gap
            if taken <= width:
                break
        # in as many rows, evenly
        n_columns = math.ceil(len(labels) / math.ceil(len(labels) / n_columns))
        return cls(labels, size, n_columns, taken)

    @property
    def n_rows(self) -> int:
        return math.ceil(len(self.labels) / self.n_columns)

    @property
    def height(self) -> float:
        """Inches."""
        return (self.n_rows * (LINE_HEIGHT + self.ROW_GAP) + 1) * self.size / 72

    def add_to(self, place: Axes | Figure, styles: Sequence[_Style], **kwargs: Any) -> None:
        from matplotlib.lines import Line2D

        legend = place.legend(
            [Line2D([], [], **style.line) for style in styles],
            ["name"] * len(styles),  # set below, because matplotlib leaves out names that begin with an underscore
            ncols=self.n_columns,
            fontsize=self.size,
            frameon=False,
            handlelength=self.HANDLE,
            handletextpad=self.HANDLE_GAP,
            columnspacing=self.COLUMN_GAP,
            labelspacing=self.ROW_GAP,
            borderaxespad=0,
            **kwargs,
        )
        for text, label in zip(legend.get_texts(), self.labels):
            text.set(text=label, **token_text())

    def add_beneath(self, ax: Axes, styles: Sequence[_Style], distance: float) -> None:
        """Centres the legend beneath the axes, or beneath axes and y labels if it is wider."""
        from matplotlib.transforms import ScaledTranslation

        left = max(0.0, self.width - (PANEL_WIDTH - Y_AXIS)) / 2
        shift = ScaledTranslation(-left, -distance, ax.figure.dpi_scale_trans)
        place = {"bbox_to_anchor": (0.5, 0), "bbox_transform": ax.transAxes + shift, "borderpad": 0}
        self.add_to(ax, styles, loc="upper center", **place)
