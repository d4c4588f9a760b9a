"""What explanations cost as audio and text grow, and what a corpus costs, on one rank and on two.

    python benchmarks/scaling.py [--output benchmarks/results/scaling.md] [--device cuda] [--quick]

The benchmark explains the bundled sample with the bundled Whisper tiny.en. It repeats the sample to the wanted length
and the text to the wanted number of tokens. Runs of all sizes take turns, and the tables show medians. The benchmark
uses one thread. On a CPU it measures the processor time of the process, which other programs disturb little; n ranks on
n cores take the n-th part of it. The speed-up of two ranks is measured in wall time and needs two idle cores.

The times of whole explanations and corpora are computed from the cost of a sample, so that nothing here runs for hours.
--quick measures only the smallest and the largest sizes, once, and leaves out the ranks.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import statistics
import time
import warnings
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from provenance import command, machine, publish
from torch import distributed as dist
from torch.distributed import Store, TCPStore
from tqdm import tqdm

import captum_spes
from captum_spes import SPES, GradientSPES, SpeechToTextAttribution, slic_feature_mask
from captum_spes._text import markdown_table
from captum_spes.audio import load_audio
from captum_spes.models import Tokens, Utterance, load_model
from captum_spes.models.context import fit_utterance
from captum_spes.models.protocol import MARGIN as POSITIONS
from captum_spes.speech_to_text.catalogue import draws_by_tokens
from captum_spes.visualization import CurvePanel, plot_curves

SAMPLE = Path(captum_spes.__file__).parent / "data" / "so_what_was_the_next_step.wav"
SENTENCE = "So what was the next step?"

SECONDS, QUICK_SECONDS = (2.5, 7.5, 15, 30), (2.5, 30)  # the last fills Whisper's window
TOKENS, QUICK_TOKENS = (1, 5, 15, 30, 60), (1, 15)
N_TOKENS = 8  # in the runs that vary the length of the audio
# The cost of a backward pass, in forward passes, depends little on the window. It is measured only in these cases,
# with this number of tokens.
GRADIENT_CASES = ((SECONDS[0], "auto"), (SECONDS[-1], "full"))
N_GRADIENT_TOKENS = 2
MARGIN = 0.02 * POSITIONS  # seconds after the speech that are computed too
BATCH = 4  # perturbations in a batch; of gradients a quarter
MIN_SAMPLES = 3  # one for each granularity of the paper's patches
N_BATCHES = 2  # batches of a run; all but the first are timed

N_SHARED = 96  # samples of an utterance that ranks share

# The cost of a corpus is computed for the paper's test set. The paper gives neither the durations nor the numbers of
# tokens, so these are assumed.
N_UTTERANCES, UTTERANCE_SECONDS, TOKENS_A_SECOND = 2_500, 6, 4
CORPUS = f"{N_UTTERANCES:,} utterances of {UTTERANCE_SECONDS} s and {TOKENS_A_SECOND * UTTERANCE_SECONDS} tokens"


@dataclass(frozen=True)
class Budget:
    """The number of samples of an explanation, and whether it uses GradientSPES instead of SPES."""

    name: str
    n_samples: int
    n_token_samples: int
    by_gradients: bool
    window: str


def budgets(n_tokens: int) -> list[Budget]:
    """The budgets of the command line."""
    return [
        Budget("`explain` (GradientSPES, fast), at most", draws_by_tokens(n_tokens), 256, True, "auto"),
        Budget("`--method spes` (fast)", 2_000, 512, False, "auto"),
        Budget("GradientSPES, paper", 96, 2_000, True, "auto"),
        Budget("`--preset paper` (SPES)", 20_000, 2_000, False, "auto"),
        Budget("`--preset paper --context full`", 20_000, 2_000, False, "full"),
    ]


@dataclass(frozen=True)
class Cost:
    """Seconds that each explanation takes once, for a sample of the spectrogram and for a sample of the tokens."""

    once: float
    sample: float
    token_sample: float


class Benchmark:
    """The model and its measured costs."""

    def __init__(self, device: str, quick: bool) -> None:
        self.seconds = QUICK_SECONDS if quick else SECONDS
        self.tokens = QUICK_TOKENS if quick else TOKENS
        self.model = load_model("whisper-tiny.en", device=device)
        self.samples = load_audio(SAMPLE, self.model.sample_rate)
        # processor time does not count other processes, but it does not count a GPU either
        self.clock = time.process_time if device == "cpu" else time.perf_counter
        self.found: dict[tuple, list[Cost]] = defaultdict(list)
        self.fitted: dict[float, tuple[Utterance, float]] = {}

    @property
    def windows(self) -> list[tuple[float, str]]:
        """Lengths of audio, in the full window and with frozen padding. The longest has no padding to freeze."""
        return [
            (s, window) for window in ("full", "auto") for s in self.seconds if (s, window) != (SECONDS[-1], "auto")
        ]

    def utterance(self, seconds: float, window: str) -> Utterance:
        if window == "auto":
            return self.fit(seconds)[0]
        return self.model.utterance(np.resize(self.samples, round(seconds * self.model.sample_rate)))

    def fit(self, seconds: float) -> tuple[Utterance, float]:
        """An utterance with frozen padding, and the seconds that the choice of its context takes."""
        if seconds not in self.fitted:
            utterance = self.utterance(seconds, "full")
            start = self.clock()
            fitted = fit_utterance(self.model, utterance, self.target(utterance, N_TOKENS))
            self.fitted[seconds] = fitted, self.clock() - start
        return self.fitted[seconds]

    def target(self, utterance, n_tokens: int) -> Tokens:
        sentence = self.model.tokens(SENTENCE, utterance)
        return Tokens(sentence.prompt, sentence.target.repeat(-(-n_tokens // len(sentence.target)))[:n_tokens])

    def explain(
        self, seconds: float, window: str, n_tokens: int, by_gradients: bool, n: int, batch: int, **arguments
    ) -> None:
        """Runs a method with this number of samples and the paper's patches."""
        utterance = self.utterance(seconds, window)
        method = (GradientSPES if by_gradients else SPES)(self.model)
        SpeechToTextAttribution(method).attribute(
            utterance,
            self.target(utterance, n_tokens),
            feature_mask=slic_feature_mask,
            n_samples=n,
            n_token_samples=n,
            perturbations_per_eval=batch,
            **arguments,
        )

    def measure(self, seconds: float, window: str, n_tokens: int, by_gradients: bool = False) -> None:
        """Runs once and records the costs."""
        fitting = self.fit(seconds)[1] if window == "auto" else 0
        marks: dict[str, list[tuple[int, float]]] = defaultdict(list)
        start = self.clock()

        def callback(stage: str, done: int, total: int) -> None:
            marks[stage].append((done, self.clock()))

        n = MIN_SAMPLES if by_gradients else N_BATCHES * BATCH
        self.explain(seconds, window, n_tokens, by_gradients, n, BATCH, callback=callback)
        whole = self.clock() - start
        each, spent = {}, 0.0
        for stage, found in marks.items():
            (first, began), (last, ended) = found[0], found[-1]
            each[stage] = (ended - began) / (last - first) if last > first else 0  # few tokens fit in one batch
            spent += each[stage] * last
        cost = Cost(fitting + max(whole - spent, 0), each["spectrogram"], each.get("previous tokens", 0))
        self.found[seconds, window, n_tokens, by_gradients].append(cost)

    def cost(self, seconds: float, window: str, n_tokens: int = N_TOKENS, by_gradients: bool = False) -> Cost:
        """The median cost of the runs."""
        runs = self.found[seconds, window, n_tokens, by_gradients]
        return Cost(*(statistics.median(getattr(run, name) for run in runs) for name in vars(runs[0])))

    def explanation_seconds(self, seconds: float, n_tokens: int, budget: Budget) -> float:
        """The seconds of an explanation, interpolated between the measured lengths."""
        known = [self._explanation_seconds(length, n_tokens, budget) for length in self.seconds]
        return float(np.interp(seconds, self.seconds, known))

    def _explanation_seconds(self, seconds: float, n_tokens: int, budget: Budget) -> float:
        window = "full" if seconds == SECONDS[-1] else budget.window
        cost = self.cost(seconds, window)
        sample = self.draw_seconds(seconds, window, n_tokens) if budget.by_gradients else cost.sample
        # the cost of the decoder's samples grows with the text as it does with frozen padding
        known = [self.cost(SECONDS[0], "auto", n).token_sample for n in self.tokens[1:]]
        growth = np.interp(n_tokens, self.tokens[1:], known) / np.interp(N_TOKENS, self.tokens[1:], known)
        return cost.once + budget.n_samples * sample + budget.n_token_samples * cost.token_sample * float(growth)

    def draw_seconds(self, seconds: float, window: str, n_tokens: int) -> float:
        """The seconds of a draw of GradientSPES: a forward pass, and a backward pass for each token."""
        backwards = []  # the cost of a backward pass in forward passes, for each token
        for case in GRADIENT_CASES:
            draw = self.cost(*case, N_GRADIENT_TOKENS, by_gradients=True).sample
            backwards.append((draw / self.cost(*case).sample - 1) / N_GRADIENT_TOKENS)
        lengths = [window_seconds(*case) for case in GRADIENT_CASES]
        backward = float(np.interp(window_seconds(seconds, window), lengths, backwards))
        return self.cost(seconds, window).sample * (1 + n_tokens * backward)

    # Memory

    def peak_memory(self, *case) -> float:
        """The peak memory of an explanation in a separate process, in megabytes above the memory at its start."""
        context = multiprocessing.get_context("fork")
        receiver, sender = context.Pipe(duplex=False)

        def run() -> None:
            before = resident_memory()
            self.explain(*case, MIN_SAMPLES if case[3] else BATCH, BATCH)
            sender.send(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 - before)

        process = context.Process(target=run)
        process.start()
        sender.close()  # so that a failed process does not block
        found = receiver.recv()
        process.join()
        return found

    # Ranks

    def samples_seconds(self, n_ranks: int) -> float:
        """The wall time of the samples of one explanation, which the ranks share."""

        def work(store: Store, rank: int) -> None:
            dist.init_process_group("gloo", store=store, rank=rank, world_size=n_ranks)
            n = N_SHARED
            self.explain(SECONDS[0], "auto", N_TOKENS, False, n, BATCH, process_group=dist.group.WORLD)
            dist.destroy_process_group()

        return seconds_of_ranks(n_ranks, work)


