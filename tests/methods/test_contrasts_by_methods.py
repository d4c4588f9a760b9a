"""Contrasts by every kind of method."""

from functools import partial

import pytest
import torch
from captum.attr import FeatureAblation, IntegratedGradients, KernelShap, NoiseTunnel, Saliency, ShapleyValueSampling
from toys import TEXT, over, wrapped

from captum_spes import SPES, BubbleNoise, KLDivergence, grid_feature_mask
from captum_spes.models import Tokens
from captum_spes.speech_to_text.targets import Contrast, WordPrediction

LONG_WORDS = "so stop it's to-do his"  # of several tokens, "it's" begins with one that is a lone space


def begin_a_word(model):
    """Tokens that begin a word: with a space, special tokens, or punctuation that does not join letters; bool (V,)."""
    starts = []
    for index in torch.arange(model.model.config.vocab_size):
        (text,), (special,) = model.token_texts(index[None]), model.is_special(index[None])
        starts.append(special or (bool(text) and not (text[0].isalnum() or text[0] in "_-'")))
    return torch.tensor(starts)


def word_probability(model, utterance, spectrogram, context, word, starts, gate=None):
    """Token by token, each from a call of its own; ``gate`` (J,) is of the context, ``starts`` (V,) or None."""

    def next_token(ids):
        tokens = Tokens(torch.cat((context, ids)), torch.tensor([0]))
        gates = None if gate is None else torch.cat((gate, torch.ones(len(ids))))[None]
        with torch.no_grad():
            return model.logits(model.encode(spectrogram, utterance), tokens, gates)[0, 0].softmax(-1)

    probability = torch.tensor(1.0)
    for index, token in enumerate(word):
        probability = probability * next_token(word[:index])[token]
    if starts is not None:
        probability = probability * next_token(word)[starts].sum() / next_token(word[:0])[starts].sum()
    return probability


def contrast_by_hand(model, utterance, context, word, foil, starts, difference, spectrogram, gate=None):
    p, q = (word_probability(model, utterance, spectrogram, context, ids, starts, gate) for ids in (word, foil))
    return p - q if difference else p / (p + q)


@pytest.mark.parametrize(
    ("text", "word", "foil", "difference", "word_boundaries"),
    [
        (TEXT, "was", "so", False, True),
        (TEXT, "was", "so", True, True),
        (TEXT, "next", "his", False, False),
        (LONG_WORDS, "stop", "power-to", False, True),
        (LONG_WORDS, "it's", "wide", False, True),
        (LONG_WORDS, "it's", "wide", True, True),
        (LONG_WORDS, "it's", "wide", False, False),
        (LONG_WORDS, "to-do", "doing", False, True),
    ],
)
def test_a_contrast_is_of_the_words_probabilities(tiny_model, audio, text, word, foil, difference, word_boundaries):
    utterance = tiny_model.utterance(audio)
    tokens = tiny_model.tokens(text, utterance)
    mask = grid_feature_mask(utterance.spectrogram, (30, 8))
    explanation = wrapped(FeatureAblation, tiny_model).attribute(
        utterance, tokens, feature_mask=mask, contrast=Contrast(word, foil, difference, word_boundaries)
    )
    start, stop = explanation.metadata["contrast"]["token_span"]
    assert torch.equal(tokens.target[start:stop], tiny_model.tokens(word, utterance).target)
    context = torch.cat((tokens.prompt, tokens.target[:start]))
    assert explanation.tokens == [f"{word} (not {foil})"] and explanation.grouped
    assert explanation.previous_tokens == tiny_model.token_texts(context)
    words = tokens.target[start:stop], tiny_model.tokens(foil, utterance).target
    starts = begin_a_word(tiny_model) if word_boundaries else None
    score = partial(contrast_by_hand, tiny_model, utterance, context, *words, starts, difference)
    original = score(utterance.spectrogram)
    baseline, found, expected = tiny_model.baseline(utterance), [], []
    for patch in mask.unique():
        found.append(explanation.spectrogram_attr[0][mask[0] == patch].unique().item())
        expected.append(original - score(torch.where(mask == patch, baseline, utterance.spectrogram)))
    for column in range(len(context)):
        found.append(explanation.token_attr[0, column])
        expected.append(original - score(utterance.spectrogram, 1 - torch.eye(len(context))[column]))
    found, expected = torch.tensor(found), torch.tensor(expected)
    assert difference or expected[:4].abs().max() > 0.005 < expected[4:].abs().max()
    torch.testing.assert_close(found / expected.abs().max(), expected / expected.abs().max(), atol=1e-3, rtol=1e-3)


