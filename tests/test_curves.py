"""The figure of evaluation curves: lines, styles, bands, and positions of legends and texts."""

from __future__ import annotations

import itertools
import warnings
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.lines import Line2D
from matplotlib.text import Text

from captum_spes.visualization import CurvePanel, plot_curves

STEPS = np.linspace(0, 100, 21)
NAMES = ["spes", "random", "energy", "integrated_gradients", *(f"method_{number}" for number in range(30))]
SENTENCE = "And Mr. John Dashwood had then leisure to consider how much there might be prudently in his power to do."


def panel(names: list[str], area: bool = False, band: bool = False, **kwargs: Any) -> CurvePanel:
    curves = {name: 100 * (STEPS / 100) ** (0.2 + 0.1 * number) for number, name in enumerate(names)}
    bands = {name: np.stack([values - 2, values + 3]) for name, values in curves.items()} if band else {}
    auc = {name: float(values.mean()) for name, values in curves.items()} if area else {}
    metric = CurvePanel("Deletion", "bins deleted (%)", "WER (%)", list(STEPS), curves, bands, auc=auc)
    return replace(metric, **kwargs)


def lines(ax: Axes, metric: CurvePanel) -> dict[str, Line2D]:
    return dict(zip(metric.curves, ax.get_lines(), strict=True))


def look(line: Line2D) -> tuple[Any, ...]:
    return line.get_color(), line.get_linestyle(), line._unscaled_dash_pattern, line.get_marker(), line.get_linewidth()


def legends(figure: Figure) -> list[Legend]:
    return [*figure.legends, *(ax.get_legend() for ax in figure.axes if ax.get_legend())]


def texts(legend: Legend) -> list[str]:
    return [text.get_text() for text in legend.get_texts()]


def visible_boxes(figure: Figure) -> list[tuple[str, Any]]:
    """Titles, axis and tick labels and legends that are drawn, with their boxes in pixels."""
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw_without_rendering()
    drawn: list[Text] = []
    for ax in figure.axes:
        drawn += [ax.title, ax.xaxis.label, ax.yaxis.label]
        for axis, limits in ((ax.xaxis, ax.get_xlim()), (ax.yaxis, ax.get_ylim())):
            drawn += [tick.label1 for tick in axis.get_major_ticks() if limits[0] <= tick.get_loc() <= limits[1]]
    boxes = [(text.get_text(), text.get_window_extent(renderer)) for text in drawn if text.get_text()]
    return boxes + [("legend", legend.get_window_extent(renderer)) for legend in legends(figure)]


# Lines


def test_a_panel_shows_its_curves_and_labels() -> None:
    metrics = [panel(NAMES[:4]), panel(NAMES[:2], title="Size", x_label="size (%)", y_label="words (%)")]
    figure = plot_curves(metrics)
    for ax, metric in zip(figure.axes, metrics, strict=True):
        assert (ax.get_title(), ax.get_xlabel(), ax.get_ylabel()) == (metric.title, metric.x_label, metric.y_label)
        for name, line in lines(ax, metric).items():
            np.testing.assert_array_equal(line.get_xydata(), np.stack([STEPS, metric.curves[name]], axis=1))


@pytest.mark.parametrize(("y_range", "low", "high"), [((0, 100), 0, 100), ((0, 10), 0, 10), (None, -3, 250)])
def test_the_y_axis_shows_its_range_and_little_more(y_range: Any, low: float, high: float) -> None:
    ends = plot_curves([panel(["a"], curves={"a": np.linspace(-3, 250, 21)}, y_range=y_range)]).axes[0].get_ylim()
    room = 0.06 * (high - low)
    assert low - room < ends[0] < low < high < ends[1] < high + room


