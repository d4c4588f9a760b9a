"""The sums of a run in a file, from which it goes on after it was killed."""

from __future__ import annotations

import json
import os
import shutil
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from captum_spes._extras import require
from captum_spes._files import write_atomically
from captum_spes.attr._ranks import Ranks
from captum_spes.attr.fingerprint import fingerprint

# between two files, and how many times as long as writing one takes at least
SECONDS = 60.0
PATIENCE = 20
# changes whenever what is in a file, or which samples a seed stands for, does
FORMAT = "captum-spes checkpoint 2"
# of scores that are computed again, by how much rounding may change them
TOLERANCE = 1e-3


class Checkpoint:
    """A file with a run's sums, and what it was given.

    Every rank has a file of its own: ``path`` the first, ``name-rank1.suffix`` the second. It holds tensors and JSON,
    nothing that is executed when it is read.

    Args:
        path: of the file; its folder must be there.
        arguments: what the sums depend on, by the names that a message calls them.
        scores: of one perturbation, by which the model is known again.
        ranks: that share the run.

    Raises:
        ValueError: there is no such folder.
        ImportError: safetensors is missing.
    """

    def __init__(
        self, path: str | os.PathLike[str], arguments: Mapping[str, object], scores: Tensor, ranks: Ranks
    ) -> None:
        require("safetensors")
        path = Path(path)
        self.path = path if ranks.rank == 0 else path.with_name(f"{path.stem}-rank{ranks.rank}{path.suffix}")
        if not self.path.parent.is_dir():
            raise ValueError(f"the checkpoint {path} cannot be written: there is no folder {path.parent}.")
        self.arguments = {name: fingerprint(value) for name, value in arguments.items()} | {"ranks": ranks.size}
        self.scores = scores.detach().cpu().double().contiguous()
        self._wait, self._last = SECONDS, time.monotonic()
        self._failed = False

    @classmethod
    def create(
        cls,
        path: str | os.PathLike[str] | None,
        arguments: Mapping[str, object],
        scores: Callable[[], Tensor],
        ranks: Ranks,
    ) -> Checkpoint | None:
        """One for a path, where there is any; the scores are then computed, on all ranks or none."""
        return None if path is None else ranks.together(lambda: cls(path, arguments, scores(), ranks))

    @property
    def is_due(self) -> bool:
        """Whether it is time for the next file."""
        return time.monotonic() - self._last >= self._wait

    def load(self) -> tuple[dict[str, int], list[Tensor]] | None:
        """The progress that was saved, and the sums; None where nothing is.

        Raises:
            ValueError: a file that cannot be read or is of another run; the message names the difference.
        """
        if not self.path.exists():
            return None
        from safetensors import SafetensorError, safe_open

        advice = "delete it to begin anew."
        try:
            with safe_open(self.path, "pt") as file:
                metadata = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, no dict
            if metadata.get("format") != FORMAT:
                raise ValueError("another format")
            arguments, progress = json.loads(metadata["arguments"]), json.loads(metadata["progress"])
            if not isinstance(arguments, dict) or not isinstance(progress, dict):
                raise ValueError("no objects in it")
            scores = tensors.pop("scores")
            sums = [tensors[str(index)] for index in range(len(tensors))]
        except (SafetensorError, OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise ValueError(f"{self.path} is no checkpoint, or a damaged one ({error}): {advice}") from error
        differences = [
            f"{name} is {arguments.get(name)} there and {self.arguments.get(name)} now"
            for name in sorted(arguments.keys() | self.arguments.keys())
            if arguments.get(name) != self.arguments.get(name)
        ]
        if not differences and not _alike(scores, self.scores):
            differences = [
                f"the model, or its precision, for a perturbation scored {_shown(scores)} there and "
                f"{_shown(self.scores)} now"
            ]
        if differences:
            raise ValueError(
                f"{self.path} is the checkpoint of another run: {'; '.join(differences)}. Give the same arguments to "
                f"go on with it, or {advice}"
            )
        return progress, sums

    def save(self, progress: Mapping[str, int], sums: list[Tensor]) -> None:
        """Writes the file, in the old one's place; where that fails, the run goes on and the user is told once."""
        from safetensors.torch import save

        start = time.monotonic()
        metadata = {"format": FORMAT, "arguments": json.dumps(self.arguments), "progress": json.dumps(progress)}
        tensors = {"scores": self.scores, **{str(index): tensor for index, tensor in enumerate(sums)}}
        try:
            write_atomically(self.path, save(tensors, metadata))
        except (OSError, MemoryError) as error:
            if not self._failed:
                self._failed = True
                warnings.warn(
                    f"the checkpoint {self.path} could not be written ({error}): the run goes on, and would begin "
                    "anew, or from the last file, if it were killed.",
                    stacklevel=2,
                )
        self._last = time.monotonic()
        self._wait = max(SECONDS, PATIENCE * (self._last - start))

    def remove(self) -> None:
        """Removes the file, and what processes left behind that were killed as they wrote it."""
        try:
            self.path.unlink(missing_ok=True)
        except OSError as error:
            warnings.warn(
                f"the checkpoint {self.path} is no longer needed and could not be removed ({error}).", stacklevel=2
            )
        for folder in self.path.parent.glob(f".{self.path.name}.*"):
            shutil.rmtree(folder, ignore_errors=True)


def _alike(scores: Tensor, others: Tensor) -> bool:
    if scores.shape != others.shape:
        return False
    return torch.allclose(scores, others, rtol=0, atol=TOLERANCE * float(scores.abs().max()))


def _shown(scores: Tensor) -> str:
    first = [f"{score:.6g}" for score in scores.flatten()[:3].tolist()]
    return ", ".join(first) + (", …" if scores.numel() > 3 else "")
