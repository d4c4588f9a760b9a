"""A corpus of utterances, from a manifest or a folder of audio files."""

from __future__ import annotations

import codecs
import csv
import hashlib
import io
import json
import math
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from captum_spes._files import why_unreadable
from captum_spes._log import warn
from captum_spes.audio.decoding import AUDIO_SUFFIXES

MANIFESTS = ("metadata.csv", "metadata.jsonl")  # names of manifests in a folder
MAX_ID_BYTES = 80  # before the hash; file systems allow 143 to 255

NOT_A_NUMBER = ("nan", "NaN")  # Python and pandas write these for a cell without a value


@dataclass(frozen=True)
class CorpusUtterance:
    """One utterance of a corpus.

    Attributes:
        id: its name in results. It is derived from the file name, can be the name of a file or folder, is unique in the
            corpus even without letter case, and does not change between readings.
        path: its audio file.
        transcription: its transcription on one line; None if it is not known.
        fields: the other columns of the manifest, by name.

    Example::

        >>> from captum_spes.evaluation.corpus import load_corpus
        >>> first = load_corpus("speech").utterances[0]
        >>> first.id, first.transcription, first.fields
        ('one', 'so', {'gender': 'female'})
    """

    id: str
    path: Path
    transcription: str | None
    fields: dict[str, str]


@dataclass(frozen=True)
class Corpus:
    """Utterances, in the order of their manifest.

    Attributes:
        source: the manifest, or the folder if there is none.
        utterances: the utterances, at least one.
        problems: for each file that was left out, by its name in the manifest or folder, the reason in one sentence.

    Example::

        >>> from captum_spes.evaluation.corpus import load_corpus
        >>> corpus = load_corpus("speech")
        >>> len(corpus.utterances), corpus.problems
        (2, {})
    """

    source: Path
    utterances: list[CorpusUtterance]
    problems: dict[str, str]


@dataclass(frozen=True)
class _Entry:
    """The entry of a manifest or folder for one audio file."""

    file_name: str
    path: Path
    transcription: str | None
    fields: dict[str, str]


def load_corpus(path: str | os.PathLike[str], *, allow_outside: bool = False) -> Corpus:
    """Reads a corpus without opening its audio.

    A manifest follows the ``audiofolder`` convention of Hugging Face datasets: a CSV file with a header, or a JSONL
    file with one object per line, in UTF-8. ``file_name`` is the audio's path, absolute or relative to the manifest's
    folder; ``transcription`` is optional, and all other columns are kept as text. Spaces around a cell are removed, and
    a cell with ``nan`` is empty. Paths with back-slashes, or with accents composed in another way than in the file's
    name, are found. Only audio in the manifest's own folder is read, unless you allow more.

    Every file is in the corpus once. A manifest that names it twice, for instance by ``./``, another letter case or
    a link, is refused, and a second name of a file in a folder is left out.

    Args:
        path: a manifest, ``.csv`` or ``.jsonl``; or a folder. In a folder ``metadata.csv`` or ``metadata.jsonl`` is
            read if it exists. Otherwise the corpus has all audio files of the folder and its subfolders, sorted by
            path; the transcription of ``name.wav`` is ``name.txt`` in the same folder, if it exists. Hidden files are
            ignored.
        allow_outside: whether the manifest may name audio outside its folder: by an absolute path, by ``..``, or by a
            symbolic link that leads out of it.

    Returns:
        Corpus: the utterances. Audio that does not exist and transcriptions that are not text are left out and listed
        in its problems.

    Raises:
        ValueError: the path does not exist; the manifest is malformed, names a file twice or one outside its folder, or
            is empty; the folder has two manifests or no audio; or no utterance is left. The message says which, and on
            which line.

    Warns:
        UserWarning: transcriptions were probably missed: they have another column, or a manifest is in a subfolder.

    Example::

        >>> import tempfile
        >>> from pathlib import Path
        >>> from captum_spes.evaluation.corpus import load_corpus
        >>> folder = Path(tempfile.mkdtemp())
        >>> for name in ("one.wav", "two.wav"):
        ...     (folder / name).touch()
        >>> manifest = folder / "metadata.csv"
        >>> _ = manifest.write_text("file_name,transcription,speaker\\none.wav,So what?,Ann\\ntwo.wav,,Bob\\n")
        >>> [(u.id, u.transcription, u.fields) for u in load_corpus(manifest).utterances]
        [('one', 'So what?', {'speaker': 'Ann'}), ('two', None, {'speaker': 'Bob'})]
    """
    source = _find_source(Path(path))
    problems: dict[str, str] = {}
    entries = _read_folder(source, problems) if source.is_dir() else _read_manifest(source, allow_outside)
    utterances = []
    # ids are made for all entries, so that they do not change when missing audio is added
    for entry, name in zip(entries, _make_ids([entry.file_name for entry in entries])):
        if entry.file_name in problems:
            continue
        if reason := why_unreadable(entry.path):
            problems[entry.file_name] = f"{entry.path} {reason}: check the path of the audio."
        else:
            utterances.append(CorpusUtterance(name, entry.path, entry.transcription, entry.fields))
    if not utterances:
        first = next(iter(problems.values()))
        raise ValueError(f"{source} has no usable utterance, {len(problems)} left out; the first: {first}")
    return Corpus(source, utterances, problems)


