"""Colour scales of attributions, and drawing of maps with them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap, ListedColormap, Normalize
    from matplotlib.image import AxesImage

    from captum_spes.visualization._layout import MelSpectrogram

# The spectrogram beneath a map uses the lighter half of the greys, and the opacity of the map grows with its value, so
# that both can be read. The part of plasma from pink to blue and PuOr differ from grey also for colour-blind readers,
# who see many reds as grey. In print they keep their order: lighter colours are smaller values.
MAP, MAP_PART, SIGNED_MAP = "plasma_r", (0.3, 0.95), "PuOr"
OPACITY, OPACITY_EXPONENT = 0.9, 1.3
# the same on a dark background
DARK_PART, DARK_ARM = (0.35, 0.95), (0.24, 0.12)
GREY_HEADROOM = 2.0

Extend = Literal["neither", "min", "max", "both"]


@dataclass(frozen=True)
class Scale:
    """The colour scale of all panels of a figure."""

    norm: Normalize
    colors: Colormap  # larger values are more opaque
    label: str
    extend: Extend  # the ends of the scale that values exceed

    @classmethod
    def of(cls, values: np.ndarray, label: str | None, value_range: tuple[float, float] | None) -> Scale:
        from matplotlib.colors import Normalize

        low, high = _value_range(values) if value_range is None else value_range
        if not -math.inf < low < high < math.inf:
            raise ValueError(f"value_range must be two numbers, the smaller first, not {value_range}.")
        label = _value_label(low, high) if label is None else label
        return cls(Normalize(low, high), fading_colors(signed=low < 0), label, _extend(values, low, high))

    def draw(self, ax: Axes, values: np.ndarray, mel: MelSpectrogram) -> AxesImage:
        """Draws a map over its grey spectrogram."""
        mel.draw(ax, mel.energy, cmap="Greys", vmin=mel.quiet, vmax=mel.quiet + GREY_HEADROOM * mel.span)
        return mel.draw(ax, values, cmap=self.colors, norm=self.norm)

    @property
    def on_white(self) -> Colormap:
        """The same colours without transparency, as they look on a white background."""
        from matplotlib.colors import ListedColormap

        colors = self.colors(np.arange(self.colors.N))
        opacity = colors[:, 3:]
        return ListedColormap(colors[:, :3] * opacity + 1 - opacity)


def _value_range(values: np.ndarray) -> tuple[float, float]:
    """0 to 1 if this contains all values, otherwise 0 to the largest value, or a range around 0 for both signs."""
    low, high = (float(values.min()), float(values.max())) if values.size else (0.0, 1.0)
    rounding = 1e-6 * max(1.0, high)
    if low < -rounding:
        return -max(-low, high), max(-low, high)
    return 0.0, high if high > 1 + rounding else 1.0


def _extend(values: np.ndarray, low: float, high: float) -> Extend:
    rounding = 1e-6 * max(1.0, high)
    below, above = (values < low - rounding).any(), (values > high + rounding).any()
    if below:
        return "both" if above else "min"
    return "max" if above else "neither"


def _value_label(low: float, high: float) -> str:
    if low < 0:
        return "attribution, both signs: positive = hiding it weakens the prediction, negative = strengthens it"
    scale = "normalised to 0–1" if (low, high) == (0, 1) else "not normalised"
    return f"attribution, {scale}: larger = hiding it changes the prediction more"


def fading_colors(signed: bool, dark: bool = False) -> Colormap:
    """The colours of maps, which are more opaque for larger values.

    On a dark background the largest values are the lightest; the hues have the same meaning.
    """
    from matplotlib.colors import ListedColormap

    if signed:
        colormap = part_of(SIGNED_MAP, (0, 1))
        # of PuOr's two arms, towards the white between them
        arms = np.concatenate((np.linspace(*DARK_ARM, 128), np.linspace(1 - DARK_ARM[1], 1 - DARK_ARM[0], 128)))
        colors = colormap(arms if dark else np.arange(colormap.N))
    else:
        colormap = part_of(*((MAP.removesuffix("_r"), DARK_PART) if dark else (MAP, MAP_PART)))
        colors = colormap(np.arange(colormap.N))
    size = np.abs(np.linspace(-1, 1, colormap.N)) if signed else np.linspace(0, 1, colormap.N)
    colors[:, 3] = OPACITY * size**OPACITY_EXPONENT
    return ListedColormap(colors)


def part_of(name: str, part: tuple[float, float]) -> ListedColormap:
    from matplotlib import colormaps
    from matplotlib.colors import ListedColormap

    return ListedColormap(colormaps[name](np.linspace(*part, 256)))
