"""The Python of the README and of the pages runs as printed."""

import re
import shutil
import warnings
from functools import partial
from pathlib import Path

import pytest
import soundfile
import torch
from captum.attr import IntegratedGradients
from test_analysis import ALIGNMENT, make
from test_evaluation import write_words

from captum_spes import SPES, SpeechToTextAttribution
from captum_spes.metrics import WordErrorRate, deletion
from captum_spes.models import SpeechToTextModel

README = Path(__file__).resolve().parents[1] / "README.md"
QUICK_START = README.parent / "docs" / "quick_start.md"
EVALUATION = README.parent / "docs" / "evaluation.md"
LISTENING = README.parent / "docs" / "listening.md"
MODELS = README.parent / "docs" / "models.md"
PLAUSIBILITY = README.parent / "docs" / "plausibility.md"


def blocks(path=README):
    return re.findall(r"```python\n(.*?)```", path.read_text(), flags=re.DOTALL)


def shapes(block):
    """The expressions that a comment gives the value of."""
    return re.findall(r"^(\S.*?\.shape) +# (?:torch\.Size\()?[\[(]([\d, ]+)", block, flags=re.MULTILINE)


def test_other_methods(tiny_model, audio, tmp_path):
    """The quick start's examples with a tiny model."""
    soundfile.write(tmp_path / "speech.wav", audio, 16000)
    found = [block for block in blocks(QUICK_START) if "IntegratedGradients(model)" in block or "contrast=" in block]
    assert len(found) == 2
    names = {"model": tiny_model, "SPES": SPES, "SpeechToTextAttribution": SpeechToTextAttribution}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "the maps are noisy")
        for block in found:
            speech = f"{str(tmp_path / 'speech.wav')!r}, 'so what was the next step?'"
            exec(block.replace('"speech.wav"', speech).replace('"stop")', '"was")').replace("48", "9"), names)
    assert names["explanation"].tokens == ["step (not was)"]


def test_the_swap():
    block = next(block for block in blocks(QUICK_START) if "FeatureAblation(model)" in block)
    names = {}
    exec(block, names)
    assert len(shapes(block)) == 2
    for expression, shape in shapes(block):
        assert str(list(eval(expression, names))) == f"[{shape}]"


