"""The analyses; each makes a row of a table, numbers and figures from the explanations of one method."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from captum_spes._text import format_number
from captum_spes.alignment import Alignment
from captum_spes.explanation import SpeechToTextExplanation
from captum_spes.metrics import (
    FrequencyProfile,
    MeanComparison,
    context_share,
    frequency_profile,
    monotonicity,
    phone_boundaries,
    plot_frequency_profiles,
    plot_time,
    previous_token_saliency,
    time_localization,
    token_kurtosis,
)
from captum_spes.metrics.bootstrap import MIN_PAIRS
from captum_spes.metrics.plausibility.kurtosis import MIN_COUNT
from captum_spes.metrics.plausibility.statistics import Verdict, format_p

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MINIMAL_PAIR = ("so", "no")  # paper, Fig. 7
PHONE_PAIR = ("S", "N")  # the phones in which the words differ
# Hz: the bands in which the paper expects a sibilant, and the murmur of a nasal
BANDS = {"above 4 kHz": (4000.0, 1e6), "200 to 400 Hz": (200.0, 400.0)}
GENDERS = {"female": ("female", "f", "woman", "women"), "male": ("male", "m", "man", "men")}
N_SENTENCES = 4  # number of utterances of each method that are drawn
N_TOKENS = 5


@dataclass(frozen=True)
class Group:
    """The explanations of one method.

    Attributes:
        method: its name.
        utterances: the ids of the utterances.
        explanations: an explanation of the tokens for each utterance.
        alignments: an alignment for each utterance, or None.
        fields: the fields of each utterance in the corpus.
        min_count: least number of occurrences of a token that is analysed separately.
        words: the words whose frequencies are compared.
    """

    method: str
    utterances: list[str]
    explanations: list[SpeechToTextExplanation]
    alignments: list[Alignment | None]
    fields: list[Mapping[str, str]]
    min_count: int = MIN_COUNT
    words: Sequence[str] = MINIMAL_PAIR

    @property
    def aligned(self) -> tuple[list[SpeechToTextExplanation], list[Alignment]]:
        """The explanations that have an alignment, and their alignments.

        Raises:
            ValueError: there is no alignment.
        """
        pairs = [(e, a) for e, a in zip(self.explanations, self.alignments) if a is not None]
        if not pairs:
            raise ValueError(
                "there are no alignments: give --alignments, --corpus with alignments beside the audio, or "
                "--force-align."
            )
        return [e for e, _ in pairs], [a for _, a in pairs]

    @property
    def aligned_utterances(self) -> list[str]:
        """Their ids."""
        return [name for name, alignment in zip(self.utterances, self.alignments) if alignment is not None]

    def numbers_of(self, gender: str) -> list[int]:
        """The numbers of the aligned explanations of women, or men, by the corpus' column ``gender``."""
        fields = [given for given, alignment in zip(self.fields, self.alignments) if alignment is not None]
        return [n for n, given in enumerate(fields) if _has_gender(given, gender)]


def _has_gender(fields: Mapping[str, str], gender: str) -> bool:
    """Whether the row of an utterance names this gender."""
    return fields.get("gender", "").strip().lower() in GENDERS[gender]


@dataclass(frozen=True)
class Finding:
    """The finding of an analysis for one method.

    Attributes:
        rows: rows of the analysis' table, without the method.
        data: all numbers.
        answer: the answer to the section's question, yes, no or undecided, with the number that decides; or "".
        figures: functions that make the figures, by the name of the file.
    """

    rows: list[tuple[str, ...]]
    data: dict[str, Any]
    answer: str = ""
    figures: Mapping[str, Callable[[], Figure]] = field(default_factory=dict)


@dataclass(frozen=True)
class Section:
    """An analysis: its title, the description of its table, its function, and the question that it answers, if any."""

    title: str
    note: str
    columns: tuple[str, ...]
    analyse: Callable[[Group], Finding]
    question: str = ""


# The analyses of the explanations of one method. They raise a ValueError if they are not possible.


