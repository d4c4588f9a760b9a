"""Audio as it comes: rates, channels, types, and all that is no audio."""

import numpy as np
import pytest
import soundfile
import torch

from captum_spes.audio import load_audio


def tone(rate, seconds=0.5, frequency=440):
    return (0.5 * np.sin(2 * np.pi * frequency * np.arange(int(rate * seconds)) / rate)).astype(np.float32)


@pytest.mark.parametrize("rate", [8000, 16000, 22050, 44100, 48000])
@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("kind", ["wav", "flac", "array", "tensor"])
def test_rates_and_channels(rate, channels, kind, tmp_path):
    samples = tone(rate)
    if channels == 2:
        samples = np.stack((samples, np.zeros_like(samples)), axis=1)
    if kind in ("wav", "flac"):
        path = tmp_path / f"tone.{kind}"
        soundfile.write(path, samples, rate)
        audio = load_audio(path, 16000)
    else:
        given = samples.T if channels == 2 else samples
        audio = load_audio(torch.from_numpy(np.ascontiguousarray(given)) if kind == "tensor" else given, 16000, rate)
    assert audio.dtype == np.float32 and audio.shape == (8000,)
    expected = tone(16000) / channels
    assert np.abs(audio - expected)[100:-100].max() < 0.01


def test_integers_are_scaled():
    samples = (tone(16000) * 32767).astype(np.int16)
    assert np.abs(load_audio(samples, 16000, 16000) - tone(16000)).max() < 1e-4
    unsigned = (tone(16000) * 127 + 128).astype(np.uint8)
    assert np.abs(load_audio(unsigned, 16000, 16000) - tone(16000)).max() < 0.02
    gradients = torch.from_numpy(tone(16000)).requires_grad_()
    assert np.array_equal(load_audio(gradients, 16000, 16000), tone(16000))


def write(path, samples):
    soundfile.write(path, samples, 16000)
    return path


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda folder: folder / "nothing.wav", "does not exist"),
        (lambda folder: folder, "is a folder"),
        (lambda folder: (folder / "empty.wav").write_bytes(b"") or folder / "empty.wav", "is empty"),
        (lambda folder: (folder / "text.wav").write_text("words") and folder / "text.wav", "is no audio file"),
        (lambda folder: write(folder / "none.wav", np.zeros(0, np.float32)), "holds no samples"),
        (lambda folder: write(folder / "silent.wav", np.zeros(16000, np.float32)), "is silent"),
        (lambda folder: write(folder / "short.wav", tone(16000, 0.09)), "lasts only 0.090 s"),
    ],
)
def test_bad_files(make, words, tmp_path):
    with pytest.raises(ValueError, match=words):
        load_audio(make(tmp_path), 16000)


@pytest.mark.parametrize(
    ("samples", "rate", "words"),
    [
        (np.array([0.1, np.nan] * 8000), 16000, "NaN or infinite"),
        (np.array([0.1, np.inf] * 8000), 16000, "NaN or infinite"),
        (tone(16000), None, "needs its sampling_rate"),
        (tone(16000), 0, "needs its sampling_rate"),
        (tone(16000)[None, None], 16000, "one or two dimensions"),
        (tone(16000).astype(complex), 16000, "must be floating-point or integer"),
        (["a", "b"], 16000, "must be floating-point or integer"),
        ([], 16000, "holds no samples"),
    ],
)
def test_bad_arrays(samples, rate, words):
    with pytest.raises(ValueError, match=words):
        load_audio(samples, 16000, rate)