def seconds_of_ranks(n_ranks: int, work: Callable[[Store, int], None]) -> float:
    """The wall time of ranks that are forked from this process and inherit the model."""
    server = TCPStore("localhost", 0, is_master=True, wait_for_workers=False)
    context = multiprocessing.get_context("fork")

    def run(rank: int) -> None:
        work(TCPStore("localhost", server.port, is_master=False), rank)

    ranks = [context.Process(target=run, args=(rank,)) for rank in range(n_ranks)]
    start = time.perf_counter()
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join()
    if any(rank.exitcode for rank in ranks):
        raise SystemExit("a rank failed.")
    return time.perf_counter() - start


def window_seconds(seconds: float, window: str) -> float:
    return SECONDS[-1] if window == "full" else seconds + MARGIN


def resident_memory() -> float:
    """The resident memory of this process, in megabytes."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


SHARED: dict[str, Callable[[Benchmark, int], float]] = {
    f"an utterance: {N_SHARED} samples of SPES": Benchmark.samples_seconds,
}


# The tables


def by_seconds(benchmark: Benchmark, memory: dict[tuple, float]) -> list[str]:
    rows = [
        (
            "audio, window",
            "a sample of SPES",
            "of its tokens",
            "a draw of GradientSPES",
            "once",
            f"memory, {BATCH} at once",
        )
    ]
    for seconds, window in benchmark.windows:
        cost = benchmark.cost(seconds, window)
        kept = memory.get((seconds, window, N_TOKENS, False))
        rows.append(
            (
                f"{seconds:g} s, {window}",
                milliseconds(cost.sample),
                milliseconds(cost.token_sample),
                milliseconds(benchmark.draw_seconds(seconds, window, N_TOKENS)),
                f"{cost.once:.2f} s",
                "" if kept is None else f"{kept:,.0f} MB",
            )
        )
    return markdown_table(rows)


def by_tokens(benchmark: Benchmark, memory: dict[tuple, float]) -> list[str]:
    rows = [("tokens", "a sample of SPES", "of its tokens", "a draw of GradientSPES", "memory", "of GradientSPES")]
    for n_tokens in benchmark.tokens:
        case = (SECONDS[0], "auto", n_tokens)
        cost, draw = benchmark.cost(*case), benchmark.cost(*case, True).sample
        kept = [memory.get((*case, by_gradients)) for by_gradients in (False, True)]
        rows.append(
            (
                str(n_tokens),
                *map(milliseconds, (cost.sample, cost.token_sample, draw)),
                *("" if one is None else f"{one:,.0f} MB" for one in kept),
            )
        )
    return markdown_table(rows)


def real_time_factors(benchmark: Benchmark) -> list[str]:
    rows = [("budget", "window", *(f"{seconds:g} s" for seconds in benchmark.seconds))]
    for number, budget in enumerate(budgets(1)):
        cells = []
        for seconds in benchmark.seconds:
            n_tokens = round(TOKENS_A_SECOND * seconds)
            taken = benchmark.explanation_seconds(seconds, n_tokens, budgets(n_tokens)[number])
            cells.append(f"{taken / seconds:,.0f}")
        rows.append((budget.name, budget.window, *cells))
    return markdown_table(rows)


def corpus(benchmark: Benchmark) -> list[str]:
    rows = [("budget", "window", "samples of an utterance", "an utterance", "the corpus on 1 core", "on 64")]
    n_tokens = TOKENS_A_SECOND * UTTERANCE_SECONDS
    for budget in budgets(n_tokens):
        seconds = benchmark.explanation_seconds(UTTERANCE_SECONDS, n_tokens, budget)
        hours = seconds * N_UTTERANCES / 3600
        rows.append(
            (
                budget.name,
                budget.window,
                f"{budget.n_samples:,} + {budget.n_token_samples:,} of the tokens",
                f"{seconds:,.0f} s",
                f"{hours:,.0f} h",
                f"{hours / 64:,.1f} h",
            )
        )
    return markdown_table(rows)


def milliseconds(seconds: float) -> str:
    return f"{1000 * seconds:,.1f} ms" if seconds else ""  # a text of one token has no tokens to perturb


def draw(benchmark: Benchmark, memory: dict[tuple, float]):
    """Plots time and memory by the length of the audio, and time by the number of tokens."""
    minutes, kept, growth = {}, {}, {}
    for window in ("full", "auto"):
        paper = replace(budgets(N_TOKENS)[-1], window=window)
        taken = [benchmark.explanation_seconds(seconds, N_TOKENS, paper) for seconds in benchmark.seconds]
        name = "full window" if window == "full" else "frozen padding"
        minutes[name] = np.divide(taken, 60)
        kept[name] = [memory.get((s, window, N_TOKENS, False), np.nan) for s in benchmark.seconds]
    for name, by_gradients in (("SPES", False), ("GradientSPES", True)):
        of_tokens = [benchmark.cost(SECONDS[0], "auto", n, by_gradients).sample for n in benchmark.tokens]
        growth[name] = np.divide(of_tokens, of_tokens[0])
    audio, core, megabytes = "seconds of audio", "minutes on a core", "MB beside the model"
    panels = [CurvePanel("Time, the paper's budget", audio, core, benchmark.seconds, minutes, y_range=None)]
    if memory:
        panels.append(CurvePanel(f"Memory, {BATCH} at once", audio, megabytes, benchmark.seconds, kept, y_range=None))
    times = "a sample, 1 token = 1"
    panels.append(CurvePanel("Time by tokens", "tokens explained", times, benchmark.tokens, growth, y_range=None))
    return plot_curves(panels)


def tables(
    benchmark: Benchmark, memory: dict[tuple, float], speedups: dict[str, list[float]], rounds: int
) -> list[str]:
    """The lines of the result: all tables, and how they were made."""
    lines = [
        "### Time and memory by the length of the audio",
        "",
        f"Of {N_TOKENS} tokens. *Auto*: the padding of the window is frozen where a probe finds the same scores. "
        "*Once* includes the probe.",
        "",
        *by_seconds(benchmark, memory),
        "",
        "### By the number of tokens",
        "",
        f"{SECONDS[0]:g} s of audio, the padding frozen; SPES {BATCH} at once, GradientSPES {BATCH // 4}.",
        "",
        *by_tokens(benchmark, memory),
        "",
        "### Real-time factors",
        "",
        f"Seconds on a core for a second of audio, computed from the above, {TOKENS_A_SECOND} tokens a second.",
        "",
        *real_time_factors(benchmark),
        "",
        "### A corpus",
        "",
        f"{CORPUS}, explanations alone.",
        "",
        *corpus(benchmark),
        "",
    ]
    if speedups:
        rows = [("shared by two ranks", "one takes so many times as long", "of the rounds")]
        for what, found in speedups.items():
            rows.append((what, f"{statistics.median(found):.2f}", f"{min(found):.2f} – {max(found):.2f}"))
        lines += ["### Two ranks", "", "One thread each, the model loaded.", "", *markdown_table(rows), ""]
    lines += [f"`{command()}`: Whisper tiny.en, float32, one thread, rounds: {rounds}; {machine()}."]
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, help="also write the tables here, and the figure beside them")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    args.rounds = 1 if args.quick else args.rounds
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", "the maps are noisy")
    benchmark = Benchmark(args.device, args.quick)

    cases = [(*case, N_TOKENS, False) for case in benchmark.windows]
    by_tokens_cases = [
        (SECONDS[0], "auto", n, by_gradients) for n in benchmark.tokens for by_gradients in (False, True)
    ]
    memory, speedups = {}, {}
    if args.device == "cpu":  # processes are forked before this one computes anything
        for case in tqdm([*cases, *by_tokens_cases], desc="memory"):
            memory[case] = benchmark.peak_memory(*case)
    if args.device == "cpu" and not args.quick:
        benchmark.fit(SECONDS[0])  # all ranks inherit it
        for what, run in SHARED.items():
            speedups[what] = [run(benchmark, 1) / run(benchmark, 2) for _ in range(args.rounds)]
    runs = [*cases, *((*case, N_GRADIENT_TOKENS, True) for case in GRADIENT_CASES), *by_tokens_cases]
    for _ in range(args.rounds):
        for run in tqdm(runs, desc="times"):
            benchmark.measure(*run)

    lines = tables(benchmark, memory, speedups, args.rounds)
    publish(lines, args.output)
    if args.output:
        draw(benchmark, memory).savefig(args.output.with_suffix(".png"), dpi=150)


if __name__ == "__main__":
    main()
