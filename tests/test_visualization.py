"""Figures of attributions: scales, labels, masks, borders, and positions of texts."""

from __future__ import annotations

import itertools
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.text import Text
from torch import Tensor

from captum_spes.visualization import (
    _text,
    plot_attributions,
    plot_segmentation,
    plot_spectrogram,
    plot_token_attributions,
)
from captum_spes.visualization._text import clean, text_width, wrap

C = 80
# 100 Hz a channel: channel c is centred at 100 * (c + 1) Hz
FREQUENCIES = 100.0 * torch.arange(1, C + 1)
# of private use: no font has it
UNKNOWN = "\U0010abcd"
ODD_TOKENS = [
    " $5_a$",
    "$x",
    "a_b^c",
    r"$\frac$",
    "<|endoftext|>",
    "",
    " ",
    "\n\t",
    "\x00",
    "\ud800",
    "é",
    "مرحبا",
    "%",
]
SENTENCE = " And Mr. John Dashwood had then leisure to consider how much there might be prudently in his power to do."


def spectrogram(n_frames: int = 50) -> Tensor:
    return torch.rand(n_frames, C, generator=torch.Generator().manual_seed(0))


def draw_maps(maps: Tensor, titles: list[str] | None = None, **kwargs: Any) -> Figure:
    titles = [f" token{k}" for k in range(len(maps))] if titles is None else titles
    return plot_attributions(maps, spectrogram(maps.shape[1]), 100, FREQUENCIES, titles, **kwargs)


def draw_matrix(n_rows: int, n_columns: int, **kwargs: Any) -> Figure:
    rows, columns = [f" row{k}" for k in range(n_rows)], [f"column{k}" for k in range(n_columns)]
    return plot_token_attributions(torch.rand(n_rows, n_columns), rows, columns, causal(n_rows, n_columns), **kwargs)


def causal(n_rows: int, n_columns: int) -> Tensor:
    return torch.ones(n_rows, n_columns).tril(n_columns - n_rows).bool()


def visible_texts(figure: Figure) -> list[tuple[str, Any]]:
    """Titles, axis and tick labels that are drawn, with their boxes in pixels."""
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw_without_rendering()
    texts: list[Text] = []
    for ax in figure.axes:
        texts += [ax.title, ax.xaxis.label, ax.yaxis.label, *ax.texts]
        for axis, limits in ((ax.xaxis, ax.get_xlim()), (ax.yaxis, ax.get_ylim())):
            low, high = sorted(limits)
            texts += [tick.label1 for tick in axis.get_major_ticks() if low - 1e-9 <= tick.get_loc() <= high + 1e-9]
    drawn = [text for text in texts if text.get_visible() and text.get_text()]
    return [(text.get_text(), text.get_window_extent(renderer)) for text in drawn]


def overlapping(boxes: list[tuple[str, Any]]) -> list[tuple[str, str]]:
    """Pairs of texts that share more than the pixel at their edge."""
    pairs = itertools.combinations(boxes, 2)
    return [(a, b) for (a, first), (b, second) in pairs if first.padded(-0.5).overlaps(second.padded(-0.5))]


def panels(figure: Figure) -> list[Any]:
    return figure.axes[:-1]  # the last is the colour bar


# Axes of a spectrogram


def test_frequencies_lie_at_their_channels_and_seconds_at_their_frames() -> None:
    ax = panels(plot_spectrogram(spectrogram(250), 125, FREQUENCIES))[0]
    ticks = {label.get_text(): float(y) for y, label in zip(ax.get_yticks(), ax.get_yticklabels(), strict=True)}
    assert {"1", "2", "4", "8"} <= set(ticks)
    for label, channel in ticks.items():
        assert channel == pytest.approx(float(label) * 10 - 1, abs=1e-4)
    assert ax.get_xlim() == (0, 2.0)
    assert ax.get_ylim() == (-0.5, C - 0.5)


def test_frequencies_out_of_range_are_not_labelled() -> None:
    ax = panels(plot_spectrogram(spectrogram(), 100, torch.linspace(400, 3000, C)))[0]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["0.5", "1", "2"]