def contrast_of(model, audio, text, contrast):
    utterance = model.utterance(audio)
    tokens = model.tokens(text, utterance)
    return tokens.target, WordPrediction(model, tokens, contrast, utterance)


def test_a_phrase_is_contrasted_as_a_whole(tiny_model, audio):
    target, phrase = contrast_of(tiny_model, audio, TEXT, Contrast("what  was", "so it was"))
    assert phrase.rows == ["what was (not so it was)"]
    start, stop = phrase.contrast["token_span"]
    assert "".join(tiny_model.token_texts(target[start:stop])).strip() == "what was"
    assert "".join(tiny_model.token_texts(phrase.foil_ids)).strip() == "so it was"
    composed = contrast_of(tiny_model, audio, "so cafe\u0301 was", Contrast("caf\u00e9 was", "to"))[1]
    assert composed.contrast["word"] == "cafe\u0301 was"


def test_a_word_against_none_is_scored_against_what_follows_it(tiny_model, audio):
    prediction = contrast_of(tiny_model, audio, "so what was", Contrast("what", ""))[1]
    followed = contrast_of(tiny_model, audio, "so what was", Contrast("what", "was"))[1]
    assert prediction.rows == ["what (not ∅)"] and prediction.contrast["foil"] == ""
    for name in ("word_ids", "foil_ids", "previous"):
        assert torch.equal(getattr(prediction, name), getattr(followed, name))
    assert prediction.word_boundaries


def test_a_repeated_word_against_none_is_scored_where_the_texts_differ(tiny_model, audio):
    """ "so so what" without one "so" is "so what": the two differ from the second token of that text on."""
    texts = []
    for number in (0, 1):
        target, prediction = contrast_of(tiny_model, audio, "so so what", Contrast(number, ""))
        texts.append([prediction.previous[-1], *prediction.word_ids, *prediction.foil_ids])
        assert not number or prediction.word_boundaries
    so, what = target[0], target[2]
    assert texts[0] == texts[1] == [so, so, what]


def test_the_last_word_against_none_is_scored_against_the_end(tiny_model, audio):
    utterance = tiny_model.utterance(audio)
    written = tiny_model.tokens("so what", utterance)
    tokens = Tokens(written.prompt, torch.cat((written.target, torch.tensor([0]))))
    prediction = WordPrediction(tiny_model, tokens, Contrast("what", ""), utterance)
    assert prediction.foil_ids.tolist() == [0] and not prediction.word_boundaries  # nothing begins after the end
    explanation = wrapped(Saliency, tiny_model).attribute(utterance, tokens, contrast=Contrast("what", ""))
    assert explanation.spectrogram_attr.abs().max() > 0


def test_contrasts_by_gradients(tiny_model, sentence):
    """Complete, and the gradient's direction raises the word against its foil."""
    utterance, tokens = sentence
    contrast = Contrast("was", "so")
    complete = wrapped(IntegratedGradients, tiny_model).attribute(utterance, tokens, contrast=contrast, n_steps=100)
    context = torch.cat((tokens.prompt, tokens.target[:2]))
    words = tokens.target[2:3], tokens.target[:1]
    score = partial(contrast_by_hand, tiny_model, utterance, context, *words, begin_a_word(tiny_model), False)
    baseline = tiny_model.baseline(utterance).expand_as(utterance.spectrogram)
    change = score(utterance.spectrogram) - score(baseline)
    torch.testing.assert_close(complete.spectrogram_attr.sum(), change, atol=2e-3, rtol=0.05)
    assert change.abs() > 0.02
    gradient = wrapped(Saliency, tiny_model).attribute(utterance, tokens, contrast=contrast, abs=False).spectrogram_attr
    step = 0.01 * gradient / gradient.norm()
    rise = score(utterance.spectrogram + step) - score(utterance.spectrogram - step)
    torch.testing.assert_close(rise, 0.02 * gradient.norm(), atol=1e-5, rtol=0.02)
    assert complete.metadata["score"] == "ContrastiveProbability"


