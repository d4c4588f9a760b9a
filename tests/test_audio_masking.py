"""Masking of audio: kept regions do not change, and removed regions are silent."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from captum_spes.audio.masking import mask_audio, mean_noise

MEL_FREQUENCIES = 700 * (10 ** (np.linspace(100, 2800, 40) / 2595) - 1)
RATES = [8000, 11025, 16000, 22050, 44100, 48000]


def noise(n_samples, seed=0):
    return np.random.default_rng(seed).normal(0, 0.1, n_samples).astype(np.float32)


def tone(frequency, rate, seconds=1.0):
    return (0.5 * np.sin(2 * np.pi * frequency * np.arange(int(rate * seconds)) / rate)).astype(np.float32)


def decibels(after, before):
    return 10 * np.log10(np.square(after).mean() / np.square(before).mean() + 1e-12)


@settings(max_examples=40)
@given(
    st.integers(1, 30000), st.sampled_from(RATES), st.integers(1, 50), st.integers(1, 12), st.floats(20, 120), st.data()
)
def test_ones_give_the_audio_back_and_complements_add_up_to_it(n_samples, rate, n_frames, n_channels, fps, data):
    samples = noise(n_samples)
    frequencies = MEL_FREQUENCIES[:n_channels]
    mask = np.random.default_rng(data.draw(st.integers(0, 9))).random((n_frames, n_channels))
    ones = mask_audio(samples, rate, np.ones_like(mask), fps, frequencies)
    assert ones.dtype == np.float32 and ones.shape == samples.shape
    assert np.abs(ones - samples).max() < 1e-5
    assert not mask_audio(samples, rate, np.zeros_like(mask), fps, frequencies).any()
    halves = [mask_audio(samples, rate, part, fps, frequencies) for part in (mask, 1 - mask)]
    assert np.abs(sum(halves) - samples).max() < 1e-5


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("fps", [50, 100, 62.5])
def test_frames_are_silenced_when_they_are(rate, fps):
    samples = tone(1000, rate)
    begin, end = 0.4, 0.72
    times = np.arange(int(fps)) / fps
    mask = np.repeat(((times < begin - 1e-9) | (times > end + 1e-9))[:, None], len(MEL_FREQUENCIES), axis=1)
    masked = mask_audio(samples, rate, torch.from_numpy(mask), fps, torch.from_numpy(MEL_FREQUENCIES))
    reach = 0.02 + 1 / fps  # half a window, and the way to the next frame
    inside = slice(int((begin + reach) * rate), int((end - reach) * rate))
    assert np.abs(masked[inside]).max() < 1e-6
    for outside in (slice(0, int((begin - reach) * rate)), slice(int((end + reach) * rate), None)):
        assert np.abs(masked[outside] - samples[outside]).max() < 1e-5
    # the edge lies halfway between the last frame that is heard and the first that is not
    half = slice(0, rate // 2)
    kept = 0.5 * (masked * samples)[half].sum() / np.square(samples)[half].sum()
    assert kept == pytest.approx(begin - 0.5 / fps, abs=0.001)


@pytest.mark.parametrize("rate", RATES[2:])
@pytest.mark.parametrize("channel", [5, 20, 30, 38])
def test_a_channel_is_silenced_where_it_is(rate, channel):
    width = 3
    mask = np.ones((100, len(MEL_FREQUENCIES)))
    mask[:, channel - width : channel + width + 1] = 0
    middle = slice(rate // 10, -rate // 10)
    heard = tone(MEL_FREQUENCIES[channel], rate)
    assert decibels(mask_audio(heard, rate, mask, 100, MEL_FREQUENCIES)[middle], heard[middle]) < -40
    other = tone(MEL_FREQUENCIES[(channel + 17) % 34], rate)
    assert decibels(mask_audio(other, rate, mask, 100, MEL_FREQUENCIES)[middle], other[middle]) > -0.1


def test_what_no_channel_hears_follows_the_nearest():
    high = tone(15000, 44100)
    mask = np.ones((100, len(MEL_FREQUENCIES)))
    mask[:, -1] = 0
    assert decibels(mask_audio(high, 44100, mask, 100, MEL_FREQUENCIES), high) < -40
    assert decibels(mask_audio(high, 44100, 1 - mask, 100, MEL_FREQUENCIES), high) > -0.1


def test_edges_do_not_click():
    """The steepest step of a low tone that is switched on and off is hardly steeper than those of the tone itself."""
    low = tone(200, 16000)
    mask = np.repeat((np.arange(100) // 10 % 2)[:, None], len(MEL_FREQUENCIES), axis=1)
    masked = mask_audio(low, 16000, mask, 100, MEL_FREQUENCIES)
    bare = low * np.repeat(np.arange(100) // 10 % 2, 160)
    assert np.abs(np.diff(masked)).max() < 1.1 * np.abs(np.diff(low)).max()
    steps = [np.square(np.diff(audio, 2)).sum() for audio in (masked, low, bare)]
    assert steps[0] < steps[1]


def test_the_algorithm_is_the_one_that_is_described():
    """Window by window, as the docstring says, which other implementations follow."""
    rate, fps = 22050, 90.0
    samples = noise(5000)
    mask = np.random.default_rng(1).random((20, len(MEL_FREQUENCIES)))
    n_fft = 512
    hop = n_fft // 4
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(n_fft) / n_fft)
    padded = np.pad(samples.astype(float), n_fft)
    total, weight = np.zeros_like(padded), np.zeros_like(padded)
    for i in range(4 * len(samples) // n_fft + 1):
        start = n_fft + i * hop - n_fft // 2
        spectrum = np.fft.rfft(padded[start : start + n_fft] * window)
        at_time = [np.interp(i * hop / rate, np.arange(20) / fps, channel) for channel in mask.T]
        spectrum *= np.interp(np.arange(n_fft // 2 + 1) * rate / n_fft, MEL_FREQUENCIES, at_time)
        total[start : start + n_fft] += np.fft.irfft(spectrum) * window
        weight[start : start + n_fft] += window**2
    expected = (total / np.maximum(weight, 1e-12))[n_fft : n_fft + len(samples)]
    assert np.abs(mask_audio(samples, rate, mask, fps, MEL_FREQUENCIES) - expected).max() < 1e-5


def test_masks_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"3 channels does not fit 40 mel_frequencies"):
        mask_audio(noise(1000), 16000, np.ones((5, 3)), 100, MEL_FREQUENCIES)


@pytest.mark.parametrize("rate", RATES[2:])
def test_noise_is_as_loud_as_the_audio_at_each_frequency(rate):
    """Noise, and a tone that sounds half of the time: decibels are averaged, not powers."""
    samples = noise(rate) * 0.05 + tone(1000, rate) * np.clip(10 - 20 * np.arange(rate) / rate, 0, 1)
    masking = mean_noise(samples, rate, seed=0)
    assert masking.dtype == np.float32 and masking.shape == samples.shape

    def level(audio, frequency):
        band = np.fft.rfftfreq(rate, 1 / rate)
        return 10 * np.log10(np.square(np.abs(np.fft.rfft(audio)))[np.abs(band - frequency) < 100].mean())

    for frequency in (3000, 6000):
        assert level(masking, frequency) == pytest.approx(level(noise(rate) * 0.05, frequency), abs=1.5)
    loud, quiet = level(tone(1000, rate), 1000), level(noise(rate) * 0.05, 1000)
    assert quiet + 5 < level(masking, 1000) < loud - 5
    # and steady, where the audio is not
    halves = [np.square(part).sum() for part in np.split(masking, 2)]
    assert halves[0] == pytest.approx(halves[1], rel=0.5)
    assert np.array_equal(masking, mean_noise(samples, rate, seed=0))
    assert not np.array_equal(masking, mean_noise(samples, rate, seed=1))


def test_noise_of_audio_with_digital_silence_is_finite():
    samples = noise(8000)
    samples[:6000] = 0
    assert np.isfinite(mean_noise(samples, 16000, seed=0)).all()
