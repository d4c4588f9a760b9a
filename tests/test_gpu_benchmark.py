"""The benchmark of a GPU, with the CPU as its device and shapes that take no time."""

import importlib
import sys
from pathlib import Path

import pytest
import torch

from captum_spes import SPES, GradientSPES

pytestmark = pytest.mark.filterwarnings("ignore:the maps", "ignore:with frozen padding the text")
BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.fixture
def gpu(monkeypatch):
    """The benchmark, with models that are as small as can be."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    module = importlib.import_module("gpu")
    shapes = {"tiny.en": (16, 1, 2, 80), "base": (16, 1, 2, 80), "large-v3": (24, 2, 2, 128)}
    monkeypatch.setattr(module, "SHAPES", shapes)
    monkeypatch.setattr(module, "VOCABULARY", 300)
    monkeypatch.setattr(module, "BUNDLED", {})
    yield module
    sys.modules.pop("gpu")


def cells(text):
    """The rows of the tables of a page, without their rules."""
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ")]
    return [[cell.strip(" |") for cell in row] for row in rows]


@pytest.mark.slow
def test_everything_is_measured(gpu, tmp_path, capsys):
    path = tmp_path / "results" / "gpu.md"
    gpu.main(
        f"--device cpu --shapes tiny.en large-v3 --seconds 0.01 --n-samples 3 --without-tests --output {path}".split()
    )
    text = path.read_text()
    assert capsys.readouterr().out.startswith(text) and text.startswith("Tests marked `cuda`: not run.")
    rows = cells(text)
    compared = [row for row in rows if row[0] in ("SPES", "GradientSPES")]
    assert [row[1] for row in compared] == ["float32", "bfloat16", "float16"] * 2
    for method, precision, correlation, *_ in compared:
        assert float(correlation) == 1 if precision == "float32" else abs(float(correlation)) <= 1, (method, precision)
    measured = [row for row in rows if row[0] in ("tiny.en", "large-v3")]
    ways = [(window, method) for window in ("full", "frozen") for method in ("SPES", "GradientSPES")]
    assert [(row[0], row[2], row[4]) for row in measured] == [
        (shape, *way) for shape in ("tiny.en", "large-v3") for way in ways
    ]
    for row in measured:
        assert row[1] == "random" and int(row[5]) >= 1 and float(row[6].replace(",", "")) > 0 and float(row[7]) > 0
        assert 0 <= int(row[8].rstrip("%")) <= 100


def test_what_there_is_no_time_for_is_said(gpu):
    rows = gpu.speeds(["tiny.en", "base"], "cpu", 0.01, deadline=-1.0)
    assert [row[0] for row in rows[1:]] == ["tiny.en", "base"]
    assert all(set(row[1:]) == {"no time"} and len(row) == len(rows[0]) for row in rows[1:])


def test_the_stopwatch_counts_the_model_once(gpu, monkeypatch):
    """Each look at the clock is a second later; the parts of the model, and backward passes, take one each."""
    model = gpu.random_whisper("tiny.en", "cpu")
    clock = iter(range(1000))
    monkeypatch.setattr(gpu, "now", lambda device: next(clock))
    watch = gpu.Stopwatch(model, "cpu")
    utterance, tokens = gpu.heard(model)
    spectrogram = utterance.spectrogram.requires_grad_()
    with watch.running():
        logits = model.logits(model.encode(spectrogram, utterance), tokens)
        assert watch.seconds == 3  # encoder, decoder and projection
        torch.autograd.grad(logits.sum(), spectrogram)
        assert watch.seconds == 4
    before = torch.autograd.grad
    model.encode(spectrogram, utterance)
    assert watch.seconds == 4 and torch.autograd.grad is before


@pytest.mark.parametrize("method", [SPES, GradientSPES])
def test_a_rate_leaves_the_first_batch_out(gpu, method, monkeypatch):
    model = gpu.random_whisper("tiny.en", "cpu")
    batch, rate, share = gpu.speed(model, method, *gpu.heard(model), "cpu", 0.05)
    assert batch in range(1, 17) and rate > 0 and 0 <= share <= 1


@pytest.mark.slow
def test_the_tests_that_need_a_gpu_are_found(gpu, monkeypatch):
    """By a run of pytest that only collects them."""
    run = gpu.subprocess.run
    monkeypatch.setattr(gpu.subprocess, "run", lambda words, **given: run([*words, "--collect-only"], **given))
    assert gpu.run_tests("cuda", 5).split()[0].partition("/")[0].isdigit()
    sleeping = [sys.executable, "-c", "import time; time.sleep(60)"]
    monkeypatch.setattr(gpu.subprocess, "run", lambda words, **given: run(sleeping, **given))
    assert gpu.run_tests("cuda", 0.01) == "did not end within 0.01 minutes"
