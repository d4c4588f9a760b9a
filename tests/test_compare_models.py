"""Two models on one recording: where their texts differ, and what explains it."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
from test_errors import written
from test_evaluation import write_words
from test_report import content

from captum_spes import SPES, SpeechToTextAttribution
from captum_spes.cli import compare_models
from captum_spes.cli.compare_models import file_name
from captum_spes.errors.finding import differing_words
from captum_spes.evaluation.model_comparison import ModelComparison, Side

pytestmark = pytest.mark.filterwarnings("ignore:the maps are noisy")


@pytest.mark.parametrize(
    "first, second, differences, shared",
    [
        ("so what was it", "So, what was it?", [], [(0, 0), (1, 2), (2, 3), (3, 4)]),
        ("an old man", "an ill man", [("old", "ill")], [(0, 0), (2, 2)]),
        ("an old man", "an man", [("old", "")], [(0, 0), (2, 1)]),
        ("an man", "an old man", [("", "old")], [(0, 0), (1, 2)]),
        ("an old-sposed man", "an ill disposed man", [("old-sposed", "ill disposed")], [(0, 0), (2, 3)]),
    ],
)
def test_texts_are_aligned(first, second, differences, shared):
    pairs, words = differing_words(written(first), written(second))
    assert [(a.written, b.written) for a, b in pairs] == differences and words == shared
    for a, b in pairs:
        assert (a.expected, b.expected) == (b.written, a.written)
        assert {a.kind, b.kind} in ({"substitution"}, {"insertion", "deletion"})


@pytest.mark.parametrize(
    "first, second, differences, shared",
    [
        (["我们", "今天", "去"], ["我们", "今天", "去"], [], [(0, 0), (1, 1), (2, 2)]),
        (["我们", "今天", "去"], ["我", "们", "今天", "走"], [("去", "走")], [(1, 2)]),
        (["我们", "今天"], ["我", "们", "明", "天"], [("今天", "明天")], []),
        ([" ill", "<unk>", "posed", " so"], [" ill", " bosed", " so"], [("ill<unk>posed", "ill bosed")], [(3, 2)]),
        ([" ill-disposed", " so"], [" ill", " disposed", " so"], [], [(1, 2)]),
    ],
)
def test_tokens_that_are_not_words(first, second, differences, shared):
    """Of several characters, of an unknown word, and words that one text writes as two."""

    def explanation(tokens):
        return replace(written(" ".join("a" * len(tokens)), language="zh"), tokens=[*tokens, "<|endoftext|>"])

    for swap in (False, True):
        texts = [second, first] if swap else [first, second]
        pairs, words = differing_words(*map(explanation, texts))
        found = [tuple(error.written for error in pair) for pair in pairs]
        assert found == [pair[:: -1 if swap else 1] for pair in differences]
        assert words == [pair[:: -1 if swap else 1] for pair in shared]


@pytest.fixture
def sides(tiny_model, audio):
    attribution = SpeechToTextAttribution(SPES(tiny_model))

    def side(text):
        prepared = attribution.prepare(audio, text, sampling_rate=16000)
        return Side(
            tiny_model,
            *prepared,
            attribution.attribute(*prepared, n_samples=6),
            lambda contrast: attribution.attribute(*prepared, contrast=contrast, n_samples=6),
        )

    return [side("so what was to"), side("so his was")]


def test_what_differs_is_explained_in_both(sides, audio, tmp_path):
    comparison = ModelComparison(["a", "b"], sides)
    comparison.explain_differences()
    substitution, insertion = comparison.differences
    assert [error.explanation.tokens[0] for error in substitution] == ["what (not his)", "his (not what)"]
    assert insertion[0].kind == "insertion" and insertion[1].kind == "deletion"
    assert comparison.shared == [(0, 0), (2, 2)]
    assert [row[1:4] for row in comparison.table()[1:]] == [("other words", "what", "his"), ("only one", "to", "")]
    paths = comparison.save(tmp_path, None)
    assert all(path.is_file() for path in paths)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert 'id="errors"' in page  # which the page's script fills
    data = content(page)
    assert [method["name"] for method in data["methods"]] == ["a", "b"]
    words, errors = data["views"]
    assert [row["title"] for row in words["rows"]] == ["so", "was"]
    assert [row["title"] for row in errors["rows"]] == ["what / his", "to / (nothing)"]
    found = json.loads((tmp_path / "comparison.json").read_text())
    assert found["differences"][0]["a"]["written"] == "what" and found["shared_words"] == ["so", "was"]
    assert "## 1. what / his" in (tmp_path / "comparison.md").read_text(encoding="utf-8")


def test_texts_without_a_common_word(sides, tiny_model, audio, tmp_path):
    other = SpeechToTextAttribution(SPES(tiny_model))
    prepared = other.prepare(audio, "to his", sampling_rate=16000)
    side = Side(tiny_model, *prepared, other.attribute(*prepared, n_samples=6), lambda contrast: None)
    comparison = ModelComparison(["a", "b"], [sides[0], side])
    assert not comparison.shared or len(comparison.shared) < 2
    comparison.shared = []
    paths = comparison.save(tmp_path, None)
    assert {path.name for path in paths} == {"comparison.json", "comparison.md", "report.html"}
    [errors] = content((tmp_path / "report.html").read_text(encoding="utf-8"))["views"]
    assert len(errors["rows"]) == len(comparison.differences)


def test_a_model_that_repeats_itself_is_compared():
    """It writes more words than can be said."""
    plain, loop = written("so what", seconds=0.6), written("so " * 15, seconds=0.6)
    for first, second in ((plain, loop), (loop, plain)):
        pairs, shared = differing_words(first, second)
        assert shared == [(0, 0)] and len(pairs) == 1


def test_models_that_hear_otherwise_are_refused(sides):
    other = written("so his was")
    with pytest.raises(ValueError, match="their maps have no common scale"):
        ModelComparison(["a", "b"], [sides[0], replace(sides[1], explanation=other)])


def test_names_of_files():
    assert file_name("openai/whisper-tiny.en") == "openai-whisper-tiny.en" and file_name("/") == "model"
    assert [file_name(name) for name in ("./A", "../b/A.v2/", ".", "a b-")] == ["A", "b-A.v2", "model", "a-b"]


def test_command_line(run, tiny_whisper, tiny_processor, recording, tmp_path):
    write_words(tiny_whisper, tiny_processor)
    torch.manual_seed(0)
    tiny_whisper.save_pretrained(tmp_path / "a")
    tiny_processor.save_pretrained(tmp_path / "a")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    code, out, err = run("compare", recording, "--models", "a,b", "--methods", "energy", "-o", "out")
    assert code == 0, err
    assert "[1/2] a" in out and "No differences" in out
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        *("a.safetensors", "b.safetensors", "comparison.json", "comparison.md", "words.png", "report.html")
    }
    given = ["--model", "a", "--methods", "energy", "-o"]
    code, _, err = run("compare", recording, *given, "out")
    assert code == 2 and "out/comparison.json is of a comparison of models, and would be overwritten" in err
    code, _, err = run("compare", recording, *given, "methods")
    assert code == 0, err
    code, _, err = run("compare", recording, "--models", "a,b", "-o", "methods")
    assert code == 2 and "methods/comparison.json is of a comparison of methods" in err
    for output in (["-o", "out"], []):
        code, out, err = run("compare", recording, "--models", "a,b", "--methods", "energy", *output)
        assert code == 0, err
    assert "spes-output/recording-compare-models/comparison.json" in out


def test_texts_without_a_common_word_are_refused_first(run, tiny_folder, recording, tmp_path, monkeypatch):
    shutil.copytree(tiny_folder, tmp_path / "b")

    def refuse(*arguments, **named):
        raise ValueError("no word in common")

    monkeypatch.setattr(compare_models, "check_reference", refuse)
    code, _, err = run("compare", recording, "--models", f"{tiny_folder},b", "--methods", "energy", "-o", "out")
    assert code == 2 and "which have no word in common, so that there are no differences to explain" in err, err
    assert not list(tmp_path.glob("out/*.safetensors"))


def test_ctrl_c_ends_with_a_sentence(run, tiny_whisper, tiny_processor, recording, tmp_path, monkeypatch):
    write_words(tiny_whisper, tiny_processor)
    for name in ("a", "b"):
        tiny_whisper.save_pretrained(tmp_path / name)
        tiny_processor.save_pretrained(tmp_path / name)

    def interrupt(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(ModelComparison, "explain_differences", interrupt)
    code, _, err = run("compare", recording, "--models", "a,b", "--methods", "energy", "-o", "out")
    assert code == 130 and "Stopped before the models could be compared." in err, err
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"a.safetensors", "b.safetensors"}


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["--models", "a"], "--models takes two different models"),
        (["--models", "a,b,c"], "not 3"),
        (["--models", "a,b", "--target", "so"], "--models compares what models write: leave out --target"),
        (["--models", "a,b", "--methods", "spes,energy"], "--models compares models by one method"),
    ],
)
def test_bad_models(run, recording, arguments, words, tmp_path):
    code, _, err = run("compare", recording, *arguments)
    assert code == 2 and words in " ".join(err.split()) and not (tmp_path / "spes-output").exists()
