"""Measures which words a model heard: the probability of a word that remains when its own sound is hidden."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from captum_spes.confidence import Confidence
from captum_spes.models.protocol import SpeechToTextModel, Tokens, Utterance
from captum_spes.words import word_spans

# seconds hidden before and after a word, since the times from attention are not more accurate
MARGIN = 0.05
WORDS_AT_ONCE = 16


def heard_confidence(
    confidence: Confidence | None,
    model: SpeechToTextModel,
    utterance: Utterance,
    tokens: Tokens,
    baseline: Tensor | float,
) -> tuple[Confidence | None, list[list[float]] | None]:
    """Adds the probabilities without sound to the confidence, and returns the times of tokens if the model has them."""
    if confidence is None or len(confidence) != len(tokens.target):
        return confidence, None
    times = token_times(model, utterance, tokens)
    if times is None:
        return confidence, None
    unheard = unheard_probabilities(model, utterance, tokens, times, baseline)
    return replace(confidence, unheard=unheard), times


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
    with torch.no_grad():
        for part, words in zip(hidden.split(WORDS_AT_ONCE), _split(spans)):
            log_probs = model.logits(model.encode(part, utterance), tokens).double().log_softmax(-1)
            for row, (start, stop) in enumerate(words):
                ids = tokens.target[start:stop, None]
                found += log_probs[row, start:stop].gather(1, ids)[:, 0].exp().clamp(0, 1).tolist()
    return found if all(value == value for value in found) else None  # NaN is not equal to itself


def _split(spans: list[tuple[int, int]]) -> list[list[tuple[int, int]]]:
    return [spans[start : start + WORDS_AT_ONCE] for start in range(0, len(spans), WORDS_AT_ONCE)]
