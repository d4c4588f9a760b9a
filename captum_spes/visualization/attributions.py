"""Figures of spectrograms and attributions. The functions draw arrays and return figures.

The figures are ``matplotlib.figure.Figure`` objects that are not registered with pyplot, so that none stays open.
``figure.savefig("explanation.pdf")`` writes one. After ``%matplotlib inline`` a notebook shows a figure that ends a
cell.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from captum_spes.visualization._colors import Scale, part_of
from captum_spes.visualization._layout import (
    BAR_MARGIN,
    SIDE_MARGIN,
    TICK_SIZE,
    TITLE_SIZE,
    VALUE_SIZE,
    Grid,
    Matrix,
    MelSpectrogram,
    add_caption,
    add_colorbar,
    borders,
    checked_array,
    hatch_panel,
    new_figure,
    panel_titles,
)
from captum_spes.visualization._text import clean_labels, token_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.cm import ScalarMappable
    from matplotlib.figure import Figure

ENERGY_LABEL = "log-mel energy (the model's units)"
# magma without its lightest part, on which the white border of a patch would be invisible
ENERGY_MAP, ENERGY_PART = "magma", (0.0, 0.88)


def plot_spectrogram(spectrogram: Tensor, frames_per_second: float, mel_frequencies: Tensor) -> Figure:
    """Draws a spectrogram, time × mel channels, with the frequencies of the channels.

    Args:
        spectrogram: log-mel energies, (T, C).
        frames_per_second: frames per second of the spectrogram.
        mel_frequencies: centre of each mel channel in Hz, rising, (C,).

    Returns:
        Figure: the figure, which is not registered with pyplot.

    Raises:
        ValueError: shapes do not fit each other, or values are not finite.

    Example::

        >>> import torch
        >>> from captum_spes.visualization import plot_spectrogram
        >>> figure = plot_spectrogram(torch.rand(200, 80), 100, torch.linspace(40, 7700, 80))
        >>> [ax.get_xlabel() for ax in figure.axes]
        ['time (s)', "log-mel energy (the model's units)"]
    """
    mel = MelSpectrogram(spectrogram, frames_per_second, mel_frequencies)
    width, height = mel.single_width, 2.8
    figure = new_figure(width + SIDE_MARGIN, height + BAR_MARGIN)
    ax = figure.add_subplot()
    image = mel.draw(ax, mel.energy, cmap=part_of(ENERGY_MAP, ENERGY_PART))
    mel.label(ax, width, height)
    add_colorbar(figure, image, ENERGY_LABEL)
    return figure


def plot_attributions(
    attributions: Tensor,
    spectrogram: Tensor,
    frames_per_second: float,
    mel_frequencies: Tensor,
    titles: Sequence[str],
    value_label: str | None = None,
    value_range: tuple[float, float] | None = None,
    unreliable: Sequence[bool] = (),
    caption: str | None = None,
    figsize: tuple[float, float] | None = None,
    axes: Sequence[Axes] | None = None,
) -> Figure:
    """Draws attribution maps over the spectrogram, in a panel each, on one colour scale (paper, Fig. 3, top).

    The spectrogram is grey, and darker where it is louder. The colours of a map are more opaque for larger values. The
    scale is 0 to 1 if it contains all values, as for normalised maps; 0 to the largest value if values exceed 1; and a
    range around 0 for both signs if values are negative.

    Args:
        attributions: the maps, (K, T, C).
        spectrogram: log-mel energies, (T, C).
        frames_per_second: frames per second of the spectrogram.
        mel_frequencies: centre of each mel channel in Hz, rising, (C,).
        titles: a title for each map, such as the token that it explains. A single title may have several lines;
            of several, those that are too wide for their panel are cut.
        value_label: label of the colour bar. Default: a label that fits the range of the colours.
        value_range: the values at both ends of the colours, to compare figures of maps that are not normalised.
        unreliable: for each map, whether its panel is hatched as unreliable. Default: no panel.
        caption: a small line below the figure, such as how the maps were made.
        figsize: width and height of the figure in inches. Default: a size that fits the number of maps and their
            duration.
        axes: axes to draw on, one for each map, instead of a new figure. They get no colour bar and no caption,
            because their figure may have no room: ``figure.colorbar(axes[0].images[-1])`` adds the bar.

    Returns:
        Figure: a new figure, which is not registered with pyplot, or the figure of the axes.

    Raises:
        ValueError: shapes do not fit each other, or values are not finite; the number of axes is not that of the maps;
            or both axes and a size are given.

    Example::

        >>> import torch
        >>> from captum_spes.visualization import plot_attributions
        >>> figure = plot_attributions(
        ...     torch.rand(2, 200, 80), torch.rand(200, 80), 100, torch.linspace(40, 7700, 80), [" So", " what"])
        >>> [ax.get_title() for ax in figure.axes]
        ['So', 'what', '']
    """
    mel = MelSpectrogram(spectrogram, frames_per_second, mel_frequencies)
    maps = checked_array("attributions", attributions, (len(attributions), *mel.energy.shape))
    if not len(maps) or len(titles) != len(maps):
        raise ValueError(f"give maps and a title for each: there are {len(maps)} maps and {len(titles)} titles.")
    scale = Scale.of(maps, value_label, value_range)
    hatched = [index < len(unreliable) and bool(unreliable[index]) for index in range(len(maps))]
    if axes is not None:
        return _draw_on(axes, figsize, maps, titles, mel, scale, hatched)
    grid = Grid.of(len(maps), mel)
    if figsize is not None:
        grid = grid.within(figsize)
    texts = panel_titles(titles, grid)
    size = grid.figure_size(max(text.count("\n") for text in texts) + 1) if figsize is None else figsize
    figure = new_figure(*size, column_gap=grid.COLUMN_GAP)
    for index, (ax, values, text) in enumerate(zip(grid.panels(figure), maps, texts, strict=True)):
        overlay = _draw_panel(ax, values, text, mel, scale, hatched[index])
        mel.label(ax, grid.width, grid.height, time=grid.is_lowest(index), frequency=grid.is_first(index))
        # if the last row is not full, these labels are in empty places and need no room between the rows
        ax.xaxis.set_in_layout(not grid.is_lowest(index) or grid.is_in_last_row(index))
    meaning = "; hatched: unreliable" if any(hatched) else ""
    add_colorbar(figure, overlay, f"{scale.label}; grey: spectrogram{meaning}", extend=scale.extend)
    if caption is not None:
        add_caption(figure, caption, grow=figsize is None)
    return figure


def _draw_panel(
    ax: Axes, values: np.ndarray, title: str, mel: MelSpectrogram, scale: Scale, is_hatched: bool
) -> ScalarMappable:
    overlay = scale.draw(ax, values, mel)
    ax.set_title(title, fontsize=TITLE_SIZE, pad=4, **token_text())
    if is_hatched:
        hatch_panel(ax)
    return overlay


def _draw_on(
    axes: Sequence[Axes],
    figsize: tuple[float, float] | None,
    maps: np.ndarray,
    titles: Sequence[str],
    mel: MelSpectrogram,
    scale: Scale,
    hatched: Sequence[bool],
) -> Figure:
    """Draws maps on axes that were made before, and returns their figure."""
    given = list(np.ravel(np.asarray(axes, dtype=object)))
    if figsize is not None:
        raise ValueError("axes have a figure of their own: give them or figsize, not both.")
    if len(given) != len(maps):
        raise ValueError(f"there must be axes for each map: {len(given)} axes and {len(maps)} maps came.")
    for ax, values, title, is_hatched in zip(given, maps, clean_labels(titles), hatched):
        _draw_panel(ax, values, title, mel, scale, is_hatched)
        box = ax.get_window_extent().transformed(ax.figure.dpi_scale_trans.inverted())
        mel.label(ax, box.width, box.height)
    figure: Figure = given[0].figure
    return figure


def plot_token_attributions(
    attributions: Tensor,
    tokens: Sequence[str],
    previous_tokens: Sequence[str],
    is_feature: Tensor,
    value_label: str | None = None,
    value_range: tuple[float, float] | None = None,
) -> Figure:
    """Draws the attributions of each token to the previous tokens (paper, Fig. 3, bottom); columns explain rows.

    Later tokens, which are not features of a row, are hatched, and their values are ignored. In small matrices the
    values are written into the cells.

    Args:
        attributions: attributions (K, J); rows are explained by columns.
        tokens: the K explained tokens.
        previous_tokens: the J tokens that explain them.
        is_feature: whether a previous token is a feature of a row, bool (K, J).
        value_label: label of the colour bar. Default: a label that fits the range of the colours.
        value_range: the values at both ends of the colours, as in :func:`.plot_attributions`.

    Returns:
        Figure: the figure, which is not registered with pyplot.

    Raises:
        ValueError: shapes do not fit each other, or values of features are not finite.

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
    values = np.ma.masked_array(checked_array("attributions", attributions, shape), ~mask)
    scale = Scale.of(values.compressed(), value_label, value_range)

    matrix = Matrix.of(tokens, previous_tokens)
    figure = new_figure(*matrix.figure_size)
    ax = figure.add_subplot()
    image = ax.imshow(values, cmap=scale.on_white, norm=scale.norm, aspect="auto", interpolation="nearest")
    matrix.label(ax)
    if not mask.all():
        _hatch_background(ax, "written later: no feature")
    if matrix.has_room:
        _write_values(ax, values, image)
    add_colorbar(figure, image, scale.label + "; rows are explained by columns", matrix.side_margin, scale.extend)
    return figure


