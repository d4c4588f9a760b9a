"""``captum-spes evaluate``."""

from __future__ import annotations

import math
import signal
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from tqdm import tqdm

from captum_spes._log import without_warnings
from captum_spes.cli.folders import evaluation_folder
from captum_spes.cli.inputs import generation, language_line
from captum_spes.cli.options import (
    DTYPES,
    AllowOutside,
    Budget,
    Context,
    Device,
    Language,
    Model,
    NumBeams,
    Seed,
    Task,
    split_names,
)
from captum_spes.cli.output import print_table, say, say_written
from captum_spes.cli.ranks import refuse_ranks
from captum_spes.evaluation import Evaluation, Workers
from captum_spes.evaluation.corpus import MANIFESTS, CorpusUtterance, load_corpus
from captum_spes.evaluation.evaluation import Reference
from captum_spes.evaluation.procedure import DEFAULT_METRICS, METRICS, Procedure
from captum_spes.evaluation.results import DAGGER, MIN_PAIRS, Results
from captum_spes.evaluation.summary import findings
from captum_spes.explanation.figures import LOW_RELIABILITY
from captum_spes.metrics import Bleu, WordErrorRate
from captum_spes.metrics.baselines import BASELINES
from captum_spes.metrics.text import NormalizerName, TextScore
from captum_spes.models import load_model
from captum_spes.speech_to_text.catalogue import FLOORS, NamedMethod, find_method

METRIC_NAMES = ",".join(DEFAULT_METRICS)

# options of this command alone
Manifest = Annotated[
    Path,
    typer.Argument(help="Manifest (.csv or .jsonl with file_name and transcription), or a folder of audio files."),
]
Methods = Annotated[
    str, typer.Option(help="Names of methods, with commas between them; random and energy are always added.")
]
Metrics = Annotated[str, typer.Option(help=f"Some of {','.join(METRICS)}.")]
DeletionBaselines = Annotated[
    str, typer.Option(help=f"Baselines of hidden bins in all metrics except size: some of {','.join(BASELINES)}.")
]
Samples = Annotated[
    int | None,
    typer.Option(min=1, help="Perturbations of SPES, its variants and Bubble Noise, in place of the preset's."),
]
Draws = Annotated[
    int | None,
    typer.Option(min=1, help="Random masks of GradientSPES and its variants, in place of the preset's."),
]
Utterances = Annotated[int | None, typer.Option(min=1, help="Evaluate only the first N utterances.")]
TextReference = Annotated[
    Reference | None,
    typer.Option(help="Reference of the texts. Default: the transcriptions, if there are any."),
]
Score = Annotated[Literal["wer", "bleu"], typer.Option(help="wer for transcripts, bleu for translations.")]
Normalizer = Annotated[
    NormalizerName, typer.Option(help="Normaliser of the WER: Whisper's for English, its basic one, or none.")
]
Step = Annotated[float, typer.Option(help="Percent of the bins from step to step of deletion and insertion.")]
Until = Annotated[float, typer.Option(help="Percent of the bins of the last step.")]
Batch = Annotated[int, typer.Option(min=1, help="Perturbations evaluated at once.")]
NumWorkers = Annotated[
    int | None,
    typer.Option(min=1, help="Processes of Ray that share the utterances (extra cluster). Default: this process."),
]
Address = Annotated[
    str | None,
    typer.Option(help="Address of a Ray cluster, auto or ray://host:10001; it has one worker per GPU by default."),
]
Output = Annotated[
    Path | None,
    typer.Option("--output", "-o", help="Folder for the results. Default: spes-output/<corpus's name>-evaluation."),
]


def evaluate(
    corpus: Manifest,
    methods: Methods = "spes,feature_wise,bubble_noise,integrated_gradients",
    metrics: Metrics = METRIC_NAMES,
    deletion_baselines: DeletionBaselines = "mean",
    model: Model = "whisper-tiny.en",
    language: Language = None,
    task: Task = "transcribe",
    preset: Budget = "fast",
    n_samples: Samples = None,
    n_draws: Draws = None,
    allow_outside: AllowOutside = False,
    n_utterances: Utterances = None,
    reference: TextReference = None,
    score: Score = "wer",
    normalizer: Normalizer = "english",
    step: Step = 5,
    until: Until = 100,
    context: Context = None,
    num_beams: NumBeams = 1,
    device: Device = None,
    batch_size: Batch = 16,
    seed: Seed = 0,
    workers: NumWorkers = None,
    address: Address = None,
    output: Output = None,
) -> None:
    """Evaluate attribution methods on a corpus: faithfulness and size, with intervals, tests and curves.

    The same command continues a run that was stopped, also with another number of --workers.
    """
    refuse_ranks("evaluate", "Give --workers to share the utterances among processes.")
    options: dict[str, Any] = {
        "methods": _find_methods(methods, n_samples, n_draws),
        "metrics": split_names(metrics, "--metrics"),
        "deletion_baselines": split_names(deletion_baselines, "--deletion-baselines"),
        "preset": preset,
        "seed": seed,
        "context": context or "auto",
        "dtype": DTYPES[preset],
        "gen_args": generation(num_beams),
        "percentages": percentages(step, until),
        "perturbations_per_eval": batch_size,
    }
    procedure = Procedure(**options)  # wrong arguments are refused before a model is loaded
    text_score = WordErrorRate(normalizer) if score == "wer" else Bleu()
    utterances = load_corpus(corpus, allow_outside=allow_outside)
    utterances = replace(utterances, utterances=utterances.utterances[:n_utterances])
    has_reference = reference != "transcription" or any(item.transcription for item in utterances.utterances)
    if procedure.writes and not has_reference:
        raise ValueError(
            f"no utterance of {corpus} has a transcription: leave out --reference transcription, and texts are scored "
            "against what the model writes when nothing is hidden."
        )
    folder = evaluation_folder(output, f"{_name(corpus)}-evaluation", _own_path(corpus))
    load = partial(load_model, model, language=language, task=task)
    pool = None if workers is None and address is None else Workers(load, workers, address, device)
    # with workers, this process only uses the settings of the model
    evaluation = Evaluation(load(device=device if pool is None else "cpu"), utterances, folder=folder, **options)
    interrupted = _run_evaluation(evaluation, pool)
    if (results := _results(evaluation, text_score, reference, interrupted)) is not None:
        _print_results(results)
        say_written(results.save(folder))
    if interrupted:
        raise typer.Exit(128 + signal.SIGINT)


