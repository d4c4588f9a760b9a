"""Explains long recordings part by part into a folder; a resumed run explains the missing parts."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from captum_spes._log import without_warnings
from captum_spes.alignment import Segment, Transcript
from captum_spes.attr.fingerprint import differences, fingerprint
from captum_spes.audio import AudioLike, Recording, load_audio, read_recording, split_at_pauses
from captum_spes.explanation import LongExplanation, Part, SpeechToTextExplanation
from captum_spes.models import SpeechToTextModel, Tokens, Utterance, prepare, text
from captum_spes.models.context import Context, Dtype
from captum_spes.models.preparation import NoWordsError
from captum_spes.speech_to_text.profiles import defaults_of, title
from captum_spes.speech_to_text.provenance import describe_method, describe_model, versions

if TYPE_CHECKING:
    from captum_spes.speech_to_text.attribution import SpeechToTextAttribution
    from captum_spes.speech_to_text.run import Stage

# arguments of attribute() that change the result only by rounding, and those that belong to a single utterance
FREE = {"perturbations_per_eval", "show_progress", "callback"}
SINGLE = {"target", "word_times", "contrast", "checkpoint", "process_group"}

# explains an utterance and its tokens, with the times of the words if a transcript has them
Explain = Callable[[Utterance, Tokens, Sequence[Segment] | None], SpeechToTextExplanation]
# called with the explanation so far and the number of the part, and with the part's text or its explanation
OnText = Callable[[LongExplanation, int, str], Any]
OnExplained = Callable[[LongExplanation, int, SpeechToTextExplanation], Any]


class Stopped(Exception):
    """A callback has ended the run."""


def ending(callback: Stage | None) -> Stage | None:
    """A callback that ends the run by an exception, because Captum's methods continue whatever a callback returns."""
    if callback is None:
        return None

    def call(stage: str, done: int, total: int) -> None:
        if callback(stage, done, total):
            raise Stopped

    return call


def explain_parts(
    model: SpeechToTextModel,
    inputs: AudioLike,
    folder: str | os.PathLike[str],
    explain: Explain,
    settings: Mapping[str, Any],
    *,
    sampling_rate: int | None = None,
    max_seconds: float | None = None,
    transcript: Transcript | None = None,
    prompt: str | None = None,
    previous_text: bool = False,
    gen_args: dict[str, Any] | None = None,
    context: Context = "auto",
    dtype: Dtype | None = None,
    on_text: OnText | None = None,
    on_explained: OnExplained | None = None,
) -> LongExplanation:
    """Explains a recording part by part, and writes each part into a folder as soon as it is finished.

    Args:
        model: the model, which writes the text of each part.
        inputs: the recording, as for :func:`captum_spes.models.prepare`.
        folder: a new folder, or that of the same explanation, whose missing parts are then explained.
        explain: explains the utterance and tokens of one part. If it raises :class:`Stopped`, the run ends without
            the part.
        settings: the settings of the explanations, from :func:`settings_of`. A folder with other settings is refused.
        sampling_rate: samples per second of an array of samples.
        max_seconds: the longest part. Default: the model's window.
        transcript: the text to explain, cut between its segments. Default: what the model writes.
        prompt: text that the decoder reads before it writes a part; with ``previous_text``, before the first one.
        previous_text: whether the decoder reads what was written of the part before, as Whisper itself does.
        gen_args: arguments of the model's generation.
        context: how the model's window is run.
        dtype: precision of the model.
        on_text: called before a part is explained, with its text, which is empty if the model writes no words.
        on_explained: called after a part is explained, before it is written.

    Returns:
        LongExplanation: the explanation in the folder. No part is :attr:`~LongExplanation.missing` unless the run was
        stopped.

    Raises:
        ValueError: the folder holds parts with other settings; the message names each difference. Or ``max_seconds``
            is longer than the model's window, the transcript cannot be cut into parts, or one of them has more tokens
            than the model writes.
    """
    recording = read_recording(inputs, sampling_rate, allow_silence=True)
    rate = model.sample_rate
    samples = load_audio(recording, rate)
    if max_seconds is None:
        max_seconds = longest_seconds(model, len(samples) / rate)
    elif max_seconds > (longest := longest_seconds(model, math.inf)):
        raise ValueError(f"{model.name} hears at most {longest:g} s at once: max_seconds must not be {max_seconds:g}.")

    def sound(begin: float, end: float) -> Recording:
        span = {"start_seconds": begin, "stop_seconds": end}
        return Recording(samples[round(begin * rate) : round(end * rate)], rate, {**recording.source, **span})

    given = None if transcript is None else _cut(transcript, max_seconds, len(samples) / rate)
    if given is not None and not LongExplanation.exists(folder):
        _check_texts(model, given, sound, prompt, previous_text)
    spans = None if given is None else [span for span, _ in given]
    long = plan_parts(samples, rate, folder, max_seconds, settings, spans)
    for number in long.missing:
        written = None if given is None else given[number][1]
        part = long.parts[number]
        before = next((earlier.text for earlier in reversed(long.parts[:number]) if earlier.text), None)
        prepared = _prepared(
            model,
            sound(part.start, part.stop),
            None if written is None else written.text,
            prompt=before if previous_text and before else prompt,
            gen_args=gen_args,
            context=context,
            dtype=dtype,
        )
        if on_text is not None:
            on_text(long, number, "" if prepared is None else text(model, prepared[1]))
        words = None if written is None else written.words or None
        try:
            explanation = None if prepared is None else explain(*prepared, words)
        except Stopped:
            break
        if explanation is not None and on_explained is not None:
            on_explained(long, number, explanation)
        long.finish(number, explanation)
    return long


