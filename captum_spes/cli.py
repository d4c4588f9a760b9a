"""The command line: ``captum-spes explain``."""

from __future__ import annotations

import signal
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from functools import partial
from importlib.resources import as_file, files
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import torch
import typer
from tqdm import tqdm

from captum_spes import SPES, SpeechToTextAttribution, SpeechToTextExplanation, slic_feature_mask
from captum_spes.models import load_model
from captum_spes.models.context import context_seconds

if TYPE_CHECKING:
    from types import FrameType

SAMPLE = "so_what_was_the_next_step.wav"

app = typer.Typer(
    help="Explain why a speech-to-text model wrote each word.",
    pretty_exceptions_enable=False,
    add_completion=False,
)


class Method(str, Enum):
    """Attribution methods."""

    spes = "spes"


class Preset(str, Enum):
    """Names of the budgets."""

    fast = "fast"
    paper = "paper"


@dataclass(frozen=True)
class Budget:
    """How much is spent on an explanation, and how finely it is resolved."""

    n_samples: int
    n_token_samples: int
    patches_per_second: tuple[int, ...]
    context: Literal["full", "auto"]
    dtype: torch.dtype | Literal["auto"]


BUDGETS = {
    # under a minute on 2 cores: few, large patches, which such a budget can tell apart
    Preset.fast: Budget(144, 512, (20, 40, 60), "auto", "auto"),
    # paper, §6
    Preset.paper: Budget(20_000, 2_000, (400, 500, 600), "full", torch.float32),
}


@app.callback()
def _commands() -> None:
    """Explain why a speech-to-text model wrote each word."""


@app.command()
def explain(
    audio: Annotated[
        Path | None, typer.Argument(help="Audio file (WAV, FLAC, OGG, MP3, …). Without it: the bundled sample.")
    ] = None,
    model: Annotated[
        str, typer.Option(help="Bundled whisper-tiny.en, a Hugging Face id, or a local folder.")
    ] = "whisper-tiny.en",
    method: Annotated[Method, typer.Option(help="Attribution method.")] = Method.spes,
    preset: Annotated[
        Preset, typer.Option(help="fast: under a minute on 2 cores; paper: the paper's hyper-parameters.")
    ] = Preset.fast,
    n_samples: Annotated[
        int | None, typer.Option(min=1, help="Perturbations of the spectrogram, in place of the preset's.")
    ] = None,
    context: Annotated[
        str | None, typer.Option(help="Window given to the model: full, auto or seconds, in place of the preset's.")
    ] = None,
    target: Annotated[str | None, typer.Option(help="Text to explain. Default: what the model writes.")] = None,
    num_beams: Annotated[int, typer.Option(min=1, help="Beams with which the model writes.")] = 1,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, … Default: a GPU where there is one.")] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Perturbations evaluated at once.")] = 16,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the perturbations.")] = 0,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder for the results. Default: spes-output/<audio's name>.")
    ] = None,
) -> None:
    """Explain one utterance: which parts of the sound, and which words before, made the model write each word."""
    budget = BUDGETS[preset]
    window = _parse_context(context) if context is not None else budget.context
    print(f"Audio:      {audio or 'the bundled sample (synthesised speech)'}", flush=True)
    speech_model = load_model(model, device=device)
    attribution = SpeechToTextAttribution(SPES(speech_model))
    gen_args = {"num_beams": num_beams} if num_beams > 1 else {}
    with _audio_file(audio) as path:
        utterance, tokens = attribution.prepare(path, target, gen_args=gen_args, context=window, dtype=budget.dtype)
    folder = _make_folder(output or Path("spes-output") / (audio or Path(SAMPLE)).stem)
    print(
        f"Model:      {speech_model.name} on {utterance.spectrogram.device}, "
        f"{str(utterance.dtype).removeprefix('torch.')}, {context_seconds(speech_model, utterance):g} s of context"
    )
    print(f"Transcript: {attribution.text(tokens)}", flush=True)
    explanation = _attribute(
        attribution,
        inputs=utterance,
        target=tokens,
        feature_mask=partial(
            slic_feature_mask,
            patches_per_second=budget.patches_per_second,
            frames_per_second=speech_model.frames_per_second,
        ),
        n_samples=n_samples or budget.n_samples,
        n_token_samples=budget.n_token_samples,
        perturbations_per_eval=batch_size,
        seed=seed,
        gen_args=gen_args,
    )
    _report(explanation, _write(explanation, folder))
    if explanation.metadata["partial"]:
        raise typer.Exit(128 + signal.SIGINT)


def run() -> None:
    """Runs the command line with errors as single sentences on stderr, exit code 2 for what the user can mend."""
    signal.signal(signal.SIGINT, lambda *_: _fail("interrupted: nothing was saved.", 128 + signal.SIGINT))
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


def _attribute(attribution: SpeechToTextAttribution, **arguments: Any) -> SpeechToTextExplanation:
    """Runs the attribution with a progress bar. Ctrl-C ends it with what is done; a second one ends the program."""
    interrupted = False
    bars: dict[str, Any] = {}

    def interrupt(number: int, frame: FrameType | None) -> None:
        nonlocal interrupted
        interrupted = True
        signal.signal(signal.SIGINT, previous)
        tqdm.write("Stopping after this batch; what is done will be saved (Ctrl-C again to give it up).", sys.stderr)

    def progress(stage: str, done: int, total: int) -> bool:
        if stage not in bars:
            bars[stage] = tqdm(desc=f"{stage:15}", total=total, unit="perturbation", dynamic_ncols=True)
        bars[stage].update(done - bars[stage].n)
        if done == total or interrupted:
            bars[stage].close()
        return interrupted

    previous = signal.signal(signal.SIGINT, interrupt)
    try:
        return attribution.attribute(callback=progress, **arguments)
    finally:
        signal.signal(signal.SIGINT, previous)
        for bar in bars.values():
            bar.close()


def _write(explanation: SpeechToTextExplanation, folder: Path) -> list[Path]:
    pictures = {
        "spectrogram": explanation.plot_spectrogram,
        "segmentation": explanation.plot_segmentation,
        "sentence": explanation.plot_sentence,
        "words": lambda: explanation.words().plot_tokens(),
        "tokens": explanation.plot_tokens,
        "previous_tokens": explanation.plot_previous_tokens,
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
    columns = [("token", "most important previous token", "reliability")]
    reliability = explanation.reliability
    assert reliability is not None  # SPES tells it
    for token, top, value in zip(explanation.tokens, explanation.top_previous_tokens(), reliability.tolist()):
        columns.append((token.strip(), top.strip(), f"{value:.2f}"))
    widths = [max(len(row[i]) for row in columns) for i in range(2)]
    print()
    for row in columns:
        print(f"{row[0]:{widths[0]}}  {row[1]:{widths[1]}}  {row[2]}")
    print(f"\nReliability (correlation of two halves of the samples, mean of the tokens): {reliability.mean():.2f}")
    print("\nWrote " + "\n      ".join(map(str, paths)))
