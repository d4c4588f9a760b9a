"""Foils by the model's own distribution, where the competitors are planted, and on real speech."""

import math
from dataclasses import replace

import pytest
import torch

from captum_spes import SPES, Contrast, SpeechToTextAttribution, SpeechToTextExplanation
from captum_spes.audio import load_audio
from captum_spes.models.protocol import Tokens, Utterance
from captum_spes.speech_to_text.foils import ids_in_place, strongest_foil, word_log_prob
from captum_spes.speech_to_text.targets import WordPrediction

VOCABULARY = ["<s>", "</s>", " old", "-s", "posed", " ill", "-dis", " Old", ",", " man", " cold", "er", " so"]
# what follows what, and how probable it is
GRAMMAR = {
    "<s>": {" old": 0.5, " ill": 0.2, " Old": 0.1, ",": 0.1, " cold": 0.05, "</s>": 0.05},
    " old": {"-s": 0.6, " man": 0.3, "er": 0.1},
    "-s": {"posed": 1.0},
    "posed": {" man": 0.95, "er": 0.05},
    " ill": {"-dis": 0.9, " man": 0.1},
    "-dis": {"posed": 1.0},
    " cold": {" man": 1.0},
    "er": {" man": 1.0},
    " Old": {"-s": 1.0},
    " man": {"</s>": 1.0},
}


class Grammar:
    """Writes by a table of which token follows which, whatever it hears."""

    name = "grammar"

    def encode(self, spectrogram, utterance):
        return spectrogram

    def token_texts(self, ids):
        return [VOCABULARY[i] for i in ids.tolist()]

    def is_special(self, ids):
        return [i < 2 for i in ids.tolist()]

    def tokens(self, target, utterance):
        ids, rest = [], " " + target
        while rest:
            ids.append(
                max((i for i, t in enumerate(VOCABULARY) if rest.startswith(t)), key=lambda i: len(VOCABULARY[i]))
            )
            rest = rest[len(VOCABULARY[ids[-1]]) :]
        return Tokens(torch.tensor([0]), torch.tensor(ids))

    def logits(self, encoded, tokens, token_gate=None):
        rows = []
        for token in tokens.previous[len(tokens.prompt) - 1 :].tolist():
            row = torch.full((len(VOCABULARY),), 1e-9)
            for follower, share in GRAMMAR.get(VOCABULARY[token], {}).items():
                row[VOCABULARY.index(follower)] = share
            rows.append(row.log())
        return torch.stack(rows)[None]


UTTERANCE = Utterance(torch.zeros(1, 10, 3), torch.zeros(1, 0, 3))


def foil_of(word, before=()):
    model = Grammar()
    previous = torch.tensor([0, *(VOCABULARY.index(token) for token in before)])
    return strongest_foil(model, UTTERANCE, previous, model.tokens(word, UTTERANCE).target, word)


@pytest.mark.parametrize(
    "word, foil",
    [
        # old 0.5 · 0.3, then ill-disposed 0.2 · 0.9; the same word with a capital, punctuation and the end do not count
        ("old-sposed", "ill-disposed"),
        ("ill-disposed", "old-sposed"),
        ("cold", "old-sposed"),  # 0.5 · 0.6
        ("old", "old-sposed"),  # a longer word
        ("old man", "old-sposed man"),
    ],
)
def test_planted_competitors(word, foil):
    assert foil_of(word) == foil


def test_where_a_word_would_have_ended(monkeypatch):
    monkeypatch.setitem(GRAMMAR, "<s>", {" old": 1.0})
    assert foil_of("old-sposed") == "old"  # 0.3; older has 0.1


def test_no_competitor_is_an_error(monkeypatch):
    monkeypatch.setattr("captum_spes.speech_to_text.foils.is_word", lambda text: False)
    with pytest.raises(ValueError, match="no other word is probable in the place of 'old': name a foil"):
        foil_of("old")


def test_the_probability_of_a_word():
    model = Grammar()
    found = word_log_prob(model, None, torch.tensor([0]), model.tokens("ill-disposed", UTTERANCE).target)
    assert found == pytest.approx(math.log(0.2 * 0.9), abs=1e-5)


@pytest.mark.filterwarnings("ignore:the maps are noisy")
def test_a_contrast_without_a_foil_is_that_with_the_strongest(tiny_model, audio):
    attribution = SpeechToTextAttribution(SPES(tiny_model))
    utterance, tokens = attribution.prepare(audio, "so what was", sampling_rate=16000)
    automatic = attribution.attribute(utterance, tokens, contrast=Contrast("what"), n_samples=30)
    foil = automatic.metadata["contrast"]["foil"]
    named = attribution.attribute(utterance, tokens, contrast=Contrast("what", foil), n_samples=30)
    assert automatic.tokens == [f"what (not {foil})"]
    assert torch.equal(automatic.spectrogram_attr, named.spectrogram_attr)


