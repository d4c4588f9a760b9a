"""The processes that torchrun starts, which explain one utterance together."""

from __future__ import annotations

import atexit
import gc
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from typing import TYPE_CHECKING

import torch.distributed as dist

from captum_spes.evaluation.distributed import has_ranks

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


@contextmanager
def torchrun_ranks() -> Iterator[ProcessGroup | None]:
    """Their process group while it lasts, in which the first alone prints and warns; None for a single process."""
    if not has_ranks():
        yield None
        return
    dist.init_process_group("gloo")  # also on GPUs: what is reduced lies on the CPU
    atexit.register(gc.collect)  # threads of a group that a cycle holds, an error's frames say, would abort Python
    try:
        if dist.get_rank() == 0:
            yield dist.group.WORLD
            return
        with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield dist.group.WORLD
    finally:
        dist.destroy_process_group()
