"""Whether a contrastive map shows what decides between two words: without its top bins, is the foil written?"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from difflib import SequenceMatcher
from typing import Any

import torch
from captum._utils.progress import NullProgress, progress
from torch import Tensor

from captum_spes.explanation import SpeechToTextExplanation
from captum_spes.maps import descending, top_bins
from captum_spes.metrics._rewriting import Maps, Rewriter, format_maps
from captum_spes.models import SpeechToTextModel, text
from captum_spes.words import word_spans

# texts that are written at once
BATCH_SIZE = 20


@dataclass(frozen=True, eq=False)
class FlipRate:
    """What is written of M contrasted words at S steps of deletion; see :func:`flip_rate`.

    Attributes:
        steps: how many percent of the bins were deleted, S numbers.
        flips: whether the foil was written in the word's place, bool (M, S).
        found: whether the word or the foil was, bool (M, S).
        texts: all that was written, M lists of S texts.

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
        """Of the words that were found, themselves or their foil, the share of foils, (S,); NaN where none was."""
        return self.flips.sum(0) / self.found.sum(0)

    @property
    def coverage(self) -> Tensor:
        """The share of the words that were found, themselves or their foil, (S,). A rate without it says little."""
        return self.found.float().mean(0)


def flip_rate(
    model: SpeechToTextModel,
    explanations: SpeechToTextExplanation | Sequence[SpeechToTextExplanation],
    *,
    maps: Maps | None = None,
    percentages: Iterable[float] = range(1, 21),
    seed: int = 0,
    show_progress: bool = False,
) -> FlipRate:
    """How often the foil is written instead of the word as the most important bins of the spectrogram are deleted.

    The measure of contrastive explanations of Conti et al. (2025, "The Unheard Alternative"): a map of what speaks
    for the word and against the foil flips the word when its top bins are set to the model's baseline and the model
    writes again. A map of what the word needs, whatever stands against it, makes it something else or nothing.

    In the word's place stand the words between the nearest ones before and after it that stayed as they were. Letter
    case and punctuation do not count. Where both forms stand there, the word has not flipped. Of a contrast with no
    word, the word has flipped where its two neighbours stayed and nothing stands between them.

    The rate is the foils' share of the words found, and the coverage these words' share of all, as in the paper. An
    utterance that is written all over again has no word to be found, and a looping one is cut at twice the
    original's tokens and ten.

    Args:
        model: the model that was explained.
        explanations: contrastive explanations, one or several: made with ``contrast=Contrast(word, foil)``.
        maps: what to delete by in place of the explanations' own maps: a map (T, C) for each, such as the word's plain
            one, or ``"random"`` for a random order. Compare with both.
        percentages: how much is deleted, in percent of the bins. 0 shows what the model writes of the whole.
        seed: the seed of the order of bins with equal values, as all of a patch have, and of the random one.
        show_progress: shows a progress bar, one step a text.

    Returns:
        FlipRate: a row an explanation, a column a percentage.

    Raises:
        ValueError: explanations that are no contrasts, that are of another model, or whose word and foil differ by
            letter case or punctuation alone; maps that do not fit them; percentages that are none.

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
    if isinstance(explanations, SpeechToTextExplanation):
        explanations = [explanations]
        maps = [maps] if isinstance(maps, Tensor) else maps
    steps = tuple(percentages)
    if not steps or not all(0 <= step <= 100 for step in steps):
        raise ValueError(f"percentages must be numbers from 0 to 100, at least one, not {steps}.")
    if not explanations:
        raise ValueError("there is no explanation: give a contrastive one, or several.")
    # what cannot be is refused before the model runs
    cases = [
        _Case(model, *pair, steps, seed)
        for pair in zip(explanations, format_maps(explanations, _own(explanations) if maps is None else maps))
    ]
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
    """One contrasted word: what the model writes as bins are deleted."""

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
                f"{contrast['word']!r} and {contrast['foil']!r} are no two words without letter case and punctuation: "
                "what is written cannot tell them apart."
            )
        self.original = before + self.word + after
        self.span = len(before), len(before) + len(self.word)
        self.flips: list[bool] = []
        self.found: list[bool] = []
        self.texts: list[str] = []

    def write(self) -> Iterator[str]:
        """Lets the model write without the top bins, and reads what stands in the word's place."""
        for written in self.rewriter.texts(self.hidden, BATCH_SIZE):
            form = self._form(_words(written))
            self.texts.append(written)
            self.flips.append(form is self.foil)
            self.found.append(form is not None)
            yield written

    def _form(self, words: list[str]) -> list[str] | None:
        """Which of word and foil stands in the word's place; the longer where one is a part of the other."""
        place = _place(self.original, self.span, words)
        if not self.foil:
            return self._word_or_none(words, place)
        for form in sorted((self.word, self.foil), key=len, reverse=True):  # the word first where they are as long
            if _has(words[place], form):
                return form
        return None

    def _word_or_none(self, words: list[str], place: slice) -> list[str] | None:
        """The word, or the empty foil where the neighbours of the word's place stayed and it is empty."""
        if _has(words[place], self.word):
            return self.word
        (start, stop), first = self.span, place.start
        before, after = self.original[max(start - 1, 0) : start], self.original[stop : stop + 1]
        stayed = words[max(first - 1, 0) : first] == before and words[place.stop : place.stop + 1] == after
        return self.foil if stayed and not words[place] and words else None


def _own(explanations: Sequence[SpeechToTextExplanation]) -> list[Tensor]:
    return [explanation.spectrogram_attr[0] for explanation in explanations]


def _contrast(explanation: SpeechToTextExplanation) -> dict[str, Any]:
    contrast = explanation.metadata.get("contrast")
    if contrast is None:
        raise ValueError(
            f"the explanation of {explanation.text!r} is no contrast: make it with "
            "SpeechToTextAttribution.attribute(contrast=Contrast(word, foil))."
        )
    return contrast


def _whole(metadata: dict[str, Any]) -> dict[str, Any]:
    """Of the whole text, of which the contrast explains one word."""
    return {**metadata, "contrast": None}


def _words(text: str) -> list[str]:
    """The words of a text, without punctuation and letter case."""
    words = (text[start:stop].strip().casefold() for start, stop in word_spans(text))
    return [word for word in words if any(character.isalnum() for character in word)]


def _has(words: list[str], form: list[str]) -> bool:
    return any(words[i : i + len(form)] == form for i in range(len(words)))


def _place(original: list[str], span: tuple[int, int], words: list[str]) -> slice:
    """Which words stand where ``original[span[0]:span[1]]`` stood: those between its neighbours that stayed."""
    first, last = 0, len(words)
    for start, other, size in SequenceMatcher(None, original, words, autojunk=False).get_matching_blocks():
        for index in range(size):
            if start + index < span[0]:
                first = other + index + 1
            elif start + index >= span[1]:
                last = min(last, other + index)
    return slice(first, last)
