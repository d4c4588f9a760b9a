"""The command line: ``captum-spes explain``, ``compare``, ``evaluate`` and ``analyze``."""

from __future__ import annotations

import math
import signal
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from enum import Enum
from importlib.resources import as_file, files
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import torch
import typer
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from captum_spes import SPES, Contrast, SpeechToTextAttribution, SpeechToTextExplanation
from captum_spes.analysis import MINIMAL_PAIR, SECTIONS, analyze
from captum_spes.comparison import DEFAULT_METHODS, Comparison
from captum_spes.corpus import CorpusUtterance, load_corpus
from captum_spes.evaluation import METRICS, Evaluation
from captum_spes.metrics import Bleu, WordErrorRate
from captum_spes.metrics.plausibility.kurtosis import MIN_COUNT
from captum_spes.models import load_model
from captum_spes.models.context import context_seconds
from captum_spes.models.protocol import SpeechToTextModel, Tokens, Utterance
from captum_spes.named_methods import FLOORS, describe_methods, find_method
from captum_spes.results import MIN_PAIRS, Results

if TYPE_CHECKING:
    from types import FrameType

SAMPLE = "so_what_was_the_next_step.wav"

# of the tables, in characters: numbers that a narrow terminal breaks are read better than those it leaves out
MAX_WIDTH = 130

app = typer.Typer(
    help="Explain why a speech-to-text model wrote each word.",
    pretty_exceptions_enable=False,
    add_completion=False,
)


class Preset(str, Enum):
    """Names of the budgets."""

    fast = "fast"
    paper = "paper"


# what explains where no method is named: the best map of the time, by benchmarks/estimators.py
METHOD = {Preset.fast: "gradient_spes", Preset.paper: "spes"}
# the window given to the model, and its precision
WINDOWS: dict[Preset, tuple[Literal["full", "auto"], torch.dtype | Literal["auto"]]] = {
    Preset.fast: ("auto", "auto"),
    Preset.paper: ("full", torch.float32),
}


class ReferenceName(str, Enum):
    """What texts may be scored against."""

    transcription = "transcription"
    model = "model"


class ScoreName(str, Enum):
    """Scores of texts."""

    wer = "wer"
    bleu = "bleu"


class NormalizerName(str, Enum):
    """What is done to texts before their words are counted."""

    english = "english"
    basic = "basic"
    none = "none"


