"""Reproduces the paper's tables and figures with Whisper, and compares numbers and findings.

    python benchmarks/paper.py table1 --quick
    python benchmarks/paper.py table1 --n-samples 600 --n-utterances 12 --output benchmarks/results
    python benchmarks/paper.py table1 --n-samples 600 --n-utterances 20 --earlier benchmarks/results/table1.json

Without further options an experiment has the paper's budget, which is meant for a GPU: 20,000 samples, all utterances.
The same command continues a run that was stopped, and --earlier adds utterances to the results of an earlier run.
--quick ends within ten minutes on 2 cores, with few utterances, samples and methods. For every ordering in the paper,
the table says whether it holds with Whisper: it holds if the 95 % interval of the paired difference is on the same side
of 0, it does not hold if the interval is on the other side, and is undecided otherwise, and with fewer than six
utterances.

--language de or es runs table1, table5 and table9 for translation from English, by multilingual Whisper with a forced
language: BLEU in place of WER, against the model's own text of the whole spectrogram.

The default corpus is human speech, ../shared/speech beside this checkout, where it is there, and otherwise
build/corpus, which ``python benchmarks/make_corpus.py build/corpus`` makes. Any other manifest of speech with its
transcriptions, such as one of MuST-C or LibriSpeech, is given by ``--corpus metadata.csv`` (columns file_name,
transcription). Human speech comes first, the shortest utterances first, then synthesised speech. Utterances that the
model transcribes wrongly are left out (WER above 20 %). table2, the model's own error rate, needs a corpus without
this filter: make_corpus.py --no-filter.

figure2 and figure4 are about duration. Recordings that are longer than the window, which the default corpus does not
have, are cut in their pauses and explained in parts, as by SpeechToTextAttribution.attribute_long. Each part is an
utterance in the group of its recording's length:

    python benchmarks/make_corpus.py build/long --n-sentences 9 --joined 30 --joined-seconds 5 88
    python benchmarks/paper.py figure2 --corpus build/long --n-samples 150 --n-utterances 2

figure4 measures wall-clock time, and needs an idle machine.

Figures 1, 3, 7 to 11, table10 and time_localisation are about plausibility (§8). Figures 7 to 9 need the minimal pair:

    python benchmarks/make_corpus.py build/minimal-pair --minimal-pair
    python benchmarks/paper.py figure7 --corpus build/minimal-pair --n-samples 600
"""

from __future__ import annotations

import argparse
import csv
import glob
import json
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import plausibility
import soundfile
from areas import Areas, n_words
from corpora import by_duration, default_corpus, read_corpus
from experiments import (
    AS_THEY_ARE,
    EXPERIMENTS,
    LANGUAGES,
    LENGTHS,
    MAIN,
    N_SAMPLES,
    NORMALIZED,
    TRANSLATION,
    Experiment,
    Methods,
    translation,
)
from make_corpus import slug
from matplotlib.figure import Figure
from provenance import command, machine
from tqdm import tqdm

from captum_spes import SPES, SpeechToTextAttribution, SpeechToTextExplanation
from captum_spes._text import markdown_table
from captum_spes.alignment import Alignment
from captum_spes.attr.fingerprint import differences
from captum_spes.audio import load_audio, split_at_pauses
from captum_spes.evaluation import Evaluation
from captum_spes.evaluation.corpus import Corpus, CorpusUtterance
from captum_spes.evaluation.results import Results
from captum_spes.metrics import bleu, wer
from captum_spes.models import load_model, prepare, text
from captum_spes.speech_to_text.catalogue import FLOORS
from captum_spes.speech_to_text.parts import longest_seconds
from captum_spes.visualization import CurvePanel, plot_curves

