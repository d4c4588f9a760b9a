"""At which frequencies words and phones light up (paper §8.1, Fig. 7)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from captum_spes.alignment import Segment
from captum_spes.metrics.plausibility._statistics import (
    Alternative,
    MeanComparison,
    by_utterance,
    compare_means,
    mean_band,
    mean_interval,
)
from captum_spes.metrics.plausibility._words import Alignments, Explanations, aligned, frames_in, spoken_words
from captum_spes.visualization import CurvePanel, plot_curves
from captum_spes.words import letters

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Level = Literal["word", "phone"]


@dataclass(frozen=True, eq=False)
class FrequencyProfile:
    """How important each frequency is for n occurrences of a word or phone; see :func:`frequency_profile`.

    Attributes:
        frequencies: centre of each mel channel in Hz, (C,).
        values: of each occurrence, (n, C).
        texts: what the occurrences are, n words or phones.
        utterances: number of the explanation that each is of.
        n_utterances: explanations that were looked at.

    Example::

        >>> from captum_spes.metrics import frequency_profile
        >>> so, no = (frequency_profile(explanations, alignments, word) for word in ("so", "no"))
        >>> float(so.frequencies[so.mean.argmax()]), so.interval.shape
        (6000.0, (2, 4))
        >>> so.band(4000, 8000).round(1)
        array([1., 1., 1., 1.])
        >>> print(so.compare_band(no, 4000, 8000))
        +0.890 [+0.883, +0.896], Welch t-test, one-sided: t = 67.7, p < 0.0001
        >>> low, high = so.mean_frequency_interval
        >>> low < so.mean_frequency < high, so.compare_mean_frequency(no).p_value < 0.01
        (True, True)
        >>> len(so.of([1, 3]).mean_frequencies)
        2
    """

    frequencies: np.ndarray
    values: np.ndarray
    texts: list[str]
    utterances: list[int]
    n_utterances: int

    def __len__(self) -> int:
        return len(self.values)

    @property
    def mean(self) -> np.ndarray:
        """Over the occurrences, (C,)."""
        return self.values.mean(0)

    @property
    def interval(self) -> np.ndarray:
        """The 95 % interval of the mean over the utterances, lower and upper ends, (2, C); NaN with a single one."""
        return mean_band([self.values[np.array(self.utterances) == u] for u in range(self.n_utterances)])

    @property
    def mean_frequencies(self) -> np.ndarray:
        """The mean of the frequencies in Hz of each occurrence, each weighed by its value, (n,)."""
        weights = self.values + (self.values.sum(1, keepdims=True) == 0)  # all the same where all are 0
        return weights @ self.frequencies / weights.sum(1)

    @property
    def mean_frequency(self) -> float:
        """The mean over the occurrences, in Hz."""
        return float(self.mean_frequencies.mean())

    @property
    def mean_frequency_interval(self) -> tuple[float, float]:
        """Its 95 % interval over the utterances."""
        return mean_interval(self._parted(self.mean_frequencies))

    def band(self, low: float, high: float) -> np.ndarray:
        """The mean value of each occurrence from one frequency in Hz to another, (n,).

        Raises:
            ValueError: no mel channel has its centre there.
        """
        channels = (low <= self.frequencies) & (self.frequencies <= high)
        if not channels.any():
            raise ValueError(f"no mel channel has its centre from {low:g} to {high:g} Hz.")
        return self.values[:, channels].mean(1)

    def compare_band(
        self, other: FrequencyProfile, low: float, high: float, alternative: Alternative = "greater"
    ) -> MeanComparison:
        """Whether these occurrences have larger values in a band than others of the same explanations."""
        self._check(other)
        return compare_means(self._parted(self.band(low, high)), other._parted(other.band(low, high)), alternative)

    def compare_mean_frequency(self, other: FrequencyProfile, alternative: Alternative = "greater") -> MeanComparison:
        """Whether their mean frequency is higher than that of others of the same explanations, in Hz."""
        self._check(other)
        return compare_means(self._parted(self.mean_frequencies), other._parted(other.mean_frequencies), alternative)

    def of(self, utterances: Sequence[int]) -> FrequencyProfile:
        """The occurrences in some of the utterances, such as those of women.

        Raises:
            ValueError: there are none.
        """
        chosen = [row for row, number in enumerate(self.utterances) if number in set(utterances)]
        if not chosen:
            raise ValueError("there are no occurrences in these utterances.")
        return FrequencyProfile(
            self.frequencies,
            self.values[chosen],
            [self.texts[row] for row in chosen],
            [self.utterances[row] for row in chosen],
            self.n_utterances,
        )

    def _parted(self, values: np.ndarray) -> list[np.ndarray]:
        return by_utterance(values.tolist(), self.utterances, self.n_utterances)

    def _check(self, other: FrequencyProfile) -> None:
        if self.n_utterances != other.n_utterances:
            raise ValueError(
                f"profiles of {self.n_utterances} and of {other.n_utterances} explanations are not of the same: make "
                "both from the same explanations."
            )


def frequency_profile(
    explanations: Explanations,
    alignments: Alignments,
    texts: str | Sequence[str] | None = None,
    *,
    level: Level = "word",
) -> FrequencyProfile:
    """How important each frequency is while a word or a phone is spoken (paper §8.1, Fig. 7).

    Of every occurrence: the maximum over the frames in which it is spoken of its word's map, at each frequency. A
    word's map is the mean of its tokens' normalised maps, from 0 to 1.

    Args:
        explanations: of the tokens, one or several utterances, all with the same mel channels.
        alignments: one for each; for phones, with phones.
        texts: a word or phone, or several that are looked at together; None for all. Letter case does not count, and
            neither does the stress of a vowel, as in ``"OW1"``.
        level: ``"word"``, or ``"phone"`` in the symbols of the alignment.

    Returns:
        FrequencyProfile: with ``mean`` and its ``interval``, ``mean_frequency`` and its interval, and ``band``.

    Raises:
        ValueError: no occurrence, not one alignment for each explanation, or mel channels that differ.

    Example::

        >>> import torch
        >>> from captum_spes import SpeechToTextExplanation
        >>> from captum_spes.alignment import Alignment, Segment
        >>> from captum_spes.metrics import frequency_profile
        >>> attr = torch.zeros(2, 10, 4)
        >>> attr[0, 2, 3] = attr[1, 6, 1] = 1
        >>> explanation = SpeechToTextExplanation(
        ...     text="So what", tokens=[" So", " what"], previous_tokens=["<s>", " So"],
        ...     spectrogram=torch.rand(10, 4), spectrogram_attr=attr,
        ...     token_attr=torch.tensor([[0.3, 0.0], [0.1, 0.5]]), n_previous=torch.tensor([1, 2]),
        ...     frames_per_second=10, mel_frequencies=torch.tensor([250.0, 500.0, 2000.0, 6000.0]))
        >>> alignment = Alignment([Segment("so", 0.1, 0.4), Segment("what", 0.4, 0.8)], source="by hand")
        >>> so = frequency_profile(explanation, alignment, "so")
        >>> float(so.frequencies[so.mean.argmax()])
        6000.0
    """
    given, times = aligned(explanations, alignments)
    if level not in ("word", "phone"):
        raise ValueError(f"level must be 'word' or 'phone', not {level!r}.")
    frequencies = given[0].mel_frequencies.numpy().astype(float)
    if any(
        e.mel_frequencies.shape != frequencies.shape or not np.allclose(e.mel_frequencies, frequencies) for e in given
    ):
        raise ValueError("the explanations have different mel channels: look at those of one kind of model at a time.")
    wanted = None if texts is None else {_plain(text, level) for text in ([texts] if isinstance(texts, str) else texts)}
    values, found, utterances = [], [], []
    for word in spoken_words(given, times)[0]:
        spans = [(word.text, word.begin, word.end)]
        if level == "phone":
            phones = times[word.utterance].phones_of(Segment(word.text, word.begin, word.end))
            spans = [(phone.text, phone.begin, phone.end) for phone in phones]
        for text, begin, end in spans:
            frames = frames_in(len(word.attr), word.frames_per_second, begin, end)
            if frames.any() and (wanted is None or _plain(text, level) in wanted):
                values.append(word.attr[frames].max(0))
                found.append(text)
                utterances.append(word.utterance)
    if not values:
        what = "none" if wanted is None else f"no {', '.join(map(repr, sorted(wanted)))}"
        raise ValueError(f"there is {what} among the {level}s of the explanations that are in their alignments.")
    return FrequencyProfile(frequencies, np.stack(values), found, utterances, len(given))


def plot_frequency_profiles(profiles: Mapping[str, FrequencyProfile], title: str = "") -> Figure:
    """The mean of each profile by frequency, with its interval (paper, Fig. 7).

    Args:
        profiles: by name, with the same mel channels.
        title: the title of the figure.

    Returns:
        Figure: to save or to change.

    Raises:
        ValueError: no profile, or mel channels that differ.

    Example::

        >>> from captum_spes.metrics import frequency_profile, plot_frequency_profiles
        >>> profiles = {word: frequency_profile(explanations, alignments, word) for word in ("so", "no")}
        >>> plot_frequency_profiles(profiles, "so and no").savefig("profiles.png")
    """
    if not profiles:
        raise ValueError("there is no profile: give one, or several.")
    names = {name: f"{name} ({len(profile)})" for name, profile in profiles.items()}
    panel = CurvePanel(
        title,
        "frequency (Hz, on the mel scale)",
        "attribution, 0 to 1",
        steps=next(iter(profiles.values())).frequencies.tolist(),
        curves={names[name]: profile.mean for name, profile in profiles.items()},
        bands={names[n]: band for n, p in profiles.items() if np.isfinite(band := p.interval).all()},
        y_range=None,
        mel_scale=True,
    )
    return plot_curves([panel])


def _plain(text: str, level: Level) -> str:
    """Without case; a word without punctuation, a vowel without its stress."""
    return letters(text) if level == "word" else text.strip().casefold().rstrip("012")
