"""The figure that compares methods: scale, labels and positions of texts. Ranks are compared with SciPy."""

from __future__ import annotations

import itertools
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from scipy.stats import percentileofscore
from test_visualization import FREQUENCIES, C, spectrogram, visible_texts
from torch import Tensor

from captum_spes.maps import percentile_ranks
from captum_spes.visualization import plot_comparison

SENTENCE = "And Mr. John Dashwood had then leisure to consider how much there might be prudently in his power to do."
LONG_NAME = "NoiseTunnel over Integrated Gradients"


def draw(maps: Tensor, methods: list[str] | None = None, titles: list[str] | None = None, **kwargs: Any) -> Figure:
    methods = [f"method{m}" for m in range(len(maps))] if methods is None else methods
    titles = [f" word{k}" for k in range(maps.shape[1])] if titles is None else titles
    return plot_comparison(maps, spectrogram(maps.shape[2]), 100, FREQUENCIES, methods, titles, **kwargs)


def panels(figure: Figure, n_methods: int) -> np.ndarray:
    """The panels as a table; the last of the axes is the colour bar."""
    return np.array(figure.axes[:-1]).reshape(n_methods, -1)


def names(figure: Figure, n_methods: int) -> list[str]:
    return [ax.texts[0].get_text() for ax in panels(figure, n_methods)[:, 0]]


# Panels


def test_panels_show_their_maps_on_one_colour_scale() -> None:
    maps = torch.rand(3, 4, 30, C) * torch.linspace(0.1, 1, 3)[:, None, None, None]
    figure = draw(maps)
    table = panels(figure, 3)
    assert table.shape == (3, 4)
    overlays = [ax.images[-1] for ax in table.flat]
    for overlay, values in zip(overlays, maps.flatten(0, 1), strict=True):
        np.testing.assert_array_equal(overlay.get_array(), values.T)
    assert all(o.norm is overlays[0].norm and o.cmap == overlays[0].cmap for o in overlays)
    assert overlays[0].get_clim() == (0, 1)
    greys = [ax.images[0] for ax in table.flat]
    assert len({(grey.get_clim(), grey.cmap.name) for grey in greys}) == 1
    np.testing.assert_array_equal(greys[-1].get_array(), spectrogram(30).T)
    assert "0–1" in figure.axes[-1].get_xlabel()


def test_maps_of_both_signs_lie_around_zero() -> None:
    maps = torch.rand(2, 2, 30, C)
    maps[1, 1, 3, 4] = -7
    overlays = [ax.images[-1] for ax in panels(draw(maps), 2).flat]
    assert {overlay.get_clim() for overlay in overlays} == {(-7, 7)}


@pytest.mark.parametrize(
    ("value_range", "extend"), [((0, 1), "neither"), ((0.5, 1), "min"), ((0, 0.5), "max"), ((0.4, 0.6), "both")]
)
def test_the_colour_bar_says_where_values_go_on(value_range: tuple[float, float], extend: str) -> None:
    overlay = panels(draw(torch.rand(2, 1, 30, C), value_range=value_range), 2)[-1, -1].images[-1]
    assert overlay.colorbar.extend == extend


# Labels


def test_rows_are_named_and_columns_titled() -> None:
    figure = draw(torch.rand(2, 3, 200, C), ["SPES", "Lime"], [" So", " what", "?"])
    assert names(figure, 2) == ["SPES", "Lime"]
    table = panels(figure, 2)
    assert [ax.get_title() for ax in table[0]] == ["So", "what", "?"]
    assert not any(ax.get_title() for ax in table[1])
    boxes = dict(visible_texts(figure))
    for ax, name in zip(table[:, 0], ["SPES", "Lime"], strict=True):
        picture = ax.get_window_extent()
        assert boxes[name].x1 < picture.x0
        assert (boxes[name].y0 + boxes[name].y1) / 2 == pytest.approx((picture.y0 + picture.y1) / 2, abs=3)
    assert boxes["SPES"].x0 == pytest.approx(boxes["Lime"].x0, abs=1.5)