def test_a_range_without_round_frequencies_is_labelled_at_its_ends() -> None:
    ax = panels(plot_spectrogram(spectrogram(), 100, torch.linspace(5000, 7000, C)))[0]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["5", "7"]


def test_the_spectrogram_is_drawn_with_frequency_upwards() -> None:
    values = spectrogram()
    image = panels(plot_spectrogram(values, 100, FREQUENCIES))[0].images[0]
    np.testing.assert_array_equal(image.get_array(), values.T)
    assert image.origin == "lower"


@pytest.mark.parametrize("n_channels", [1, 2, 4])
def test_few_channels(n_channels: int) -> None:
    figure = plot_spectrogram(torch.rand(1, n_channels), 100, torch.linspace(100, 7000, n_channels))
    assert not overlapping(visible_texts(figure))


# Maps


@pytest.mark.parametrize("n_maps", [1, 5, 8, 27])
def test_one_panel_a_map_on_one_colour_scale(n_maps: int) -> None:
    maps = torch.rand(n_maps, 30, C) * torch.linspace(0.1, 1, n_maps)[:, None, None]
    figure = draw_maps(maps)
    assert len(panels(figure)) == n_maps
    overlays = [ax.images[-1] for ax in panels(figure)]
    for overlay, values in zip(overlays, maps, strict=True):
        np.testing.assert_array_equal(overlay.get_array(), values.T)
    assert all(o.norm is overlays[0].norm and o.cmap == overlays[0].cmap for o in overlays)
    assert overlays[0].get_clim() == (0, 1)
    assert "0–1" in figure.axes[-1].get_xlabel()


@pytest.mark.parametrize(
    ("low", "high", "expected", "words"),
    [
        (0.0, 1.0, (0, 1), "normalised to 0–1"),
        (0.2, 0.3, (0, 1), "normalised to 0–1"),
        (-1e-8, 1 + 1e-8, (0, 1), "normalised to 0–1"),
        (0.0, 4.0, (0, 4), "not normalised"),
        (-1.0, 3.0, (-3, 3), "both signs"),
        (-5.0, 0.5, (-5, 5), "both signs"),
    ],
)
def test_the_colours_range(low: float, high: float, expected: tuple[float, float], words: str) -> None:
    maps = torch.full((2, 30, C), (low + high) / 2)
    maps[0, 0, 0], maps[1, 1, 1] = low, high
    figure = draw_maps(maps)
    assert panels(figure)[0].images[-1].get_clim() == pytest.approx(expected)
    assert words in figure.axes[-1].get_xlabel().replace("\n", " ")


def test_opacity_grows_with_the_value() -> None:
    image = panels(draw_maps(torch.rand(1, 30, C)))[0].images[-1]
    alpha = image.to_rgba(np.linspace(0, 1, 50))[:, 3]
    assert alpha[0] == 0
    assert alpha[-1] < 1
    assert (np.diff(alpha) > 0).all()
    signed = panels(draw_maps(torch.rand(1, 30, C) - 0.5))[0].images[-1]
    low, high = signed.get_clim()
    np.testing.assert_allclose(signed.to_rgba([low, 0, high])[:, 3], [alpha[-1], 0, alpha[-1]], atol=0.01)


def test_lightness_falls_with_the_value() -> None:
    # so that colour-blind readers and grey prints keep the order
    image = draw_matrix(3, 3).axes[0].images[0]
    rgb = image.to_rgba(np.linspace(0, 1, 50))[:, :3]
    assert (np.diff(rgb @ [0.2126, 0.7152, 0.0722]) < 0).all()


@pytest.mark.parametrize(
    ("n_maps", "n_frames"), [(5, 30), (5, 700), (8, 200), pytest.param(30, 200, marks=pytest.mark.slow)]
)
def test_texts_of_panels_do_not_overlap(n_maps: int, n_frames: int) -> None:
    figure = draw_maps(torch.rand(n_maps, n_frames, C), titles=[SENTENCE] * n_maps)
    boxes = visible_texts(figure)
    assert not overlapping(boxes)
    for text, box in boxes:
        assert figure.bbox.padded(1).count_contains([(box.x0, box.y0), (box.x1, box.y1)]) == 2, text
    pictures = [ax.get_window_extent() for ax in panels(figure)]
    assert not [text for text, box in boxes for picture in pictures if box.padded(-1).overlaps(picture)]


