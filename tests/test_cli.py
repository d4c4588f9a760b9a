"""The command explain, and refused arguments of all commands."""

import importlib
import logging
import os
import re
import signal
import subprocess
import sys
import time
from configparser import ConfigParser
from contextlib import nullcontext
from inspect import signature
from pathlib import Path

import numpy as np
import pytest
import soundfile

from captum_spes import SpeechToTextExplanation, __version__
from captum_spes.__main__ import main
from captum_spes._text import markdown_table
from captum_spes.cli import COMMANDS
from captum_spes.cli.errors import DEBUG, TRACKER
from captum_spes.cli.inputs import window_of
from captum_spes.cli.options import word_or_number
from captum_spes.cli.output import print_table
from captum_spes.speech_to_text.catalogue import METHODS, describe_methods
from captum_spes.speech_to_text.profiles import accepted
from captum_spes.speech_to_text.run import Run

PICTURES = {"spectrogram", "segmentation", "sentence", "words", "times", "tokens", "previous_tokens"}
FILES = {"explanation.safetensors", "report.html", *(f"{name}.png" for name in PICTURES)}


# What all commands share


def test_help_and_version_import_nothing_heavy():
    code = "import sys; from captum_spes.__main__ import main\ntry: main()\nexcept SystemExit: pass\n"
    code += "print(sorted({'torch', 'captum', 'matplotlib', 'numpy', 'transformers'} & sys.modules.keys()))"
    for arguments in (["--help"], ["--version"], []):
        found = subprocess.run(
            [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )  # fmt: skip
        assert found.stdout.endswith("[]\n"), found.stderr
        assert (f"captum-spes {__version__}\n" if "--version" in arguments else "explain") in found.stdout


def test_the_help_of_a_command_is_that_of_its_function():
    for name, (module, function, line) in COMMANDS.items():
        document = getattr(importlib.import_module(f"captum_spes.cli.{module}"), function).__doc__
        assert document.splitlines()[0] == line, name


def broken(*arguments, **named):
    raise TypeError("inner bug")


def test_an_unexpected_error_leaves_its_traceback_in_a_file(run, recording, tiny_folder, monkeypatch):
    monkeypatch.setattr("captum_spes.cli.explain.load_model", broken)
    monkeypatch.delenv(DEBUG, raising=False)
    code, _, err = run("explain", recording)
    assert code == 1 and "Traceback" not in err and "(TypeError: inner bug)" in err and TRACKER in err
    log = Path(re.search(r"The traceback is in (\S+\.log)\.", err)[1])
    text = log.read_text()
    log.unlink()
    assert "in broken" in text and "TypeError: inner bug" in text and "recording.wav" in text and "torch 2" in text


@pytest.mark.parametrize("way", ["before", "behind", "environment"])
def test_debug_shows_the_traceback(run, recording, monkeypatch, way):
    monkeypatch.setattr("captum_spes.cli.explain.load_model", broken)
    monkeypatch.setenv(DEBUG, str(int(way == "environment")))
    before, behind = (["--debug"] if way == place else [] for place in ("before", "behind"))
    code, _, err = run(*before, "explain", recording, *behind)
    assert code == 1 and "in broken" in err and "The traceback is in" not in err and TRACKER in err
    code, _, err = run(*before, "listen", "missing.safetensors", *behind)
    assert code == 2 and "Traceback" in err and err.endswith("give the path of a saved explanation.\n")


def test_the_tracker_is_that_of_the_package():
    config = ConfigParser()
    config.read(Path(__file__).parents[1] / "setup.cfg")
    urls = dict(line.split(" = ") for line in config["metadata"]["project_urls"].strip().splitlines())
    assert urls["Issues"] == TRACKER


def test_warnings_go_through_one_logger(run, recording, tiny_folder, capsys):
    stereo = np.stack((soundfile.read(recording)[0],) * 2, axis=1) * [1, -1]
    soundfile.write(recording, stereo, 16000)
    records = []
    handler = logging.Handler()
    handler.emit = records.append
    logger = logging.getLogger("captum_spes")
    logger.addHandler(handler)
    try:
        command = ["explain", recording, "--model", tiny_folder, "--target", "so", "--method", "energy"]
        code, _, err = run(*command)
        assert code == 0 and "Warning: the channels of" in err
        assert {(record.name, record.levelno) for record in records} == {("captum_spes", logging.WARNING)}
        logger.setLevel(logging.ERROR)
        code, _, err = run(*command)
        assert code == 0 and "Warning" not in err
    finally:
        logger.setLevel(logging.NOTSET)
        logger.removeHandler(handler)


def test_explain(run, tiny_folder, recording, tmp_path):
    code, out, err = run(
        "explain", recording, "--model", tiny_folder, "--target", "so what", "--n-samples", "12", "--seed", "3"
    )
    assert code == 0, err
    folder = tmp_path / "spes-output" / "recording"
    assert {path.name for path in folder.iterdir()} == FILES
    for path in folder.iterdir():
        assert str(path.relative_to(tmp_path)) in out
    explanation = SpeechToTextExplanation.load(folder / "explanation.safetensors")
    assert explanation.metadata["method"] == "GradientSPES"
    arguments = {"n_samples": 12, "perturbation_prob": 0.5, "pool_features": True, "normalize": True}
    assert explanation.metadata["arguments"] == arguments
    assert "Method:     gradient_spes (fast preset, n_samples 12, n_token_samples 256)" in out
    assert explanation.metadata["seed"] == 3
    assert "Transcript: so what" in out
    lines = out.splitlines()
    for row in explanation.word_rows():
        assert any(line.startswith(row.text) and f"{row.probability:.2f}" in line for line in lines)
        assert row.top_previous_token.strip() in out
    assert f"{float(explanation.reliability.mean()):.2f}" in out
    assert "previous tokens: 100%" in err and "spectrogram    : 100%" in err


@pytest.mark.slow
def test_presets(run, tiny_folder, recording, tmp_path):
    code, _, err = run("explain", recording, "--model", tiny_folder, "--target", "so", "-o", "fast")
    assert code == 0, err
    fast = SpeechToTextExplanation.load(tmp_path / "fast" / "explanation.safetensors")
    assert fast.metadata["method"] == "GradientSPES" and fast.metadata["arguments"]["n_samples"] == 96
    assert fast.metadata["feature_mask"]["patches_per_second"] == "(400, 500, 600)"
    assert fast.metadata["token_arguments"]["n_samples"] == 256
    code, _, err = run(
        "explain", recording, "--model", tiny_folder, "--target", "so", "--preset", "paper", "--n-samples", "300",
        "-o", "paper",
    )  # fmt: skip
    assert code == 0, err
    paper = SpeechToTextExplanation.load(tmp_path / "paper" / "explanation.safetensors")
    assert paper.metadata["method"] == "SPES"
    assert paper.metadata["feature_mask"]["patches_per_second"] == "(400, 500, 600)"
    assert paper.metadata["token_arguments"]["n_samples"] == 2000
    assert paper.metadata["dtype"] == "float32" and paper.metadata["context_seconds"] == 1


def test_the_instant_preset_does_not_sample(run, tiny_folder, recording):
    code, out, err = run("explain", recording, "--model", tiny_folder, "--target", "so", "--preset", "instant")
    assert code == 0, err
    assert "Method:     attn_lrp (instant preset)" in out
    assert "reliability" not in out
    explanation = SpeechToTextExplanation.load("spes-output/recording/explanation.safetensors")
    assert explanation.metadata["method"] == "AttnLRP"
    assert explanation.metadata["passes"]["spectrogram"] == {"forward": 1, "backward": len(explanation.tokens)}
    code, _, err = run("explain", recording, "--model", tiny_folder, "--preset", "instant", "--method", "spes")
    assert code == 2 and "SPES draws samples, but the instant preset is for methods without samples" in err


@pytest.mark.parametrize(
    "method, context",
    [
        ("attn_lrp", "unperturbed"), ("saliency", "unperturbed"), ("cross_attention", "unperturbed"),
        ("energy", "unperturbed"), ("occlusion", "auto"), ("integrated_gradients", "auto"), ("deep_lift", "auto"),
        ("smooth_grad", "auto"),
    ],
)  # fmt: skip
def test_instant_methods_that_perturb_are_probed(method, context):
    assert window_of(None, "instant", METHODS[method]) == context
    assert window_of(None, "fast", METHODS[method]) == "auto"
    assert window_of("full", "instant", METHODS[method]) == "full"


@pytest.mark.parametrize("n_tokens, n_samples", [(1, 96), (2, 90), (10, 18), (200, 8)])
def test_fast_gradients_depend_on_the_number_of_tokens(tiny_model, n_tokens, n_samples):
    """So many backwards in all, within bounds."""
    assert METHODS["gradient_spes"].arguments_of(tiny_model, "fast", n_tokens)["n_samples"] == n_samples


@pytest.mark.slow
def test_languages_and_tasks(run, multilingual_folder, recording, tmp_path):
    common = [recording, "--model", multilingual_folder]
    given = [*common, "--target", "so what"]
    code, out, err = run("explain", *given, "--n-samples", "6", "--language", "de", "--task", "translate", "-o", "out")
    assert code == 0, err
    assert "Language:   de, translate" in out
    metadata = SpeechToTextExplanation.load(tmp_path / "out" / "explanation.safetensors").metadata
    assert metadata["task"] == "translate" and metadata["language"] == "de"
    assert metadata["previous_token_ids"][:4] == [1, 71, 81, 2]
    code, out, err = run("compare", *given, "--methods", "energy", "-o", "compared")
    assert code == 0, err
    assert "Language:   en (detected), transcribe" in out or "Language:   de (detected), transcribe" in out
    evaluate = [
        "evaluate",
        recording.parent,
        *common[1:],
        "--methods",
        "energy",
        "--metrics",
        "size",
        "-o",
        "out-2",
    ]
    code, out, err = run(*evaluate, "--language", "de")
    assert code == 0, err
    assert "Language:   de, transcribe" in out
    assert "language" in (tmp_path / "out-2" / "summary.md").read_text()
    code, _, err = run(*evaluate, "--language", "en")
    assert code == 2 and "language was de and is en now" in err


@pytest.mark.parametrize("option", [("--language", "de"), ("--task", "translate")])
def test_models_of_one_language_say_so(run, tiny_folder, recording, option):
    for command in (["explain", recording], ["compare", recording], ["evaluate", recording.parent]):
        code, _, err = run(*command, "--model", tiny_folder, *option)
        assert code == 2 and "Traceback" not in err
        assert "English-only model and can only transcribe: leave out language and task" in err


def test_another_method_and_a_contrast(run, tiny_folder, recording, tmp_path):
    common = ["explain", recording, "--model", tiny_folder, "--target", "so what"]
    code, out, err = run(*common, "--method", "saliency", "-o", "saliency")
    assert code == 0, err
    explanation = SpeechToTextExplanation.load(tmp_path / "saliency" / "explanation.safetensors")
    assert explanation.metadata["method"] == "Saliency" and "eliability" not in out
    written = {path.stem for path in (tmp_path / "saliency").iterdir()}
    assert written == PICTURES - {"segmentation"} | {"explanation", "report"}  # it has no patches
    code, out, err = run(*common, "--word", "what", "--foil", "was", "-o", "contrast")
    assert code == 0, err
    explanation = SpeechToTextExplanation.load(tmp_path / "contrast" / "explanation.safetensors")
    assert explanation.tokens == ["what (not was)"] and explanation.metadata["score"] == "ContrastiveProbability"
    assert "(fast preset, n_samples 96, n_token_samples 256)" in out


WORDS = ["I", "have", "3", "cats", "here"]


@pytest.mark.parametrize(
    ("text", "words", "found"),
    [
        ("3", ["so", "what", "was", "it"], 3),
        (":3", WORDS, 3),
        ("-1", WORDS, 4),
        ("2", ["in", "a", "2"], 2),  # both readings are one word
        ("1984", ["in", "1984"], "1984"),
        ("9", WORDS, "9"),
        ("²", ["so", "what", "was"], "²"),
        ("٣", WORDS, "٣"),
        ("cats", WORDS, "cats"),
    ],
)
def test_words_and_their_numbers(text, words, found):
    assert word_or_number(text, words, "--word") == found


@pytest.mark.parametrize(
    ("text", "words", "ways"),
    [
        ("3", WORDS, "--word :3 for the word 'cats', or --word :2 for the word '3'"),
        ("0", ["from", "3", "to", "0", "0"], "--word :0 for the word 'from', or --word :3 .*, or --word :4 .*"),
        ("2", ["the", "2nd", "of", "May"], "--word :2 for the word 'of', or --word :1 for the word '2nd'"),
        ("0", ["so", "$0", "it"], "--word :0 for the word 'so', or --word :1 for the word"),
    ],
)
def test_a_numeral_that_may_be_a_word_or_a_number(text, words, ways):
    with pytest.raises(ValueError, match="may be a word or its number: write " + ways.replace("$", r"\$")):
        word_or_number(text, words, "--word")


@pytest.mark.slow
def test_a_numeral_of_the_text_is_no_number(run, tiny_folder, recording):
    common = ["explain", recording, "--model", tiny_folder, "--target", "I have 3 cats here", "--method", "energy"]
    code, _, err = run(*common, "--word", "3", "--foil", "4")
    assert code == 2 and "--word :3 for the word 'cats', or --word :2 for the word '3'" in err
    assert not Path("spes-output").exists()
    for word, row in ((":2", "3 (not 4)"), ("have 3", "have 3 (not 4)"), (":3", "cats (not 4)")):
        code, _, err = run(*common, "--word", word, "--foil", "4", "-o", "out")
        assert code == 0, err
        assert SpeechToTextExplanation.load("out/explanation.safetensors").tokens == [row]
    code, _, err = run(*common[:5], "in 1984 so", "--word", "1984", "--foil", "", "--method", "energy", "-o", "out")
    assert code == 0, err
    assert SpeechToTextExplanation.load("out/explanation.safetensors").tokens == ["1984 (not ∅)"]


def test_the_list_of_methods_is_that_of_the_documentation(run):
    code, out, _ = run("compare", "--list")
    assert code == 0
    document = (Path(__file__).parents[1] / "docs" / "methods.md").read_text()
    assert "\n".join(markdown_table(describe_methods())) in document
    for name in METHODS:
        assert f" {name} " in out


def test_every_named_method_can_be_made(tiny_model):
    for name, method in METHODS.items():
        if name == "deep_lift":
            continue
        attribution = method.wrap(tiny_model)
        for preset in ("fast", "paper"):
            arguments = method.arguments_of(tiny_model, preset)
            known = set(signature(attribution.attribute).parameters) | accepted(attribution.attr_method).keys()
            assert arguments.keys() <= known, name


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["compare", "--methods", "spes,magic"], "there is no method 'magic': give one of spes,"),
        (["compare", "--methods", ", "], "--methods is empty"),
        (["explain", "--method", "saliency", "--n-samples", "5"], "saliency takes no samples"),
        (["explain", "--word", "what"], "--word and --foil belong together"),
        (["explain", "--word", "when", "--foil", "was"], "the word 'when' is not in the text"),
        (["explain", "--method", "deep_lift"], "use IntegratedGradients"),
        (["explain", "--method", "spes", "--n-samples", "2"], "--n-samples must be at least 3 for this method"),
        (["compare", "--methods", "deep_lift"], "no method could be run"),
    ],
)
def test_wrong_methods_get_one_clear_sentence(run, tiny_folder, recording, arguments, words):
    code, _, err = run(*arguments, recording, "--model", tiny_folder, "--target", "so what")
    assert code == 2
    assert words in err and "Traceback" not in err
    assert not Path("spes-output").exists()