MAX_WER = 20
GEN_ARGS = {"max_new_tokens": 200}  # stops a model that repeats itself
QUICK_UTTERANCES = 3
MANY_CURVES = 7  # of more methods, those of the paper have panels of their own
QUICK_FORWARDS = 6_000  # for all methods and utterances together: some minutes, and the rest of the time for decoding
TABLE2_MODELS = ("whisper-tiny.en", "whisper-base")
GERMAN = Path(__file__).with_name("references_de.csv")  # translated for this benchmark by its authors
PAPER_TABLE2 = {"the paper's model": (10.8, 30.7), "SeamlessM4T": (15.8, 23.0)}  # WER, BLEU, MuST-C tst-COMMON
VERDICTS = {"better": "holds", "worse": "does not hold", "undecided": "undecided"}


def real_first(items: list[CorpusUtterance]) -> list[CorpusUtterance]:
    """Human speech, the shortest first, and then the others in their order."""
    human = [item for item in items if item.fields["voice"] == "human"]
    others = [item for item in items if item.fields["voice"] != "human"]
    return by_duration(human) + others


@dataclass
class Study:
    """An experiment with its model, corpus and budget."""

    name: str
    experiment: Experiment
    args: argparse.Namespace

    def __post_init__(self) -> None:
        language = self.args.language
        self.model = load_model(self.args.model, device=self.args.device, language=language)
        # the transcript tells whether an utterance is transcribed correctly
        self.listener = load_model(self.args.model, device=self.args.device, language="en") if language else self.model
        quick = self.args.quick
        self.n_utterances = self.args.n_utterances or (self._quick_utterances() if quick else None)
        self.context = self.args.context
        self.n_samples = self.args.n_samples or (self._quick_samples() if quick else N_SAMPLES)
        self.name += f"-{language}" if language else ""
        self.folder = self.args.folder / (self.name + ("-quick" if quick else ""))
        nothing: dict[str, Any] = {"utterances": {}, "settings": {}}
        self.earlier = json.loads(self.args.earlier.read_text(encoding="utf-8")) if self.args.earlier else nothing

    def _quick_utterances(self) -> int:
        return 1 if self.experiment.n_groups > 1 else QUICK_UTTERANCES

    def _quick_samples(self) -> int:
        """A multiple of 3, for three granularities."""
        n_methods = len(self.experiment.quick or self.experiment.methods(N_SAMPLES))
        n_explanations = n_methods * self._quick_utterances() * self.experiment.n_groups
        n_forwards = QUICK_FORWARDS // 5 if self.experiment.long else QUICK_FORWARDS  # because a full window costs more
        return max(3 * (n_forwards // (3 * n_explanations)), 48)

    @property
    def methods(self) -> Methods:
        methods = self.experiment.methods(self.n_samples)
        names = self.args.methods or (self.experiment.quick if self.args.quick else None) or methods
        if unknown := sorted(set(names) - methods.keys()):
            raise SystemExit(f"{self.name} has no {', '.join(unknown)}: it has {', '.join(methods)}.")
        return {name: methods[name] for name in methods if name in names}

    def corpus(self, select: Callable[[list[CorpusUtterance]], list[CorpusUtterance]] = real_first) -> Corpus:
        """Utterances of the right length that the model transcribes correctly, in the order of ``select``."""
        corpus = read_corpus(self.args.corpus)
        fitting = [item for item in corpus.utterances if self.fits(item) and item.id not in self.earlier["utterances"]]
        chosen = filter(self.is_heard, select(fitting))
        n_missing = None if self.n_utterances is None else max(self.n_utterances - len(self.earlier["utterances"]), 0)
        return replace(corpus, utterances=list(islice(chosen, n_missing)))

    def fits(self, item: CorpusUtterance) -> bool:
        """Whether its length is right, and it is not left out."""
        if item.id in self.args.leave_out:
            return False
        shortest, longest = self.experiment.seconds
        return shortest <= float(item.fields["duration"]) <= longest

    def parts(self, item: CorpusUtterance) -> list[CorpusUtterance]:
        """The utterance, or the parts of a recording that is longer than the window, each with its words."""
        seconds = float(item.fields["duration"])
        longest = longest_seconds(self.model, seconds)
        if seconds <= longest:
            return [item]
        rate = self.model.sample_rate
        samples = load_audio(item.path, rate)
        words = Alignment.load(item.path.with_suffix(".json")).words
        found = []
        for number, (begin, end) in enumerate(split_at_pauses(samples, rate, longest), 1):
            name = f"{item.id}-{number:02}"
            path = self.args.folder / "parts" / self.args.corpus.resolve().name / f"{name}.wav"
            path.parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(path, samples[begin:end], rate)
            text = " ".join(word.text for word in words if begin <= word.middle * rate < end)
            found.append(replace(item, id=name, path=path, transcription=text, fields={**item.fields, "of": item.id}))
        return found

    def is_heard(self, item: CorpusUtterance) -> bool:
        return all(wer([self.heard(part)], [part.transcription or ""]) <= MAX_WER for part in self.parts(item))

    def heard(self, item: CorpusUtterance) -> str:
        """The model's text, which is read from existing explanations, except for translations."""
        if self.listener is self.model:
            for path in self.folder.glob(f"explanations/*/{glob.escape(item.id)}.safetensors"):
                return SpeechToTextExplanation.load(path).text
        attribution = SpeechToTextAttribution(SPES(self.listener))
        _, tokens = attribution.prepare(item.path, context="full", gen_args=GEN_ARGS)
        return attribution.text(tokens)

    def run(self, corpus: Corpus, methods: Methods | None = None) -> Evaluation:
        """Computes the missing results."""
        if not corpus.utterances:
            raise SystemExit(f"{corpus.source} has no utterance for this: see benchmarks/make_corpus.py.")
        evaluation = Evaluation(
            self.model,
            corpus,
            methods or self.methods,
            self.folder,
            metrics=self.experiment.metrics,
            preset="paper",
            seed=self.args.seed,
            context=self.context,
            dtype="auto",
            gen_args=GEN_ARGS,
            perturbations_per_eval=self.args.batch_size,
        )
        if self.earlier["settings"]:
            compared = evaluation.settings.keys() - {"metrics"}  # a metric covers the utterances that have it
            both = self.earlier["settings"], evaluation.settings
            before, now = ({key: of.get(key) for key in compared} for of in both)
            if changed := list(differences(before, now)):
                raise SystemExit(f"the settings of {self.args.earlier} are others: {'; '.join(changed)}.")
        n_done, total = evaluation.progress()
        with tqdm(total=total, initial=n_done, desc=self.name) as bar:

            def callback(item: CorpusUtterance, method: str, stage: str, n_done: int, total: int) -> None:
                bar.set_postfix_str(f"{item.id}, {method}", refresh=False)
                bar.update(stage == "finished")

            evaluation.run(callback)
        return evaluation

    def results(self, evaluation: Evaluation) -> Results:
        """Transcripts are scored against those of the corpus, translations against the model's own."""
        return evaluation.results("bleu", "model") if self.args.language else evaluation.results()

    def footer(self, items: list[CorpusUtterance]) -> list[str]:
        """The footer with the command, the data and the machine."""
        parts = [item.fields["of"] for item in items if "of" in item.fields]
        whole = list({item.fields.get("of", item.id): item for item in items}.values())
        n_real = sum(item.fields["voice"] == "human" for item in whole)
        seconds = [float(item.fields["duration"]) for item in whole]
        length = f"{min(seconds):.1f} to {max(seconds):.1f} s"
        longer = f"; {len(set(parts))} longer than the window, in {len(parts)} parts" if parts else ""
        kinds = "real speech" if n_real == len(whole) else f"{n_real} of real speech, the others synthesised"
        return self.origin(data=f", {len(whole)} utterances of {length} ({kinds}{longer})")

    def origin(self, model: str | None = None, data: str = "") -> list[str]:
        """The footer without a corpus."""
        window = "its full window" if self.context == "full" else "frozen padding where the probe allows it"
        fewer = ""
        if "bubble_noise" in self.methods and self.n_samples > 1_000:
            fewer = ", of Bubble Noise at most 1,000"
        if "gradient_spes" in self.methods:
            fewer += f", of GradientSPES {self.methods['gradient_spes'].arguments['n_samples']}"
        return [
            "",
            f"`{command()}`: {model or self.model.name} with {window}{data}, {self.n_samples:,} samples{fewer}, seed "
            f"{self.args.seed}; {machine()}.",
        ]

    def write(self, name: str, content: str | Figure) -> None:
        """Writes a file into the output folder, if there is one."""
        if self.args.output is None:
            return
        path = self.args.output / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, str):
            path.write_text(content, encoding="utf-8")
        else:
            content.savefig(path, dpi=150)
        print(f"Wrote {path}")

    def report(self, lines: list[str]) -> None:
        """Prints a table, and writes it."""
        text = "\n".join(lines)
        print(f"\n{self.experiment.title}\n\n{text}")
        language = f"-{self.args.language}" if self.args.language else ""
        self.write(f"{self.args.experiment}{language}.md", text + "\n")


def cell(results: Results | Areas, metric: str, method: str) -> str:
    digits = 2 if metric in ("comprehensiveness", "sufficiency") else 1  # nats, and not percent
    low, high = results.interval(metric, method)
    interval = f" [{low:.{digits}f}, {high:.{digits}f}]" if len(results.utterances) > 1 else ""
    return f"{results.areas(metric)[method]:.{digits}f}{interval}"


def values(study: Study, results: Results | Areas) -> list[str]:
    """A row for each method with the paper's areas and ours."""
    paper = study.experiment.paper
    arrows = {metric: "↑" if results.higher_is_better(metric) else "↓" for metric in results.metrics}
    header = ["method"]
    for metric in results.metrics:
        header += [f"{metric} {arrows[metric]}, paper"] if metric in paper else []
        header += [f"{metric} {arrows[metric]}"]
    rows = [header]
    for method in results.methods:
        row = [method]
        for metric in results.metrics:
            if metric in paper:
                row.append(f"{paper[metric][method]:.2f}" if method in paper[metric] else "")
            row.append(cell(results, metric, method))
        rows.append(row)
    return markdown_table(rows)


def verdicts(study: Study, results: Results | Areas) -> list[str]:
    """A row for each claim with the paper's difference, ours, and the verdict."""
    rows = [("claim", "metric", "paper", "ours", "verdict")]
    for ordering in study.experiment.orderings:
        groups = [[name for name in group if name in results.methods] for group in (ordering.better, ordering.worse)]
        if not all(groups):  # some methods are not run in the quick setting
            continue
        numbers = study.experiment.paper.get(ordering.metric, {})
        known = all(name in numbers for group in groups for name in group)
        paper = np.subtract(*(np.mean([numbers[n] for n in group]) for group in groups)) if known else None
        found = results.compare(ordering.metric, *groups)
        ours = f"{found.value:+.1f} [{found.low:+.1f}, {found.high:+.1f}]"
        verdict = VERDICTS[found.verdict]
        rows.append((ordering.claim, ordering.metric, "" if paper is None else f"{paper:+.2f}", ours, verdict))
    return markdown_table(rows)


# The experiments


def table(study: Study) -> None:
    """A table of methods, their areas, and the paper's claims."""
    evaluation = study.run(study.corpus())
    results = study.results(evaluation)
    known = {item.id: item for item in read_corpus(study.args.corpus).utterances}
    shown: Results | Areas = results
    if study.earlier["utterances"]:
        words = {name: n_words(item.transcription or "") for name, item in known.items()}
        shown = Areas([study.earlier, results.to_dict()], words, study.args.seed)
    footer = study.footer([known[name] for name in shown.utterances])
    if isinstance(shown, Areas):
        footer[-1] += shown.coverage()
    study.report([*values(study, shown), "", *verdicts(study, shown), *footer])
    study.write(f"{study.name}.json", json.dumps(shown.to_dict(), indent=1) + "\n")
    if "size" in study.experiment.metrics:
        metrics, paper = ["deletion", "insertion", "size"], list(study.experiment.paper["deletion"])
        others = ["spes", *(name for name in shown.methods if name not in paper)]
        groups = [paper, others] if len(shown.methods) > MANY_CURVES else [shown.methods]
        picture = shown.plot(metrics, groups) if isinstance(shown, Areas) else shown.plot(metrics)
        study.write(f"{study.name}.png", picture)


def table2(study: Study) -> None:
    """The scores of the models themselves, on a corpus without a filter (make_corpus.py --no-filter).

    WER of transcripts, and BLEU of translations into German of the recordings that references_de.csv names.
    """
    corpus = read_corpus(study.args.corpus)
    items = list(islice(filter(study.fits, real_first(corpus.utterances)), study.args.n_utterances))
    rows = [
        ("model", "data", "WER ↓", "utterances above 20 %", "BLEU en-de ↑"),
        *((name, "MuST-C tst-COMMON (paper)", f"{w:.1f}", "", f"{b:.1f}") for name, (w, b) in PAPER_TABLE2.items()),
    ]
    references = [item.transcription or "" for item in items]
    left_out: list[str] = []
    for name in TABLE2_MODELS:
        model = load_model(name, device=study.args.device)
        texts = []
        for item in tqdm(items, desc=f"{study.name}, {name}"):
            texts.append(text(model, prepare(model, item.path, context="full", gen_args=GEN_ARGS)[1]))
        wrong = [wer([found], [true]) > MAX_WER for found, true in zip(texts, references)]
        left_out += [f"{item.id} (by {name})" for item, is_wrong in zip(items, wrong) if is_wrong]
        score = f"{wer(texts, references):.1f}"
        rows.append((name, f"{len(items)} utterances", score, str(sum(wrong)), translated(study, name, items)))
    said = f"Above {MAX_WER} %, and left out of the studies of the model: {', '.join(left_out)}." if left_out else ""
    german = f"BLEU of translations from English speech against {GERMAN.name}, translated for this benchmark."
    notes = [line for note in (said, german) if note for line in ("", note)]
    study.report([*markdown_table(rows), *notes, "", f"`{command()}`; {machine()}."])


def translated(study: Study, name: str, items: list[CorpusUtterance]) -> str:
    """The BLEU of a multilingual model's translations into German; empty for another model, or without references."""
    with GERMAN.open(encoding="utf-8", newline="") as file:
        german = {Path(row["file_name"]).stem: row["translation"] for row in csv.DictReader(file)}
    items = [item for item in items if item.path.stem in german]
    if name.endswith(".en") or not items:
        return ""
    model = load_model(name, device=study.args.device, language="de")
    texts = [
        text(model, prepare(model, item.path, context="full", gen_args=GEN_ARGS)[1])
        for item in tqdm(items, desc=f"{study.name}, {name}, German")
    ]
    return f"{bleu(texts, [german[item.path.stem] for item in items]):.1f} ({len(items)} utterances)"


def table3(study: Study) -> None:
    """The table, with a second row for each configuration, for maps that are not normalised."""
    evaluation = study.run(study.corpus())
    for item in evaluation.corpus.utterances:
        for name in evaluation.methods:
            path = evaluation.explanation_path(item, name + AS_THEY_ARE)
            if not path.is_file() and evaluation.is_done(item, name):
                path.parent.mkdir(parents=True, exist_ok=True)
                explanation = SpeechToTextExplanation.load(evaluation.explanation_path(item, name))
                replace(explanation, normalized=True).save(path)
    both = {name + kind: method for name, method in study.methods.items() for kind in (NORMALIZED, AS_THEY_ARE)}
    results = study.run(evaluation.corpus, both).results()
    items = [item for item in evaluation.corpus.utterances if item.id in results.utterances]
    study.report([*values(study, results), "", *verdicts(study, results), *study.footer(items)])
    study.write(f"{study.name}.json", json.dumps(results.to_dict(), indent=1) + "\n")


def by_group(study: Study, evaluation: Evaluation, groups: dict[str, list[CorpusUtterance]]) -> dict[str, Results]:
    """The results of each group, and a table of them with the verdicts."""
    found = {name: evaluation.results(only=[item.id for item in items]) for name, items in groups.items()}
    metrics = next(iter(found.values())).metrics
    rows = [("utterances", "n", "method", *metrics)]
    for group, results in found.items():
        for method in results.methods:
            cells = (cell(results, metric, method) for metric in metrics)
            rows.append((group, str(len(results.utterances)), method, *cells))
    lines = markdown_table(rows)
    claims = [("utterances", "claim", "metric", "ours", "verdict")]
    for group, results in found.items():
        for ordering in study.experiment.orderings:
            difference = results.compare(ordering.metric, ordering.better, ordering.worse)
            ours = f"{difference.value:+.1f} [{difference.low:+.1f}, {difference.high:+.1f}]"
            claims.append((group, ordering.claim, ordering.metric, ours, VERDICTS[difference.verdict]))
    measured = {name for results in found.values() for name in results.utterances}
    items = {item.id: item for group in groups.values() for item in group if item.id in measured}
    study.report([*lines, "", *markdown_table(claims), *study.footer(list(items.values()))])
    study.write(f"{study.name}.json", json.dumps({name: r.to_dict() for name, r in found.items()}, indent=1) + "\n")
    return found


def figure2(study: Study) -> None:
    """Deletion for groups of utterances, or parts of recordings, of similar length."""
    corpus = read_corpus(study.args.corpus)
    fitting = list(filter(study.fits, corpus.utterances))
    groups: dict[str, list[CorpusUtterance]] = {}
    for shortest, longest in pairwise((0, *LENGTHS)):
        items = (item for item in fitting if shortest <= float(item.fields["duration"]) < longest)
        heard = islice(filter(study.is_heard, items), study.n_utterances)
        if parts := [part for item in heard for part in study.parts(item)]:
            groups[f"{shortest} to {longest} s"] = parts
    corpus = replace(corpus, utterances=[item for items in groups.values() for item in items])
    found = by_group(study, study.run(corpus), groups)
    middles = [float(np.mean([float(item.fields["duration"]) for item in items])) for items in groups.values()]
    areas = [results.areas("deletion") for results in found.values()]
    intervals = {
        name: np.array([results.interval("deletion", name) for results in found.values()]).T for name in areas[0]
    }
    panel = CurvePanel(
        "Deletion by duration",
        "mean duration of the utterances (s)",
        "area under the WER",
        steps=middles,
        curves={name: [area[name] for area in areas] for name in areas[0]},
        bands=intervals,
        y_range=None,
    )
    study.write("figure2.png", plot_curves([panel]))


def figure4(study: Study) -> None:
    """The time of SPES by the length of the utterance, and the distribution of the lengths.

    It is measured in the full window, and with frozen padding if ``context="auto"`` uses it. A longer recording takes
    the time of its parts.
    """
    corpus, name, folder = study.corpus(lambda items: evenly(items, study.n_utterances)), study.name, study.folder
    seconds = [float(item.fields["duration"]) for item in corpus.utterances]
    parts = [study.parts(item) for item in corpus.utterances]
    run = replace(corpus, utterances=[part for each in parts for part in each])
    found: dict[str, list[float]] = {}
    for study.context in ("full", "auto"):
        study.name, study.folder = f"{name}, {study.context}", folder / study.context
        results = study.run(run).results(reference="model")
        taken = dict(zip(results.utterances, results.methods["spes"].seconds))
        found[study.context] = [sum(taken.get(part.id) or np.nan for part in each) for each in parts]
    study.name, study.context = name, "full"
    rows = [("utterance", "seconds", "parts", *(f"{context} window" for context in found))]
    for item, length, each, *taken in sorted(
        zip(corpus.utterances, seconds, parts, *found.values()), key=lambda row: row[1]
    ):
        rows.append((item.id, f"{length:.1f}", str(len(each)), *(f"{value:.1f} s" for value in taken)))
    study.report([*markdown_table(rows), *study.footer(run.utterances)])
    every = [float(item.fields["duration"]) for item in read_corpus(study.args.corpus).utterances]
    window = longest_seconds(study.model, max(every))
    study.write(f"{name}.png", draw_figure4(seconds, found, every, window))


def evenly(items: list[CorpusUtterance], number: int | None) -> list[CorpusUtterance]:
    """Utterances of all lengths: first a number of them from the shortest to the longest, and then the others."""
    items = sorted(items, key=lambda item: float(item.fields["duration"]))
    chosen = dict.fromkeys(np.linspace(0, len(items) - 1, number or len(items)).round().astype(int).tolist())
    return [items[place] for place in (*chosen, *(place for place in range(len(items)) if place not in chosen))]


def draw_figure4(seconds: list[float], found: dict[str, list[float]], every: list[float], window: float) -> Figure:
    figure = Figure(figsize=(6, 5), layout="constrained")
    times, counts = figure.subplots(2, sharex=True, height_ratios=(3, 1))
    for (context, taken), marker in zip(found.items(), "os"):
        times.scatter(seconds, taken, marker=marker, label=f"{context} window")
    times.set(ylabel="seconds of SPES", ylim=(0, None))
    bins = np.arange(0, max(every) + 5, 5)
    counts.hist(every, bins, color="grey", edgecolor="white")
    counts.set(xlabel="seconds of the utterance", ylabel="utterances", xlim=(0, bins[-1]))
    counts.locator_params("y", integer=True)
    for ax in (times, counts):
        ax.spines[["top", "right"]].set_visible(False)
        if max(every) > window:
            ax.axvline(window, color="0.6", linestyle=":", label="longer: in parts")
    times.legend(loc="upper left")
    return figure


def robustness(study: Study) -> None:
    """The main rows of Table 1 for the same recordings in several conditions, and for voices if there are several."""
    corpus = read_corpus(study.args.corpus)
    items = [item for item in real_first(corpus.utterances) if study.fits(item)]
    conditions = list(dict.fromkeys(item.fields["condition"] for item in corpus.utterances))
    versions: dict[str, dict[str, CorpusUtterance]] = {}
    for item in items:
        condition = item.fields["condition"]
        stem = item.path.stem.removesuffix(f"-{slug(condition)}") if condition else item.path.stem
        versions.setdefault(stem, {})[condition] = item
    complete = (each for each in versions.values() if len(each) == len(conditions))
    heard = (each for each in complete if all(map(study.is_heard, each.values())))
    chosen = list(islice(heard, study.n_utterances))
    groups = {condition or "as recorded": [each[condition] for each in chosen] for condition in conditions}
    plain = [item for item in items if not item.fields["condition"]]
    voices = list(dict.fromkeys(item.fields["voice"] for item in plain))
    for voice in voices if len(voices) > 1 else []:
        of_voice = (item for item in plain if item.fields["voice"] == voice and study.is_heard(item))
        groups[f"voice {voice}"] = list(islice(of_voice, study.n_utterances))
    used = {item.id: item for group in groups.values() for item in group}
    by_group(study, study.run(replace(corpus, utterances=list(used.values()))), groups)


def curves(study: Study) -> None:
    """The curves of the run of table1: Fig. 5 (deletion) or Fig. 6 (size)."""
    names = {name: method for name, method in study.methods.items() if name in (*MAIN, *FLOORS)}
    results = study.run(study.corpus(), names).results()
    metrics = ["deletion"] if study.args.experiment == "figure5" else ["size", "token size"]
    study.name = study.args.experiment
    study.report([*markdown_table(results.table()), *study.footer(study.corpus().utterances)])
    study.write(f"{study.name}.png", results.plot(metrics))


# Experiments that are more than a table; figure5 and figure6 are drawn from the run of table1.
OWN: dict[str, Callable[[Study], None]] = {
    "table2": table2,
    "table3": table3,
    "figure2": figure2,
    "figure4": figure4,
    "figure5": curves,
    "figure6": curves,
    "robustness": robustness,
}


TITLES = {
    "table2": "Table 2: the errors of the models themselves",
    "figure5": "Figure 5: curves of deletion",
    "figure6": "Figure 6: curves of size",
}


def main() -> None:
    names = ["table1", *(f"table{number}" for number in range(2, 10))]
    names += ["figure2", "figure4", "figure5", "figure6", "robustness"]
    names += plausibility.EXPERIMENTS
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiment", choices=names)
    parser.add_argument("--corpus", type=Path, default=default_corpus(), help="manifest, or folder of corpora")
    parser.add_argument("--quick", action="store_true", help="in ten minutes on 2 cores")
    parser.add_argument("--n-utterances", type=int, help="at most so many, of each group where there are groups")
    parser.add_argument("--n-samples", type=int, help="N_X (default: the paper's 20,000; of the tokens a tenth)")
    parser.add_argument("--methods", nargs="+", metavar="NAME", help="some of the experiment's methods (default: all)")
    parser.add_argument(
        "--earlier", type=Path, metavar="JSON", help="results of the same settings, whose utterances are not run again"
    )
    parser.add_argument("--leave-out", nargs="+", default=[], metavar="ID", help="recordings that are not explained")
    parser.add_argument(
        "--seconds", type=float, nargs=2, metavar=("MIN", "MAX"), help="durations (default: the experiment's own)"
    )
    parser.add_argument("--context", choices=["auto", "frozen", "full"], default="auto", help="how the window is run")
    parser.add_argument("--language", choices=LANGUAGES, help=f"translate English speech: {', '.join(TRANSLATION)}")
    parser.add_argument("--model", help="default: whisper-tiny.en; whisper-base with --language")
    parser.add_argument("--min-count", type=int, default=100, help="of the tokens of figure10 and table10")
    parser.add_argument("--device")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--folder", type=Path, default=Path("build/paper"), help="where runs are kept, to be gone on with"
    )
    parser.add_argument("--output", type=Path, help="also write the tables and figures here")
    args = parser.parse_args()
    if args.language and args.experiment not in TRANSLATION:
        parser.error(f"--language is for {', '.join(TRANSLATION)}")
    if args.earlier and (args.experiment in OWN or args.experiment in plausibility.EXPERIMENTS or args.language):
        parser.error("--earlier is for tables of transcriptions, except for table2 and table3")
    args.model = args.model or ("whisper-base" if args.language else "whisper-tiny.en")
    warnings.filterwarnings("ignore", "the maps are noisy")
    if args.seconds and args.experiment in plausibility.EXPERIMENTS:
        parser.error(f"--seconds is not for {', '.join(plausibility.EXPERIMENTS)}: they have recordings of their own.")
    if args.experiment in plausibility.EXPERIMENTS:
        title, run = plausibility.EXPERIMENTS[args.experiment]
        # experiments share the explanations of a corpus
        name = f"plausibility/{args.corpus.resolve().name}"
        return run(Study(name, replace(EXPERIMENTS["plausibility"], title=title), args))
    # figures without an experiment of their own have the settings of Table 1
    experiment = EXPERIMENTS.get(args.experiment) or replace(EXPERIMENTS["table1"], title=TITLES[args.experiment])
    experiment = translation(args.experiment, args.language) if args.language else experiment
    if args.seconds:
        experiment = replace(experiment, seconds=tuple(args.seconds))
    name = "table1" if args.experiment in ("figure5", "figure6") else args.experiment  # whose run they draw
    OWN.get(args.experiment, table)(Study(name, experiment, args))


if __name__ == "__main__":
    main()
