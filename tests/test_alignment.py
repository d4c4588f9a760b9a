"""Alignments: files of several makers, matching of words, a forced aligner, and a model's own attention."""

import json
import sys
from dataclasses import replace

import pytest
import torch

from captum_spes import SPES, SpeechToTextAttribution
from captum_spes.alignment import (
    Alignment,
    Segment,
    attention_alignment,
    find_alignment,
    force_align,
    match_words,
)
from captum_spes.models import Tokens

ALIGNMENT = Alignment(
    [Segment("so", 0.2, 0.45), Segment("what", 0.5, 0.8)],
    [Segment("S", 0.2, 0.31), Segment("OW", 0.31, 0.45), Segment("W", 0.5, 0.6), Segment("AH1", 0.6, 0.8)],
    "by hand",
)


# Files


@pytest.mark.parametrize("suffix", [".TextGrid", ".json"])
@pytest.mark.parametrize("phones", [True, False])
def test_files_come_back(tmp_path, suffix, phones):
    if suffix == ".TextGrid":
        pytest.importorskip("praatio")
    alignment = ALIGNMENT if phones else replace(ALIGNMENT, phones=[])
    alignment.save(tmp_path / f"a{suffix}", duration=1.0)
    assert Alignment.load(tmp_path / f"a{suffix}") == alignment


def test_json_of_pocketsphinx_loses_silence_and_numbers_of_pronunciations(tmp_path):
    words = [
        {"b": 0.0, "d": 0.2, "p": 0.9, "t": "<sil>", "w": [{"b": 0.0, "d": 0.2, "t": "SIL"}]},
        {"b": 0.2, "d": 0.1, "p": 0.9, "t": "and(2)", "w": [{"b": 0.2, "d": 0.1, "t": "AE"}]},
    ]
    (tmp_path / "a.phone.json").write_text(json.dumps({"b": 0, "d": 0.3, "t": "and", "w": words}))
    found = Alignment.load(tmp_path / "a.phone.json")
    assert found == Alignment([Segment("and", 0.2, 0.3)], [Segment("AE", 0.2, 0.3)], "a.phone.json")


@pytest.mark.parametrize("names", [("words", "phones"), ("Ann - words", "Ann - phones"), ("ORT-MAU", "MAU")])
def test_textgrids_of_other_aligners(tmp_path, names):
    textgrid = pytest.importorskip("praatio.textgrid")
    grid = textgrid.Textgrid(0, 1)
    grid.addTier(textgrid.IntervalTier(names[0], [(0.0, 0.2, "sil"), (0.2, 0.4, "so")], 0, 1))
    grid.addTier(textgrid.IntervalTier(names[1], [(0.2, 0.3, "s"), (0.3, 0.4, "əʊ"), (0.4, 1.0, "sp")], 0, 1))
    grid.save(str(tmp_path / "a.TextGrid"), format="short_textgrid", includeBlankSpaces=True)
    found = Alignment.load(tmp_path / "a.TextGrid")
    assert [word.text for word in found.words] == ["so"] and [phone.text for phone in found.phones] == ["s", "əʊ"]


@pytest.mark.parametrize(
    "name, content, words",
    [
        ("a.json", "{", "a.json is no alignment"),
        ("a.json", "{}", "a.json is no alignment"),
        ("a.json", "[]", "a.json is no alignment"),
        ("a.json", '{"w": [{"t": "so", "b": 0.5, "d": -0.1}]}', "'so' from 0.5 to 0.4 s is out of order"),
        ("a.TextGrid", "no grid", "a.TextGrid is no alignment"),
        ("a.txt", "so", "neither a .TextGrid nor a .json"),
    ],
)
def test_files_that_are_none(tmp_path, name, content, words):
    pytest.importorskip("praatio")
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=words):
        Alignment.load(tmp_path / name)


def test_a_textgrid_without_words(tmp_path):
    textgrid = pytest.importorskip("praatio.textgrid")
    grid = textgrid.Textgrid(0, 1)
    grid.addTier(textgrid.IntervalTier("melody", [(0.0, 0.2, "H")], 0, 1))
    grid.save(str(tmp_path / "a.TextGrid"), format="long_textgrid", includeBlankSpaces=True)
    with pytest.raises(ValueError, match="no tier named 'words', only melody"):
        Alignment.load(tmp_path / "a.TextGrid")


def test_refusals(tmp_path):
    with pytest.raises(ValueError, match="does not exist"):
        Alignment.load(tmp_path / "none.json")
    with pytest.raises(ValueError, match="must end with"):
        ALIGNMENT.save(tmp_path / "a.txt")
    with pytest.raises(ValueError, match="longer than the duration"):
        ALIGNMENT.save(tmp_path / "a.json", duration=0.5)
    for words in ([Segment("so", 0.2, 0.2)], [Segment("so", 0.2, float("nan"))], list(reversed(ALIGNMENT.words))):
        with pytest.raises(ValueError, match="out of order"):
            Alignment(words)


def test_the_alignment_beside_the_audio_is_that_with_phones(tmp_path):
    audio = tmp_path / "a.b.wav"
    assert find_alignment(audio) is None
    for name in ("a.b.json", "a.b.phone.json", "a.b.TextGrid"):
        (tmp_path / name).touch()
        assert find_alignment(audio).name == name


