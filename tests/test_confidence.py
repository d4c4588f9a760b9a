"""Confidence: closed forms, words, files, and comparison with a plain forward."""

import json
import math
from dataclasses import replace

import pytest
import torch

from captum_spes import SPES, SpeechToTextAttribution, SpeechToTextExplanation
from captum_spes.confidence import Confidence, token_confidence
from captum_spes.explanation.page import html
from tests.test_explanation import make


def texts(ids):
    return ["abcd"[token] for token in ids.tolist()]


def confident(explanation, probabilities=(0.9, 0.5, 0.4, 0.8)):
    n = len(explanation.tokens)
    confidence = Confidence(
        list(probabilities[:n]), list(probabilities[:n]), [0.5] * n, [[(f" w{i}", 0.1), (" x", 0.05)] for i in range(n)]
    )
    return replace(explanation, confidence=confidence)


def test_closed_form():
    prediction = torch.tensor([[0.5, 0.25, 0.125, 0.125], [1.0, 0, 0, 0]]).log()
    found = token_confidence(prediction, torch.tensor([1, 0]), texts)
    assert found.probabilities == pytest.approx([0.25, 1], abs=1e-6)
    assert found.entropy == pytest.approx([1.75, 0], abs=1e-5)
    assert [text for text, _ in found.alternatives[0]] == ["a", "c", "d"]  # without the one that was written
    assert found.alternatives[0][0][1] == pytest.approx(0.5, abs=1e-6)
    assert found.alternatives[1] == []  # what cannot be written is no alternative
    assert found.doubtful == [True, False]


def test_tokens_of_several_frames_have_the_mean_distribution():
    prediction = torch.tensor([[0.9, 0.1], [0.5, 0.5], [0.2, 0.8]]).log()
    found = token_confidence(prediction, torch.tensor([0, 1]), texts, path=torch.tensor([0, 0, 1]))
    assert found.probabilities == pytest.approx([0.7, 0.8], abs=1e-6)
    assert found.entropy[0] == pytest.approx(-0.7 * math.log2(0.7) - 0.3 * math.log2(0.3), abs=1e-5)


def test_words_have_the_product_and_the_least():
    # so, wh + at, ?
    words = confident(make()).words().confidence
    assert words.probabilities == pytest.approx([0.9, 0.2, 0.8])
    assert words.least == [0.9, 0.4, 0.8]
    assert words.entropy == [0.5, 1.0, 0.5]
    assert words.alternatives[1] == [("wh w2", 0.1), ("wh x", 0.05)]
    assert words.doubtful == [False, True, False]
    assert confident(make()).sentence().confidence.probabilities == pytest.approx([0.9 * 0.2 * 0.8])


def test_the_file_keeps_it(tmp_path):
    confident(make()).save(tmp_path / "a.safetensors")
    loaded = SpeechToTextExplanation.load(tmp_path / "a.safetensors")
    assert loaded.confidence == confident(make()).confidence
    make().save(tmp_path / "b.safetensors")
    assert SpeechToTextExplanation.load(tmp_path / "b.safetensors").confidence is None


@pytest.mark.parametrize(
    "name, value",
    [
        ("probabilities", [0.5, 1.5]),
        ("probabilities", [0.5, math.nan]),
        ("probabilities", ["high", 0.5]),
        ("least", [0.5]),
        ("entropy", [-1, 0]),
        ("entropy", [math.inf, 0]),
        ("alternatives", [[["a"]], []]),
        ("alternatives", [[[1, 0.5]], []]),
        ("alternatives", [[["a", 2]], []]),
        ("alternatives", "none"),
        ("alternatives", [1, 2]),
        ("unheard", [0.5]),
        ("unheard", [0.5, 2]),
        ("more", []),
    ],
)
def test_hostile_files_are_refused(name, value):
    content = {
        "probabilities": [0.5, 0.5],
        "least": [0.5, 0.5],
        "entropy": [0, 0],
        "alternatives": [[["a", 0.1]], []],
        "unheard": None,
    }
    assert Confidence.from_content(json.loads(json.dumps(content))).alternatives == [[("a", 0.1)], []]
    with pytest.raises(ValueError):
        Confidence.from_content({**content, name: value})
    with pytest.raises(ValueError):
        Confidence.from_content(value)


def test_a_confidence_of_other_tokens_is_refused():
    with pytest.raises(ValueError, match="3 rows for 4 tokens"):
        replace(make(), confidence=confident(make(3)).confidence)


@pytest.mark.filterwarnings("ignore:the maps are noisy")
def test_it_is_the_models_own_distribution(tiny_model, audio):
    attribution = SpeechToTextAttribution(SPES(tiny_model))
    utterance, tokens = attribution.prepare(audio, "so what was", sampling_rate=16000)
    with torch.no_grad():
        logits = tiny_model.logits(tiny_model.encode(utterance.spectrogram, utterance), tokens)
    expected = logits[0].double().softmax(-1)[torch.arange(len(tokens.target)), tokens.target]
    found = attribution.attribute(utterance, tokens, n_samples=90)
    assert found.confidence.probabilities == pytest.approx(expected.tolist(), rel=1e-4)
    best = [row[0][0] for row in found.confidence.alternatives]
    others = logits[0].scatter(1, tokens.target[:, None], -torch.inf).argmax(1)
    assert best == [
        tiny_model.token_texts(others[k : k + 1])[0] or "\N{REPLACEMENT CHARACTER}" for k in range(len(best))
    ]
    sentence = attribution.attribute(utterance, tokens, n_samples=90, sentence=True)
    assert sentence.confidence.probabilities == pytest.approx([float(expected.prod())], rel=1e-4)


def test_the_report_carries_it():
    page = html(confident(make()), audio=False)
    assert '"probability":0.9,"entropy":0.5,"doubtful":false' in page
    assert '"alternatives":[["w0",0.1],["x",0.05]]' in page.replace('[" ', '["')


def test_salient_spans_are_those_of_the_map():
    maps = torch.zeros(4, 30, 8)
    maps[:, 10:14, 2:5] = torch.arange(1.0, 13).view(4, 3)  # 12 bins, the most salient 5 % of 240
    rows = replace(make(), spectrogram_attr=maps).word_rows()
    assert (rows[0].salient_begin, rows[0].salient_end) == (0.10, 0.12)
    frequencies = make().mel_frequencies
    assert (rows[0].salient_low, rows[0].salient_high) == (float(frequencies[2]), float(frequencies[3]))
    assert rows[0].probability is None and rows[0].begin is None
    assert [row.text for row in rows] == ["so", "what", "?"]


def test_a_flat_map_has_no_salient_span():
    row = replace(make(), spectrogram_attr=torch.ones(4, 30, 8)).word_rows()[0]
    assert (row.salient_begin, row.salient_end, row.salient_low, row.salient_high) == (None,) * 4
