"""Results of a type checker for scripts that call the attribution methods."""

import inspect
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from captum_spes import SPES, BubbleNoise, GradientSPES

pytest.importorskip("mypy", reason="mypy is in the extra dev")

# torch's own types would take mypy a minute; Captum has none, for users as well
TORCH = """
from typing import Any
class Tensor: ...
def __getattr__(name: str) -> Any: ...
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
CONFIG = """
[mypy]
python_version = 3.10
follow_imports = silent
[mypy-torch.*,anywidget.*,traitlets.*,captum.*,numpy.*,skimage.*,scipy.*,safetensors.*,transformers.*,matplotlib.*]
follow_imports = skip
ignore_missing_imports = True
[mypy-torch]
follow_imports = silent
"""
CORRECT = """
from torch import Tensor
from captum_spes import SPES, BubbleNoise, GradientSPES
from captum_spes.attr import AttnLRP

x = Tensor()
pair: tuple[Tensor, ...] = (x, x)
spes, gradient, bubbles = SPES(len), GradientSPES(len), BubbleNoise(len)
reveal_type(spes.attribute(x, 0, None, None, x, 10, 1, False, perturbation_prob=0.5, centered=True, checkpoint="x"))
reveal_type(spes.attribute(pair, min_reliability=0.5, callback=lambda done, total: False, process_group=None))
reveal_type(spes.attribute(x, return_reliability=True))
reveal_type(spes.attribute(pair, return_reliability=True))
reveal_type(bubbles.attribute(x, n_samples=10, bubble_seconds=0.4))
reveal_type(bubbles.attribute(x, return_reliability=True))
reveal_type(gradient.attribute(x, pool_features=False, pooling_masks=[x]))
reveal_type(gradient.attribute(x, return_reliability=True))
reveal_type(gradient.attribute(x, return_pooling=True))
reveal_type(gradient.attribute(pair, return_reliability=True, return_pooling=True))
reveal_type(AttnLRP(len).attribute(x))
"""
TENSOR, TENSORS = "torch.Tensor", "tuple[torch.Tensor, ...]"
TYPES = [
    TENSOR,
    TENSORS,
    f"tuple[{TENSOR}, {TENSOR}]",
    f"tuple[{TENSORS}, {TENSORS}]",
    TENSOR,
    f"tuple[{TENSOR}, {TENSOR}]",
    TENSOR,
    f"tuple[{TENSOR}, {TENSOR}]",
    f"tuple[{TENSOR}, int | None]",
    f"tuple[{TENSORS}, {TENSORS}, int | None]",
    TENSOR,
]
WRONG = """
from torch import Tensor
from captum_spes import SPES, BubbleNoise, GradientSPES

SPES(len).attribute(Tensor(), n_sample=10)
BubbleNoise(len).attribute(Tensor(), n_samples="many")
GradientSPES(len).attribute(Tensor(), min_reliability="high")
SPES(len).attribute()
SPES(len).attribute(Tensor()).backwards
"""


@pytest.fixture(scope="module")
def said(tmp_path_factory):
    """What mypy says of each script, in one run."""
    folder = tmp_path_factory.mktemp("mypy")
    scripts = {"correct": CORRECT, "wrong": WRONG, "user": USER_SCRIPT}
    for name, script in scripts.items():
        (folder / f"{name}.py").write_text(script)
    (folder / "mypy.ini").write_text(CONFIG)
    (folder / "stubs" / "torch").mkdir(parents=True)
    (folder / "stubs" / "torch" / "__init__.pyi").write_text(TORCH)
    paths = [str(folder / "stubs"), str(Path(__file__).parent.parent)]
    found = subprocess.run(
        [sys.executable, "-m", "mypy", "--config-file", "mypy.ini", *(f"{name}.py" for name in scripts)],
        cwd=folder,
        env={"MYPYPATH": os.pathsep.join(paths), "PATH": ""},
        capture_output=True,
        text=True,
    )
    assert found.returncode == 1 and "checked 3 source files" in found.stdout, found.stdout + found.stderr
    lines = found.stdout.splitlines()
    return {name: "\n".join(line for line in lines if line.startswith(f"{name}.py:")) for name in scripts}


@pytest.mark.slow
def test_results_have_precise_types(said):
    assert "error" not in said["correct"], said["correct"]
    # older versions write builtins.tuple and Union
    types = re.sub(r"Union\[(\w+), None\]", r"\1 | None", said["correct"].replace("builtins.", ""))
    assert re.findall(r'Revealed type is "(.*)"', types) == TYPES


@pytest.mark.parametrize("method", [SPES, BubbleNoise, GradientSPES])
def test_overloads_name_all_arguments(method):
    arguments = inspect.signature(method.attribute).parameters.values()
    by_name = {argument.name for argument in arguments if argument.kind == argument.KEYWORD_ONLY}
    typed = sys.modules[method.__module__]._Arguments.__annotations__.keys()
    assert typed == {name for name in by_name if not name.startswith("return_")}


@pytest.mark.slow
def test_wrong_arguments_are_errors(said):
    found = said["wrong"]
    places = dict.fromkeys(re.findall(r"^wrong\.py:(\d+): error", found, re.MULTILINE))
    assert list(places) == ["5", "6", "7", "8", "9"], found
    assert 'Unexpected keyword argument "n_sample"' in found and 'has no attribute "backwards"' in found


@pytest.mark.slow
def test_a_user_script_has_no_errors(said):
    assert said["user"] == ""