# what the commands share
Audio = Annotated[
    Path | None, typer.Argument(help="Audio file (WAV, FLAC, OGG, MP3, …). Without it: the bundled sample.")
]
Model = Annotated[str, typer.Option(help="Bundled whisper-tiny.en, a Hugging Face id, or a local folder.")]
Budget = Annotated[Preset, typer.Option(help="fast: quick budgets, for 2 cores; paper: the paper's hyper-parameters.")]
Context = Annotated[
    str | None, typer.Option(help="Window given to the model: full, auto or seconds, in place of the preset's.")
]
Target = Annotated[str | None, typer.Option(help="Text to explain. Default: what the model writes.")]
NumBeams = Annotated[int, typer.Option(min=1, help="Beams with which the model writes.")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, … Default: a GPU where there is one.")]
BatchSize = Annotated[
    int | None,
    typer.Option(min=1, help="Perturbations evaluated at once. Default: 16, on a GPU what a short probe finds fast."),
]
Seed = Annotated[int, typer.Option(min=0, help="Seed of all that is random.")]


@app.command()
def explain(
    audio: Audio = None,
    model: Model = "whisper-tiny.en",
    method: Annotated[
        str | None,
        typer.Option(
            help="Attribution method; `compare --list` has them all. Default: gradient_spes with the fast preset, spes "
            "with the paper's."
        ),
    ] = None,
    preset: Budget = Preset.fast,
    n_samples: Annotated[
        int | None, typer.Option(min=1, help="Perturbations of the spectrogram, in place of the preset's.")
    ] = None,
    context: Context = None,
    target: Target = None,
    word: Annotated[str | None, typer.Option(help="Explain this word (or its number) against --foil.")] = None,
    foil: Annotated[str | None, typer.Option(help="The word that might have been written in place of --word.")] = None,
    num_beams: NumBeams = 1,
    device: Device = None,
    batch_size: BatchSize = None,
    seed: Seed = 0,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder for the results. Default: spes-output/<audio's name>.")
    ] = None,
) -> None:
    """Explain one utterance: which parts of the sound, and which words before, made the model write each word."""
    method = method or METHOD[preset]
    named = find_method(method)
    if n_samples is not None:
        if not named.takes_samples:
            raise ValueError(f"{method} takes no samples: leave out --n-samples.")
        named = named.with_samples(n_samples)
    if (word is None) != (foil is None):
        raise ValueError("--word and --foil belong together: give both, or none.")
    inputs = _prepare(audio, model, preset, context, target, num_beams, device)
    named.wrap(inputs.model)  # what cannot explain this model is refused before the folder is made
    given = named.arguments_of(inputs.model, preset.value, len(inputs.tokens.target))
    numbers = "".join(f", {name} {value}" for name, value in given.items() if isinstance(value, int))
    print(f"Method:     {method} ({preset.value} preset{numbers})", flush=True)
    contrast = None if word is None or foil is None else Contrast(int(word) if word.isdigit() else word, foil)
    folder = _make_folder(output or Path("spes-output") / _stem(audio))
    with _progress(can_stop=True) as callback:
        explanation = named.explain(
            inputs.model,
            inputs.utterance,
            inputs.tokens,
            preset.value,
            contrast=contrast,
            perturbations_per_eval=batch_size,
            seed=seed,
            gen_args=inputs.gen_args,
            callback=callback,
        )
    _report(explanation, _write(explanation, folder))
    if explanation.metadata["partial"]:
        raise typer.Exit(128 + signal.SIGINT)


@app.command()
def compare(
    audio: Audio = None,
    methods: Annotated[str, typer.Option(help="Names of methods, with commas between them.")] = ",".join(
        DEFAULT_METHODS
    ),
    list_methods: Annotated[bool, typer.Option("--list", help="List the methods and what they take, and end.")] = False,
    model: Model = "whisper-tiny.en",
    preset: Budget = Preset.fast,
    context: Context = None,
    target: Target = None,
    num_beams: NumBeams = 1,
    device: Device = None,
    batch_size: BatchSize = None,
    seed: Seed = 0,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Folder for the results. Default: spes-output/<audio's name>-compare."),
    ] = None,
) -> None:
    """Compare attribution methods on one utterance: figures on one scale, and a table of cost and infidelity."""
    if list_methods:
        return _print_table(describe_methods(), "Attribution methods (_abs: without the sign)")
    names = _names(methods, "--methods")
    for name in names:
        find_method(name)
    inputs = _prepare(audio, model, preset, context, target, num_beams, device)
    folder = _make_folder(output or Path("spes-output") / f"{_stem(audio)}-compare")
    comparison = Comparison(
        inputs.model, inputs.utterance, inputs.tokens, preset.value, seed, batch_size, inputs.gen_args
    )
    paths, interrupted = _run_all(comparison, names, folder)
    if not comparison.explanations:
        raise ValueError("no method could be run.")
    _print_table(comparison.table(), "Cost and infidelity (smaller is better)")
    _print_table(comparison.rank_table(), "Spearman's correlation of the maps, mean over the tokens")
    print("\nWrote " + "\n      ".join(map(str, [*paths, *comparison.save(folder)])))
    if interrupted:
        raise typer.Exit(128 + signal.SIGINT)