def _prepared(
    model: SpeechToTextModel, sound: Recording, target: str | None, **arguments: Any
) -> tuple[Utterance, Tokens] | None:
    """The utterance and the tokens of a part; None if the model writes no words."""
    try:
        return prepare(model, sound, target, **arguments)
    except NoWordsError:
        return None


def _cut(transcript: Transcript, max_seconds: float, duration: float) -> list[tuple[tuple[float, float], Transcript]]:
    """The span and the text of each part. A text without times is one part if the recording is short enough."""
    if not transcript.segments and duration <= max_seconds:
        return [((0.0, duration), transcript)]
    return transcript.parts(max_seconds, duration)


def _check_texts(
    model: SpeechToTextModel,
    given: Sequence[tuple[tuple[float, float], Transcript]],
    sound: Callable[[float, float], Recording],
    prompt: str | None,
    previous_text: bool,
) -> None:
    """Raises a ValueError for the first part of a transcript that the model cannot write."""
    for (begin, end), written in given:
        try:
            with without_warnings():  # they follow when the part is explained
                prepare(model, sound(begin, end), written.text, prompt=prompt, context="full")
        except ValueError as error:
            raise ValueError(f"the transcript from {begin:.1f} to {end:.1f} s: {error}") from error
        prompt = written.text if previous_text else prompt


def plan_parts(
    samples: np.ndarray,
    sampling_rate: int,
    folder: str | os.PathLike[str],
    max_seconds: float,
    settings: Mapping[str, Any],
    spans: Sequence[tuple[float, float]] | None = None,
) -> LongExplanation:
    """Cuts a recording into parts, or reads the parts of an earlier run with the same settings from the folder.

    Args:
        samples: the samples of the recording, (n,).
        sampling_rate: samples per second.
        folder: the folder of the parts.
        max_seconds: the longest duration of a part.
        settings: what the explanations depend on.
        spans: begin and end of each part in seconds. Default: from pause to pause.

    Raises:
        ValueError: the folder holds parts with other settings.
    """
    digest = hashlib.sha256(samples.tobytes()).hexdigest()
    settings = {"audio_sha256": digest, "max_seconds": max_seconds, **settings}
    if not LongExplanation.exists(folder):
        if spans is None:
            pauses = split_at_pauses(samples, sampling_rate, max_seconds)
            spans = [(begin / sampling_rate, end / sampling_rate) for begin, end in pauses]
        parts = [Part(begin, end) for begin, end in spans]
        long = LongExplanation(Path(folder), len(samples) / sampling_rate, parts, settings)
        long.write_index()
        return long
    long = LongExplanation.load(folder)
    if found := list(differences(long.settings, settings)):
        raise ValueError(
            f"{folder} holds parts that were explained otherwise: {'; '.join(found)}. Give the same arguments "
            "to continue it, or another folder."
        )
    return long


def settings_of(
    attribution: SpeechToTextAttribution,
    arguments: Mapping[str, Any],
    gen_args: dict[str, Any] | None,
    context: Context,
    dtype: Dtype | None,
    absolute: bool = False,
    prompt: str | None = None,
    previous_text: bool = False,
    transcript: Transcript | None = None,
) -> dict[str, Any]:
    """The settings on which the explanations of a recording's parts depend, by values that JSON can hold.

    They are the same in Python and on the command line: arguments that are left out have their defaults.

    Args:
        attribution: the method, wrapped with its model.
        arguments: arguments of :meth:`.SpeechToTextAttribution.attribute`.
        gen_args: arguments of the model's generation.
        context: how the model's window is run.
        dtype: precision of the model.
        absolute: whether the maps have absolute values.
        prompt: text that the decoder reads before it writes.
        previous_text: whether it reads the text of the part before.
        transcript: the text to explain, if it is not the model's.

    Raises:
        ValueError: an argument belongs to a single utterance.
    """
    if given := sorted(arguments.keys() & SINGLE):
        raise ValueError(
            f"attribute_long explains all parts of a recording with the same arguments, in one process: leave out "
            f"{' and '.join(given)}, or explain one part by attribute."
        )
    elsewhere = FREE | SINGLE | {"sampling_rate", "prompt", "gen_args", "context", "dtype"}
    parameters = signature(type(attribution).attribute).parameters
    defaults = {name: item.default for name, item in parameters.items() if item.default is not item.empty}
    counting = {name: value for name, value in {**defaults, **arguments}.items() if name not in elsewhere}
    name = title(attribution.attr_method)
    return {
        "method": f"|{name}|" if absolute else name,
        **({"method_settings": made} if (made := describe_method(attribution.attr_method)) else {}),
        "score": (attribution.score or defaults_of(attribution.attr_method).score).__name__,
        "arguments": fingerprint(counting),
        "prompt": prompt,
        "previous_text": previous_text,
        "transcript": None if transcript is None else fingerprint(asdict(transcript)),
        "version": versions().get("captum-spes"),  # defaults may change with it
        **describe_model(attribution.model, gen_args, context, dtype),
    }


def longest_seconds(model: SpeechToTextModel, duration: float) -> float:
    """Seconds of the model's window; the duration of the audio for a model without a window."""
    window = getattr(model, "window", None)
    return duration if window is None else window / model.frames_per_second