@pytest.mark.parametrize("module, call", [("pocketsphinx", force_align), ("praatio", Alignment.load)])
def test_the_extra_is_named(monkeypatch, tmp_path, sample, module, call):
    (tmp_path / "a.TextGrid").touch()
    for name in (module, f"{module}.textgrid"):
        monkeypatch.setitem(sys.modules, name, None)
    arguments = (sample, "so") if call is force_align else (tmp_path / "a.TextGrid",)
    with pytest.raises(ImportError, match=r"captum-spes\[alignment\]"):
        call(*arguments)


# Matching


def segments(text):
    return [Segment(word, number, number + 1) for number, word in enumerate(text.split())]


def matched(texts, aligned):
    return [None if found is None else (found.text, found.begin) for found in match_words(texts, segments(aligned))]


@pytest.mark.parametrize(
    "texts, aligned, expected",
    [
        (["So", ",", "what", "?", "<|endoftext|>"], "so what", [("so", 0), None, ("what", 1), None, None]),
        (["It's", "me"], "it 's me", [("it 's", 0), ("me", 2)]),
        (["don't"], "don't", [("don't", 0)]),
        (["Don’t"], "don't", [("don't", 0)]),
        (["cold-hearted"], "cold hearted", [("cold hearted", 0)]),
        (["cold", "hearted"], "cold-hearted", [None, None]),
        (
            ["Mr", ".", "John", "ill-disposed"],
            "mister john ill disposed",
            [None, None, ("john", 1), ("ill disposed", 2)],
        ),
        (["the", "cat", "the", "dog"], "the dog", [None, None, ("the", 0), ("dog", 1)]),
        (["naïve", "Straße"], "naive strasse", [("naive", 0), ("strasse", 1)]),
        (["endoftext"], "endoftext", [("endoftext", 0)]),
        ([], "so", []),
        (["so"], "", [None]),
    ],
)
def test_matching(texts, aligned, expected):
    assert matched(texts, aligned) == expected


# Aligners


def test_force_align_agrees_with_the_alignments_of_the_recordings(librivox):
    pytest.importorskip("pocketsphinx")
    path = librivox / "sense_and_sensibility_01_austen_64kb-0890.wav"
    text = "Unless to be rather cold-hearted, and rather selfish, is to be ill-disposed."
    found, known = force_align(path, text), Alignment.load(path.with_suffix(".phone.json"))
    assert [word.text for word in found.words] == [word.text for word in known.words]
    assert all(abs(a.begin - b.begin) < 0.05 for a, b in zip(found.words, known.words))
    assert len(found.phones) == len(known.phones)
    assert all(abs(a.begin - b.begin) < 0.05 for a, b in zip(found.phones, known.phones))
    assert found.source.startswith("pocketsphinx ")


@pytest.mark.parametrize("text, words", [("So qwzblorg 7?", "no '7', 'qwzblorg'"), ("?!", "no words to align")])
def test_force_align_refuses(sample, text, words):
    pytest.importorskip("pocketsphinx")
    with pytest.raises(ValueError, match=words):
        force_align(sample, text)


def test_the_attention_of_the_real_model_is_where_the_words_are(librivox, bundled_model):
    path = librivox / "sense_and_sensibility_01_austen_64kb-0890.wav"
    utterance, tokens = SpeechToTextAttribution(SPES(bundled_model)).prepare(path)
    found = attention_alignment(bundled_model, utterance, tokens)
    known = Alignment.load(path.with_suffix(".json"))
    pairs = [(a, b) for a, b in zip(found.words, match_words([w.text for w in found.words], known.words)) if b]
    assert len(pairs) >= 10 and found.source == "whisper-tiny.en, cross-attention"
    assert sum(abs(a.end - b.end) < 0.3 for a, b in pairs) >= 0.9 * len(pairs)


@pytest.fixture
def attending_model(tiny_model):
    tiny_model.model.generation_config.alignment_heads = [[0, 1], [1, 0]]
    return tiny_model


def test_token_times(attending_model, audio):
    utterance = attending_model.utterance(audio)
    tokens = attending_model.tokens("so what was", utterance)
    times = attending_model.token_times(utterance, tokens)
    begins, ends = times.T
    assert times.shape == (len(tokens.target), 2)
    assert (begins.diff() >= 0).all() and (begins <= ends).all() and torch.equal(begins[1:], ends[:-1])
    assert begins[0] == 0 and ends[-1] <= 0.6
    # a text that ends is followed by nothing
    ended = Tokens(tokens.prompt, torch.cat((tokens.target, torch.tensor([0]))))
    with_end = attending_model.token_times(utterance, ended)
    assert torch.equal(with_end[:-1], times) and with_end[-1, 1] == pytest.approx(0.6)
    # a single token has all of the time until the end
    assert len(attending_model.token_times(utterance, Tokens(tokens.prompt, tokens.target[:1]))) == 1
    assert attending_model.model.config._attn_implementation == "sdpa"


def test_attention_alignment_refuses_models_without_times(tiny_model, audio):
    utterance = tiny_model.utterance(audio)
    tokens = tiny_model.tokens("so what", utterance)
    with pytest.raises(ValueError, match="no alignment_heads"):
        attention_alignment(tiny_model, utterance, tokens)

    class Deaf:
        name = "deaf"

    with pytest.raises(ValueError, match="deaf does not tell when"):
        attention_alignment(Deaf(), utterance, tokens)