@pytest.mark.filterwarnings("ignore:the maps are noisy")
def test_one_word_to_swap(tiny_model, audio, tmp_path, monkeypatch):
    """The README's Python, on a tiny model in place of Whisper."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("captum_spes.models.load_model", lambda name: tiny_model)
    soundfile.write("speech.wav", audio, 16000)
    [block] = blocks()
    names = {}
    exec(block.replace("n_samples=1000", "n_samples=90"), names)
    assert names["explanation"].metadata["method"] == "Integrated Gradients"
    assert {path.name for path in tmp_path.iterdir()} == {"speech.wav", "spes.png", "integrated_gradients.png"}


@pytest.mark.slow
def test_from_python(bundled_model, sample, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    block = blocks(QUICK_START)[0]
    small = block.replace('"speech.wav", n_samples=1000', f"{str(sample)!r}, n_samples=3, n_token_samples=4")
    assert small != block
    names = {}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "the maps are noisy")
        exec(small, names)
    assert str(names["explanation"].tokens) in block
    assert len(shapes(block)) == 2
    for expression, shape in shapes(block):
        assert str(list(eval(expression, names))) == f"[{shape}]"
    assert {path.name for path in tmp_path.iterdir()} == {"words.png", "report.html", "explanation.safetensors"}


@pytest.mark.filterwarnings("ignore:the maps are noisy", "ignore:the maps of .* are the same everywhere")
def test_metrics(tiny_model, audio):
    explanation = SpeechToTextAttribution(SPES(tiny_model)).attribute(
        audio, "so what", sampling_rate=16000, n_samples=9, n_token_samples=4
    )
    names = {"model": tiny_model, "explanation": explanation, "WordErrorRate": WordErrorRate}
    exec(blocks(EVALUATION)[0], names)
    curve = names["curve"]
    assert len(curve.texts[0]) == 21
    heights = (curve.scores[1:] + curve.scores[:-1]) / 2  # of 20 trapezoids of equal width
    assert curve.auc == pytest.approx(float(heights.mean())) and 0 < curve.auc <= 100


@pytest.mark.filterwarnings("ignore:the maps are noisy", "ignore:the maps of .* are the same everywhere")
@pytest.mark.slow
def test_evaluation(tiny_model, audio, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    speech = tmp_path / "speech"
    speech.mkdir()
    for name in ("one", "two"):
        soundfile.write(speech / f"{name}.wav", audio, 16000)
    (speech / "metadata.csv").write_text("file_name,transcription,gender\none.wav,so,female\ntwo.wav,so,male\n")
    names = {"model": tiny_model, "folder": tmp_path}
    exec(blocks(EVALUATION)[1], names)
    assert names["results"].utterances == ["one", "two"] and names["women"] == ["one"]
    assert (tmp_path / "summary.md").read_text().startswith(f"# {tiny_model.name} on 1 utterance\n")


@pytest.mark.filterwarnings("ignore:the maps are noisy")
def test_a_model_of_ones_own(sample):
    """The whole protocol in less than 40 lines, run by what the library does with a model."""
    own, use = blocks(MODELS)[-2:]
    assert len([line for line in own.splitlines() if line.strip()]) < 40
    names = {}
    torch.manual_seed(0)
    exec(own, names)
    exec(use.replace('"speech.wav"', repr(str(sample))), names)
    for expression, shape in shapes(use):
        assert str(list(eval(expression, names))) == f"[{shape}]"
    model, explanation = names["LetterModel"](), names["explanation"]
    assert isinstance(model, SpeechToTextModel) and explanation.words().tokens == ["so", "what"]
    assert not explanation.token_attr[~explanation.is_previous].any() and explanation.spectrogram_attr.max() > 0
    gradients = SpeechToTextAttribution(IntegratedGradients(model)).attribute(str(sample), n_steps=3)
    assert gradients.metadata["target"] == "generated"
    assert len(deletion(model, explanation, percentages=(0, 50)).texts[0]) == 2


@pytest.mark.filterwarnings("ignore:the maps")
def test_long_recordings(tiny_model, tiny_processor, sample, tmp_path, monkeypatch):
    """2 s of speech, of which the tiny model hears 1 s at once."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(sample, "talk.wav")
    block = next(block for block in blocks(MODELS) if "attribute_long" in block)
    names = {"model": tiny_model, "SPES": SPES, "deletion": partial(deletion, percentages=(0, 100))}
    write_words(tiny_model.model, tiny_processor)
    tiny_model.model.generation_config.min_new_tokens = 2
    exec(block.replace("n_samples=3000", "n_samples=9, n_token_samples=4").replace("60, 120", "0, 2"), names)
    assert names["talk"].words and (tmp_path / "second_minute.png").is_file()


@pytest.mark.parametrize("path", re.findall(r"\]\(([^:)#]+)(?:#[^)]*)?\)", README.read_text()))
def test_links_lead_somewhere(path):
    assert (README.parent / path).exists()


def test_the_page_on_plausibility(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {
        "explanation": make(),
        "explanations": [make(number) for number in range(4)],
        "alignment": ALIGNMENT,
        "alignments": [ALIGNMENT] * 4,
        "women_numbers": [1, 3],
        "men_numbers": [0, 2],
    }
    for block in blocks(PLAUSIBILITY)[1:]:
        exec(block, names)
    assert names["found"].guessed() and names["women"].mean_frequency > 0
    assert (tmp_path / "time.png").is_file() and (tmp_path / "heard_or_guessed.png").is_file()


@pytest.mark.filterwarnings("ignore:the maps are noisy")
def test_the_page_on_listening(tiny_model, audio, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    soundfile.write("speech.wav", audio, 16000)
    explanation = SpeechToTextAttribution(SPES(tiny_model)).attribute(
        "speech.wav", "so what was the next step?", n_samples=9, n_token_samples=4
    )
    names = {"explanation": explanation}
    [block] = blocks(LISTENING)
    exec(block, names)
    assert names["samples"].shape == audio.shape


@pytest.mark.slow
def test_alignments_of_the_page_on_plausibility(bundled_model, sample, tmp_path, monkeypatch):
    pytest.importorskip("pocketsphinx")
    monkeypatch.chdir(tmp_path)
    names = {"attribution": SpeechToTextAttribution(SPES(bundled_model))}
    exec(blocks(PLAUSIBILITY)[0].replace('"speech.wav"', repr(str(sample))), names)
    assert [word.text for word in names["alignment"].words] == ["so", "what", "was", "the", "next", "step"]
