"""``captum-spes compare``."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Annotated

import typer

from captum_spes.cli.compare_models import compare_models
from captum_spes.cli.folders import results_folder
from captum_spes.cli.inputs import audio_line, fit, read, stem, transcribe
from captum_spes.cli.options import (
    METHOD,
    Audio,
    BatchSize,
    Budget,
    Context,
    Device,
    Language,
    Model,
    NumBeams,
    Seed,
    Target,
    Task,
    split_names,
)
from captum_spes.cli.output import print_table, progress, say, say_written
from captum_spes.cli.ranks import refuse_ranks
from captum_spes.evaluation.comparison import DEFAULT_METHODS, Comparison
from captum_spes.evaluation.store import read_json
from captum_spes.models import load_model
from captum_spes.speech_to_text.catalogue import describe_methods, find_method

# options of this command alone
Methods = Annotated[
    str | None,
    typer.Option(
        help=f"Names of methods, with commas between them. Default: {','.join(DEFAULT_METHODS)}; of two models, "
        "the one that `explain` takes.",
        show_default=False,
    ),
]
Models = Annotated[
    str | None,
    typer.Option(help="Two models in place of --model, with a comma between them: what each writes, and why."),
]
ListMethods = Annotated[bool, typer.Option("--list", help="List the methods and what they take.")]
Output = Annotated[
    Path | None,
    typer.Option(
        "--output",
        "-o",
        help="Folder for the results. Default: spes-output/<audio's name>-compare, and …-compare-models with --models.",
    ),
]


def compare(
    audio: Audio = None,
    methods: Methods = None,
    models: Models = None,
    list_methods: ListMethods = False,
    model: Model = "whisper-tiny.en",
    language: Language = None,
    task: Task = "transcribe",
    preset: Budget = "fast",
    context: Context = None,
    target: Target = None,
    num_beams: NumBeams = 1,
    device: Device = None,
    batch_size: BatchSize = None,
    seed: Seed = 0,
    output: Output = None,
) -> None:
    """Compare attribution methods on one utterance: figures on one scale, and a table of cost and infidelity.

    The same command continues a comparison that was stopped. With --models, two models are compared instead: their
    texts word by word, the maps of shared words, and contrasts of the words that differ.
    """
    if list_methods:
        return print_table(describe_methods(), "Attribution methods (_abs: without the sign)")
    refuse_ranks("compare", "It measures time.")
    names = split_names(",".join(DEFAULT_METHODS) if methods is None else methods, "--methods")
    for name in names:
        if find_method(name).arguments.get("sentence"):
            raise ValueError(f"{name} explains the text as a whole, so it cannot be compared token by token.")
    two = None if models is None else _two_models(models, target)
    if two is not None and methods is not None and len(names) != 1:
        raise ValueError("--models compares models by one method: name one with --methods.")
    if output is not None:
        _check_kind(output, of_models=two is not None)
    say(audio_line(audio))
    recording = read(audio)
    kind = "compare" if two is None else "compare-models"
    folder = results_folder(output, f"{stem(audio)}-{kind}", recording.source.get("audio_sha256"))
    if two is not None:
        return compare_models(
            two,
            find_method(METHOD[preset] if methods is None else names[0]),
            recording,
            folder,
            language=language,
            task=task,
            preset=preset,
            context=context,
            num_beams=num_beams,
            device=device,
            batch_size=batch_size,
            seed=seed,
        )
    speech_model = load_model(model, device=device, language=language, task=task)
    inputs = fit(transcribe(recording, speech_model, target, num_beams), preset, context or "auto")
    comparison = Comparison(
        inputs.model, inputs.utterance, inputs.tokens, preset, seed, batch_size, inputs.gen_args, folder
    )
    _report(comparison, folder, interrupted=_run_all(comparison, names))


def _report(comparison: Comparison, folder: Path, interrupted: bool) -> None:
    """Prints the tables of the methods that were run, and writes the files of the comparison."""
    if not comparison.explanations:
        if interrupted:  # in the first method
            raise typer.Exit(128 + signal.SIGINT)
        raise ValueError("no method could be run.")
    print_table(comparison.table(), "Cost and infidelity (smaller is better)")
    print_table(comparison.rank_table(), "Spearman's correlation of the maps, mean over the tokens")
    say_written([*map(comparison.path, comparison.explanations), *comparison.save(folder)])
    if interrupted:
        raise typer.Exit(128 + signal.SIGINT)


def _two_models(models: str, target: str | None) -> list[str]:
    names = split_names(models, "--models")
    if len(names) != 2:
        raise ValueError(f"--models takes two different models, with a comma between them, not {len(names)}.")
    if target is not None:
        raise ValueError("--models compares what models write: leave out --target.")
    return names


def _check_kind(folder: Path, of_models: bool) -> None:
    """Raises a ValueError if a folder holds a comparison of methods and not of models, or the other way round."""
    path = folder / "comparison.json"
    if path.is_file() and ("methods" in read_json(path, "give another --output")) == of_models:
        kind = "methods" if of_models else "models"
        raise ValueError(f"{path} is of a comparison of {kind}, and would be overwritten: give another --output.")


def _run_all(comparison: Comparison, names: list[str]) -> bool:
    """Runs the methods one by one. Returns whether Ctrl-C stopped the run."""
    for number, name in enumerate(names, 1):
        say(f"\n[{number}/{len(names)}] {name}")
        try:
            with progress(can_stop=False) as callback:
                comparison.run(name, callback)
        except ValueError as error:
            say(f"Left out: {error}", error=True)
        except KeyboardInterrupt:
            saved = "The finished methods are saved. Run the same command again to continue."
            say(f"Stopped in {name}. {saved}", error=True)
            return True
    return False
