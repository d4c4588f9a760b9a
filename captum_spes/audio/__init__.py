"""Audio: reading files and arrays, cutting long recordings in their pauses, and hiding parts of the sound."""

from captum_spes.audio.formats import AUDIO_SUFFIXES
from captum_spes.audio.masking import mask_audio, mean_noise
from captum_spes.audio.pauses import split_at_pauses
from captum_spes.audio.reading import AudioLike, duration, load_audio, read_audio, source_of

__all__ = [
    "AUDIO_SUFFIXES",
    "AudioLike",
    "duration",
    "load_audio",
    "mask_audio",
    "mean_noise",
    "read_audio",
    "source_of",
    "split_at_pauses",
]
