"""Exports of explanations, each read by its own tool."""

import csv
import json
from dataclasses import replace

import pytest

from captum_spes import Contrast
from captum_spes.alignment import Alignment, Segment, match_words
from captum_spes.speech_to_text.catalogue import METHODS
from tests.test_confidence import confident
from tests.test_explanation import make


def timed():
    explanation = confident(make())
    confidence = replace(explanation.confidence, unheard=[0.0, 0.4, 0.4, 0.8])
    times = [[0.02, 0.1], [0.1, 0.15], [0.15, 0.25], [0.25, 0.25]]
    return replace(explanation, confidence=confidence, metadata={**explanation.metadata, "token_times": times})


def test_json_has_a_row_a_word():
    whole = json.loads(timed().to_json())
    assert whole["text"] == "so what?" and whole["model"] == "toy"
    so, what, mark = whole["words"]
    assert (so["begin"], so["end"], what["begin"], what["end"], mark["begin"]) == (0.02, 0.1, 0.1, 0.25, None)
    assert what["probability"] == pytest.approx(0.2) and what["doubtful"]
    assert what["heard"] == pytest.approx(1 - 0.4 * 0.4 / 0.2) and what["verdict"] == "guessed"
    assert so["verdict"] == "heard" and mark["verdict"] is None
    assert what["alternatives"] == [["wh w2", 0.1], ["wh x", 0.05]]


def test_the_data_frame_and_the_csv_agree(tmp_path):
    pandas = pytest.importorskip("pandas")
    frame = timed().to_dataframe()
    assert frame["text"].tolist() == ["so", "what", "?"]
    (tmp_path / "words.csv").write_text(timed().to_csv(), encoding="utf-8")
    read = pandas.read_csv(tmp_path / "words.csv")
    assert read.columns.tolist() == frame.columns.tolist()
    for name in ("begin", "probability", "entropy", "heard", "salient_begin", "salient_high", "reliability"):
        # six digits are written
        assert read[name].tolist() == pytest.approx(frame[name].tolist(), abs=1e-6, nan_ok=True)


def test_praatio_reads_the_textgrid(tmp_path):
    textgrid = pytest.importorskip("praatio.textgrid")
    path = tmp_path / "words.TextGrid"
    path.write_text(timed().to_textgrid(), encoding="utf-8")
    grid = textgrid.openTextgrid(str(path), includeEmptyIntervals=False)
    words = [(entry.label, entry.start, entry.end) for entry in grid.getTier("words").entries]
    assert words == [("so", 0.02, 0.1), ("what", 0.1, 0.25)]
    assert [entry.label for entry in grid.getTier("verdict").entries] == ["heard", "guessed"]
    assert grid.maxTimestamp == pytest.approx(0.3)


def test_times_of_an_alignment_come_first():
    alignment = Alignment([Segment("so", 0.0, 0.12), Segment("what", 0.11, 0.2)])  # two speakers may overlap
    explanation = timed()
    times = match_words(explanation.words().tokens, alignment.words)
    assert [row.begin for row in explanation.word_rows(times)] == [0.0, 0.11, None]
    assert "0.12" in explanation.to_textgrid(times)
    with pytest.raises(ValueError, match="2 times were given for 3 words"):
        explanation.to_json(times[:2])


def test_a_textgrid_without_times_is_refused():
    with pytest.raises(ValueError, match="when words are spoken"):
        make().to_textgrid()


@pytest.mark.parametrize("times", ["soon", [[0, 1]], [[0, "a"]] * 4, [[0, -1]] * 4, [[0]] * 4])
def test_times_of_a_foreign_file_are_not_believed(times):
    explanation = replace(make(), metadata={"token_times": times})
    assert [row.begin for row in explanation.word_rows()] == [None] * 3


