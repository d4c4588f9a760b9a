"""Flip rate: tests whether the model writes the foil without the top bins of a contrastive map."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from difflib import SequenceMatcher
from typing import Any

import torch
from captum._utils.progress import NullProgress, progress
from torch import Tensor

from captum_spes.explanation import SpeechToTextExplanation
from captum_spes.maps import descending, top_bins
from captum_spes.metrics._rewriting import Rewriter
from captum_spes.metrics.checks import Explanations, Maps, as_lists, format_maps
from captum_spes.models import SpeechToTextModel, text
from captum_spes.words import is_word, text_words

# texts that are generated in one batch
TEXTS_AT_ONCE = 20


@dataclass(frozen=True, eq=False)
class FlipRate:
    """The texts for M contrasted words at S steps of deletion; see :func:`flip_rate`.

    Attributes:
        steps: the percentages of the bins that were deleted, S numbers.
        flips: whether the foil was written in the word's place, bool (M, S).
        found: whether the word or the foil was written there, bool (M, S).
        texts: the whole texts, M lists of S texts.

    Example::

        >>> import torch
        >>> from captum_spes.metrics import FlipRate
        >>> result = FlipRate(
        ...     steps=(5, 10), flips=torch.tensor([[False, True], [False, False], [False, False]]),
        ...     found=torch.tensor([[True, True], [True, True], [True, False]]),
        ...     texts=[["a ship", "a sheep"], ["a pan", "a pan"], ["a cat", "a"]])
        >>> result.rate
        tensor([0.0000, 0.5000])
        >>> result.coverage
        tensor([1.0000, 0.6667])
    """

    steps: tuple[float, ...]
    flips: Tensor
    found: Tensor
    texts: list[list[str]]

    @property
    def rate(self) -> Tensor:
        """The share of foils among the places where the word or the foil was found, (S,); NaN if there is none."""
        return self.flips.sum(0) / self.found.sum(0)

    @property
    def coverage(self) -> Tensor:
        """The share of the words for which the word or the foil was found, (S,). Always report it with the rate."""
        return self.found.float().mean(0)


def flip_rate(
    model: SpeechToTextModel,
    explanations: Explanations,
    *,
    maps: Maps | None = None,
    percentages: Iterable[float] = range(1, 21),
    seed: int = 0,
    show_progress: bool = False,
) -> FlipRate:
    """How often the foil is written instead of the word as the most important bins of the spectrogram are deleted.

    This measure of contrastive explanations is by Conti et al. (2025, "The Unheard Alternative"). The top bins of the
    map are set to the model's baseline, and the model writes the text again. If the map shows what speaks for the word
    and against the foil, the model then writes the foil. If it shows only what the word depends on, the model writes
    another word or none.

    The place of the word is between the nearest words before and after it that did not change. Letter case and
    punctuation are ignored. If both word and foil occur there, the word has not flipped, unless the foil contains the
    word. With an empty foil the word has flipped if its two neighbours did not change and no word is between them.

    The rate is the share of foils among the places where the word or the foil was found, and the coverage is the share
    of such places among all, as in the paper. A text that changes everywhere has no such place. A text that repeats
    itself is cut at twice the original's tokens plus ten.

    Args:
        model: the model that was explained.
        explanations: one or several contrastive explanations, made with ``contrast=Contrast(word, foil)``.
        maps: maps that order the bins in place of the explanations' own maps: a map (T, C) for each, such as the plain
            map of the word, or ``"random"`` for a random order. Compare with both.
        percentages: percentages of the bins that are deleted. 0 gives the text of the whole spectrogram.
        seed: the seed of the random order, and of the order of bins with equal values, such as those of a patch.
        show_progress: shows a progress bar that counts texts.

    Returns:
        FlipRate: with a row for each explanation and a column for each percentage.

    Raises:
        ValueError: an explanation is not a contrast, is of another model, or has a word and foil that differ only in
            letter case or punctuation; or maps do not fit the explanations; or percentages are not as above.

    Example::

        >>> from captum_spes import SPES, Contrast, SpeechToTextAttribution
        >>> from captum_spes.metrics import flip_rate
        >>> from captum_spes.models import load_model
        >>> model = load_model("whisper-tiny.en")
        >>> attribution = SpeechToTextAttribution(SPES(model))
        >>> contrast = Contrast("what", foil="was")
        >>> explanation = attribution.attribute("speech.wav", "so what", contrast=contrast, n_samples=90)
        >>> flip_rate(model, explanation, percentages=(5, 10)).rate.shape
        torch.Size([2])
        >>> flip_rate(model, explanation, percentages=(5, 10), maps="random").coverage.shape
        torch.Size([2])
    """
    explanations, maps = as_lists(explanations, maps)
    steps = () if isinstance(percentages, (int, float, str)) else tuple(percentages)
    if not steps or not all(0 <= step <= 100 for step in steps):
        raise ValueError(f"percentages must be numbers from 0 to 100, at least one, not {percentages}.")
    # arguments that cannot be used are refused before the model runs
    own = [explanation.spectrogram_attr[0] for explanation in explanations]
    cases = [_Case(model, *pair, steps, seed) for pair in zip(explanations, format_maps(own, maps))]
    total = len(cases) * len(steps)
    with progress(desc="Flip rate", total=total) if show_progress else NullProgress() as bar:
        for case in cases:
            for _ in case.write():
                bar.update(1)
    return FlipRate(
        steps,
        torch.tensor([case.flips for case in cases]),
        torch.tensor([case.found for case in cases]),
        [case.texts for case in cases],
    )


class _Case:
    """One contrasted word, and the texts that the model writes as bins are deleted."""

    def __init__(
        self,
        model: SpeechToTextModel,
        explanation: SpeechToTextExplanation,
        attributions: Tensor,
        steps: tuple[float, ...],
        seed: int,
    ) -> None:
        contrast = _contrast(explanation)
        self.rewriter = Rewriter(model, replace(explanation, grouped=False, metadata=_whole(explanation.metadata)))
        self.hidden = top_bins(descending(attributions, seed), steps)
        start, stop = contrast["token_span"]
        target = self.rewriter.tokens.target
        before, self.word, after = (
            _words(text(model, target[part])) for part in (slice(start), slice(start, stop), slice(stop, None))
        )
        self.foil = _words(contrast["foil"])
        if self.word == self.foil or not self.word or (contrast["foil"] and not self.foil):
            raise ValueError(
                f"{contrast['word']!r} and {contrast['foil']!r} are the same without letter case and punctuation, so "
                "that texts cannot tell them apart: give a contrast of two different words."
            )
        self.original = before + self.word + after
        self.span = len(before), len(before) + len(self.word)
        self.flips: list[bool] = []
        self.found: list[bool] = []
        self.texts: list[str] = []

    def write(self) -> Iterator[str]:
        """Yields the texts without the top bins, and notes whether word or foil is in the word's place."""
        for written in self.rewriter.texts(self.hidden, TEXTS_AT_ONCE):
            form = self._form(_words(written))
            self.texts.append(written)
            self.flips.append(form is self.foil)
            self.found.append(form is not None)
            yield written

    def _form(self, words: list[str]) -> list[str] | None:
        """The word or the foil if it is in the word's place; the word if both are, unless the foil contains it."""
        place = _place(self.original, self.span, words)
        if not self.foil:
            return self._word_or_none(words, place)
        forms = (self.foil, self.word) if _has(self.foil, self.word) else (self.word, self.foil)
        return next((form for form in forms if _has(words[place], form)), None)

    def _word_or_none(self, words: list[str], place: slice) -> list[str] | None:
        """The word, or the empty foil if the word's place is empty and its neighbours did not change."""
        if _has(words[place], self.word):
            return self.word
        (start, stop), first = self.span, place.start
        before, after = self.original[max(start - 1, 0) : start], self.original[stop : stop + 1]
        stayed = words[max(first - 1, 0) : first] == before and words[place.stop : place.stop + 1] == after
        return self.foil if stayed and not words[place] and words else None


