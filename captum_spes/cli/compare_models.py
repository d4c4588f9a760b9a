"""``captum-spes compare --models``: two models on one recording."""

from __future__ import annotations

import math
import re
import signal
from contextlib import suppress
from functools import partial
from pathlib import Path

import typer

from captum_spes.audio import Recording
from captum_spes.cli.inputs import Inputs, fit, transcribe, window_of
from captum_spes.cli.output import print_table, say, say_written
from captum_spes.errors.finding import check_reference
from captum_spes.evaluation.model_comparison import ModelComparison, Side, check_shapes
from captum_spes.models import load_model, text
from captum_spes.models.context import Context
from captum_spes.models.protocol import Task, text_language
from captum_spes.speech_to_text.catalogue import NamedMethod, Preset


def compare_models(
    names: list[str],
    named: NamedMethod,
    recording: Recording,
    folder: Path,
    *,
    language: str | None,
    task: Task,
    preset: Preset,
    context: Context | None,
    num_beams: int,
    device: str | None,
    batch_size: int | None,
    seed: int,
) -> None:
    """Explains the texts of two models and their differences, and writes figures and a report."""
    every: list[Inputs] = []
    for name in names:
        say(f"\n{name}")
        model = load_model(name, device=device, language=language, task=task)
        every.append(transcribe(recording, model, None, num_beams))
    _check(names, every)
    sides = []
    stems = [file_name(name) for name in names]
    if stems[0] == stems[1]:
        stems[1] += "-2"
    paths = [folder / f"{stem}.safetensors" for stem in stems]
    try:
        for number, (name, path, given) in enumerate(zip(names, paths, every), 1):
            say(f"\n[{number}/{len(names)}] {name}")
            inputs = fit(given, preset, window_of(context, preset, named))
            checkpoint = folder / "checkpoints" / path.stem
            explain = partial(inputs.explain, named, preset, batch_size, seed)
            explanation = explain(checkpoint=checkpoint)
            explanation.save(path)
            with suppress(OSError):  # it is not empty while the other is not finished
                checkpoint.parent.rmdir()
            sides.append(Side(inputs.model, inputs.utterance, inputs.tokens, explanation, explain))
        comparison = ModelComparison(names, sides)
        n = len(comparison.differences)
        say(f"\n{n or 'No'} difference{'' if n == 1 else 's'}")
        comparison.explain_differences(lambda error: say(f"{error.title}: {error.reason}"))
    except KeyboardInterrupt:
        say("\nStopped before the models could be compared. The same command compares them again.", error=True)
        raise typer.Exit(128 + signal.SIGINT) from None
    if n:
        print_table(
            comparison.table(), "Differences, and the probability of the own and of the other words by each model"
        )
    say_written([*paths, *comparison.save(folder, recording)])


def _check(names: list[str], every: list[Inputs]) -> None:
    """Raises a ValueError if the maps of two models, or their texts, cannot be compared."""
    first, second = every
    check_shapes(names, first.utterance.spectrogram[0], second.utterance.spectrogram[0])
    texts = [text(inputs.model, inputs.tokens) for inputs in every]
    tokens = first.model.token_texts(first.tokens.target)
    try:
        check_reference(texts[1], tokens, math.inf, language=text_language(first.model, first.tokens))
    except ValueError as error:
        raise ValueError(
            f"{names[0]} wrote {texts[0].strip()!r:.80} and {names[1]} {texts[1].strip()!r:.80}, which have no word in "
            "common, so that there are no differences to explain."
        ) from error


def file_name(model: str) -> str:
    """A file name for a model, which is given by its name, its id on the hub, or its folder."""
    return re.sub(r"[^\w.-]+", "-", model).strip(".-") or "model"  # files that begin with a dot are hidden
