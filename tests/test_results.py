"""Results of constructed curves: known areas, intervals and paired tests, tables, and files."""

import csv
import json
from math import comb

import jiwer
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sacrebleu.metrics import BLEU
from scipy.stats import kendalltau

from captum_spes.evaluation.results import MIN_PAIRS, N_RESAMPLES, Agreement, Difference, MethodResult, Results
from captum_spes.metrics import Bleu, DeletionCurve, ErasureCurve, SizeCurve, WordErrorRate, symmetric_relevance_gain
from captum_spes.metrics.curve import auc

REFERENCE = "the birch canoe slid on smooth planks of dark wood"  # ten words: a wrong one is 10 %
STEPS = (0, 50, 100)
THRESHOLDS = (0.0, 0.5, 1.0)
WER, BLEU_SCORE = WordErrorRate(), Bleu()
SCORES = {"WER": WER, "BLEU": BLEU_SCORE}
NO_COSTS = {"seconds": [], "forwards": [], "backwards": [], "reliability": []}
area_of = getattr(np, "trapezoid", None) or np.trapz  # NumPy 1 has the old name alone


def text(n_wrong, reference=REFERENCE):
    """The reference with so many wrong words; what it has not enough of is inserted at the end."""
    words = reference.split()
    return " ".join([*["wrong"] * n_wrong, *words[n_wrong:]])


def texts(rows, references=None):
    return [[text(n, ref) for n in row] for row, ref in zip(rows, references or [REFERENCE] * len(rows))]


def curve(rows, score=WER, references=None, steps=STEPS):
    """Of the numbers of wrong words, one row an utterance."""
    references = references or [REFERENCE] * len(rows)
    return DeletionCurve(steps, texts(rows, references), references, score)


def method(deletion=None, insertion=None, sizes=None, token_sizes=None, **costs):
    found = {"size": sizes, "token size": token_sizes}
    curves = {name: SizeCurve(THRESHOLDS, torch.tensor(rows)) for name, rows in found.items() if rows is not None}
    given = {"deletion": deletion, "insertion": insertion, **curves}
    return MethodResult({name: c for name, c in given.items() if c is not None}, **{**NO_COSTS, **costs})


def results_of(methods, **kwargs):
    n = len(next(iter(next(iter(methods.values())).curves.values())).utterance_scores)
    return Results([f"u{number}" for number in range(n)], methods, **kwargs)


def random_rows(n_utterances, seed, most=11):
    return np.random.default_rng(seed).integers(0, most, (n_utterances, len(STEPS))).tolist()


def two_methods(n_utterances=8, score=WER):
    """All metrics of two methods, at random; the names are in the order of the tables, SPES is not first."""
    sizes = 100 * np.random.default_rng(5).random((4, n_utterances, len(THRESHOLDS)))
    return {
        name: method(
            curve(random_rows(n_utterances, 2 * number), score),
            curve(random_rows(n_utterances, 2 * number + 1), score),
            sizes[2 * number].tolist(),
            sizes[2 * number + 1].tolist(),
            seconds=[1.5] * n_utterances,
            forwards=[20_000] * n_utterances,
            backwards=[0] * n_utterances,
            reliability=[None] * n_utterances,
        )
        for number, name in enumerate(("energy", "spes"))
    }


# Areas


def test_areas_by_hand():
    """Wrong words 0, 8, 10 of ten: (0 + 80) / 2 · ½ + (80 + 100) / 2 · ½ = 65; 10, 3, 0: 32.5 + 7.5 = 40."""
    found = results_of({"spes": method(curve([[0, 8, 10]]), curve([[10, 3, 0]]), [[100.0, 40, 0]], [[100.0, 0, 0]])})
    assert found.metrics == ["deletion", "insertion", "SRG", "size", "token size"]
    areas = {metric: found.areas(metric)["spes"] for metric in found.metrics}
    assert areas == {
        "deletion": pytest.approx(65),
        "insertion": pytest.approx(40),
        "SRG": pytest.approx((100 - 40) - (100 - 65)),
        "size": pytest.approx(45),
        "token size": pytest.approx(25),
    }


def test_areas_of_uneven_steps():
    steps = (0, 10, 50)  # (0 + 100) / 2 · 10 + 100 · 40 of 50
    assert results_of({"spes": method(curve([[0, 10, 10]], steps=steps))}).areas("deletion")["spes"] == 90


def test_areas_of_bleu_by_hand():
    """All right is 100, nothing at all 0: the text is lost at the first step, and back at the first."""
    gone, back = [[REFERENCE, "", ""]], [["", REFERENCE, REFERENCE]]
    curves = [DeletionCurve(STEPS, written, [REFERENCE], BLEU_SCORE) for written in (gone, back)]
    found = results_of({"spes": method(*curves)})
    assert [found.areas(metric)["spes"] for metric in found.metrics] == pytest.approx([25, 75, 50])
    reverse = results_of({"spes": method(*curves[::-1])})
    assert reverse.areas("SRG")["spes"] == pytest.approx(-50)


def test_the_same_texts_have_the_same_sign_of_srg_for_wer_and_bleu():
    """More accuracy by insertion than by deletion is a gain, however accuracy is measured."""
    for score in SCORES.values():
        good = results_of({"spes": method(curve([[0, 9, 10]], score), curve([[10, 1, 0]], score))})
        assert good.areas("SRG")["spes"] > 20
        bad = results_of({"spes": method(curve([[0, 1, 10]], score), curve([[10, 9, 0]], score))})
        assert bad.areas("SRG")["spes"] < -20