@app.command()
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
    preset: Budget = Preset.fast,
    n_samples: Annotated[
        int | None,
        typer.Option(min=1, help="Perturbations of SPES, its variants and Bubble Noise, in place of the preset's."),
    ] = None,
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
    chosen = {name: find_method(name) for name in (*_names(methods, "--methods"), *FLOORS)}
    if n_samples is not None:
        chosen = {k: m.with_samples(n_samples) if m.samples_perturbations else m for k, m in chosen.items()}
    how = WordErrorRate(normalizer.value) if score is ScoreName.wer else Bleu()
    utterances = load_corpus(corpus)
    utterances = replace(utterances, utterances=utterances.utterances[:n_utterances])
    window, dtype = WINDOWS[preset]
    name = (corpus.parent if corpus.is_file() else corpus).resolve().name
    folder = _make_folder(output or Path("spes-output") / f"{name}-evaluation")
    evaluation = Evaluation(
        load_model(model, device=device),
        utterances,
        chosen,
        folder,
        metrics=_names(metrics, "--metrics"),  # type: ignore[arg-type]
        preset=preset.value,
        seed=seed,
        context=window if context is None else _parse_context(context),
        dtype=dtype,
        gen_args={"num_beams": num_beams} if num_beams > 1 else {},
        percentages=_percentages(step, until),
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


@app.command("analyze")
def analyze_folder(
    folder: Annotated[Path, typer.Argument(help="Folder with explanations, as explain and evaluate write them.")],
    alignments: Annotated[
        Path | None, typer.Option(help="Folder of alignments: .TextGrid or .json files named like the utterances.")
    ] = None,
    corpus: Annotated[
        Path | None,
        typer.Option(help="Manifest or folder of the audio: for alignments beside it, and for its column gender."),
    ] = None,
    force_align: Annotated[
        bool, typer.Option("--force-align", help="Align the corpus' English audio where there is no alignment.")
    ] = False,
    words: Annotated[str, typer.Option(help="Words whose frequencies are compared.")] = ",".join(MINIMAL_PAIR),
    min_count: Annotated[
        int, typer.Option(min=1, help="Occurrences of the tokens that are looked at by themselves; the paper's 100.")
    ] = MIN_COUNT,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder for the results. Default: analysis, in the folder.")
    ] = None,
) -> None:
    """Analyse how plausible explanations are: do they agree with phonetics, and with how language works?"""
    report = analyze(
        folder,
        alignments=alignments,
        corpus=None if corpus is None else load_corpus(corpus),
        min_count=min_count,
        words=_names(words, "--words"),
        align=force_align,
        callback=lambda method: print(f"Analysing {method}", flush=True),
    )
    paths = report.save(_make_folder(output or folder / "analysis"))
    done = [section.title for name, section in SECTIONS.items() if report.findings[name]]
    print(f"\nDone: {', '.join(done)} (min_count {min_count})")
    if report.problems:
        print("\nNot computed:")
        for name, reason in report.problems.items():
            print(f"  {name}: {reason}")
    print(f"\nWrote {paths[0]}\n      {paths[1]}\n      and {len(paths) - 2} figures")


def _run_evaluation(evaluation: Evaluation) -> bool:
    """Runs what is missing under progress bars; whether Ctrl-C ended it."""
    corpus = evaluation.corpus
    n_done, total = evaluation.progress()
    left_out = f", {len(corpus.problems)} left out" if corpus.problems else ""
    print(f"Corpus:     {len(corpus.utterances)} utterances of {corpus.source}{left_out}")
    print(f"Model:      {evaluation.model.name}")
    print(f"Methods:    {', '.join(evaluation.methods)}")
    if n_done:
        print(f"Resuming:   {n_done} of {total} explanations are there.")
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
    _print_table(results.table(), f"Areas of {len(results.utterances)} utterances [95 % interval]")
    _print_table(results.cost_table(), "Cost of an explanation (median)")
    few = f"fewer than {MIN_PAIRS} utterances decide nothing; intervals are in summary.md"
    _print_table(results.paired_table(intervals=False), f"Against {results.baseline} ({few})")
    if results.problems:
        print("\nLeft out:")
        for name, reason in results.problems.items():
            print(f"  {name}: {reason}")
    print("\nWrote " + "\n      ".join(map(str, results.save(folder))))