def _find_source(path: Path) -> Path:
    if os.path.isdir(path):
        found = [path / name for name in MANIFESTS if os.path.isfile(path / name)]
        if len(found) > 1:
            raise ValueError(f"{path} holds both {' and '.join(MANIFESTS)}: give the path of the one to read.")
        return found[0] if found else path
    if reason := why_unreadable(path):
        raise ValueError(f"{path} {reason}: give a .csv or .jsonl manifest, or a folder of audio files.")
    if path.suffix.lower() not in (".csv", ".jsonl"):
        raise ValueError(f"{path} is neither a folder nor a manifest: give a folder, or a .csv or .jsonl file.")
    return path


def _read_text(path: Path) -> str:
    try:
        data = path.read_bytes().removeprefix(codecs.BOM_UTF8)  # Excel writes one
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror}): check its permissions.") from error
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ValueError(f"{path}, line {line} is not UTF-8: save the file in that encoding.") from error
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise ValueError(f"{path}, line {line} holds NUL bytes: save the file as text in UTF-8.")
    return text


def _one_line(text: str) -> str | None:
    return " ".join(text.split()) or None


# Folders


def _read_folder(folder: Path, problems: dict[str, str]) -> list[_Entry]:
    """The audio files in a folder; folders and links that cannot be read are added to the problems."""

    def relative(path: str) -> str:
        return Path(path).relative_to(folder).as_posix()

    def report(error: OSError) -> None:
        problems[relative(error.filename)] = f"{error.filename} is a folder that cannot be read: check its permissions."

    names = []
    for parent, subfolders, files in os.walk(folder, onerror=report):
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        nested = [name for name in MANIFESTS if name in files]
        if nested:
            warn(
                f"{os.path.join(parent, nested[0])} is not read, because it is in a subfolder: give its path if it "
                "lists the corpus.",
                stacklevel=3,
            )
        for name in files:
            if name.lower().endswith(AUDIO_SUFFIXES) and not name.startswith("."):
                names.append(relative(os.path.join(parent, name)))
    if not names and not problems:
        raise ValueError(
            f"{folder} holds neither audio files ({' '.join(AUDIO_SUFFIXES)}) nor {' or '.join(MANIFESTS)}: "
            "give a folder that does, or a manifest."
        )
    entries = []
    seen: dict[tuple[object, ...], str] = {}
    # links come last, so that a file keeps its own name
    for name in sorted(names, key=lambda name: (os.path.islink(folder / name), name)):
        first = seen.setdefault(_identity(folder / name), name)
        if first != name:
            problems[name] = f"{folder / name} is the same file as {first}, which is in the corpus already."
        beside = (folder / name).with_suffix(".txt")
        transcription = None
        if os.path.isfile(beside):
            try:
                transcription = _one_line(_read_text(beside))
            except ValueError as error:
                problems[name] = str(error)
        entries.append(_Entry(name, folder / name, transcription, {}))
    return sorted(entries, key=lambda entry: entry.file_name)


