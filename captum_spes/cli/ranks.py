"""The processes that torchrun starts, which explain one utterance together."""

from __future__ import annotations

import atexit
import gc
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


def has_ranks() -> bool:
    """Whether torchrun has started this process beside others."""
    return dist.is_available() and dist.is_torchelastic_launched() and int(os.environ["WORLD_SIZE"]) > 1


def refuse_ranks(command: str, instead: str) -> None:
    """Raises a ValueError where torchrun has started a command that is the work of one process."""
    if has_ranks():
        raise ValueError(f"{command} is the work of one process: start it without torchrun. {instead}")


def device_of_rank(device: str | None = None) -> str | None:
    """The device of this rank: of torchrun's ranks on a machine with GPUs, each has its own, or they take turns.

    Args:
        device: what was asked for; None for a GPU where there is one.

    Returns:
        str: ``cuda:LOCAL_RANK`` for a GPU of torchrun's ranks; otherwise what was asked for.
    """
    if device in (None, "cuda") and has_ranks() and torch.cuda.is_available():
        return f"cuda:{int(os.environ['LOCAL_RANK']) % torch.cuda.device_count()}"
    return device


@contextmanager
def torchrun_ranks() -> Iterator[ProcessGroup | None]:
    """Their process group while it lasts, in which the first alone prints and warns; None for a single process."""
    if not has_ranks():
        yield None
        return
    dist.init_process_group("gloo")  # also on GPUs: what is reduced lies on the CPU
    # A process group that is still referred to when Python ends, by the frames of an error, say, aborts the process.
    atexit.register(gc.collect)
    try:
        if dist.get_rank() == 0:
            yield dist.group.WORLD
            return
        with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield dist.group.WORLD
    finally:
        dist.destroy_process_group()
