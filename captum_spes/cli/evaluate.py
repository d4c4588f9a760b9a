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

from captum_spes.cli.folders import make_folder
from captum_spes.cli.inputs import generation, language_line, window_of
from captum_spes.cli.options import (
    DTYPES,
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
from captum_spes.cli.output import print_table, say
from captum_spes.evaluation import Evaluation
from captum_spes.evaluation.corpus import CorpusUtterance, load_corpus
from captum_spes.evaluation.distributed import Sharing, connect, device_of_rank
from captum_spes.evaluation.evaluation import METRICS
from captum_spes.evaluation.results import MIN_PAIRS, Results
from captum_spes.metrics import Bleu, WordErrorRate
from captum_spes.models import load_model
from captum_spes.speech_to_text.catalogue import FLOORS, NamedMethod, find_method


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
    n_draws: Annotated[
        int | None,
        typer.Option(min=1, help="Random masks of GradientSPES and its variants, in place of the preset's."),
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

    The same command goes on with a run that was stopped. Under torchrun, its ranks share the utterances:
    torchrun --standalone --nproc-per-node 4 -m captum_spes evaluate speech/
    """
    sharing = connect()
    if sharing is not None and sharing.rank > 0:
        _be_quiet()
    chosen = {name: find_method(name) for name in (*split_names(methods, "--methods"), *FLOORS)}
    if n_samples is not None:
        perturbing = [name for name, method in chosen.items() if method.samples_perturbations]
        chosen |= _with_samples(chosen, perturbing, n_samples, "--n-samples is for SPES, its variants and Bubble Noise")
    if n_draws is not None:
        by_gradients = [name for name, method in chosen.items() if method.samples_gradients]
        chosen |= _with_samples(chosen, by_gradients, n_draws, "--n-draws is for GradientSPES and its variants")
    how = WordErrorRate(normalizer.value) if score is ScoreName.wer else Bleu()
    utterances = load_corpus(corpus, allow_outside=allow_outside)
    utterances = replace(utterances, utterances=utterances.utterances[:n_utterances])
    name = (corpus.parent if corpus.is_file() else corpus).resolve().name
    folder = make_folder(output or Path("spes-output") / f"{name}-evaluation")
    evaluation = Evaluation(
        load_model(model, device=device_of_rank(device), language=language, task=task.value),
        utterances,
        chosen,
        folder,
        metrics=split_names(metrics, "--metrics"),  # type: ignore[arg-type]
        preset=preset.value,
        seed=seed,
        context=window_of(context, preset),
        dtype=DTYPES[preset],
        gen_args=generation(num_beams),
        percentages=percentages(step, until),
        perturbations_per_eval=batch_size,
    )
    interrupted = _run_evaluation(evaluation, sharing)
    if sharing is not None and sharing.rank > 0:
        raise typer.Exit(128 + signal.SIGINT if interrupted else 0)
    try:
        results = evaluation.results(how, None if reference is None else reference.value)
    except ValueError:
        if interrupted:  # before there was one
            raise typer.Exit(128 + signal.SIGINT) from None
        raise
    _report_results(results, folder)
    if interrupted:
        raise typer.Exit(128 + signal.SIGINT)


def _be_quiet() -> None:
    """Of several ranks the first speaks for all; errors aside."""
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    warnings.simplefilter("ignore")


def _with_samples(
    methods: dict[str, NamedMethod], names: list[str], number: int, what_for: str
) -> dict[str, NamedMethod]:
    if not names:
        raise ValueError(f"{what_for}, and none of them is among --methods: leave it out.")
    return {name: methods[name].with_samples(number, what_for.split()[0]) for name in names}


def _announce(evaluation: Evaluation, sharing: Sharing | None) -> int:
    """Says what is to be done; the number of explanations that are missing."""
    corpus = evaluation.corpus
    n_done, total = evaluation.progress()
    left_out = f", {len(corpus.problems)} left out" if corpus.problems else ""
    say(f"Corpus:     {len(corpus.utterances)} utterances of {corpus.source}{left_out}")
    say(f"Model:      {evaluation.model.name}")
    if line := language_line(evaluation.model, getattr(evaluation.model, "language", None)):
        say(line)
    say(f"Methods:    {', '.join(evaluation.methods)}")
    if sharing is not None:
        say(f"Ranks:      {sharing.world_size}, which share the utterances")
    if n_done:
        say(f"Resuming:   {n_done} of {total} explanations are there.")
    sys.stdout.flush()
    return total - n_done


def _run_evaluation(evaluation: Evaluation, sharing: Sharing | None) -> bool:
    """Runs what is missing under progress bars; whether Ctrl-C ended it."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # what is finished is on disk
    n_before = 0 if sharing is None else sharing.count(0)
    n_missing = _announce(evaluation, sharing) if sharing is None or sharing.rank == 0 else 0
    warnings.filterwarnings("ignore", "the maps are noisy")  # a table says how reliable they are
    with (
        tqdm(total=n_missing, desc="explanations", dynamic_ncols=True, disable=not n_missing) as bar,
        tqdm(leave=False, dynamic_ncols=True, disable=not n_missing or sharing is not None) as batches,
    ):

        def count(number: int = 0) -> None:
            bar.update(number if sharing is None else sharing.count(number) - n_before - bar.n)

        def callback(item: CorpusUtterance, method: str, stage: str, n_done: int, total: int) -> None:
            if stage == "finished":
                count(1)
            elif sharing is None:
                if batches.desc != f"{item.id}, {method}, {stage}: ":
                    batches.reset(total)
                    batches.set_description(f"{item.id}, {method}, {stage}")
                batches.update(n_done - batches.n)
            elif sharing.rank == 0:  # others may have finished something
                count()

        if sharing is not None:
            sharing.on_wait = count
        try:
            evaluation.run(callback, sharing)
        except KeyboardInterrupt:
            if sharing is None or sharing.rank == 0:
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
