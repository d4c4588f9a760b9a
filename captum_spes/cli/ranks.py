"""The processes that torchrun starts, which explain one utterance together."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


@contextmanager
def torchrun_ranks() -> Iterator[ProcessGroup | None]:
    """Their process group while it lasts, in which the first alone prints and warns; None for a single process."""
    if not _is_launched() or os.environ["WORLD_SIZE"] == "1":
        yield None
        return
    dist.init_process_group("gloo")  # also on GPUs: what is reduced lies on the CPU
    try:
        if dist.get_rank() == 0:
            yield dist.group.WORLD
            return
        with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield dist.group.WORLD
    finally:
        dist.destroy_process_group()


def device_of_rank(device: str | None) -> str | None:
    """The device that was asked for, or of several GPUs this rank's own."""
    if device in (None, "cuda") and _is_launched() and torch.cuda.is_available():
        return f"cuda:{int(os.environ['LOCAL_RANK']) % torch.cuda.device_count()}"
    return device


def _is_launched() -> bool:
    return dist.is_available() and dist.is_torchelastic_launched()
