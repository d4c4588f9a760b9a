"""The analyses of plausibility, with maps whose answers are known."""

import math
import random

import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgba
from scipy import stats

from captum_spes import SpeechToTextExplanation
from captum_spes.alignment import Alignment, Segment
from captum_spes.metrics import (
    ExplainedToken,
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
from captum_spes.metrics.plausibility.boundaries import _n_met
from captum_spes.metrics.plausibility.statistics import compare_means
from captum_spes.visualization import (
    CurvePanel,
    plot_curves,
    plot_distributions,
    plot_shares,
    plot_token_bars,
    plot_word_times,
)

FREQUENCIES = torch.tensor([250.0, 500.0, 2000.0, 6000.0])
T, C = 20, len(FREQUENCIES)


def explain(tokens, attr=None, token_attr=None, n_prompt=1, **changes):
    """An explanation of some tokens at 10 frames a second; maps are 0 where none are given."""
    k = len(tokens)
    previous = [f"<p{i}>" for i in range(n_prompt)] + tokens[:-1]
    attr = torch.zeros(k, T, C) if attr is None else torch.as_tensor(attr, dtype=torch.float32)
    token_attr = torch.zeros(k, len(previous)) if token_attr is None else torch.tensor(token_attr)
    given = {
        "text": "".join(tokens).strip(),
        "tokens": tokens,
        "previous_tokens": previous,
        "spectrogram": torch.rand(attr.shape[1:], generator=torch.Generator().manual_seed(0)),
        "spectrogram_attr": attr,
        "token_attr": token_attr.float(),
        "n_previous": n_prompt + torch.arange(k),
        "frames_per_second": 10.0,
        "mel_frequencies": FREQUENCIES[: attr.shape[2]],
        **changes,
    }
    return SpeechToTextExplanation(**given)


def peaks(*bins):
    """A map for each list of (frame, channel), 1 there and 0 elsewhere."""
    maps = torch.zeros(len(bins), T, C)
    for row, places in enumerate(bins):
        for frame, channel in places:
            maps[row, frame, channel] = 1
    return maps


def align(*segments, phones=()):
    return Alignment([Segment(*s) for s in segments], [Segment(*p) for p in phones], "by hand")


TWO = align(("so", 0.2, 0.5), ("what", 1.0, 1.4))


# Time


def test_a_word_in_its_place():
    found = time_localization(explain([" So", " what"], peaks([(3, 0)], [(12, 1)])), TWO, tolerance=0)
    so, what = found.words
    assert (so.hit, what.hit) == (1, 1)
    assert so.peak == pytest.approx(0.35) and so.offset == pytest.approx(0.0)
    assert (so.precision, so.recall) == (1, pytest.approx(1 / 3))
    assert so.chance == pytest.approx(3 / 20) and what.chance == pytest.approx(4 / 20)
    assert so.inside == pytest.approx(1 / 3 + 2 / 3 * so.outside)  # one frame of three is 1, the others are the lowest
    assert found.sources == ["by hand"] and not found.unmatched


def test_a_word_in_the_place_of_another():
    """The paper's test is lost, and so is the one against the other words."""
    found = time_localization(explain([" So", " what"], peaks([(12, 0)], [(3, 1)])), TWO)
    assert [word.hit for word in found.words] == [0, 0]
    assert [round(word.offset, 2) for word in found.words] == [0.9, -0.85]
    assert found.test.difference < 0 and found.test_against_other_words.difference < 0
    assert found.mean("hit") == 0


def test_the_tolerance_of_the_pointing_game():
    explanation = explain([" So", " what"], peaks([(5, 0)], [(14, 0)]))  # a frame behind their ends
    assert time_localization(explanation, TWO, tolerance=0).mean("hit") == 0
    assert time_localization(explanation, TWO, tolerance=0.06).mean("hit") == 1


def test_several_peaks_count_in_parts_and_a_constant_map_is_chance():
    found = time_localization(explain([" So", " what"], peaks([(3, 0), (9, 2)], [])), TWO, tolerance=0)
    so, what = found.words
    assert so.hit == 0.5 and so.peak == pytest.approx((0.35 + 0.95) / 2)
    assert what.hit == what.chance == pytest.approx(4 / 20)
    assert what.inside == what.outside == what.other_words
    assert (what.precision, what.recall) == (pytest.approx(4 / 20), 1)


def test_the_map_of_a_word_is_the_mean_of_its_tokens():
    attr = peaks([(3, 0)], [(4, 0)], [(12, 0)])
    found = time_localization(explain([" S", "o", " what"], attr), TWO)
    assert [word.word for word in found.words] == ["So", "what"]
    assert found.words[0].peak == pytest.approx(0.4)  # both frames are as large


def speech(seed, n_words=6):
    """An utterance whose words have their maps in their places, with noise."""
    noise = torch.rand(n_words, 60, C, generator=torch.Generator().manual_seed(seed))
    segments = []
    for word in range(n_words):
        begin = word * 10 + 2
        noise[word, begin : begin + 6, word % C] += 1
        segments.append((f"w{word}", begin / 10, begin / 10 + 0.6))
    return explain([f" w{word}" for word in range(n_words)], noise), align(*segments)


def test_the_test_tells_maps_in_their_places_from_shuffled_ones():
    explanations, alignments = zip(*(speech(seed) for seed in range(6)))
    own = time_localization(explanations, alignments)
    shuffled = time_localization(explanations, alignments, maps="shuffled")
    assert own.test.p_value < 1e-6 and own.papers_test.p_value < 1e-6 and own.test_against_other_words.p_value < 1e-6
    assert own.test.low > 0
    assert shuffled.test.p_value > 0.05
    assert own.mean("hit") == 1 and shuffled.mean("hit") < 0.5
    assert own.interval("hit") == (1, 1)
    assert time_localization(explanations, alignments, maps="shuffled").test == shuffled.test  # the same seed
    a = np.array([word.inside for word in own.words])
    b = np.array([word.outside for word in own.words])
    assert own.test.p_value == pytest.approx(stats.ttest_rel(a, b, alternative="greater").pvalue)
    assert own.papers_test.p_value == pytest.approx(
        stats.ttest_ind(a, b, equal_var=False, alternative="greater").pvalue
    )


def test_a_map_of_all_speech_passes_the_papers_test_alone():
    """As the energy of the sound does: it is larger where words are, whichever they are."""
    results = []
    for seed in range(6):
        _, alignment = speech(seed)
        attr = 0.1 * torch.rand(60, C, generator=torch.Generator().manual_seed(seed))
        for word in alignment.words:
            attr[round(word.begin * 10) : round(word.end * 10)] += 1
        results.append((explain([f" w{word}" for word in range(6)], attr.expand(6, -1, -1)), alignment))
    found = time_localization(*zip(*results))
    assert found.papers_test.p_value < 1e-6
    assert found.test_against_other_words.p_value > 0.05


def test_words_without_a_time_are_told():
    alignment = align(("so", 0.2, 0.5), ("what", 0.51, 0.54), ("now", 2.5, 2.9))
    found = time_localization(explain([" So", " what", " then", " now", "?", "<|endoftext|>"]), alignment)
    assert [word.word for word in found.words] == ["So"]
    assert [(word.word, word.reason) for word in found.unmatched] == [
        ("what", "its span holds no frame of the audio"),
        ("then", "no word of the alignment matches it"),
        ("now", "its span holds no frame of the audio"),
    ]


def test_a_single_word():
    found = time_localization(explain([" So"], peaks([(3, 0)])), TWO)
    assert found.mean("hit") == 1
    assert math.isnan(found.test.p_value) and math.isnan(found.test.low)
    assert np.isnan(found.interval("hit")).all()
    assert math.isnan(found.words[0].other_words)
    with pytest.raises(ValueError, match="they cannot be compared"):
        _ = found.test_against_other_words


def test_time_refusals():
    explanation = explain([" So", " what"])
    with pytest.raises(ValueError, match="2 alignments for 1 explanations"):
        time_localization(explanation, [TWO, TWO])
    with pytest.raises(ValueError, match="no word of the explanations"):
        time_localization(explanation, align(("else", 0, 1)))
    with pytest.raises(ValueError, match="maps must be"):
        time_localization(explanation, TWO, maps="random")
    with pytest.raises(ValueError, match="tolerance"):
        time_localization(explanation, TWO, tolerance=-1)
    with pytest.raises(ValueError, match="threshold"):
        time_localization(explanation, TWO, threshold=0)
    with pytest.raises(ValueError, match="of words or a sentence"):
        time_localization(explanation.words(), TWO)
    with pytest.raises(ValueError, match="there is no explanation"):
        time_localization([], [])
    with pytest.raises(ValueError, match="NaN"):
        time_localization(explain([" So"], torch.full((1, T, C), torch.nan)), TWO)


# Phones


PHONES = align(("so", 0.2, 0.6), phones=[("S", 0.2, 0.4), ("OW", 0.4, 0.6)])


def test_boundaries_of_phones():
    found = phone_boundaries(explain([" So"], peaks([(2, 0), (3, 0)])), PHONES)
    assert (found.onsets.precision, found.onsets.recall, found.onsets.f1) == (1, 0.5, pytest.approx(2 / 3))
    assert (found.offsets.precision, found.offsets.recall) == (1, 0.5)  # the run ends with the /s/
    assert (found.onsets.n_found, found.onsets.n_phones) == (1, 2)
    assert 0 < found.onsets.chance_precision < 0.2  # two boundaries in 2 s, ± 20 ms


def test_boundaries_of_speakers_that_overlap():
    overlapping = align(("so", 0.1, 0.9), ("what", 0.2, 0.3), phones=[("S", 0.1, 0.9), ("W", 0.2, 0.3)])
    explanation = explain([" So", " what"], peaks([(i, 0) for i in range(1, 9)], [(2, 0)]))
    found = phone_boundaries(explanation, overlapping)
    assert (found.onsets.precision, found.onsets.recall) == (1, 1)
    assert (found.offsets.precision, found.offsets.recall) == (1, 1)


def test_boundaries_elsewhere_and_within_the_tolerance():
    explanation = explain([" So"], peaks([(15, 0)]))
    assert phone_boundaries(explanation, PHONES).onsets.f1 == 0
    late = explain([" So"], peaks([(3, 0)]))  # from 0.3 to 0.4 s
    assert phone_boundaries(late, PHONES).onsets.precision == 0
    assert phone_boundaries(late, PHONES, tolerance=0.1).onsets.precision == 1
    with pytest.raises(ValueError, match="no phones"):
        phone_boundaries(explanation, TWO)


@pytest.mark.parametrize("seed", range(20))
def test_most_pairs_are_found(seed):
    """Against trying all ways, for boundaries that may be of one pair at most."""
    draw = random.Random(seed)
    first, second = (sorted(draw.randrange(12) for _ in range(draw.randrange(5))) for _ in range(2))

    def most(a, b):
        if not a:
            return 0
        rest = [most(a[1:], b[:i] + b[i + 1 :]) + 1 for i in range(len(b)) if abs(a[0] - b[i]) <= 1]
        return max([most(a[1:], b), *rest])

    assert _n_met(np.array(first, float), np.array(second, float), 1) == most(first, second)


# Order


def test_monotonicity():
    forward = explain([" a", " b", " c", "."], peaks([(2, 0)], [(5, 0)], [(9, 0)], [(0, 0)]))
    backward = explain([" a", " b", " c"], peaks([(9, 0)], [(5, 0)], [(2, 0)]))
    one = explain([" a"], peaks([(2, 0)]))
    same = explain([" a", " b"], peaks([(2, 0)], [(2, 0)]))
    found = monotonicity([forward, backward, one, same])
    assert found.centres[0].tolist() == pytest.approx([0.25, 0.55, 0.95])
    assert found.taus[:2].tolist() == [pytest.approx(1), pytest.approx(-1)] and np.isnan(found.taus[2:]).all()
    assert found.forward[:2].tolist() == [1, 0]
    assert found.mean == pytest.approx(0)
    assert found.interval == (pytest.approx(-1), pytest.approx(1))
    assert math.isnan(monotonicity(one).mean)


def test_a_map_without_a_place_has_its_centre_in_the_middle():
    assert monotonicity(explain([" a", " b"])).centres[0].tolist() == [pytest.approx(1.0)] * 2


def test_constant_maps_have_no_order():
    token_attr = torch.rand(8, 8, generator=torch.Generator().manual_seed(0)).tolist()  # their scales differ
    found = monotonicity(explain([f" {letter}" for letter in "abcdefgh"], None, token_attr))
    assert np.isnan(found.taus).all() and found.forward.tolist() == [0]


# Frequency


def test_profiles_of_words_and_phones():
    attr = peaks([(2, 3), (4, 1)], [(12, 0)])
    alignment = align(
        ("so", 0.2, 0.5),
        ("no", 1.0, 1.4),
        phones=[("S", 0.2, 0.3), ("OW1", 0.3, 0.5), ("N", 1.0, 1.2), ("OW0", 1.2, 1.4)],
    )
    explanation = explain([" So", " no"], attr)
    so = frequency_profile(explanation, alignment, "so")
    assert so.mean.tolist() == [pytest.approx(so.mean.min()), 1, pytest.approx(so.mean.min()), 1] and len(so) == 1
    assert frequency_profile(explanation, alignment, "S", level="phone").mean.argmax() == 3
    ow = frequency_profile(explanation, alignment, "ow", level="phone")
    assert ow.texts == ["OW1", "OW0"] and len(ow) == 2
    assert ow.band(400, 600).tolist() == [1, pytest.approx(ow.values.min())]
    assert np.isnan(so.interval).all() and np.isnan(so.mean_frequency_interval).all()  # a single utterance
    everything = frequency_profile(explanation, alignment)
    assert everything.texts == ["So", "no"]
    assert len(plot_frequency_profiles({"so": so, "all": everything}).axes) == 1


def test_phones_that_differ_in_letter_case_alone():
    sampa = align(("sash", 0.2, 0.8), phones=[("s", 0.2, 0.4), ("2", 0.4, 0.6), ("S", 0.6, 0.8)])
    explanation = explain([" sash"], peaks([(3, 3), (7, 0)]))
    for phone in ("s", "S", "2"):
        assert frequency_profile(explanation, sampa, phone, level="phone").texts == [phone]
    assert frequency_profile(explanation, sampa, ["s", "S"], level="phone").texts == ["s", "S"]
    cmu = align(("sash", 0.2, 0.8), phones=[("S", 0.2, 0.4), ("AE1", 0.4, 0.6), ("SH", 0.6, 0.8)])
    assert frequency_profile(explanation, cmu, ["s", "ae"], level="phone").texts == ["S", "AE1"]


def voices(n=8, high=3, low=2):
    """Women's words light up a channel higher than men's."""
    explanations = [explain([" so"], peaks([(3, high if number % 2 else low)])) for number in range(n)]
    return explanations, [align(("so", 0.2, 0.5))] * n


def test_women_and_men():
    profile = frequency_profile(*voices(), "so")
    women, men = profile.of([1, 3, 5, 7]), profile.of([0, 2, 4, 6])
    assert len(women) == len(men) == 4
    low = women.values[0, 0]
    expected = (6000 + low * 2750) / (1 + 3 * low)
    assert women.mean_frequency == pytest.approx(expected) and women.mean_frequency > men.mean_frequency
    assert women.mean_frequency_interval == (pytest.approx(expected), pytest.approx(expected))
    difference = women.compare_mean_frequency(men)
    assert difference.low > 0 and difference.difference == pytest.approx(women.mean_frequency - men.mean_frequency)
    assert women.compare_band(men, 5000, 7000).difference == pytest.approx(1 - low)
    with pytest.raises(ValueError, match="no occurrences"):
        profile.of([])
    with pytest.raises(ValueError, match="no mel channel"):
        profile.band(7000, 9000)


def test_a_flat_profile_has_the_mean_of_the_channels():
    profile = frequency_profile(explain([" so"], peaks([])), align(("so", 0.2, 0.5)))
    assert profile.mean_frequency == pytest.approx(float(FREQUENCIES.mean()))


def test_frequency_refusals():
    explanations, alignments = voices(2)
    with pytest.raises(ValueError, match="there is no 'no' among the words"):
        frequency_profile(explanations, alignments, "No")
    with pytest.raises(ValueError, match="level must be"):
        frequency_profile(explanations, alignments, level="syllable")
    other = explain([" so"], mel_frequencies=FREQUENCIES + 1)
    with pytest.raises(ValueError, match="different mel channels"):
        frequency_profile([explanations[0], other], alignments)
    with pytest.raises(ValueError, match="make both from the same explanations"):
        first = frequency_profile(explanations, alignments)
        first.compare_band(frequency_profile(explanations[0], alignments[0]), 0, 500)
    with pytest.raises(ValueError, match="there is no profile"):
        plot_frequency_profiles({})


# Kurtosis


def test_kurtosis_by_token():
    generator = torch.Generator().manual_seed(0)
    flat = torch.rand(3, T, C, generator=generator)
    explanations = [
        explain([" so", ".", "<|endoftext|>"], torch.cat((peaks([(3, 0)]), flat[1:]))),
        explain([" so", ".", "<|endoftext|>"], torch.cat((peaks([(9, 1)]), flat[:2]))),
        explain([" no"], peaks([])),
    ]
    found = token_kurtosis(explanations, min_count=2)
    assert found.top(1) == [" so"] and set(found.bottom(2)) == {".", "<|endoftext|>"}
    assert found.counts == {" so": 2, ".": 2, "<|endoftext|>": 2} and found.n_flat == 1
    assert found.means[" so"] == pytest.approx(stats.kurtosis(peaks([(3, 0)]).flatten().numpy()))
    assert found.mean("words") == pytest.approx(found.means[" so"])
    assert found.test.difference > 70 and found.test.low > 0 and found.test.n == (2, 4)
    assert [bar.get_facecolor() for bar in found.plot().axes[0].patches].count(to_rgba("#0072B2")) == 2  # of three
    scaled = token_kurtosis([explain([" so"], 5 * peaks([(3, 0)]) - 2)], min_count=1)
    assert scaled.means[" so"] == pytest.approx(found.means[" so"], rel=1e-4)


def test_kurtosis_where_nothing_is_frequent():
    found = token_kurtosis(explain([" so"], peaks([(3, 0)])))
    assert found.min_count == 100 and not found.means and found.top() == found.bottom() == []
    with pytest.raises(ValueError, match="no token occurs 100 times"):
        found.plot()
    with pytest.raises(ValueError, match="they cannot be compared"):
        _ = found.test
    with pytest.raises(ValueError, match="min_count"):
        token_kurtosis(explain([" so"]), min_count=0)


# Previous tokens


def test_previous_tokens_by_position():
    token_attr = [[0.5, 0.5, 0, 0, 0], [0.5, 0.3, 1, 0, 0], [0.5, 0.3, 0.2, 1, 0], [0.5, 0.3, 1, 0.1, 0.2]]
    explanation = explain([" What", " is", " it", "?"], token_attr=token_attr, n_prompt=2)
    found = previous_token_saliency(explanation, min_count=1)
    assert {position: len(values[0]) for position, values in found.values.items()} == {
        "start": 6,
        "intermediate": 3,  # one of " it", two of "?"
        "last": 3,
    }
    assert found.explained == [ExplainedToken("?", 1, 1.0, [(" What", 1)])]
    assert found.mean("last") > found.mean("start") > 0
    difference = found.compare("last", "intermediate")
    assert difference.difference == pytest.approx(found.mean("last") - found.mean("intermediate"))
    assert math.isnan(difference.low)  # a single utterance
    assert len(found.plot().axes) == 1


@pytest.mark.parametrize(
    "row, by",
    [
        ([0.1, 0.9, 0.2, 0.9], None),  # as large as the last token's
        ([0.9, 0.9, 0.2, 0.3], None),  # as the start's
        ([0.1, 0.9, 0.9, 0.3], " b"),  # of two intermediate ones the latest
    ],
)
def test_ties_of_previous_tokens(row, by):
    token_attr = [[0.5, 0, 0, 0], [0.1, 0.2, 0, 0], [0.1, 0.1, 0.9, 0], row]
    found = previous_token_saliency(explain([" a", " b", " c", "?"], token_attr=token_attr), min_count=1)
    assert [item.by for item in found.explained] == ([] if by is None else [[(by, 1)]])


def test_only_frequent_tokens_are_explained():
    token_attr = [[0.5, 0, 0, 0], [0.1, 0.2, 0, 0], [0.1, 0.1, 0.9, 0], [0.1, 0.9, 0.1, 0.2]]
    once = explain([" What", " is", " it", "?"], token_attr=token_attr)
    never = explain([" What", " is", " it", "?"], token_attr=[*token_attr[:3], [0.1, 0.2, 0.1, 0.9]])
    found = previous_token_saliency([once, never, never, never], min_count=4)
    assert found.n_often == 4 and found.explained == [ExplainedToken("?", 4, 0.25, [(" What", 1)])]
    assert not previous_token_saliency([once, never, never, never], min_count=4, min_share=0.3).explained
    assert not previous_token_saliency([once, never, never, never], min_count=5).explained


def test_previous_tokens_of_one_token_and_without_attributions():
    found = previous_token_saliency(explain([" So"], token_attr=[[0.5]]))
    assert all(not len(values[0]) for values in found.values.values()) and math.isnan(found.mean("last"))
    with pytest.raises(ValueError, match="they cannot be compared"):
        found.compare("last", "start")
    with pytest.raises(ValueError, match="no attributions of the previous tokens"):
        previous_token_saliency(explain([" So", " what"]))
    with pytest.raises(ValueError, match="min_share"):
        previous_token_saliency(explain([" So"], token_attr=[[0.5]]), min_share=2)


# Context


def test_the_first_bytes_of_a_character_are_of_the_kind_of_its_word():
    explanation = explain(["は", "", "薬", " ", "?"], torch.rand(5, T, C), [[0.5] * 5] * 5)
    share = context_share(explanation)
    assert [len(share.of(kind)[0]) for kind in ("words", "punctuation", "marks")] == [3, 2, 0]
    found = token_kurtosis(explanation, min_count=1).values
    assert [len(values[0]) for values in found.values()] == [3, 2, 0]


def test_context_share():
    attr = torch.ones(3, T, C) * torch.tensor([3.0, 1.0, 0.0])[:, None, None]
    explanation = explain([" So", ".", "<|endoftext|>"], attr, [[1, 0, 0], [3, 3, 0], [1, 0.5, 1.5]])
    found = context_share(explanation)
    assert found.shares[0].tolist() == [0.25, 0.75, 1]
    assert found.guessed() == [".", "<|endoftext|>"]
    assert (found.mean("words"), found.mean("punctuation"), found.mean("marks")) == (0.25, 0.75, 1)
    assert found.test.difference == pytest.approx(0.875 - 0.25)
    assert len(found.plot().axes) == 1


def test_a_first_token_without_a_prompt_depends_on_the_sound_alone():
    explanation = explain([" So", " what"], torch.ones(2, T, C), [[0.0], [3.0]], n_prompt=0)
    assert context_share(explanation).shares[0].tolist() == [0, 0.75]


def test_paired_share():
    attr = peaks([(3, 0)], [(4, 0)])
    explanation = explain([" So", "."], attr, [[-1, 0], [-1, 8.0]])
    with pytest.raises(ValueError, match="mean impacts"):
        context_share(explanation)
    [shares] = context_share(explanation, measure="paired").shares
    paired = explanation.normalize()
    for row in range(2):
        spectrogram, text = float(paired.spectrogram_attr[row].max()), float(paired.token_attr[row].max())
        assert shares[row] == pytest.approx(text / (spectrogram + text))


def test_context_refusals():
    with pytest.raises(ValueError, match="no attributions of the previous tokens"):
        context_share(explain([" So"]))
    with pytest.raises(ValueError, match="measure must be"):
        context_share(explain([" So"], token_attr=[[1.0]]), measure="sum")
    with pytest.raises(ValueError, match="mean impacts"):
        context_share(explain([" So", "."], token_attr=[[1.0, 0], [1.0, 2]]).normalize())
    assert context_share(explain([" So", "."], token_attr=[[0, 0], [0, 1.0]])).shares[0].tolist() == [0.5, 1]


# Statistics


def test_intervals_draw_utterances_not_values():
    """A hundred equal values of one utterance say no more than one."""
    values = [np.full(100, 1.0), np.full(100, 2.0), np.full(100, 3.0)]
    zeros = [np.zeros(100)] * 3
    found = compare_means(values, zeros)
    assert found.difference == pytest.approx(2) and found.p_value < 1e-6
    assert found.high - found.low > 1
    assert found.n == (300, 300)
    assert compare_means([np.ones(1), np.zeros(0)], [np.zeros(0), np.zeros(1)]).difference == 1


def test_a_group_in_one_utterance_decides_nothing():
    """The mean of a single woman among nine men does not vary over the draws, whatever she says."""
    woman, none = [np.full(5, 9.0), *[np.zeros(0)] * 9], np.zeros(0)
    found = compare_means(woman, [none, *np.random.default_rng(0).normal(0, 1, (9, 5))])
    assert found.n_utterances == 1 and np.isnan(found.low) and found.verdict == "undecided"


@pytest.mark.parametrize("alternative", ["greater", "less", "two-sided"])
def test_welch(alternative):
    random_state = np.random.default_rng(0)
    a, b = random_state.normal(1, 1, 30), random_state.normal(0, 3, 50)
    found = compare_means([a], [b], alternative)
    assert found.p_value == pytest.approx(stats.ttest_ind(a, b, equal_var=False, alternative=alternative).pvalue)
    assert "Welch" in found.test


# Pictures


def test_words_in_time():
    figure = plot_time(explain([" So", " what", "?"], peaks([(3, 0)], [(12, 1)], [])), TWO)
    ax = figure.axes[0]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["So", "what", "?"]
    assert [(patch.get_x(), patch.get_y()) for patch in ax.patches] == [(0.2, -0.5), (1.0, 0.5)]
    assert ax.get_xlim() == (0, 2)


def test_bars_of_tokens():
    figure = plot_token_bars([" so", ".", "<|endoftext|>"], [20.0, -0.5, 0.1], [40, 30, 20], "kurtosis", n_top=1)
    ax = figure.axes[0]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["so", ".", "<|endoftext|>"]
    assert [bar.get_width() for bar in ax.patches] == [20, -0.5, 0.1]
    assert len({bar.get_facecolor() for bar in ax.patches}) == 2
    assert [text.get_text() for text in ax.texts] == ["20.0  (40×)", "-0.5  (30×)", "0.1  (20×)"]


def test_shares_are_stacked():
    ax = plot_shares([" So", "."], [0.25, 1.0]).axes[0]
    assert [bar.get_height() for bar in ax.patches] == [0.25, 1, 0.75, 0]


def test_frequencies_lie_as_mel_channels_do():
    """Which are evenly apart on Slaney's scale."""
    mel_to_hertz = pytest.importorskip("transformers.audio_utils").mel_to_hertz
    frequencies = mel_to_hertz(np.linspace(0, 45, 82), mel_scale="slaney")[1:-1]
    ax = plot_curves([CurvePanel("", "Hz", "", frequencies.tolist(), {"a": frequencies}, y_range=None, mel_scale=True)])
    axes = ax.axes[0]
    places = axes.transData.transform(np.column_stack([frequencies, frequencies]))[:, 0]
    assert np.ptp(np.diff(places)) < 0.02 * np.diff(places).mean()


@pytest.mark.parametrize(
    "plot, words",
    [
        (lambda: plot_word_times(torch.rand(1, 5), ["a"], [], 10), "a span for each"),
        (lambda: plot_word_times(torch.rand(2, 5), ["a"], [None], 10), "must be of shape"),
        (lambda: plot_token_bars([], [], [], "", 0), "give at least one token"),
        (lambda: plot_distributions({}, ""), "give at least one group"),
        (lambda: plot_distributions({"a": []}, ""), "values in each"),
        (lambda: plot_distributions({"a": [1.5]}, ""), "from 0 to 1"),
        (lambda: plot_shares(["a"], [1.5]), "a share from 0 to 1"),
    ],
)
def test_pictures_of_what_does_not_fit(plot, words):
    with pytest.raises(ValueError, match=words):
        plot()
