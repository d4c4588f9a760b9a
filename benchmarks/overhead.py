"""How much time frozen padding saves, and how much SPES and GradientSPES add to the passes of the model.

    python benchmarks/overhead.py --output benchmarks/results/overhead.md
    python benchmarks/overhead.py --own --output benchmarks/results/own_share.md

The first command compares frozen padding with the full window, and the second the methods with the bare passes of the
model. The benchmark explains the bundled sample with the bundled Whisper tiny.en, and repeats the sample for longer
durations. Times are ratios of runs that alternate within one process. Memory is the peak resident size of separate
processes, and needs Linux.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch
from provenance import command, machine, publish

import captum_spes
from captum_spes import SPES, GradientSPES, KLDivergence, slic_feature_mask
from captum_spes._text import markdown_table
from captum_spes.audio import load_audio
from captum_spes.models import Tokens, Utterance, load_model
from captum_spes.models.context import Context, fit_utterance
from captum_spes.speech_to_text.numerics import Outputs
from captum_spes.speech_to_text.targets import TokenPrediction

SAMPLE = Path(captum_spes.__file__).parent / "data" / "so_what_was_the_next_step.wav"
BATCH, GRADIENT_BATCH, SEED = 16, 4, 0
GRADIENT_TOKENS = 4  # that GradientSPES explains where it is timed


class Case:
    """The model, the sample, and the tokens to explain, in the full window or with frozen padding."""

    def __init__(
        self, n_tokens: int | None, context: Context | Utterance = "full", seconds: float | None = None
    ) -> None:
        self.model = load_model("whisper-tiny.en", device="cpu")
        samples = load_audio(SAMPLE, self.model.sample_rate)
        if seconds is not None:
            samples = np.resize(samples, round(seconds * self.model.sample_rate))
        utterance = self.model.utterance(samples)
        if n_tokens is None:
            self.tokens = self.model.generate(utterance)
        else:
            sentence = self.model.tokens("So what was the next step?", utterance)
            target = sentence.target.repeat(-(-n_tokens // len(sentence.target)))[:n_tokens]
            self.tokens = Tokens(sentence.prompt, target)
        fitted = isinstance(context, Utterance)
        self.utterance = context if fitted else fit_utterance(self.model, utterance, self.tokens, context)
        self.mask = slic_feature_mask(utterance.spectrogram)
        outputs = Outputs(TokenPrediction(self.model, self.tokens, KLDivergence), self.utterance)
        with torch.no_grad():
            original = outputs.of_gate()
        score = outputs.prediction.score(outputs.of_spectrogram, original)
        self.score = outputs.with_shared_vocabulary(score)  # as SpeechToTextAttribution scores tokens

    def _logits(self, spectrogram: torch.Tensor) -> torch.Tensor:
        return self.model.logits(self.model.encode(spectrogram, self.utterance), self.tokens)

    def attribute(self, n_samples: int, method=SPES, batch: int = BATCH) -> None:
        """Runs a method on the spectrogram: masks, passes, scores and sums."""
        method(self.score).attribute(
            self.utterance.spectrogram,
            self.model.baseline(self.utterance),
            feature_mask=self.mask,
            n_samples=n_samples,
            perturbations_per_eval=batch,
            seed=SEED,
        )

    def attribute_by_gradients(self, n_samples: int) -> None:
        self.attribute(n_samples, GradientSPES, GRADIENT_BATCH)

    @torch.no_grad()
    def bare_forwards(self, n_samples: int) -> None:
        """Runs the same number of forward passes of the bare model, in batches of the same size.

        The bare model is the Hugging Face model or, with frozen padding, the adapter.
        """
        frames, ids = self._bare_inputs(BATCH)
        for _ in range(n_samples // BATCH):
            if self.utterance.frozen is None:
                self.model.model(input_features=frames, decoder_input_ids=ids, use_cache=False)
            else:
                self._logits(self.utterance.spectrogram.expand(BATCH, -1, -1))

    def bare_gradients(self, n_samples: int) -> None:
        """Runs the same number of forward passes, with a backward pass for the logit of each token."""
        frames, ids = self._bare_inputs(GRADIENT_BATCH)
        n_prompt = len(self.tokens.prompt)
        for _ in range(n_samples // GRADIENT_BATCH):
            if self.utterance.frozen is None:
                inputs = frames.requires_grad_()
                logits = self.model.model(input_features=inputs, decoder_input_ids=ids, use_cache=False).logits
                logits = logits[:, n_prompt - 1 :]
            else:
                inputs = self.utterance.spectrogram.repeat(GRADIENT_BATCH, 1, 1).requires_grad_()
                logits = self._logits(inputs)
            for step, token in enumerate(self.tokens.target):
                torch.autograd.grad(logits[:, step, token].sum(), inputs, retain_graph=True)

    def _bare_inputs(self, batch: int) -> tuple[torch.Tensor, torch.Tensor]:
        frames = torch.cat((self.utterance.spectrogram, self.utterance.padding), dim=1).transpose(1, 2)
        return frames.expand(batch, -1, -1).contiguous(), self.tokens.previous.expand(batch, -1)


def seconds(function, *args) -> float:
    start = time.perf_counter()
    function(*args)
    return time.perf_counter() - start


def alternate(first, second, n_samples: int, rounds: int) -> tuple[float, list[float]]:
    """Runs two functions in turns. Returns the median ratio of their times, and the ratios of all rounds."""
    first(min(BATCH, n_samples)), second(min(BATCH, n_samples))  # warm up
    ratios = [seconds(first, n_samples) / seconds(second, n_samples) for _ in range(rounds)]
    return statistics.median(ratios), ratios


def peak_memory(n_samples: int) -> float:
    """The peak resident size, in MB, of a process that explains the sample with this number of samples."""
    command = [sys.executable, __file__, "--memory-of", str(n_samples)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def frozen_rows(durations: list[float], n_samples: int, rounds: int) -> list[tuple[str, ...]]:
    """The time with frozen padding by the duration, and the correlation of its scores with those of the full window."""
    rows = [
        ("speech", "tokens", "padding", "a sample is faster", "a gradient is faster", "correlation", "lowest token"),
    ]
    for duration in durations:
        fitted = Case(None, "auto", duration)
        found = fitted.utterance.context
        speech = f"{duration:g} s", str(len(fitted.tokens.target))
        if found["used"] != "frozen":
            rows.append((*speech, "full window", "1", "1", "1", "1"))
            continue
        forwards, _ = alternate(Case(None, "full", duration).attribute, fitted.attribute, n_samples, rounds)
        full = Case(GRADIENT_TOKENS, "full", duration)
        few_tokens = Case(GRADIENT_TOKENS, fitted.utterance, duration)
        few = max(n_samples // 24 // GRADIENT_BATCH, 1) * GRADIENT_BATCH
        gradients, _ = alternate(full.attribute_by_gradients, few_tokens.attribute_by_gradients, few, rounds)
        form = "frozen" + (f", merged by {found['merged_by']}" if found["merged_by"] > 1 else "")
        agreement = f"{found['correlation']:.4f}", f"{found['lowest_token_correlation']:.3f}"
        rows.append((*speech, form, f"{forwards:.1f}x", f"{gradients:.1f}x", *agreement))
    return rows


def own_share(n_samples: int, rounds: int) -> list[tuple[str, ...]]:
    """The time that the methods add to the passes of the model, in both contexts."""
    rows: list[tuple[str, ...]] = []

    def add(name: str, ratios: tuple[float, list[float]], goal: str = "") -> None:
        median, found = ratios
        rows.append((name, f"{median:.3f}", f"{min(found):.3f} – {max(found):.3f}", goal and f"≤ {goal}"))
        print(*rows[-1], sep=", ", flush=True)  # it takes minutes

    for context, name, n_passes in (
        ("full", "the full window", n_samples),
        ("auto", "frozen padding", 8 * n_samples),  # in as long a time
    ):
        four, eight = (Case(n, context) for n in (GRADIENT_TOKENS, 8))
        few = max(n_passes // 8 // GRADIENT_BATCH, 1) * GRADIENT_BATCH
        passes = alternate(eight.attribute, eight.bare_forwards, n_passes, rounds)
        add(f"SPES / bare forwards, {name}", passes, "1.05")
        # each bare backward begins at the vocabulary, which GradientSPES passes once for all tokens
        passes = alternate(four.attribute_by_gradients, four.bare_gradients, few, rounds)
        add(f"GradientSPES / bare forwards and backwards, {name}", passes, "1.1")
    one, thirty = (Case(n, "full") for n in (1, 30))
    add("SPES, 30 tokens / 1 token, the full window", alternate(thirty.attribute, one.attribute, n_samples, rounds))
    few, many = peak_memory(200), peak_memory(2_000)
    add(f"2,000 samples ({many:.0f} MB) / 200 ({few:.0f} MB), peak memory", (many / few, [many / few]), "1.05")
    return [("", "ratio", "range of the runs", "goal"), *rows]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--own", action="store_true", help="measure the methods' own share, not frozen padding")
    parser.add_argument("--output", type=Path, help="also write the table here")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--n-samples", type=int, default=96, help="perturbations of a timed run")
    parser.add_argument("--durations", type=float, nargs="*", default=[2, 5, 7, 15, 29], help="seconds of speech")
    parser.add_argument("--memory-of", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.memory_of:
        Case(8, "frozen").attribute(args.memory_of)
        # not resource.getrusage(), whose maximum begins at that of the parent process
        status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
        print(int(status["VmHWM"].split()[0]) / 1024)
        return
    if args.own:
        rows = own_share(args.n_samples, args.rounds)
    else:
        rows = frozen_rows(args.durations, args.n_samples, args.rounds)
    lines = [
        *markdown_table(rows),
        "",
        f"`{command()}`: medians of {args.rounds} rounds of {args.n_samples} perturbations (of gradients fewer"
        f"{', with frozen padding eight times as many' if args.own else ''}), "
        f"Whisper tiny.en in float32, batches of {BATCH} (of gradients {GRADIENT_BATCH}, of "
        f"{GRADIENT_TOKENS} tokens), seed {SEED}; {machine()}.",
    ]
    publish(lines, args.output)


if __name__ == "__main__":
    main()
