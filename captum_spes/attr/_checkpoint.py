"""Files with the sums of a run, from which a killed run continues."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from captum_spes._extras import require
from captum_spes._files import write_atomically
from captum_spes._log import warn
from captum_spes.attr.fingerprint import differences, fingerprint
from captum_spes.attr.ranks import Ranks

# the least time between two files: so many seconds, and so many times as long as writing one takes
SECONDS = 60.0
PATIENCE = 20
# changes whenever what is in a file, or which samples a seed stands for, does
FORMAT = "captum-spes checkpoint 2"
# how far rounding may change scores that are computed again
SCORE_TOLERANCE = 1e-3


class Checkpoint:
    """A file with the sums of a run and the arguments that they depend on.

    Every rank has its own file: the first rank ``path``, the second ``name-rank1.suffix``. The file holds tensors and
    JSON; reading it executes nothing.

    Args:
        path: path of the file, in an existing folder.
        arguments: the arguments on which the sums depend, by the names that messages use.
        scores: scores of one perturbation, by which the model is recognised.
        ranks: the processes that share the run.

    Raises:
        ValueError: the folder does not exist.
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
        if self.path.is_dir():
            raise ValueError(f"the checkpoint {path} is a folder: give the path of a file.")
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
        """A checkpoint for a path, or None without one; the scores are computed on all ranks or on none."""
        return None if path is None else ranks.together(lambda: cls(path, arguments, scores(), ranks))

    @property
    def is_due(self) -> bool:
        """Whether it is time for the next file."""
        return time.monotonic() - self._last >= self._wait

    def load(self) -> tuple[dict[str, int], list[Tensor]] | None:
        """The saved progress and sums, or None if there is no file.

        Raises:
            ValueError: the file cannot be read, or belongs to another run; the message names the difference.
        """
        if not self.path.exists():
            return None
        from safetensors import SafetensorError, safe_open

        advice = "delete it to start again."
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
            raise ValueError(f"{self.path} is not a checkpoint, or it is damaged ({error}): {advice}") from error
        changed = list(differences(arguments, self.arguments))
        if not changed and not _alike(scores, self.scores):
            changed = [
                "the model, its precision, or the text or contrast that it scores differs, or its scores are random "
                f"(call model.eval()), since a perturbation scored {_shown(scores)} and {_shown(self.scores)} now"
            ]
        if changed:
            raise ValueError(
                f"{self.path} is the checkpoint of another run: {'; '.join(changed)}. Give the same arguments, for "
                f"speech also the same text and contrast, to continue it, or {advice}"
            )
        return progress, sums

    def save(self, progress: Mapping[str, int], sums: list[Tensor]) -> None:
        """Replaces the file. If it cannot be written, the run continues and the user is warned once."""
        from safetensors.torch import save

        start = time.monotonic()
        metadata = {"format": FORMAT, "arguments": json.dumps(self.arguments), "progress": json.dumps(progress)}
        tensors = {"scores": self.scores, **{str(index): tensor for index, tensor in enumerate(sums)}}
        try:
            write_atomically(self.path, save(tensors, metadata))
        except (OSError, MemoryError) as error:
            if not self._failed:
                self._failed = True
                warn(
                    f"the checkpoint {self.path} could not be written ({error}): the run continues; if it is killed, "
                    "it starts again, or from the last file.",
                    stacklevel=2,
                )
        self._last = time.monotonic()
        self._wait = max(SECONDS, PATIENCE * (self._last - start))

    def remove(self) -> None:
        """Removes the file, and the temporary files of processes that were killed while they wrote it."""
        try:
            self.path.unlink(missing_ok=True)
        except OSError as error:
            warn(f"the checkpoint {self.path} is no longer needed and could not be removed ({error}).", stacklevel=2)
        for folder in self.path.parent.glob(f".{self.path.name}.*"):
            shutil.rmtree(folder, ignore_errors=True)


def _alike(scores: Tensor, others: Tensor) -> bool:
    if scores.shape != others.shape:
        return False
    return torch.allclose(scores, others, rtol=0, atol=SCORE_TOLERANCE * float(scores.abs().max()))


def _shown(scores: Tensor) -> str:
    first = [f"{score:.6g}" for score in scores.flatten()[:3].tolist()]
    return ", ".join(first) + (", …" if scores.numel() > 3 else "")
