"""Compares the boundaries in maps with those of phones."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from captum_spes.metrics.plausibility.words import (
    HIGH_THRESHOLD,
    Alignments,
    Explanations,
    aligned,
    check_limits,
    is_high,
    spoken_words,
)

BOUNDARY_TOLERANCE = 0.02  # seconds; the usual tolerance in evaluations of segmentation
N_SHIFTS = 100  # random shifts of the boundaries of an utterance


@dataclass(frozen=True)
class BoundaryScore:
    """Precision and recall of the boundaries in maps.

    Attributes:
        precision: the share of the boundaries in the maps that are boundaries of phones.
        recall: the share of the phones' boundaries that are in the maps.
        chance_precision: the precision of the same boundaries after a common random shift in time.
        chance_recall: the recall of the same boundaries after a common random shift in time.
        n_found: number of boundaries in the maps.
        n_phones: number of boundaries of phones.

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
    """Scores of the beginnings and ends of runs of high frames; see :func:`phone_boundaries`.

    Attributes:
        onsets: the beginnings of runs compared with the beginnings of phones.
        offsets: the ends of runs compared with the ends of phones.
        tolerance: largest distance in seconds between two boundaries that match.

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
    threshold: float = HIGH_THRESHOLD,
    seed: int = 0,
) -> PhoneBoundaries:
    """Compares the boundaries of runs of high frames with the boundaries of the phones.

    The high frames of each word's curve, as in :func:`time_localization`, form runs. The beginnings of the runs are
    compared with the beginnings of the phones of all words, and the ends with the ends. Each boundary matches at most
    one other. Since phones are short and many, random boundaries match a large part of them: compare with the scores
    of chance.

    Args:
        explanations: explanations of the tokens of one or several utterances.
        alignments: an alignment with phones for each explanation.
        tolerance: largest distance in seconds between two boundaries that match.
        threshold: least value of a high frame, above 0 and up to 1.
        seed: the seed of the random shifts, 100 for each utterance.

    Returns:
        PhoneBoundaries: precision and recall of onsets and offsets, and those of chance.

    Raises:
        ValueError: there is not one alignment for each explanation, or no word of both has phones.

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
            ("onsets", 0, sorted(phone.begin for phone in phones)),
            ("offsets", 1, sorted(phone.end for phone in phones)),
        ):
            found = np.array(sorted({run[column] for run in runs})) / explanation.frames_per_second
            counts[kind].append(_count(found, np.array(boundaries), explanation.duration, tolerance, random))
    if not counts["onsets"]:
        raise ValueError("the alignments have no phones for the words of the explanations: give some with phones.")
    onsets, offsets = (_score(np.sum(counts[kind], axis=0)) for kind in ("onsets", "offsets"))
    return PhoneBoundaries(onsets, offsets, tolerance)


def _runs(marked: np.ndarray) -> list[tuple[int, int]]:
    """The first frame of each run, and the frame after its last."""
    edges = np.diff(np.pad(marked.astype(np.int8), 1))
    return list(zip(np.flatnonzero(edges == 1).tolist(), np.flatnonzero(edges == -1).tolist()))


def _count(
    found: np.ndarray, boundaries: np.ndarray, duration: float, tolerance: float, random: np.random.Generator
) -> np.ndarray:
    """The numbers of matches, of matches by chance, of boundaries in the maps and of phones' boundaries, (4,)."""
    shifted = [np.sort((found + shift) % duration) for shift in random.uniform(0, duration, N_SHIFTS)]
    by_chance = np.mean([_n_met(times, boundaries, tolerance) for times in shifted])
    return np.array([_n_met(found, boundaries, tolerance), by_chance, len(found), len(boundaries)])


def _n_met(first: np.ndarray, second: np.ndarray, tolerance: float) -> int:
    """The number of pairs from two ascending arrays within a tolerance; each value belongs to at most one pair."""
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
