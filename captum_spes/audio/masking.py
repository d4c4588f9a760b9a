"""Masks regions of the spectrogram of audio, and makes noise to fill them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

WINDOW_SECONDS = 0.025  # window of speech models' spectrograms; the window here is the nearest power of two
SILENCE = 1e-8  # of the largest power: below it, as Whisper has it, all is equally silent


def mask_audio(
    samples: np.ndarray,
    sampling_rate: int,
    mask: Tensor | np.ndarray,
    frames_per_second: float,
    mel_frequencies: Tensor | np.ndarray,
) -> np.ndarray:
    """Attenuates time–frequency regions of audio by a mask over frames and mel channels.

    The audio's short-time Fourier transform is multiplied by the mask and inverted; phases are not changed. The mask
    is interpolated linearly, in time between the frames, whose centres are at t / frames_per_second seconds, and in
    frequency between the centres of the channels: each channel weights a triangle of frequencies, and the triangles add
    up to 1. Before the first frame, after the last frame, and outside of the outermost channels, the value of the
    nearest frame or channel is used, also for frequencies above those of the model. A mask of ones therefore returns
    the audio, zeros give silence, and the audio of a mask and that of its complement add up to the audio.

    The transform has windows of N samples, the power of two nearest to 25 ms (512 at 16 kHz, 1024 at 44.1 kHz). They
    are centred at sample i · N / 4, for i from 0 to 4 n / N rounded down, and the audio is padded with zeros. A window
    is multiplied by the periodic Hann window w, and its spectrum of N / 2 + 1 frequencies by the mask. The inverse
    transforms are multiplied by w, added up, and divided by the sum of the w².

    Args:
        samples: mono floating-point samples, (n,).
        sampling_rate: samples per second.
        mask: the factor of each bin, from 0 to 1, (T, C).
        frames_per_second: frames per second of the mask.
        mel_frequencies: centre of each channel in Hz, ascending, (C,).

    Returns:
        numpy.ndarray: float32 samples of shape (n,).

    Raises:
        ValueError: the mask does not fit the channels.

    Example::

        >>> import numpy as np
        >>> from captum_spes.audio.masking import mask_audio
        >>> time = np.arange(16000) / 16000
        >>> low, high = np.sin(2 * np.pi * 500 * time), np.sin(2 * np.pi * 3000 * time)
        >>> mask = np.tile([1.0, 1.0, 0.0, 0.0], (100, 1))  # 100 frames, four channels
        >>> kept = mask_audio(low + high, 16000, mask, 100, np.array([300.0, 1000.0, 2500.0, 4000.0]))
        >>> bool(np.abs(kept - low)[400:-400].max() < 1e-5)
        True
    """
    n_frames, n_channels = mask.shape
    if len(mel_frequencies) != n_channels:
        raise ValueError(f"a mask (T, C) of {n_channels} channels does not fit {len(mel_frequencies)} mel_frequencies.")
    transform = _transform(sampling_rate)
    spectrum = _spectrum(samples, transform)  # (N / 2 + 1, windows)
    n_frequencies, n_windows = spectrum.shape
    times = np.arange(n_windows) * transform["hop_length"] / sampling_rate
    frequencies = np.arange(n_frequencies) * sampling_rate / transform["n_fft"]
    centers = np.arange(n_frames) / frames_per_second
    channels = np.stack([np.interp(times, centers, channel) for channel in np.asarray(mask, np.float32).T])
    triangles = np.stack([np.interp(frequencies, np.asarray(mel_frequencies), one) for one in np.eye(n_channels)])
    gains = torch.from_numpy(triangles.T @ channels).float()  # (N / 2 + 1, windows)
    return torch.istft(spectrum * gains, **transform, length=len(samples)).numpy()


def mean_noise(samples: np.ndarray, sampling_rate: int, seed: int) -> np.ndarray:
    """Makes steady noise that has, at each frequency, the mean level of the audio in decibels.

    In the spectrogram of a model it resembles the baseline with which SPES replaces hidden bins, the mean of each mel
    channel.

    Args:
        samples: mono floating-point samples, (n,).
        sampling_rate: samples per second.
        seed: the seed of the noise.

    Returns:
        numpy.ndarray: float32 samples of shape (n,).

    Example::

        >>> import numpy as np
        >>> from captum_spes.audio.masking import mean_noise
        >>> tone = np.sin(2 * np.pi * 1000 * np.arange(16000) / 16000)
        >>> noise = mean_noise(tone, 16000, seed=0)
        >>> bool(0.1 < noise.std() < 1), int(np.abs(np.fft.rfft(noise)).argmax() // 100)  # 1,000 of 8,000 Hz
        (True, 10)
    """
    transform = _transform(sampling_rate)
    power = _spectrum(samples, transform).abs().square()
    level = power.clamp(min=float(power.max()) * SILENCE).log().mean(1, keepdim=True).exp()
    level *= math.exp(np.euler_gamma)  # the mean of the decibels of noise is lower than the decibels of its mean power
    white = torch.randn(len(samples), generator=torch.Generator().manual_seed(seed))
    noise = _spectrum(white, transform) / transform["window"].square().sum().sqrt()  # its power is 1 on average
    return torch.istft(noise * level.sqrt(), **transform, length=len(samples)).numpy()


def _transform(sampling_rate: int) -> dict[str, Any]:
    n_fft = 2 ** round(math.log2(WINDOW_SECONDS * sampling_rate))
    return {"n_fft": n_fft, "hop_length": n_fft // 4, "window": torch.hann_window(n_fft)}


def _spectrum(samples: np.ndarray | Tensor, transform: dict[str, Any]) -> Tensor:
    audio = torch.as_tensor(samples, dtype=torch.float32)
    return torch.stft(audio, **transform, pad_mode="constant", return_complex=True)
