"""Attribution of speech-to-text models: Captum methods run on a model, for tokens, texts and contrasts."""

from captum_spes.speech_to_text.attribution import SpeechToTextAttribution
from captum_spes.speech_to_text.targets import Contrast

__all__ = ["Contrast", "SpeechToTextAttribution"]
