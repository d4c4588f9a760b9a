"""The recordings of the benchmarks."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import soundfile

from captum_spes.evaluation.corpus import Corpus, CorpusUtterance, load_corpus


def default_corpus() -> Path:
    """The human recordings beside this checkout, where they are there, or synthesised speech."""
    human = Path(__file__).resolve().parents[2] / "shared" / "speech"
    return human if human.is_dir() else Path("build/corpus")


def read_corpus(path: Path) -> Corpus:
    """A corpus, or all corpora in the folders of a folder that has no files, with voices and durations.

    Speech of an unnamed voice is human, and durations that a manifest lacks are measured.
    """
    entries = sorted(path.iterdir()) if path.is_dir() else []
    holds_corpora = bool(entries) and all(entry.is_dir() for entry in entries)
    corpora = [load_corpus(folder) for folder in (entries if holds_corpora else [path])]
    items = [item for corpus in corpora for item in corpus.utterances]
    if len({item.id for item in items}) < len(items):
        raise SystemExit(f"the corpora in {path} have files of the same name: give one of them.")
    return Corpus(path, list(map(described, items)), {k: v for corpus in corpora for k, v in corpus.problems.items()})


def described(item: CorpusUtterance) -> CorpusUtterance:
    """The utterance with its voice and duration."""
    known = {"voice": "human", "condition": ""} | item.fields
    if "duration" not in known:
        known["duration"] = f"{soundfile.info(item.path).duration:.3f}"
    return replace(item, fields=known)


def by_duration(items: Iterable[CorpusUtterance]) -> list[CorpusUtterance]:
    """The shortest first."""
    return sorted(items, key=lambda item: float(item.fields["duration"]))
