"""The frequencies that matter for words and phones (paper §8.1, Fig. 7)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from captum_spes.alignment import Alignment, Segment
from captum_spes.metrics.plausibility.statistics import (
    Alternative,
    MeanComparison,
    by_utterance,
    compare_means,
    mean_band,
    mean_interval,
)
from captum_spes.metrics.plausibility.words import Alignments, Explanations, aligned, frames_in, spoken_words
from captum_spes.visualization import CurvePanel, plot_curves
from captum_spes.words import letters

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Level = Literal["word", "phone"]


@dataclass(frozen=True, eq=False)
class FrequencyProfile:
    """The importance of each frequency for n occurrences of a word or phone; see :func:`frequency_profile`.

    Attributes:
        frequencies: centre of each mel channel in Hz, (C,).
        values: the importance of each frequency for each occurrence, (n, C).
        texts: the words or phones that occur, n texts.
        utterances: for each occurrence the number of its explanation.
        n_utterances: number of explanations.

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
        """The mean over the occurrences, (C,)."""
        return self.values.mean(0)

    @property
    def interval(self) -> np.ndarray:
        """The 95 % interval of the mean over the utterances, lower and upper ends, (2, C); NaN for one utterance."""
        return mean_band([self.values[np.array(self.utterances) == u] for u in range(self.n_utterances)])

    @property
    def mean_frequencies(self) -> np.ndarray:
        """The mean frequency of each occurrence in Hz, weighted by the values, (n,)."""
        weights = self.values + (self.values.sum(1, keepdims=True) == 0)  # equal weights if all are 0
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
        """The mean value of each occurrence in a band of frequencies in Hz, (n,).

        Raises:
            ValueError: no mel channel has its centre in the band.
        """
        channels = (low <= self.frequencies) & (self.frequencies <= high)
        if not channels.any():
            raise ValueError(f"no mel channel has its centre from {low:g} to {high:g} Hz: give a wider band.")
        return self.values[:, channels].mean(1)

    def compare_band(
        self, other: FrequencyProfile, low: float, high: float, alternative: Alternative = "greater"
    ) -> MeanComparison:
        """Tests whether these occurrences have larger values in a band than others of the same explanations."""
        self._check(other)
        return compare_means(self._parted(self.band(low, high)), other._parted(other.band(low, high)), alternative)

    def compare_mean_frequency(self, other: FrequencyProfile, alternative: Alternative = "greater") -> MeanComparison:
        """Tests whether the mean frequency in Hz is higher than that of other occurrences of the same explanations."""
        self._check(other)
        return compare_means(self._parted(self.mean_frequencies), other._parted(other.mean_frequencies), alternative)

    def of(self, utterances: Sequence[int]) -> FrequencyProfile:
        """The occurrences in some utterances, such as those of one group of speakers.

        Raises:
            ValueError: there are none.
        """
        chosen = [row for row, number in enumerate(self.utterances) if number in set(utterances)]
        if not chosen:
            raise ValueError("there are no occurrences in these utterances: give other utterances.")
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
                f"the profiles have {self.n_utterances} and {other.n_utterances} explanations: make both from the same "
                "explanations."
            )


def frequency_profile(
    explanations: Explanations,
    alignments: Alignments,
    texts: str | Sequence[str] | None = None,
    *,
    level: Level = "word",
) -> FrequencyProfile:
    """The importance of each frequency while a word or a phone is spoken (paper §8.1, Fig. 7).

    For every occurrence and each frequency, it is the maximum of the word's map over the frames in which the word or
    phone is spoken. A word's map is the mean of its tokens' normalised maps, from 0 to 1.

    Args:
        explanations: explanations of the tokens of one or several utterances, all with the same mel channels.
        alignments: an alignment for each explanation; the level ``"phone"`` needs alignments with phones.
        texts: a word or phone, or several that are pooled; None for all. The stress of a vowel, as in ``"OW1"``, is
            ignored, and so is letter case, except for phones that the alignments write in this case: the *s* and *S*
            of SAMPA are two phones.
        level: ``"word"``, or ``"phone"`` in the symbols of the alignment.

    Returns:
        FrequencyProfile: with ``mean`` and its ``interval``, ``mean_frequency`` and its interval, and ``band``.

    Raises:
        ValueError: there is no occurrence, there is not one alignment for each explanation, or mel channels differ.

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
    frequencies = given[0].mel_frequencies.double().numpy()
    if any(
        e.mel_frequencies.shape != frequencies.shape or not np.allclose(e.mel_frequencies, frequencies) for e in given
    ):
        raise ValueError("the explanations have different mel channels: give explanations of one kind of model.")
    wanted = None if texts is None else _wanted([texts] if isinstance(texts, str) else texts, level, times)
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
    """Draws the mean of each profile by frequency, with its interval (paper, Fig. 7).

    Args:
        profiles: profiles by name, with the same mel channels.
        title: the title of the figure.

    Returns:
        Figure: the figure.

    Raises:
        ValueError: there is no profile, or mel channels differ.

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


def _wanted(texts: Sequence[str], level: Level, alignments: Sequence[Alignment]) -> set[str]:
    """The texts as :func:`_plain` gives them; phones in the letter case of the alignments."""
    wanted = {_plain(text, level) for text in texts}
    if level == "word":
        return wanted
    known = {_plain(phone.text, level) for alignment in alignments for phone in alignment.phones}
    cases = {text: {phone for phone in known if phone.casefold() == text.casefold()} for text in wanted - known}
    return (wanted & known).union(*(found or {text} for text, found in cases.items()))


def _plain(text: str, level: Level) -> str:
    """A word in lower case without punctuation, or a phone without the stress of a vowel."""
    return letters(text) if level == "word" else re.sub(r"(?<=[^\W\d])[012]$", "", text.strip())
