"""Renders the page of the report with its data."""

from __future__ import annotations

import base64
import hashlib
import html
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any

import numpy as np
from torch import Tensor

from captum_spes._extras import require
from captum_spes.confidence import Confidence
from captum_spes.visualization._colors import fading_colors
from captum_spes.visualization._layout import ROUND_FREQUENCIES, MelSpectrogram, checked_array
from captum_spes.visualization._text import clean
from captum_spes.visualization.report._data import flac, packed, playable, quantized, script_safe_json
from captum_spes.words import is_word

# in the order of their dependencies
SCRIPTS = ("maps.js", "sound.js", "spectrogram.js", "page.js")
MAX_FACT = 400  # characters


@dataclass(frozen=True)
class ReportView:
    """A view of the report with its rows: the tokens, the words or the sentence.

    Attributes:
        name: the name of the view.
        titles: the text of each of the R rows.
        spans: for each row the range of maps of which it is the mean: the first, and the one after the last.
        previous: the texts of the J previous tokens.
        n_previous: for each row the number of previous tokens, from the first, that are its features.
        confidence: the model's confidence in each row; None if it is not known.
        notes: a sentence about each row; empty for none.

    Example::

        >>> from captum_spes.visualization.report import ReportView
        >>> tokens = ReportView("tokens", [" step", "?"], [(0, 1), (1, 2)], ["<s>", " step"], [1, 2])
        >>> sentence = ReportView("sentence", ["step?"], [(0, 2)], ["<s>", " step"], [2])
    """

    name: str
    titles: Sequence[str]
    spans: Sequence[tuple[int, int]]
    previous: Sequence[str]
    n_previous: Sequence[int]
    confidence: Confidence | None = None
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class ReportMethod:
    """The result of one method for the report.

    Attributes:
        name: the name of the method.
        maps: the maps to colour, (K, T, C), from 0 to 1, or from −1 to 1 for both signs. Outliers may lie beyond.
        previous: for each view the attributions of the rows to the previous tokens, (R, J), from 0 to 1.
        reliability: for each view the reliability of the rows, (R,); empty if the method does not measure it.
        facts: facts about the explanation, by name.
        contrasts: maps of errors, (E, T, C), from −1 to 1. In the spans of views they follow those of the tokens.
        positive: whether the maps are the positive values of maps with both signs, for the legend.

    Example::

        >>> import torch
        >>> from captum_spes.visualization.report import ReportMethod
        >>> found = ReportMethod("SPES", torch.rand(2, 200, 80), [torch.rand(2, 2)], facts={"seed": 0})
    """

    name: str
    maps: Tensor
    previous: Sequence[Tensor]
    reliability: Sequence[Tensor] = ()
    facts: dict[str, Any] = field(default_factory=dict)
    contrasts: Tensor | None = None
    positive: bool = False


