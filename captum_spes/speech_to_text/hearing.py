"""Measures which words a model heard: the probability of a word that remains when its own sound is hidden."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from captum_spes.alignment import Segment, match_words
from captum_spes.confidence import Confidence, token_probabilities
from captum_spes.explanation.notices import lacks_speech
from captum_spes.models.protocol import SpeechToTextModel, Tokens, Utterance
from captum_spes.words import is_word, word_spans

# seconds hidden before and after a word, since the times from attention are not more accurate
MARGIN = 0.05
WORDS_AT_ONCE = 16


def heard_confidence(
    confidence: Confidence | None,
    model: SpeechToTextModel,
    utterance: Utterance,
    tokens: Tokens,
    baseline: Tensor | float,
    word_times: Sequence[Segment] | None = None,
) -> tuple[Confidence | None, list[list[float]] | None]:
    """Adds the probabilities without sound to the confidence, and returns the times of tokens if they are known.

    Args:
        confidence: the confidence in the tokens, or None.
        model: the model.
        utterance: the utterance.
        tokens: the tokens of the text.
        baseline: the value of hidden bins.
        word_times: the times of words. Words without a time, and all words by default, get the times at which the
            model attends to them, if it has these.
    """
    if confidence is None or len(confidence) != len(tokens.target):
        return confidence, None
    times = token_times(model, utterance, tokens)
    if word_times is not None:
        times, is_known = _given_times(model.token_texts(tokens.target), word_times, times)
        if not is_known:
            return confidence, times
    if times is None:
        return confidence, None
    unheard = unheard_probabilities(model, utterance, tokens, times, baseline)
    return replace(confidence, unheard=unheard), times


def _given_times(
    texts: list[str], word_times: Sequence[Segment], own: list[list[float]] | None
) -> tuple[list[list[float]], bool]:
    """The times of the tokens, from their words if these are known, and whether the times of all words are known."""
    spans = word_spans(texts)
    words = ["".join(texts[start:stop]).strip() for start, stop in spans]
    times: list[list[float]] = []
    is_known = True
    for word, (start, stop), found in zip(words, spans, match_words(words, word_times)):
        if found is not None:
            times += [[found.begin, found.end]] * (stop - start)
        elif own is not None:
            times += own[start:stop]
        else:
            last = times[-1][1] if times else 0.0  # a stretch of no duration
            times += [[last, last]] * (stop - start)
            is_known &= not is_word(word)
    return times, is_known


def token_times(model: SpeechToTextModel, utterance: Utterance, tokens: Tokens) -> list[list[float]] | None:
    """The times at which the model attends to each token, begin and end in seconds; None if the model has none."""
    found: Any = getattr(model, "token_times", None)
    if found is None:
        return None
    try:
        return [[round(time, 4) for time in pair] for pair in found(utterance, tokens).tolist()]
    except ValueError:  # the model names no heads whose attention follows the sound
        return None


def unheard_probabilities(
    model: SpeechToTextModel,
    utterance: Utterance,
    tokens: Tokens,
    times: list[list[float]],
    baseline: Tensor | float,
) -> list[float] | None:
    """The probability of each token when the sound of its word is hidden, (K,).

    It needs one pass for each word: all frames of the word are set to the baseline, while all other sound and the
    previous tokens stay. None if the precision overflows.
    """
    original = utterance.spectrogram
    spans = word_spans(model.token_texts(tokens.target))
    hidden = original.expand(len(spans), -1, -1).clone()
    for row, (start, stop) in enumerate(spans):
        first = max(round((times[start][0] - MARGIN) * model.frames_per_second), 0)
        last = round((times[stop - 1][1] + MARGIN) * model.frames_per_second)
        hidden[row, first:last] = (torch.zeros_like(original) + baseline)[0, first:last]
    found: list[float] = []
    frames = None if tokens.path is None else tokens.path[tokens.path >= 0]
    with torch.no_grad():
        for part, words in zip(hidden.split(WORDS_AT_ONCE), _split(spans)):
            for logits, (start, stop) in zip(model.logits(model.encode(part, utterance), tokens), words):
                found += token_probabilities(logits, tokens.target, frames)[start:stop].tolist()
    return None if any(map(math.isnan, found)) else found


def silence_facts(
    model: SpeechToTextModel, utterance: Utterance, tokens: Tokens, baseline: Tensor | float
) -> dict[str, Any]:
    """Metadata on whether the audio has speech.

    Returns:
        dict: ``no_speech_probability`` from the model, or None if the model has none. If no speech was found, also
        ``without_sound`` from :func:`share_without_sound`.
    """
    found: Any = getattr(model, "no_speech_probability", None)
    facts = {"no_speech_probability": None if found is None else _rounded(found(utterance, tokens))}
    if lacks_speech({"speech_seconds": utterance.speech_seconds, **facts}) and tokens.path is None:
        facts["without_sound"] = _rounded(share_without_sound(model, utterance, tokens, baseline))
    return facts


def share_without_sound(
    model: SpeechToTextModel, utterance: Utterance, tokens: Tokens, baseline: Tensor | float
) -> float | None:
    """The share of their probability that the tokens keep when all sound is hidden, from 0 to 1.

    It is the geometric mean over the tokens. Near 1 the text depends on the previous tokens and on the language model
    of the decoder, and not on the sound. None if the precision overflows.
    """
    hidden = torch.zeros_like(utterance.spectrogram) + baseline
    logs = []
    with torch.no_grad():
        for spectrogram in (utterance.spectrogram, hidden):
            log_probs = model.logits(model.encode(spectrogram, utterance), tokens)[0].double().log_softmax(-1)
            logs.append(log_probs.gather(1, tokens.target[:, None])[:, 0])
    share = float((logs[1] - logs[0]).mean().exp().clamp(max=1))
    return None if math.isnan(share) else share


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def _split(spans: list[tuple[int, int]]) -> list[list[tuple[int, int]]]:
    return [spans[start : start + WORDS_AT_ONCE] for start in range(0, len(spans), WORDS_AT_ONCE)]
