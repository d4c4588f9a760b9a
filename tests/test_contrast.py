"""Flip rates of models whose texts are known."""

import re
from dataclasses import replace

import pytest
import torch
from captum.attr import FeatureAblation
from toy_model import ToyModel

from captum_spes import Contrast, SpeechToTextAttribution, SpeechToTextExplanation
from captum_spes.metrics.contrast import FlipRate, flip_rate
from captum_spes.models import Tokens, Utterance

T, C = 10, 10  # so that a bin is one percent
SOUND, SILENCE = 1.0, 0.25

pytestmark = pytest.mark.filterwarnings("ignore:the maps of Feature Ablation are the same everywhere")


class Toy(ToyModel):
    """Hears "Put the pan on it." from 100 bins.

    It writes "pan" while three of the four bins of the cue, frame 0 and channels 0 to 3, are left. Without them it
    writes "pen" while at least six bins of frame 1 are left, on which both words depend, or else "pig".
    """

    n_channels, n_padding, silence = C, 6, SILENCE
    n_special = 2
    original = "Put the pan on it."

    def __init__(self):
        self.vocabulary = ["<s>", "</s>", " pan", " pen"]
        self.gen_args = []
        self.heard = []

    def utterance(self, audio):
        return self.from_features(torch.full((1, T, C), SOUND))

    def tokens(self, target, utterance):
        pieces = re.findall(r" ?[^\s.,!?]+| ?[.,!?]", " " + target) if target else []
        for piece in pieces:
            if piece not in self.vocabulary:
                self.vocabulary.append(piece)
        return Tokens(torch.tensor([0]), torch.tensor([self.vocabulary.index(piece) for piece in pieces]).long())

    def token_texts(self, ids):
        return [(self.vocabulary + [""] * 64)[i] for i in ids.tolist()]

    def words(self, utterance):
        deleted = utterance.spectrogram[0] == SILENCE
        assert ((utterance.spectrogram[0] == SOUND) | deleted).all()
        if (~deleted[0, :4]).sum() >= 3:
            return self.original
        return "Put the pen on it." if (~deleted[1]).sum() >= 6 else "Put the pig on it."

    def generate(self, utterance, **gen_args):
        self.gen_args.append(gen_args)
        self.heard.append(utterance)
        tokens = self.tokens(self.words(utterance), utterance)
        return Tokens(tokens.prompt, torch.cat((tokens.target, torch.tensor([1]))), generated=True)

    def generate_batch(self, spectrograms, utterance, prompt, **gen_args):
        return [self.generate(replace(utterance, spectrogram=one[None]), **gen_args).target for one in spectrograms]

    def logits(self, encoded, tokens, token_gate=None):
        logits = torch.zeros(len(encoded), len(tokens.target), 64)
        logits[:, :, 2] = (encoded[:, 0, :4].sum(1) + encoded[:, 1].sum(1))[:, None]  # pan
        logits[:, :, 3] = (2.5 + encoded[:, 1].sum(1))[:, None]  # pen
        return logits if token_gate is None else logits * token_gate.mean(1)[:, None, None]


class Writer(Toy):
    """A model that writes a fixed text."""

    def __init__(self, original, written):
        super().__init__()
        self.original, self.written = original, written

    def words(self, utterance):
        return self.original if (utterance.spectrogram == SOUND).all() else self.written


PAN = Contrast("pan", "pen")


def explain(model, contrast=PAN, features=None, **arguments):
    return SpeechToTextAttribution(FeatureAblation(model)).attribute(
        torch.full((1, T, C), SOUND) if features is None else features,
        contrast=contrast,
        feature_mask=torch.arange(T * C).view(1, T, C),
        **arguments,
    )


@pytest.fixture
def model():
    return Toy()


@pytest.fixture
def explanation(model):
    return explain(model)


def ranked(*bins):
    """A map whose largest values are at these bins, the first the largest, and else 0."""
    attributions = torch.zeros(T * C)
    attributions[list(bins)] = torch.arange(len(bins), 0, -1).float()
    return attributions.view(T, C)


CUE = [0, 1, 2, 3]
BOTH = [10, 11, 12, 13, 14, 15, 16, 17, 18, 19]


# Rates that are known