def render_report(
    text: str,
    spectrogram: Tensor,
    frames_per_second: float,
    mel_frequencies: Tensor,
    views: Sequence[ReportView],
    methods: Sequence[ReportMethod],
    model: str = "",
    notice: str = "",
    reference: str = "",
    audio: tuple[np.ndarray, int] | None = None,
    audio_name: str = "",
    picture: bytes | None = None,
) -> str:
    """Renders an HTML page that shows maps over a spectrogram and plays the audio, and needs no network.

    The maps of several methods are shown together, coloured by ``percentile_ranks`` and
    not by values, for the reason in :func:`~captum_spes.visualization.plot_comparison`.

    All texts are escaped, and the page's policy (Content-Security-Policy) allows only its own scripts and loads
    nothing.

    Args:
        text: the explained text.
        spectrogram: log-mel energies, (T, C).
        frames_per_second: frames per second of the spectrogram.
        mel_frequencies: centre of each mel channel in Hz, rising, (C,).
        views: the views; the first is shown at the beginning.
        methods: the result of each method.
        model: the name of the model.
        notice: a warning at the top of the page.
        reference: the reference text, if a view has errors.
        audio: mono samples (n,) in [−1, 1] and the number of samples per second. None: a page without audio.
        audio_name: the name of the recording.
        picture: a PNG of the words over time. Default: none.

    Returns:
        str: the page.

    Raises:
        ValueError: shapes do not fit each other, or values are not finite.
        ImportError: jinja2, or with audio soundfile, is not installed.

    Example::

        >>> import torch
        >>> from captum_spes.visualization.report import ReportMethod, ReportView, render_report
        >>> tokens = ReportView("tokens", [" So", " what"], [(0, 1), (1, 2)], ["<s>", " So"], [1, 2])
        >>> found = ReportMethod("SPES", torch.rand(2, 200, 80), [torch.rand(2, 2)])
        >>> page = render_report(
        ...     "So what", torch.rand(200, 80), 100, torch.linspace(40, 7700, 80), [tokens], [found])
        >>> page.startswith("<!DOCTYPE html>") and "default-src" in page
        True
    """
    mel = MelSpectrogram(spectrogram, frames_per_second, mel_frequencies)
    if not views or not methods:
        raise ValueError(f"give at least one view and one method: there are {len(views)} and {len(methods)}.")
    names = _distinct([clean(method.name) for method in methods])
    data = {
        **_spectrogram_data(mel),
        "views": [_view_data(view) for view in views],
        "methods": [{"name": name, **_method_data(method, views, mel)} for name, method in zip(names, methods)],
        "colors": {
            f"{theme}{kind}": packed(_color_table(signed, theme == "dark"))
            for theme in ("light", "dark")
            for kind, signed in (("", False), ("Signed", True))
        },
        "audio": None if audio is None else _audio_data(*audio, audio_name),
    }
    style, *scripts = (_part(name) for name in ("page.css", *SCRIPTS))
    jinja2 = require("jinja2")
    template = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined).from_string(_part("page.html"))
    return template.render(
        title=clean(text),
        subtitle=[f"{mel.duration:.2f} s", *([clean(model)] if model else []), ", ".join(names)],
        facts=[(name, _readable(method.facts)) for name, method in zip(names, methods)],
        notice=clean(notice) if notice else "",
        reference=clean(reference) if reference else "",
        has_errors=any(view.name == "errors" for view in views),
        has_audio=audio is not None,
        picture=None if picture is None else base64.b64encode(picture).decode("ascii"),
        policy=_policy(style, scripts),
        style=style,
        scripts=scripts,
        data=script_safe_json(data),
    )


def _audio_data(samples: np.ndarray, sampling_rate: float, name: str) -> dict[str, Any]:
    samples, rate = playable(samples, sampling_rate)
    return {"flac": flac(samples, rate), "rate": rate, "name": clean(name)}


def _spectrogram_data(mel: MelSpectrogram) -> dict[str, Any]:
    """The spectrogram and its axes, as the page's scripts read them."""
    energy = np.clip((mel.energy - mel.quiet) / mel.span, 0, 1)
    return {
        "duration": mel.duration,
        "framesPerSecond": float(mel.frames_per_second),
        "frames": mel.energy.shape[0],
        "channels": mel.energy.shape[1],
        "frequencies": [round(float(frequency), 3) for frequency in mel.mel_frequencies],
        "roundFrequencies": ROUND_FREQUENCIES,
        "spectrogram": packed(np.round(255 * energy).astype(np.uint8)),
    }


def _policy(style: str, scripts: Sequence[str]) -> str:
    """The Content-Security-Policy that allows the page's own scripts and styles, and nothing else."""
    return "; ".join(
        (
            "default-src 'none'",
            "script-src " + " ".join(map(_source_hash, scripts)),
            f"style-src {_source_hash(style)}",
            "img-src data: blob:",
            "media-src data: blob:",
            "base-uri 'none'",
            "form-action 'none'",
        )
    )


def iframe(page: str) -> str:
    """A page as a frame for notebooks, which separates its styles and scripts from those of the notebook.

    Example::

        >>> iframe("<p>")
        '<div><iframe sandbox="allow-scripts" width="100%" height="760" srcdoc="&lt;p&gt;"></iframe></div>'
    """
    attributes = f'sandbox="allow-scripts" width="100%" height="760" srcdoc="{html.escape(page)}"'
    return f"<div><iframe {attributes}></iframe></div>"


def _part(name: str) -> str:
    return (files("captum_spes.visualization.report") / "page" / name).read_text(encoding="utf-8")


