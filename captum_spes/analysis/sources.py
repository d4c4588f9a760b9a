"""Finds the explanations in a folder and the alignments of their utterances."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from captum_spes.alignment import SUFFIXES, Alignment, find_alignment, force_align
from captum_spes.evaluation.corpus import Corpus, CorpusUtterance
from captum_spes.explanation import SpeechToTextExplanation
from captum_spes.speech_to_text.catalogue import METHODS


def find_explanations(folder: Path) -> dict[str, dict[str, Path]]:
    """The explanations in a folder, by method and utterance.

    Raises:
        ValueError: the folder does not exist, or has no ``.safetensors`` file.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder: give one with explanations, as captum-spes evaluate writes it.")
    found: dict[str, dict[str, list[Path]]] = {}
    for path in sorted(folder.rglob("*.safetensors")):
        if {"checkpoint", "checkpoints"} & set(path.relative_to(folder).parts[:-1]):  # of a run that was stopped
            continue
        method, utterance = _names(path)
        found.setdefault(method, {}).setdefault(utterance, []).append(path)
    if not found:
        raise ValueError(f"{folder} holds no explanations (.safetensors): give the folder of explain or evaluate.")
    return {
        method: {name: path for utterance, paths in named.items() for name, path in _distinct(utterance, paths, folder)}
        for method, named in found.items()
    }


def _distinct(utterance: str, paths: Sequence[Path], folder: Path) -> Iterator[tuple[str, Path]]:
    """Names explanations that share the name of an utterance by their paths."""
    for path in paths:
        whole = path.relative_to(folder).with_suffix("")
        place = whole.parent if whole.name == "explanation" else whole
        yield (len(paths) > 1 and "+".join(place.parts)) or utterance, path


def _names(path: Path) -> tuple[str, str]:
    """Method and utterance, from the path of evaluate, explain or compare, or from another path."""
    parent = path.parent
    if parent.parent.name == "explanations":
        return parent.name, path.stem
    if path.stem == "explanation":
        return _method_of(path), parent.name
    if path.stem in METHODS:
        return path.stem, parent.name.removesuffix("-compare")
    return _method_of(path), path.stem


def _method_of(path: Path) -> str:
    try:
        return str(SpeechToTextExplanation.load(path).metadata.get("method", "unknown method"))
    except ValueError:
        return "unknown method"  # the error is reported when the file is loaded


def load_explanations(
    paths: Mapping[str, Path], folder: Path, problems: dict[str, str]
) -> dict[str, SpeechToTextExplanation]:
    """The explanations of tokens, by utterance; other explanations are added to the problems."""
    loaded = {}
    for utterance, path in paths.items():
        where = str(path.relative_to(folder))
        try:
            explanation = SpeechToTextExplanation.load(path)
        except ValueError as error:
            problems[where] = str(error)
            continue
        if explanation.grouped or explanation.metadata.get("contrast"):
            problems[where] = "it explains words, a sentence or a contrast: only explanations of tokens are analysed."
        else:
            loaded[utterance] = explanation
    return loaded


class Times:
    """Finds the alignment of each utterance, once."""

    def __init__(
        self, folder: Path | None, corpus: Corpus | None, align: bool, tier: str | None, problems: dict[str, str]
    ) -> None:
        if folder is not None and not folder.is_dir():
            raise ValueError(f"{folder} is not a folder: give one with alignments (.TextGrid or .json).")
        if align and corpus is None:
            raise ValueError("the forced aligner needs the audio: give the corpus as well.")
        self.items = {} if corpus is None else _by_name(corpus)
        self.align = align
        self.tier = tier
        self.problems = problems
        self.files = {} if folder is None else _index(folder)
        self.files_in_folders = _unique_ends(self.files)
        self.found: dict[str, Alignment | None] = {}

    @property
    def sources(self) -> list[str]:
        """The sources of all alignments; single files without a source are counted together."""
        sources = {a.source for a in self.found.values() if a is not None}
        files = {source for source in sources if source.endswith(SUFFIXES)}
        return sorted(sources - files) + ([f"{len(files)} files that do not name their source"] if files else [])

    def of(self, utterance: str, explanation: SpeechToTextExplanation) -> Alignment | None:
        if not self.files and not self.items:
            return None
        if utterance not in self.found:
            try:
                self.found[utterance] = self._find(utterance, explanation)
            except ValueError as error:
                self.found[utterance] = None
                self.problems[f"alignment of {utterance}"] = str(error)
        return self.found[utterance]

    def fields(self, utterance: str) -> Mapping[str, Any]:
        """The columns of an utterance in the corpus."""
        item = self._item(utterance)
        return {} if item is None else item.fields

    def _item(self, utterance: str) -> CorpusUtterance | None:
        if utterance in self.items:
            return self.items[utterance]
        items = (self.items[end] for end in _ends(utterance) if end in self.items)
        # the name of a file without its folders may be that of another recording's part
        return next((item for item in items if f"+{utterance}".endswith(f"+{item.id}")), None)

    def _find(self, utterance: str, explanation: SpeechToTextExplanation) -> Alignment:
        item = self._item(utterance)
        path = self.files.get(utterance) or self.files_in_folders.get(utterance)
        if path is None:
            path = next((self.files[end] for end in _ends(utterance) if end in self.files), None)
        if path is None and item is not None:
            path = find_alignment(item.path)
        if path is not None:
            return Alignment.load(path, self.tier)
        if item is None:
            known = "the corpus has no such utterance, and " if self.items else ""
            raise ValueError(f"{known}no file of the alignments has its name.")
        if not self.align:
            raise ValueError(f"there is no alignment beside {item.path}: --force-align makes one.")
        return force_align(item.path, item.transcription or explanation.text)


def _by_name(corpus: Corpus) -> dict[str, CorpusUtterance]:
    """The utterances by their id, and by the name of their file if it is unique, which explain uses."""
    stems = Counter(item.path.stem for item in corpus.utterances)
    by_stem = {item.path.stem: item for item in corpus.utterances if stems[item.path.stem] == 1}
    return {**by_stem, **{item.id: item for item in corpus.utterances}}


def _index(folder: Path) -> dict[str, Path]:
    """The alignments in a folder, by the id that their path would have."""
    found: dict[str, Path] = {}
    for suffix in SUFFIXES:
        for path in sorted({*folder.rglob(f"*{suffix}"), *folder.rglob(f"*{suffix.lower()}")}):
            name = path.relative_to(folder).as_posix()[: -len(suffix)]
            found.setdefault(name.replace("/", "+"), path)
    return found


def _unique_ends(files: Mapping[str, Path]) -> dict[str, Path]:
    """The files by the ends of their ids that no other has, for utterances whose id lacks the folders before."""
    counts = Counter(end for name in files for end in _ends(name))
    return {end: path for name, path in files.items() for end in _ends(name) if counts[end] == 1}


def _ends(name: str) -> list[str]:
    """What remains of an id without its first parts, the longest first."""
    parts = name.split("+")
    return ["+".join(parts[start:]) for start in range(1, len(parts))]