@pytest.mark.parametrize("score", SCORES)
def test_areas_are_those_of_the_curves(score):
    methods = two_methods(score=SCORES[score])
    found = results_of(methods)
    for name, result in methods.items():
        assert found.areas("deletion")[name] == pytest.approx(result.curves["deletion"].auc, abs=1e-4)
        assert found.areas("insertion")[name] == pytest.approx(result.curves["insertion"].auc, abs=1e-4)
        gain = symmetric_relevance_gain(result.curves["deletion"], result.curves["insertion"])
        assert found.areas("SRG")[name] == pytest.approx(gain, abs=1e-4)
        assert found.areas("size")[name] == pytest.approx(result.curves["size"].auc, abs=1e-4)
        assert found.areas("token size")[name] == pytest.approx(result.curves["token size"].auc, abs=1e-4)


def test_long_utterances_weigh_more_in_wer_and_all_the_same_in_size():
    references = [REFERENCE, "so what"]
    found = results_of({"spes": method(curve([[0, 0, 0], [2, 2, 2]], references=references), sizes=[[90.0] * 3] * 2)})
    assert found.areas("deletion")["spes"] == pytest.approx(200 / 12)
    mixed = results_of({"spes": method(sizes=[[90.0] * 3, [30.0] * 3])})
    assert mixed.areas("size")["spes"] == pytest.approx(60)


def test_areas_against_jiwer_and_numpy():
    rows, references = random_rows(9, 1, most=14), [REFERENCE, "so what was the next step", "in his power"] * 3
    written = texts(rows, references)
    # each text has as many wrong words as its reference has words, at most
    lengths = [len(reference.split()) for reference in references]
    wrong = [
        sum(
            min(length * jiwer.wer(reference, text), length)
            for text, reference, length in zip(column, references, lengths)
        )
        for column in zip(*written)
    ]
    expected = area_of(100 * np.array(wrong) / sum(lengths), STEPS) / 100
    found = results_of({"spes": method(curve(rows, references=references))})
    assert found.areas("deletion")["spes"] == pytest.approx(expected)


def test_areas_against_sacrebleu_and_numpy():
    rows = random_rows(6, 3, most=8)
    scores = [BLEU().corpus_score(list(column), [[REFERENCE] * 6]).score for column in zip(*texts(rows))]
    found = results_of({"spes": method(curve(rows, BLEU_SCORE))})
    assert found.areas("deletion")["spes"] == pytest.approx(area_of(scores, STEPS) / 100)


@settings(max_examples=25)
@given(st.lists(st.lists(st.integers(0, 14), min_size=3, max_size=3), min_size=1, max_size=6), st.randoms())
def test_the_order_of_the_utterances_does_not_matter(rows, random):
    order = random.sample(range(len(rows)), len(rows))
    # of different lengths, so that the utterances weigh differently
    references = [" ".join(REFERENCE.split()[: 3 + number]) for number in range(len(rows))]
    sizes = [[100.0, 10.0 * row[1] / 7, row[2] / 7] for row in rows]

    def areas(rows, references, sizes):
        found = results_of({"spes": method(curve(rows, references=references), sizes=sizes)})
        return [found.areas(metric)["spes"] for metric in ("deletion", "size")]

    shuffled = ([values[i] for i in order] for values in (rows, references, sizes))
    assert areas(*shuffled) == pytest.approx(areas(rows, references, sizes), rel=1e-6)
    assert all(0 <= area <= 100 for area in areas(rows, references, sizes))


# Intervals


@pytest.mark.parametrize("score", SCORES)
def test_identical_utterances_leave_no_doubt(score):
    """Every draw of them is the same corpus."""
    rows = [[1, 4, 9]] * 7, [[9, 3, 1]] * 7
    found = results_of({"spes": method(*(curve(r, SCORES[score]) for r in rows), [[100.0, 30, 2]] * 7)})
    for metric in found.metrics:
        area = found.areas(metric)["spes"]
        assert found.interval(metric, "spes") == pytest.approx((area, area), rel=1e-5)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("score", SCORES)
def test_intervals_hold_their_areas(score, seed):
    curves = (curve(random_rows(15, 10 * seed + i), SCORES[score]) for i in range(2))
    found = results_of({"spes": method(*curves, [[100.0, *map(float, row[1:])] for row in random_rows(15, seed)])})
    for metric in found.metrics:
        low, high = found.interval(metric, "spes")
        assert low < found.areas(metric)["spes"] < high


def bootstrap(statistic, n_utterances, n_draws):
    """The quantiles and the deviation of a statistic of resampled utterances, by a plain loop."""
    generator = np.random.default_rng(2026)
    drawn = [statistic(generator.integers(0, n_utterances, n_utterances)) for _ in range(n_draws)]
    return np.quantile(drawn, (0.025, 0.975)), np.std(drawn)


