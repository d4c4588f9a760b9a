"""The processes of ``torch.distributed`` that share the samples of one run."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from captum_spes.attr.fingerprint import fingerprint

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

Result = TypeVar("Result")


class Ranks:
    """The ranks of a process group, or a single process without one.

    Tensors that are reduced are on the CPU. For a group of NCCL they pass through the current CUDA device.

    Args:
        group: a process group of ``torch.distributed``, or None.

    Raises:
        ValueError: this process does not belong to the group.
    """

    def __init__(self, group: ProcessGroup | None = None) -> None:
        self.group = group
        self.rank, self.size, self.device = 0, 1, torch.device("cpu")
        if group is None:
            return
        self.rank, self.size = dist.get_rank(group), dist.get_world_size(group)
        if self.rank < 0:
            raise ValueError("this process does not belong to process_group: call attribute only in the group's ranks.")
        if dist.get_backend(group) == "nccl":
            self.device = torch.device("cuda", torch.cuda.current_device())

    def share(self, stop: int, start: int = 0) -> range:
        """This rank's samples of start … stop - 1: consecutive ones, so that few blocks of masks are drawn twice."""
        n_samples = stop - start
        return range(start + n_samples * self.rank // self.size, start + n_samples * (self.rank + 1) // self.size)

    def sum(self, tensors: Iterable[Tensor]) -> None:
        """Replaces each tensor by its sum over the ranks."""
        if self.group is None:
            return
        for tensor in tensors:
            moved = tensor.to(self.device)
            dist.all_reduce(moved, group=self.group)
            tensor.copy_(moved)

    def total(self, count: Callable[[], int]) -> int:
        """The sum over the ranks of what ``count`` returns; if it fails on one rank, all ranks end.

        Raises:
            RuntimeError: ``count`` failed on another rank. An error on this rank is raised as it is.
        """
        if self.group is None:
            return count()
        own, error = 0, None
        try:
            own = count()
        except BaseException as raised:  # the other ranks wait for this one, also after Ctrl-C
            error = raised
        # the count, and a flag for each rank that is set if it has failed
        told = torch.zeros(1 + self.size, dtype=torch.int64, device="cpu")
        told[0], told[1 + self.rank] = own, error is not None
        self.sum([told])
        if error is not None:
            raise error
        if failed := told[1:].nonzero().flatten().tolist():
            raise RuntimeError(
                f"rank {' and rank '.join(map(str, failed))} of {self.size} failed, so this rank ends as well: see the "
                "error of that rank."
            )
        return int(told[0])

    def largest(self, value: int) -> int:
        """The largest value over the ranks."""
        if self.group is None:
            return value
        told = torch.tensor(value, device=self.device)
        dist.all_reduce(told, dist.ReduceOp.MAX, group=self.group)
        return int(told)

    def together(self, step: Callable[[], Result]) -> Result:
        """What ``step`` returns on this rank; if it fails on one rank, all ranks end as in :meth:`total`."""
        results: list[Result] = []

        def once() -> int:
            results.append(step())
            return 1

        self.total(once)
        return results[0]

    def from_first(self, value: Result) -> Result:
        """The value of the first rank, which must be on the CPU."""
        if self.group is None:
            return value
        values = [value]
        dist.broadcast_object_list(values, dist.get_global_rank(self.group, 0), self.group)
        return values[0]

    def check_same(self, arguments: object) -> None:
        """Raises a ValueError on all ranks if their arguments differ."""
        if self.group is None:
            return
        digest = hashlib.sha256(repr(fingerprint(arguments)).encode()).digest()
        number = int.from_bytes(digest[:6], "big")
        total = self.total(lambda: number)
        if self.total(lambda: total != number * self.size):
            raise ValueError(
                f"the {self.size} ranks of process_group were given different arguments: they share the samples of "
                "one attribution, so give all of them the same inputs, baselines, mask, numbers and seed."
            )