def _time(group: Group) -> Finding:
    explanations, alignments = group.aligned
    found = time_localization(explanations, alignments)
    shuffled = time_localization(explanations, alignments, maps="shuffled")
    tests = {"outside": found.test, "paper": found.papers_test, "shuffled": shuffled.test}
    against_others = ""
    try:
        tests["other words"] = found.test_against_other_words
        against_others = _test(tests["other words"])
    except ValueError:  # each utterance is a single word
        pass
    row = (
        str(len(found.words)),
        _test(tests["outside"]),
        against_others,
        _test(tests["shuffled"]),
        f"{_percent(found.mean('hit'))} ({_percent(found.mean('chance'))})",
        f"{_percent(found.mean('precision'))} / {_percent(found.mean('recall'))}",
        format_number(1000 * float(np.median([word.offset for word in found.words])), 0, "+"),
    )
    peaks = f"{_percent(found.mean('hit'))} of the peaks are in the span, {_percent(found.mean('chance'))} by chance"
    names = group.aligned_utterances
    drawn = list(zip(names, explanations, alignments))[:N_SENTENCES]
    return Finding(
        [row],
        {
            "sources": found.sources,
            "tests": {name: _numbers(test) for name, test in tests.items()},
            "means": {n: found.mean(n) for n in ("hit", "chance", "precision", "recall", "offset")},
            "words": [{**vars(word), "utterance": names[word.utterance]} for word in found.words],
            "unmatched": [{**vars(word), "utterance": names[word.utterance]} for word in found.unmatched],
        },
        _answer(tests.get("other words", tests["outside"]).verdict, peaks),
        {
            f"time/{group.method}/{name}": partial(plot_time, explanation, alignment)
            for name, explanation, alignment in drawn
        },
    )


def _phones(group: Group) -> Finding:
    found = phone_boundaries(*group.aligned)
    row = []
    for score in (found.onsets, found.offsets):
        row.append(f"{_percent(score.precision)} ({_percent(score.chance_precision)})")
        row.append(f"{_percent(score.recall)} ({_percent(score.chance_recall)})")
    data = {name: {**vars(score), "f1": score.f1} for name, score in vars(found).items() if name != "tolerance"}
    return Finding([tuple(row)], {"tolerance": found.tolerance, **data})


def _order(group: Group) -> Finding:
    found = monotonicity(group.explanations)
    known = int((~np.isnan(found.taus)).sum())
    if not known:
        raise ValueError("no utterance has two tokens whose maps have different places in time.")
    low, high = found.interval
    row = (str(known), _interval(found.mean, low, high), _percent(float(np.nanmean(found.forward))))
    is_decided = known >= MIN_PAIRS and (low > 0 or high < 0)
    answer = _answer(("more" if low > 0 else "less") if is_decided else "undecided", f"tau {row[1]}")
    taus = dict(zip(group.utterances, found.taus.tolist()))
    return Finding([row], {"mean": found.mean, "interval": found.interval, "taus": taus}, answer)


def _frequency_of(group: Group, texts: Sequence[str], level: str, name: str) -> Finding:
    explanations, alignments = group.aligned
    profiles: dict[str, FrequencyProfile] = {}
    missing = []
    for text in texts:
        try:
            profiles[text] = frequency_profile(explanations, alignments, text, level=level)  # type: ignore[arg-type]
        except ValueError as error:
            missing.append(str(error))
    if not profiles:
        raise ValueError(missing[0])
    rows = []
    data: dict[str, Any] = {}
    first = next(iter(profiles.values()))
    for number, (text, profile) in enumerate(profiles.items()):
        bands = {band: profile.band(*limits) for band, limits in BANDS.items()}
        tests = {} if not number else {b: first.compare_band(profile, *v, "two-sided") for b, v in BANDS.items()}
        cells = [f"{bands[b].mean():.2f}" + (f"; first less this {_test(tests[b])}" if tests else "") for b in BANDS]
        frequency = _interval(profile.mean_frequency, *profile.mean_frequency_interval, digits=0)
        rows.append((text, str(len(profile)), frequency, *cells))
        data[text] = {
            "n": len(profile),
            "frequencies": profile.frequencies.tolist(),
            "mean": profile.mean.tolist(),
            "interval": profile.interval.tolist(),
            "mean_frequency": profile.mean_frequency,
            "mean_frequency_interval": profile.mean_frequency_interval,
            "first_less_this": {band: _numbers(test) for band, test in tests.items()},
        }
    figure = {f"{name}-{group.method}": lambda: plot_frequency_profiles(profiles, group.method)}
    return Finding(rows, {**data, "missing": missing}, figures=figure)


def _word_frequencies(group: Group) -> Finding:
    return _frequency_of(group, group.words, "word", "words")


def _phone_frequencies(group: Group) -> Finding:
    return _frequency_of(group, PHONE_PAIR, "phone", "phones")