def _identity(path: Path) -> tuple[object, ...]:
    """The identity of a file, which is the same for all its names: device and inode, or the path of a missing file."""
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        return (os.path.normpath(path),)
    return found.st_dev, found.st_ino


# Manifests


def _read_manifest(path: Path, allow_outside: bool) -> list[_Entry]:
    records = _csv_records(path) if path.suffix.lower() == ".csv" else _json_records(path)
    entries = []
    seen: dict[tuple[object, ...], tuple[str, int]] = {}
    columns: dict[str, None] = {}
    for line, record in records:
        where = f"{path}, line {line}"
        columns |= dict.fromkeys(record)
        name, transcription = record.pop("file_name"), record.pop("transcription", None)
        if not isinstance(name, str) or not name:
            raise ValueError(f"{where}: file_name must be the path of an audio file, not {_as_text(name)!r}.")
        name, audio = _locate(path.parent, name)
        if not allow_outside and not _is_inside(path.parent, audio):
            raise ValueError(
                f"{where}: {name} is outside the manifest's folder: move the audio there, or allow it with "
                "allow_outside=True (--allow-outside) if you trust the manifest."
            )
        first, first_line = seen.setdefault(_identity(audio), (name, line))
        if first_line != line:
            known = "" if first == name else f", as {first}"
            raise ValueError(f"{where}: {name} is on line {first_line} already{known}: list every file once.")
        if not isinstance(transcription, (str, type(None))):
            raise ValueError(f"{where}: transcription must be text or null, not {_as_text(transcription)}.")
        fields = {column: "" if value is None else _as_text(value) for column, value in record.items()}
        entries.append(_Entry(name, audio, _one_line(transcription or ""), fields))
    if not entries:
        raise ValueError(f"{path} lists no utterance: give a manifest with file_name and transcription of each.")
    if len(columns) > 1 and "transcription" not in columns:
        warn(
            f"{path} has no column transcription, only {', '.join(columns)}: rename the column of the transcriptions, "
            "if there is one.",
            stacklevel=3,
        )
    return entries


def _locate(folder: Path, name: str) -> tuple[str, Path]:
    """A name that leads to a file, and its path: the name itself, or with slashes, or with its accents recomposed.

    Parts such as ``./`` are removed.
    """
    spellings = [name, name.replace("\\", "/")]
    spellings += [unicodedata.normalize(form, spelling) for form in ("NFC", "NFD") for spelling in spellings]
    found = next((spelling for spelling in spellings if why_unreadable(folder / spelling) is None), name)
    return found if "://" in found else os.path.normpath(found), folder / found


def _is_inside(folder: Path, path: Path) -> bool:
    """Whether a path is in a folder after links are followed."""
    try:
        return path.resolve().is_relative_to(folder.resolve())
    except (ValueError, OSError, RuntimeError):  # no file can have such a name, or a link leads to itself
        return True  # such a path is reported as missing


