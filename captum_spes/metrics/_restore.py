"""Restores the inputs and tokens of a model from an explanation of them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from captum_spes.explanation import SpeechToTextExplanation
from captum_spes.models.context import FORMS, refreeze
from captum_spes.models.protocol import MARGIN, SpeechToTextModel, Tokens, Utterance

DTYPE_NAMES = ("float32", "float16", "bfloat16", "float64")
MAX_MISSING = 2  # frames
NEEDED = ("model", "token_ids", "previous_token_ids", "context_seconds", "dtype")


def restore(
    model: SpeechToTextModel, explanation: SpeechToTextExplanation, tokens_only: bool = False
) -> tuple[Utterance, Tokens]:
    """The utterance and the tokens that were explained, in the full window and the explanation's precision.

    The spectrogram is that of the explanation, and the padding after it is the model's silence. In the original
    utterance the windows of one or two frames after the end still reach into the audio, which explanations do not
    store. With Whisper tiny.en the predictions therefore differ by a KL divergence of less than 0.01, measured on six
    recordings; hiding half of the spectrogram changes them by several nats.

    Args:
        model: the model that was explained.
        explanation: an explanation of the tokens, or of the text as a whole.
        tokens_only: refuse an explanation of the text as a whole.

    Returns:
        (Utterance, Tokens): as :meth:`.SpeechToTextAttribution.prepare` gives them.

    Raises:
        ValueError: the explanation is of another model, of words or of a contrast, or its metadata do not
            say how it was made.
    """
    metadata = explanation.metadata
    if missing := [name for name in NEEDED if name not in metadata]:
        raise ValueError(
            f"the explanation's metadata has no {' and no '.join(missing)}, without which its predictions cannot be "
            "computed again: take an explanation from SpeechToTextAttribution.attribute."
        )
    if metadata["model"] != model.name:
        raise ValueError(
            f"the explanation is of {metadata['model']!r}, not of the given model {model.name!r}: give the model that "
            "was explained."
        )
    if metadata.get("contrast") is not None:
        raise ValueError("the explanation is of a contrast of two words: give one of the tokens.")
    if explanation.grouped and (tokens_only or len(explanation.tokens) > 1):
        raise ValueError("the explanation is of words or a sentence: give that of the tokens, before words().")
    _check(metadata)
    target, previous = metadata["token_ids"], metadata["previous_token_ids"]
    utterance = model.from_features(explanation.spectrogram.contiguous()[None])
    n_padding = round(metadata["context_seconds"] * model.frames_per_second) - len(explanation.spectrogram)
    # utterances of SeamlessM4T may end with two frames that the model ignores and the spectrogram leaves out
    n_missing = max(n_padding - utterance.padding.shape[1], 0)
    if n_missing > MAX_MISSING:
        raise ValueError(
            f"the explanation's context of {metadata['context_seconds']} s is longer than the window of {model.name}: "
            "its metadata is damaged."
        )
    padding = torch.nn.functional.pad(utterance.padding[:, :n_padding], (0, 0, 0, n_missing))
    utterance = replace(utterance, padding=padding, dtype=getattr(torch, metadata["dtype"]))
    generated = metadata.get("target") == "generated"
    if not previous:
        return utterance, replace(model.tokens(target, utterance), generated=generated)
    device = utterance.spectrogram.device
    prompt = previous[: len(previous) - len(target) + 1]
    before, ids = (torch.tensor(numbers, dtype=torch.long, device=device) for numbers in (prompt, target))
    return utterance, Tokens(before, ids, generated=generated)


def restore_for_scores(
    model: SpeechToTextModel, explanation: SpeechToTextExplanation, tokens_only: bool = False
) -> tuple[Utterance, Tokens]:
    """The same, with frozen padding if the explanation had it, for metrics that score many inputs."""
    utterance, tokens = restore(model, explanation, tokens_only)
    context = explanation.metadata.get("context", {})
    if context.get("used") != "frozen":
        return utterance, tokens
    if not hasattr(model, "freeze_padding"):
        raise ValueError(f"the explanation's metadata is damaged: the padding of {model.name} cannot be frozen.")
    return refreeze(model, utterance, context["merged_by"], context["margin"]), tokens


def _check(metadata: dict[str, Any]) -> None:
    """Raises a ValueError for metadata that no explanation can have, such as those of a damaged file."""
    target, previous = metadata["token_ids"], metadata["previous_token_ids"]
    seconds = metadata["context_seconds"]
    valid = {
        "token_ids": _is_ids(target) and len(target) > 0,
        "previous_token_ids": _is_ids(previous),
        "context_seconds": isinstance(seconds, (int, float)) and 0 < seconds < 1e9,  # JSON knows integers that overflow
        "dtype": metadata["dtype"] in DTYPE_NAMES,
        "gen_args": isinstance(metadata.get("gen_args", {}), dict),
        "context": _is_context(metadata.get("context", {})),
    }
    if wrong := [name for name, is_valid in valid.items() if not is_valid]:
        raise ValueError(f"the explanation's metadata is damaged: {' and '.join(wrong)} has an impossible value.")
    if previous and previous[len(previous) - len(target) + 1 :] != target[:-1]:
        raise ValueError("the explanation's metadata is damaged: its previous tokens do not end with its tokens.")


def _is_context(context: object) -> bool:
    return isinstance(context, dict) and (
        context.get("used") != "frozen" or (context.get("merged_by"), context.get("margin")) in (*FORMS, (1, MARGIN))
    )


def _is_ids(ids: object) -> bool:
    return isinstance(ids, list) and all(type(token) is int and 0 <= token < 2**31 for token in ids)