def test_a_phrase_by_the_numbers_of_its_words(tiny_model, audio):
    utterance = tiny_model.utterance(audio)
    tokens = tiny_model.tokens("so what so what", utterance)
    prediction = WordPrediction(tiny_model, tokens, Contrast((2, 3), "to"), utterance)
    assert prediction.rows == ["so what (not to)"] and prediction.contrast["token_span"][1] == len(tokens.target)


def test_white_space_in_foils_is_one_space(tiny_model, audio):
    utterance = tiny_model.utterance(audio)
    tokens = tiny_model.tokens("so what so", utterance)
    broken, plain = (
        WordPrediction(tiny_model, tokens, Contrast("what", foil), utterance) for foil in ("to\n so", "to so")
    )
    assert broken.rows == plain.rows and torch.equal(broken.foil_ids, plain.foil_ids)


def test_command_line(run, tiny_folder, recording):
    common = ["explain", recording, "--model", tiny_folder, "--target", "so what", "--method", "energy", "-o", "out"]
    code, out, err = run(*common, "--word", "what", "--foil", "auto")
    assert code == 0, err
    [row] = SpeechToTextExplanation.load("out/explanation.safetensors").tokens
    foil = row.removeprefix("what (not ").removesuffix(")")
    assert f"Foil:       {foil} (the most probable other word in the place of what)" in out
    code, out, err = run(*common, "--word", "what", "--foil", " auto")
    assert code == 0, err
    assert SpeechToTextExplanation.load("out/explanation.safetensors").tokens == ["what (not auto)"]


@pytest.mark.long
def test_real_speech(bundled_model, sample, librivox):
    from captum_spes.models import prepare

    def foil(path, word):
        utterance, tokens = prepare(bundled_model, path, context="full")
        return WordPrediction(bundled_model, tokens, Contrast(word), utterance).contrast["foil"]

    assert foil(sample, "step") in ("stop", "steps", "stepped", "stab", "tip")
    path = next(librivox.glob("*0880.wav"))
    assert foil(path, "old-sposed").casefold() in ("ill-disposed", "old", "old-disposed")


@pytest.mark.parametrize("text, word, foil", [('"so what', "so", "to"), ("so what (so", (3, 3), "what")])
def test_foils_are_written_as_in_the_place_of_the_word(tiny_model, audio, text, word, foil):
    """Without a space after a quotation mark, as the word itself."""
    utterance = tiny_model.utterance(audio)
    tokens = tiny_model.tokens(text, utterance)
    prediction = WordPrediction(tiny_model, tokens, Contrast(word, foil), utterance)
    assert "".join(tiny_model.token_texts(prediction.foil_ids)) == foil
    assert "".join(tiny_model.token_texts(prediction.word_ids)) == "so"


@pytest.mark.parametrize("word, foil", [(0, "明天"), (2, "地"), ((1, 2), "地天")])
def test_foils_of_texts_without_a_first_space(tiny_model, audio, word, foil):
    """Whisper writes no space before Chinese, and so none before the foil."""
    utterance = tiny_model.utterance(audio)
    end = tiny_model.model.generation_config.eos_token_id
    tokens = tiny_model.tokens([*tiny_model.tokenizer.encode("今天气", add_special_tokens=False), end], utterance)
    prediction = WordPrediction(tiny_model, tokens, Contrast(word, foil, word_boundaries=False), utterance)
    assert "".join(tiny_model.token_texts(prediction.foil_ids)) == foil
    prompted = replace(tokens, target=torch.cat((tokens.target[-1:], tokens.target)))  # a mark before the text
    found = ids_in_place(tiny_model, utterance, prompted, 1, 4, foil)  # a character has three bytes
    assert "".join(tiny_model.token_texts(found)) == foil


@pytest.mark.parametrize(
    ("text", "begins"),
    [("今天气", "今"), ("so 今", " so"), ("สวัสดี", "ส"), ("3天", "3"), ("“今天”", "“"), ("3 so 今", " 3")],
)
def test_given_texts_begin_as_whisper_begins_them(tiny_model, audio, text, begins):
    tokens = tiny_model.tokens(text, tiny_model.utterance(audio))
    written = tiny_model.tokenizer.decode(tokens.target)
    assert written.startswith(begins) and written.strip() == text


def test_punctuation_as_a_foil(bundled_model, sample):
    """A full stop follows a word without a space, which is another token."""
    utterance = bundled_model.utterance(load_audio(sample, 16000))
    tokens = bundled_model.generate(utterance)
    prediction = WordPrediction(bundled_model, tokens, Contrast("?", "."), utterance)
    assert bundled_model.token_texts(prediction.foil_ids) == ["."]
    with torch.no_grad():
        encoded = bundled_model.encode(utterance.spectrogram, utterance)
        at_end = word_log_prob(bundled_model, encoded, prediction.previous, prediction.foil_ids)
    assert math.exp(at_end) > 1e-3  # with a space it is improbable