def test_intervals_against_a_plain_loop_over_resampled_utterances():
    n, references = 12, [REFERENCE, "so what was the next step"] * 6
    rows = {name: random_rows(n, seed, most=7) for seed, name in enumerate(("spes", "energy"))}  # no WER over 100
    counted = {}
    for name in rows:
        outputs = [
            [jiwer.process_words(ref, hypothesis) for hypothesis in row]
            for row, ref in zip(texts(rows[name], references), references)
        ]
        counted[name] = np.array([[(o.substitutions + o.deletions + o.insertions) for o in row] for row in outputs])
    lengths = np.array([len(reference.split()) for reference in references])

    def area(name, chosen):
        return area_of(100 * counted[name][chosen].sum(0) / lengths[chosen].sum(), STEPS) / 100

    found = results_of({name: method(curve(rows[name], references=references)) for name in rows})
    ends, deviation = bootstrap(lambda chosen: area("energy", chosen), n, 4000)
    assert found.interval("deletion", "energy") == pytest.approx(ends, abs=0.2 * deviation)
    # of the difference on the same draws, which is narrower than that of draws of their own would be
    difference = found.compare("deletion", "energy", "spes")
    ends, deviation = bootstrap(lambda chosen: area("energy", chosen) - area("spes", chosen), n, 4000)
    assert (difference.low, difference.high) == pytest.approx(ends, abs=0.2 * deviation)
    everything = np.arange(n)
    assert difference.value == pytest.approx(area("energy", everything) - area("spes", everything))


def test_intervals_of_bleu_against_sacrebleu_on_resampled_utterances():
    n, references = 10, [REFERENCE, "so what was the next step"] * 5
    written = texts(random_rows(n, 4, most=6), references)

    def area(chosen):
        given = [[references[i] for i in chosen]]
        return area_of([BLEU().corpus_score([written[i][s] for i in chosen], given).score for s in range(3)], STEPS)

    ends, deviation = bootstrap(lambda chosen: area(chosen) / 100, n, 300)
    found = results_of({"spes": method(DeletionCurve(STEPS, written, references, BLEU_SCORE))})
    assert found.interval("deletion", "spes") == pytest.approx(ends, abs=0.5 * deviation)


def test_intervals_of_sizes_against_the_normal_distribution():
    """The mean of many utterances is nearly normal: 1.96 standard errors to both sides."""
    values = 100 * np.random.default_rng(0).random((200, 1)).astype(np.float32)
    found = results_of({"spes": method(sizes=np.repeat(values, 3, axis=1).tolist())})
    error = values.std() / np.sqrt(200)
    expected = values.mean() - 1.96 * error, values.mean() + 1.96 * error
    assert found.interval("size", "spes") == pytest.approx(expected, abs=0.2 * error)


def test_one_text_that_loops_decides_neither_area_nor_interval():
    """Of six utterances one is wrong by 1,000 %, which count as 100 %: a draw that holds it k times is k / 6.

    k is binomial, six trials with a chance of 1 in 6: 97.5 % of the draws hold it three times at most.
    """
    rows = [[100] * 3, *[[0] * 3] * 5]
    assert sum(comb(6, k) * 5 ** (6 - k) for k in range(3)) / 6**6 < 0.975
    assert sum(comb(6, k) * 5 ** (6 - k) for k in range(4)) / 6**6 > 0.975
    found = results_of({"spes": method(curve(rows)), "right": method(curve([[0] * 3] * 6))})
    assert found.areas("deletion")["spes"] == pytest.approx(100 / 6)
    assert found.interval("deletion", "spes") == pytest.approx((0, 50))
    difference = found.compare("deletion", "spes", "right")
    assert (difference.value, difference.low, difference.high) == pytest.approx((100 / 6, 0, 50))
    assert difference.verdict == "undecided"


def test_the_seed_decides_the_draws():
    first, again, other = (results_of(two_methods(), seed=seed) for seed in (3, 3, 4))
    assert json.dumps(first.to_dict()) == json.dumps(again.to_dict())
    assert first.paired_table() == again.paired_table()
    assert first.areas("deletion") == other.areas("deletion")
    assert first.interval("deletion", "spes") != other.interval("deletion", "spes")


def test_draws_do_not_depend_on_the_methods():
    methods = two_methods()
    alone = results_of({"spes": methods["spes"]})
    assert alone.interval("SRG", "spes") == results_of(methods).interval("SRG", "spes")


# Pairs

LONG = f"{REFERENCE} so what was the next step in his power to"  # twenty words: a wrong one is 5 %


def shifted(metric, score, sign, n_utterances=20):
    """Two methods, of which the second has one wrong word more or less on every utterance, whose rates are anything."""
    rows = np.random.default_rng(0).integers(2, 18, (n_utterances, 1)).repeat(3, axis=1)
    references = [LONG] * n_utterances
    curves = [curve((rows + shift).tolist(), score, references) for shift in (0, sign)]
    if metric == "SRG":
        fixed = curve(rows[::-1].tolist(), score, references)
        return {name: method(fixed, insertion) for name, insertion in zip(("spes", "other"), curves)}
    return {name: method(**{metric: found}) for name, found in zip(("spes", "other"), curves)}