def test_axes_are_labelled_at_the_outer_panels_only() -> None:
    figure = draw_maps(torch.rand(8, 200, C))
    shapes = [ax.get_subplotspec() for ax in panels(figure)]
    n_columns = shapes[0].get_gridspec().ncols
    for index, ax in enumerate(panels(figure)):
        assert bool(ax.get_ylabel()) == (index % n_columns == 0)
        assert bool(ax.get_xlabel()) == (index + n_columns >= 8)


@pytest.mark.parametrize(("n_maps", "n_frames"), [(1, 30), (1, 3000), (40, 3000)])
def test_figures_fit_a_large_page(n_maps: int, n_frames: int) -> None:
    width, height = draw_maps(torch.zeros(n_maps, n_frames, C)).get_size_inches()
    assert 4 <= width <= 16
    assert 3 <= height <= 20


def test_a_single_title_runs_over_several_lines() -> None:
    figure = draw_maps(torch.rand(1, 30, C), titles=[SENTENCE * 2])
    title = panels(figure)[0].get_title()
    assert "\n" in title
    assert title.split() == (SENTENCE * 2).split()
    assert not overlapping(visible_texts(figure))


def test_titles_of_many_panels_are_cut_to_their_panel() -> None:
    figure = draw_maps(torch.rand(8, 30, C), titles=[SENTENCE] * 8)
    title = panels(figure)[0].get_title()
    assert title.endswith("…")
    assert SENTENCE.strip().startswith(title[:-1].strip())


# Text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (" So", "So"),
        ("posed", "posed"),
        ("<|endoftext|>", "<|endoftext|>"),
        ("$5_a$", "$5_a$"),
        ("a\nb", "a↵b"),
        ("a b", "a b"),
        ("", "(empty)"),
        ("  ", "␣"),
        ("\x00", "\\x00"),
        ("\ud83d", "\\ud83d"),
        ("می\u200cخواهم", "میخواهم"),
        ("☺\ufe0f", "☺"),
        ("\u200d", "\\u200d"),
        ("\u3000", "\\u3000"),
    ],
)
def test_labels_are_clean(text: str, expected: str) -> None:
    assert clean(text) == expected


def test_odd_characters_are_drawn_as_they_are() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure = draw_maps(torch.rand(len(ODD_TOKENS), 30, C), titles=ODD_TOKENS)
        FigureCanvasAgg(figure).draw()
        texts = [text for text, _ in visible_texts(figure)]
        mask = torch.ones(2, len(ODD_TOKENS), dtype=torch.bool)
        FigureCanvasAgg(plot_token_attributions(mask / 2, ODD_TOKENS[:2], ODD_TOKENS, mask)).draw()
    assert {"$5_a$", "$x", "a_b^c", r"$\frac$", "(empty)", "↵⇥", "%"} <= set(texts)


def test_characters_without_a_font_are_boxes_and_said_once() -> None:
    with pytest.warns(UserWarning, match="no font has") as caught:
        figure = draw_maps(torch.rand(2, 30, C), titles=[f"a{UNKNOWN}", UNKNOWN])
        FigureCanvasAgg(figure).draw()
    assert [ax.get_title() for ax in panels(figure)] == ["a□", "□"]
    assert len(caught) == 1
    assert caught[0].filename == __file__.replace(".pyc", ".py")


