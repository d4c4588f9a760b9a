"""The utterance that explain and compare are given, as the model hears it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

from captum_spes import SPES, SpeechToTextAttribution
from captum_spes.cli.options import WINDOWS, Preset, parse_context
from captum_spes.cli.output import say
from captum_spes.models import load_model
from captum_spes.models.context import context_seconds
from captum_spes.models.protocol import SpeechToTextModel, Tokens, Utterance

SAMPLE = "so_what_was_the_next_step.wav"


@dataclass(frozen=True)
class Inputs:
    """A model, and what it heard and wrote."""

    model: SpeechToTextModel
    utterance: Utterance
    tokens: Tokens
    gen_args: dict[str, Any]


def prepare(
    audio: Path | None,
    model: str,
    preset: Preset,
    context: str | None,
    target: str | None,
    num_beams: int,
    device: str | None,
) -> Inputs:
    """Loads the model, lets it write, and says what it wrote."""
    window, dtype = WINDOWS[preset]
    if context is not None:
        window = parse_context(context)
    say(f"Audio:      {audio or 'the bundled sample (synthesised speech)'}")
    speech_model = load_model(model, device=device)
    gen_args = {"num_beams": num_beams} if num_beams > 1 else {}
    attribution = SpeechToTextAttribution(SPES(speech_model))
    with audio_file(audio) as path:
        utterance, tokens = attribution.prepare(path, target, gen_args=gen_args, context=window, dtype=dtype)
    say(
        f"Model:      {speech_model.name} on {utterance.spectrogram.device}, "
        f"{str(utterance.dtype).removeprefix('torch.')}, {context_seconds(speech_model, utterance):g} s of context"
    )
    say(f"Transcript: {attribution.text(tokens)}")
    return Inputs(speech_model, utterance, tokens, gen_args)


def stem(audio: Path | None) -> str:
    """What the results of a recording are named after."""
    return (audio or Path(SAMPLE)).stem


@contextmanager
def audio_file(audio: Path | None) -> Iterator[Path]:
    """The path of the recording, or of the bundled sample."""
    if audio is not None:
        yield audio
        return
    with as_file(files("captum_spes") / "data" / SAMPLE) as path:
        yield path
