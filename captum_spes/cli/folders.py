"""Output folders, which belong to one recording and are removed if nothing was written into them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path

from captum_spes._files import is_url

OWNER = ".recording"  # holds the digest of the recording to which an unfinished folder belongs

_made: list[Path] = []  # folders that this command made, parents first
_owned: list[Path] = []  # folders of results


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
    _made.extend(reversed(missing))
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
        for folder in _owned:
            if any(_explanations(folder)) or not _has_unfinished_run(folder):
                with suppress(OSError):
                    (folder / OWNER).unlink(missing_ok=True)
        for folder in reversed(_made):
            with suppress(OSError):  # the folder is not empty, or was removed
                folder.rmdir()


def results_folder(output: Path | None, name: str, audio_sha256: str | None) -> Path:
    """The folder for the results of a recording, which must not be that of another recording.

    Args:
        output: the folder that the user gave; None for ``spes-output/<name>``, with ``-2``, ``-3``, … after the name if
            the folders before hold the results of other recordings.
        name: the name of the folder.
        audio_sha256: SHA-256 of the recording's file; None for a pipe, which always gets a new folder.

    Raises:
        ValueError: the given folder holds the results of another recording, or cannot be written to.
    """
    if output is not None:
        if not _is_free(output, audio_sha256):
            raise ValueError(
                f"{output} holds the results of another recording ({_source(output)[1]}): give another --output."
            )
        folder = output
    else:
        names = (name if number == 1 else f"{name}-{number}" for number in count(1))
        folder = next(path for path in map(Path("spes-output").joinpath, names) if _is_free(path, audio_sha256))
    (make_folder(folder) / OWNER).write_text(f"{audio_sha256}\n", encoding="utf-8")
    _owned.append(folder)
    return folder


def _is_free(folder: Path, audio_sha256: str | None) -> bool:
    """Whether nothing of another recording lies in a folder: no explanation, and no run that is not finished."""
    if any(_explanations(folder)):
        owner = _source(folder)[0]
    elif (folder / OWNER).is_file() and _has_unfinished_run(folder):
        owner = (folder / OWNER).read_text(encoding="utf-8").strip()
    else:
        return True
    return audio_sha256 is not None and owner == audio_sha256


def _has_unfinished_run(folder: Path) -> bool:
    """Whether a folder holds checkpoints, or the parts of a long recording."""
    return (folder / "parts.json").is_file() or any(folder.glob("checkpoint*/**/*.safetensors"))


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