@pytest.mark.parametrize(("n_maps", "n_columns"), [(4, 4), (13, 7)])
def test_axes_are_labelled_at_the_outer_panels_only(n_maps: int, n_columns: int) -> None:
    figure = draw(torch.rand(3, n_maps, 200, C))
    figure.draw_without_rendering()
    for (row, column), ax in np.ndenumerate(panels(figure, 3)):
        assert bool(ax.get_xlabel()) == any(tick.label1.get_visible() for tick in ax.xaxis.get_major_ticks())
        assert bool(ax.get_xlabel()) == (row == 2)
        assert bool(ax.get_ylabel()) == any(tick.label1.get_visible() for tick in ax.yaxis.get_major_ticks())
        assert bool(ax.get_ylabel()) == bool(ax.texts) == (column % n_columns == 0)
        assert bool(ax.get_title()) == (row == 0)


def test_many_words_go_on_in_a_band_beneath() -> None:
    figure = draw(torch.rand(2, 13, 200, C))
    table = panels(figure, 2)
    figure.draw_without_rendering()
    boxes = np.vectorize(lambda ax: ax.get_window_extent(), otypes=[object])(table)
    for (_, word), box in np.ndenumerate(boxes):
        assert box.x0 == pytest.approx(boxes[0, word % 7].x0)
    assert all(box.y0 == pytest.approx(boxes[1, 0].y0) for box in boxes[1, :7])
    assert all(box.y1 < boxes[1, 0].y0 for box in boxes[0, 7:])
    assert [ax.get_title() for ax in table[0]] == [f"word{k}" for k in range(13)]
    assert [ax.texts[0].get_text() for ax in table[:, [0, 7]].flat] == ["method0"] * 2 + ["method1"] * 2


@pytest.mark.parametrize(
    ("n_methods", "n_maps", "n_frames"),
    [
        *((1, 1, 200), (10, 1, 700), (2, 3, 30), (4, 2, 90), (2, 13, 90)),
        *(pytest.param(*sizes, marks=pytest.mark.slow) for sizes in ((10, 8, 200), (3, 20, 700))),
    ],
)
def test_texts_do_not_overlap(n_methods: int, n_maps: int, n_frames: int) -> None:
    figure = draw(torch.rand(n_methods, n_maps, n_frames, C), [LONG_NAME] * n_methods, [SENTENCE] * n_maps)
    boxes = visible_texts(figure)
    pairs = itertools.combinations(boxes, 2)
    assert not [(a, b) for (a, one), (b, other) in pairs if one.padded(-0.5).overlaps(other.padded(-0.5))]
    for text, box in boxes:
        assert figure.bbox.padded(1).count_contains([(box.x0, box.y0), (box.x1, box.y1)]) == 2, text
    pictures = [ax.get_window_extent() for ax in figure.axes[:-1]]
    assert not [text for text, box in boxes for picture in pictures if box.padded(-1).overlaps(picture)]
    assert names(figure, n_methods)[0].split() == LONG_NAME.split()
    # all panels of one size, and none squeezed by the labels
    sizes = np.array([picture.size for picture in pictures]) / figure.dpi
    assert np.ptp(sizes, axis=0) == pytest.approx([0, 0], abs=1e-6)
    assert (sizes[0] >= [0.9, 0.5]).all()


@pytest.mark.parametrize(("n_methods", "n_maps", "n_frames"), [(10, 8, 200), (10, 8, 700), (10, 1, 700), (1, 1, 3000)])
def test_figures_fit_a_page(n_methods: int, n_maps: int, n_frames: int) -> None:
    width, height = draw(torch.zeros(n_methods, n_maps, n_frames, C)).get_size_inches()
    assert 6 <= width <= 15
    assert 3 <= height <= 14


def test_one_sentence_has_the_width_for_itself() -> None:
    figure = draw(torch.rand(2, 1, 700, C), titles=[SENTENCE * 2])
    title = panels(figure, 2)[0, 0].get_title()
    assert "\n" in title
    assert "".join(title.split()) == "".join((SENTENCE * 2).split())
    figure.draw_without_rendering()
    assert panels(figure, 2)[0, 0].get_window_extent().width / figure.bbox.width > 0.75


def test_names_too_long_for_their_row_are_cut() -> None:
    assert names(draw(torch.rand(2, 2, 30, C), methods=[SENTENCE * 3, "SPES"]), 2)[0].endswith("…")


