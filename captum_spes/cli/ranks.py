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

from captum_spes._log import without_warnings

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


def has_ranks() -> bool:
    """Whether torchrun has started this process together with others."""
    return dist.is_available() and dist.is_torchelastic_launched() and int(os.environ["WORLD_SIZE"]) > 1


def refuse_ranks(command: str, instead: str) -> None:
    """Raises a ValueError if torchrun has started a command that runs in one process."""
    if has_ranks():
        raise ValueError(f"{command} runs in one process: start it without torchrun. {instead}")


def device_of_rank(device: str | None = None) -> str | None:
    """The device of this rank. Each of torchrun's ranks on a machine has its own GPU, or they share GPUs.

    Args:
        device: the device that the user gave; None for a GPU if there is one.

    Returns:
        str: ``cuda:LOCAL_RANK`` for a GPU of torchrun's ranks; otherwise the given device.
    """
    if device in (None, "cuda") and has_ranks() and torch.cuda.is_available():
        return f"cuda:{int(os.environ['LOCAL_RANK']) % torch.cuda.device_count()}"
    return device


@contextmanager
def torchrun_ranks() -> Iterator[ProcessGroup | None]:
    """A context with the process group of the ranks, in which only the first rank prints and warns.

    The process group is None for a single process.
    """
    if not has_ranks():
        yield None
        return
    dist.init_process_group("gloo")  # also with GPUs, because the reduced tensors are on the CPU
    # A process group that is still referenced when Python ends, by the frames of an error for instance, aborts it.
    atexit.register(gc.collect)
    try:
        if dist.get_rank() == 0:
            yield dist.group.WORLD
            return
        with (
            open(os.devnull, "w") as nowhere,
            redirect_stdout(nowhere),
            without_warnings(),
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("ignore")
            yield dist.group.WORLD
    finally:
        dist.destroy_process_group()
