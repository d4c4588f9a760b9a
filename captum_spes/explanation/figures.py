"""The figures of an explanation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import torch

from captum_spes.explanation.rows import Times, word_times
from captum_spes.maps import z_scores
from captum_spes.visualization import plot_attributions, plot_word_times
from captum_spes.words import is_word

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from captum_spes.explanation import SpeechToTextExplanation

Sign = Literal["positive", "all"]

# a map is unreliable if the correlation of two halves of the samples is lower
LOW_RELIABILITY = 0.5
# share of the sum of absolute values that the outliers of a map have, as outlier_perc of Captum's visualisations
OUTLIERS = 0.1
POSITIVE_LABEL = "attribution, of the largest except outliers: larger = hiding it weakens the prediction more"
SIGNED_LABEL = (
    "attribution, of the largest except outliers: positive = hiding it weakens the prediction, "
    "negative = strengthens it"
)
MEAN_LABEL = "mean attribution of the tokens: larger = hiding it changes their predictions more"


def is_signed(explanation: SpeechToTextExplanation) -> bool:
    """Whether the maps have both signs, so that 0 means no effect."""
    return not explanation.normalized and bool(explanation.spectrogram_attr.min() < 0)


def relative(explanation: SpeechToTextExplanation) -> SpeechToTextExplanation:
    """Each map of the spectrogram divided by its largest absolute value that is no outlier.

    Outliers are the bins with the largest values, which together have a tenth of the sum of absolute values, and are
    above 1 or below -1. Maps of gradients have a few bins with values far above all others, and would be blank beside
    them. maps.js has the same rule.
    """
    maps = explanation.spectrogram_attr
    values = maps.flatten(1).abs().sort(descending=True).values.double()
    n_outliers = (values.cumsum(1) < OUTLIERS * values.sum(1, keepdim=True)).sum(1, keepdim=True)
    largest = values.gather(1, n_outliers.clamp(max=values.shape[1] - 1)).to(maps)[..., None]
    return replace(explanation, spectrogram_attr=maps / torch.where(largest > 0, largest, 1))


def drawn_maps(
    explanation: SpeechToTextExplanation, sign: Sign | None
) -> tuple[SpeechToTextExplanation, str | None, tuple[float, float] | None]:
    """The maps to draw, the label of their values, and the range of the colours."""
    if sign is None:
        sign = "positive" if explanation.metadata.get("contrast") is None else "all"
    if sign not in get_args(Sign):
        raise ValueError(f"sign must be one of {', '.join(get_args(Sign))}, not {sign!r}.")
    if not is_signed(explanation):
        return explanation.normalize(), None, None
    if sign == "all":
        return relative(explanation), SIGNED_LABEL, (-1, 1)
    positive = replace(explanation, spectrogram_attr=explanation.spectrogram_attr.clamp(min=0))
    total = explanation.spectrogram_attr.abs().sum()
    share = float((total - positive.spectrogram_attr.sum()) / total)
    label = f"{POSITIVE_LABEL} (negative values, {share:.0%} of the sum of absolute values, are not drawn)"
    return relative(positive), label, (0, 1)


def plot_sentence(explanation: SpeechToTextExplanation, sign: Sign | None) -> Figure:
    """See :meth:`.SpeechToTextExplanation.plot_sentence`."""
    drawn, label, _ = drawn_maps(explanation, sign)
    if len(explanation.tokens) > 1:
        drawn = replace(drawn.sentence(normalize=False), tokens=[explanation.text])
        label = None if label is None else f"mean of the tokens: {label}"
    if label is None:
        label = MEAN_LABEL
    attr = drawn.spectrogram_attr
    largest = min(float(attr.abs().max()), 1.0)  # beyond which outliers are
    value_range = (0.0 if attr.min() >= 0 else -largest, largest) if largest > 0 else None
    return _plot(explanation, drawn, label, value_range)


def plot_tokens(explanation: SpeechToTextExplanation, sign: Sign | None, **drawing: Any) -> Figure:
    """See :meth:`.SpeechToTextExplanation.plot_tokens`."""
    return _plot(explanation, *drawn_maps(explanation, sign), **drawing)


def plot_words(explanation: SpeechToTextExplanation, sign: Sign | None, **drawing: Any) -> Figure:
    """See :meth:`.SpeechToTextExplanation.plot_words`."""
    drawn, label, value_range = drawn_maps(explanation, sign)
    words = drawn.words(normalize=False)
    # a token may be negative where another is positive
    if value_range == (0, 1) and len(words.tokens) < len(drawn.tokens):
        label = f"mean of the tokens: {label}"
    return _plot(explanation, relative(words) if value_range == (-1, 1) else words, label, value_range, **drawing)


def plot_times(explanation: SpeechToTextExplanation, times: Times | None) -> Figure:
    """See :meth:`.SpeechToTextExplanation.plot_times`."""
    words = explanation.words()
    spans = word_times(explanation, words.tokens, times)
    return plot_word_times(
        words.spectrogram_attr.amax(2),
        words.tokens,
        # nothing is spoken where punctuation or a mark is written, wherever the model attends
        [span if is_word(text) else None for text, span in zip(words.tokens, spans)],
        words.frames_per_second,
        "when the model attends to it" if times is None else "where it is spoken",
        [] if words.reliability is None else (words.reliability < LOW_RELIABILITY).tolist(),
        caption(explanation),
    )


def visualize(explanation: SpeechToTextExplanation, token: int | str, **kwargs: Any) -> Any:
    """See :meth:`.SpeechToTextExplanation.visualize`."""
    from captum.attr import visualization

    spectrogram = explanation.spectrogram.detach().float()
    spectrogram = spectrogram - spectrogram.min()
    image = spectrogram / spectrogram.max().clamp(min=torch.finfo(torch.float32).tiny)
    scores, _ = z_scores(explanation.spectrogram_attr, explanation.token_attr, explanation.is_previous)
    attr = scores[explanation.index(token)].detach().float()
    if not attr.any():
        raise ValueError(f"the map of {token!r} is constant: Captum cannot scale it.")
    kwargs = {"sign": "all", "use_pyplot": False, **kwargs}
    # (T, C) to rows of frequency, the highest first
    pictures = (np.ascontiguousarray(m.T.flip(0).numpy())[..., None] for m in (attr, image))
    return visualization.visualize_image_attr(*pictures, **kwargs)


def _plot(
    explanation: SpeechToTextExplanation,
    source: SpeechToTextExplanation,
    value_label: str | None = None,
    value_range: tuple[float, float] | None = None,
    subset: Sequence[int | str] | None = None,
    figsize: tuple[float, float] | None = None,
    axes: Sequence[Axes] | None = None,
) -> Figure:
    """Draws the maps of ``source``, which were computed from those of the explanation."""
    rows = range(len(source.tokens)) if subset is None else [source.index(token) for token in subset]
    if not rows:
        raise ValueError(f"subset is empty: give some of {source.tokens}, or their rows.")
    unreliable = [] if source.reliability is None else (source.reliability < LOW_RELIABILITY).tolist()
    return plot_attributions(
        source.spectrogram_attr[list(rows)],
        source.spectrogram,
        source.frames_per_second,
        source.mel_frequencies,
        titles=[source.tokens[row] for row in rows],
        value_label=value_label,
        value_range=value_range,
        unreliable=[unreliable[row] for row in rows] if unreliable else [],
        caption=caption(explanation),
        figsize=figsize,
        axes=axes,
    )


def caption(explanation: SpeechToTextExplanation) -> str | None:
    """Describes in one line how the maps were made; None if the metadata do not say it."""
    facts = explanation.metadata
    parts = [str(facts[name]) for name in ("method", "model") if facts.get(name)]
    done = facts.get("done")
    if isinstance(done, dict) and isinstance(done.get("spectrogram"), int):
        parts.append(f"{done['spectrogram']:,} samples")
    if explanation.reliability is not None:
        parts.append(f"reliability {float(explanation.reliability.mean()):.2f}")
    return ", ".join(parts) or None