def test_methods_look_alike_in_all_panels() -> None:
    metrics = [panel(NAMES[5:8]), panel(NAMES[9:2:-1]), panel(["spes", *NAMES[3:10]])]
    figure = plot_curves(metrics)
    looks: dict[str, set[tuple[Any, ...]]] = {}
    for ax, metric in zip(figure.axes, metrics, strict=True):
        for name, line in lines(ax, metric).items():
            looks.setdefault(name, set()).add(look(line))
    assert {len(seen) for seen in looks.values()} == {1}
    assert len(set.union(*looks.values())) == len(looks) == 8
    assert texts(figure.legends[0]) == [*NAMES[5:8], *NAMES[9:7:-1], *NAMES[4:2:-1], "spes"]
    for name, handle in zip(texts(figure.legends[0]), figure.legends[0].legend_handles, strict=True):
        assert look(handle) == next(iter(looks[name]))


def test_methods_are_told_apart_by_colour_and_dashes_and_without_colour() -> None:
    metric = panel(NAMES[:22])
    looks = [look(line) for line in plot_curves([metric]).axes[0].get_lines()]
    assert len({(color, dashes) for color, _, dashes, _, _ in looks}) == 22
    assert len({(dashes, marker) for _, _, dashes, marker, _ in looks}) == 22


def test_controls_are_grey_and_spes_stands_out() -> None:
    metric = panel(["method", "Energy", "SPES", "spes_grid", "random", "randomised"], band=True)
    drawn = lines(plot_curves([metric]).axes[0], metric)
    greys = [name for name, line in drawn.items() if len(set(to_rgb(line.get_color()))) == 1]
    assert greys == ["Energy", "random"]
    assert all(drawn[name].get_linestyle() != "-" for name in greys)
    assert look(drawn["Energy"]) != look(drawn["random"])
    others = [line for name, line in drawn.items() if name != "SPES"]
    assert drawn["SPES"].get_linewidth() > 1.5 * max(line.get_linewidth() for line in others)
    assert drawn["SPES"].get_zorder() > max(line.get_zorder() for line in others)
    alone = plot_curves([panel(["spes"])]).axes[0].get_lines()[0]
    assert look(alone) == look(drawn["SPES"])


def test_a_line_has_few_markers_and_they_are_shifted() -> None:
    places = [set(line.get_markevery()) for line in plot_curves([panel(NAMES[3:8])]).axes[0].get_lines()]
    assert all(1 < len(place) <= 6 for place in places)
    assert not set.intersection(*places)


# Bands and gaps


@pytest.mark.parametrize(("n_methods", "is_faint"), [(4, False), (5, True), (16, True)])
def test_bands_are_shaded_beneath_the_lines_and_faint_among_many(n_methods: int, is_faint: bool) -> None:
    metric = panel(NAMES[3 : 3 + n_methods], band=True)
    ax = plot_curves([metric]).axes[0]
    shades = [shade for shade in ax.collections if shade.get_paths() and len(shade.get_paths()[0].vertices) > 2]
    assert len(shades) == n_methods
    for shade, (name, line) in zip(shades, lines(ax, metric).items(), strict=True):
        low, high = metric.bands[name]
        box = shade.get_paths()[0].get_extents()
        assert (box.ymin, box.ymax) == pytest.approx((low.min(), high.max()))
        assert to_hex(shade.get_facecolor()[0]) == to_hex(line.get_color())
        assert shade.get_zorder() < min(other.get_zorder() for other in ax.get_lines())
        assert (shade.get_alpha() < 0.1) == is_faint


def test_nan_is_a_gap_of_curve_and_band() -> None:
    values = np.array([0, 10, np.nan, 30, np.nan, 50, 60])
    band = np.stack([values - 1, values + 1])
    band[:, 2] = 20, 22  # of no curve
    metric = CurvePanel("Deletion", "x", "y", range(7), {"method": values}, {"method": band})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure = plot_curves([metric])
        FigureCanvasAgg(figure).draw()
    (line,) = figure.axes[0].get_lines()
    np.testing.assert_array_equal(line.get_ydata(), values)
    assert 3 in line.get_markevery()  # no line would show it
    shade, lone = figure.axes[0].collections
    covered = np.concatenate([path.vertices[:, 0] for path in shade.get_paths()])
    assert not set(covered) & {2, 4}
    np.testing.assert_array_equal([segment.tolist() for segment in lone.get_segments()], [[[3, 29], [3, 31]]])