@pytest.mark.parametrize(
    ("metric", "sign", "verdict"),
    [
        ("deletion", 1, "better"),
        ("deletion", -1, "worse"),
        ("insertion", 1, "worse"),
        ("insertion", -1, "better"),
        ("SRG", 1, "worse"),
        ("SRG", -1, "better"),
    ],
)
def test_all_methods_are_measured_on_the_same_draws(metric, sign, verdict):
    """5 points on every utterance are 5 points of every draw, though the methods' own intervals overlap."""
    found = results_of(shifted(metric, WER, sign))
    (low, high), (other_low, other_high) = (found.interval(metric, name) for name in ("spes", "other"))
    assert low < other_high and other_low < high and high - low > 10
    difference = found.compare(metric, "other", "spes")
    points = -5 * sign if metric == "SRG" else 5 * sign
    assert (difference.value, difference.low, difference.high) == pytest.approx((points, points, points))
    assert difference.verdict == verdict


@pytest.mark.parametrize(("metric", "sign", "verdict"), [("deletion", 1, "better"), ("insertion", 1, "worse")])
def test_bleu_is_better_the_other_way(metric, sign, verdict):
    assert results_of(shifted(metric, BLEU_SCORE, sign)).compare(metric, "other", "spes").verdict == verdict


@pytest.mark.parametrize("metric", ["size", "token size"])
def test_smaller_maps_are_better(metric):
    argument = metric.replace("token size", "token_size") + "s"
    rows = 100 * np.random.default_rng(0).random((8, 3))
    found = results_of({"spes": method(**{argument: rows.tolist()}), "b": method(**{argument: (rows - 4).tolist()})})
    difference = found.compare(metric, "b", "spes")
    assert difference.verdict == "better" and difference.value == pytest.approx(-4, abs=1e-4)
    assert found.compare(metric, "spes", "b").verdict == "worse"


def test_what_differs_by_chance_is_undecided():
    rows = np.array(random_rows(16, 0, most=7))
    rows[0], rows[1] = 5, 6
    swapped = rows[[1, 0, *range(2, 16)]]  # one is better on one utterance and worse on another
    found = results_of({"spes": method(curve(rows.tolist())), "b": method(curve(swapped.tolist()))})
    difference = found.compare("deletion", "b", "spes")
    assert difference.verdict == "undecided" and difference.low < 0 < difference.high
    assert difference.value == pytest.approx(0)


@pytest.mark.parametrize("n_utterances", [*range(1, MIN_PAIRS), MIN_PAIRS, MIN_PAIRS + 1])
def test_few_utterances_decide_nothing(n_utterances):
    methods = {"spes": method(curve([[0, 10, 10]] * n_utterances)), "b": method(curve([[0, 0, 0]] * n_utterances))}
    found = results_of(methods).compare("deletion", "b", "spes")
    assert found.low == found.high == -75
    assert found.verdict == ("undecided" if n_utterances < 6 else "worse")


def test_a_comparison_the_other_way_round_is_its_mirror():
    found = results_of(two_methods(20))
    for metric in found.metrics:
        there, back = found.compare(metric, "spes", "energy"), found.compare(metric, "energy", "spes")
        assert (there.value, there.low, there.high) == pytest.approx((-back.value, -back.high, -back.low))
        assert {there.verdict, back.verdict} in ({"better", "worse"}, {"undecided"})
        assert found.compare(metric, "spes", "spes") == Difference(0, 0, 0, "undecided")


def test_rounding_decides_nothing():
    """The same scores in another order between the ends have the same area, but for the last bit."""
    steps = tuple(range(0, 81, 10))
    rows = [[1, 2, 2, 0, 1, 6, 4, 3, 3], [1, 2, 3, 2, 0, 1, 6, 4, 3]]
    references = ["the birch canoe slid on smooth planks"] * 6
    curves = [curve([row] * 6, references=references, steps=steps) for row in rows]
    found = results_of({name: method(c) for name, c in zip(("spes", "b"), curves)})
    assert found.compare("deletion", "b", "spes").value == pytest.approx(0)
    assert found.compare("deletion", "b", "spes").verdict == "undecided"


def test_several_methods_count_by_their_mean():
    found = results_of({name: method(curve(random_rows(9, seed, most=7))) for seed, name in enumerate(("spes", *"ab"))})
    areas = found.areas("deletion")
    both, alone = found.compare("deletion", ["a", "b"], "spes"), found.compare("deletion", ["a"], ["spes"])
    assert both.value == pytest.approx((areas["a"] + areas["b"]) / 2 - areas["spes"])
    assert both.low < both.value < both.high
    assert alone == found.compare("deletion", "a", "spes")
    assert found.compare("deletion", ["a", "b"], ["b", "a"]).value == pytest.approx(0)


@pytest.mark.parametrize(("names", "expected"), [(("energy", "spes", "a"), "spes"), (("b", "a"), "b")])
def test_spes_is_what_others_are_compared_with(names, expected):
    found = results_of({name: method(curve([[0, 1, 2]])) for name in names})
    assert found.baseline == expected
    assert [row[0] for row in found.paired_table()] == [f"against {expected}", *(n for n in names if n != expected)]


# What is measured


def test_metrics_that_a_method_lacks_are_left_out():
    deleted, inserted = curve([[0, 5, 10]]), curve([[10, 5, 0]])
    sizes = [[100.0, 50, 0]]
    found = results_of({"spes": method(deleted, inserted, sizes, sizes), "b": method(deleted, None, sizes)})
    assert found.metrics == ["deletion", "size"]
    assert found.table()[0] == ("method", "deletion ↑", "size ↓")
    assert set(found.to_dict()["methods"]["spes"]) >= {"deletion", "size"}
    assert not {"insertion", "SRG", "token size"} & set(found.to_dict()["methods"]["spes"])