def _source_hash(content: str) -> str:
    """The hash by which a policy allows the content of an element."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode('ascii')}'"


def _distinct(names: list[str]) -> list[str]:
    """The names, with a number after repeated ones."""
    counts = [names[:number].count(name) for number, name in enumerate(names)]
    return [f"{name} ({count + 1})" if count else name for name, count in zip(names, counts)]


def _view_data(view: ReportView) -> dict[str, Any]:
    rows: list[dict[str, Any]] = [
        {"title": clean(title), "first": first, "stop": stop, "attached": view.name == "tokens" and title[:1] != " "}
        for title, (first, stop) in zip(view.titles, view.spans, strict=True)
    ]
    for row, note in zip(rows, view.notes):
        row["note"] = clean(note)
    # the text as a whole, also where it is all that is explained
    is_text = view.name == "sentence" or (
        view.name == "explained" and len(rows) == 1 and " " in rows[0]["title"].strip()
    )
    if view.confidence is not None:
        for row, sure in zip(rows, _confidence_data(view.confidence), strict=True):
            row.update(sure)
            row["doubtful"] &= not is_text  # a product of many probabilities is small
            if is_text or not is_word(row["title"]):
                row["verdict"] = None
    previous = [clean(token) for token in view.previous]
    return {"name": view.name, "rows": rows, "previous": previous, "nPrevious": [int(n) for n in view.n_previous]}


def _confidence_data(confidence: Confidence) -> list[dict[str, Any]]:
    columns = (confidence.probabilities, confidence.entropy, confidence.doubtful, confidence.alternatives)
    unknown = [None] * len(confidence)
    heard = zip(confidence.heard or unknown, confidence.verdicts or unknown)
    return [
        {
            "heard": None if share is None else round(share, 3),
            "verdict": verdict,
            "probability": round(probability, 4),
            "entropy": round(entropy, 3),
            "doubtful": doubtful,
            "alternatives": [[clean(text), round(share, 4)] for text, share in others],
        }
        for (probability, entropy, doubtful, others), (share, verdict) in zip(zip(*columns), heard, strict=True)
    ]


def _method_data(method: ReportMethod, views: Sequence[ReportView], mel: MelSpectrogram) -> dict[str, Any]:
    n_contrasts = 0 if method.contrasts is None else len(method.contrasts)
    n_maps = max(stop for view in views for _, stop in view.spans) - n_contrasts
    maps = checked_array(f"the maps of {method.name}", method.maps, (n_maps, *mel.energy.shape))
    levels, largest = quantized(maps)
    contrasts = {}
    if method.contrasts is not None:
        own = checked_array(f"the contrasts of {method.name}", method.contrasts, (n_contrasts, *mel.energy.shape))
        signed_levels, most = quantized(np.concatenate((own, np.full_like(own[:1], -1))))  # with both signs
        contrasts = {"contrasts": packed(signed_levels[:-1]), "largestContrast": most}
    previous = [
        checked_array("previous", values, (len(view.titles), len(view.previous)))
        for view, values in zip(views, method.previous, strict=True)
    ]
    return {
        "signed": bool((maps < 0).any()),
        "positive": method.positive,
        "largest": largest,
        "maps": packed(levels),
        **contrasts,
        "previous": [np.round(values.astype(float), 4).tolist() for values in previous],
        "reliability": [
            [None if np.isnan(one) else round(one, 3) for one in rows.tolist()] for rows in method.reliability
        ],
    }


def _color_table(signed: bool, dark: bool) -> np.ndarray:
    """256 colours, (256, 4) of 8 bits."""
    return np.round(255 * fading_colors(signed, dark)(np.arange(256))).astype(np.uint8)


def _readable(facts: dict[str, Any]) -> list[tuple[str, str]]:
    """Names and values of facts as texts; empty values are left out."""
    texts = ((clean(str(name).replace("_", " ")), clean(_in_words(fact))) for name, fact in facts.items())
    return [(name, text[:MAX_FACT]) for (name, text), fact in zip(texts, facts.values()) if fact not in (None, {}, [])]


def _in_words(fact: Any) -> str:
    if isinstance(fact, dict):
        parts = (
            (name, f"({_in_words(part)})" if isinstance(part, dict) else _in_words(part)) for name, part in fact.items()
        )
        return ", ".join(f"{name} {part}" for name, part in parts)
    if isinstance(fact, bool):
        return "yes" if fact else "no"
    return ", ".join(map(_in_words, fact)) if isinstance(fact, (list, tuple)) else str(fact)
