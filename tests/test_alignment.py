"""Alignments: file formats, matching of words, the forced aligner, and the alignment by a model's attention."""

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


def test_words_that_overlap_are_written_as_json(tmp_path):
    alignment = Alignment(
        [Segment("yes", 0.0, 1.0), Segment("no", 0.5, 1.5)],
        [Segment("Y", 0.0, 0.6), Segment("N", 0.5, 0.9), Segment("S", 0.6, 1.0), Segment("O", 0.9, 1.5)],
        "two speakers",
    )
    alignment.save(tmp_path / "a.json")
    assert Alignment.load(tmp_path / "a.json") == alignment
    pytest.importorskip("praatio")
    touching = Alignment([Segment("so", 0.1, 0.1 + 0.2), Segment("what", 0.3, 0.5)])  # 0.1 + 0.2 is above 0.3
    touching.save(tmp_path / "b.TextGrid")
    with pytest.raises(ValueError, match=r"cannot hold words or phones that overlap: write a \.json file"):
        alignment.save(tmp_path / "a.TextGrid")


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
        ("a.json", "{", "a.json is not a readable alignment"),
        ("a.json", "{}", "a.json is not a readable alignment"),
        ("a.json", "[]", "a.json is not a readable alignment"),
        ("a.json", '{"w": [{"t": "so", "b": 0.5, "d": -0.1}]}', "'so' from 0.5 to 0.4 s is out of order"),
        ("a.TextGrid", "no grid", "a.TextGrid is not a readable alignment"),
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
    with pytest.raises(ValueError, match="no tier named 'words', only 'melody': choose one by"):
        Alignment.load(tmp_path / "a.TextGrid")


def test_refusals(tmp_path):
    with pytest.raises(ValueError, match="does not exist"):
        Alignment.load(tmp_path / "none.json")
    with pytest.raises(ValueError, match="must end with"):
        ALIGNMENT.save(tmp_path / "a.txt")
    with pytest.raises(ValueError, match="after the duration"):
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


# Tiers of several speakers, of other names and kinds


def save_grid(path, tiers, points=()):
    """A TextGrid of tiers by name, each of (begin, end, text); those named in points have (time, text)."""
    textgrid = pytest.importorskip("praatio.textgrid")
    grid = textgrid.Textgrid(0, 2)
    for name, entries in tiers.items():
        kind = textgrid.PointTier if name in points else textgrid.IntervalTier
        grid.addTier(kind(name, entries, 0, 2))
    grid.save(str(path), format="long_textgrid", includeBlankSpaces=True)
    return path


TWO_SPEAKERS = {
    "Ann - words": [(0, 0.3, "so"), (1.2, 1.6, "no")],
    "Ann - phones": [(0, 0.3, "S"), (1.2, 1.6, "N")],
    "Bob - words": [(0.5, 1.0, "step")],
    "Bob - phones": [(0.5, 1.0, "T")],
}


@pytest.mark.parametrize("style", ["{0} - {1}", "{1}@{0}", "{0}_{1}", "{1}: {0}"])
def test_the_words_of_all_speakers_or_of_one(tmp_path, style):
    named = {style.format(*name.split(" - ")): entries for name, entries in TWO_SPEAKERS.items()}
    path = save_grid(tmp_path / "a.TextGrid", named)
    both = Alignment.load(path)
    assert [word.text for word in both.words] == ["so", "step", "no"]
    assert [phone.text for phone in both.phones] == ["S", "T", "N"]
    for tier in ("bob", style.format("Bob", "words")):
        bob = Alignment.load(path, tier=tier)
        assert ([word.text for word in bob.words], [phone.text for phone in bob.phones]) == (["step"], ["T"])
    with pytest.raises(ValueError, match="no tier named 'Cid' and no speaker of that name"):
        Alignment.load(path, tier="Cid")


def test_speakers_may_speak_at_once(tmp_path):
    tiers = {"Ann - words": [(0, 1.0, "so")], "Bob - words": [(0.5, 0.8, "no"), (0.9, 1.5, "step")]}
    assert len(Alignment.load(save_grid(tmp_path / "a.TextGrid", tiers)).words) == 3


