"""Output folders, which belong to one recording or corpus and are removed if nothing was written into them."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path

from captum_spes._files import is_url

OWNER = ".owner"  # holds the digest of the recording of an unfinished run, or the path of the corpus of an evaluation
PATIENCE_SECONDS = 10.0  # between the moments at which another process makes this file and writes it

_made: set[Path] = set()  # folders that this command made
_owned: dict[Path, bool] = {}  # folders of results, and whether this command made the file with their owner


def make_folder(folder: Path) -> Path:
    """Makes the output folder, before anything is computed.

    Raises:
        ValueError: the folder cannot be made or written to.
    """
    _check_path(folder)
    missing = [parent for parent in (folder, *folder.parents) if not parent.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / ".write-test").touch()
        (folder / ".write-test").unlink(missing_ok=True)  # another rank may have removed it
    except OSError as error:
        raise ValueError(f"the output folder {folder} cannot be written to: {error.strerror}.") from error
    _made.update(missing)
    return folder


def check_writable(folder: Path) -> None:
    """Raises a ValueError if a folder cannot be made or written to, without making it."""
    _check_path(folder)
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        reason = "no permission" if existing.is_dir() else f"{existing} is a file"
        raise ValueError(f"the output folder {folder} cannot be written to: {reason}.")


def _check_path(folder: Path) -> None:
    """Raises a ValueError for a URL, which would make a local folder with the name ``s3:``."""
    if is_url(folder):
        raise ValueError(f"the output folder {folder} is a URL: give a path, to which object storage may be mounted.")


@contextmanager
def no_empty_folders() -> Iterator[None]:
    """A context that removes the folders made in it that are empty at its end, such as those of failed commands."""
    _made.clear()
    _owned.clear()
    try:
        yield
    finally:
        if int(os.environ.get("RANK", 0)) == 0:  # the first rank of torchrun may write after the others have ended
            _clean_up()


def _clean_up() -> None:
    for folder, is_new in _owned.items():
        if any(_explanations(folder)) or (is_new and not _is_begun(folder)):
            with suppress(OSError):
                (folder / OWNER).unlink(missing_ok=True)
    for folder in sorted(_made, key=lambda folder: len(folder.parts), reverse=True):
        with suppress(OSError):  # the folder is not empty, or was removed
            folder.rmdir()


def results_folder(output: Path | None, name: str, audio_sha256: str | None) -> Path:
    """The folder for the results of a recording, which must not be that of another recording.

    Another process that starts at the same time with another recording does not get the same folder.

    Args:
        output: the folder that the user gave; None for ``spes-output/<name>``, with ``-2``, ``-3``, … after the name if
            the folders before hold the results of other recordings.
        name: the name of the folder.
        audio_sha256: SHA-256 of the recording's file; None for a pipe, which always gets a new folder.

    Raises:
        ValueError: the given folder is that of another recording, or cannot be written to.
    """
    if output is None:
        return _next_folder(name, audio_sha256)
    if _claim(output, audio_sha256):
        return output
    if any(_explanations(output)):
        raise ValueError(
            f"{output} holds the results of another recording ({_source(output)[1]}): give another --output."
        )
    found = _owner(output)
    if found and _is_path(found):
        raise ValueError(f"{output} holds the evaluation of a corpus ({found}): give another --output.")
    raise ValueError(
        f"{output} belongs to a run of another recording that is not finished: give another --output, or delete "
        f"{output / OWNER} if that run is not to be continued."
    )


def evaluation_folder(output: Path | None, name: str, corpus: Path) -> Path:
    """The folder for the evaluation of a corpus, which must not be that of another corpus.

    Args:
        output: the folder that the user gave; None for ``spes-output/<name>``, with ``-2``, ``-3``, … after the name if
            the folders before hold evaluations of other corpora.
        name: the name of the folder.
        corpus: the path of the corpus, by which it is known, so that utterances can be added to it.

    Raises:
        ValueError: the given folder is that of another corpus, or holds other files, or cannot be written to.
    """
    from captum_spes.evaluation.store import read_settings

    owner = str(corpus.resolve())
    if output is None:
        folder = _next_folder(name, owner)
        read_settings(folder)
        return folder
    read_settings(output)
    if not _claim(output, owner):
        found = _owner(output)
        if found and not _is_path(found):
            raise ValueError(f"{output} belongs to a run of a recording: give another --output for the evaluation.")
        raise ValueError(
            f"{output} holds the evaluation of another corpus ({found}): give another --output, or delete "
            f"{output / OWNER} if the corpus has moved."
        )
    return output


def _next_folder(name: str, owner: str | None) -> Path:
    """The first of ``spes-output/<name>``, ``spes-output/<name>-2``, … that has no other owner."""
    names = (name if number == 1 else f"{name}-{number}" for number in count(1))
    return next(path for path in map(Path("spes-output").joinpath, names) if _claim(path, owner))


def _claim(folder: Path, owner: str | None) -> bool:
    """Makes a folder and the file with its owner, unless it has another owner. Returns whether it did."""
    if not _is_free(folder, owner):
        return False
    try:
        with (make_folder(folder) / OWNER).open("xb") as file:
            file.write(os.fsencode(f"{owner}\n"))
        is_new = True
    except FileExistsError:  # of an earlier run, of another rank, or of another process since the check
        is_new = False
    if not (_is_free(folder, owner) or (is_new and not any(_explanations(folder)))):
        if is_new:  # another run was just finished here
            (folder / OWNER).unlink(missing_ok=True)
        return False
    _owned.setdefault(folder, False)
    _owned[folder] |= is_new
    return True


def _is_free(folder: Path, owner: str | None) -> bool:
    """Whether nothing of another owner lies in a folder: no explanation, no run that is not finished, no evaluation."""
    if any(_explanations(folder)):
        found = _source(folder)[0]
    elif (folder / OWNER).is_file():
        found = _owner(folder)
    else:
        return True
    return owner is not None and found == owner


def _owner(folder: Path) -> str | None:
    """The content of the file with a folder's owner; None if another process removes it, or does not write it."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            owner = os.fsdecode((folder / OWNER).read_bytes()).removesuffix("\n")
        except OSError:
            return None
        if owner or time.monotonic() > deadline:
            return owner or None
        time.sleep(0.01)


def _is_path(owner: str) -> bool:
    """Whether a folder's owner is a corpus, which is named by its path, and not a recording, by its digest."""
    return Path(owner).is_absolute()


def _is_begun(folder: Path) -> bool:
    """Whether a folder holds checkpoints, the parts of a long recording, or an evaluation."""
    files = (folder / name for name in ("parts.json", "settings.json"))
    return any(path.is_file() for path in files) or any(folder.glob("checkpoint*/**/*.safetensors"))


def _explanations(folder: Path) -> Iterator[Path]:
    """The explanations in a folder of explain or compare."""
    yield from folder.glob("*.safetensors")
    yield from folder.glob("part-*/explanation.safetensors")


def _source(folder: Path) -> tuple[str | None, str]:
    """The digest and the name of the recording whose results a folder holds."""
    from captum_spes.explanation import SpeechToTextExplanation

    for path in _explanations(folder):
        try:
            metadata = SpeechToTextExplanation.load(path).metadata
        except ValueError:  # a damaged file does not name the recording, but others in the folder may
            continue
        return metadata.get("audio_sha256"), str(metadata.get("audio_file", "samples without a file"))
    return None, "its explanations are not finished, or cannot be read"