def test_srg_and_the_headline_do_not_depend_on_order_and_baseline():
    deleted, inserted = ([[0, 2, 10]] * 6, [[10, 9, 0]] * 6), ([[10, 9, 0]] * 6, [[0, 1, 10]] * 6)
    rows = {"spes": (deleted[0], deleted[1]), "b": (inserted[0], inserted[1])}
    found = {}
    for baseline in ("", " (noise)"):
        for order in (("deletion", "insertion"), ("insertion", "deletion")):
            methods = {}
            for name, of_name in rows.items():
                curves = {"deletion": curve(of_name[0]), "insertion": curve(of_name[1])}
                methods[name] = MethodResult({f"{one}{baseline}": curves[one] for one in order}, **NO_COSTS)
            results = results_of(methods)
            assert set(results.metrics) == {f"{one}{baseline}" for one in ("deletion", "insertion", "SRG")}
            found[baseline, order] = results.markdown().splitlines()[2].replace(" (noise)", "")
    assert len(set(found.values())) == 1 and found["", ("deletion", "insertion")].startswith("By SRG, ")


@pytest.mark.parametrize(
    ("utterances", "methods"),
    [
        ([], {"spes": method(curve([[0, 1, 2]]))}),
        (["u0"], {}),
        (["u0"], {"spes": method()}),
        (["u0"], {"spes": method(curve([[0, 1, 2]])), "b": method(None, curve([[0, 1, 2]]))}),
    ],
)
def test_nothing_is_refused(utterances, methods):
    with pytest.raises(ValueError, match="there are no results: give utterances, and methods that are measured by"):
        Results(utterances, methods)


# Tables


def test_table():
    """Areas as in the first test, the same on every utterance, and so without doubt."""
    found = results_of(
        {
            "spes": method(curve([[0, 8, 10]] * 2), curve([[10, 3, 0]] * 2), [[100.0, 40, 0]] * 2),
            "b": method(curve([[0, 0, 10]] * 2), curve([[10, 10, 0]] * 2), [[100.0, 40, 0]] * 2),
        }
    )
    header = ("method", "deletion ↑", "insertion ↓", "SRG ↑", "size ↓")
    spes = ("65.0", "40.0", "25.0", "45.0")
    other = ("25.0", "75.0", "−50.0", "45.0")

    def cells(areas, bold):
        return tuple(f"**{a}** [{a}, {a}]" if is_bold else f"{a} [{a}, {a}]" for a, is_bold in zip(areas, bold))

    assert found.table() == [header, ("spes", *cells(spes, [0] * 4)), ("b", *cells(other, [0] * 4))]
    assert found.table(bold=True) == found.table()  # two utterances decide nothing: there is no winner
    assert found.paired_table() == [
        ("against spes", "deletion", "insertion", "SRG", "size"),
        (
            "b",
            "undecided (−40.0 [−40.0, −40.0])",
            "undecided (+35.0 [+35.0, +35.0])",
            "undecided (−75.0 [−75.0, −75.0])",
            "undecided (+0.0 [+0.0, +0.0])",
        ),
    ]
    assert found.paired_table(intervals=False)[1][:3] == ("b", "undecided (−40.0)", "undecided (+35.0)")


def test_verdicts_of_the_table():
    good, bad = curve([[0, 10, 10]] * 6), curve([[0, 0, 0]] * 6)
    found = results_of({"spes": method(bad, bad), "b": method(good, good)})
    assert found.paired_table(intervals=False) == [
        ("against spes", "deletion", "insertion", "SRG"),
        ("b", "better (+75.0)", "worse (+75.0)", "undecided (+0.0)"),
    ]


def test_bold_is_what_is_better_than_all_others():
    """Of six utterances: spes is better than both, the others' sizes are the same, and no one's insertion is better."""
    deletions = {"spes": [[0, 10, 10]] * 6, "b": [[0, 5, 10]] * 6, "random": [[0, 2, 10]] * 6}
    sizes = {"spes": [[100.0, 80, 0]] * 6, "b": [[100.0, 40, 0]] * 6, "random": [[100.0, 40, 0]] * 6}
    same = curve([[10, 5, 0]] * 6)
    found = results_of({name: method(curve(deletions[name]), same, sizes[name]) for name in deletions})
    assert [found.winner(metric) for metric in found.metrics] == ["spes", None, "spes", None]
    bold = [[cell.startswith("**") for cell in row] for row in found.table(bold=True)[1:]]
    assert bold == [[False, True, False, True, False], [False] * 5, [False] * 5]
    assert found.ranking("deletion") == ["spes", "b", "random"]
    assert results_of({"spes": method(same)}).winner("deletion") is None  # there is nothing to be better than


def test_unreliable_maps_are_marked():
    reliabilities = {"spes": [0.2, 0.3, 0.9], "b": [0.5] * 3, "energy": [None] * 3}
    found = results_of({name: method(curve([[0, 1, 2]] * 3), reliability=r) for name, r in reliabilities.items()})
    assert found.unreliable == ["spes"]
    for rows in (found.table(), found.cost_table()):
        assert [row[0] for row in rows[1:]] == ["spes †", "b", "energy"]
    assert found.paired_table()[1][0] == "b"
    assert "†: median reliability below 0.5" in found.markdown()
    assert "†" not in results_of(two_methods()).markdown()