def test_a_tier_of_another_name(tmp_path):
    path = save_grid(tmp_path / "a.TextGrid", {"Wörter": [(0, 0.3, "so")], "phones": [(0, 0.3, "S")]})
    found = Alignment.load(path, tier="wörter")
    assert [word.text for word in found.words] == ["so"] and [phone.text for phone in found.phones] == ["S"]


def test_two_tiers_of_one_name(tmp_path):
    path = save_grid(tmp_path / "a.TextGrid", {"words": [(0, 0.3, "so")], "word2": [(0.5, 1, "no")]})
    path.write_text(path.read_text().replace("word2", "words"))
    assert [word.text for word in Alignment.load(path).words] == ["so", "no"]


def test_points_are_no_words(tmp_path):
    path = save_grid(tmp_path / "a.TextGrid", {"words": [(0.4, "so")]}, points=["words"])
    with pytest.raises(ValueError, match="the tier 'words' has points in time: words need a beginning and an end"):
        Alignment.load(path)
    tiers = {"words - x": [(0.4, "so")], "words": [(0, 0.3, "no")]}
    assert len(Alignment.load(save_grid(path, tiers, points=["words - x"])).words) == 1


SILENT = ["SIL", "#", "_", "<unk>", "<p>", "h#", "[SIL]", "<SIL>", "<usb>", "xxx", "-", "epi", "{lg}", "(noise)", "..."]
SILENT += ["<P:>", "SIL_S", "++breath++", "+spn+", "[laughter and noise]", "<eps>", "!SIL", "?"]


def test_silence_and_noise_are_no_words(tmp_path):
    times = [0.05 * number for number in range(len(SILENT) + 2)]
    entries = list(zip(times, times[1:], [*SILENT, "so"]))
    phones = [entry for entry in entries if entry[2] != "?"]  # SAMPA's glottal stop
    found = Alignment.load(save_grid(tmp_path / "a.TextGrid", {"words": entries, "phones": phones}))
    assert [word.text for word in found.words] == ["so"] == [phone.text for phone in found.phones]


@pytest.mark.parametrize("phone", ["@", "?", "{", "3:", "E@", "=n", "ʔ", "t_h", "AH0", "pcl"])
def test_phones_need_no_letters(tmp_path, phone):
    path = save_grid(tmp_path / "a.TextGrid", {"words": [(0, 0.3, "so")], "phones": [(0, 0.3, phone)]})
    assert [item.text for item in Alignment.load(path).phones] == [phone]


def test_errors_do_not_show_the_parser(tmp_path):
    path = save_grid(tmp_path / "a.TextGrid", {"words": [(0, 0.3, "so"), (0.5, 1, "no")]})
    path.write_text(path.read_text()[:-60])
    for text in (path.read_text(), "", "File type"):
        path.write_text(text)
        with pytest.raises(ValueError, match="a.TextGrid is not a readable alignment: ") as caught:
            Alignment.load(path)
        assert not any(word in str(caught.value) for word in ("index", "object", "Error", "NoneType", "substring"))


@pytest.mark.parametrize(
    ("name", "words", "n_phones"),
    [("two_speakers.TextGrid", ["So", "step"], 2), ("sil_kinds.TextGrid", 1, 1), ("points_words.TextGrid", None, 0)],
)
def test_files_that_once_went_wrong(cases, name, words, n_phones):
    pytest.importorskip("praatio")
    if words is None:
        with pytest.raises(ValueError, match="the tier 'words' has points in time"):
            Alignment.load(cases / name)
        return
    found = Alignment.load(cases / name)
    texts = [word.text for word in found.words]
    assert (texts if isinstance(words, list) else len(texts)) == words and len(found.phones) == n_phones


# JSON of aligners and of Whisper