@pytest.mark.parametrize("format, suffix", [("json", ".json"), ("csv", ".csv"), ("textgrid", ".TextGrid")])
def test_command_line(run, tmp_path, format, suffix):
    timed().save(tmp_path / "so.safetensors")
    code, out, err = run("export", "so.safetensors", "--format", format)
    assert (code, out) == (0, f"Wrote so{suffix}\n"), err
    content = (tmp_path / f"so{suffix}").read_text(encoding="utf-8")
    if format == "csv":
        assert [row["text"] for row in csv.DictReader(content.splitlines())] == ["so", "what", "?"]
    Alignment([Segment("so", 0.0, 0.12)]).save(tmp_path / "times.json")
    code, _, err = run("export", "so.safetensors", "--alignment", "times.json", "-o", "nowhere/so.json")
    assert code == 2 and "nowhere does not exist" in err


def test_what_cannot_be_exported_is_refused(run, tmp_path):
    make().save(tmp_path / "so.safetensors")
    code, _, err = run("export", "so.safetensors", "--format", "textgrid")
    assert code == 2 and "--alignment" in err and not (tmp_path / "so.TextGrid").exists()
    code, _, err = run("export", "so.safetensors", "-o", ".")
    assert code == 2 and ". is a folder: give the name of a file as --output, such as words.json" in err
    code, _, err = run("export", "none.safetensors")
    assert code == 2 and "does not exist" in err


def test_an_alignment_of_the_whole_recording_serves_a_part(run, tmp_path):
    (tmp_path / "part-002").mkdir()
    place = {"start_seconds": 10.0, "stop_seconds": 10.3}
    replace(make(), metadata=place).save(tmp_path / "part-002" / "explanation.safetensors")
    # the word "so" is also spoken in the part before, and "what" goes on after the end
    spoken = [("so", 3.0, 3.2), ("what", 3.2, 3.5), ("oh", 9.5, 10.0), ("so", 10.02, 10.1), ("what", 10.1, 10.4)]
    Alignment([Segment(*word) for word in spoken]).save(tmp_path / "times.json")
    code, _, err = run("export", "part-002/explanation.safetensors", "--alignment", "times.json", "-o", "words.json")
    assert code == 0, err
    written = json.loads((tmp_path / "words.json").read_text(encoding="utf-8"))
    assert (written["start_seconds"], written["stop_seconds"]) == (10.0, 10.3)
    assert [(row["begin"], row["end"]) for row in written["words"]] == [(0.02, 0.1), (0.1, 0.3), (None, None)]
    assert "start_seconds" not in json.loads(make().to_json())


@pytest.mark.parametrize(
    "contrast, time",
    [(Contrast(2, "the"), (0.4, 0.5)), (Contrast((0, 1), "the"), (0.1, 0.3)), (Contrast("step", ""), (None, None))],
)
def test_a_contrast_has_the_time_of_its_word(run, tmp_path, tiny_model, audio, contrast, time):
    utterance = tiny_model.utterance(audio)
    tokens = tiny_model.tokens("so what so step?", utterance)
    explanation = METHODS["energy"].explain(tiny_model, utterance, tokens, "fast", contrast=contrast)
    explanation.save(tmp_path / "one.safetensors")
    spoken = [Segment("so", 0.1, 0.2), Segment("what", 0.2, 0.3), Segment("so", 0.4, 0.5)]
    Alignment(spoken).save(tmp_path / "times.json")
    code, _, err = run("export", "one.safetensors", "--alignment", "times.json")
    assert code == 0, err
    [row] = json.loads((tmp_path / "one.json").read_text(encoding="utf-8"))["words"]
    assert (row["begin"], row["end"]) == time
    elsewhere = {"word": "step", "token_span": [0, 1]}
    for place, words in (({"word": "so"}, "does not name its word"), (elsewhere, "is not at its place in the text")):
        replace(explanation, metadata={"contrast": place}).save(tmp_path / "one.safetensors")
        code, _, err = run("export", "one.safetensors", "--alignment", "times.json")
        assert code == 2 and words in err and "leave out --alignment" in err
