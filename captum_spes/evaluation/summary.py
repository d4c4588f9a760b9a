"""The text of an evaluation's summary.md: what was found, the tables, and how to read them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from captum_spes._files import markdown_line, markdown_table
from captum_spes.evaluation._curves import split_baseline
from captum_spes.metrics import DeletionCurve
from captum_spes.metrics._bootstrap import LEVEL, MIN_PAIRS, N_RESAMPLES
from captum_spes.speech_to_text.catalogue import FLOORS

if TYPE_CHECKING:
    from captum_spes.evaluation.results import Results

# by which metric methods are ranked in the first sentence: the first of these that was measured
HEADLINES = ("SRG", "deletion", "insertion", "comprehensiveness", "sufficiency", "size")


def summary(results: Results) -> str:
    """The whole text."""
    n = len(results.utterances)
    lines = [
        f"# {markdown_line(results.settings.get('model', 'Model'))} on {n} utterance{'' if n == 1 else 's'}",
        "",
        " ".join(findings(results)),
        "",
        "![Curves of the metrics](curves.png)",
        "",
        *markdown_table(results.table(bold=True)),
        "",
    ]
    if len(results.methods) > 1:
        lines += [f"## Against {results.baseline}", "", *markdown_table(results.paired_table()), ""]
    if tables := results.agreement_tables():
        lines += ["## Agreement of the metrics", ""]
        for table in tables:
            lines += [*markdown_table(table), ""]
    lines += ["## Cost of an explanation", "", *markdown_table(results.cost_table()), ""]
    lines += ["## How to read the tables", "", *(f"- {note}" for note in _notes(results)), ""]
    if results.problems:
        named = (markdown_line(f"{name}: {reason}") for name, reason in results.problems.items())
        lines += ["## Left out", "", *(f"- {line}" for line in named), ""]
    given = {key: value for key, value in results.settings.items() if key != "methods"}
    given |= {f"method {name}": value for name, value in results.settings.get("methods", {}).items()}
    settings = (f"- {key}: `{json.dumps(value, ensure_ascii=False)}`" for key, value in given.items())
    return "\n".join([*lines, "## Settings", "", *settings]) + "\n"


def findings(results: Results) -> list[str]:
    """Two sentences: which method is best, and which beat the floors. Only paired tests decide."""
    metric = next((name for name in HEADLINES if name in results.metrics), results.metrics[0])
    best = results.ranking(metric)[0]
    area = results.area_text(metric, best)
    others = [name for name in results.methods if name != best]
    if not others:
        return [f"One method was evaluated: {best}, with a {metric} area of {area}.", _about_reliability(results)]
    if len(results.utterances) < MIN_PAIRS:
        return [
            f"Nothing is decided: differences between methods need {MIN_PAIRS} utterances or more to be told from "
            f"chance, and there are {len(results.utterances)}.",
            _about_reliability(results),
        ]
    verdicts = {name: results.compare(metric, best, name).verdict for name in others}
    beaten = [name for name in others if verdicts[name] == "better"]
    level = [name for name in others if verdicts[name] != "better"]
    if not level:
        first = f"By {metric}, {best} is the best method (area {area}): it is better than {_all_of(beaten)}."
    elif beaten:
        first = (
            f"By {metric}, {best} has the best area ({area}): it is better than {_all_of(beaten)}, and its difference "
            f"from {_all_of(level)} is undecided."
        )
    else:
        first = (
            f"By {metric}, no method is the best: the area of {best} ({area}) leads, but its difference from every "
            "other is undecided."
        )
    return [first, _about_floors(results, metric)]


def _about_floors(results: Results, metric: str) -> str:
    floors = [name for name in FLOORS if name in results.methods]
    methods = [name for name in results.methods if name not in floors]
    if not floors or not methods:
        return _about_reliability(results)
    beating = [
        name for name in methods if all(results.compare(metric, name, floor).verdict == "better" for floor in floors)
    ]
    others = [name for name in methods if name not in beating]
    floor = f"{_all_of(floors)}, which {_verb('know', floors)} nothing of the model"
    if not others:
        return f"All methods are better than {floor}."
    if not beating:
        return f"No method is decidedly better than {floor}."
    beats, fails = (f"{_all_of(names)} {_verb('are', names)}" for names in (beating, others))
    return f"Compared with {floor}, {beats} better than {'it' if len(floors) == 1 else 'both'}; {fails} not."


def _about_reliability(results: Results) -> str:
    if not any(value is not None for result in results.methods.values() for value in result.reliability):
        return "No method here tells how reliable its explanations are."
    if not results.unreliable:
        return "All explanations that tell their reliability have a median of 0.5 or more."
    return f"The explanations of {_all_of(results.unreliable)} are unreliable: another seed gives other maps."


def _notes(results: Results) -> list[str]:
    notes = []
    metrics = {split_baseline(name)[0] for name in results.metrics}
    curves = [curve for result in results.methods.values() for curve in result.curves.values()]
    if metrics & {"deletion", "insertion"}:
        score = next(curve.score for curve in curves if isinstance(curve, DeletionCurve))
        cap = ", in which the rate of each text is capped at 100" if score.name == "WER" else ""
        notes.append(
            f"Deletion, insertion: area under the {score.name}{cap}, as the top bins of the sentence map are taken "
            "away, or put into an empty spectrogram; divided by the range of the steps, so that it reads 0 to 100."
        )
    if "SRG" in metrics:
        notes.append("SRG: symmetric relevance gain, insertion less deletion in accuracy. A random order has about 0.")
    if metrics & {"comprehensiveness", "sufficiency"}:
        notes.append(
            "Comprehensiveness, sufficiency: how far a token's log-probability falls, in nats, without the top bins of "
            "its own map, or with them alone; area divided by the range of the steps."
        )
    if any(split_baseline(name)[1] != "mean" for name in results.metrics):
        notes.append(
            "In parentheses behind a metric: what hidden bins become, where it is not each channel's mean. The less "
            "random loses, the less a baseline by itself disturbs the model."
        )
    if results.agreement_tables():
        notes.append(
            "Agreement: Kendall's tau of the ranks that two metrics, or one metric with two baselines, give the "
            "methods beside random. 1 is the same order, −1 the opposite one."
        )
    if "size" in metrics:
        notes.append("Size: area under the percentage of features above a threshold from 0 to 1.")
    notes.append(f"In brackets: {LEVEL} % intervals over the utterances ({N_RESAMPLES:,} bootstrap draws).")
    if len(results.methods) > 1:
        notes += [
            "Better or worse: the interval of the difference, on the same draws, leaves out 0. Fewer than "
            f"{MIN_PAIRS} utterances decide nothing.",
            "Bold: better than every other method. A column without bold has no winner.",
        ]
    if set(FLOORS) & results.methods.keys():
        notes.append("random, energy (the spectrogram minus its baseline): floors to beat.")
    notes.append(
        "Forwards, backwards, seconds and reliability are medians over the utterances. Reliability is the correlation "
        "of two halves of the samples."
    )
    if results.unreliable:
        notes.append("†: median reliability below 0.5. Another seed gives other maps: take more samples.")
    return notes


def _verb(verb: str, names: Sequence[str]) -> str:
    """A verb in the present tense, for one name or several."""
    return verb if len(names) > 1 else {"are": "is", "know": "knows"}[verb]


def _all_of(names: Sequence[str]) -> str:
    """Names in a sentence."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
