"""The data of the interactive report, and the functions that make it; test_report_page.py tests the page itself."""

from __future__ import annotations

import base64
import hashlib
import html
import io
import json
import re
import shutil
import zlib
from dataclasses import replace

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from test_report_page import HOSTILE, RATE, SECONDS, make

from captum_spes import SPES, SpeechToTextAttribution, SpeechToTextExplanation
from captum_spes.confidence import Confidence
from captum_spes.explanation.page import html as page_html
from captum_spes.visualization.report._data import LEVELS, packed, quantized, script_safe_json


def content(page):
    """The data of a page."""
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, flags=re.DOTALL)
    return json.loads(found.group(1))


def write(explanation, path, **kwargs):
    explanation.to_html(path, **kwargs)
    return path.read_text(encoding="utf-8")


@given(arrays(np.float32, (2, 3, 4), elements=st.floats(-100, 100, width=32)))
def test_levels_are_near_the_values(maps):
    levels, largest = quantized(maps)
    signed = (maps < 0).any()
    middle, end = (LEVELS // 2 - 1, LEVELS // 2 - 1) if signed else (0, LEVELS - 1)
    roots = (levels.astype(float) - middle) / end
    restored = largest * np.sign(roots) * roots**2
    assert np.abs(restored - maps).max() <= largest * (1 / 2000 if signed else 1 / 4000)
    assert levels.max() < LEVELS
    order = np.argsort(maps, axis=None)
    assert (np.diff(levels.flatten()[order].astype(int)) >= 0).all()


def test_packed():
    data = zlib.decompress(base64.b64decode(packed(np.array([[1, 258], [3, 4095]], np.uint16))))
    assert list(data) == [1, 2, 3, 255, 0, 1, 0, 15]  # low bytes, then high ones


@given(st.text())
def test_data_cannot_end_its_script(text):
    safe = script_safe_json([text])
    assert json.loads(safe) == [text]
    assert safe.isascii() and not set(safe) & set("<>&")


def test_hostile_texts_are_escaped(tmp_path):
    explanation = replace(
        make(method=HOSTILE[0], tokens=(*HOSTILE, "\ud800")),
        text=HOSTILE[0],
        metadata={"method": HOSTILE[1], "model": HOSTILE, HOSTILE[2]: {HOSTILE[0]: float("nan")}},
    )
    page = write(explanation, tmp_path / "report.html")
    assert "alert(1)" in page and "<script>alert" not in page
    assert re.findall(r"<img\s+(\w+)", page) == ["alt"]  # the picture of the words over time
    assert page.count("<img") == 1
    assert len(re.findall(r"<script[\s>]", page)) == 5  # the data, and four of the page's own
    assert "\u2028" not in page and "\u202e" not in page
    assert content(page)["views"][0]["rows"][0]["title"] == HOSTILE[0]


def test_policy_allows_the_page_itself_alone(tmp_path):
    page = write(make(), tmp_path / "report.html")
    policy = html.unescape(re.search(r'Content-Security-Policy" content="(.*?)"', page).group(1))
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == rules["base-uri"] == rules["form-action"] == "'none'"
    scripts = re.findall(r"<script>(.*?)</script>", page, flags=re.DOTALL)
    styles = re.findall(r"<style>(.*?)</style>", page, flags=re.DOTALL)
    for name, parts in (("script-src", scripts), ("style-src", styles)):
        hashes = [base64.b64encode(hashlib.sha256(part.encode()).digest()).decode() for part in parts]
        assert rules[name].split() == [f"'sha256-{one}'" for one in hashes]
    assert "http" not in re.sub(r'http-equiv="', "", page)  # no address at all


def test_size(tmp_path):
    """5 s and 20 tokens in 2.1 MB, even if maps and audio are noise that nothing compresses."""
    generator = torch.Generator().manual_seed(0)
    n = 20
    explanation = SpeechToTextExplanation(
        text="text",
        tokens=[f" t{i}" for i in range(n)],
        previous_tokens=[f" t{i}" for i in range(n)],
        spectrogram=torch.rand(500, 80, generator=generator),
        spectrogram_attr=torch.rand(n, 500, 80, generator=generator),
        token_attr=torch.rand(n, n, generator=generator),
        n_previous=torch.arange(1, n + 1),
        frames_per_second=100,
        mel_frequencies=torch.linspace(40, 7700, 80),
    )
    noise = np.random.default_rng(0).uniform(-1, 1, 5 * RATE)
    explanation.to_html(tmp_path / "report.html", audio=noise, sampling_rate=RATE)
    assert (tmp_path / "report.html").stat().st_size <= 2.1e6


def embedded(page):
    audio = content(page)["audio"]
    return soundfile.read(io.BytesIO(base64.b64decode(audio["flac"])))


def test_audio_is_embedded_without_loss(tmp_path):
    samples = np.random.default_rng(0).uniform(-0.9, 0.9, int(SECONDS * RATE))
    soundfile.write(tmp_path / "speech <b>.wav", samples, RATE, subtype="PCM_16")
    page = write(make(), tmp_path / "report.html", audio=tmp_path / "speech <b>.wav")
    assert content(page)["audio"]["name"] == "speech <b>.wav"
    found, rate = embedded(page)
    assert rate == RATE and np.array_equal(found, soundfile.read(tmp_path / "speech <b>.wav")[0])
    with pytest.raises(ValueError, match=r"lasts 0\.60 s and the explained utterance 1\.20 s"):
        make().to_html(tmp_path / "report.html", audio=samples[: RATE * 6 // 10], sampling_rate=RATE)


@pytest.mark.parametrize("rate", [16000.5, 96_001, 768_000])
def test_audio_at_a_rate_that_flac_lacks_is_resampled(tmp_path, rate):
    tone = np.sin(2 * np.pi * 440 * np.arange(round(SECONDS * rate)) / rate)
    page = write(make(), tmp_path / "report.html", audio=tone, sampling_rate=rate)
    found, played = embedded(page)
    assert played == content(page)["audio"]["rate"] == 48_000
    expected = np.sin(2 * np.pi * 440 * np.arange(len(found)) / played)
    assert len(found) == pytest.approx(SECONDS * played, abs=1)
    assert np.abs(found - expected)[2000:-2000].max() < 1e-3


@pytest.mark.filterwarnings("ignore:the maps are noisy")
def test_the_explained_file_is_found_again(tiny_model, audio, tmp_path):
    path = tmp_path / "speech.wav"
    soundfile.write(path, audio, RATE)
    explanation = SpeechToTextAttribution(SPES(tiny_model)).attribute(path, "so", n_samples=9, n_token_samples=4)
    assert explanation.metadata["audio_file"] == str(path)
    assert explanation.metadata["audio_sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    page = write(explanation, tmp_path / "report.html")
    assert len(embedded(page)[0]) == len(audio)
    assert content(write(explanation, tmp_path / "report.html", audio=False))["audio"] is None
    assert str(tmp_path) not in page  # who gets it learns the file's name and not where it was
    soundfile.write(path, audio[::-1], RATE)
    assert content(write(explanation, tmp_path / "report.html"))["audio"] is None
    path.unlink()
    assert "There is no audio in this report" in write(explanation, tmp_path / "report.html")
    samples = SpeechToTextAttribution(SPES(tiny_model)).attribute(
        audio, "so", sampling_rate=RATE, n_samples=9, n_token_samples=4
    )
    assert "audio_file" not in samples.metadata and "audio_sha256" not in samples.metadata


def test_others_explain_the_same(tmp_path):
    page = write(make(), tmp_path / "report.html", others=[make(), make("Saliency")])
    assert [method["name"] for method in content(page)["methods"]] == ["SPES", "SPES (2)", "Saliency"]
    other_text = make(tokens=(" So", " what", "'s", " next", "."))
    with pytest.raises(ValueError, match="explanation 2 of the others explains"):
        make().to_html(tmp_path / "other.html", others=[make(), other_text])
    other_speech = replace(make(), spectrogram=make().spectrogram + 1)
    with pytest.raises(ValueError, match="explanation 1 of the others is of another recording"):
        make().to_html(tmp_path / "other.html", others=[other_speech])
    assert not (tmp_path / "other.html").exists()


def test_in_notebooks(monkeypatch):
    pytest.importorskip("IPython")
    import IPython.display

    shown = []
    monkeypatch.setattr(IPython.display, "display", shown.append)
    explanation = make()
    explanation.show()
    frame = explanation._repr_html_()
    assert shown[0].data == frame
    assert html.unescape(re.search(r'srcdoc="([^"]*)"', frame).group(1)) == page_html(explanation)
    assert 'sandbox="allow-scripts"' in frame


def test_report_command(run, tmp_path):
    samples = np.random.default_rng(0).uniform(-0.9, 0.9, int(SECONDS * RATE))
    soundfile.write(tmp_path / "speech.wav", samples, RATE)
    for number, method in enumerate(("SPES", "Saliency")):
        make(method, number).save(tmp_path / f"{method}.safetensors")
    code, out, err = run("report", "SPES.safetensors", "Saliency.safetensors", "--audio", "speech.wav")
    assert code == 0 and "Wrote report.html" in out, err
    found = content((tmp_path / "report.html").read_text())
    assert len(found["methods"]) == 2 and found["audio"]["name"] == "speech.wav"
    code, _, err = run("report", "SPES.safetensors", "--audio", "speech.wav", "--no-audio")
    assert code == 2 and "exclude each other" in err
    code, _, err = run("report", "SPES.safetensors", "-o", "nowhere/report.html")
    assert code == 2 and err == "Error: the folder nowhere does not exist: make it first, or give another --output.\n"
    (tmp_path / "folder").mkdir()
    code, _, err = run("report", "SPES.safetensors", "-o", "folder")
    assert code == 2 and "folder is a folder: give the name of an HTML file as --output" in err
    code, _, err = run("report", "nothing.safetensors")
    assert code == 2 and "nothing.safetensors does not exist" in err


def test_explain_writes_a_report_that_plays(run, tiny_folder, recording, tmp_path):
    code, out, err = run("explain", recording, "--model", tiny_folder, "--target", "so", "--n-samples", "6")
    assert code == 0, err
    page = (tmp_path / "spes-output" / "recording" / "report.html").read_text()
    assert content(page)["audio"]["name"] == "recording.wav" and "report.html" in out
    shutil.move(recording, tmp_path / "moved.wav")
    code, _, err = run("report", "spes-output/recording/explanation.safetensors", "-o", "again.html")
    assert code == 0 and content((tmp_path / "again.html").read_text())["audio"] is None, err


def test_a_text_alone_is_neither_doubtful_nor_heard():
    """A product of many probabilities is small."""
    explanation = make()
    n = len(explanation.tokens)
    sure = Confidence([0.6] * n, [0.6] * n, [0.5] * n, [[] for _ in range(n)], [0.1] * n)
    sentence = replace(explanation, confidence=sure).sentence()
    [row] = content(page_html(sentence))["views"][0]["rows"]
    assert row["probability"] < 0.2 and not row["doubtful"] and row["verdict"] is None
