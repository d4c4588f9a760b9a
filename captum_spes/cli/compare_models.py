"""``captum-spes compare --models``: two models on one recording."""

from __future__ import annotations

import re
from pathlib import Path

from captum_spes import Contrast
from captum_spes.audio import Recording
from captum_spes.cli.inputs import Inputs, fit, transcribe, window_of
from captum_spes.cli.output import print_table, progress, say, say_written
from captum_spes.evaluation.models import ModelComparison, Side
from captum_spes.explanation import SpeechToTextExplanation
from captum_spes.models import load_model
from captum_spes.models.context import Context
from captum_spes.models.protocol import Task
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
    sides = []
    for number, name in enumerate(names, 1):
        say(f"\n[{number}/{len(names)}] {name}")
        model = load_model(name, device=device, language=language, task=task)
        inputs = fit(transcribe(recording, model, None, num_beams), preset, window_of(context, preset, named))

        def explain(contrast: Contrast | None = None, inputs: Inputs = inputs) -> SpeechToTextExplanation:
            with progress(can_stop=False) as callback:
                return named.explain(
                    inputs.model,
                    inputs.utterance,
                    inputs.tokens,
                    preset,
                    contrast=contrast,
                    perturbations_per_eval=batch_size,
                    seed=seed,
                    gen_args=inputs.gen_args,
                    callback=callback,
                )

        explanation = explain()
        explanation.save(folder / f"{file_name(name)}.safetensors")
        sides.append(Side(inputs.model, inputs.utterance, inputs.tokens, explanation, explain))
    comparison = ModelComparison(names, sides)
    n = len(comparison.differences)
    say(f"\n{n or 'No'} difference{'' if n == 1 else 's'}")
    comparison.explain_differences(lambda error: say(f"{error.title}: {error.reason}"))
    if n:
        print_table(
            comparison.table(), "Differences, and the probability of the own and of the other words by each model"
        )
    paths = [folder / f"{file_name(name)}.safetensors" for name in names]
    say_written([*paths, *comparison.save(folder, recording)])


def file_name(model: str) -> str:
    """A file name for a model, which is given by its name, its id on the hub, or its folder."""
    return re.sub(r"[^\w.-]+", "-", model.strip("/")) or "model"
