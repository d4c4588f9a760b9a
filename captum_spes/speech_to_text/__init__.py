"""Runs Captum's attribution methods on speech-to-text models, for tokens, texts and contrasts."""

from captum_spes.speech_to_text.attribution import SpeechToTextAttribution
from captum_spes.speech_to_text.targets import Contrast

__all__ = ["Contrast", "SpeechToTextAttribution"]
