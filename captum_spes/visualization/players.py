"""A figure of the values of players and the interactions of pairs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from captum_spes.visualization._colors import Scale
from captum_spes.visualization._layout import BAR_MARGIN, LABEL_SIZE, TICK_SIZE, TITLE_SIZE, checked_array, new_figure
from captum_spes.visualization._text import clean_labels, text_width, token_text
from captum_spes.visualization.token_statistics import BOTTOM, TOP

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CELL = 0.34  # inches, side of the cell of a pair
BARS_WIDTH, LEAST_SIDE = 1.8, 1.6  # inches


def plot_interactions(values: Tensor, pairs: Tensor, players: Sequence[str], title: str, unit: str) -> Figure:
    """Draws the value of each player as a bar, and beside the bars the interaction of each pair as a matrix.

    The interaction of a pair is positive if the two matter more together than separately, and negative if one can
    replace the other.

    Args:
        values: the values of P players, (P,).
        pairs: the interactions of pairs, symmetric, (P, P); the diagonal is left empty.
        players: the names of the players.
        title: the title of the figure.
        unit: the unit of the values and of the interactions.

    Returns:
        Figure: the figure, which is not registered with pyplot.

    Raises:
        ValueError: there is no player, or lengths do not fit each other.

    Example::

        >>> import torch
        >>> from captum_spes.visualization import plot_interactions
        >>> pairs = torch.tensor([[0.0, 0.4], [0.4, 0.0]])
        >>> figure = plot_interactions(torch.tensor([2.0, -0.5]), pairs, ["so", "what"], "“so”", "nats")
        >>> [label.get_text() for label in figure.axes[0].get_yticklabels()]
        ['so', 'what']
    """
    n_players = len(players)
    if not n_players:
        raise ValueError("there are no players to draw: give at least one.")
    bars, matrix = checked_array("values", values, (n_players,)), checked_array("pairs", pairs, (n_players, n_players))
    labels = clean_labels(players)
    margin = max(text_width(label, TICK_SIZE) for label in labels) + 0.15
    side = max(n_players * CELL, LEAST_SIDE)
    figure = new_figure(margin + BARS_WIDTH + side + 1.2, side + margin + BAR_MARGIN + 0.5)
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=(BARS_WIDTH, side))
    rows = np.arange(n_players)
    left.barh(rows, bars, color=np.where(bars >= 0, TOP, BOTTOM), height=0.7)
    left.axvline(0, color="black", linewidth=0.6)
    left.set_xlabel(f"value ({unit})", fontsize=LABEL_SIZE)
    left.set_yticks(rows, labels=labels, fontsize=TICK_SIZE, **token_text())
    left.spines[["top", "right", "left"]].set_visible(False)

    largest = max(float(np.abs(matrix).max()), np.finfo(float).tiny)
    scale = Scale.of(matrix, f"interaction ({unit})", (-largest, largest))
    shown = np.where(np.eye(n_players, dtype=bool), np.nan, matrix)
    image = right.imshow(shown, cmap=scale.on_white, norm=scale.norm, aspect="auto", interpolation="nearest")
    right.set_xticks(rows, labels=labels, fontsize=TICK_SIZE, rotation=90, **token_text())
    right.tick_params(axis="y", left=False)
    for axes in (left, right):
        axes.tick_params(labelsize=TICK_SIZE, length=2)
    bar = figure.colorbar(image, ax=right, shrink=0.9, pad=0.04)
    bar.set_label(scale.label, fontsize=LABEL_SIZE)
    bar.ax.tick_params(labelsize=TICK_SIZE, length=2)
    figure.suptitle(clean_labels([title])[0], fontsize=TITLE_SIZE, **token_text())
    return figure