def _own_path(corpus: Path) -> Path:
    """The path of a corpus: that of the folder, also for its own manifest, such as metadata.csv."""
    return corpus.parent if corpus.is_file() and corpus.name in MANIFESTS else corpus


def _name(corpus: Path) -> str:
    """The name of the results of a folder or manifest."""
    own = _own_path(corpus)
    # a folder may have several manifests, such as train.csv and test.csv
    return f"{own.parent.resolve().name}-{own.stem}" if own.is_file() else own.resolve().name


def _find_methods(names: str, n_samples: int | None, n_draws: int | None) -> dict[str, NamedMethod]:
    """The named methods and the baseline methods, with the given numbers of samples."""
    chosen = {name: find_method(name) for name in (*split_names(names, "--methods"), *FLOORS)}
    perturbing = [name for name, method in chosen.items() if method.samples_perturbations]
    by_gradients = [name for name, method in chosen.items() if method.samples_gradients]
    for option, number, taking, what in (
        ("--n-samples", n_samples, perturbing, "SPES, its variants and Bubble Noise"),
        ("--n-draws", n_draws, by_gradients, "GradientSPES and its variants"),
    ):
        if number is None:
            continue
        if not taking:
            raise ValueError(f"{option} is for {what}, and none of them is among --methods: leave it out.")
        chosen |= {name: chosen[name].with_samples(number, option) for name in taking}
    return chosen


def _announce(evaluation: Evaluation, workers: Workers | None) -> int:
    """Prints the plan of the run, and returns the number of missing explanations."""
    corpus = evaluation.corpus
    n_done, total = evaluation.progress()
    left_out = f", {len(corpus.problems)} left out" if corpus.problems else ""
    say(f"Corpus:     {len(corpus.utterances)} utterances of {corpus.source}{left_out}")
    say(f"Model:      {evaluation.model.name}")
    if line := language_line(evaluation.model, getattr(evaluation.model, "language", None)):
        say(line)
    say(f"Methods:    {', '.join(evaluation.methods)}")
    if workers is not None:
        number = "one for each GPU" if workers.n_workers is None else workers.n_workers
        say(f"Workers:    {number}, of {workers.address or 'a Ray on this machine'}")
    if n_done:
        say(f"Resuming:   {n_done} of {total} explanations are finished.")
    return total - n_done


def _run_evaluation(evaluation: Evaluation, workers: Workers | None) -> bool:
    """Runs the missing explanations under progress bars, and returns whether Ctrl-C ended the run."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # finished results are on disk
    n_missing = _announce(evaluation, workers)
    with (
        without_warnings("the maps are noisy"),  # the tables mark them
        tqdm(total=n_missing, desc="explanations", dynamic_ncols=True, disable=not n_missing) as bar,
        tqdm(leave=False, dynamic_ncols=True, disable=not n_missing or workers is not None) as batches,
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
            evaluation.run(callback, workers)
        except KeyboardInterrupt:
            tqdm.write("Stopped. Finished results are kept; the same command continues with the rest.", sys.stderr)
            return True
    return False


def _results(
    evaluation: Evaluation, text_score: TextScore, reference: Reference | None, interrupted: bool
) -> Results | None:
    """The results of an evaluation; None if Ctrl-C ended it before anything was finished."""
    try:
        return evaluation.results(text_score, reference)
    except ValueError:
        if interrupted:
            return None
        raise


def _print_results(results: Results) -> None:
    """Prints the tables of an evaluation, and what was left out."""
    say("\n" + " ".join(findings(results)))
    print_table(results.table(), f"Areas of {len(results.utterances)} utterances [95 % interval]")
    print_table(results.cost_table(), "Cost of an explanation (median)")
    few = f"undecided with fewer than {MIN_PAIRS} utterances; intervals are in summary.md"
    print_table(results.paired_table(intervals=False), f"Against {results.baseline} ({few})")
    if results.errors is not None:
        print_table(results.errors.table(), "Words by kind of error (medians)")
    for table in results.agreement_tables():
        print_table(table, "Agreement of the metrics about the methods [95 % interval]")
    if results.unreliable:
        say(f"{DAGGER} median reliability below {LOW_RELIABILITY}: another seed gives different maps.")
    if results.problems:
        say("\nLeft out:")
        for name, reason in results.problems.items():
            say(f"  {name}: {reason}")


def percentages(step: float, until: float) -> list[float]:
    """The steps of deletion and insertion, from 0 to ``until`` with the distance ``step``."""
    if not 0 < step <= until <= 100:
        raise ValueError(f"--step and --until must be percentages, with the step at most --until, not {step}, {until}.")
    n_steps = round(until / step, 9)  # 0.6 / 0.2 is 2.9999999999999996 in floating point
    return [*(round(number * step, 9) for number in range(math.ceil(n_steps))), until]
