"""The README's Python runs as printed."""

import re
import warnings
from pathlib import Path

import pytest
import soundfile

from captum_spes import SPES, SpeechToTextAttribution

README = Path(__file__).resolve().parents[1] / "README.md"


def blocks():
    return re.findall(r"```python\n(.*?)```", README.read_text(), flags=re.DOTALL)


def shapes(block):
    """The expressions that a comment gives the value of."""
    return re.findall(r"^(\S.*?\.shape) +# (?:torch\.Size\()?[\[(]([\d, ]+)", block, flags=re.MULTILINE)


def test_other_methods(tiny_model, audio, tmp_path):
    """The words of the README's recording, said to a tiny model."""
    soundfile.write(tmp_path / "speech.wav", audio, 16000)
    found = [block for block in blocks() if "IntegratedGradients(model)" in block or "contrast=" in block]
    assert len(found) == 2
    names = {"model": tiny_model, "SPES": SPES, "SpeechToTextAttribution": SpeechToTextAttribution}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "the maps are noisy")
        for block in found:
            speech = f"{str(tmp_path / 'speech.wav')!r}, 'so what was the next step?'"
            exec(block.replace('"speech.wav"', speech).replace('"stop")', '"was"), n_samples=9'), names)
    assert names["explanation"].tokens == ["step (not was)"]


def test_the_swap():
    block = next(block for block in blocks() if "FeatureAblation(model)" in block)
    names = {}
    exec(block, names)
    assert len(shapes(block)) == 2
    for expression, shape in shapes(block):
        assert str(list(eval(expression, names))) == f"[{shape}]"


def test_from_python(bundled_model, sample, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    block = blocks()[0]
    small = block.replace('"speech.wav", n_samples=3000', f"{str(sample)!r}, n_samples=3, n_token_samples=4")
    assert small != block
    names = {}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "the maps are noisy")
        exec(small, names)
    assert str(names["explanation"].tokens) in block
    assert len(shapes(block)) == 2
    for expression, shape in shapes(block):
        assert str(list(eval(expression, names))) == f"[{shape}]"
    assert {path.name for path in tmp_path.iterdir()} == {"words.png", "explanation.safetensors"}


@pytest.mark.parametrize("path", re.findall(r"\]\(([^:)]+)\)", README.read_text()))
def test_links_lead_somewhere(path):
    assert (README.parent / path).exists()
