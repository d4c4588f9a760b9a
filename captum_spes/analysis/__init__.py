"""Runs all analyses of plausibility on the explanations in a folder, and makes a report with figures."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from captum_spes.analysis.findings import Report
from captum_spes.analysis.sections import MINIMAL_PAIR, SECTIONS, Finding, Group
from captum_spes.analysis.sources import Times, find_explanations, load_explanations
from captum_spes.evaluation.corpus import Corpus
from captum_spes.metrics.plausibility.kurtosis import MIN_COUNT

__all__ = ["MINIMAL_PAIR", "SECTIONS", "Report", "analyze"]


def analyze(
    folder: str | os.PathLike[str],
    *,
    alignments: str | os.PathLike[str] | None = None,
    corpus: Corpus | None = None,
    min_count: int = MIN_COUNT,
    words: Sequence[str] = MINIMAL_PAIR,
    align: bool = False,
    tier: str | None = None,
    callback: Callable[[str], Any] | None = None,
) -> Report:
    """Runs all analyses of plausibility that are possible with the explanations in a folder.

    Explanations are all ``.safetensors`` files in the folder and its subfolders, as ``explain``, ``compare`` and
    ``evaluate`` write them. The name of a method and the id of an utterance come from their paths.

    Args:
        folder: folder of the explanations.
        alignments: a folder of ``.TextGrid``, ``.phone.json`` or ``.json`` files, each named by an utterance's id
            or its last parts; folders count as parts. Alignments beside the corpus' audio are used if a file is missing
            here.
        corpus: the result of :func:`~captum_spes.evaluation.corpus.load_corpus`, for alignments beside the audio and
            the column ``gender``.
        min_count: least number of occurrences of a token that is analysed separately. Default: the paper's 100.
        words: words whose frequencies are compared, the first with the others.
        align: align utterances without an alignment by :func:`~captum_spes.alignment.force_align` (English), from the
            corpus' audio and its transcription, or the explained text.
        tier: the tier of the words in the alignments, or its speaker, as for :meth:`.Alignment.load`.
        callback: called with the name of each method before it is analysed.

    Returns:
        Report: the report; ``save(folder)`` writes it.

    Raises:
        ValueError: the folder does not exist, or holds no explanation.

    Example::

        >>> from captum_spes.analysis import analyze
        >>> from captum_spes.evaluation.corpus import load_corpus
        >>> report = analyze("spes-output/speech-evaluation", corpus=load_corpus("speech"))  # doctest: +SKIP
        >>> report.save("plausibility")  # doctest: +SKIP
    """
    folder = Path(folder)
    problems: dict[str, str] = {}
    paths = find_explanations(folder)
    times = Times(None if alignments is None else Path(alignments), corpus, align, tier, problems)
    findings: dict[str, dict[str, Finding]] = {name: {} for name in SECTIONS}
    failures: dict[tuple[str, str], list[str]] = {}
    counts = {}
    for method, by_utterance in paths.items():
        if callback:
            callback(method)
        loaded = load_explanations(by_utterance, folder, problems)
        if not loaded:
            continue
        counts[method] = len(loaded)
        group = Group(
            method,
            list(loaded),
            list(loaded.values()),
            [times.of(name, explanation) for name, explanation in loaded.items()],
            [times.fields(name) for name in loaded],
            min_count,
            words,
        )
        for name, section in SECTIONS.items():
            try:
                findings[name][method] = section.analyse(group)
            except ValueError as error:
                failures.setdefault((section.title, str(error)), []).append(method)
    if not counts:
        name, reason = next(iter(problems.items()))
        raise ValueError(f"{folder} has no explanation that can be analysed; {name}: {reason}")
    problems |= {f"{title}, {', '.join(methods)}": reason for (title, reason), methods in failures.items()}
    settings = {"folder": str(folder), "min_count": min_count, "words": list(words), "sources": times.sources}
    return Report(folder, findings, problems, counts, settings)