def test_arrows_of_bleu():
    assert results_of(two_methods(score=BLEU_SCORE)).table()[0] == (
        "method", "deletion ↓", "insertion ↑", "SRG ↑", "size ↓", "token size ↓",
    )  # fmt: skip


def test_one_utterance_has_no_brackets():
    found = results_of({"spes": method(curve([[0, 8, 10]])), "b": method(curve([[0, 0, 0]]))})
    assert found.table() == [("method", "deletion ↑"), ("spes", "65.0"), ("b", "0.0")]


def test_no_gain_has_no_sign():
    same = curve([[10, 10, 10]] * 2)  # as of a model that writes something else all the time
    found = results_of({"spes": method(same, same)})
    assert found.table()[1][-1] == "0.0 [0.0, 0.0]"


def test_cost_table():
    half, none = [0.5, 0.25, 0.75], [None] * 3
    found = results_of(
        {
            "spes": method(
                curve([[0, 1, 2]] * 3), seconds=[61.26, None, 12.5], forwards=[20_000, 22_000, 22_048],
                backwards=[0] * 3, reliability=half,
            ),
            "b": method(
                curve([[0, 1, 2]] * 3), seconds=none, forwards=[10, 11, 1000], backwards=[25, 20, 2_000],
                reliability=none,
            ),
            "c": method(
                curve([[0, 1, 2]] * 3), seconds=[1234.5] * 3, forwards=[0] * 3, backwards=[0] * 3,
                reliability=[None, None, 0.123],
            ),
        }
    )  # fmt: skip
    assert found.cost_table() == [
        ("method", "forwards", "backwards", "seconds", "reliability"),
        ("spes", "22,000", "0", "36.9", "0.50"),
        ("b", "11", "25", "", ""),
        ("c †", "0", "0", "1,234", "0.12"),
    ]


# Comprehensiveness and sufficiency, other baselines, and how metrics agree


def erasure(rows):
    """Of a fall a step for each utterance."""
    return ErasureCurve(STEPS, [torch.tensor([row], dtype=torch.float32) for row in rows])


def test_erasure_is_the_mean_of_the_utterances_in_nats():
    found = results_of(
        {
            "spes": MethodResult(
                {"comprehensiveness": erasure([[0, 3, 5], [0, 1, 1]]), "sufficiency": erasure([[4, 1, 0]] * 2)},
                **NO_COSTS,
            )
        }
    )
    # by hand: means 0, 2, 3: 1 · ½ + 2.5 · ½; 4, 1, 0: 2.5 · ½ + 0.5 · ½
    assert found.areas("comprehensiveness")["spes"] == pytest.approx(1.75)
    assert found.areas("sufficiency")["spes"] == pytest.approx(1.5)
    assert found.higher_is_better("comprehensiveness") and not found.higher_is_better("sufficiency")
    assert found.table()[0] == ("method", "comprehensiveness ↑", "sufficiency ↓")
    assert found.table()[1][2] == "1.50 [1.50, 1.50]"
    axes = found.plot().axes
    assert [ax.get_title() for ax in axes] == ["Comprehensiveness", "Sufficiency"]
    assert axes[0].get_xlabel().startswith("bins hidden") and axes[1].get_xlabel().startswith("bins kept")


def test_baselines_are_metrics_of_their_own():
    """Each has its SRG, of its own deletion and insertion; a baseline with deletion alone has none."""
    gone, back = curve([[0, 10, 10]] * 6), curve([[10, 0, 0]] * 6)
    names = ("deletion", "deletion (noise)", "deletion (silence)", "insertion", "insertion (noise)")
    found = results_of({"spes": MethodResult(dict(zip(names, (gone, back, gone, back, gone))), **NO_COSTS)})
    assert found.metrics == [*names[:4], "SRG", "insertion (noise)", "SRG (noise)"]
    assert found.areas("SRG")["spes"] == pytest.approx(50)
    assert found.areas("SRG (noise)")["spes"] == pytest.approx(-50)
    assert "Deletion, noise" in [ax.get_title() for ax in found.plot().axes]
    assert "each channel's mean" in found.markdown()


def ranked(**areas):
    """Methods with constant curves: the area of each metric, by method."""
    metrics = {"deletion": "deletion", "noise": "deletion (noise)", "comp": "comprehensiveness", "suff": "sufficiency"}

    def of(metric, value):
        return curve([[value] * 3] * 6) if metric in ("deletion", "noise") else erasure([[float(value)] * 3] * 6)

    return {
        name: MethodResult({metrics[metric]: of(metric, value) for metric, value in values.items()}, **NO_COSTS)
        for name, values in areas.items()
    }


