"""Checks of arguments that the metrics share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from captum_spes.explanation import SpeechToTextExplanation

Explanations = SpeechToTextExplanation | Sequence[SpeechToTextExplanation]
# a map, or the maps of the rows, for each explanation; or a random order
Maps = Tensor | Sequence[Tensor] | Literal["random"]


def as_lists(
    explanations: Explanations, maps: Maps | None = None
) -> tuple[Sequence[SpeechToTextExplanation], Maps | None]:
    """One or several explanations, and the map or maps that were given for them, as lists.

    Raises:
        ValueError: there is no explanation.
    """
    if isinstance(explanations, SpeechToTextExplanation):
        return [explanations], [maps] if isinstance(maps, Tensor) else maps
    if not explanations:
        raise ValueError("there is no explanation: give one, or several.")
    return explanations, maps


def format_maps(own: Sequence[Tensor], maps: Maps | None) -> list[Tensor]:
    """The maps of each explanation: its own by default, or those given. The bins of constant maps get a random order.

    Args:
        own: the maps of each explanation.
        maps: other maps of the same shapes, ``"random"`` for constant maps, or None.

    Raises:
        ValueError: the maps do not fit the explanations.
    """
    if maps is None:
        return list(own)
    if isinstance(maps, str):
        if maps != "random":
            raise ValueError(f"maps must be tensors or 'random', not {maps!r}.")
        return [torch.zeros_like(attributions) for attributions in own]
    if len(maps) != len(own):
        raise ValueError(f"there are maps for {len(maps)} of {len(own)} explanations: give maps for each.")
    for given, expected in zip(maps, own):
        if given.shape != expected.shape:
            raise ValueError(
                f"maps of shape {tuple(given.shape)} do not fit their explanation: expected {tuple(expected.shape)}."
            )
    return list(maps)
