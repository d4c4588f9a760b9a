"""Sound of an explanation: the kept regions are those of the map, and other recordings are refused."""

import hashlib
import re
from dataclasses import replace

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_explanation import make

from captum_spes import GradientSPES, SpeechToTextAttribution
from captum_spes.audio import load_audio
from captum_spes.audio.masking import mean_noise
from captum_spes.models import Tokens
from captum_spes.words import is_word

RATE = 16000


@pytest.fixture
def explanation():
    """Four tokens in 0.3 s, 8 channels up to 7 kHz; the last one's map is of its frames 10 to 19 alone."""
    explanation = make()
    explanation.spectrogram_attr[3] = 0
    explanation.spectrogram_attr[3, 10:20] = 1
    return explanation


def noise(rate=RATE, seconds=0.3):
    return np.random.default_rng(0).normal(0, 0.1, round(rate * seconds)).astype(np.float32)


@pytest.mark.parametrize("rate", [8000, 16000, 22050, 44100])
def test_the_most_salient_regions_are_kept_or_removed(explanation, rate):
    recording = noise(rate)
    kept = explanation.to_audio(recording, "?", keep=1 / 3, sampling_rate=rate)
    assert kept.dtype == np.float32 and kept.shape == recording.shape
    inside, outside = slice(int(0.125 * rate), int(0.165 * rate)), slice(int(0.23 * rate), None)
    assert np.abs(kept - recording)[inside].max() < 1e-5 and np.abs(kept)[outside].max() < 1e-5
    removed = explanation.to_audio(recording, "?", remove=1 / 3, sampling_rate=rate)
    assert np.abs(removed)[inside].max() < 1e-5 and np.abs(removed - recording)[outside].max() < 1e-5


@settings(max_examples=20)
@given(st.floats(0, 1), st.integers(0, 3), st.integers(0, 2))
def test_what_is_kept_and_what_is_removed_are_the_recording(share, row, seed):
    explanation, recording = make(seed=seed), noise()
    both = [explanation.to_audio(recording, row, sampling_rate=RATE, **{way: share}) for way in ("keep", "remove")]
    assert np.abs(sum(both) - recording).max() < 1e-5
    assert np.square(both[0]).sum() <= np.square(recording).sum() * 1.01


def test_all_and_nothing(explanation):
    recording = noise()
    for everything, nothing in (({"keep": 1}, {"keep": 0}), ({"remove": 0}, {"remove": 1})):
        assert np.abs(explanation.to_audio(recording, 0, sampling_rate=RATE, **everything) - recording).max() < 1e-5
        assert not explanation.to_audio(recording, 0, sampling_rate=RATE, **nothing).any()


def test_noise_in_place_of_silence(explanation):
    recording = noise()
    given = {"sampling_rate": RATE, "background": "noise"}
    assert np.abs(explanation.to_audio(recording, 0, keep=1, **given) - recording).max() < 1e-5
    hidden = explanation.to_audio(recording, 0, remove=1, **given)
    assert 0.02 < hidden.std() < 0.2 and np.corrcoef(hidden, recording)[0, 1] < 0.2
    # what is kept is as it was, under either background
    kept = explanation.to_audio(recording, "?", keep=1 / 3, **given)
    assert np.abs(kept - recording)[int(0.125 * RATE) : int(0.165 * RATE)].max() < 1e-5
    assert kept[int(0.23 * RATE) :].std() > 0.02
    with pytest.raises(ValueError, match="background must be 'silence' or 'noise', not 'music'"):
        explanation.to_audio(recording, 0, keep=1, sampling_rate=RATE, background="music")


def test_noise_looks_like_the_baseline(tiny_model, sample):
    """To a model it is what hidden bins become: the mean of each channel."""
    speech = load_audio(sample, RATE)[:RATE]
    baseline = tiny_model.baseline(tiny_model.utterance(speech))[0, 0]
    heard = tiny_model.utterance(mean_noise(speech, RATE, seed=0)).spectrogram[0, 2:-2]
    assert (heard.mean(0) - baseline).abs().mean() * 40 < 1.5  # decibels: Whisper has a quarter of the bels
    assert heard.std(0).mean() < tiny_model.utterance(speech).spectrogram.std(1).mean() / 3


