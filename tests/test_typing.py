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


def mypy(script, folder):
    """What mypy says of a script."""
    (folder / "script.py").write_text(script)
    (folder / "mypy.ini").write_text(CONFIG)
    (folder / "stubs" / "torch").mkdir(parents=True)
    (folder / "stubs" / "torch" / "__init__.pyi").write_text(TORCH)
    paths = [str(folder / "stubs"), str(Path(__file__).parent.parent)]
    found = subprocess.run(
        [sys.executable, "-m", "mypy", "--config-file", "mypy.ini", "script.py"],
        cwd=folder,
        env={"MYPYPATH": os.pathsep.join(paths), "PATH": ""},
        capture_output=True,
        text=True,
    )
    assert found.returncode in (0, 1), found.stderr
    return found.stdout


def test_results_have_precise_types(tmp_path):
    said = mypy(CORRECT, tmp_path)
    assert "error" not in said, said
    # older versions write builtins.tuple and Union
    said = re.sub(r"Union\[(\w+), None\]", r"\1 | None", said.replace("builtins.", ""))
    assert re.findall(r'Revealed type is "(.*)"', said) == TYPES


@pytest.mark.parametrize("method", [SPES, BubbleNoise, GradientSPES])
def test_overloads_name_all_arguments(method):
    arguments = inspect.signature(method.attribute).parameters.values()
    by_name = {argument.name for argument in arguments if argument.kind == argument.KEYWORD_ONLY}
    typed = sys.modules[method.__module__]._Arguments.__annotations__.keys()
    assert typed == {name for name in by_name if not name.startswith("return_")}


def test_wrong_arguments_are_errors(tmp_path):
    said = mypy(WRONG, tmp_path)
    places = dict.fromkeys(re.findall(r"^script\.py:(\d+): error", said, re.MULTILINE))
    assert list(places) == ["5", "6", "7", "8", "9"], said
    assert 'Unexpected keyword argument "n_sample"' in said and 'has no attribute "backwards"' in said


def test_a_user_script_has_no_errors(tmp_path):
    assert mypy(USER_SCRIPT, tmp_path).startswith("Success")