@pytest.mark.slow
def test_ctrl_c_before_there_is_anything(tiny_folder, recording, tmp_path):
    code = "import sys, os, signal; sys.argv[1:] = ['explain', sys.argv[1], '--model', sys.argv[2]]\n"
    code += "from captum_spes.cli import explain, run\n"
    code += "explain.load_model = lambda *a, **k: os.kill(os.getpid(), signal.SIGINT)\nrun()"
    process = subprocess.run(
        [sys.executable, "-c", code, recording, tiny_folder],
        capture_output=True, text=True, cwd=tmp_path, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    assert process.returncode == 130
    assert process.stderr == "Error: interrupted: unwritten results are lost.\n"


@pytest.mark.slow
def test_ctrl_c_saves_what_is_done(tiny_folder, recording, tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-m", "captum_spes", "explain", recording, "--model", tiny_folder, "--target", "so what",
         "--n-samples", "1000000", "-o", tmp_path / "out"],
        stderr=subprocess.PIPE, stdout=subprocess.PIPE, cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    seen = b""
    deadline = time.monotonic() + 600  # a loaded machine takes minutes to start a process
    while b"spectrogram" not in seen and time.monotonic() < deadline:
        seen += process.stderr.read1()
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=600)
    assert process.returncode == 130, err.decode()
    assert "Stopping after this batch" in err.decode()
    assert "Partial: stopped after" in out.decode() and "Traceback" not in err.decode()
    explanation = SpeechToTextExplanation.load(tmp_path / "out" / "explanation.safetensors")
    assert explanation.metadata["partial"]
    assert 0 < explanation.metadata["done"]["spectrogram"] < 1_000_000
    assert (tmp_path / "out" / "tokens.png").stat().st_size > 1000


