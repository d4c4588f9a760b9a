"""Silence and noise: what a model invents there is explained, with a notice."""

import numpy as np
import pytest
import soundfile
import torch

from captum_spes import SPES, SpeechToTextAttribution, SpeechToTextExplanation
from captum_spes.audio import read_audio, read_recording, speech_seconds
from captum_spes.explanation.notices import lacks_speech, no_speech_notice
from captum_spes.models import prepare
from captum_spes.models.protocol import Tokens, Utterance
from captum_spes.speech_to_text.hearing import share_without_sound, silence_facts

SILENT = np.zeros(9600, np.float32)


class Planted:
    """Writes two tokens: the first where there is sound, the second whatever is heard."""

    def encode(self, spectrogram, utterance):
        return spectrogram

    def logits(self, encoded, tokens):
        likely = torch.full((len(encoded), 2), 0.9)
        likely[:, 0] = torch.where(encoded.mean((1, 2)) > 0.5, 0.9, 0.1)
        rest = ((1 - likely) / 4)[..., None].expand(-1, -1, 5)
        return rest.scatter(2, tokens.target.expand(len(encoded), -1)[..., None], likely[..., None]).log()


UTTERANCE = Utterance(torch.ones(1, 20, 3), torch.zeros(1, 0, 3), speech_seconds=0.0)
TOKENS = Tokens(torch.tensor([0]), torch.tensor([1, 2]))


def test_what_is_left_without_sound():
    assert share_without_sound(Planted(), UTTERANCE, TOKENS, 0.0) == pytest.approx((1 / 9) ** 0.5, abs=1e-6)
    assert share_without_sound(Planted(), UTTERANCE, TOKENS, 1.0) == 1  # hidden by what it is


def test_facts_of_silence():
    assert silence_facts(Planted(), UTTERANCE, TOKENS, 0.0) == {"no_speech_probability": None, "without_sound": 0.3333}
    model = Planted()
    model.no_speech_probability = lambda utterance, tokens: 0.7
    spoken = Utterance(torch.ones(1, 20, 3), torch.zeros(1, 0, 3), speech_seconds=2.0)
    assert silence_facts(model, spoken, TOKENS, 1.0) == {"no_speech_probability": 0.7, "without_sound": 1.0}
    model.no_speech_probability = lambda utterance, tokens: 0.1
    assert silence_facts(model, spoken, TOKENS, 1.0) == {"no_speech_probability": 0.1}


@pytest.mark.parametrize(
    "metadata, words",
    [
        ({"speech_seconds": 0.0}, ["by the voice activity detector, so this text is likely invented."]),
        ({"no_speech_probability": 0.9}, ["by the model (its probability of no speech is 0.90), so"]),
        ({"speech_seconds": 0.0, "without_sound": 0.9}, ["keep 90 %", "and not on sounds"]),
        ({"speech_seconds": 0.0, "without_sound": 0.1}, ["keep 10 %", "depends on what sounds"]),
        ({"speech_seconds": 0.0, "without_sound": 0.6}, ["keep 60 %", "as well as on sounds"]),
        ({"speech_seconds": 1.0, "no_speech_probability": 0.1}, None),
        ({"speech_seconds": None, "no_speech_probability": None}, None),
        ({"speech_seconds": "none", "no_speech_probability": True}, None),  # of a foreign file
        ({}, None),
    ],
)
def test_the_notice(metadata, words):
    notice = no_speech_notice(metadata)
    assert lacks_speech(metadata) == (words is not None)
    assert notice is None if words is None else all(part in notice for part in words)


def test_the_detector():
    assert speech_seconds(SILENT, 16000) == 0 and speech_seconds(SILENT + 0.25, 16000) == 0
    assert speech_seconds(0.01 * np.sin(np.arange(8000, dtype=np.float32)), 8000) <= 1


@pytest.mark.parametrize(
    "samples, words", [(SILENT, "is silent"), (SILENT + 1e-6 * np.arange(9600) % 1e-5, "too soft")]
)
def test_silence_is_read_where_it_is_asked_for(samples, words):
    with pytest.raises(ValueError, match=words):
        read_audio(samples, 16000)
    with pytest.warns(UserWarning, match=words):
        recording = read_recording(samples, 16000, allow_silence=True)
    assert len(recording.samples) == 9600


@pytest.mark.filterwarnings("ignore:the audio is silent")
def test_silence_is_explained(tiny_model):
    with pytest.warns(UserWarning) as warned:
        explanation = SpeechToTextAttribution(SPES(tiny_model)).attribute(
            SILENT, "so what", sampling_rate=16000, n_samples=90
        )
    messages = [str(warning.message) for warning in warned]
    assert any(message.startswith("no speech was found by the voice activity detector") for message in messages)
    assert any(message.startswith("the sound is the same at all times") for message in messages)
    assert explanation.metadata["speech_seconds"] == 0 and explanation.metadata["without_sound"] == 1
    assert explanation.spectrogram_attr.abs().max() < 1e-6  # but for rounding
    assert explanation.token_attr.abs().max() > 1e-6


def test_silence_on_the_command_line(run, tiny_folder, tmp_path):
    soundfile.write(tmp_path / "silent.wav", SILENT, 16000)
    code, _, err = run("explain", "silent.wav", "--model", tiny_folder, "--target", "so what", "--n-samples", "6")
    assert code == 0, err
    assert "no speech was found by the voice activity detector" in err
    explanation = SpeechToTextExplanation.load(tmp_path / "spes-output/silent/explanation.safetensors")
    assert explanation.metadata["no_speech_probability"] is None  # its vocabulary has no token for it
    assert "No speech was found" in (tmp_path / "spes-output/silent/report.html").read_text(encoding="utf-8")


def test_a_text_without_words_is_an_error(run, tiny_folder, tmp_path, monkeypatch):
    monkeypatch.setattr("captum_spes.models.preparation.text", lambda model, tokens: "")
    soundfile.write(tmp_path / "silent.wav", SILENT, 16000)
    code, _, err = run("explain", "silent.wav", "--model", tiny_folder)
    assert code == 2 and err.splitlines()[-1].endswith(
        "writes no words for this audio: give the text to explain as target."
    )


@pytest.mark.long
@pytest.mark.filterwarnings("ignore:the audio is silent")
def test_what_whisper_says_of_silence_and_speech(bundled_model, sample):
    noise = 0.05 * np.random.default_rng(0).normal(size=48000).astype(np.float32)
    for audio, rate, silent in ((SILENT, 16000, True), (noise, 16000, True), (sample, None, False)):
        utterance, tokens = prepare(bundled_model, audio, sampling_rate=rate, context="full")
        facts = silence_facts(bundled_model, utterance, tokens, bundled_model.baseline(utterance))
        assert (facts["no_speech_probability"] > 0.6) is silent and ("without_sound" in facts) is silent
