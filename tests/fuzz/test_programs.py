"""Evaluations, analyses, the command line: any wrong folder or argument gives an error of one sentence."""

import io
import json
import shutil
import signal
import sys
import warnings
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace

import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st
from mutations import altered, damaged, examples, json_values
from test_explanation import make

from captum_spes.__main__ import main
from captum_spes.analysis import analyze
from captum_spes.evaluation import Evaluation
from captum_spes.evaluation.corpus import load_corpus
from captum_spes.metrics._rewriting import Rewriter
from captum_spes.speech_to_text.catalogue import METHODS


@pytest.fixture
def speech(tmp_path, audio):
    folder = tmp_path / "speech"
    folder.mkdir()
    soundfile.write(folder / "a.wav", audio, 16000)
    return folder


# Evaluations


def evaluation_of(model, folder):
    methods = {name: METHODS[name] for name in ("energy", "random")}
    return Evaluation(model, load_corpus(folder / "speech"), methods, folder / "out", percentages=(0, 50, 100))


@examples(40)
@given(data=st.data())
def test_damaged_evaluations(data, tiny_model, speech, tmp_path):
    whole = tmp_path / "whole"
    if not whole.exists():
        evaluation_of(tiny_model, tmp_path).run()
        (tmp_path / "out").rename(whole)
    shutil.rmtree(tmp_path / "out", ignore_errors=True)
    shutil.copytree(whole, tmp_path / "out")
    path = tmp_path / "out" / data.draw(st.sampled_from(["settings.json", "scores/random/a.json"]))
    if data.draw(st.booleans()):
        path.write_bytes(data.draw(damaged(path.read_bytes())))
    else:
        path.write_text(json.dumps(data.draw(altered(json.loads(path.read_text())))))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            evaluation = evaluation_of(tiny_model, tmp_path)
            evaluation.run()
            json.dumps(evaluation.results().to_dict())
        except ValueError as error:
            assert "\n" not in str(error)


@pytest.fixture
def explanation(tiny_model, speech):
    prepared = METHODS["energy"].wrap(tiny_model).prepare(speech / "a.wav")
    return METHODS["energy"].explain(tiny_model, *prepared, "fast")


@examples(40)
@given(data=st.data())
def test_metadata_of_explanations(data, tiny_model, explanation):
    """The tokens and generation arguments in a file are not trusted."""
    metadata = json.loads(json.dumps(explanation.metadata))
    name = data.draw(st.sampled_from(["token_ids", "previous_token_ids", "context_seconds", "dtype", "gen_args"]))
    metadata[name] = data.draw(altered(metadata[name]))
    try:
        Rewriter(tiny_model, replace(explanation, metadata=metadata))
    except ValueError as error:
        assert "\n" not in str(error)


@examples(10)
@given(data=st.data())
def test_analyses(data, tmp_path):
    folder = tmp_path / "explained"
    folder.mkdir(exist_ok=True)
    explanation = make()
    explanation.metadata.update(data.draw(st.dictionaries(st.sampled_from(["method", "contrast", "x"]), json_values)))
    explanation.save(folder / "a.safetensors")
    (folder / "b.safetensors").write_bytes(data.draw(damaged((folder / "a.safetensors").read_bytes())))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            report = analyze(folder)
        except ValueError:
            return
        report.markdown()
        json.dumps(report.to_dict(), allow_nan=False)


# The command line

values = st.sampled_from(
    ["", "-1", "0", "1", "nan", "inf", "1e400", "99999999999999999999", "\0", "é\udcff", "so", "."]
)
options = st.sampled_from(
    ["--method", "--methods", "--metrics", "--preset", "--n-samples", "--n-utterances", "--reference", "--score",
     "--normalizer", "--step", "--until", "--context", "--target", "--word", "--foil", "--num-beams", "--device",
     "--batch-size", "--seed", "--alignments", "--corpus", "--words", "--min-count", "--model", "--list", "--help",
     "--allow-outside", "--force-align", "--output", "--nonsense"]
)  # fmt: skip


@examples(25)
@given(
    command=st.sampled_from(["explain", "compare", "evaluate", "analyze", "", "magic"]),
    paths=st.lists(
        st.sampled_from(["none.wav", "speech", "speech/a.wav", "empty", "e.safetensors"]) | values, max_size=2
    ),
    given=st.lists(st.tuples(options, values), max_size=4),
)
def test_arguments(command, paths, given, speech, tmp_path, monkeypatch):
    """No model is loaded: what remains of an explanation is tested elsewhere."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir(exist_ok=True)

    def refuse(name, **kwargs):
        raise ValueError(f"the model {name!r} cannot be loaded.")

    for module in ("explain", "compare", "evaluate"):
        monkeypatch.setattr(f"captum_spes.cli.{module}.load_model", refuse)
    monkeypatch.setattr(sys, "argv", ["captum-spes", command, *paths, *(word for pair in given for word in pair)])
    monkeypatch.setattr("warnings.showwarning", None)
    before = signal.getsignal(signal.SIGINT)
    out, err = io.StringIO(), io.StringIO()
    try:
        with redirect_stdout(out), redirect_stderr(err), pytest.raises(SystemExit) as caught:
            main()
            sys.exit(0)
    finally:
        signal.signal(signal.SIGINT, before)
    assert caught.value.code in (0, 2, None), err.getvalue()  # 1 would be a fault of the library
    assert "Traceback" not in err.getvalue()
    if caught.value.code == 2:
        assert "Error" in err.getvalue() or "Usage" in err.getvalue()