WHISPER = {"word": " So,", "start": 0.2, "end": 0.45, "probability": 0.9}
WHISPER_WORDS = [WHISPER, {"word": " what", "start": 0.5, "end": 0.8, "probability": 0.8}]
TIERS = {"words": [[0.2, 0.45, "So,"], [0.5, 0.8, "what"], [0.8, 1, ""]], "phones": [[0.2, 0.3, "S"], [0.3, 0.5, "OW"]]}
JSON_FILES = {
    "openai-whisper": {"text": "", "segments": [{"words": [WHISPER]}, {"words": WHISPER_WORDS[1:]}], "language": "en"},
    "OpenAI's service": {"text": "", "words": [{k: w[k] for k in ("word", "start", "end")} for w in WHISPER_WORDS]},
    "whisper-timestamped": {"segments": [{"words": [{**w, "text": w["word"]} for w in WHISPER_WORDS]}]},
    "a pipeline of transformers": {
        "text": "", "chunks": [{"text": w["word"], "timestamp": [w["start"], w["end"]]} for w in WHISPER_WORDS]
    },
    "Gentle": {
        "transcript": "",
        "words": [
            {"word": "So,", "case": "success", "start": 0.2, "end": 0.45,
             "phones": [{"phone": "s_B", "duration": 0.1}, {"phone": "ow_E", "duration": 0.15}]},
            {"word": "what", "start": 0.5, "end": 0.8, "phones": [{"phone": "w_B", "duration": 0.1}]},
        ],
    },
    "Montreal Forced Aligner": {
        "start": 0, "end": 1, "tiers": {name: {"type": "interval", "entries": tier} for name, tier in TIERS.items()}
    },
    "praatio": {
        "tiers": [{"class": "IntervalTier", "name": f"Ann - {name}", "entries": tier} for name, tier in TIERS.items()]
    },
}  # fmt: skip


@pytest.mark.parametrize("name", JSON_FILES)
def test_json_files(tmp_path, name):
    (tmp_path / "a.json").write_text(json.dumps(JSON_FILES[name]))
    found = Alignment.load(tmp_path / "a.json")
    assert found.words == [Segment("So,", 0.2, 0.45), Segment("what", 0.5, 0.8)]
    if name == "Gentle":
        assert found.phones == [Segment("s", 0.2, 0.3), Segment("ow", 0.3, 0.45), Segment("w", 0.5, 0.6)]
    elif "tiers" in JSON_FILES[name]:
        assert found.phones == [Segment("S", 0.2, 0.3), Segment("OW", 0.3, 0.5)]


def test_words_without_times_are_told(tmp_path):
    lost = {"word": "lost", "case": "not-found-in-audio"}
    (tmp_path / "a.json").write_text(json.dumps({"words": [WHISPER, lost, {"word": " 7", "start": 0.5, "end": 0.5}]}))
    with pytest.warns(UserWarning, match="2 of 3 words have no times in the alignment and are left out") as caught:
        assert [word.text for word in Alignment.load(tmp_path / "a.json").words] == ["So,"]
    assert caught[0].filename == __file__


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"segments": [{"text": "so", "start": 0, "end": 1}]}, "no word in it has times: transcribe with"),
        ({"text": "so"}, "it has no 'chunks'"),
        ({"chunks": [{"text": " So what.", "timestamp": [0, 3]}]}, "its chunks are longer than words: transcribe with"),
        ({"words": [{"word": "so", "start": "0", "end": 1}]}, "the text 'so' and the times '0' and 1"),
        ({"words": 7}, "it does not have the form of files of"),
        ({"tiers": {"melody": {"entries": []}}}, "there is no tier named 'words', only 'melody'"),
        ({"tiers": {"words": {"type": "point", "entries": [[0.1, "so"]]}}}, "the tier 'words' has points in time"),
        ([], "it does not hold a JSON object"),
    ],
)
def test_json_files_that_are_no_alignment(tmp_path, content, words):
    (tmp_path / "a.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=words):
        Alignment.load(tmp_path / "a.json")


def test_json_with_a_byte_order_mark(tmp_path):
    whole = {"words": [{"word": "so", "start": 0, "end": 1}]}
    (tmp_path / "a.json").write_text(json.dumps(whole), encoding="utf-8-sig")
    assert Alignment.load(tmp_path / "a.json").words == [Segment("so", 0, 1)]


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


@pytest.mark.slow
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

    with pytest.raises(ValueError, match="deaf has no times from its attention"):
        attention_alignment(Deaf(), utterance, tokens)
