"""Explains why a model made each error, by contrasts of what it wrote with what was said."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from captum_spes.explanation import SpeechToTextExplanation
from captum_spes.explanation.errors import TextError
from captum_spes.explanation.rows import salient_box
from captum_spes.models.protocol import SpeechToTextModel, Tokens, Utterance
from captum_spes.speech_to_text.foils import ids_in_place, word_log_prob
from captum_spes.speech_to_text.targets import Contrast, TextWords

Explain = Callable[[Contrast], SpeechToTextExplanation]


def explain_errors(
    errors: Sequence[TextError],
    model: SpeechToTextModel,
    utterance: Utterance,
    tokens: Tokens,
    explain: Explain,
) -> Iterator[TextError]:
    """Explains errors one by one, each when the iterator reaches it.

    A substitution is explained by the contrast of the written words with the expected words, which are scored on the
    same perturbed inputs. A deletion is explained by the contrast of the following word with the missing words. An
    insertion has no contrast: its reason says whether it was heard or guessed, and its map is that of its words.

    The model and the reference may differ in letter case. The expected words are therefore tried as in the reference,
    in lower case, and with a capital letter, and the contrast uses the form that the model finds most probable.

    Args:
        errors: from :func:`find_errors`.
        model: the model.
        utterance: the utterance, from :func:`captum_spes.models.prepare`.
        tokens: the tokens of the text that has the errors.
        explain: a function that explains a contrast, such as
            ``lambda contrast: attribution.attribute(utterance, tokens, contrast=contrast)``.

    Yields:
        TextError: the same errors with their probabilities, explanations and reasons.

    Example::

        >>> from captum_spes import SPES, SpeechToTextAttribution
        >>> from captum_spes.errors import explain_errors, find_errors
        >>> from captum_spes.models import load_model
        >>> model = load_model("whisper-tiny.en")
        >>> attribution = SpeechToTextAttribution(SPES(model))
        >>> utterance, tokens = attribution.prepare("speech.wav", "so what")
        >>> written = attribution.attribute(utterance, tokens, n_samples=30)
        >>> def explain(contrast):
        ...     return attribution.attribute(utterance, tokens, contrast=contrast, n_samples=30)
        >>> [error] = explain_errors(find_errors(written, "so was"), model, utterance, tokens, explain)
        >>> error.explanation.tokens
        ['what (not was)']
    """
    spans = TextWords(model.token_texts(tokens.target)).spans
    with torch.no_grad():
        encoded = model.encode(utterance.spectrogram, utterance)
    for error in errors:
        if error.kind == "insertion":
            yield replace(error, reason=_reason(error))
            continue
        # the contrast compares the expected words with the written words or, after a deletion, with the next word
        first, stop = error.words[0], max(error.words[1], error.words[0] + 1)
        if first >= len(spans) or tokens.path is not None:
            why = "nothing was written after them" if first >= len(spans) else "the model writes all words at once"
            yield replace(error, reason=f"It cannot be contrasted, for {why}.")
            continue
        place = spans[first][0], spans[min(stop, len(spans)) - 1][1]
        previous = torch.cat((tokens.prompt, tokens.target[: place[0]]))
        with torch.no_grad():
            forms = [
                (word_log_prob(model, encoded, previous, ids), form)
                for form, ids in _forms(model, utterance, tokens, place, error.expected)
            ]
        if not forms:
            yield replace(error, reason=f"It cannot be contrasted, for {model.name} has no tokens for it.")
            continue
        log_prob, foil = max(forms)
        found = replace(error, expected_probability=math.exp(log_prob))
        try:
            found = replace(found, explanation=explain(Contrast((first, stop - 1), foil)))
        except ValueError as problem:  # such as two words whose tokens are the same
            yield replace(found, reason=f"It cannot be contrasted: {problem}")
            continue
        yield replace(found, reason=_reason(found))


def _forms(
    model: SpeechToTextModel, utterance: Utterance, tokens: Tokens, place: tuple[int, int], expected: str
) -> Iterator[tuple[str, Tensor]]:
    """Yields the expected words as they are, in lower case, and with a capital letter, with their ids in the place."""
    small = expected.lower()
    for form in dict.fromkeys((expected, small, small[:1].upper() + small[1:])):
        try:
            yield form, ids_in_place(model, utterance, tokens, *place, form)
        except ValueError:  # the tokenizer cannot encode this form
            continue


def _reason(error: TextError) -> str:
    """One or two sentences that say what the explanation of an error found."""
    if error.kind == "insertion":
        return {
            "heard": f"Most of its probability is lost without its own sound: “{error.written}” was heard in it.",
            "guessed": f"It keeps most of its probability without its own sound: “{error.written}” was guessed, from "
            "the words before or from other sounds.",
            "unsure": "A part of its probability is lost without its own sound.",
            None: "It is not known when it was spoken, and so not whether it was heard.",
        }[error.verdict]
    assert error.explanation is not None and error.expected_probability is not None
    written = f"“{error.written}”" if error.written else "going on without it"
    place = _where_it_is_decided(error.explanation, written, f"“{error.expected}”")
    other = f"“{error.expected}” had a probability of {error.expected_probability:.2g}"
    if error.kind == "deletion":
        return f"{other} where the model went on without it. {place}"
    own = "" if error.probability is None else f", and “{error.written}” {error.probability:.2g}"
    guessed = " It was guessed rather than heard." if error.verdict == "guessed" else ""
    return f"{other} in its place{own}.{guessed} {place}"


def _where_it_is_decided(contrast: SpeechToTextExplanation, written: str, expected: str) -> str:
    """A sentence on where the largest values of a contrast lie, and which of the two they support."""
    map_ = contrast.spectrogram_attr[0]
    if map_.min() == map_.max():
        return "Its map is the same everywhere, and does not show which sound decides."
    if not bool((map_ < 0).any()):  # Eq. 3 gives every bin the mean impact as an offset
        map_ = map_ - map_.mean()
    (first, stop), (low, high) = salient_box(map_.abs())
    begin, end = first / contrast.frames_per_second, stop / contrast.frames_per_second
    hertz = [float(contrast.mel_frequencies[channel]) for channel in (low, high - 1)]
    speaks = written if float(map_[first:stop, low:high].sum()) > 0 else expected
    place = f"{begin:.2f} to {end:.2f} s, {hertz[0]:.0f} to {hertz[1]:.0f} Hz"
    return f"The sound that decides lies at {place}, and mostly speaks for {speaks}."