def test_odd_characters_are_drawn_as_they_are() -> None:
    odd = ["$5_a$", r"$\frac$", "", " ", "a\nb", "%"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure = draw(torch.rand(6, 6, 30, C), odd, odd)
        FigureCanvasAgg(figure).draw()
    assert names(figure, 6) == ["$5_a$", r"$\frac$", "(empty)", "␣", "a↵b", "%"]


def test_characters_without_a_font_are_said_once() -> None:
    unknown = "\U0010abcd"  # of private use
    with pytest.warns(UserWarning, match="no font has") as caught:
        FigureCanvasAgg(draw(torch.rand(1, 2, 30, C), [unknown], [unknown, "a"])).draw()
    assert len(caught) == 1
    assert caught[0].filename == __file__.replace(".pyc", ".py")


# What comes in


def test_the_figure_is_unknown_to_pyplot() -> None:
    from matplotlib import pyplot

    pyplot.close("all")
    draw(torch.rand(2, 2, 30, C))
    assert pyplot.get_fignums() == []


def test_tensors_of_other_kinds_are_drawn_and_left_alone() -> None:
    maps = torch.rand(2, 2, 30, C, dtype=torch.float64, requires_grad=True)
    before = maps.detach().clone()
    draw(maps)
    draw(maps.bfloat16())
    assert not percentile_ranks(maps).requires_grad
    assert torch.equal(maps, before)


@pytest.mark.parametrize("value", [0.0, -3.0])
def test_constant_maps_are_drawn(value: float) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        draw(torch.full((2, 2, 30, C), value)).draw_without_rendering()


MAPS = torch.rand(2, 3, 30, C)


@pytest.mark.parametrize(
    ("maps", "methods", "titles", "value_range", "message"),
    [
        (MAPS.mT, "ab", "xyz", None, r"attributions must be of shape \(2, 3, 30, 80\), not \(2, 3, 80, 30\)"),
        (MAPS[0], "a", "xyz", None, r"attributions must be of shape \(1, 3, 30, 80\), not \(3, 30, 80\)"),
        (MAPS, "abc", "xyz", None, r"attributions must be of shape \(3, 3, 30, 80\), not \(2, 3, 30, 80\)"),
        (MAPS, "ab", "xy", None, r"attributions must be of shape \(2, 2, 30, 80\), not \(2, 3, 30, 80\)"),
        (MAPS[:0], "", "xyz", None, "give at least one method and one map: there are 0 methods and 3 titles"),
        (MAPS[:, :0], "ab", "", None, "give at least one method and one map: there are 2 methods and 0 titles"),
        (MAPS * torch.nan, "ab", "xyz", None, "attributions must be finite"),
        (MAPS / 0, "ab", "xyz", None, "attributions must be finite"),
        (MAPS, "ab", "xyz", (1, 0), "value_range must be two numbers"),
    ],
)
def test_what_does_not_fit_is_refused(
    maps: Tensor, methods: str, titles: str, value_range: tuple[float, float] | None, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        plot_comparison(maps, spectrogram(30), 100, FREQUENCIES, list(methods), list(titles), value_range=value_range)


# Ranks


def test_ranks_agree_with_the_definition() -> None:
    maps = torch.randint(-3, 4, (2, 3, 5, 4), generator=torch.Generator().manual_seed(0)).float()
    ranks = percentile_ranks(maps)
    assert ranks.shape == maps.shape
    for index in np.ndindex(2, 3):
        values = maps[index].flatten().numpy()
        expected = percentileofscore(values, values, kind="mean")
        np.testing.assert_allclose(ranks[index].flatten(), expected, rtol=1e-6)


def test_ranks_of_few_maps_are_those_of_each() -> None:
    maps = torch.randn(2, 3, 5, 4)
    assert torch.equal(percentile_ranks(maps)[1, 2], percentile_ranks(maps[1, 2]))


def test_ranks_know_only_the_order() -> None:
    maps = torch.randn(3, 20, C, dtype=torch.float64)
    assert torch.equal(percentile_ranks(maps.exp() * 100), percentile_ranks(maps))
    torch.testing.assert_close(percentile_ranks(-maps), 100 - percentile_ranks(maps))


def test_ranks_of_a_constant_map_are_the_middle() -> None:
    assert torch.equal(percentile_ranks(torch.full((2, 3), 7.0)), torch.full((2, 3), 50.0))


@pytest.mark.parametrize(
    ("maps", "message"),
    [(torch.tensor([[0.0, torch.nan]]), "must be finite"), (torch.rand(4), r"maps of shape \(…, T, C\), not \(4,\)")],
)
def test_what_has_no_rank_is_refused(maps: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        percentile_ranks(maps)