def test_agreement_is_kendalls_tau():
    """Comprehensiveness ranks three methods as deletion does; noise swaps two; sufficiency turns the order round."""
    found = results_of(
        ranked(
            spes={"deletion": 9, "noise": 8, "comp": 3, "suff": 5},
            a={"deletion": 5, "noise": 9, "comp": 2, "suff": 4},
            b={"deletion": 1, "noise": 2, "comp": 1, "suff": 3},
            random={"deletion": 0, "noise": 0, "comp": 0, "suff": 9},
        )
    )
    assert found.agreement("deletion", "comprehensiveness") == Agreement(1, 1, 1)
    assert found.agreement("deletion", "deletion (noise)").value == pytest.approx(1 / 3)
    assert found.agreement("deletion", "sufficiency") == Agreement(-1, -1, -1)
    metrics, baselines = found.agreement_tables()
    assert metrics[0] == ("Kendall's tau", "deletion", "comprehensiveness", "sufficiency")
    assert metrics[1] == ("deletion", "", "1.00 [1.00, 1.00]", "−1.00 [−1.00, −1.00]")
    assert baselines[0] == ("Kendall's tau", "mean, noise")
    assert baselines[1] == ("deletion", "0.33 [0.33, 0.33]") and baselines[2] == ("comprehensiveness", "")
    assert "## Agreement of the metrics" in found.markdown()


def test_agreement_against_scipy_and_a_plain_loop():
    names = [f"m{number}" for number in range(6)]
    rows = {name: (random_rows(12, n, most=7), random_rows(12, 50 + n, most=7)) for n, name in enumerate(names)}
    found = results_of({name: method(curve(a), curve(b)) for name, (a, b) in rows.items()})
    areas = [found.areas(metric) for metric in ("deletion", "insertion")]
    expected = kendalltau([areas[0][name] for name in names], [-areas[1][name] for name in names]).statistic
    agreement = found.agreement("deletion", "insertion")
    assert agreement.value == pytest.approx(expected)

    def tau(chosen):
        pair = [[np.mean([auc(STEPS, rows[name][i][u]) for u in chosen]) for name in names] for i in range(2)]
        return kendalltau(pair[0], np.negative(pair[1])).statistic

    ends, deviation = bootstrap(tau, 12, 300)
    assert (agreement.low, agreement.high) == pytest.approx(ends, abs=0.75 * deviation)


def test_few_methods_have_no_agreement():
    found = results_of(
        ranked(spes={"deletion": 9, "comp": 1}, a={"deletion": 1, "comp": 9}, random={"deletion": 0, "comp": 0})
    )
    assert found.agreement_tables() == [] and "Agreement" not in found.markdown()


# Files


def test_markdown():
    found = results_of(
        two_methods(),
        problems={"broken.wav": "it is not an audio file.", "u9": "the reference '' has no words."},
        settings={"model": "tiny", "seed": 7, "methods": {"spes": {"n_samples": 144}, "energy": {"absolute": False}}},
    )
    text = found.markdown()
    lines = text.splitlines()
    assert lines[0] == "# tiny on 8 utterances"
    assert "- broken.wav: it is not an audio file." in lines and "- u9: the reference '' has no words." in lines
    assert '- model: `"tiny"`' in lines and "- seed: `7`" in lines
    assert '- method spes: `{"n_samples": 144}`' in lines and '- method energy: `{"absolute": false}`' in lines
    for rows in (found.table(bold=True), found.cost_table(), found.paired_table()):
        assert all("| " + " | ".join(row) + " |" in lines for row in rows)
    assert [line for line in lines if line.startswith("## ")] == [
        "## Against spes",
        "## Cost of an explanation",
        "## How to read the tables",
        "## Left out",
        "## Settings",
    ]
    assert "baseline methods" in text and "each text is capped at 100" in text and text.endswith("`\n")


def test_markdown_of_little():
    found = results_of({"spes": method(sizes=[[100.0, 50, 0]])})
    assert found.markdown().startswith("# Model on 1 utterance\n")
    for words in ("Left out", "Against", "SRG", "Deletion", "capped", "baseline methods"):
        assert words not in found.markdown()
    bleu = results_of({"spes": method(curve([[0, 1, 2]], BLEU_SCORE))}).markdown()
    assert "area under the BLEU" in bleu and "capped" not in bleu


def findings(**deletions):
    """What the summary begins with, of numbers of wrong words at the second of three steps, an utterance each."""
    curves = {name: method(curve([[0, n, 10] for n in row])) for name, row in deletions.items()}
    lines = results_of(curves).markdown().splitlines()
    assert lines[1] == lines[3] == "" and lines[4] == "![Curves of the metrics](curves.png)"
    return lines[2]


def test_the_summary_begins_with_what_was_found():
    assert findings(spes=[9] * 6, b=[5] * 6, random=[2] * 6, energy=[3] * 6) == (
        "By deletion, spes is the best method (area 70.0): it is better than b, random and energy. All methods are "
        "better than random and energy, which do not use the model."
    )
    assert findings(spes=[9] * 6, energy=[9, 8, 9, 8, 9, 9], b=[1] * 6) == (
        "By deletion, spes has the best area (70.0): it is better than b, and its difference from energy is undecided. "
        "No method is significantly better than energy, which does not use the model."
    )
    assert findings(spes=[9, 2, 9, 2, 9, 2], b=[2, 9, 2, 9, 2, 8]).startswith(
        "By deletion, no method is the best: the area of spes (52.5) leads, but its difference from every other is "
        "undecided. "
    )
    assert findings(spes=[9] * 6, b=[1] * 6, energy=[4] * 6).endswith("spes is better than it; b is not.")
    assert findings(spes=[9] * 5, b=[1] * 5).startswith("Nothing is decided: at least 6 utterances are needed")
    assert findings(spes=[9]).startswith("One method was evaluated: spes, with a deletion area of 70.0.")


