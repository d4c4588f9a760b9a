"""Collects the data of an explanation for its interactive report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from captum_spes._files import png_bytes, sha256
from captum_spes.audio import AudioLike, read_recording
from captum_spes.explanation.errors import TextError
from captum_spes.explanation.figures import drawn_maps, is_signed, plot_times, relative
from captum_spes.explanation.listening import own_samples
from captum_spes.explanation.notices import no_speech_notice
from captum_spes.visualization.report import ReportMethod, ReportView, render_report
from captum_spes.words import word_spans

if TYPE_CHECKING:
    from captum_spes.explanation import SpeechToTextExplanation


def html(
    explanation: SpeechToTextExplanation,
    audio: AudioLike | Literal[False] | None = None,
    sampling_rate: int | None = None,
    others: Sequence[SpeechToTextExplanation] = (),
    errors: Sequence[TextError] = (),
    reference: str = "",
) -> str:
    """The page of :meth:`.SpeechToTextExplanation.to_html`, which documents the arguments."""
    given = _recording(explanation) if audio is None else audio
    samples, name = None, ""
    if given is not None and given is not False:
        recording = read_recording(given, sampling_rate, allow_silence=True)
        samples = own_samples(explanation, recording)
        name = Path(recording.source.get("audio_file", "")).name
    _check_others(explanation, others)
    views = [
        ReportView(
            name,
            rows.tokens,
            _spans(explanation, name),
            rows.previous_tokens,
            rows.n_previous.tolist(),
            rows.confidence,
        )
        for name, rows in _rows(explanation).items()
    ]
    methods = [_method(each) for each in (explanation, *others)]
    if errors:
        if others or explanation.grouped:
            raise ValueError("errors belong to one explanation of tokens: leave out others, or the errors.")
        view, methods[0] = _with_errors(explanation, errors, methods[0])
        views.append(view)
    return render_report(
        explanation.text,
        explanation.spectrogram,
        explanation.frames_per_second,
        explanation.mel_frequencies,
        views,
        methods,
        notice=no_speech_notice(explanation.metadata) or "",
        reference=reference,
        model=str(explanation.metadata.get("model", "")),
        audio=samples,
        audio_name=name,
        picture=None if explanation.grouped else png_bytes(plot_times(explanation, None), dpi=110),
    )


def _with_errors(
    explanation: SpeechToTextExplanation, errors: Sequence[TextError], method: ReportMethod
) -> tuple[ReportView, ReportMethod]:
    """The view of the errors, and the method with their maps: contrasts, or else those of the words themselves."""
    words, n_tokens = explanation.words(), len(explanation.tokens)
    token_spans = word_spans(explanation.tokens)
    n_previous = len(explanation.previous_tokens)
    spans: list[tuple[int, int]] = []
    contrasts: list[Tensor] = []
    previous = torch.zeros(len(errors), n_previous)
    counts, reliability = [], []
    for row, error in enumerate(errors):
        found = error.explanation
        number = min(error.words[0], len(token_spans) - 1)
        if found is None:
            stop = max(min(error.words[1], len(token_spans)), number + 1)
            spans.append((token_spans[number][0], token_spans[stop - 1][1]))
            previous[row] = words.token_attr[number]
            counts.append(int(words.n_previous[number]))
            known = words.reliability
            reliability.append(torch.nan if known is None else float(known[number]))
            continue
        spans.append((n_tokens + len(contrasts), n_tokens + len(contrasts) + 1))
        contrasts.append(relative(found).spectrogram_attr[0])
        own = found.normalize().token_attr[0]
        previous[row, : len(own)] = own
        counts.append(int(found.n_previous[0]))
        reliability.append(torch.nan if found.reliability is None else float(found.reliability[0]))
    view = ReportView(
        "errors",
        [error.title for error in errors],
        spans,
        explanation.previous_tokens,
        counts,
        notes=[error.reason for error in errors],
    )
    return view, replace(
        method,
        previous=[*method.previous, previous],
        reliability=[*method.reliability, torch.tensor(reliability)] if method.reliability else [],
        contrasts=torch.stack(contrasts) if contrasts else None,
    )


def _check_others(explanation: SpeechToTextExplanation, others: Sequence[SpeechToTextExplanation]) -> None:
    """Raises a ValueError if others cannot be shown together with an explanation."""
    for number, other in enumerate(others, 1):
        if (other.tokens, other.previous_tokens) != (explanation.tokens, explanation.previous_tokens):
            raise ValueError(
                f"explanation {number} of the others explains {other.tokens}, and this one {explanation.tokens}: only "
                "explanations of the same tokens can be shown together."
            )
        if other.spectrogram.shape != explanation.spectrogram.shape or not torch.allclose(
            other.spectrogram, explanation.spectrogram, atol=0.01
        ):
            raise ValueError(
                f"explanation {number} of the others is of another recording or model: give explanations of the same."
            )


def _recording(explanation: SpeechToTextExplanation) -> str | None:
    """The file that was explained, if it still exists and has not changed."""
    name = explanation.metadata.get("audio_file")
    if not isinstance(name, str) or not Path(name).is_file():
        return None
    return name if sha256(name) == explanation.metadata.get("audio_sha256") else None


def _rows(explanation: SpeechToTextExplanation) -> dict[str, SpeechToTextExplanation]:
    """The views of the report: tokens, words and the sentence."""
    rows = explanation.normalize()
    if explanation.grouped:
        return {"explained": rows}
    return {"tokens": rows, "words": rows.words(group_previous=True), "sentence": rows.sentence()}


def _spans(explanation: SpeechToTextExplanation, view: str) -> list[tuple[int, int]]:
    """The tokens of each row of the report."""
    if view == "words":
        return word_spans(explanation.tokens)
    n_tokens = len(explanation.tokens)
    return [(0, n_tokens)] if view == "sentence" else [(row, row + 1) for row in range(n_tokens)]


def _method(explanation: SpeechToTextExplanation) -> ReportMethod:
    """The data of one method for the report."""
    rows = _rows(explanation).values()
    drawn = drawn_maps(explanation, None)[0].spectrogram_attr
    hidden = ("method", "token_ids", "previous_token_ids", "token_times", "audio_file", "compared", "explained")
    return ReportMethod(
        name=str(explanation.metadata.get("method", "unknown method")),
        maps=drawn,
        previous=[row.token_attr for row in rows],
        reliability=[e.reliability for e in rows if e.reliability is not None],
        facts={name: fact for name, fact in explanation.metadata.items() if name not in hidden},
        positive=is_signed(explanation) and bool(drawn.min() >= 0),
    )
