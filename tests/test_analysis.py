"""The plausibility report on a folder of explanations: its findings, matched words, and reported problems."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import soundfile
import torch
from test_plausibility import align, explain, peaks

from captum_spes.analysis import SECTIONS, analyze
from captum_spes.analysis.sources import find_explanations
from captum_spes.evaluation.corpus import load_corpus

pytest.importorskip("safetensors")

TOKEN_ATTR = [[0.5, 0, 0, 0], [0.1, 0.2, 0, 0], [0.1, 0.3, 0.9, 0], [0.1, 0.9, 0.2, 0.3]]
ALIGNMENT = align(
    ("so", 0.2, 0.6),
    ("no", 0.8, 1.2),
    phones=[("S", 0.2, 0.4), ("OW", 0.4, 0.6), ("N", 0.8, 1.0), ("OW", 1.0, 1.2)],
)


def make(seed=0, **changes):
    """*So no.*, with a hiss in *so*."""
    attr = peaks([(2, 3), (3, 3), (5, 1)], [(9, 0), (11, 1)], [], [])
    attr += 0.1 * torch.rand(attr.shape, generator=torch.Generator().manual_seed(seed))
    return explain([" So", " no", ".", "<|endoftext|>"], attr, TOKEN_ATTR, metadata={"method": "SPES"}, **changes)


@pytest.fixture
def evaluation(tmp_path, audio):
    """Two methods and four utterances, two of women, in the layout of evaluate; audio with alignments beside it."""
    speech = tmp_path / "speech"
    (speech / "audio").mkdir(parents=True)
    rows = ["file_name,transcription,gender"]
    for number in range(4):
        rows.append(f"audio/u{number}.wav,So no.,{'female' if number % 2 else 'male'}")
        soundfile.write(speech / "audio" / f"u{number}.wav", audio, 16000)
        ALIGNMENT.save(speech / "audio" / f"u{number}.json")
        for method in ("spes", "energy"):
            folder = tmp_path / "run" / "explanations" / method
            folder.mkdir(parents=True, exist_ok=True)
            make(number).save(folder / f"audio+u{number}.safetensors")
    (speech / "metadata.csv").write_text("\n".join(rows) + "\n")
    return tmp_path / "run", speech


@pytest.mark.slow
def test_everything_that_can_be_computed_is(evaluation, tmp_path):
    folder, speech = evaluation
    report = analyze(folder, corpus=load_corpus(speech), min_count=4)
    assert not report.problems
    assert report.n_explanations == {"energy": 4, "spes": 4}
    assert all(found.keys() == {"energy", "spes"} for found in report.findings.values())
    paths = report.save(tmp_path / "out")
    assert all(path.stat().st_size for path in paths) and len(set(paths)) == len(paths)
    names = {path.relative_to(tmp_path / "out").as_posix() for path in paths}
    assert {"analysis.md", "analysis.json", "words-spes.png", "voices-energy.png", "kurtosis-spes.png"} < names
    assert {"time/spes/audio+u0.png", "context/spes/audio+u3.png", "previous-tokens-spes.png"} < names
    text = paths[0].read_text()
    assert all(f"## {section.title}\n" in text for section in SECTIONS.values())
    assert "Not computed" not in text and "`min_count`" not in text and "- min_count: `4`" in text
    content = json.loads(paths[1].read_text())
    time = content["analyses"]["time"]["spes"]
    assert time["means"]["hit"] == 1 and time["sources"] == ["by hand"]
    assert {word["utterance"] for word in time["words"]} == {f"audio+u{number}" for number in range(4)}
    assert content["analyses"]["word frequencies"]["spes"]["no"]["first_less_this"]["above 4 kHz"]["difference"] > 0.5
    assert content["settings"]["sources"] == ["by hand"]


@pytest.mark.parametrize("n_utterances", [5, 6])
def test_findings_come_first_and_are_decided_by_six_utterances(tmp_path, n_utterances):
    for number in range(n_utterances):
        make(number).save(tmp_path / f"u{number}.safetensors")
        ALIGNMENT.save(tmp_path / f"u{number}.json")
    report = analyze(tmp_path, alignments=tmp_path)
    lines = report.markdown().splitlines()
    assert lines[0] == f"# Plausibility of {n_utterances} explanations"
    few = "Fewer than 6 utterances decide nothing, and have no p-values."
    table = lines[lines.index("| question | SPES |") + 2 :]
    answers = dict(line.strip("| ").split(" | ") for line in table[: table.index("")])
    words_in_time = answers["Do words light up when they are spoken, more than when other words are?"]
    time = report.to_dict()["analyses"]["time"]["SPES"]
    if n_utterances < 6:
        assert lines[2] == few and ", p " not in report.markdown()
        assert all(answer.startswith("undecided: ") for answer in answers.values())
        assert all(test["p_value"] is None for test in time["tests"].values())
    else:
        assert lines[2] == "| question | SPES |" and few not in lines and ", p " in report.markdown()
        assert words_in_time.startswith("yes: 100 % of the peaks are in the span, ")
        assert answers["Do the maps move forward in time as the text does?"].startswith("yes: tau ")
        assert time["tests"]["outside"]["p_value"] < 0.05


def test_what_cannot_be_computed_is_told_with_its_reason(evaluation, tmp_path):
    folder, _ = evaluation
    report = analyze(folder)
    assert {name for name, found in report.findings.items() if found} == {
        "order",
        "kurtosis",
        "previous tokens",
        "context",
    }
    assert report.problems["Words in time, energy, spes"].startswith("there are no alignments")
    assert "no column gender" in report.problems["Voices, energy, spes"]
    assert len(report.problems) == 5  # not one for each utterance
    text = report.markdown()
    assert "## Not computed" in text and "## Words in time" not in text
    assert "no token occurs 100 times" in text and not report.findings["kurtosis"]["spes"].figures


def test_alignments_are_found_by_the_utterances_id(evaluation, tmp_path):
    folder, _ = evaluation
    (tmp_path / "times" / "audio").mkdir(parents=True)
    ALIGNMENT.save(tmp_path / "times" / "audio+u0.json")
    ALIGNMENT.save(tmp_path / "times" / "u1.json")
    ALIGNMENT.save(tmp_path / "times" / "audio" / "u2.json")
    (tmp_path / "times" / "u3.json").write_text("no alignment")
    report = analyze(folder, alignments=tmp_path / "times")
    words = report.findings["time"]["spes"].data["words"]
    assert {word["utterance"] for word in words} == {"audio+u0", "audio+u1", "audio+u2"}
    assert "u3.json is not a readable alignment" in report.problems["alignment of audio+u3"]


def test_parts_of_two_recordings_have_alignments_of_their_own(tmp_path):
    for talk in ("talk1", "talk2"):
        folder = tmp_path / "ex" / talk / "part-001"
        folder.mkdir(parents=True)
        make().save(folder / "explanation.safetensors")
    (tmp_path / "al" / "talk2").mkdir(parents=True)
    ALIGNMENT.save(tmp_path / "al" / "talk2" / "part-001.json")
    report = analyze(tmp_path / "ex", alignments=tmp_path / "al")
    assert {word["utterance"] for word in report.findings["time"]["SPES"].data["words"]} == {"talk2+part-001"}
    assert "no file of the alignments has its name" in report.problems["alignment of talk1+part-001"]
    (tmp_path / "al" / "talk1").mkdir()
    align(("so", 0.1, 0.5)).save(tmp_path / "al" / "talk1" / "part-001.json")
    words = analyze(tmp_path / "ex", alignments=tmp_path / "al").findings["time"]["SPES"].data["words"]
    assert {(word["utterance"], word["begin"]) for word in words if word["word"] == "So"} == {
        ("talk1+part-001", 0.1),
        ("talk2+part-001", 0.2),
    }


def test_two_runs_of_one_corpus(evaluation, tmp_path):
    folder, speech = evaluation
    shutil.copytree(folder, tmp_path / "runs" / "a")
    shutil.copytree(folder, tmp_path / "runs" / "b")
    words = analyze(tmp_path / "runs", corpus=load_corpus(speech)).findings["time"]["spes"].data["words"]
    assert len({word["utterance"] for word in words}) == 8


def test_words_without_a_time_are_listed(evaluation, tmp_path):
    folder, speech = evaluation
    align(("so", 0.2, 0.6)).save(speech / "audio" / "u0.json")
    text = analyze(folder, corpus=load_corpus(speech)).markdown()
    assert "## Words without a time\n\nno (audio+u0: no word of the alignment matches it)\n" in text


def test_names_of_the_layouts(tmp_path):
    places = ("a/explanation", "b-compare/spes", "b-compare/energy", "c", "explanations/occlusion/c", "d/c")
    for place in (*places, "e/a/explanation", "checkpoint/spectrogram", "f/checkpoints/spes/b/previous-tokens"):
        path = tmp_path / f"{place}.safetensors"
        path.parent.mkdir(parents=True, exist_ok=True)
        make().save(path)
    found = find_explanations(tmp_path)
    assert {method: set(paths) for method, paths in found.items()} == {
        "SPES": {"a", "c", "d+c", "e+a"},
        "spes": {"b"},
        "energy": {"b"},
        "occlusion": {"c"},
    }


def test_utterances_of_explain_are_found_by_the_name_of_their_audio(evaluation, tmp_path):
    _, speech = evaluation
    path = tmp_path / "explained" / "u1" / "explanation.safetensors"
    path.parent.mkdir(parents=True)
    replace(make(), metadata={"method": "|Integrated/Gradients|"}).save(path)
    report = analyze(tmp_path / "explained", corpus=load_corpus(speech))
    assert len(report.findings["time"]["|Integrated/Gradients|"].data["words"]) == 2
    paths = report.save(tmp_path / "out")
    assert all(path.is_file() for path in paths)
    assert all(f"(<{path.relative_to(tmp_path / 'out')}>)" in report.markdown() for path in paths[2:])


def test_explanations_that_are_not_of_tokens_are_left_out(evaluation):
    folder, _ = evaluation
    spes = folder / "explanations" / "spes"
    make().words().save(spes / "words.safetensors")
    (spes / "broken.safetensors").write_bytes(b"broken")
    report = analyze(folder)
    assert report.n_explanations["spes"] == 4
    assert "explains words, a sentence" in report.problems["explanations/spes/words.safetensors"]
    assert "damaged" in report.problems["explanations/spes/broken.safetensors"]


def test_each_figure_has_a_file(tmp_path):
    for name in ("take 1", "take_1"):
        (tmp_path / "in" / name).mkdir(parents=True)
        explain([" So"], peaks([(3, 3)]), [[0.5]]).save(tmp_path / "in" / name / "explanation.safetensors")
    paths = analyze(tmp_path / "in", min_count=1).save(tmp_path / "out")
    assert len(paths) == len(set(paths)) and len([path for path in paths if "take_1" in path.name]) == 2


def test_one_utterance_of_one_token(tmp_path):
    explain([" So"], peaks([(3, 3)]), [[0.5]]).save(tmp_path / "explanation.safetensors")
    ALIGNMENT.save(tmp_path / f"{tmp_path.name}.json")
    report = analyze(tmp_path, alignments=tmp_path, words=["so"])
    assert {name for name, found in report.findings.items() if found} == {
        "time",
        "phones",
        "word frequencies",
        "phone frequencies",
        "kurtosis",
        "context",
    }
    assert "too short" in str(report.problems)
    report.save(tmp_path / "out")
    assert json.loads((tmp_path / "out" / "analysis.json").read_text())


def test_refusals(tmp_path):
    with pytest.raises(ValueError, match="is not a folder"):
        analyze(tmp_path / "none")
    with pytest.raises(ValueError, match="holds no explanations"):
        analyze(tmp_path)
    (tmp_path / "a.safetensors").write_bytes(b"broken")
    with pytest.raises(ValueError, match=r"no explanation that can be analysed; a\.safetensors: .*damaged"):
        analyze(tmp_path)
    with pytest.raises(ValueError, match="give one with alignments"):
        analyze(tmp_path, alignments=tmp_path / "none")
    with pytest.raises(ValueError, match="needs the audio"):
        analyze(tmp_path, align=True)


# The command


def test_analyze(run, evaluation):
    folder, speech = evaluation
    shutil.rmtree(folder / "explanations" / "energy")  # one method draws half as many figures
    code, out, err = run("analyze", folder, "--corpus", speech, "--min-count", "4", "--words", "no,so")
    assert code == 0, err
    assert "Analysing spes" in out and "min_count 4" in out and "Not computed" not in out
    assert json.loads((folder / "analysis" / "analysis.json").read_text())["settings"]["words"] == ["no", "so"]
    code, out, err = run("analyze", folder, "-o", "elsewhere")
    assert code == 0, err
    assert "Not computed:\n" in out and Path("elsewhere/analysis.md").is_file()


@pytest.mark.slow
def test_analyze_aligns(run, evaluation, sample):
    pytest.importorskip("pocketsphinx")
    folder, speech = evaluation
    shutil.rmtree(folder / "explanations" / "energy")
    for number in range(4):
        (speech / "audio" / f"u{number}.json").unlink()
        (speech / "audio" / f"u{number}.wav").write_bytes(sample.read_bytes())
    code, out, _ = run("analyze", folder, "--corpus", speech)
    assert code == 0 and "--force-align makes one" in out
    text = (speech / "metadata.csv").read_text().replace("So no.", "So what was the next step?")
    (speech / "metadata.csv").write_text(text)
    code, out, err = run("analyze", folder, "--corpus", speech, "--force-align")
    assert code == 0, err
    content = json.loads((folder / "analysis" / "analysis.json").read_text())
    assert content["settings"]["sources"][0].startswith("pocketsphinx")
    assert {word["word"] for word in content["analyses"]["time"]["spes"]["words"]} == {"So"}


@pytest.mark.parametrize(
    "arguments, words", [(["none"], "is not a folder"), ([".", "--words", ","], "--words is empty")]
)
def test_bad_input_gets_one_clear_sentence(run, arguments, words):
    code, _, err = run("analyze", *arguments)
    assert code == 2 and words in err and len(err.strip().splitlines()) == 1