def _csv_records(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """The line on which each row begins, and its cells by column."""
    reader = csv.reader(io.StringIO(_read_text(path), newline=""), strict=True)
    header: list[str] | None = None
    while True:
        line = reader.line_num + 1
        where = f"{path}, line {line}"
        try:
            cells = next(reader, None)
        except csv.Error as error:
            raise ValueError(
                f"{where} is not a row of a CSV file ({error}): close every quote, and double quotes in quoted text."
            ) from error
        if cells is None:
            return
        if not cells:  # a blank line
            continue
        if header is None:
            header = [cell.strip() for cell in cells]
            _check_header(where, header)
        elif len(cells) != len(header):
            raise ValueError(
                f"{where} has {_count(len(cells), 'cell')}, and the header {len(header)}: put text with commas "
                "in double quotes."
            )
        else:
            yield (
                line,
                {name: "" if cell.strip() in NOT_A_NUMBER else cell.strip() for name, cell in zip(header, cells)},
            )


def _check_header(where: str, header: list[str]) -> None:
    if len(header) == 1 and re.search("[;\t]", header[0]):
        raise ValueError(f"{where}: the columns are not separated by commas: save the file with commas.")
    _check_file_name(where, header)
    repeated = [name for name, count in Counter(header).items() if count > 1]
    if repeated:
        raise ValueError(f"{where}: the header has the column {repeated[0]!r} twice: rename or remove one.")


def _json_records(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    # not splitlines(), because JSON text may hold other line separators of Unicode
    for line, text in enumerate(_read_text(path).split("\n"), start=1):
        if not text.strip():
            continue
        where = f"{path}, line {line}"
        try:
            record = json.loads(text, object_pairs_hook=_unique_keys)
        except (ValueError, RecursionError) as error:
            reason = getattr(error, "msg", error)
            raise ValueError(f"{where} is not valid JSON ({reason}): write one object per line.") from error
        if not isinstance(record, dict):
            raise ValueError(f"{where} is not a JSON object: write {{…}} with file_name and transcription per line.")
        _check_file_name(where, record)
        yield line, {name: _known(value) for name, value in record.items()}


def _known(value: Any) -> Any:
    """A value of JSON, with None for an empty value, and texts without spaces around them."""
    if isinstance(value, str):
        return None if value.strip() in NOT_A_NUMBER else value.strip()
    return None if isinstance(value, float) and math.isnan(value) else value


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    repeated = [key for key, count in Counter(key for key, _ in pairs).items() if count > 1]
    if repeated:
        raise ValueError(f"the key {repeated[0]!r} occurs twice")
    return dict(pairs)


def _check_file_name(where: str, columns: Collection[str]) -> None:
    if "file_name" not in columns:
        raise ValueError(
            f"{where} has no file_name, the path of the audio relative to the manifest's folder, only "
            f"{', '.join(columns) or 'nothing'}: rename the column with the paths."
        )


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}{'' if number == 1 else 's'}"


# Ids

_PART = r"[A-Za-z0-9_](?:[A-Za-z0-9._ -]*[A-Za-z0-9_-])?"  # Windows allows no dot or space at the end
_PLAIN = re.compile(rf"{_PART}(?:/{_PART})*")


def _make_ids(file_names: Sequence[str]) -> list[str]:
    """Unique ids of distinct file names: plain ids if this is safe, otherwise readable ids with a hash.

    A plain id never equals one with a hash, because it holds no tilde. It holds a plus only in place of a slash, so
    that two plain ids are equal only if the names differ in letter case or suffix alone; these get a hash as well.
    """
    plain = [_plain_id(name) for name in file_names]
    counts = Counter(name.lower() for name in plain if name is not None)
    return [
        name if name is not None and counts[name.lower()] == 1 else _hashed_id(file_name)
        for file_name, name in zip(file_names, plain)
    ]


def _without_suffix(file_name: str) -> str:
    stem, suffix = os.path.splitext(file_name)
    return stem if suffix.lower() in AUDIO_SUFFIXES else file_name


def _plain_id(file_name: str) -> str | None:
    stem = _without_suffix(file_name)
    name = stem.replace("/", "+")
    return name if _PLAIN.fullmatch(stem) and len(name) <= MAX_ID_BYTES else None


def _hashed_id(file_name: str) -> str:
    digest = hashlib.sha256(file_name.encode("utf-8", "surrogatepass")).hexdigest()[:10]
    # letters, combining marks and digits of every script are kept
    kept = (c if c in ".-" or unicodedata.category(c)[0] in "LMN" else "_" for c in _without_suffix(file_name))
    name = re.sub("_+", "_", "".join(kept)).lstrip("._-") or "utterance"
    name = name.encode()[:MAX_ID_BYTES].decode(errors="ignore")  # drops an incomplete character at the end
    return f"{name}~{digest}"
