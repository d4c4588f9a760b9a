"""Reads the recording for explain and compare, and prepares it for the model."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

from captum_spes import Contrast, models
from captum_spes._files import why_unreadable
from captum_spes.audio import Recording, read_recording, sample_recording
from captum_spes.audio.reading import MAX_BYTES, SAMPLE
from captum_spes.cli.options import DTYPES
from captum_spes.cli.output import progress, say
from captum_spes.explanation import SpeechToTextExplanation
from captum_spes.models.context import Context, describe_context, fit_utterance
from captum_spes.models.protocol import SpeechToTextModel, Tokens, Utterance, language_of
from captum_spes.speech_to_text.catalogue import NamedMethod, Preset

STDIN = Path("-")


@dataclass(frozen=True)
class Inputs:
    """A model with an utterance and the tokens of its text."""

    model: SpeechToTextModel
    utterance: Utterance
    tokens: Tokens
    gen_args: dict[str, Any]

    def explain(
        self,
        named: NamedMethod,
        preset: Preset,
        batch_size: int | None,
        seed: int,
        contrast: Contrast | None = None,
        can_stop: bool = False,
        show: bool = True,
        **arguments: Any,
    ) -> SpeechToTextExplanation:
        """Explains the text, or a contrast in it, with the progress in bars."""
        with progress(can_stop, show) as callback:
            return named.explain(
                self.model,
                self.utterance,
                self.tokens,
                preset,
                contrast=contrast,
                perturbations_per_eval=batch_size,
                seed=seed,
                gen_args=self.gen_args,
                callback=callback,
                **arguments,
            )


def read(audio: Path | None) -> Recording:
    """Reads the recording, from standard input for ``-``, or the bundled sample."""
    if audio == STDIN:
        return _read_stream(sys.stdin.buffer)
    if audio is not None and why_unreadable(audio) is None and audio.is_fifo():
        with audio.open("rb") as pipe:
            return _read_stream(pipe)
    if audio is not None:
        return read_recording(audio, allow_silence=True)
    return sample_recording()


def _read_stream(stream: BinaryIO) -> Recording:
    """Reads a recording as bytes, by whose SHA-256 a later run recognises it."""
    return read_recording(stream.read(MAX_BYTES + 1), allow_silence=True)


def transcribe(
    recording: Recording,
    model: SpeechToTextModel,
    target: str | None,
    num_beams: int,
    prompt: str | None = None,
) -> Inputs:
    """Lets the model transcribe a recording in its full window, and prints the text."""
    gen_args = generation(num_beams)
    utterance, tokens = models.prepare(model, recording, target, prompt=prompt, gen_args=gen_args, context="full")
    say(f"Model:      {model.name}")
    if line := language_line(model, language_of(model, tokens)):
        say(line)
    say(f"Transcript: {models.text(model, tokens)}")
    return Inputs(model, utterance, tokens, gen_args)


def fit(inputs: Inputs, preset: Preset, context: Context) -> Inputs:
    """Chooses how the window is run and in which precision, and prints it."""
    model, utterance = inputs.model, inputs.utterance
    with progress(can_stop=False) as callback:
        utterance = fit_utterance(
            model,
            utterance,
            inputs.tokens,
            context,
            DTYPES[preset],
            inputs.gen_args,
            callback,
        )
    precision = str(utterance.dtype).removeprefix("torch.")
    say(f"Context:    {describe_context(model, utterance)}; {precision} on {utterance.spectrogram.device}")
    return replace(inputs, utterance=utterance)


def language_line(model: SpeechToTextModel, language: str | None) -> str | None:
    """A line with language and task; None if the model has neither."""
    task = getattr(model, "task", "transcribe")
    if language is None and task == "transcribe":
        return None
    detected = " (detected)" if getattr(model, "language", None) is None else ""
    return f"Language:   {'any' if language is None else language + detected}, {task}"


def window_of(context: Context | None, preset: Preset, method: NamedMethod) -> Context:
    """How the window is run for a method.

    The default of the instant preset is without a probe, which would take longer than a method that does not perturb.
    """
    if context is None:
        return "unperturbed" if preset == "instant" and not method.perturbs else "auto"
    return context


def generation(num_beams: int) -> dict[str, Any]:
    """The arguments of the model's generation."""
    return {"num_beams": num_beams} if num_beams > 1 else {}


def audio_line(audio: Path | None) -> str:
    """A line with the name of the recording."""
    return f"Audio:      {'standard input' if audio == STDIN else audio or 'the bundled sample (synthesised speech)'}"


def stem(audio: Path | None) -> str:
    """The name of a recording's results."""
    name = "stdin" if audio == STDIN else (audio or Path(SAMPLE)).stem
    return "recording" if name in (".", "..") else name  # of ...wav, which would be the folder above
