"""The command line as a stranger uses it."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import soundfile

from captum_spes import SpeechToTextExplanation
from captum_spes.__main__ import main

PICTURES = {"spectrogram", "segmentation", "sentence", "words", "tokens", "previous_tokens"}


@pytest.fixture
def tiny_folder(tiny_whisper, tiny_processor, tmp_path):
    folder = tmp_path / "tiny-whisper"
    tiny_whisper.save_pretrained(folder)
    tiny_processor.save_pretrained(folder)
    return folder


@pytest.fixture
def recording(audio, tmp_path):
    path = tmp_path / "recording.wav"
    soundfile.write(path, audio, 16000)
    return path


@pytest.fixture
def run(monkeypatch, capsys, tmp_path):
    """Runs the command line in an empty folder; returns exit code, stdout and stderr."""
    monkeypatch.chdir(tmp_path)
    interrupt = signal.getsignal(signal.SIGINT)

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["captum-spes", *map(str, arguments)])
        monkeypatch.setattr("warnings.showwarning", None)
        with pytest.raises(SystemExit) as exit_info:
            main()
            raise SystemExit(0)
        return (exit_info.value.code or 0, *capsys.readouterr())

    yield run
    signal.signal(signal.SIGINT, interrupt)


def test_explain(run, tiny_folder, recording, tmp_path):
    code, out, err = run(
        "explain", recording, "--model", tiny_folder, "--target", "so what", "--n-samples", "12", "--seed", "3"
    )
    assert code == 0, err
    folder = tmp_path / "spes-output" / "recording"
    assert {path.name for path in folder.iterdir()} == {"explanation.safetensors", *(f"{n}.png" for n in PICTURES)}
    for path in folder.iterdir():
        assert str(path.relative_to(tmp_path)) in out
    explanation = SpeechToTextExplanation.load(folder / "explanation.safetensors")
    assert explanation.metadata["arguments"] == {"n_samples": 12, "perturbation_prob": 0.5}
    assert explanation.metadata["seed"] == 3
    assert "Transcript: so what" in out
    table = dict(zip(explanation.tokens, explanation.top_previous_tokens()))
    assert all(token.strip() in out and top.strip() in out for token, top in table.items())
    assert f"{float(explanation.reliability.mean()):.2f}" in out
    assert "previous tokens: 100%" in err and "spectrogram    : 100%" in err
    assert "Warning: the maps are noisy" in err and "--n-samples" in err


def test_presets(run, tiny_folder, recording, tmp_path):
    code, _, err = run("explain", recording, "--model", tiny_folder, "--target", "so", "-o", "fast")
    assert code == 0, err
    fast = SpeechToTextExplanation.load(tmp_path / "fast" / "explanation.safetensors")
    assert fast.metadata["arguments"]["n_samples"] == 144
    assert fast.metadata["feature_mask"]["patches_per_second"] == "(20, 40, 60)"
    code, _, err = run(
        "explain", recording, "--model", tiny_folder, "--target", "so", "--preset", "paper", "--n-samples", "9",
        "-o", "paper",
    )  # fmt: skip
    assert code == 0, err
    paper = SpeechToTextExplanation.load(tmp_path / "paper" / "explanation.safetensors")
    assert paper.metadata["feature_mask"]["patches_per_second"] == "(400, 500, 600)"
    assert paper.metadata["token_arguments"]["n_samples"] == 2000
    assert paper.metadata["dtype"] == "float32" and paper.metadata["context_seconds"] == 1


def test_the_paper_preset_is_the_papers():
    from captum_spes.cli import BUDGETS, Preset

    budget = BUDGETS[Preset.paper]
    assert (budget.n_samples, budget.n_token_samples, budget.context) == (20_000, 2_000, "full")


def test_ctrl_c_before_there_is_anything(tiny_folder, recording, tmp_path):
    code = "import sys, os, signal; sys.argv[1:] = ['explain', sys.argv[1], '--model', sys.argv[2]]\n"
    code += "import captum_spes.cli as cli\n"
    code += "cli.load_model = lambda *a, **k: os.kill(os.getpid(), signal.SIGINT)\ncli.run()"
    process = subprocess.run(
        [sys.executable, "-c", code, recording, tiny_folder],
        capture_output=True, text=True, cwd=tmp_path, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    assert process.returncode == 130
    assert process.stderr == "Error: interrupted: nothing was saved.\n"


def test_ctrl_c_saves_what_is_done(tiny_folder, recording, tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-m", "captum_spes", "explain", recording, "--model", tiny_folder, "--target", "so what",
         "--n-samples", "1000000", "-o", tmp_path / "out"],
        stderr=subprocess.PIPE, stdout=subprocess.PIPE, cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    seen = b""
    deadline = time.monotonic() + 120
    while b"spectrogram" not in seen and time.monotonic() < deadline:
        seen += process.stderr.read1()
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 130, err.decode()
    assert "Stopping after this batch" in err.decode()
    assert "Partial: stopped after" in out.decode() and "Traceback" not in err.decode()
    explanation = SpeechToTextExplanation.load(tmp_path / "out" / "explanation.safetensors")
    assert explanation.metadata["partial"]
    assert 0 < explanation.metadata["done"]["spectrogram"] < 1_000_000
    assert (tmp_path / "out" / "tokens.png").stat().st_size > 1000


def silent(folder):
    soundfile.write(folder / "silent.wav", np.zeros(16000, np.float32), 16000)
    return folder / "silent.wav"


def text(folder):
    (folder / "notes.wav").write_text("no audio")
    return folder / "notes.wav"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (lambda d: [d / "none.wav"], "does not exist"),
        (lambda d: [d], "is a folder"),
        (lambda d: [silent(d)], "is silent"),
        (lambda d: [text(d)], "is no audio file"),
        (lambda d: [text(d).rename(d / "notes.raw")], "is no audio file"),
        (lambda d: [d / "recording.wav", "--target", "so \udcff"], "cannot encode the target"),
        (lambda d: [d / "recording.wav", "--device", "meta"], "the device 'meta' cannot be used here"),
        (lambda d: [d / "recording.wav", "--model", "no/such-model"], "the model 'no/such-model' cannot be loaded"),
        (lambda d: [d / "recording.wav", "--method", "magic"], "Invalid value for '--method'"),
        (lambda d: [d / "recording.wav", "--device", "quantum"], "the device 'quantum' cannot be used here"),
        (lambda d: [d / "recording.wav", "--target", "  "], "the target text is empty"),
        (lambda d: [d / "recording.wav", "--context", "soon"], "--context must be full, auto or a number"),
        (lambda d: [d / "recording.wav", "--context", "0.2"], "context must be"),
        (lambda d: [d / "recording.wav", "--target", "so", "--n-samples", "2"], "n_samples must be"),
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