def test_the_map_of_the_cue_flips_the_word_as_soon_as_it_can(model, explanation):
    """The second of its bins is the 2 %. Feature Ablation of this contrast is exact, and gives frame 1 nothing."""
    assert (explanation.spectrogram_attr[0].flatten()[CUE] > 0.01).all()
    assert explanation.spectrogram_attr[0].flatten()[4:].abs().max() < 1e-6
    result = flip_rate(model, explanation)
    assert isinstance(result, FlipRate) and result.steps == tuple(range(1, 21))
    assert result.flips.tolist() == [[False] + [True] * 19]
    assert result.found.all() and torch.equal(result.rate, result.flips[0].float())
    assert result.texts == [["Put the pan on it."] + ["Put the pen on it."] * 19]


def test_a_map_of_what_both_words_need_makes_it_neither(model, explanation):
    result = flip_rate(model, explanation, maps=ranked(*BOTH, *CUE))
    assert not result.flips.any()
    assert result.found.tolist() == [[True] * 11 + [False] * 9]
    assert result.coverage.tolist() == [1.0] * 11 + [0.0] * 9
    assert result.rate[:11].tolist() == [0.0] * 11 and result.rate[11:].isnan().all()
    assert result.texts[0][11] == "Put the pig on it."


def test_the_inverted_map_flips_last(model, explanation):
    steps = range(0, 101)
    result = flip_rate(model, explanation, maps=ranked(*range(20, 100), *range(4, 10), *CUE), percentages=steps)
    # the cue is the 87th to 90th bin, then bins of frame 1 go
    assert result.flips[0].nonzero().flatten().tolist() == [*range(88, 91), *range(91, 95)]
    assert result.found[0].nonzero().flatten().tolist() == list(range(95))


def test_rate_and_coverage_of_several_words_by_hand(model, explanation):
    maps = [ranked(*CUE), ranked(*BOTH, *CUE), ranked(*range(20, 50)), ranked(*BOTH[:3], *CUE)]
    result = flip_rate(model, [explanation] * 4, maps=maps, percentages=[1, 3, 5, 12])
    assert result.flips.int().T.tolist() == [[0, 0, 0, 0], [1, 0, 0, 0], [1, 0, 0, 1], [1, 0, 0, 1]]
    assert result.found.int().T.tolist() == [[1, 1, 1, 1], [1, 1, 1, 1], [1, 1, 1, 1], [1, 0, 1, 1]]
    torch.testing.assert_close(result.rate, torch.tensor([0, 1 / 4, 2 / 4, 2 / 3]))
    torch.testing.assert_close(result.coverage, torch.tensor([1, 1, 1, 3 / 4]))


def test_nothing_deleted_and_everything(model, explanation):
    result = flip_rate(model, explanation, percentages=(0, 100))
    assert result.texts == [["Put the pan on it.", "Put the pig on it."]]
    assert [(heard.spectrogram == SILENCE).float().mean() for heard in model.heard[-2:]] == [0, 1]


# Order


def test_bins_of_equal_value_go_in_a_random_order_that_the_seed_repeats(model, explanation):
    """The upper half of the map is one patch: in order of time its first two bins would flip the word."""
    upper = (torch.arange(T)[:, None] < 5).float().expand(T, C)
    first, again = (flip_rate(model, explanation, maps=upper) for _ in range(2))
    assert not first.flips[0, 1]
    assert first.texts == again.texts
    deleted = [model.heard[-1].spectrogram[0] == SILENCE]
    flip_rate(model, explanation, maps=upper, seed=1)
    deleted.append(model.heard[-1].spectrogram[0] == SILENCE)
    assert not torch.equal(*deleted)
    for each in deleted:
        assert each.sum() == 20 and not each[5:].any()


def test_each_step_deletes_the_one_before_too(model, explanation):
    flip_rate(model, explanation, maps="random", percentages=range(1, 101))
    deleted = torch.stack([heard.spectrogram[0] == SILENCE for heard in model.heard[-100:]])
    assert deleted.sum((1, 2)).tolist() == list(range(1, 101))
    assert (deleted[1:] | ~deleted[:-1]).all()


def test_the_random_order_is_no_map(model, explanation):
    flips = [flip_rate(model, explanation, maps="random", percentages=range(101), seed=s).flips for s in (0, 0, 1)]
    assert torch.equal(flips[0], flips[1]) and not torch.equal(flips[0], flips[2])
    own = flip_rate(model, replace(explanation, spectrogram_attr=torch.ones(1, T, C)), percentages=range(101)).flips
    assert torch.equal(flips[0], own)


def test_negative_values_come_last(model, explanation):
    signed = -ranked(*CUE)
    result = flip_rate(model, explanation, maps=signed, percentages=[20, 97, 98])
    assert result.texts[0] == ["Put the pan on it.", "Put the pan on it.", "Put the pig on it."]