@pytest.mark.parametrize(
    ("character", "package"),
    [("次", "fonts-noto-cjk"), ("の", "fonts-noto-cjk"), ("ア", "fonts-noto-cjk"), ("말", "fonts-noto-cjk"),
     ("م", "fonts-noto-core"), ("😀", "fonts-symbola"), ("ᎣᏏ"[0], "fonts-noto"), (UNKNOWN, "")],
)  # fmt: skip
def test_the_package_of_a_missing_font(monkeypatch, character, package) -> None:
    monkeypatch.setattr(_text, "_drawable_characters", lambda characters: characters - {character})
    with pytest.warns(UserWarning, match=f"Install {package} " if package else "drawn instead. Name a font"):
        assert _text.clean_labels([character]) == ["□"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert _text.clean_labels([f"a{character}"]) == ["a□"]  # it was told


@pytest.mark.parametrize("text", [SENTENCE.strip(), "WWWW iiii " * 20, "w" * 200, "—" * 60])
def test_wrapped_lines_fit(text: str) -> None:
    lines = wrap(text, 2.0, 9, max_lines=30).split("\n")
    assert all(text_width(line, 9) <= 2.0 for line in lines)
    assert "".join("".join(lines).split()) == "".join(text.split())


def test_wrapping_says_where_it_cuts() -> None:
    assert wrap(SENTENCE * 20, 2.0, 9, max_lines=3).endswith("…")


# Tokens × previous tokens


def test_future_tokens_are_masked_and_hatched() -> None:
    mask = causal(4, 5)
    values = torch.rand(4, 5).masked_fill(~mask, torch.nan)  # what stands there is not looked at
    figure = plot_token_attributions(values, list("abcd"), list("vwxyz"), mask)
    ax: Any = figure.axes[0]
    drawn = ax.images[0].get_array()
    np.testing.assert_array_equal(np.ma.getmaskarray(drawn), ~mask.numpy())
    np.testing.assert_array_equal(drawn.compressed(), values[mask])
    assert ax.images[0].get_clim() == (0, 1)
    # blank, where a zero would be white and opaque
    assert ax.images[0].to_rgba(drawn)[0, -1, 3] == 0
    assert ax.images[0].to_rgba(np.zeros(1))[0, 3] == 1
    assert ax.patch.get_hatch()
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["written later: no feature"]


def test_without_future_tokens_there_is_no_legend_of_them() -> None:
    ones = torch.ones(2, 2, dtype=torch.bool)
    ax = plot_token_attributions(torch.rand(2, 2), ["a", "b"], ["c", "d"], ones).axes[0]
    assert ax.get_legend() is None
    assert not ax.patch.get_hatch()


def test_values_are_written_where_there_is_room() -> None:
    figure = plot_token_attributions(
        torch.tensor([[0.25, 9.0], [0.5, 1.0]]), ["a", "b"], ["c", "d"], torch.tensor([[True, False], [True, True]])
    )
    ax = figure.axes[0]
    assert {text.get_position(): text.get_text() for text in ax.texts} == {
        (0, 0): "0.25",
        (0, 1): "0.50",
        (1, 1): "1.00",
    }
    assert not draw_matrix(60, 62).axes[0].texts


@pytest.mark.parametrize(("n_rows", "n_columns"), [(1, 1), (1, 12), (5, 6), (40, 42)])
def test_labels_of_the_matrix(n_rows: int, n_columns: int) -> None:
    figure = draw_matrix(n_rows, n_columns)
    ax = figure.axes[0]
    assert [label.get_text() for label in ax.get_yticklabels()] == [f"row{k}" for k in range(n_rows)]
    assert [label.get_text() for label in ax.get_xticklabels()] == [f"column{k}" for k in range(n_columns)]
    assert "rows are explained by columns" in figure.axes[-1].get_xlabel().replace("\n", " ")
    boxes = visible_texts(figure)
    # boxes of slanted texts overlap where the texts do not
    assert not overlapping([(text, box) for text, box in boxes if not text.startswith("column")])
    for text, box in boxes:
        assert figure.bbox.padded(1).count_contains([(box.x0, box.y0), (box.x1, box.y1)]) == 2, text


def test_upright_column_labels_of_a_large_matrix_do_not_overlap() -> None:
    assert not overlapping([box for box in visible_texts(draw_matrix(3, 90)) if box[0].startswith("column")])


def test_a_row_that_is_a_sentence_keeps_all_its_words() -> None:
    figure = plot_token_attributions(torch.rand(1, 3), [SENTENCE], list("abc"), torch.ones(1, 3, dtype=torch.bool))
    label = figure.axes[0].get_yticklabels()[0].get_text()
    assert label.split() == SENTENCE.split()
    assert not overlapping(visible_texts(figure))


# Segmentation


def unit_edges(figure: Figure, frames_per_second: float) -> set[tuple[float, float, float, float]]:
    """The borders drawn, cut into pieces between neighbouring corners of bins (frame, channel, frame, channel)."""
    lines = next(c for c in figure.axes[1].collections if isinstance(c, LineCollection))
    edges = set()
    for (x0, y0), (x1, y1) in lines.get_segments():
        x0, x1, y0, y1 = x0 * frames_per_second, x1 * frames_per_second, y0 + 0.5, y1 + 0.5
        n = round(max(x1 - x0, y1 - y0))
        corners = [(round(x0 + (x1 - x0) * i / n), round(y0 + (y1 - y0) * i / n)) for i in range(n + 1)]
        edges |= {(*a, *b) for a, b in itertools.pairwise(corners)}
    return edges


def test_borders_lie_where_ids_change() -> None:
    ids = torch.randint(0, 3, (12, 7), generator=torch.Generator().manual_seed(0))
    figure = plot_segmentation(ids, torch.rand(12, 7), 50, torch.linspace(100, 4000, 7))
    expected = {(t + 1, c, t + 1, c + 1) for t in range(11) for c in range(7) if ids[t, c] != ids[t + 1, c]}
    expected |= {(t, c + 1, t + 1, c + 1) for t in range(12) for c in range(6) if ids[t, c] != ids[t, c + 1]}
    assert unit_edges(figure, 50) == expected


def test_one_patch_has_no_border() -> None:
    figure = plot_segmentation(torch.zeros(12, C, dtype=torch.int64), spectrogram(12), 100, FREQUENCIES)
    assert unit_edges(figure, 100) == set()
    assert figure.axes[1].get_title().startswith("1 patch,")


def test_patches_have_the_colour_of_their_mean() -> None:
    values = torch.tensor([[0.0, 2.0], [4.0, 5.0], [8.0, 6.0]])
    ids = torch.tensor([[7, 3], [7, 3], [7, -1]])  # ids need not be 0, 1, …
    figure = plot_segmentation(ids, values, 100, torch.tensor([100.0, 200.0]))
    upper, lower = panels(figure)
    np.testing.assert_allclose(upper.images[0].get_array(), values.T)
    np.testing.assert_allclose(lower.images[0].get_array(), np.array([[4, 4, 4], [3.5, 3.5, 6]]))
    assert upper.images[0].get_clim() == lower.images[0].get_clim() == (0, 8)
    assert lower.get_title().startswith("3 patches")


def test_texts_of_the_segmentation_do_not_overlap() -> None:
    figure = plot_segmentation(torch.arange(C).expand(200, C) // 20, spectrogram(200), 100, FREQUENCIES)
    assert not overlapping(visible_texts(figure))


# All of them


def test_figures_are_unknown_to_pyplot() -> None:
    from matplotlib import pyplot

    pyplot.close("all")
    plot_spectrogram(spectrogram(), 100, FREQUENCIES)
    plot_segmentation(torch.zeros(50, C, dtype=torch.int64), spectrogram(), 100, FREQUENCIES)
    draw_maps(torch.rand(3, 50, C))
    draw_matrix(3, 4)
    assert pyplot.get_fignums() == []


def test_tensors_of_other_kinds_are_drawn_and_left_alone() -> None:
    maps = torch.rand(1, 50, C, dtype=torch.bfloat16, requires_grad=True)
    values = torch.rand(50, C, dtype=torch.float64, requires_grad=True)
    before = values.detach().clone()
    plot_attributions(maps, values, 100, FREQUENCIES.half(), ["a"])
    plot_segmentation(torch.zeros(50, C, dtype=torch.int32), values, 100, FREQUENCIES)
    attributions = torch.rand(2, 2, requires_grad=True)
    kept = attributions.detach().clone()
    plot_token_attributions(attributions, ["a", "b"], ["c", "d"], torch.eye(2).bool())
    assert torch.equal(values, before)
    assert torch.equal(attributions, kept)


@pytest.mark.parametrize("value", [0.0, -3.0])
def test_constant_arrays_are_drawn(value: float) -> None:
    flat = torch.full((50, C), value)
    for figure in (
        plot_spectrogram(flat, 100, FREQUENCIES),
        plot_attributions(flat[None], flat, 100, FREQUENCIES, ["a"]),
        plot_segmentation(flat.long(), flat, 100, FREQUENCIES),
        plot_token_attributions(torch.full((1, 1), value), ["a"], ["b"], torch.tensor([[False]])),
    ):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            figure.draw_without_rendering()


SPECTROGRAM = spectrogram()
NAN = torch.full((50, C), torch.nan)
TRUE = torch.ones(2, 3, dtype=torch.bool)


@pytest.mark.parametrize(
    ("function", "arguments", "message"),
    [
        (plot_spectrogram, (SPECTROGRAM[None], 100, FREQUENCIES), r"the spectrogram must be of shape \(T, C\)"),
        (plot_spectrogram, (SPECTROGRAM[:0], 100, FREQUENCIES), r"the spectrogram must be of shape \(T, C\)"),
        (plot_spectrogram, (NAN, 100, FREQUENCIES), "the spectrogram must be finite"),
        (plot_spectrogram, (SPECTROGRAM.T, 100, FREQUENCIES), r"mel_frequencies must be of shape \(50,\), not \(80,\)"),
        (plot_spectrogram, (SPECTROGRAM, 100, FREQUENCIES.flip(0)), "mel_frequencies must rise"),
        (plot_spectrogram, (SPECTROGRAM, 0, FREQUENCIES), "frames_per_second must be positive, not 0"),
        (plot_spectrogram, (SPECTROGRAM, float("nan"), FREQUENCIES), "frames_per_second must be positive"),
        (
            plot_attributions,
            (torch.rand(2, C, 50), SPECTROGRAM, 100, FREQUENCIES, ["a", "b"]),
            r"attributions must be of shape \(2, 50, 80\), not \(2, 80, 50\)",
        ),
        (plot_attributions, (SPECTROGRAM, SPECTROGRAM, 100, FREQUENCIES, ["a"]), "attributions must be of shape"),
        (plot_attributions, (SPECTROGRAM[None], SPECTROGRAM, 100, FREQUENCIES, ["a", "b"]), "1 maps and 2 titles"),
        (plot_attributions, (torch.rand(0, 50, C), SPECTROGRAM, 100, FREQUENCIES, []), "give maps and a title"),
        (plot_attributions, (NAN[None], SPECTROGRAM, 100, FREQUENCIES, ["a"]), "attributions must be finite"),
        (
            plot_attributions,
            (SPECTROGRAM[None], SPECTROGRAM, 100, FREQUENCIES, ["a"], None, (1, 0)),
            "value_range must be two numbers",
        ),
        (
            plot_token_attributions,
            (torch.rand(3, 2), ["a", "b"], list("cde"), TRUE),
            r"attributions must be of shape \(2, 3\), not \(3, 2\)",
        ),
        (plot_token_attributions, (torch.rand(2, 3), ["a", "b"], list("cde"), TRUE.T), r"is_feature must be bool"),
        (plot_token_attributions, (torch.rand(2, 3), ["a", "b"], list("cde"), TRUE.int()), r"is_feature must be bool"),
        (plot_token_attributions, (NAN[:2, :3], ["a", "b"], list("cde"), TRUE), "attributions must be finite"),
        (plot_token_attributions, (torch.rand(1, 0), ["a"], [], TRUE[:1, :0]), "at least one token and one previous"),
        (plot_segmentation, (torch.zeros(50, C), SPECTROGRAM, 100, FREQUENCIES), "feature_mask must be integers"),
        (
            plot_segmentation,
            (torch.zeros(1, 50, C).long(), SPECTROGRAM, 100, FREQUENCIES),
            r"feature_mask must be integers of the spectrogram's shape \(50, 80\)",
        ),
    ],
)
def test_what_does_not_fit_is_refused(function: Any, arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        function(*arguments)