def plot_segmentation(
    feature_mask: Tensor, spectrogram: Tensor, frames_per_second: float, mel_frequencies: Tensor
) -> Figure:
    """Draws a spectrogram, and beneath it its patches, each in the colour of its mean (paper, Fig. 1).

    Args:
        feature_mask: the patch of each bin, integer ids (T, C).
        spectrogram: log-mel energies, (T, C).
        frames_per_second: frames per second of the spectrogram.
        mel_frequencies: centre of each mel channel in Hz, rising, (C,).

    Returns:
        Figure: the figure, which is not registered with pyplot.

    Raises:
        ValueError: shapes do not fit each other, ids are not integers, or values are not finite.

    Example::

        >>> import torch
        >>> from captum_spes.visualization import plot_segmentation
        >>> halves = torch.arange(80).expand(200, 80) // 40
        >>> figure = plot_segmentation(halves, torch.rand(200, 80), 100, torch.linspace(40, 7700, 80))
        >>> [ax.get_title() for ax in figure.axes]
        ['spectrogram', '2 patches, each in the colour of its mean', '']
    """
    mel = MelSpectrogram(spectrogram, frames_per_second, mel_frequencies)
    mask = torch.as_tensor(feature_mask).detach().cpu()
    if mask.is_floating_point() or tuple(mask.shape) != mel.energy.shape:
        expected = f"integers of the spectrogram's shape {mel.energy.shape}"
        raise ValueError(f"feature_mask must be {expected}, not {mask.dtype} {tuple(mask.shape)}.")
    _, ids = np.unique(mask.numpy(), return_inverse=True)
    means = (np.bincount(ids.ravel(), mel.energy.ravel()) / np.bincount(ids.ravel()))[ids.reshape(mel.energy.shape)]
    width, height = mel.single_width, 2.4
    figure = new_figure(width + SIDE_MARGIN, 2 * (height + 0.3) + BAR_MARGIN)
    upper, lower = figure.subplots(2, 1)
    for ax, picture in ((upper, mel.energy), (lower, means)):
        colors = part_of(ENERGY_MAP, ENERGY_PART)
        image = mel.draw(ax, picture, cmap=colors, vmin=mel.energy.min(), vmax=mel.energy.max())
        mel.label(ax, width, height, time=ax is lower)
    lower.add_collection(borders(mask.numpy(), mel.frames_per_second), autolim=False)
    upper.set_title("spectrogram", fontsize=TITLE_SIZE, pad=4)
    n_patches = "1 patch" if ids.max() == 0 else f"{ids.max() + 1} patches"
    lower.set_title(f"{n_patches}, each in the colour of its mean", fontsize=TITLE_SIZE, pad=4)
    add_colorbar(figure, image, ENERGY_LABEL)
    return figure


def _hatch_background(ax: Axes, text: str) -> None:
    """Hatches the area without cells, with a legend."""
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