# What stands in the word's place

CASES = {
    "the word": ("Put the pan on it.", None, "pan"),
    "the foil": ("Put the pen on it.", None, "pen"),
    "case and punctuation": ("PUT, the PEN! On it", None, "pen"),
    "another word": ("Put the pin on it.", None, None),
    "no part of a word": ("Put the open pens on it.", None, None),
    "nothing in its place": ("Put the on it.", None, None),
    "nothing at all": ("", None, None),
    "the foil somewhere else": ("Put the pan on the pen.", None, "pan"),
    "the foil only somewhere else": ("Pen put the pin on it pen.", None, None),
    "the foil further on": ("Put the pin on pen it.", None, None),
    "both": ("Put the pen pan on it.", None, "pan"),
    "both, the foil last": ("Put the pan pen on it.", None, "pan"),
    "neighbours that changed": ("Put a small pen in it.", None, "pen"),
    "only what comes before stayed": ("Put the pen", None, "pen"),
    "only what comes after stayed": ("A pen on it.", None, "pen"),
    "all of it changed": ("One pen.", None, "pen"),
    "the second of two": ("The pan or the pen.", ("The pan or the pan.", Contrast(4, "pen")), "pen"),
    "the first of two": ("The pen or the pan.", ("The pan or the pan.", Contrast(4, "pen")), "pan"),
    "the first word": ("Pen it.", ("Pan it.", Contrast("Pan", "Pen")), "pen"),
    "a foil that goes on": ("I can not do it", ("I can do it", Contrast("can", "can not")), "can not"),
    "a word that goes on": ("I can do it", ("I can do it", Contrast("can", "can not")), "can"),
    "a foil of two words in part": ("Ice screams.", ("Cream screams.", Contrast("Cream", "ice cream")), None),
    "both, and the foil is longer": (
        "Put the pan pen tip on it.",
        ("Put the pan on it.", Contrast("pan", "pen tip")),
        "pan",
    ),
    "an apostrophe": ("They were here.", ("They we're here.", Contrast("we're", "were")), "were"),
    "no word for a word": ("Put the on it.", ("Put the pan on it.", Contrast("pan", "")), ""),
    "no word, but another": ("Put the pin on it.", ("Put the pan on it.", Contrast("pan", "")), None),
    "no word, and no neighbour": ("Put the it.", ("Put the pan on it.", Contrast("pan", "")), None),
    "no word, at the end": ("Put the", ("Put the pan .", Contrast("pan", "")), ""),
    "no word at all": ("", ("pan .", Contrast("pan", "")), None),
    "the word, not none": ("the pan on", ("Put the pan on it.", Contrast("pan", "")), "pan"),
    "a phrase": ("Put the red pen on it.", ("Put the red pan on it.", Contrast("red pan", "red pen")), "red pen"),
    "numbers": ("It costs $14, sir", ("It costs 40 sir", Contrast("40", "14")), "14"),
}


@pytest.mark.parametrize("name", CASES)
def test_what_stands_in_the_words_place(name):
    written, other, form = CASES[name]
    original, contrast = other or ("Put the pan on it.", PAN)
    model = Writer(original, written)
    result = flip_rate(model, explain(model, contrast), percentages=[10])
    assert result.texts == [[written]]
    assert result.found.item() == (form is not None)
    assert result.flips.item() == (form == contrast.foil.lower())


def test_a_long_text():
    """Its common words are no junk, as difflib would have it from 200 words on."""
    others = " ".join(f"w{number}" for number in [*range(30)] * 4)
    model = Writer(f"{others} pan {others}", f"pen {others} pin {others}")
    assert not flip_rate(model, explain(model), percentages=[10]).found


# What the model is given


def test_it_writes_with_the_arguments_of_the_explanation(model):
    flip_rate(model, explain(model, gen_args={"num_beams": 3}), percentages=[1])
    assert model.gen_args[-1] == {"num_beams": 3, "max_new_tokens": 2 * 7 + 10}
    flip_rate(model, explain(model, gen_args={"max_new_tokens": 9}), percentages=[1])
    assert model.gen_args[-1] == {"max_new_tokens": 9}


@pytest.mark.parametrize(("n_tokens", "longest"), [(3, 16), (90, 190), (96, 200), (150, 200), (260, 260)])
def test_a_text_is_not_let_grow(n_tokens, longest):
    """Whisper refuses more new tokens than it can write: 448 in all."""
    model = Writer("pan" + " it" * (n_tokens - 2), "pen")
    flip_rate(model, explain(model), percentages=[1])
    assert model.gen_args[-1] == {"max_new_tokens": longest}


