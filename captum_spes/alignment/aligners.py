"""Alignments by a forced aligner and by the attention of a model."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import numpy as np

from captum_spes._extras import require
from captum_spes.alignment.segments import Segment, spoken
from captum_spes.alignment.times import EXTRA, Alignment
from captum_spes.audio import AudioLike, load_audio
from captum_spes.models.protocol import SpeechToTextModel, Tokens, Utterance
from captum_spes.words import is_word, word_spans

ALIGNER_RATE = 16_000
ALIGNER_FRAMES = 100  # per second


def force_align(audio: AudioLike, text: str, sampling_rate: int | None = None) -> Alignment:
    """Finds the words and phones of an English text in audio, by pocketsphinx and its own model.

    Args:
        audio: as for :func:`~captum_spes.audio.load_audio`.
        text: the words that are spoken, in ordinary spelling.
        sampling_rate: samples per second of an array.

    Returns:
        Alignment: words without punctuation, and their phones in the symbols of the CMU dictionary.

    Raises:
        ValueError: a word is not in the dictionary, or the text is not what is said.
        ImportError: the extra ``alignment`` is missing.

    Example::

        >>> from captum_spes.alignment import force_align
        >>> force_align("speech.wav", "So what was the next step?").save("speech.TextGrid")  # doctest: +SKIP
    """
    pocketsphinx = require("pocketsphinx", EXTRA)
    samples = load_audio(audio, ALIGNER_RATE, sampling_rate)
    data = (np.clip(samples, -1, 1) * 32767).astype(np.int16).tobytes()
    decoder = pocketsphinx.Decoder(lm=None, loglevel="FATAL", samprate=ALIGNER_RATE)
    words = list(_dictionary_words(decoder, text))
    if unknown := sorted({word for word in words if decoder.lookup_word(word) is None}):
        raise ValueError(
            f"the dictionary of pocketsphinx has no {', '.join(map(repr, unknown))}, only English words in letters: "
            "change the text, or use another alignment."
        )
    if not words:
        raise ValueError(f"there are no words to align in {text!r}: give the text that is spoken.")
    try:
        decoder.set_align_text(" ".join(words))
        _decode(decoder, data)
        decoder.set_alignment()  # a second pass, which aligns the phones in the words
        _decode(decoder, data)
    except RuntimeError as error:
        raise ValueError(f"the text cannot be found in the audio, give the text that is spoken: {text!r}.") from error
    found: list[Segment] = []
    phones: list[Segment] = []
    for word in decoder.get_alignment():  # an entry is valid only until the next one
        found.append(_segment(word))
        phones += [_segment(phone) for phone in word]
    source = f"pocketsphinx {_version('pocketsphinx')}, forced alignment"
    return Alignment(spoken(found, word=True), spoken(phones), source)


def attention_alignment(model: SpeechToTextModel, utterance: Utterance, tokens: Tokens) -> Alignment:
    """Finds the times at which a model attends to each word that it writes, without an aligner and in any language.

    A word begins where the decoder's attention reaches its first token, and ends where it reaches the next word.
    There are no pauses, and no phones. The times are those of the model and not of the sound: if a map agrees with
    them, the map agrees with the attention of the model.

    Args:
        model: a model whose adapter has ``token_times``, such as Whisper's.
        utterance: the utterance, from :meth:`.SpeechToTextAttribution.prepare`.
        tokens: the tokens, from :meth:`.SpeechToTextAttribution.prepare`.

    Raises:
        ValueError: the model has no such times.

    Example::

        >>> from captum_spes.alignment import attention_alignment
        >>> utterance, tokens = attribution.prepare("speech.wav")  # doctest: +SKIP
        >>> attention_alignment(attribution.model, utterance, tokens).words[0]  # doctest: +SKIP
        Segment(text='So', begin=0.0, end=0.28)
    """
    token_times = getattr(model, "token_times", None)
    if token_times is None:
        raise ValueError(f"{model.name} has no times from its attention: use another alignment.")
    times = token_times(utterance, tokens).tolist()
    texts = model.token_texts(tokens.target)
    words = []
    for start, stop in word_spans(texts):
        text = "".join(texts[start:stop]).strip()
        begin, end = times[start][0], times[stop - 1][1]
        if is_word(text) and begin < end:
            words.append(Segment(text, begin, end))
    return Alignment(words, source=f"{model.name}, cross-attention")


def _dictionary_words(decoder: Any, text: str) -> Iterator[str]:
    """The words of a text in the dictionary's spelling; a word with a hyphen is split if the dictionary lacks it."""
    for word in re.findall(r"[\w'’-]+", text.lower()):
        word = word.replace("’", "'").strip("-")
        parts = [word] if decoder.lookup_word(word) else re.split(r"-+", word)
        for part in parts:
            part = part if decoder.lookup_word(part) else part.strip("'_")
            if part:
                yield part


def _decode(decoder: Any, data: bytes) -> None:
    decoder.start_utt()
    decoder.process_raw(data, full_utt=True)
    decoder.end_utt()


def _segment(entry: Any) -> Segment:
    return Segment(entry.name, entry.start / ALIGNER_FRAMES, (entry.start + entry.duration) / ALIGNER_FRAMES)


def _version(package: str) -> str:
    from importlib.metadata import version

    return version(package)
