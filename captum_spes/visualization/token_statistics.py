"""Figures of the analyses of plausibility: words in time, tokens by kurtosis, previous tokens, shares of the text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike
from torch import Tensor

from captum_spes.visualization._colors import Scale
from captum_spes.visualization._layout import (
    BAR_MARGIN,
    LABEL_SIZE,
    PAGE_WIDTH,
    SIDE_MARGIN,
    TICK_SIZE,
    add_caption,
    add_colorbar,
    checked_array,
    hatch,
    new_figure,
)
from captum_spes.visualization._text import clean_labels, shorten, text_width, token_text
from captum_spes.visualization.curves import COLORS, DASHES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LABEL_WIDTH = 1.6  # inches, width of a token's label
ROW_HEIGHT = 0.24  # inches, height of a row with a token's label
HEARD, GUESSED = "#E69F00", "#0072B2"
TOP, BOTTOM = "#0072B2", "#E69F00"
N_BINS = 25


def plot_word_times(
    curves: Tensor,
    words: Sequence[str],
    spans: Sequence[tuple[float, float] | None],
    frames_per_second: float,
    span_label: str = "where it is spoken",
    unreliable: Sequence[bool] = (),
    caption: str | None = None,
) -> Figure:
    """Draws the curve of each word over time in a row, with colours from its own smallest value to its largest.

    A frame marks the time in which a word is spoken, if it is known.

    Args:
        curves: a value for each word and frame, (W, T).
        words: W words.
        spans: begin and end of each word in seconds, or None.
        frames_per_second: frames per second of the curves.
        span_label: the meaning of the frames, for the label of the colour bar.
        unreliable: for each word, whether its row is hatched as unreliable. Default: no row.
        caption: a small line below the figure, such as how the maps were made.

    Returns:
        Figure: the figure, which is not registered with pyplot.

    Raises:
        ValueError: there is no word, or lengths do not fit each other.

    Example::

        >>> import torch
        >>> from captum_spes.visualization import plot_word_times
        >>> figure = plot_word_times(torch.rand(2, 50), ["So", "what"], [(0.1, 0.2), None], 100)
        >>> [label.get_text() for label in figure.axes[0].get_yticklabels()]
        ['So', 'what']
    """
    from matplotlib.patches import Rectangle

    if not len(words) or len(words) != len(spans):
        raise ValueError(f"give words and a span for each: there are {len(words)} words and {len(spans)} spans.")
    values = checked_array("curves", curves, (len(words), curves.shape[-1]))
    low = values.min(1, keepdims=True)
    scaled = (values - low) / np.maximum(values.max(1, keepdims=True) - low, np.finfo(float).tiny)
    labels = _labels(words)
    seconds = scaled.shape[1] / frames_per_second
    width = min(max(2 * seconds, 5.5), PAGE_WIDTH)
    figure = new_figure(width + _margin(labels), len(words) * ROW_HEIGHT + BAR_MARGIN + 0.4)
    ax = figure.add_subplot()
    scale = Scale.of(scaled, "attribution, each word from its smallest to its largest", (0, 1))
    extent = (0, seconds, len(words) - 0.5, -0.5)
    image = ax.imshow(
        scaled, cmap=scale.on_white, norm=scale.norm, aspect="auto", interpolation="nearest", extent=extent
    )
    for row, span in enumerate(spans):
        if row < len(unreliable) and unreliable[row]:
            hatch(ax, (0, row - 0.5), seconds, 1)
        if span is not None:
            begin, end = span
            place: dict[str, Any] = {"fill": False, "edgecolor": "black", "linewidth": 1.0}
            ax.add_patch(Rectangle((begin, row - 0.5), end - begin, 1, zorder=4, **place))
    ax.set_yticks(range(len(words)), labels=labels, fontsize=TICK_SIZE, **token_text())
    ax.set_xlabel("time (s)", fontsize=LABEL_SIZE)
    ax.tick_params(labelsize=TICK_SIZE, length=2)
    meaning = f"; frame: {span_label}" if any(span is not None for span in spans) else ""
    meaning += "; hatched: unreliable" if any(unreliable) else ""
    add_colorbar(figure, image, f"{scale.label}{meaning}", _margin(labels))
    if caption is not None:
        add_caption(figure, caption)
    return figure


def plot_token_bars(
    tokens: Sequence[str], values: ArrayLike, counts: Sequence[int], x_label: str, n_top: int
) -> Figure:
    """Draws a bar for each token: the tokens with the largest values above those with the smallest (paper, Fig. 10).

    Args:
        tokens: the tokens, from the top.
        values: the value of each token, (n,).
        counts: the number of occurrences of each token, which is written beside its bar.
        x_label: label of the values.
        n_top: the number of tokens that belong to the group with the largest values.

    Returns:
        Figure: the figure, which is not registered with pyplot.

    Raises:
        ValueError: there is no token, or lengths do not fit each other.

    Example::

        >>> from captum_spes.visualization import plot_token_bars
        >>> figure = plot_token_bars([" so", "."], [20.0, 0.5], [40, 30], "kurtosis", n_top=1)
        >>> figure.axes[0].get_xlabel()
        'kurtosis'
    """
    heights = np.asarray(values, dtype=float)
    if not len(tokens) or heights.shape != (len(tokens),) or len(counts) != len(tokens):
        raise ValueError("give at least one token, and a value and a count for each.")
    labels = _labels(tokens)
    figure = new_figure(5.5 + _margin(labels), len(tokens) * 0.28 + 0.8)
    ax = figure.add_subplot()
    rows = np.arange(len(tokens)) + (np.arange(len(tokens)) >= n_top) * 0.6  # a gap between the two groups
    colors = [TOP if row < n_top else BOTTOM for row in range(len(tokens))]
    bars = ax.barh(rows, heights, color=colors, height=0.75)
    ax.bar_label(
        bars, [f"{value:.1f}  ({count}×)" for value, count in zip(heights, counts)], padding=4, fontsize=TICK_SIZE
    )
    ax.set_yticks(rows, labels=labels, fontsize=TICK_SIZE, **token_text())
    ax.invert_yaxis()
    ax.margins(x=0.22)
    if (heights >= 0).all():
        ax.set_xlim(left=0)
    _tidy(ax, x_label)
    return figure


def plot_distributions(groups: Mapping[str, ArrayLike], x_label: str) -> Figure:
    """Draws the distribution of values from 0 to 1 in each group, with a line at its mean (paper, Fig. 11).

    Args:
        groups: the values of each group by its name, (n,).
        x_label: label of the values.

    Returns:
        Figure: the figure, which is not registered with pyplot.

    Raises:
        ValueError: there is no group, a group is empty, or values are not from 0 to 1.

    Example::

        >>> from captum_spes.visualization import plot_distributions
        >>> figure = plot_distributions({"start": [0.1, 0.2], "last": [0.9]}, "attribution")
        >>> [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
        ['start: mean 0.15, n = 2', 'last: mean 0.90, n = 1']
    """
    arrays = {name: np.asarray(values, dtype=float) for name, values in groups.items()}
    if not arrays or any(not values.size for values in arrays.values()):
        raise ValueError("give at least one group, and values in each.")
    if any(not ((values >= -1e-6) & (values <= 1 + 1e-6)).all() for values in arrays.values()):
        raise ValueError("values must be from 0 to 1.")
    figure = new_figure(5.5, 3.4)
    ax = figure.add_subplot()
    for number, (name, values) in enumerate(arrays.items()):
        color, dashes = COLORS[number % len(COLORS)], DASHES[number % len(DASHES)]
        density, edges = np.histogram(np.clip(values, 0, 1), bins=N_BINS, range=(0, 1), density=True)
        label = f"{name}: mean {values.mean():.2f}, n = {len(values):,}"
        ax.stairs(density, edges, color=color, fill=True, alpha=0.12)
        ax.stairs(density, edges, color=color, linewidth=1.5, linestyle=dashes, label=label)
        ax.axvline(values.mean(), color=color, linewidth=1.2, linestyle=dashes, alpha=0.7)
    ax.set_xlim(0, 1)
    ax.set_ylim(bottom=0)
    ax.set_ylabel("density", fontsize=LABEL_SIZE)
    ax.legend(fontsize=TICK_SIZE, frameon=False)
    _tidy(ax, x_label)
    return figure


def plot_shares(tokens: Sequence[str], shares: ArrayLike) -> Figure:
    """Draws for each token the shares of its importance in the sound and in the previous text.

    Args:
        tokens: the K tokens.
        shares: the share of the previous text for each token, from 0 to 1, (K,).

    Returns:
        Figure: the figure, which is not registered with pyplot.

    Raises:
        ValueError: there is no token, or shares are not from 0 to 1.

    Example::

        >>> from captum_spes.visualization import plot_shares
        >>> figure = plot_shares([" So", "."], [0.2, 0.9])
        >>> [text.get_text() for text in figure.axes[0].get_xticklabels()]
        ['So', '.']
    """
    values = np.asarray(shares, dtype=float)
    if not len(tokens) or values.shape != (len(tokens),) or not ((values >= 0) & (values <= 1)).all():
        raise ValueError("give at least one token, and a share from 0 to 1 for each.")
    labels = _labels(tokens)
    column = min(max(PAGE_WIDTH / len(tokens), ROW_HEIGHT), 0.5)  # inches
    beneath = max(text_width(label, TICK_SIZE) for label in labels)
    figure = new_figure(max(len(tokens) * column, 3.2) + SIDE_MARGIN, 2.0 + beneath)
    ax = figure.add_subplot()
    places = np.arange(len(tokens))
    ax.bar(places, values, width=0.85, color=GUESSED, label="text before (guessed)")
    ax.bar(places, 1 - values, bottom=values, width=0.85, color=HEARD, label="spectrogram (heard)")
    ax.axhline(0.5, color="white", linewidth=1.0, linestyle=(0, (3, 2)))
    ax.set_xticks(places, labels=labels, rotation=90, fontsize=TICK_SIZE, **token_text())
    ax.set_xlim(-0.6, len(tokens) - 0.4)
    ax.set_ylim(0, 1)
    ax.set_ylabel("share of the importance", fontsize=LABEL_SIZE)
    ax.tick_params(labelsize=TICK_SIZE, length=2)
    ax.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside upper center", ncols=2, fontsize=TICK_SIZE, frameon=False)
    return figure


def _labels(tokens: Sequence[str]) -> list[str]:
    return [shorten(label, LABEL_WIDTH, TICK_SIZE) for label in clean_labels(tokens)]


def _margin(labels: Sequence[str]) -> float:
    """The width in inches of the labels beside the axes."""
    return max(text_width(label, TICK_SIZE) for label in labels) + 0.3


def _tidy(ax: Axes, x_label: str) -> None:
    ax.set_xlabel(x_label, fontsize=LABEL_SIZE)
    ax.tick_params(labelsize=TICK_SIZE)
    ax.grid(axis="x", color="0.92", linewidth=0.8)
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)