@pytest.mark.parametrize("auc", [{}, {"spes": 90.0}])
def test_a_single_step_of_each_method_is_seen(auc: dict[str, float]) -> None:
    curves = {name: [10.0 * number] for number, name in enumerate(NAMES[:5])}
    figure = plot_curves([CurvePanel("Deletion", "x", "y", [50], curves, {"spes": [[0], [5]]}, auc=auc)])
    FigureCanvasAgg(figure).draw()
    assert [list(line.get_markevery()) for line in figure.axes[0].get_lines()] == [[0]] * 5
    assert len({line.get_marker() for line in figure.axes[0].get_lines()}) == 5
    assert list(figure.axes[0].get_xticks()) == [50]


def test_a_curve_of_gaps_is_in_the_legend() -> None:
    figure = plot_curves([panel(["a", "b"], curves={"a": STEPS, "b": STEPS * np.nan}, y_range=None)])
    FigureCanvasAgg(figure).draw()
    assert texts(figure.legends[0]) == ["a", "b"]


# Legends


def test_without_areas_there_is_one_legend() -> None:
    figure = plot_curves([panel(NAMES[:3]), panel(NAMES[:5])])
    assert [texts(legend) for legend in legends(figure)] == [NAMES[:5]]


def test_with_areas_each_panel_has_its_legend_in_the_order_of_its_curves() -> None:
    metrics = [panel(["b", "spes", "a"], auc={"a": 92.46, "b": 5}), panel(["a"], auc={"a": 0.4567}), panel(["a", "b"])]
    figure = plot_curves(metrics)
    assert not figure.legends
    drawn = [texts(ax.get_legend()) for ax in figure.axes]
    assert drawn == [["b  5.0", "spes", "a  92.5"], ["a  0.457"], ["a", "b"]]
    for ax in figure.axes:
        handles = [look(handle) for handle in ax.get_legend().legend_handles]
        assert handles == [look(line) for line in ax.get_lines()]


@pytest.mark.parametrize("area", [False, True])
@pytest.mark.parametrize("n_panels", [1, 3, 4])
@pytest.mark.parametrize(
    "names",
    [NAMES[:1], NAMES[:4], NAMES[:14], NAMES[:22], ["spes", SENTENCE, *(f"{SENTENCE[:30]} {n}" for n in "abc")]],
)
def test_texts_and_legends_hide_nothing(names: list[str], n_panels: int, area: bool) -> None:
    label = SENTENCE[:70] if len(names) == 5 else "WER (%)"
    figure = plot_curves([panel(names, area, title=label, x_label=label, y_label=label)] * n_panels)
    boxes = visible_boxes(figure)
    pairs = itertools.combinations(boxes, 2)
    assert not [(a, b) for (a, one), (b, other) in pairs if one.padded(-0.5).overlaps(other.padded(-0.5))]
    for text, box in boxes:
        assert figure.bbox.padded(1).count_contains([(box.x0, box.y0), (box.x1, box.y1)]) == 2, text
    frames = [ax.get_window_extent() for ax in figure.axes]
    assert not [text for text, box in boxes for frame in frames if box.padded(-1).overlaps(frame)]
    # all panels of one size, and none squeezed by its texts
    sizes = np.array([frame.size for frame in frames]) / figure.dpi
    assert np.ptp(sizes, axis=0) == pytest.approx([0, 0], abs=1e-6)
    assert (sizes[0] >= [2.6, 1.9]).all()


@pytest.mark.parametrize(("n_panels", "n_rows", "n_columns"), [(1, 1, 1), (3, 1, 3), (4, 2, 2), (5, 2, 3), (7, 3, 3)])
def test_at_most_three_panels_are_in_a_row(n_panels: int, n_rows: int, n_columns: int) -> None:
    figure = plot_curves([panel(NAMES[:2])] * n_panels)
    assert figure.axes[0].get_gridspec().get_geometry() == (n_rows, n_columns)
    width, height = figure.get_size_inches()
    assert 4 * n_columns <= width <= 4.4 * n_columns
    assert 3.2 * n_rows <= height <= 3.2 * n_rows + 0.5


