"""What SPES and GradientSPES add to the model's passes: time a pass, time a token, memory a sample.

Also what torch.compile saves; it needs a C++ compiler.

    python benchmarks/overhead.py [--output benchmarks/results/overhead.md]

All of it on the bundled Whisper tiny.en and the bundled sample. Times are ratios of runs that alternate within one
process; memory is the peak resident size of processes of their own.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import torch
from provenance import machine

import captum_spes
from captum_spes import SPES, GradientSPES, KLDivergence, slic_feature_mask
from captum_spes.audio import load_audio
from captum_spes.models import Tokens, load_model

SAMPLE = Path(captum_spes.__file__).parent / "data" / "so_what_was_the_next_step.wav"
BATCH, GRADIENT_BATCH, SEED = 16, 4, 0


class Case:
    """The model on the sample, with some number of tokens to explain."""

    def __init__(self, n_tokens: int, padding_frames: int | None = None) -> None:
        self.model = load_model("whisper-tiny.en", device="cpu")
        utterance = self.model.utterance(load_audio(SAMPLE, self.model.sample_rate))
        self.utterance = replace(utterance, padding=utterance.padding[:, :padding_frames])
        sentence = self.model.tokens("So what was the next step?", utterance)
        target = sentence.target.repeat(-(-n_tokens // len(sentence.target)))[:n_tokens]
        self.tokens = Tokens(sentence.prompt, target)
        self.mask = slic_feature_mask(utterance.spectrogram)
        with torch.no_grad():
            reference = self._logits(utterance.spectrogram)
        self.score = KLDivergence(self._logits, reference)

    def _logits(self, spectrogram: torch.Tensor) -> torch.Tensor:
        return self.model.logits(self.model.encode(spectrogram, self.utterance), self.tokens)

    def attribute(self, n_samples: int, method=SPES, batch: int = BATCH) -> None:
        """A method on the spectrogram: masks, passes, scores and sums."""
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

    def compile(self) -> float:
        """Compiles the encoder; returns how many seconds the first batch then takes."""
        self.model.model.get_encoder().compile()
        return seconds(self.attribute, BATCH)

    @torch.no_grad()
    def bare_forwards(self, n_samples: int) -> None:
        """As many forwards of the Hugging Face model itself, in as large batches."""
        frames, ids = self._bare_inputs(BATCH)
        for _ in range(n_samples // BATCH):
            self.model.model(input_features=frames, decoder_input_ids=ids, use_cache=False)

    def bare_gradients(self, n_samples: int) -> None:
        """As many forwards of it with a backward for each token's logit."""
        frames, ids = self._bare_inputs(GRADIENT_BATCH)
        frames.requires_grad_()
        n_prompt = len(self.tokens.prompt)
        for _ in range(n_samples // GRADIENT_BATCH):
            output = self.model.model(input_features=frames, decoder_input_ids=ids, use_cache=False)
            for step, token in enumerate(self.tokens.target, n_prompt - 1):
                torch.autograd.grad(output.logits[:, step, token].sum(), frames, retain_graph=True)

    def _bare_inputs(self, batch: int) -> tuple[torch.Tensor, torch.Tensor]:
        frames = torch.cat((self.utterance.spectrogram, self.utterance.padding), dim=1).transpose(1, 2)
        return frames.expand(batch, -1, -1).contiguous(), self.tokens.previous.expand(batch, -1)


def seconds(function, *args) -> float:
    start = time.perf_counter()
    function(*args)
    return time.perf_counter() - start


def alternate(first, second, n_samples: int, rounds: int) -> tuple[float, list[float]]:
    """Median over rounds of first's time over second's, which run in turns, and all the ratios."""
    first(min(BATCH, n_samples)), second(min(BATCH, n_samples))  # warm up
    ratios = [seconds(first, n_samples) / seconds(second, n_samples) for _ in range(rounds)]
    return statistics.median(ratios), ratios


def peak_memory(n_samples: int) -> float:
    """Peak resident MB of a process that explains the sample with so many samples."""
    command = [sys.executable, __file__, "--memory-of", str(n_samples)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, help="also write the table here")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--n-samples", type=int, default=96, help="perturbations of a timed run")
    parser.add_argument("--memory-of", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.memory_of:
        # memory does not depend on the window: a short one makes 20,000 forwards bearable
        Case(8, padding_frames=50).attribute(args.memory_of)
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
        return
    eight, one, thirty = Case(8), Case(1), Case(30)
    forwards, forward_ratios = alternate(eight.attribute, eight.bare_forwards, args.n_samples, args.rounds)
    tokens, token_ratios = alternate(thirty.attribute, one.attribute, args.n_samples, args.rounds)
    gradients, gradient_ratios = alternate(
        eight.attribute_by_gradients, eight.bare_gradients, max(args.n_samples // 8, GRADIENT_BATCH), args.rounds
    )
    compiled = Case(8)
    compilation = compiled.compile()
    compilation /= seconds(eight.attribute, BATCH) / BATCH
    saved, saved_ratios = alternate(compiled.attribute, eight.attribute, args.n_samples, args.rounds)
    few, many = peak_memory(2_000), peak_memory(20_000)
    rows = [
        ("SPES / the same number of bare forwards, time", forwards, forward_ratios, "1.05"),
        ("GradientSPES / the same number of bare forwards and backwards, time", gradients, gradient_ratios, "1.1"),
        (
            f"SPES with a compiled encoder / without (compilation: {compilation:.0f} forwards), time",
            saved,
            saved_ratios,
            "",
        ),
        ("30 tokens / 1 token, time", tokens, token_ratios, "1.2"),
        (f"20,000 samples ({many:.0f} MB) / 2,000 ({few:.0f} MB), peak memory", many / few, [many / few], "1.05"),
    ]
    lines = ["| | ratio | range of the runs | goal |", "|---|---|---|---|"]
    lines += [
        f"| {name} | {r:.3f} | {min(all_):.3f} – {max(all_):.3f} | {goal and f'≤ {goal}'} |"
        for name, r, all_, goal in rows
    ]
    lines += [
        "",
        f"`python benchmarks/overhead.py --n-samples {args.n_samples} --rounds {args.rounds}`: medians of "
        f"{args.rounds} rounds of {args.n_samples} perturbations (of gradients an eighth), Whisper tiny.en (full "
        f"window, float32), batches of {BATCH} (of gradients {GRADIENT_BATCH}), seed {SEED}; {machine()}.",
    ]
    print("\n".join(lines))
    if args.output:
        args.output.parent.mkdir(parents=True, exist_ok=True)
        args.output.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