def test_save(tmp_path):
    found = results_of(two_methods(), problems={"broken.wav": "it is not an audio file."}, settings={"model": "tiny.é"})
    paths = found.save(tmp_path)
    names = ["results.json", "summary.md", "curves.csv", "curves.png"]
    assert paths == [tmp_path / name for name in names]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names)
    assert json.loads(paths[0].read_text("utf-8")) == json.loads(json.dumps(found.to_dict()))
    assert paths[1].read_text("utf-8") == found.markdown()
    assert paths[3].read_bytes().startswith(b"\x89PNG\r\n\x1a\n") and paths[3].stat().st_size > 10_000
    before = [path.read_bytes() for path in paths[:3]]
    found.save(tmp_path)  # over the files of an earlier run
    assert [path.read_bytes() for path in paths[:3]] == before


def test_curves_are_read_back(tmp_path):
    found = results_of(two_methods())
    with open(found.save(tmp_path)[2], newline="") as file:
        rows = list(csv.DictReader(file))
    metrics = found.metrics
    assert [(row["metric"], row["method"]) for row in rows] == [
        (metric, name) for metric in metrics for name in ("energy", "spes") for _ in range(3)
    ]
    for metric in metrics:
        for name in ("energy", "spes"):
            mine = [row for row in rows if (row["metric"], row["method"]) == (metric, name)]
            steps, scores, low, high = (
                np.array([float(row[column]) for row in mine]) for column in ("step", "score", "low", "high")
            )
            assert steps.tolist() == list(THRESHOLDS if "size" in metric else STEPS)
            area = area_of(scores, steps) / (steps[-1] - steps[0])
            assert area == pytest.approx(found.areas(metric)[name], rel=1e-4)
            assert (low <= scores).all() and (scores <= high).all() and (low < high).any()


def test_bands_of_curves_are_intervals_of_each_step(tmp_path):
    """A curve that is the same at all steps has at each the interval of its area."""
    rows = np.random.default_rng(1).integers(0, 11, (9, 1)).repeat(3, axis=1).tolist()
    found = results_of({"spes": method(curve(rows))})
    with open(found.save(tmp_path)[2], newline="") as file:
        bands = [(float(row["low"]), float(row["high"])) for row in csv.DictReader(file)]
    assert bands == [pytest.approx(found.interval("deletion", "spes"), rel=1e-4)] * 3


def test_the_figure_has_a_panel_a_curve():
    axes = results_of(two_methods()).plot().axes
    assert [ax.get_title() for ax in axes] == ["Deletion", "Insertion", "Size, spectrogram", "Size, tokens"]
    assert [ax.get_ylabel() for ax in axes[:2]] == ["WER (%)"] * 2
    assert [ax.get_ylabel() for ax in results_of(two_methods(score=BLEU_SCORE)).plot().axes[:2]] == ["BLEU"] * 2


def test_to_dict():
    methods = two_methods()
    found = results_of(methods, problems={"x.wav": "broken."}, settings={"model": "tiny", "dtype": None}, seed=2)
    content = json.loads(json.dumps(found.to_dict(), allow_nan=False))  # no NaN, which is no JSON
    assert content["settings"] == {"model": "tiny", "dtype": None} and content["problems"] == {"x.wav": "broken."}
    assert (content["n_utterances"], content["level"], content["n_resamples"]) == (8, 95, N_RESAMPLES)
    assert (content["seed_of_resamples"], content["compared_with"]) == (2, "spes")
    assert list(content["methods"]) == ["energy", "spes"]
    for name, entry in content["methods"].items():
        assert entry["forwards"] == 20_000 and entry["seconds"] == 1.5 and entry["reliability"] is None
        for metric in found.metrics:
            assert entry[metric]["auc"] == found.areas(metric)[name]
            assert tuple(entry[metric]["interval"]) == found.interval(metric, name)
            assert entry[metric]["higher_is_better"] == found.higher_is_better(metric)
            expected = None if name == "spes" else vars(found.compare(metric, name, "spes"))
            assert entry[metric].get("difference") == expected
        assert entry["deletion"]["steps"] == list(STEPS)
        assert entry["deletion"]["scores"] == pytest.approx(methods[name].curves["deletion"].scores.tolist(), abs=1e-4)
        assert entry["size"]["scores"] == pytest.approx(methods[name].curves["size"].scores.tolist(), abs=1e-4)
        gains = methods[name].curves["deletion"].scores - methods[name].curves["insertion"].scores
        assert entry["SRG"]["scores"] == pytest.approx(gains.tolist(), abs=1e-4)


def test_areas_of_each_utterance_are_those_of_it_alone():
    methods = {name: method(curve(random_rows(3, seed, most=30))) for seed, name in enumerate(("spes", "b"))}
    alone = results_of(methods).to_dict()["utterances"]
    assert list(alone) == ["u0", "u1", "u2"]
    for number, areas in enumerate(alone.values()):
        for name, result in methods.items():
            written = result.curves["deletion"].texts[number]
            single = DeletionCurve(STEPS, [written], [REFERENCE], WER)
            assert areas == {"deletion": areas["deletion"]}
            assert areas["deletion"][name] == pytest.approx(single.auc, abs=1e-4)