def _contrast(explanation: SpeechToTextExplanation) -> dict[str, Any]:
    contrast = explanation.metadata.get("contrast")
    if contrast is None:
        raise ValueError(
            f"the explanation of {explanation.text!r} is not a contrast: make it with "
            "SpeechToTextAttribution.attribute(contrast=Contrast(word, foil))."
        )
    return contrast


def _whole(metadata: dict[str, Any]) -> dict[str, Any]:
    """The metadata for the whole text, of which the contrast explains one word."""
    return {**metadata, "contrast": None}


def _words(text: str) -> list[str]:
    """The words of a text, without punctuation and letter case."""
    return [match[0].casefold() for match in text_words(text) if is_word(match[0])]


def _has(words: list[str], form: list[str]) -> bool:
    return any(words[i : i + len(form)] == form for i in range(len(words)))


def _place(original: list[str], span: tuple[int, int], words: list[str]) -> slice:
    """The words in the place of ``original[span[0]:span[1]]``: those between its neighbours that did not change."""
    first, last = 0, len(words)
    for start, other, size in SequenceMatcher(None, original, words, autojunk=False).get_matching_blocks():
        for index in range(size):
            if start + index < span[0]:
                first = other + index + 1
            elif start + index >= span[1]:
                last = min(last, other + index)
    return slice(first, last)
