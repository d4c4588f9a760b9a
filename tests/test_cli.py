"""The command line as a stranger uses it."""

import json
import os
import signal
import subprocess
import sys
import time
from inspect import signature
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from captum_spes import SpeechToTextExplanation
from captum_spes.__main__ import main
from captum_spes._files import markdown_table
from captum_spes.comparison import Comparison
from captum_spes.methods import accepted
from captum_spes.metrics import rank_correlation
from captum_spes.named_methods import METHODS, describe_methods

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
    from captum_spes.cli import WINDOWS, Preset
    from captum_spes.named_methods import METHODS

    assert WINDOWS[Preset.paper] == ("full", torch.float32)
    assert METHODS["spes"].arguments_of(None, "paper") == {}  # SPES's own, which are the paper's


def test_another_method_and_a_contrast(run, tiny_folder, recording, tmp_path):
    common = ["explain", recording, "--model", tiny_folder, "--target", "so what"]
    code, out, err = run(*common, "--method", "saliency", "-o", "saliency")
    assert code == 0, err
    explanation = SpeechToTextExplanation.load(tmp_path / "saliency" / "explanation.safetensors")
    assert explanation.metadata["method"] == "Saliency" and "eliability" not in out
    written = {path.stem for path in (tmp_path / "saliency").iterdir()}
    assert written == PICTURES - {"segmentation"} | {"explanation"}  # it has no patches
    code, out, err = run(*common, "--word", "what", "--foil", "was", "-o", "contrast")
    assert code == 0, err
    explanation = SpeechToTextExplanation.load(tmp_path / "contrast" / "explanation.safetensors")
    assert explanation.tokens == ["what (not was)"] and explanation.metadata["score"] == "ContrastiveProbability"


def test_compare(run, tiny_folder, recording, tmp_path):
    names = ["spes", "integrated_gradients", "integrated_gradients_abs", "deep_lift", "occlusion"]
    code, out, err = run(
        "compare", recording, "--model", tiny_folder, "--target", "so what", "--methods", ",".join(names), "-o", "out",
        "--num-beams", "2",
    )  # fmt: skip
    assert code == 0, err
    assert "Left out: DeepLift hooks" in err
    names.remove("deep_lift")
    folder = tmp_path / "out"
    files = {"comparison.json", "comparison.md", "words.png", "sentence.png", *(f"{n}.safetensors" for n in names)}
    assert {path.name for path in folder.iterdir()} == files
    assert all(str((folder / name).relative_to(tmp_path)) in out for name in files)
    results = json.loads((folder / "comparison.json").read_text())
    assert list(results["methods"]) == names
    signed, absolute = (SpeechToTextExplanation.load(folder / f"{name}.safetensors") for name in names[1:3])
    assert torch.equal(signed.spectrogram_attr.abs(), absolute.spectrogram_attr)
    assert absolute.metadata["method"] == "|Integrated Gradients|" and absolute.metadata["gen_args"] == {"num_beams": 2}
    entry = results["methods"]["integrated_gradients"]
    assert entry["passes"]["spectrogram"] == {"forward": 10, "backward": 20}
    correlation = torch.tensor(results["rank_correlation"])
    assert correlation.diag().eq(1).all() and torch.equal(correlation, correlation.T)
    assert correlation[1, 2] == pytest.approx(
        float(rank_correlation(signed.spectrogram_attr, absolute.spectrogram_attr).mean())
    )
    report = (folder / "comparison.md").read_text()
    assert all(f"| {name} |" in report for name in names) and f"{entry['infidelity']:.3g}" in report


def test_compare_keeps_what_is_done_at_ctrl_c(run, tiny_folder, recording, tmp_path, monkeypatch):
    original = Comparison.run

    def stop_at_the_second(self, name, callback):
        if name == "saliency":
            os.kill(os.getpid(), signal.SIGINT)
        return original(self, name, callback)

    monkeypatch.setattr(Comparison, "run", stop_at_the_second)
    code, _, err = run(
        "compare", recording, "--model", tiny_folder, "--target", "so", "-o", "out",
        "--methods", "feature_ablation,saliency,spes",
    )  # fmt: skip
    assert code == 130 and "Stopped in saliency; the methods before it are kept." in err
    assert (tmp_path / "out" / "feature_ablation.safetensors").is_file()
    assert list(json.loads((tmp_path / "out" / "comparison.json").read_text())["methods"]) == ["feature_ablation"]


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
        (["explain", "--method", "deep_lift"], "take IntegratedGradients"),
        (["compare", "--methods", "deep_lift"], "no method could be run"),
    ],
)
def test_wrong_methods_get_one_clear_sentence(run, tiny_folder, recording, arguments, words):
    code, _, err = run(*arguments, recording, "--model", tiny_folder, "--target", "so what")
    assert code == 2
    assert words in err and "Traceback" not in err


def test_ctrl_c_before_there_is_anything(tiny_folder, recording, tmp_path):
    code = "import sys, os, signal; sys.argv[1:] = ['explain', sys.argv[1], '--model', sys.argv[2]]\n"
    code += "import captum_spes.cli as cli\n"
    code += "cli.load_model = lambda *a, **k: os.kill(os.getpid(), signal.SIGINT)\ncli.run()"
    process = subprocess.run(
        [sys.executable, "-c", code, recording, tiny_folder],
        capture_output=True, text=True, cwd=tmp_path, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    assert process.returncode == 130
    assert process.stderr == "Error: interrupted: what is not written yet is lost.\n"


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
        (lambda d: [d / "recording.wav", "--method", "magic"], "there is no method 'magic': give one of spes,"),
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
