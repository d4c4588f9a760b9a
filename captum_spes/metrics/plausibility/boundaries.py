"""Whether maps show where phones begin and end."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from captum_spes.metrics.plausibility._words import (
    THRESHOLD,
    Alignments,
    Explanations,
    aligned,
    check_limits,
    is_high,
    spoken_words,
)

BOUNDARY_TOLERANCE = 0.02  # seconds beside a phone's boundary: the usual one of segmentation
N_SHIFTS = 100  # of boundaries at random


@dataclass(frozen=True)
class BoundaryScore:
    """How well boundaries are found.

    Attributes:
        precision: how many of those in the maps are boundaries of phones.
        recall: how many of the phones' are in the maps.
        chance_precision: of the same boundaries, moved in time by a random length together.
        chance_recall: the same.
        n_found: boundaries in the maps.
        n_phones: boundaries of phones.

    Example::

        >>> from captum_spes.metrics import phone_boundaries
        >>> found = phone_boundaries(explanations, alignments).onsets
        >>> round(found.precision, 2), round(found.recall, 2), round(found.f1, 2)
        (0.25, 0.25, 0.25)
        >>> found.precision > found.chance_precision
        True
    """

    precision: float
    recall: float
    chance_precision: float
    chance_recall: float
    n_found: int
    n_phones: int

    @property
    def f1(self) -> float:
        """The harmonic mean of precision and recall."""
        total = self.precision + self.recall
        return 2 * self.precision * self.recall / total if total else 0.0


@dataclass(frozen=True)
class PhoneBoundaries:
    """How well maps show where phones begin and end; see :func:`phone_boundaries`.

    Attributes:
        onsets: where high frames begin, against where phones do.
        offsets: where they end.
        tolerance: seconds between two boundaries that are called the same.

    Example::

        >>> from captum_spes.metrics import phone_boundaries
        >>> found = phone_boundaries(explanations, alignments)
        >>> found.onsets.n_phones, found.offsets.n_phones, found.tolerance
        (16, 16, 0.02)
    """

    onsets: BoundaryScore
    offsets: BoundaryScore
    tolerance: float


def phone_boundaries(
    explanations: Explanations,
    alignments: Alignments,
    *,
    tolerance: float = BOUNDARY_TOLERANCE,
    threshold: float = THRESHOLD,
    seed: int = 0,
) -> PhoneBoundaries:
    """Compares where runs of high frames begin and end with where the phones of the words do.

    The high frames of each word's curve, as in :func:`time_localization`, are runs; their beginnings are compared with
    the phones' of all words, their ends with the phones' ends. A boundary of the maps has at most one of a phone, and
    the other way round. Phones are short and many: chance finds a good part of them, so look at the difference.

    Args:
        explanations: of the tokens, one or several utterances.
        alignments: one for each, with phones.
        tolerance: seconds between two boundaries that are called the same.
        threshold: from which a frame is high, above 0 and up to 1.
        seed: the seed of the boundaries at random, 100 for each utterance.

    Returns:
        PhoneBoundaries: precision and recall of onsets and offsets, and those of chance.

    Raises:
        ValueError: not one alignment for each explanation, or no phones of words that are in both.

    Example::

        >>> from captum_spes.metrics import phone_boundaries
        >>> phone_boundaries(explanations, alignments).onsets.recall
        0.25
    """
    given, times = aligned(explanations, alignments)
    check_limits(tolerance, threshold)
    spoken, _ = spoken_words(given, times)
    random = np.random.default_rng(seed)
    counts: dict[str, list[np.ndarray]] = {"onsets": [], "offsets": []}
    for number, (explanation, alignment) in enumerate(zip(given, times)):
        words = [word for word in spoken if word.utterance == number]
        phones = [phone for phone in alignment.phones if any(word.begin <= phone.middle < word.end for word in words)]
        if not phones:
            continue
        runs = [run for word in words for run in _runs(is_high(word.curve, threshold))]
        for kind, column, boundaries in (
            ("onsets", 0, [phone.begin for phone in phones]),
            ("offsets", 1, [phone.end for phone in phones]),
        ):
            found = np.array(sorted({run[column] for run in runs})) / explanation.frames_per_second
            counts[kind].append(_count(found, np.array(boundaries), explanation.duration, tolerance, random))
    if not counts["onsets"]:
        raise ValueError("no phones are known of the words in the explanations: give alignments with phones.")
    onsets, offsets = (_score(np.sum(counts[kind], axis=0)) for kind in ("onsets", "offsets"))
    return PhoneBoundaries(onsets, offsets, tolerance)


def _runs(marked: np.ndarray) -> list[tuple[int, int]]:
    """First frame of each run, and the one after its last."""
    edges = np.diff(np.pad(marked.astype(np.int8), 1))
    return list(zip(np.flatnonzero(edges == 1).tolist(), np.flatnonzero(edges == -1).tolist()))


def _count(
    found: np.ndarray, boundaries: np.ndarray, duration: float, tolerance: float, random: np.random.Generator
) -> np.ndarray:
    """How many meet, how many by chance, how many are found, how many there are: (4,)."""
    shifted = [np.sort((found + shift) % duration) for shift in random.uniform(0, duration, N_SHIFTS)]
    by_chance = np.mean([_n_met(times, boundaries, tolerance) for times in shifted])
    return np.array([_n_met(found, boundaries, tolerance), by_chance, len(found), len(boundaries)])


def _n_met(first: np.ndarray, second: np.ndarray, tolerance: float) -> int:
    """How many pairs of two ascending arrays are within a tolerance, where each is of one pair at most."""
    i = j = n = 0
    while i < len(first) and j < len(second):
        distance = first[i] - second[j]
        if abs(distance) <= tolerance + 1e-9:
            i, j, n = i + 1, j + 1, n + 1
        elif distance < 0:
            i += 1
        else:
            j += 1
    return n


def _score(counts: np.ndarray) -> BoundaryScore:
    met, by_chance, n_found, n_phones = counts.tolist()
    return BoundaryScore(
        met / n_found, met / n_phones, by_chance / n_found, by_chance / n_phones, int(n_found), int(n_phones)
    )
