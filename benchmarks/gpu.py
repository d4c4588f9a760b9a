"""What a GPU gives: agreement with the CPU, samples a second, memory, and the time that is not the model's.

    python benchmarks/gpu.py [--output benchmarks/results/gpu.md] [--device cuda] [--shapes tiny.en large-v3]

First the tests that need a GPU are run. It ends in about eight minutes (--minutes): what there is no time for is said
in the table. Whisper tiny.en and base are the bundled ones where their extras are installed; all other shapes have
random weights, since what a pass costs depends on the shape alone. Without a GPU everything runs on the CPU, by
default with the two smallest shapes.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from provenance import command, machine, publish

import captum_spes
from captum_spes import SPES, GradientSPES, SpeechToTextAttribution
from captum_spes._text import markdown_table
from captum_spes.audio import load_audio
from captum_spes.models import SpeechToTextModel, Tokens, Utterance, load_model
from captum_spes.models.context import fit_utterance

ROOT = Path(__file__).resolve().parents[1]
SAMPLE = Path(captum_spes.__file__).parent / "data" / "so_what_was_the_next_step.wav"
BUNDLED = {"tiny.en": "whisper-tiny.en", "base": "whisper-base"}
# width, layers and heads of encoder and decoder, mel channels
SHAPES = {
    "tiny.en": (384, 4, 6, 80),
    "base": (512, 6, 8, 80),
    "small": (768, 12, 12, 80),
    "medium": (1024, 24, 16, 80),
    "large-v3": (1280, 32, 20, 128),
}
VOCABULARY = 51_866
N_TOKENS = 8  # that a model with random weights is asked for, as many as Whisper writes for the sample
METHODS = (SPES, GradientSPES)
DTYPES = {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}
COLUMNS = (
    "Whisper",
    "weights",
    "window",
    "precision",
    "method",
    "batch",
    "samples a second",
    "memory (GB)",
    "not the model's",
)
SEED = 0
MINUTE = 60.0


def random_whisper(shape: str, device: str) -> SpeechToTextModel:
    """A Whisper of this shape, whose weights are random and whose tokens are ids alone."""
    from transformers import GenerationConfig, WhisperConfig, WhisperFeatureExtractor, WhisperForConditionalGeneration

    width, n_layers, n_heads, n_channels = SHAPES[shape]
    ids = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0, "decoder_start_token_id": 1}
    config = WhisperConfig(
        vocab_size=VOCABULARY,
        num_mel_bins=n_channels,
        d_model=width,
        encoder_layers=n_layers,
        decoder_layers=n_layers,
        encoder_attention_heads=n_heads,
        decoder_attention_heads=n_heads,
        encoder_ffn_dim=4 * width,
        decoder_ffn_dim=4 * width,
        init_std=1.6 / width**0.5,  # so wide that what it writes depends on what it hears
        **ids,
    )
    torch.manual_seed(SEED)
    with torch.device(device):
        model = WhisperForConditionalGeneration(config).eval()
    # short texts: the probe of frozen padding lets the model write
    model.generation_config = GenerationConfig(
        no_timestamps_token_id=2, max_length=N_TOKENS + 2, is_multilingual=False, **ids
    )
    return load_model(model, WhisperFeatureExtractor(feature_size=n_channels))


def load(shape: str, device: str) -> tuple[SpeechToTextModel, str]:
    """A model of this shape, and what its weights are."""
    if shape in BUNDLED:
        try:
            return load_model(BUNDLED[shape], device=device), "its own"
        except (ImportError, ValueError):  # the extra is not installed, and no hub is reached
            pass
    return random_whisper(shape, device), "random"


def heard(model: SpeechToTextModel) -> tuple[Utterance, Tokens]:
    """The sample, and the tokens to explain: what the model writes, or any of a model with random weights."""
    utterance = model.utterance(load_audio(SAMPLE, model.sample_rate))
    try:
        return utterance, model.tokens("So what was the next step?", utterance)
    except ValueError:  # it has no tokenizer
        device = utterance.spectrogram.device
        target = torch.randint(10, VOCABULARY, (N_TOKENS,), generator=torch.Generator().manual_seed(SEED))
        return utterance, Tokens(torch.tensor([1, 2], device=device), target.to(device))


# Tests


def run_tests(device: str, minutes: float) -> str:
    """The last line of pytest on the tests that need a GPU."""
    words = [sys.executable, "-m", "pytest", "-n", "0", "-m", "cuda", "tests"]
    try:
        found = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=minutes * MINUTE)
    except subprocess.TimeoutExpired:
        return f"did not end within {minutes:g} minutes"
    lines = found.stdout.strip().splitlines() or found.stderr.strip().splitlines() or ["no output"]
    return lines[-1].strip("= ") + ("" if device != "cpu" else " (on a CPU they are skipped)")


# Agreement


def agreement(device: str, n_samples: int) -> list[tuple[str, ...]]:
    """How far maps of the same perturbations agree with those of the CPU in float32, by precision."""
    rows = [("method", "precision", "correlation", "lowest token", "largest difference, of the largest value")]
    reference_model, _ = load("tiny.en", "cpu")
    model, _ = load("tiny.en", device)
    for method in METHODS:
        reference = maps(reference_model, method, None, n_samples)
        for name, dtype in DTYPES.items():
            found = maps(model, method, dtype, n_samples)
            tokens = [correlation(*pair) for pair in zip(reference, found, strict=True)]
            difference = float((found - reference).abs().max() / reference.abs().max())
            whole = correlation(reference, found)
            rows.append(
                (method.get_name(), name, f"{whole:.5f}", f"{min(tokens):.4f}", f"{difference:.1e}"),
            )
    return rows


def maps(model: SpeechToTextModel, method: Any, dtype: torch.dtype | None, n_samples: int) -> torch.Tensor:
    """The maps (K, T, C) in the full window."""
    utterance, tokens = heard(model)
    utterance = replace(utterance, dtype=dtype or utterance.dtype)
    explained = SpeechToTextAttribution(method(model)).attribute(
        utterance, tokens, n_samples=n_samples, n_token_samples=8, perturbations_per_eval=4, seed=SEED
    )
    return explained.spectrogram_attr


def correlation(first: torch.Tensor, second: torch.Tensor) -> float:
    return float(torch.corrcoef(torch.stack((first.flatten(), second.flatten())).double())[0, 1])


# Speed


class Stopwatch:
    """Seconds inside encoder, decoder and projection of a model, and in backward passes; it waits for the device."""

    def __init__(self, model: SpeechToTextModel, device: str) -> None:
        network: Any = model.model  # type: ignore[attr-defined]
        self.parts = [network.get_encoder(), network.get_decoder(), network.proj_out]
        self.device = device
        self.seconds = 0.0
        self._depth = 0
        self._start = 0.0

    @contextmanager
    def running(self) -> Iterator[None]:
        """Measures while it lasts."""
        handles = [part.register_forward_pre_hook(lambda *_: self._enter()) for part in self.parts]
        handles += [part.register_forward_hook(lambda *_: self._leave()) for part in self.parts]
        gradient = torch.autograd.grad

        def timed(*args: Any, **kwargs: Any) -> Any:
            self._enter()
            try:
                return gradient(*args, **kwargs)
            finally:
                self._leave()

        torch.autograd.grad = timed
        try:
            yield
        finally:
            torch.autograd.grad = gradient
            for handle in handles:
                handle.remove()

    def _enter(self) -> None:
        if self._depth == 0:
            self._start = now(self.device)
        self._depth += 1

    def _leave(self) -> None:
        self._depth -= 1
        if self._depth == 0:
            self.seconds += now(self.device) - self._start


def now(device: str) -> float:
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    return time.perf_counter()


def speed(
    model: SpeechToTextModel, method: Any, utterance: Utterance, tokens: Tokens, device: str, seconds: float
) -> tuple[int, float, float]:
    """Perturbations in a batch, samples a second, and the share of the time that is not the model's."""
    watch = Stopwatch(model, device)
    ticks: list[tuple[int, float, float]] = []  # samples, the clock, and seconds inside the model after each batch

    def callback(stage: str, done: int, total: int) -> bool:
        if stage == "spectrogram":
            ticks.append((done, now(device), watch.seconds))
            return len(ticks) > 1 and ticks[-1][1] - ticks[0][1] >= seconds
        return False

    with watch.running():
        SpeechToTextAttribution(method(model)).attribute(
            utterance, tokens, n_samples=1_000_000, n_token_samples=8, callback=callback, seed=SEED
        )
    (first, start, before), (last, stop, after) = ticks[0], ticks[-1]  # the first batch warms up
    return ticks[0][0], (last - first) / (stop - start), max(1 - (after - before) / (stop - start), 0.0)


