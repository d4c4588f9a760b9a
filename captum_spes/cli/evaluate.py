"""``captum-spes evaluate``."""

from __future__ import annotations

import math
import signal
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from tqdm import tqdm

from captum_spes.cli.inputs import generation, language_line, window_of
from captum_spes.cli.options import (
    WINDOWS,
    AllowOutside,
    Budget,
    Context,
    Device,
    Language,
    Model,
    NormalizerName,
    NumBeams,
    Preset,
    ReferenceName,
    ScoreName,
    Seed,
    Task,
    TaskName,
    split_names,
)
from captum_spes.cli.output import make_folder, print_table, say
from captum_spes.corpus import CorpusUtterance, load_corpus
from captum_spes.evaluation import METRICS, Evaluation
from captum_spes.metrics import Bleu, WordErrorRate
from captum_spes.models import load_model
from captum_spes.named_methods import FLOORS, find_method
from captum_spes.results import MIN_PAIRS, Results


def evaluate(
    corpus: Annotated[
        Path,
        typer.Argument(help="Manifest (.csv or .jsonl with file_name and transcription), or a folder of audio files."),
    ],
    methods: Annotated[
        str, typer.Option(help="Names of methods, with commas between them; the floors are always added.")
    ] = "spes,feature_wise,bubble_noise,integrated_gradients",
    metrics: Annotated[str, typer.Option(help="Some of deletion,insertion,size.")] = ",".join(METRICS),
    model: Model = "whisper-tiny.en",
    language: Language = None,
    task: Task = TaskName.TRANSCRIBE,
    preset: Budget = Preset.fast,
    n_samples: Annotated[
        int | None,
        typer.Option(min=1, help="Perturbations of SPES, its variants and Bubble Noise, in place of the preset's."),
    ] = None,
    allow_outside: AllowOutside = False,
    n_utterances: Annotated[int | None, typer.Option(min=1, help="Only the first so many.")] = None,
    reference: Annotated[
        ReferenceName | None,
        typer.Option(help="What texts are scored against. Default: the transcriptions, where there are any."),
    ] = None,
    score: Annotated[ScoreName, typer.Option(help="wer for transcripts, bleu for translations.")] = ScoreName.wer,
    normalizer: Annotated[
        NormalizerName, typer.Option(help="Of the WER: Whisper's for English, its basic one, or none.")
    ] = NormalizerName.english,
    step: Annotated[float, typer.Option(help="Percent of the bins from step to step of deletion and insertion.")] = 5,
    until: Annotated[float, typer.Option(help="Percent of the bins of the last step.")] = 100,
    context: Context = None,
    num_beams: NumBeams = 1,
    device: Device = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Perturbations evaluated at once.")] = 16,
    seed: Seed = 0,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Folder for the results. Default: spes-output/<corpus's name>-evaluation."),
    ] = None,
) -> None:
    """Evaluate attribution methods on a corpus: deletion, insertion and size, with intervals, tests and curves.

    The same command goes on with a run that was stopped.
    """
    chosen = {name: find_method(name) for name in (*split_names(methods, "--methods"), *FLOORS)}
    if n_samples is not None:
        chosen = {k: m.with_samples(n_samples) if m.samples_perturbations else m for k, m in chosen.items()}
    how = WordErrorRate(normalizer.value) if score is ScoreName.wer else Bleu()
    utterances = load_corpus(corpus, allow_outside=allow_outside)
    utterances = replace(utterances, utterances=utterances.utterances[:n_utterances])
    name = (corpus.parent if corpus.is_file() else corpus).resolve().name
    folder = make_folder(output or Path("spes-output") / f"{name}-evaluation")
    evaluation = Evaluation(
        load_model(model, device=device, language=language, task=task.value),
        utterances,
        chosen,
        folder,
        metrics=split_names(metrics, "--metrics"),  # type: ignore[arg-type]
        preset=preset.value,
        seed=seed,
        context=window_of(preset, context),
        dtype=WINDOWS[preset][1],
        gen_args=generation(num_beams),
        percentages=percentages(step, until),
        perturbations_per_eval=batch_size,
    )
    interrupted = _run_evaluation(evaluation)
    try:
        results = evaluation.results(how, None if reference is None else reference.value)
    except ValueError:
        if interrupted:  # before there was one
            raise typer.Exit(128 + signal.SIGINT) from None
        raise
    _report_results(results, folder)
    if interrupted:
        raise typer.Exit(128 + signal.SIGINT)


def _run_evaluation(evaluation: Evaluation) -> bool:
    """Runs what is missing under progress bars; whether Ctrl-C ended it."""
    corpus = evaluation.corpus
    n_done, total = evaluation.progress()
    left_out = f", {len(corpus.problems)} left out" if corpus.problems else ""
    say(f"Corpus:     {len(corpus.utterances)} utterances of {corpus.source}{left_out}")
    say(f"Model:      {evaluation.model.name}")
    if line := language_line(evaluation.model, getattr(evaluation.model, "language", None)):
        say(line)
    say(f"Methods:    {', '.join(evaluation.methods)}")
    if n_done:
        say(f"Resuming:   {n_done} of {total} explanations are there.")
    sys.stdout.flush()
    warnings.filterwarnings("ignore", "the maps are noisy")  # a table says how reliable they are
    signal.signal(signal.SIGINT, signal.default_int_handler)  # what is finished is on disk
    with (
        tqdm(total=total - n_done, desc="explanations", dynamic_ncols=True, disable=n_done == total) as bar,
        tqdm(leave=False, dynamic_ncols=True, disable=n_done == total) as batches,
    ):

        def callback(item: CorpusUtterance, method: str, stage: str, n_done: int, total: int) -> None:
            if stage == "finished":
                bar.update()
                return
            if batches.desc != f"{item.id}, {method}, {stage}: ":
                batches.reset(total)
                batches.set_description(f"{item.id}, {method}, {stage}")
            batches.update(n_done - batches.n)

        try:
            evaluation.run(callback)
        except KeyboardInterrupt:
            tqdm.write("Stopped. What is finished is kept; the same command goes on with the rest.", sys.stderr)
            return True
    return False


def _report_results(results: Results, folder: Path) -> None:
    """Prints the tables of an evaluation and writes its files."""
    print_table(results.table(), f"Areas of {len(results.utterances)} utterances [95 % interval]")
    print_table(results.cost_table(), "Cost of an explanation (median)")
    few = f"fewer than {MIN_PAIRS} utterances decide nothing; intervals are in summary.md"
    print_table(results.paired_table(intervals=False), f"Against {results.baseline} ({few})")
    if results.problems:
        say("\nLeft out:")
        for name, reason in results.problems.items():
            say(f"  {name}: {reason}")
    say("\nWrote " + "\n      ".join(map(str, results.save(folder))))


def percentages(step: float, until: float) -> list[float]:
    """The steps of deletion and insertion: from 0, ``step`` by ``step``, and the last one ``until``."""
    if not 0 < step <= until <= 100:
        raise ValueError(f"--step and --until must be percentages, the step at most the other, not {step} and {until}.")
    n_steps = round(until / step, 9)  # 0.6 / 0.2 is 2.9999999999999996 for a computer
    return [*(round(number * step, 9) for number in range(math.ceil(n_steps))), until]
