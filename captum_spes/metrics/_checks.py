"""Checks of arguments that the metrics share."""

from __future__ import annotations

from numbers import Integral


def check_positive(**values: object) -> None:
    """Raises a ValueError for a number of samples that is not an integer of at least 1."""
    for name, value in values.items():
        if not isinstance(value, Integral) or value < 1:
            raise ValueError(f"{name} must be an integer of at least 1, not {value}.")