@pytest.mark.slow
def test_a_run_says_that_it_resumes_if_it_does(run, tiny_folder, recording, monkeypatch):
    given = ["explain", recording, "--model", tiny_folder, "--target", "so what"]
    samples = ["--n-samples", "9", "--batch-size", "3"]
    with monkeypatch.context() as patch:
        stop = nullcontext(lambda stage, done, total: stage == "spectrogram" and done >= 3)
        patch.setattr("captum_spes.cli.inputs.progress", lambda *arguments, **named: stop)
        code, out, err = run(*given, "--method", "spes", *samples)
    assert code == 130 and "Partial" in out and "Resuming" not in out, err
    for method, options, resumes in (("energy", [], False), ("spes_joint", samples, False), ("spes", samples, True)):
        code, out, err = run(*given, "--method", method, *options)
        assert code == 0 and ("Resuming:   from spes-output/recording/checkpoint" in out) == resumes, err


def test_ctrl_c_ends_a_method_that_has_no_partial_result(run, tiny_folder, recording, monkeypatch):
    count, counts = Run._count, []

    def interrupted(*arguments, **named):
        counts.append(named)
        if len(counts) == 3:
            os.kill(os.getpid(), signal.SIGINT)
        count(*arguments, **named)

    monkeypatch.setattr(Run, "_count", interrupted)
    common = ["explain", recording, "--model", tiny_folder, "--target", "so what"]
    code, _, err = run(*common, "--method", "feature_ablation")
    assert code == 130 and len(counts) < 6 and "Stopping after this batch" not in err
    assert err.endswith("Error: interrupted: unwritten results are lost.\n")
    assert not Path("spes-output").exists()


