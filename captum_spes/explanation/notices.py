"""Notices of an explanation that come before its maps: no speech was found in the audio."""

from __future__ import annotations

from typing import Any

from captum_spes.confidence import is_number

# less detected speech than this is shorter than a word
MIN_SPEECH_SECONDS = 0.1
# OpenAI's threshold, for which the text must also be improbable
NO_SPEECH = 0.6
# shares of a text's probability that remain when all sound is hidden
INVENTED, DEPENDENT = 0.8, 0.5


def lacks_speech(metadata: dict[str, Any]) -> bool:
    """Whether the voice activity detector found no speech, or the model itself says that there is none."""
    seconds, probability = metadata.get("speech_seconds"), metadata.get("no_speech_probability")
    return (is_number(seconds) and seconds < MIN_SPEECH_SECONDS) or (is_number(probability) and probability > NO_SPEECH)


def no_speech_notice(metadata: dict[str, Any]) -> str | None:
    """A notice that the text is likely invented, with its evidence and what the text depends on; None for speech.

    Example::

        >>> from captum_spes.explanation.notices import no_speech_notice
        >>> print(no_speech_notice({"speech_seconds": 0.0, "no_speech_probability": 0.95, "without_sound": 0.97}))
        No speech was found by the voice activity detector and by the model (its probability of no speech is 0.95), so \
this text is likely invented. Without any sound its tokens keep 97 % of their probability: the text depends on the \
tokens before it and on the decoder's language model, and not on sounds.
    """
    if not lacks_speech(metadata):
        return None
    seconds, probability = metadata.get("speech_seconds"), metadata.get("no_speech_probability")
    found = []
    if is_number(seconds) and seconds < MIN_SPEECH_SECONDS:
        found.append("by the voice activity detector")
    if is_number(probability) and probability > NO_SPEECH:
        found.append(f"by the model (its probability of no speech is {probability:.2f})")
    notice = f"No speech was found {' and '.join(found)}, so this text is likely invented."
    share = metadata.get("without_sound")
    if not is_number(share):
        return notice
    if share >= INVENTED:
        reason = "the text depends on the tokens before it and on the decoder's language model, and not on sounds"
    elif share < DEPENDENT:
        reason = "the text depends on what sounds in the recording"
    else:
        reason = "the text depends on the tokens before it as well as on sounds"
    return f"{notice} Without any sound its tokens keep {100 * share:.0f} % of their probability: {reason}."
