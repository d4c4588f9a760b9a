"""Runs that end as soon as their attributions are reliable."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from numbers import Real


@dataclass(frozen=True)
class StoppingRule:
    """A run ends at the first look at which its reliability reaches a target.

    The looks lie at fixed numbers of samples, so that the number at which a run ends depends on its seed and its
    arguments alone, and on no clock, batch size or number of ranks. Each look has a quarter more samples than the one
    before it, rounded down to a multiple of ``step``, or ``step`` more where that is larger. So a run has about a
    quarter more samples than it needs, at most, and it looks seldom: with the logarithm of the number of samples.

    Attributes:
        target: the reliability, the mean over the rows of scores.
        first: samples at the first look, which is rounded up to a multiple of ``step``.
        step: number of granularities, which have equally many samples at each look.
    """

    target: float
    first: int
    step: int

    def looks(self, start: int, stop: int) -> Iterator[int]:
        """The looks at more than ``start`` and at most ``stop`` samples."""
        look = -(-self.first // self.step) * self.step
        while look <= stop:
            if look > start:
                yield look
            look += max(look // 4 // self.step, 1) * self.step


def check_reliability(min_reliability: object) -> None:
    """Raises a ValueError for a target that no split-half correlation can reach, or that all of them reach."""
    if min_reliability is None:
        return
    if not isinstance(min_reliability, Real) or not 0 < float(min_reliability) < 1:
        raise ValueError(
            f"min_reliability must lie strictly between 0 and 1, not {min_reliability}: it is the correlation of two "
            "halves of the samples; leave it out to evaluate all n_samples."
        )