@pytest.mark.parametrize("method", [SPES, BubbleNoise, KernelShap, ShapleyValueSampling, over(Saliency)])
def test_contrasts_by_every_kind_of_method(tiny_model, sentence, method):
    utterance, tokens = sentence
    n = 3 if method is ShapleyValueSampling else 20  # which tries each of them with all features
    small = {} if method(None).__class__ is NoiseTunnel else {"n_samples": n, "n_token_samples": n}
    small |= {"nt_samples": 3} if not small else {}
    plain, swapped, difference, chain = (
        wrapped(method, tiny_model).attribute(utterance, tokens, contrast=contrast, **small)
        for contrast in (
            Contrast("was", "so"),
            Contrast(2, " so "),
            Contrast("was", "so", difference=True),
            Contrast("was", "so", word_boundaries=False),
        )
    )
    assert plain.tokens == ["was (not so)"] and plain.spectrogram_attr.shape == (1, 60, 16)
    assert torch.equal(plain.spectrogram_attr, swapped.spectrogram_attr)
    assert plain.metadata["contrast"] == swapped.metadata["contrast"]
    for other in (difference, chain):
        assert not torch.allclose(plain.spectrogram_attr, other.spectrogram_attr, rtol=1e-2)
        assert not torch.allclose(plain.token_attr, other.token_attr, rtol=1e-2)


@pytest.mark.parametrize("word", ["was", " was ", 2, -5])
def test_words_by_text_and_by_number(tiny_model, sentence, word):
    explanation = wrapped(Saliency, tiny_model).attribute(*sentence, contrast=Contrast(word, "so"))
    assert explanation.metadata["contrast"]["word"] == "was"
    assert explanation.tokens == ["was (not so)"]


@pytest.mark.parametrize(
    ("text", "contrast", "words"),
    [
        (
            "so what so",
            Contrast("so", "to"),
            r"the word 'so' is 2 times in the text: give one of \['so', 'what', 'so'\]",
        ),
        (TEXT, Contrast("will", "to"), "the word 'will' is not in the text: give one of"),
        (TEXT, Contrast(7, "to"), "the word 7 is not in the text"),
        (TEXT, Contrast(-8, "to"), "the word -8 is not in the text"),
        (TEXT, Contrast((0, 99), "to"), r"the word \(0, 99\) is not in the text"),
        (TEXT, Contrast((2, 1), "to"), r"the word \(2, 1\) is not in the text"),
        (TEXT, Contrast("was", "was"), "the foil 'was' of the word 'was' is the same word or blank"),
        (TEXT, Contrast(2, " was "), "is the same word or blank: give another word"),
        (TEXT, Contrast("was", " "), "is the same word or blank: give another word"),
        (TEXT, Contrast("what his", "to"), "the word 'what his' is not in the text"),
        ("so what so what", Contrast("so what", "to"), "the word 'so what' is 2 times in the text"),
        ("so what", Contrast("what", ""), "nothing follows the last word of the text"),
        ("so what what", Contrast(1, ""), "the text ends in repetitions of the word"),
    ],
)
def test_contrasts_that_cannot_be(tiny_model, audio, text, contrast, words):
    with pytest.raises(ValueError, match=words):
        wrapped(FeatureAblation, tiny_model).attribute(audio, text, sampling_rate=16000, contrast=contrast)


def test_a_contrast_has_its_own_score(tiny_model, audio):
    with pytest.raises(ValueError, match="a contrast has its own score: leave out score=KLDivergence"):
        wrapped(FeatureAblation, tiny_model, KLDivergence).attribute(
            audio, TEXT, sampling_rate=16000, contrast=Contrast("was", "so")
        )
