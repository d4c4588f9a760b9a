"""Makes the text of an evaluation's summary.md: findings, tables, and notes on the tables."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from captum_spes._text import markdown_line, markdown_table
from captum_spes.evaluation._curves import split_baseline
from captum_spes.metrics import DeletionCurve
from captum_spes.metrics.bootstrap import LEVEL, MIN_PAIRS, N_RESAMPLES
from captum_spes.speech_to_text.catalogue import FLOORS

if TYPE_CHECKING:
    from captum_spes.evaluation.results import Results

# the first sentence ranks methods by the first of these metrics that was measured
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
    if results.errors is not None:
        lines += ["## Words by kind of error", "", *markdown_table(results.errors.table()), ""]
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
    """Two sentences on the best method and on the methods that are better than the baselines, by paired tests."""
    ranked = (name for one in HEADLINES for name in results.metrics if split_baseline(name)[0] == one)
    metric = next(ranked, results.metrics[0])
    best = results.ranking(metric)[0]
    area = results.area_text(metric, best)
    others = [name for name in results.methods if name != best]
    if not others:
        return [f"One method was evaluated: {best}, with a {metric} area of {area}.", _about_reliability(results)]
    if len(results.utterances) < MIN_PAIRS:
        return [
            f"Nothing is decided: at least {MIN_PAIRS} utterances are needed to distinguish methods from each other, "
            f"and there are {len(results.utterances)}.",
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
    floor = f"{_all_of(floors)}, which {'does' if len(floors) == 1 else 'do'} not use the model"
    if not others:
        return f"All methods are better than {floor}."
    if not beating:
        return f"No method is significantly better than {floor}."
    beats, fails = (f"{_all_of(names)} {'is' if len(names) == 1 else 'are'}" for names in (beating, others))
    return f"Compared with {floor}, {beats} better than {'it' if len(floors) == 1 else 'both'}; {fails} not."


def _about_reliability(results: Results) -> str:
    if not any(value is not None for result in results.methods.values() for value in result.reliability):
        return "No method measures the reliability of its explanations."
    if not results.unreliable:
        return "The median reliability of all methods that measure it is 0.5 or more."
    return f"The explanations of {_all_of(results.unreliable)} are unreliable: another seed gives different maps."


def _notes(results: Results) -> list[str]:
    notes = []
    metrics = {split_baseline(name)[0] for name in results.metrics}
    curves = [curve for result in results.methods.values() for curve in result.curves.values()]
    if metrics & {"deletion", "insertion"}:
        score = next(curve.score for curve in curves if isinstance(curve, DeletionCurve))
        cap = ", in which the rate of each text is capped at 100" if score.name == "WER" else ""
        notes.append(
            f"Deletion, insertion: area under the {score.name}{cap}, as the top bins of the sentence map are deleted, "
            "or inserted into the baseline; divided by the range of the steps, so that it is from 0 to 100."
        )
    if "SRG" in metrics:
        notes.append("SRG: symmetric relevance gain, insertion minus deletion in accuracy; about 0 for a random order.")
    if metrics & {"comprehensiveness", "sufficiency"}:
        notes.append(
            "Comprehensiveness, sufficiency: how far a token's log-probability falls, in nats, without the top bins of "
            "its own map, or with them alone; area divided by the range of the steps."
        )
    if any(split_baseline(name)[1] != "mean" for name in results.metrics):
        notes.append(
            "Parentheses after a metric: the baseline of hidden bins, if it is not each channel's mean. The less "
            "random loses, the less the baseline itself disturbs the model."
        )
    if results.agreement_tables():
        notes.append(
            "Agreement: Kendall's tau of the ranks of the methods, without random, by two metrics, or by one metric "
            "with two baselines. 1 is the same order, −1 the opposite one."
        )
    if "size" in metrics:
        notes.append("Size: area under the percentage of features above a threshold from 0 to 1.")
    if results.errors is not None:
        notes.append(
            f"Words by kind of error: those of {results.errors.n_utterances} utterances, compared with their "
            "transcriptions. Numbers are medians over the words: the probability that the model gave them, the share "
            "of it that is lost when their own sound is hidden (heard), and the reliability of their maps."
        )
    notes.append(f"In brackets: {LEVEL} % intervals over the utterances ({N_RESAMPLES:,} bootstrap draws).")
    if len(results.methods) > 1:
        notes += [
            "Better or worse: the interval of the difference, on the same draws, does not contain 0. With fewer than "
            f"{MIN_PAIRS} utterances all differences are undecided.",
            "Bold: better than every other method. A column without bold has no winner.",
        ]
    if set(FLOORS) & results.methods.keys():
        notes.append("random, energy (the spectrogram minus its baseline): baseline methods that do not use the model.")
    notes.append(
        "Forwards, backwards, seconds and reliability are medians over the utterances. Reliability is the correlation "
        "of two halves of the samples."
    )
    if results.unreliable:
        notes.append("†: median reliability below 0.5. Another seed gives different maps: use more samples.")
    return notes


def _all_of(names: Sequence[str]) -> str:
    """Names as they are listed in a sentence."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
