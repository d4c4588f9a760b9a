"""Finds foils: the words that a model would most probably have written in the place of others."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from captum_spes.models.protocol import SpeechToTextModel, Tokens, Utterance
from captum_spes.words import is_word, letters, word_spans

# alternatives that are tried for each token of the word, and the largest number of tokens that complete one
N_BRANCHES, MAX_TOKENS = 8, 12


def strongest_foil(
    model: SpeechToTextModel, utterance: Utterance, previous: Tensor, word_ids: Tensor, word: str
) -> str:
    """Finds the most probable other word, or phrase of as many words, in the place of a word.

    The model predicts the tokens that may replace each token of the word, or follow its last one. The most probable
    alternatives are completed greedily until the word ends. Texts that differ only in letter case or punctuation count
    as the same word.

    Args:
        model: the model.
        utterance: the utterance.
        previous: ids of the tokens before the word, including the prompt, (J,).
        word_ids: ids of the tokens of the word, (n,).
        word: the text of the word.

    Returns:
        str: the text of the foil.

    Raises:
        ValueError: no other word is found.
    """
    n_words = max(len(word_spans(word.strip())), 1)
    with torch.no_grad():
        encoded = model.encode(utterance.spectrogram, utterance)
        best, best_log_prob = "", -math.inf
        for log_prob, ids in _branches(model, encoded, previous, word_ids):
            if log_prob <= best_log_prob:  # a completion is no more probable than its beginning
                break
            text, log_prob = _completed(model, encoded, previous, ids, log_prob, n_words)
            if log_prob > best_log_prob and _is_other(model, utterance, text, word, word_ids):
                best, best_log_prob = text, log_prob
    if not best:
        raise ValueError(f"no other word is probable in the place of {word!r}: name a foil.")
    return best


def ids_in_place(
    model: SpeechToTextModel, utterance: Utterance, tokens: Tokens, start: int, stop: int, text: str
) -> Tensor:
    """The ids of a text in the place of the tokens ``start`` … ``stop`` − 1, with the space before them, if any, (n,).

    Tokenizers write a word otherwise after a space than after a quotation mark, and punctuation without a space.
    Whisper begins English with a space, but not Chinese.

    Raises:
        ValueError: the tokenizer cannot encode the text.
    """
    texts = model.token_texts(tokens.target[:stop])

    def encode(text: str) -> Tensor:
        if _begins_without_space(texts, model.is_special(tokens.target[:stop])) and hasattr(model, "ids_without_space"):
            return model.ids_without_space(text)
        return model.tokens(text, utterance).target

    alone = encode(text)
    if not start:
        return alone
    before, word = "".join(texts[:start]), "".join(texts[start:])
    try:
        whole = encode(before + (" " if word[:1].isspace() else "") + text)
    except ValueError:  # such as for special tokens before it
        return alone
    return whole[start:] if len(whole) > start and torch.equal(whole[:start], tokens.target[:start]) else alone


def _begins_without_space(texts: Sequence[str], are_special: Sequence[bool]) -> bool:
    text = "".join(text for text, is_special in zip(texts, are_special) if not is_special)
    return bool(text) and not text[0].isspace()


def word_log_prob(model: SpeechToTextModel, encoded: Any, previous: Tensor, ids: Tensor) -> float:
    """The log-probability of the tokens ``ids`` (n,) after the tokens ``previous`` (J,)."""
    log_probs = model.logits(encoded, Tokens(previous, ids))[0].double().log_softmax(-1)
    return float(log_probs.gather(1, ids.to(log_probs.device)[:, None]).sum())


def _branches(model: SpeechToTextModel, encoded: Any, previous: Tensor, word_ids: Tensor) -> list[tuple[float, Tensor]]:
    """The beginnings of other words: tokens of the word and then another token, and their log-probabilities, sorted."""
    log_probs = model.logits(encoded, Tokens(previous, torch.cat((word_ids, word_ids[-1:]))))[0].double()
    log_probs = log_probs.log_softmax(-1)
    found = []
    before = 0.0
    for position, row in enumerate(log_probs):
        own = word_ids[position] if position < len(word_ids) else None
        values, tokens = row.topk(min(N_BRANCHES + 1, len(row)))
        for value, token in zip(values.tolist(), tokens):
            if own is None or token != own:
                found.append((before + value, torch.cat((word_ids[:position], token[None].to(word_ids)))))
        if own is not None:
            before += float(row[own])
    return sorted(found, key=lambda branch: branch[0], reverse=True)


def _completed(
    model: SpeechToTextModel, encoded: Any, previous: Tensor, ids: Tensor, log_prob: float, n_words: int
) -> tuple[str, float]:
    """Completes ids until their last word ends, and returns the text and its log-probability."""
    for _ in range(MAX_TOKENS):
        text = "".join(model.token_texts(ids))
        if any(model.is_special(ids[-1:])) or len(word_spans(text.strip() + "a")) > n_words:
            break
        row = model.logits(encoded, Tokens(torch.cat((previous, ids)), ids[-1:]))[0, 0].double().log_softmax(-1)
        token = row.argmax()
        log_prob += float(row[token])
        ids = torch.cat((ids, token[None].to(ids)))
    has_ended = any(model.is_special(ids[-1:])) or len(word_spans(text.strip())) > n_words
    text = "".join(model.token_texts(ids[:-1] if has_ended else ids))
    return " ".join(text.split()), log_prob


def _is_other(model: SpeechToTextModel, utterance: Utterance, text: str, word: str, word_ids: Tensor) -> bool:
    """Whether a text is a different word, which the model's tokenizer can encode."""
    if not is_word(text) or letters(text) == letters(word):
        return False
    try:
        return not torch.equal(model.tokens(text, utterance).target, word_ids)
    except ValueError:
        return False
