"""Results of a type checker for scripts that call the attribution methods."""

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("mypy", reason="mypy is in the extra dev")

SCRIPT = """
from captum_spes import SPES, BubbleNoise, GradientSPES

for method in (SPES(len), BubbleNoise(len), GradientSPES(len)):
    method.attribute(None, n_samples=10, min_reliability=0.5, return_reliability=True)
SPES(len).attribute(None, n_sample=10)
BubbleNoise(len).attribute(None, n_samples="many")
GradientSPES(len).attribute(None, min_reliability="high")
SPES(len).attribute()
"""
# what the README shows
USER_SCRIPT = """
from pathlib import Path

from captum.attr import IntegratedGradients

from captum_spes import SPES, Contrast, SpeechToTextAttribution, SpeechToTextExplanation
from captum_spes.models import SpeechToTextModel, load_model

model: SpeechToTextModel = load_model("whisper-tiny.en", device="cpu")
attribution = SpeechToTextAttribution(SPES(model))
explanation: SpeechToTextExplanation = attribution.attribute("speech.wav", n_samples=1000, seed=0)
explanation.plot_words().savefig("words.png")
explanation.to_html(Path("report.html"))
words: list[str] = explanation.words().tokens
heard: list[tuple[str, float | None]] = [(row.text, row.probability) for row in explanation.word_rows()]
other = SpeechToTextAttribution(IntegratedGradients(model)).attribute("speech.wav", n_steps=25)
contrast = attribution.attribute("speech.wav", contrast=Contrast("step", foil="stop"))
explanation.widget().selected_word
"""
# packages without type information, or with so much of it that a test would take long
CONFIG = """
[mypy]
python_version = 3.10
[mypy-torch.*,anywidget.*,traitlets.*,captum.*,numpy.*,skimage.*,scipy.*,safetensors.*,transformers.*,matplotlib.*]
follow_imports = skip
ignore_missing_imports = True
"""


def check(script, folder):
    """What mypy prints of a script whose package is found through its file py.typed."""
    (folder / "script.py").write_text(script)
    (folder / "mypy.ini").write_text(CONFIG)
    root = Path(__file__).parent.parent
    return subprocess.run(
        [sys.executable, "-m", "mypy", "--follow-imports=silent", "--config-file", "mypy.ini", "script.py"],
        cwd=folder,
        env={"MYPYPATH": str(root), "PATH": ""},
        capture_output=True,
        text=True,
    ).stdout


def test_wrong_arguments_are_errors(tmp_path):
    found = check(SCRIPT, tmp_path)
    errors = [line.partition(": error: ")[::2] for line in found.splitlines() if ": error: " in line]
    assert [place for place, _ in errors] == [f"script.py:{line}" for line in (6, 7, 8, 9)], found
    assert 'Unexpected keyword argument "n_sample" for "attribute" of "SPES"' in errors[0][1]
    assert '"n_samples"' in errors[1][1] and '"min_reliability"' in errors[2][1]
    assert 'Missing positional argument "inputs"' in errors[3][1]


def test_a_user_script_has_no_errors(tmp_path):
    assert check(USER_SCRIPT, tmp_path).startswith("Success")