def _voices(group: Group) -> Finding:
    if not all(any(_has_gender(given, gender) for given in group.fields) for gender in GENDERS):
        raise ValueError("the corpus has no column gender with women (female) and men (male): give --corpus with one.")
    everything = frequency_profile(*group.aligned)
    numbers = {gender: group.numbers_of(gender) for gender in GENDERS}
    if not all(numbers.values()):
        raise ValueError("there are no alignments of women, or of men: give --alignments, or --force-align.")
    women, men = (everything.of(numbers[gender]) for gender in GENDERS)
    test = women.compare_mean_frequency(men, "two-sided")
    row = (
        *(_interval(p.mean_frequency, *p.mean_frequency_interval, digits=0) for p in (women, men)),
        f"{len(women)} / {len(men)}",
        _test(test, digits=0),
    )
    data = {"female": women.mean_frequency, "male": men.mean_frequency, "difference": _numbers(test)}
    profiles = {"women": women, "men": men}
    answer = _answer(test.verdict, f"{row[0]} Hz, {row[1]} Hz")
    figures = {f"voices-{group.method}": lambda: plot_frequency_profiles(profiles, group.method)}
    return Finding([row], data, answer, figures)


def _kurtosis(group: Group) -> Finding:
    found = token_kurtosis(group.explanations, min_count=group.min_count)
    if found.n_flat == sum(len(explanation.tokens) for explanation in group.explanations):
        raise ValueError("all maps are constant, so that they have no kurtosis.")
    row = [_interval(found.mean(kind), *found.interval(kind)) for kind in found.values]
    try:
        test = found.test
        row.append(_test(test))
    except ValueError:  # there are no words, or nothing else
        test = None
        row.append("")
    tops = [" ".join(f"`{token}`" for token in names) for names in (found.top(N_TOKENS), found.bottom(N_TOKENS))]
    few = f"no token occurs {group.min_count} times"
    data = {
        "min_count": group.min_count,
        "means": found.means,
        "counts": found.counts,
        "by_kind": {kind: found.mean(kind) for kind in found.values},
        "test": None if test is None else _numbers(test),
        "n_flat": found.n_flat,
    }
    answer = "" if test is None else _answer(test.verdict, f"the difference is {_difference(test)}")
    figures = {f"kurtosis-{group.method}": lambda: found.plot(N_TOKENS)} if found.means else {}
    return Finding([(*row, *(top or few for top in tops))], data, answer, figures)


def _previous(group: Group) -> Finding:
    found = previous_token_saliency(group.explanations, min_count=group.min_count)
    tests = {}
    for pair in (("last", "intermediate"), ("last", "start"), ("start", "intermediate")):
        try:
            tests[f"{pair[0]} less {pair[1]}"] = found.compare(*pair)
        except ValueError as error:
            raise ValueError("the texts are too short to have intermediate tokens.") from error
    explained = "; ".join(
        f"`{item.token}` {_percent(item.share)} ({', '.join(f'`{by}` [{n}]' for by, n in item.by[:2])})"
        for item in found.explained[:N_TOKENS]
    )
    if not found.n_often:
        explained = f"no token occurs {group.min_count} times"
    means = [_interval(found.mean(position), *found.interval(position)) for position in found.values]
    row = (*means, *(_test(test) for test in tests.values()), explained or "none")
    data = {
        "min_count": group.min_count,
        "min_share": found.min_share,
        "means": {position: found.mean(position) for position in found.values},
        "tests": {name: _numbers(test) for name, test in tests.items()},
        "explained": [vars(item) for item in found.explained],
    }
    last = tests["last less intermediate"]
    answer = _answer(last.verdict, f"the difference is {_difference(last)}")
    return Finding([row], data, answer, {f"previous-tokens-{group.method}": found.plot})


def _context(group: Group) -> Finding:
    try:
        found = context_share(group.explanations)
    except ValueError:
        found = context_share(group.explanations, measure="paired")
    kinds = ("words", "punctuation", "marks")
    means = [_interval(found.mean(kind), *found.interval(kind)) for kind in kinds]  # type: ignore[arg-type]
    try:
        test = found.test
    except ValueError:
        test = None
    row = (found.measure, *means, "" if test is None else _test(test))
    drawn = range(min(N_SENTENCES, len(group.utterances)))
    data = {
        "measure": found.measure,
        "test": None if test is None else _numbers(test),
        "utterances": {
            name: {"tokens": tokens, "shares": shares.tolist()}
            for name, tokens, shares in zip(group.utterances, found.tokens, found.shares)
        },
    }
    figures = {f"context/{group.method}/{group.utterances[n]}": partial(found.plot, n) for n in drawn}
    answer = "" if test is None else _answer(test.verdict, f"the share differs by {_difference(test)}")
    return Finding([row], data, answer, figures)