def speeds(shapes: list[str], device: str, seconds: float, deadline: float) -> list[tuple[str, ...]]:
    """A row for each shape, way of running the window, precision and method."""
    rows: list[tuple[str, ...]] = [COLUMNS]
    dtypes = {"float32": None} if device == "cpu" else {"float32": None, "bfloat16": torch.bfloat16}
    for shape in shapes:
        if time.monotonic() > deadline:
            rows.append((shape, *["no time"] * 8))
            continue
        model, weights = load(shape, device)
        whole, tokens = heard(model)
        for window in ("full", "frozen"):
            utterance = fit_utterance(model, whole, tokens, window)
            for precision, dtype in dtypes.items():
                for method in METHODS:
                    name = (shape, weights, window, precision, method.get_name())
                    if time.monotonic() > deadline:
                        rows.append((*name, *["no time"] * 4))
                        continue
                    reset_memory(device)
                    typed = replace(utterance, dtype=dtype or utterance.dtype)
                    batch, rate, share = speed(model, method, typed, tokens, device, seconds)
                    rows.append((*name, str(batch), f"{rate:,.1f}", f"{memory(device):.2f}", f"{share:.0%}"))
        del model, whole, tokens, utterance
        reset_memory(device)
    return rows


def reset_memory(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def memory(device: str) -> float:
    """The peak in GB: of the GPU's memory since the last reset, or of the process."""
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated() / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, help="also write the tables here")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, help="default: all on a GPU, the two smallest on a CPU")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each measurement of speed")
    parser.add_argument("--minutes", type=float, default=8.0, help="after which no further measurement begins")
    parser.add_argument("--n-samples", type=int, default=48, help="perturbations of the maps that are compared")
    parser.add_argument("--without-tests", action="store_true", help="do not run the tests that need a GPU")
    args = parser.parse_args(arguments)
    warnings.filterwarnings("ignore", "the maps (are noisy|of .* are the same)|with frozen padding the text")
    deadline = time.monotonic() + args.minutes * MINUTE - 2 * args.seconds
    shapes = args.shapes or list(SHAPES)[: 2 if args.device == "cpu" else None]
    tests = "not run" if args.without_tests else run_tests(args.device, args.minutes / 2)
    kind = "the process" if args.device == "cpu" else "the GPU"
    lines = [
        f"Tests marked `cuda`: {tests}.",
        "",
        f"Maps of {args.n_samples} perturbations on `{args.device}` against those of the CPU in float32, of tiny.en:",
        "",
        *markdown_table(agreement(args.device, args.n_samples)),
        "",
        "Samples of the spectrogram a second; GradientSPES has a backward for each of the tokens in every sample:",
        "",
        *markdown_table(speeds(shapes, args.device, args.seconds, deadline)),
        "",
        f"`{command()}`: the sample of {duration():.1f} s, {N_TOKENS} tokens, {args.seconds:g} s a row after a first "
        f"batch. The batch is what a probe finds fast, on a CPU a fixed one. Memory is the peak of {kind}. The last "
        f"column is the share of the time outside of encoder, decoder, projection and backward passes. {machine()}.",
    ]
    publish(lines, args.output)


def duration() -> float:
    """Seconds of the sample."""
    return len(load_audio(SAMPLE, 16_000)) / 16_000


if __name__ == "__main__":
    main()
