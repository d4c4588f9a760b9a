"""``captum-spes analyze``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from captum_spes.analysis import MINIMAL_PAIR, SECTIONS, analyze
from captum_spes.cli.folders import check_writable, make_folder
from captum_spes.cli.options import AllowOutside, split_names
from captum_spes.cli.output import say
from captum_spes.evaluation.corpus import load_corpus
from captum_spes.metrics.plausibility.kurtosis import MIN_COUNT


def analyze_folder(
    folder: Annotated[Path, typer.Argument(help="Folder with explanations, as explain and evaluate write them.")],
    alignments: Annotated[
        Path | None, typer.Option(help="Folder of alignments: .TextGrid or .json files named like the utterances.")
    ] = None,
    corpus: Annotated[
        Path | None,
        typer.Option(help="Manifest or folder of the audio: for alignments beside it, and for its column gender."),
    ] = None,
    allow_outside: AllowOutside = False,
    force_align: Annotated[
        bool, typer.Option("--force-align", help="Align the corpus' English audio where there is no alignment.")
    ] = False,
    tier: Annotated[
        str | None,
        typer.Option(help="Tier of the words in the alignments, or its speaker. Default: those of all speakers."),
    ] = None,
    words: Annotated[str, typer.Option(help="Words whose frequencies are compared.")] = ",".join(MINIMAL_PAIR),
    min_count: Annotated[
        int, typer.Option(min=1, help="Least occurrences of a token that is analysed separately; the paper's 100.")
    ] = MIN_COUNT,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder for the results. Default: analysis, in the folder.")
    ] = None,
) -> None:
    """Analyse how plausible explanations are: do they agree with phonetics, and with how language works?"""
    output = output or folder / "analysis"
    if folder.is_dir():
        check_writable(output)
    report = analyze(
        folder,
        alignments=alignments,
        corpus=None if corpus is None else load_corpus(corpus, allow_outside=allow_outside),
        min_count=min_count,
        words=split_names(words, "--words"),
        align=force_align,
        tier=tier,
        callback=lambda method: say(f"Analysing {method}"),
    )
    paths = report.save(make_folder(output))
    done = [section.title for name, section in SECTIONS.items() if report.findings[name]]
    say(f"\nDone: {', '.join(done)} (min_count {min_count})")
    if report.problems:
        say("\nNot computed:")
        for name, reason in report.problems.items():
            say(f"  {name}: {reason}")
    say(f"\nWrote {paths[0]}\n      {paths[1]}\n      and {len(paths) - 2} figures")