def _names(text: str, option: str) -> list[str]:
    """What is listed with commas, each once."""
    names = list(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    if not names:
        raise ValueError(f"{option} is empty: name at least one.")
    return names


def _percentages(step: float, until: float) -> list[float]:
    if not 0 < step <= until <= 100:
        raise ValueError(f"--step and --until must be percentages, the step at most the other, not {step} and {until}.")
    n_steps = round(until / step, 9)  # 0.6 / 0.2 is 2.9999999999999996 for a computer
    return [*(round(number * step, 9) for number in range(math.ceil(n_steps))), until]


def _run_all(comparison: Comparison, names: list[str], folder: Path) -> tuple[list[Path], bool]:
    """Runs methods one by one and saves each explanation at once; whether Ctrl-C ended it."""
    paths: list[Path] = []
    for number, name in enumerate(names, 1):
        print(f"\n[{number}/{len(names)}] {name}", flush=True)
        try:
            with _progress(can_stop=False) as callback:
                explanation = comparison.run(name, callback)
        except ValueError as error:
            print(f"Left out: {error}", file=sys.stderr)
            continue
        except KeyboardInterrupt:
            print(f"Stopped in {name}; the methods before it are kept.", file=sys.stderr)
            return paths, True
        paths.append(folder / f"{name}.safetensors")
        explanation.save(paths[-1])
    return paths, False


def run() -> None:
    """Runs the command line with errors as single sentences on stderr, exit code 2 for what the user can mend."""
    signal.signal(signal.SIGINT, lambda *_: _fail("interrupted: what is not written yet is lost.", 128 + signal.SIGINT))
    warnings.showwarning = lambda message, *_, **__: print(f"Warning: {message}", file=sys.stderr)
    try:
        app()
    except (ValueError, ImportError, OSError) as error:
        _fail(str(error), 2)
    except (MemoryError, torch.OutOfMemoryError):
        _fail("out of memory: use a smaller --batch-size.", 2)
    except Exception as error:  # a traceback says nothing to who uses a command
        if isinstance(error, RuntimeError) and ("not enough memory" in str(error) or "alloc" in str(error)):
            _fail("out of memory: use a smaller --batch-size.", 2)
        _fail(f"this should not have happened, please report it: {type(error).__name__}: {error}", 1)


def _fail(message: str, code: int) -> None:
    print(f"Error: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(code)


@dataclass(frozen=True)
class _Inputs:
    model: SpeechToTextModel
    utterance: Utterance
    tokens: Tokens
    gen_args: dict[str, Any]


def _prepare(
    audio: Path | None,
    model: str,
    preset: Preset,
    context: str | None,
    target: str | None,
    num_beams: int,
    device: str | None,
) -> _Inputs:
    """Loads the model, lets it write, and says what it wrote."""
    window, dtype = WINDOWS[preset]
    if context is not None:
        window = _parse_context(context)
    print(f"Audio:      {audio or 'the bundled sample (synthesised speech)'}", flush=True)
    speech_model = load_model(model, device=device)
    gen_args = {"num_beams": num_beams} if num_beams > 1 else {}
    attribution = SpeechToTextAttribution(SPES(speech_model))
    with _audio_file(audio) as path:
        utterance, tokens = attribution.prepare(path, target, gen_args=gen_args, context=window, dtype=dtype)
    print(
        f"Model:      {speech_model.name} on {utterance.spectrogram.device}, "
        f"{str(utterance.dtype).removeprefix('torch.')}, {context_seconds(speech_model, utterance):g} s of context"
    )
    print(f"Transcript: {attribution.text(tokens)}", flush=True)
    return _Inputs(speech_model, utterance, tokens, gen_args)


def _stem(audio: Path | None) -> str:
    return (audio or Path(SAMPLE)).stem


def _print_table(rows: Sequence[Sequence[str]], title: str) -> None:
    table = Table(title=title, title_justify="left", box=SIMPLE)
    for column in zip(*rows):
        # names are to be copied and numbers to be read: only sentences are folded
        table.add_column(column[0], no_wrap=max(map(len, column)) < 28)
    for row in rows[1:]:
        table.add_row(*row)
    console = Console(width=MAX_WIDTH)
    width = console.measure(table).maximum
    print()
    Console(width=max(Console().width, width)).print(table)


@contextmanager
def _audio_file(audio: Path | None) -> Iterator[Path]:
    if audio is not None:
        yield audio
        return
    with as_file(files("captum_spes") / "data" / SAMPLE) as path:
        yield path


def _parse_context(text: str) -> Any:
    if text in ("full", "auto"):
        return text
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"--context must be full, auto or a number of seconds, not {text!r}.") from None


def _make_folder(folder: Path) -> Path:
    """Makes the output folder before anything is computed that could not be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / ".write-test").touch()
        (folder / ".write-test").unlink()
    except OSError as error:
        raise ValueError(f"the output folder {folder} cannot be written to: {error.strerror}.") from error
    return folder


@contextmanager
def _progress(can_stop: bool) -> Iterator[Callable[[str, int, int], bool]]:
    """A callback that draws a bar for each stage.

    Ctrl-C ends a method that can be stopped with what is done, and others by a KeyboardInterrupt; a second one ends
    the program.
    """
    interrupted = False
    bars: dict[str, Any] = {}

    def interrupt(number: int, frame: FrameType | None) -> None:
        nonlocal interrupted
        interrupted = True
        signal.signal(signal.SIGINT, previous)
        if can_stop:
            text = "Stopping after this batch; what is done will be saved (Ctrl-C again to give it up)."
            tqdm.write(text, sys.stderr)

    def callback(stage: str, done: int, total: int) -> bool:
        if stage not in bars:
            bars[stage] = tqdm(desc=f"{stage:15}", total=total, unit="perturbation", dynamic_ncols=True)
        bars[stage].update(done - bars[stage].n)
        if done == total or interrupted:
            bars[stage].close()
        if interrupted and not can_stop:
            raise KeyboardInterrupt
        return interrupted

    previous = signal.signal(signal.SIGINT, interrupt)
    try:
        yield callback
    finally:
        signal.signal(signal.SIGINT, previous)
        for bar in bars.values():
            bar.close()


def _write(explanation: SpeechToTextExplanation, folder: Path) -> list[Path]:
    pictures = {
        "spectrogram": explanation.plot_spectrogram,
        **({} if explanation.feature_mask is None else {"segmentation": explanation.plot_segmentation}),
        "sentence": explanation.plot_sentence,
        **({} if explanation.grouped else {"words": explanation.plot_words}),
        "tokens": explanation.plot_tokens,
        **({"previous_tokens": explanation.plot_previous_tokens} if explanation.previous_tokens else {}),
    }
    paths = [folder / "explanation.safetensors"]
    explanation.save(paths[0])
    for name, plot in pictures.items():
        paths.append(folder / f"{name}.png")
        plot().savefig(paths[-1], dpi=150)
    return paths


def _report(explanation: SpeechToTextExplanation, paths: list[Path]) -> None:
    if explanation.metadata["partial"]:
        done = explanation.metadata["done"]
        print("\nPartial: stopped after " + " and ".join(f"{n} samples of the {stage}" for stage, n in done.items()))
    # only methods that sample know how reliable they are
    known = explanation.reliability
    reliability = [""] * len(explanation.tokens) if known is None else [f"{value:.2f}" for value in known.tolist()]
    has_previous = bool(explanation.previous_tokens)
    top_tokens = explanation.top_previous_tokens() if has_previous else [""] * len(explanation.tokens)
    columns = [
        ("token", "most important previous token" if has_previous else "", "" if known is None else "reliability")
    ]
    for token, top, value in zip(explanation.tokens, top_tokens, reliability):
        columns.append((token.strip(), top.strip(), value))
    widths = [max(len(row[i]) for row in columns) for i in range(2)]
    print()
    for row in columns:
        print(f"{row[0]:{widths[0]}}  {row[1]:{widths[1]}}  {row[2]}".rstrip())
    if not has_previous:
        print("\nThere are no previous tokens to explain them, as of a model that writes all tokens at once.")
    if known is not None:
        print(f"\nReliability (correlation of two halves of the samples, mean of the tokens): {known.mean():.2f}")
    print("\nWrote " + "\n      ".join(map(str, paths)))
