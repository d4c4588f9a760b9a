"""What a type checker says about scripts that call the attribution methods."""

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
# packages without type information, or with so much of it that a test would take long
CONFIG = """
[mypy]
python_version = 3.10
[mypy-torch.*,captum.*,numpy.*,skimage.*,scipy.*,safetensors.*,transformers.*,matplotlib.*]
follow_imports = skip
ignore_missing_imports = True
"""


def test_wrong_arguments_are_errors(tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    (tmp_path / "mypy.ini").write_text(CONFIG)
    root = Path(__file__).parent.parent
    found = subprocess.run(
        [sys.executable, "-m", "mypy", "--follow-imports=silent", "--config-file", "mypy.ini", "script.py"],
        cwd=tmp_path,
        env={"MYPYPATH": str(root), "PATH": ""},
        capture_output=True,
        text=True,
    )
    errors = [line.partition(": error: ")[::2] for line in found.stdout.splitlines() if ": error: " in line]
    assert [place for place, _ in errors] == [f"script.py:{line}" for line in (6, 7, 8, 9)], found.stdout
    assert 'Unexpected keyword argument "n_sample" for "attribute" of "SPES"' in errors[0][1]
    assert '"n_samples"' in errors[1][1] and '"min_reliability"' in errors[2][1]
    assert 'Missing positional argument "inputs"' in errors[3][1]