def test_the_utterance_is_the_explained_one():
    """In its precision and its context; and the explanation is left as it is."""
    model = Toy()
    utterance = Utterance(torch.full((1, T, C), SOUND), torch.zeros(1, 4, C), torch.bfloat16)
    explanation = explain(model, features=utterance)
    flip_rate(model, explanation, percentages=[1])
    assert model.heard[-1].dtype == torch.bfloat16 and model.heard[-1].padding.shape == (1, 4, C)
    assert explanation.grouped and explanation.metadata["contrast"]["word"] == "pan"


def test_a_saved_explanation(model, explanation, tmp_path):
    explanation.save(tmp_path / "pan.safetensors")
    loaded = SpeechToTextExplanation.load(tmp_path / "pan.safetensors")
    assert flip_rate(model, loaded).texts == flip_rate(model, explanation).texts


def test_several_are_each_by_itself(model):
    explanations = [explain(model), explain(model, Contrast("pan", "pig"))]
    for maps in (None, "random"):
        together = flip_rate(model, explanations, maps=maps, percentages=range(0, 101, 5))
        apart = [flip_rate(model, each, maps=maps, percentages=range(0, 101, 5)) for each in explanations]
        assert together.texts == apart[0].texts + apart[1].texts
        assert torch.equal(together.flips, torch.cat([each.flips for each in apart]))
    assert together.flips.any(1).all()


def test_a_whisper(tiny_model, audio):
    """A random one, which writes no words worth the name: its text of the whole is that of the explanation."""
    attribution = SpeechToTextAttribution(FeatureAblation(tiny_model))
    utterance, tokens = attribution.prepare(audio, "so what was it", sampling_rate=16000)
    explanation = attribution.attribute(utterance, tokens, contrast=Contrast("was", "is"))
    written = attribution.text(tiny_model.generate(utterance, max_new_tokens=8))
    explanation.metadata["gen_args"] = {"max_new_tokens": 8}
    result = flip_rate(tiny_model, explanation, percentages=(0, 50))
    assert result.flips.shape == (1, 2) and result.texts[0][0] == written


def test_progress(model, explanation, capsys):
    flip_rate(model, [explanation, explanation], percentages=[1, 2, 3], show_progress=True)
    assert "Flip rate" in (shown := capsys.readouterr().err) and "6/6" in shown
    flip_rate(model, explanation, percentages=[1, 2, 3])
    assert not capsys.readouterr().err


# What is refused


def test_explanations_that_are_no_contrast(model, explanation):
    plain = explain(model, None)
    n_written = len(model.heard)
    for other in (plain, plain.words(), plain.sentence()):
        with pytest.raises(ValueError, match="'Put the pan on it.' is not a contrast: .*Contrast\\(word, foil\\)"):
            flip_rate(model, [explanation, other])
    assert len(model.heard) == n_written


@pytest.mark.parametrize(
    "contrast",
    [Contrast("pan", "PAN"), Contrast("pan", "pan!"), Contrast("pan", "!"), Contrast(".", "so"), Contrast(".", "?")],
)
def test_words_that_reading_cannot_tell_apart(model, contrast):
    with pytest.raises(ValueError, match="are the same without letter case"):
        flip_rate(model, explain(model, contrast))


def test_another_model(model, explanation):
    other = Toy()
    other.name = "another"
    with pytest.raises(ValueError, match="of 'toy', not of the given model 'another'"):
        flip_rate(other, explanation)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"percentages": ()}, "at least one"),
        ({"percentages": (1, 101)}, "from 0 to 100"),
        ({"percentages": (-1,)}, "from 0 to 100"),
        ({"percentages": (float("nan"),)}, "from 0 to 100"),
        ({"maps": "energy"}, "'random', not 'energy'"),
        ({"maps": [torch.zeros(T, C)] * 2}, "maps for 2 of 1 explanations"),
        ({"maps": torch.zeros(T, C + 1)}, r"\(10, 11\) do not fit .* \(10, 10\)"),
        ({"maps": torch.zeros(T, C).fill_(torch.nan)}, "NaN or infinite"),
    ],
)
def test_arguments_that_are_refused(model, explanation, arguments, words):
    with pytest.raises(ValueError, match=words):
        flip_rate(model, explanation, **arguments)


def test_no_explanation(model):
    with pytest.raises(ValueError, match="there is no explanation"):
        flip_rate(model, [])