FREQUENCY_NOTE = (
    "For the frames of each occurrence, the maximum over time at each frequency, from 0 to 1 (paper §8.1, Fig. 7). In "
    "brackets 95 % intervals over the utterances; two-sided Welch t-tests."
)
FREQUENCY_COLUMNS = ("n", "mean frequency (Hz)", *BANDS)
SECTIONS = {
    "time": Section(
        "Words in time",
        "The mean of a word's curve in its span minus that outside, and minus that in the spans of the other words, "
        "with 95 % intervals over the utterances and paired one-sided t-tests over the words (paper §8.1). A map that "
        "marks all speech passes the first test but not the second. Shuffled: the first test with frames in random "
        "order. Peaks: the share in the span ± 50 ms, and the share by chance. High frames: the share of them in the "
        "span / the share of the span that is high. Offset: median from the middle of the span to the peak.",
        (
            "words",
            "inside less outside",
            "less other words",
            "shuffled",
            "peaks in the span (chance)",
            "high frames, precision / recall",
            "offset (ms)",
        ),
        _time,
        "Do words light up when they are spoken, more than when other words are?",
    ),
    "phones": Section(
        "Boundaries of phones",
        "Begins and ends of runs of high frames compared with those of phones, within 20 ms; in brackets the same runs "
        "shifted by a random time.",
        ("onsets, precision (chance)", "recall", "offsets, precision", "recall"),
        _phones,
    ),
    "order": Section(
        "Order in time",
        "Kendall's tau between the order of the tokens and the centres of their maps. It is 1 if the maps move forward "
        "in time with the text, as in a transcript.",
        ("utterances", "tau", "steps forward"),
        _order,
        "Do the maps move forward in time as the text does?",
    ),
    "word frequencies": Section(
        "Frequencies of words", FREQUENCY_NOTE, ("word", *FREQUENCY_COLUMNS), _word_frequencies
    ),
    "phone frequencies": Section(
        "Frequencies of phones", FREQUENCY_NOTE, ("phone", *FREQUENCY_COLUMNS), _phone_frequencies
    ),
    "voices": Section(
        "Voices",
        "The mean frequency of the maps of all words, weighted by the attributions, for women and men.",
        ("women (Hz)", "men (Hz)", "words", "difference"),
        _voices,
        "Are the maps of women's words at higher frequencies than men's?",
    ),
    "kurtosis": Section(
        "Kurtosis",
        "The kurtosis of the spectrogram maps (paper §8.2): means over all tokens of a kind, and words minus the other "
        "tokens with a one-sided Welch t-test.",
        ("words", "punctuation", "marks", "words less others", "largest", "smallest"),
        _kurtosis,
        "Are the maps of words more peaked than those of punctuation and marks?",
    ),
    "previous tokens": Section(
        "Previous tokens",
        "Normalised attributions by position (paper §8.3, Fig. 11) with two-sided Welch t-tests, and the tokens whose "
        "largest attribution is that of an intermediate token in a quarter of their occurrences or more (Table 10).",
        (
            "start",
            "intermediate",
            "last",
            "last less intermediate",
            "last less start",
            "start less intermediate",
            "explained by intermediate tokens",
        ),
        _previous,
        "Does the last token before matter more than those between it and the start?",
    ),
    "context": Section(
        "Spectrogram against context",
        "The share of a token's importance that lies in the previous tokens: 0 heard, 1 guessed. Impact: share of the "
        "mean impacts of hiding; paired: share of the largest values of the normalised maps. One-sided Welch t-test.",
        ("measure", "words", "punctuation", "marks", "others less words"),
        _context,
        "Are punctuation and marks explained by the text before more than words are?",
    ),
}


# Numbers as text


def _percent(value: float) -> str:
    return f"{100 * value:.0f} %"


def _interval(value: float, low: float, high: float, digits: int = 2) -> str:
    if np.isnan(value):
        return ""
    text = format_number(value, digits)
    return text if np.isnan(low) else f"{text} [{format_number(low, digits)}, {format_number(high, digits)}]"


def _difference(test: MeanComparison, digits: int = 3) -> str:
    low, high = (format_number(end, digits, "+") for end in (test.low, test.high))
    interval = "" if np.isnan(test.low) else f" [{low}, {high}]"
    return f"{format_number(test.difference, digits, '+')}{interval}"


def _test(test: MeanComparison, digits: int = 3) -> str:
    """The difference and its p-value, which is left out where there are too few utterances for one."""
    p = "" if test.n_utterances < MIN_PAIRS else f", p {format_p(test.p_value)}"
    return _difference(test, digits) + p


def _numbers(test: MeanComparison) -> dict[str, Any]:
    """The numbers of a test; the p-value is NaN where there are too few utterances for one."""
    return vars(test) if test.n_utterances >= MIN_PAIRS else {**vars(test), "p_value": np.nan}


def _answer(verdict: Verdict, reason: str) -> str:
    word = {"more": "yes", "less": "no"}.get(verdict, "undecided")
    return f"{word}: {reason}"