def text(folder):
    (folder / "notes.wav").write_text("no audio")
    return folder / "notes.wav"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (lambda d: [d / "none.wav"], "does not exist"),
        (lambda d: [d], "is a folder"),
        (lambda d: [text(d)], "is not a readable audio file"),
        (lambda d: [text(d).rename(d / "notes.raw")], "is not a readable audio file"),
        (lambda d: [d / "recording.wav", "--target", "so \udcff"], "cannot encode the text"),
        (lambda d: [d / "recording.wav", "--device", "meta"], "the device 'meta' cannot be used here"),
        (lambda d: [d / "recording.wav", "--model", "no/such-model"], "the model 'no/such-model' cannot be loaded"),
        (lambda d: [d / "recording.wav", "--method", "magic"], "there is no method 'magic': give one of spes,"),
        (lambda d: [d / "recording.wav", "--device", "quantum"], "the device 'quantum' cannot be used here"),
        (lambda d: [d / "recording.wav", "--target", "  "], "the target text is empty"),
        (lambda d: [d / "recording.wav", "--context", "soon"], "Invalid value for '--context'"),
        (lambda d: [d / "recording.wav", "--target", "so", "--n-samples", "2"], "--n-samples must be at least 3"),
        (lambda d: [d / "recording.wav", "-o", d / "recording.wav"], "cannot be written to"),
        (lambda d: [d / "recording.wav", "--seed", "x"], "Invalid value for '--seed'"),
        (lambda d: [d / "recording.wav", "--nonsense"], "No such option"),
    ],
)
def test_bad_input_gets_one_clear_sentence(run, tiny_folder, recording, tmp_path, arguments, words):
    given = arguments(tmp_path)
    if "--model" not in given:
        given += ["--model", tiny_folder]
    code, _, err = run("explain", *given)
    assert code == 2
    # a terminal's box around typer's messages aside
    assert words in " ".join(err.replace("│", " ").split())
    assert "Traceback" not in err


def test_without_the_extra(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "typer", None)
    with pytest.raises(SystemExit) as exit_info:
        main()
    assert exit_info.value.code == 2
    assert "pip install 'captum-spes[speech]'" in capsys.readouterr().err


def test_tables_keep_all_their_numbers(capsys):
    """A table of many numbers is wider than the terminal, and no cell is cut."""
    rows = [("method", *(f"deletion ({name}) ↑" for name in "abcdefgh")), ("attn_lrp", *["100.0 [100.0, 100.0]"] * 8)]
    print_table(rows, "Table")
    out = capsys.readouterr().out
    assert out.count("100.0 [100.0, 100.0]") == 8 and "attn_lrp" in out and "…" not in out
