"""A rule that ends a run as soon as its attributions are reliable."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from numbers import Real


@dataclass(frozen=True)
class StoppingRule:
    """Ends a run at the first look at which its reliability reaches a target.

    The looks are fixed numbers of samples at which the reliability is computed. So the number of samples of a run
    depends on its seed and its arguments alone, and not on time, batch size or the number of ranks. Each look has a
    quarter more samples than the one before, rounded down to a multiple of ``step``, but at least ``step`` more. A run
    therefore has at most about a quarter more samples than it needs, and the number of looks grows with the logarithm
    of the number of samples.

    Attributes:
        target: the reliability to reach, as a mean over the rows of scores.
        first: number of samples of the first look, which is rounded up to a multiple of ``step``.
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
    """Raises a ValueError for a target outside (0, 1)."""
    if min_reliability is None:
        return
    if not isinstance(min_reliability, Real) or not 0 < float(min_reliability) < 1:
        raise ValueError(
            f"min_reliability must lie strictly between 0 and 1, not {min_reliability}: it is the correlation of two "
            "halves of the samples; leave it out to evaluate all n_samples."
        )
