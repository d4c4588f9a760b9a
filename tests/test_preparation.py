"""Preparation of audio: utterances and tokens."""

import hashlib
from dataclasses import replace

import numpy as np
import pytest
import soundfile
import torch

from captum_spes import SPES, SpeechToTextAttribution
from captum_spes.audio import Recording, read_recording, reading
from captum_spes.models import Tokens, prepare, text

RATE = 16000


def test_a_file_an_array_and_a_recording_are_the_same(tiny_model, audio, tmp_path):
    path = tmp_path / "speech.wav"
    soundfile.write(path, audio, RATE, subtype="FLOAT")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    found = [
        prepare(tiny_model, path, "so what"),
        prepare(tiny_model, read_recording(path), "so what"),
        prepare(tiny_model, audio, "so what", sampling_rate=RATE),
        SpeechToTextAttribution(SPES(tiny_model)).prepare(path, "so what"),
    ]
    for utterance, tokens in found:
        assert torch.equal(utterance.spectrogram, found[0][0].spectrogram)
        assert torch.equal(tokens.target, tiny_model.tokens("so what", utterance).target)
    sources = [utterance.source for utterance, _ in found]
    assert sources == [{"audio_file": str(path), "audio_sha256": digest}] * 2 + [{}, sources[0]]
    features, _ = prepare(tiny_model, found[0][0].spectrogram, "so what")
    assert torch.equal(features.spectrogram, found[0][0].spectrogram)


def test_an_utterance_is_returned_as_it_is(tiny_model, audio):
    utterance, tokens = prepare(tiny_model, audio, sampling_rate=RATE, gen_args={"max_new_tokens": 4})
    assert tokens.generated
    assert prepare(tiny_model, utterance, tokens) == (utterance, tokens)
    with pytest.raises(ValueError, match=r"are set by prepare\(\)"):
        prepare(tiny_model, utterance, tokens, dtype=torch.float32)


def test_text_leaves_marks_out(tiny_model, audio):
    _, tokens = prepare(tiny_model, audio, "so what", sampling_rate=RATE)
    end = replace(
        tokens, target=torch.cat((tokens.target, torch.tensor([tiny_model.model.generation_config.eos_token_id])))
    )
    assert text(tiny_model, end) == text(tiny_model, end.target) == "so what"
    assert text(tiny_model, Tokens(tokens.prompt, end.target[-1:])) == ""


@pytest.mark.slow
def test_explain_reads_the_audio_once(run, tiny_folder, audio, tmp_path, monkeypatch):
    """The file is read once for the length, the utterance, the metadata and the report's sound."""
    path = tmp_path / "speech.wav"
    soundfile.write(path, np.concatenate((audio, audio)), RATE)  # two parts of the tiny model's window
    read, hashed = [], []
    read_file, digest = reading._read_file, reading.sha256
    monkeypatch.setattr(reading, "_read_file", lambda *args: (read.append(args), read_file(*args))[1])
    monkeypatch.setattr(reading, "sha256", lambda *args: (hashed.append(args), digest(*args))[1])
    for seconds in (0.6, 1.2):
        soundfile.write(path, np.resize(audio, round(seconds * RATE)), RATE)
        code, _, error = run(
            "explain", path, "--model", tiny_folder, "--method", "energy", "-o", tmp_path / f"found-{seconds}"
        )
        assert code == 0, error
        assert len(read) == len(hashed) == 1
        read.clear(), hashed.clear()


def test_a_recording_is_a_recording_for_every_function(audio):
    recording = Recording(audio, RATE)
    assert read_recording(recording) is recording
    assert reading.read_audio(recording) == (recording.samples, RATE)
    assert recording.seconds == len(audio) / RATE
    for read in (read_recording, reading.read_audio):
        with pytest.raises(ValueError, match="the audio has a sampling rate of 16000, not 8000"):
            read(recording, 8000)
