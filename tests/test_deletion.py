"""Deletion, insertion and size, with a model whose texts are known, and with the authors' numbers."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from captum.attr import Saliency
from hypothesis import given
from hypothesis import strategies as st
from test_author_reference import explanation_of, reference, tensor  # noqa: F401 (a fixture)
from toy_model import ToyModel

from captum_spes import SpeechToTextAttribution, SpeechToTextExplanation
from captum_spes.maps import descending, top_bins
from captum_spes.metrics import (
    DeletionCurve,
    SizeCurve,
    WordErrorRate,
    bleu,
    deletion,
    insertion,
    size,
    symmetric_relevance_gain,
    wer,
)
from captum_spes.metrics.text import Bleu, find_normalizer

T, C = 10, 10  # so that a bin is one percent
SOUND, SILENCE = 1.0, 0.25
WORDS = [" the", " birch", " canoe", " slid", " on", " smooth", " planks", " of", " dark", " wood"]


class Toy(ToyModel):
    """Writes ten words, the i-th while the first bin of frame i is heard: ten bins of a hundred decide."""

    n_channels, n_padding, silence = C, 6, SILENCE
    vocabulary, n_special = ("<s>", "</s>", *WORDS), 2

    def __init__(self):
        self.calls = []

    def generate_batch(self, spectrograms, utterance, prompt, **gen_args):
        self.calls.append((len(spectrograms), utterance, gen_args))
        heard = spectrograms[:, :, 0] == SOUND
        return [torch.cat((row.nonzero()[:, 0] + 2, torch.tensor([1]))) for row in heard]

    # the rest of the protocol is not asked for
    utterance = generate = tokens = encode = logits = None


def explanation(attributions=None, **metadata):
    """Of the ten words, whose maps are all the same; by default the perfect one."""
    if attributions is None:
        attributions = torch.zeros(T, C)
        attributions[:, 0] = torch.arange(T, 0, -1)
    tokens = [*WORDS, "</s>"]
    ids = list(range(2, 12))
    return SpeechToTextExplanation(
        text="".join(WORDS).strip(),
        tokens=tokens,
        previous_tokens=["<s>", *tokens[:-1]],
        spectrogram=torch.full((T, C), SOUND),
        spectrogram_attr=attributions.expand(11, T, C),
        token_attr=torch.ones(11, 11).tril(),
        n_previous=torch.arange(11) + 1,
        frames_per_second=100,
        mel_frequencies=torch.linspace(100, 7000, C),
        metadata={
            "model": "toy",
            "token_ids": [*ids, 1],
            "previous_token_ids": [0, *ids],
            "context_seconds": 0.16,
            "dtype": "float32",
            **metadata,
        },
    )


@pytest.fixture
def model():
    return Toy()


PERFECT = explanation().spectrogram_attr[0]


# Curves that are known


def test_the_perfect_map_has_the_best_deletion(model):
    """Each step of 5 % deletes five of the words, as the perfect order has them first: WER 0, 50, 100, 100, …"""
    curve = deletion(model, explanation())
    assert curve.steps == tuple(range(0, 101, 5)) and curve.references == ["".join(WORDS).strip()]
    assert curve.texts[0][:3] == [
        "the birch canoe slid on smooth planks of dark wood",
        "smooth planks of dark wood",
        "",
    ]
    assert curve.scores.tolist() == [0.0, 50.0, *[100.0] * 19]
    assert curve.auc == pytest.approx((25 + 75 + 18 * 100) * 5 / 100)


def test_the_inverted_map_has_the_worst(model):
    curve = deletion(model, explanation(), maps=-PERFECT)
    # the words' bins are the last ten
    assert curve.scores.tolist() == [0.0] * 19 + [50.0, 100.0]
    assert curve.auc == pytest.approx((25 + 75) * 5 / 100)


def test_no_order_is_better_than_the_perfect_and_worse_than_the_inverted_map(model):
    areas = [deletion(model, explanation(), maps=torch.rand(T, C)).auc for _ in range(10)]
    assert deletion(model, explanation(), maps=-PERFECT).auc < min(areas)
    assert max(areas) < deletion(model, explanation()).auc


def test_insertion_is_the_counterpart(model):
    curve = insertion(model, explanation())
    assert curve.scores.tolist() == [100.0, 50.0, *[0.0] * 19]
    assert insertion(model, explanation(), maps=-PERFECT).auc == pytest.approx(95)


def test_symmetric_relevance_gain(model):
    maps = [None, "random", -PERFECT]
    gains = [
        symmetric_relevance_gain(deletion(model, explanation(), maps=m), insertion(model, explanation(), maps=m))
        for m in maps
    ]
    assert gains[0] == pytest.approx(90) and abs(gains[1]) < 30 and gains[2] == pytest.approx(-90)
    by_bleu = [f(model, explanation(), score="bleu") for f in (deletion, insertion)]
    assert 80 < symmetric_relevance_gain(*by_bleu) <= 100
    with pytest.raises(ValueError, match="same steps"):
        symmetric_relevance_gain(deletion(model, explanation()), insertion(model, explanation(), percentages=(0, 50)))


def test_fine_steps_look_closer(model):
    curve = deletion(model, explanation(), percentages=range(21))
    assert curve.scores.tolist() == [*(10.0 * step for step in range(11)), *[100.0] * 10]
    assert curve.auc == pytest.approx(75)


def test_corpus_scores_weigh_words_and_utterances_scores_do_not(model):
    references = ["the birch canoe slid on smooth planks of dark wood", "the birch"]
    curve = deletion(model, [explanation()] * 2, references, percentages=(0, 10))
    # ten words for a reference of two are eight insertions, which count as two: all words of the reference are wrong
    torch.testing.assert_close(curve.utterance_scores, torch.tensor([[0.0, 100.0], [100.0, 100.0]]))
    torch.testing.assert_close(curve.scores, torch.tensor([200 / 12, 100.0]))


# How the model writes


def test_the_model_writes_as_it_did(model):
    deletion(model, explanation(gen_args={"num_beams": 5}), perturbations_per_eval=8)
    sizes, utterances, gen_args = zip(*model.calls)
    assert sizes == (8, 8, 5)
    assert gen_args[0] == {"num_beams": 5, "max_new_tokens": 32}
    assert utterances[0].padding.shape == (1, 6, C) and utterances[0].dtype == torch.float32


@pytest.mark.parametrize(
    ("own", "given", "expected"),
    [
        ({}, 3, 3),
        ({"max_new_tokens": 15}, None, 15),
        ({"max_new_tokens": None}, None, 32),
        ({"max_length": 15}, None, 14),  # which counts the prompt
        ({}, None, 32),
    ],
)
def test_a_loop_is_cut(model, own, given, expected):
    deletion(model, explanation(gen_args=own), max_new_tokens=given)
    assert model.calls[0][2] == {"max_new_tokens": expected}


@pytest.mark.parametrize("ids", [[5, 6], (5, 6), torch.tensor([5, 6]), np.array([5, 6])])
def test_lists_of_ids_are_generated_with_again(tiny_model, audio, ids):
    attribution = SpeechToTextAttribution(Saliency(tiny_model))
    gen_args = {"suppress_tokens": ids, "max_new_tokens": np.int64(8), "do_sample": np.False_}
    found = attribution.attribute(audio, "so what", sampling_rate=16000, gen_args=gen_args)
    assert found.metadata["gen_args"] == {"suppress_tokens": [5, 6], "max_new_tokens": 8, "do_sample": False}
    assert len(deletion(tiny_model, found, percentages=(0, 100)).texts[0]) == 2


@pytest.mark.parametrize("perturbations_per_eval", [1, 4, 21, 100])
def test_the_batch_size_changes_nothing(model, perturbations_per_eval):
    expected = deletion(model, explanation(torch.ones(T, C)), seed=3).texts
    assert (
        deletion(model, explanation(torch.ones(T, C)), seed=3, perturbations_per_eval=perturbations_per_eval).texts
        == expected
    )


# Order


def test_ties_are_broken_by_the_seed(model):
    flat = explanation(torch.ones(T, C))
    first, again, other = (deletion(model, flat, seed=seed).texts for seed in (0, 0, 1))
    assert first == again != other
    assert deletion(model, explanation(), maps="random").texts == first


@given(st.lists(st.integers(0, 3), min_size=1, max_size=60), st.integers(0, 2**32 - 1))
def test_an_order_holds_every_bin_once_and_falls(values, seed):
    values = torch.tensor(values).float()
    order = descending(values, seed)
    assert sorted(order.tolist()) == list(range(len(values)))
    assert (values[order].diff() <= 0).all()


@given(st.integers(1, 400))
def test_tops_are_nested_and_reach_all(n_bins):
    tops = top_bins(torch.randperm(n_bins), tuple(range(101)))
    assert (tops[1:] | ~tops[:-1]).all() and not tops[0].any() and tops[-1].all()
    assert tops.sum(1).tolist() == [percentage * n_bins // 100 for percentage in range(101)]


# The authors' numbers


def test_deleted_bins_are_the_authors(reference):  # noqa: F811
    sentence = tensor(reference["sentence_spectrogram"])
    top = top_bins(descending(sentence, seed=0), tuple(range(0, 101, 5)))
    assert torch.equal(~top.view(21, *sentence.shape), tensor(reference["deletion_keep_mask"]))


@pytest.mark.parametrize("inputs", ["spectrogram", "tokens"])
def test_size_is_the_authors(reference, inputs):  # noqa: F811
    curve = size(explanation_of(reference), inputs=inputs, thresholds=reference["size_thresholds"])
    np.testing.assert_allclose(curve.scores, reference[f"size_{inputs}_percent"], atol=1e-4)
    assert curve.auc == pytest.approx(float(reference[f"size_{inputs}_auc"]), abs=1e-4)


def test_size_by_hand():
    """Normalised: four bins of 0, 0.25, 0.5, 1 in both rows; previous tokens of 0, and of 0.25 and 0.75."""
    maps = SpeechToTextExplanation(
        text="a b",
        tokens=[" a", " b"],
        previous_tokens=["<s>", " a"],
        spectrogram=torch.zeros(1, 4),
        spectrogram_attr=torch.tensor([[[0, 0.25, 0.5, 1]]] * 2),
        token_attr=torch.tensor([[0.0, 9.0], [0.25, 0.75]]),
        n_previous=torch.tensor([1, 2]),
        frames_per_second=100,
        mel_frequencies=torch.arange(4.0),
        normalized=True,
    )
    curve = size(maps, thresholds=(0, 0.25, 0.75, 1))
    assert curve.scores.tolist() == [100.0, 75.0, 25.0, 25.0]
    assert curve.auc == pytest.approx(0.25 * 87.5 + 0.5 * 50 + 0.25 * 25)
    assert size(maps, inputs="tokens", thresholds=(0, 0.5, 1)).scores.tolist() == pytest.approx([100, 100 / 3, 0])


def test_size_of_several_is_their_mean():
    curve = SizeCurve((0.0, 1.0), torch.tensor([[100.0, 0.0], [50.0, 50.0]]))
    assert curve.scores.tolist() == [75.0, 25.0] and curve.auc == 50.0


def test_maps_without_deviation_have_none_above_zero():
    """The normalisation makes them 0, which only the first threshold lets pass: half of a step of 5 %."""
    flat = replace(explanation(torch.ones(T, C)), token_attr=torch.ones(11, 11).tril())
    assert size(flat).scores.tolist() == [100.0, *[0.0] * 20] and size(flat).auc == pytest.approx(2.5)


# Scores of texts


def test_wer_is_of_the_corpus_normalised_and_capped():
    assert wer(["so what's that", "it is"], ["So, what is that?", "It is."]) == 0
    assert wer(["so what", "it is"], ["so what", "it was not"]) == pytest.approx(100 * 2 / 5)
    assert wer(["a b c d e f g h"], ["z"]) == 100
    assert wer(["So what"], ["so what"], normalizer="none") == 50
    assert wer(["SO what"], ["so what"], normalizer=str.lower) == 0


@pytest.mark.parametrize("normalizer", ["english", "basic", "none"])
def test_characters_are_words_in_scripts_without_spaces(normalizer):
    assert wer(["今天天气很好"], ["今天天气很坏"], normalizer) == pytest.approx(100 / 6)


def test_a_function_divides_texts_into_words_by_itself():
    assert wer(["今天 天气 很好"], ["今天 天气 很坏"], lambda text: text) == pytest.approx(100 / 3)


@pytest.mark.parametrize(
    "text, said, rate",
    [("की", "के", 100), ("กิน", "กัน", 50), ("की।", "की", 0), ("كَتَبَ", "كتب", 0), ("за́мок", "замок", 0)],
)
def test_the_basic_normaliser_keeps_signs_that_distinguish_words(text, said, rate):
    """Vowel signs do; the points of Arabic and marks of stress do not, and divide no words."""
    assert wer([text], [said], "basic") == rate


def test_the_basic_normaliser_is_otherwise_whispers():
    from whisper_normalizer.basic import BasicTextNormalizer

    whisper, own = BasicTextNormalizer(), find_normalizer("basic")
    for text in ("¿Qué año? (Sí.)", "L'élève, cafe\u0301", "Đường phố", "Ёж и й!", "여러분, 안녕", "5 € – Maß [x]"):
        assert own(text) == whisper(text)


def test_bleu_is_sacrebleus():
    import sacrebleu

    texts = ["Das ist ein kleiner Test.", "Noch einer, und mehr"]
    references = ["Das ist ein Test.", "Noch einer, und mehr davon"]
    assert bleu(texts, references) == pytest.approx(sacrebleu.corpus_bleu(texts, [references]).score)


@pytest.mark.parametrize("text", ["so", "so what", "so what was"])
def test_bleu_of_a_short_text_that_is_right(text):
    assert bleu([text], [text]) == pytest.approx(100)
    assert bleu([""], [text]) == 0


def test_curves_of_different_normalisers_have_no_gain():
    curves = [DeletionCurve((0, 100), [["so", ""]], ["so"], WordErrorRate(name)) for name in ("none", "basic")]
    with pytest.raises(ValueError, match="normaliser"):
        symmetric_relevance_gain(*curves)


@pytest.mark.parametrize("reference", ["...", "…", "?", "♪"])
def test_a_reference_without_words_has_no_error_rate(reference):  # noqa: F811 (a fixture)
    with pytest.raises(ValueError, match="has no words"):
        wer(["a"], [reference])


def test_bleu_of_scripts_without_spaces():
    import sacrebleu

    texts, references = ["今天天气很好,我们去公园。"], ["今天天气不好,我们去公园玩。"]
    expected = sacrebleu.corpus_bleu(texts, [references], tokenize="zh").score
    assert expected > 50
    assert bleu(texts, references) == pytest.approx(expected)


def test_counts_add_up():
    for score in (WordErrorRate(), Bleu()):
        pairs = [("so what was it", "so what is it"), ("the next step", "the next stop is here")]
        counts = [score.counts(*pair) for pair in pairs]
        together = (wer if score.name == "WER" else bleu)(*zip(*pairs))
        assert float(score.score(np.sum(counts, axis=0))) == pytest.approx(together)


# What is refused


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"percentages": (0,)}, "two or more"),
        ({"percentages": (10, 5)}, "ascending"),
        ({"percentages": (0, 101)}, "from 0 to 100"),
        ({"score": "cer"}, "'wer' or 'bleu'"),
        ({"maps": torch.full((T, C), math.nan)}, "NaN"),
        ({"maps": torch.zeros(3, C)}, "do not fit"),
        ({"maps": "best"}, "'random'"),
        ({"references": ["one", "two"]}, "2 references for 1"),
        ({"references": "?!"}, "no words"),
        ({"references": " ", "score": "bleu"}, "no words"),
        ({"perturbations_per_eval": 0}, "at least 1"),
        ({"max_new_tokens": 0}, "at least 1"),
    ],
)
def test_bad_arguments_are_refused_before_the_model_runs(model, arguments, message):
    with pytest.raises(ValueError, match=message):
        deletion(model, explanation(), **arguments)
    assert not model.calls


def test_explanations_that_cannot_be_written_again(model):
    for bad, message in [
        (explanation().words(), "words or a sentence"),
        (explanation(model="other"), "not of the given model"),
        (explanation(contrast={"word": "one"}), "contrast"),
    ]:
        with pytest.raises(ValueError, match=message):
            deletion(model, bad)
    with pytest.raises(ValueError, match="no explanation"):
        deletion(model, [])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"inputs": "text"}, "'spectrogram' or 'tokens'"), ({"thresholds": (0, 2)}, "from 0 to 1")],
)
def test_size_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        size(explanation(), **arguments)
    with pytest.raises(ValueError, match="NaN"):
        size(explanation(torch.full((T, C), math.nan)))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: wer("a", "a"), "lists"),
        (lambda: wer(["a"], []), "0 references"),
        (lambda: wer([], []), "at least one"),
        (lambda: WordErrorRate("german"), "'english'"),
    ],
)
def test_texts_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_a_curve_needs_two_steps():
    with pytest.raises(ValueError, match="two steps"):
        _ = DeletionCurve((0,), [["one"]], ["one"], WordErrorRate()).auc
