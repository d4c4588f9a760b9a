"""Jobs shared out among the processes that torchrun starts, and taken up again where one of them dies."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

import torch
from torch.distributed import PrefixStore, Store

CONNECT_TIMEOUT = timedelta(minutes=2)
# between looks at what other ranks have finished
POLL_SECONDS = 0.5


class Sharing:
    """Hands out jobs among ranks, each to the rank that is free first.

    Jobs are claimed one by one in the store that the ranks have in common. There is no process group and no barrier: no
    rank waits for another before all jobs are claimed, and none hangs because another died. A claim holds until the
    process that made it is replaced: torchrun starts the rank anew, that start is counted, and the claims of earlier
    starts are free again. Whoever survives, if anyone does, goes on meanwhile.

    Args:
        store: of all ranks.
        rank: of this process; the one that starts again with the same number replaces it.
        world_size: number of ranks; claims of ranks beyond it are free.

    Example::

        >>> from torch.distributed import HashStore
        >>> from captum_spes.evaluation.distributed import Sharing
        >>> sharing = Sharing(HashStore(), rank=0, world_size=1)
        >>> sharing.map(str.upper, ["b", "a"])
        {'b': 'B', 'a': 'A'}
        >>> sharing.count(), sharing.count()
        (1, 2)
    """

    def __init__(self, store: Store, rank: int, world_size: int) -> None:
        self.rank = rank
        self.world_size = world_size
        #: called now and then, while there is nothing to do but wait for other ranks
        self.on_wait: Callable[[], Any] | None = None
        self._store = store
        self._n_maps = 0
        self._me = f"{rank} {store.add(f'starts/{rank}', 1)}"

    def map(self, function: Callable[[str], str], jobs: Sequence[str]) -> dict[str, str]:
        """Like ``map``, over all ranks, which must call it alike: each job is done by one of them.

        Args:
            function: does a job, and returns a text about it.
            jobs: their names, each once; those to begin with come first. What has been finished, also by a process that
                died later, is not done again.

        Returns:
            dict: the text about every job, the same on all ranks, once all jobs are done.

        Raises:
            torch.distributed.DistError: the store is gone, and with it whoever launched the ranks.
        """
        store = PrefixStore(f"map {self._n_maps}", self._store)
        self._n_maps += 1
        missing = list(jobs)
        while missing:
            held = []  # by others
            for job in missing:
                if store.check([f"result/{job}"]):
                    continue
                if self._claim(store, job):
                    store.set(f"result/{job}", function(job))
                else:
                    held.append(job)
            if len(held) == len(missing):
                if self.on_wait is not None:
                    self.on_wait()
                time.sleep(POLL_SECONDS)
            missing = held
        return {job: store.get(f"result/{job}").decode() for job in jobs}

    def count(self, number: int = 1) -> int:
        """Adds to a counter of all ranks; returns where it stands."""
        return self._store.add("count", number)

    def _claim(self, store: Store, job: str) -> bool:
        key = f"claim/{job}"
        holder = store.compare_set(key, "", self._me).decode()
        if not self._is_alive(holder):
            holder = store.compare_set(key, holder, self._me).decode()
        return holder == self._me

    def _is_alive(self, holder: str) -> bool:
        rank, start = map(int, holder.split())
        return rank < self.world_size and self._store.add(f"starts/{rank}", 0) == start


def has_ranks() -> bool:
    """Whether torchrun has started this process beside others.

    Example::

        >>> from captum_spes.evaluation.distributed import has_ranks
        >>> has_ranks()
        False
    """
    launched = torch.distributed.is_available() and torch.distributed.is_torchelastic_launched()
    return launched and int(os.environ["WORLD_SIZE"]) > 1


def connect() -> Sharing | None:
    """The ranks that torchrun started; None in a process that was started otherwise, or alone.

    Raises:
        torch.distributed.DistError: torchrun is gone.

    Example::

        >>> from captum_spes.evaluation.distributed import connect
        >>> connect() is None
        True
    """
    if not has_ranks():
        return None
    # the launcher has the store ready, or is gone
    store, rank, world_size = next(torch.distributed.rendezvous("env://", timeout=CONNECT_TIMEOUT))
    return Sharing(PrefixStore("captum_spes", store), rank, world_size)


def device_of_rank(device: str | None = None) -> str | None:
    """The device of this rank: of torchrun's ranks on a machine with GPUs, each has its own, or they take turns.

    Args:
        device: what was asked for; None for a GPU where there is one.

    Returns:
        str: ``cuda:LOCAL_RANK`` for a GPU of torchrun's ranks; otherwise what was asked for.

    Example::

        >>> from captum_spes.evaluation.distributed import device_of_rank
        >>> device_of_rank("cpu")
        'cpu'
    """
    if device in (None, "cuda") and has_ranks() and torch.cuda.is_available():
        return f"cuda:{int(os.environ['LOCAL_RANK']) % torch.cuda.device_count()}"
    return device