def test_many_methods_take_a_compact_legend() -> None:
    one, many = (plot_curves([panel(NAMES[:n], area=True)] * 3).get_size_inches()[1] for n in (1, 14))
    assert many - one < 1.2


def test_names_too_long_are_cut_before_their_area() -> None:
    shown = texts(plot_curves([panel([SENTENCE, "b"], auc={SENTENCE: 92.5})]).axes[0].get_legend())
    assert shown[0].startswith("And Mr. John")
    assert shown[0].endswith("…  92.5")
    assert shown[1] == "b"


def test_odd_names_are_drawn_as_they_are() -> None:
    odd = ["$5_a$", r"$\frac$", "_hidden", "", "a\nb", "%"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure = plot_curves([panel(odd, title="$5_a$", x_label="", y_label="_")])
        FigureCanvasAgg(figure).draw()
    assert texts(figure.legends[0]) == ["$5_a$", r"$\frac$", "_hidden", "(empty)", "a↵b", "%"]
    ax = figure.axes[0]
    assert (ax.get_title(), ax.get_xlabel(), ax.get_ylabel()) == ("$5_a$", "", "_")


def test_characters_without_a_font_are_said_once() -> None:
    unknown = "\U0010abcd"  # of private use
    with pytest.warns(UserWarning, match="no font has") as caught:
        FigureCanvasAgg(plot_curves([panel([unknown], title=unknown)])).draw()
    assert len(caught) == 1
    assert caught[0].filename == __file__.replace(".pyc", ".py")


# What comes in


def test_the_figure_is_unknown_to_pyplot() -> None:
    from matplotlib import pyplot

    pyplot.close("all")
    plot_curves([panel(NAMES[:2])])
    assert pyplot.get_fignums() == []


def test_no_panel_is_refused() -> None:
    with pytest.raises(ValueError, match=r"there is no panel to draw"):
        plot_curves([])


A = {"a": STEPS}
HIGH = np.where(STEPS == 5, np.inf, STEPS)
GAP = np.where(STEPS == 5, np.nan, STEPS)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"curves": {}}, "there is no curve"),
        ({"steps": []}, "steps must be finite and rise"),
        ({"steps": STEPS[None]}, "steps must be finite and rise"),
        ({"steps": STEPS[::-1]}, "steps must be finite and rise"),
        ({"steps": np.minimum(STEPS, 95)}, "steps must be finite and rise"),
        ({"steps": GAP}, "steps must be finite and rise"),
        ({"curves": {"a": STEPS[1:]}}, r"the curve of 'a' must be of shape \(21,\), as the steps, not \(20,\)"),
        ({"curves": {**A, "b": STEPS[None]}}, r"the curve of 'b' must be of shape \(21,\), .* not \(1, 21\)"),
        ({"curves": {"a": HIGH}}, "the curve of 'a' must be finite, or NaN for a gap"),
        ({"bands": {"a": STEPS}}, r"the band of 'a' must be of shape \(2, 21\), as the steps, not \(21,\)"),
        ({"bands": {"a": [STEPS, HIGH]}}, "the band of 'a' must be finite where the curve is"),
        ({"bands": {"a": [GAP, STEPS]}}, "the band of 'a' must be finite where the curve is"),
        ({"bands": {"a": [STEPS + 1, STEPS]}}, "the lower ends of the band of 'a' must come first"),
        ({"bands": {"b": [STEPS, STEPS]}}, "'b' has a band, but no curve"),
        ({"auc": {"b": 1.0}}, "'b' has an area, but no curve"),
        ({"auc": {"a": np.nan}}, "areas must be finite"),
        ({"y_range": (100, 0)}, r"y_range must be two numbers, the smaller first, not \(100, 0\)"),
    ],
)
def test_what_does_not_fit_is_refused(changed: dict[str, Any], message: str) -> None:
    refused = replace(CurvePanel("Insertion", "x", "y", STEPS, A), **changed)
    with pytest.raises(ValueError, match=f"^panel 'Insertion': {message}"):
        plot_curves([panel(NAMES[:2]), refused])