def test_words_and_the_sentence_are_heard_by_the_same_name(explanation):
    """Their rows are those of words() and sentence(), as everywhere else."""
    recording = noise()
    words = explanation.words()
    by_name = words.to_audio(recording, "what", keep=0.2, sampling_rate=RATE)
    by_row = words.to_audio(recording, 1, keep=0.2, sampling_rate=RATE)
    token = explanation.to_audio(recording, 1, keep=0.2, sampling_rate=RATE)
    assert np.array_equal(by_name, by_row) and not np.array_equal(by_row, token)
    sentence = explanation.sentence().to_audio(recording, 0, keep=0.2, sampling_rate=RATE)
    assert sentence.any() and not np.array_equal(sentence, by_row)
    with pytest.raises(ValueError, match="none is 'what'"):
        explanation.to_audio(recording, "what", keep=0.2, sampling_rate=RATE)


def test_a_file_is_read_at_its_own_rate(explanation, tmp_path):
    path = tmp_path / "recording.wav"
    recording = noise(44100)
    soundfile.write(path, np.stack((recording, recording), axis=1), 44100, subtype="FLOAT")
    expected = explanation.to_audio(recording, 1, remove=0.5, sampling_rate=44100)
    for audio in (path, str(path)):
        assert np.array_equal(explanation.to_audio(audio, 1, remove=0.5), expected)
    tensor = torch.from_numpy(recording)
    assert np.array_equal(explanation.to_audio(tensor, 1, remove=0.5, sampling_rate=44100), expected)


@pytest.mark.parametrize("shares", [{}, {"keep": 0.1, "remove": 0.1}])
def test_exactly_one_of_keep_and_remove(explanation, shares):
    with pytest.raises(ValueError, match="give either keep or remove"):
        explanation.to_audio(noise(), 0, sampling_rate=RATE, **shares)


@pytest.mark.parametrize("share", [-0.1, 1.1, 10, float("nan")])
def test_shares_are_no_percentages(explanation, share):
    with pytest.raises(ValueError, match="shares of the bins, from 0 to 1"):
        explanation.to_audio(noise(), 0, keep=share, sampling_rate=RATE)


def test_another_recording_is_refused(explanation, tmp_path):
    for seconds in (0.2, 0.4):
        with pytest.raises(ValueError, match=rf"the audio lasts {seconds:.2f} s and the explained utterance 0\.30 s"):
            explanation.to_audio(noise(seconds=seconds), 0, keep=0.1, sampling_rate=RATE)
    # what a model leaves out of its last frame, or as less than a window, is no other recording
    for seconds in (0.291, 0.335):
        assert explanation.to_audio(noise(seconds=seconds), 0, keep=0.1, sampling_rate=RATE).any()
    path = tmp_path / "recording.wav"
    soundfile.write(path, noise(), RATE)
    same = replace(explanation, metadata={"audio_sha256": hashlib.sha256(path.read_bytes()).hexdigest()})
    assert same.words().to_audio(path, 1, keep=0.1).any()
    soundfile.write(path, -noise(), RATE)
    with pytest.raises(ValueError, match=r"recording\.wav is not the file that was explained"):
        same.words().to_audio(path, 1, keep=0.1)


def test_a_map_without_regions_is_told(explanation):
    flat = replace(explanation, spectrogram_attr=torch.ones_like(explanation.spectrogram_attr))
    with pytest.warns(UserWarning, match="the map of 'so' is the same everywhere"):
        flat.to_audio(noise(), "so", keep=0.1, sampling_rate=RATE)


@pytest.mark.long
@pytest.mark.filterwarnings("ignore:the maps are noisy")
def test_a_model_hears_the_word_that_is_kept(bundled_model, sample):
    """A tenth of the bins is enough for Whisper to write a word again, if it is the word's own tenth."""
    attribution = SpeechToTextAttribution(GradientSPES(bundled_model))
    utterance, tokens = attribution.prepare(sample)
    explanation = attribution.attribute(utterance, tokens, n_samples=6, n_token_samples=1, seed=0)
    words = explanation.words()
    rows = [row for row, word in enumerate(words.tokens) if is_word(word)]
    sounds = [words.to_audio(sample, row, keep=0.1, background="noise") for row in rows]
    windows = torch.cat([whole_window(bundled_model.utterance(sound)) for sound in sounds])
    heard = replace(utterance, spectrogram=windows[:1], padding=utterance.padding[:, :0])
    ids = bundled_model.generate_batch(windows, heard, tokens.prompt, max_new_tokens=12)
    texts = [re.findall(r"\w+", attribution.text(Tokens(tokens.prompt, target)).lower()) for target in ids]
    written = np.array([[words.tokens[row].lower() in text for row in rows] for text in texts])  # by what was kept
    own, others = written.diagonal().mean(), written[~np.eye(len(rows), dtype=bool)].mean()
    assert own >= 2 / 3 and own > 2 * others


def whole_window(utterance):
    return torch.cat((utterance.spectrogram, utterance.padding), dim=1)
