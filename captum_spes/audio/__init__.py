"""Reads audio from files and arrays, splits long recordings in their pauses, and masks parts of the sound."""

from captum_spes.audio.decoding import AUDIO_SUFFIXES
from captum_spes.audio.masking import mask_audio, mean_noise
from captum_spes.audio.pauses import speech_seconds, split_at_pauses
from captum_spes.audio.reading import (
    AudioLike,
    Recording,
    duration,
    load_audio,
    read_audio,
    read_recording,
    sample_recording,
    source_of,
)

__all__ = [
    "AUDIO_SUFFIXES",
    "AudioLike",
    "Recording",
    "duration",
    "load_audio",
    "mask_audio",
    "mean_noise",
    "read_audio",
    "read_recording",
    "sample_recording",
    "source_of",
    "speech_seconds",
    "split_at_pauses",
]
