"""Runs samples in batches, with progress, ranks and checkpoints."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from numbers import Integral
from typing import Protocol

import torch
from captum._utils.progress import NullProgress, progress
from torch import Tensor

from captum_spes._log import warn
from captum_spes.attr._checkpoint import Checkpoint
from captum_spes.attr.ranks import Ranks
from captum_spes.attr.stopping import StoppingRule

Callback = Callable[[int, int], bool | None]

MAX_BATCH = 64  # the largest batch that is tried


class Step(Protocol):
    """Evaluates samples and adds them up."""

    def __call__(self, start: int, stop: int, looks: Sequence[int]) -> int | None:
        """Evaluates the samples start … stop - 1. Nothing is added before all steps that may run out of memory.

        Args:
            start: the first sample.
            stop: one more than the last sample.
            looks: numbers of samples between start and stop at which the run may end.

        Returns:
            The first of the looks at which the reliability is reached, in which case nothing is added; otherwise None.
        """


class Batches:
    """Runs samples in batches until all are done, the result is reliable, or the callback stops the run.

    Each rank has a share of the samples. After every batch the ranks agree on how many samples are done and whether to
    stop, so that no rank waits for one that has failed. A rank with smaller batches has more of them.

    A batch that does not fit into memory is halved and tried again, and the next batches are halved as well. This
    changes the result by rounding only, since a perturbation depends on its sample's number alone.

    A *look* is a number of samples at which the reliability is computed. With a stopping rule, a single process makes
    the same batches as without one. If the run ends at a look inside a batch, the samples of the batch up to the look
    are evaluated again as the last batch, so that the result equals that of a run with so many samples to the last
    bit. Ranks share the samples between two looks and compute the reliability together.

    Args:
        total: number of samples.
        per_eval: samples in a batch, at most.
        name: name of the method.
        tensors: returns the sums, float64 on the CPU, which are changed in place.
        show_progress: shows the bar.
        callback: called after every batch, as ``callback(done, total)``.
        ranks: the processes that share the samples.
        checkpoint: file from which the run continues, with the batch size of before, so that its sums are the same to
            the last bit.
        rule: the numbers of samples at which the run may end early.

    Attributes:
        total: number of samples. If the run ends early, it becomes the number of samples done.
        per_eval: samples in the next batches; the caller may lower it.
        n_done: samples that all ranks together have done.
        first: the first sample of this rank.
    """

    def __init__(
        self,
        total: int,
        per_eval: int,
        name: str,
        tensors: Callable[[], list[Tensor]],
        show_progress: bool = False,
        callback: Callback | None = None,
        ranks: Ranks | None = None,
        checkpoint: Checkpoint | None = None,
        rule: StoppingRule | None = None,
    ) -> None:
        self.total = int(total)  # NumPy's integers are not for JSON
        self.per_eval = self.most = int(per_eval)
        self.name = name
        self.tensors = tensors
        self.ranks = ranks or Ranks()
        self.show_progress = show_progress and self.ranks.rank == 0
        self.callback = callback
        self.checkpoint = checkpoint
        self.rule = rule
        self.n_done = 0
        # the ranks share one block of samples after another; each block ends at a look
        looks = rule.looks(0, total - 1) if rule is not None and self.ranks.size > 1 else ()
        self._ends = [*looks, total]
        self._shares = [self.ranks.share(end, start) for start, end in zip([0, *self._ends], self._ends)]
        self._block = 0  # the current block
        self._n_own = 0  # samples that this rank has done
        self.first = next((share.start for share in self._shares if share), 0)

    def run(self, step: Step, is_reliable: Callable[[], bool]) -> None:
        """Calls ``step`` for each batch, and sums over the ranks.

        Args:
            step: evaluates a batch; it is called again with a smaller batch after it ran out of memory.
            is_reliable: whether the samples that were added reach the reliability. All ranks call it together.
        """
        desc = f"{self.name} attribution"
        with progress(desc=desc, total=self.total) if self.show_progress else NullProgress() as bar:
            self.n_done = self.ranks.total(self._restore)
            self._block = self.ranks.largest(self._own_block())
            bar.update(self.n_done)
            stopped = False
            while self.n_done < self.total and not stopped:
                n_new = self.ranks.total(lambda: self._batch(step))
                self.n_done += n_new
                if self._looks_now() and is_reliable():
                    self.total = self.n_done
                if self.show_progress:
                    bar.total = self.total
                bar.update(n_new)
                stopped = self.ranks.total(self._stops) > 0
        if self.n_done < self.total:
            self.ranks.total(self._save)
        self.ranks.sum(self.tensors())
        if self.n_done == self.total and self.checkpoint is not None:
            self.checkpoint.remove()

    def _restore(self) -> int:
        """Loads the sums from the checkpoint, and returns the number of their samples."""
        found = None if self.checkpoint is None else self.checkpoint.load()
        if found is None or self.checkpoint is None:
            return 0
        state, sums = found
        done, per_eval = (state.get(name, -1) for name in ("done", "per_eval"))
        shapes = [[tensor.shape for tensor in tensors] for tensors in (sums, self.tensors())]
        n_share = sum(map(len, self._shares))
        valid = type(done) is int and type(per_eval) is int and 0 <= done <= n_share and per_eval > 0
        if not valid or shapes[0] != shapes[1] or not all(tensor.isfinite().all() for tensor in sums):
            raise ValueError(f"{self.checkpoint.path} is a damaged checkpoint: delete it to start again.")
        for tensor, saved in zip(self.tensors(), sums):
            tensor.copy_(saved)
        self._n_own = done
        self.per_eval = min(per_eval, self.most)
        return done

    def _save(self) -> int:
        if self.checkpoint is not None:
            self.checkpoint.save({"done": self._n_own, "per_eval": self.per_eval}, self.tensors())
        return 0

    def _own_block(self) -> int:
        """The block that holds the last sample that this rank has done."""
        sizes = [len(share) for share in self._shares]
        return next(block for block in range(len(sizes)) if self._n_own <= sum(sizes[: block + 1]))

    def _next(self) -> range:
        """The samples of this rank's next batch, within one block; empty if the rank waits for the others."""
        skipped = self._n_own
        for share in self._shares[: self._block + 1]:
            if skipped < len(share):
                batch = share[skipped : skipped + self.per_eval]
                return range(batch.start, min(batch.stop, self.total))
            skipped -= len(share)
        return range(0)

    def _batch(self, step: Step) -> int:
        """Evaluates the next batch, and returns its number of samples."""
        if self.checkpoint is not None and self.checkpoint.is_due:
            self._save()
        before = self._n_own
        while (batch := self._next()) and not (self._fits(step, batch) and self._n_own > before):
            pass
        return self._n_own - before

    def _looks_now(self) -> bool:
        """Whether the samples that all ranks have done end at a look."""
        if self.rule is None or self.n_done >= self.total:
            return False
        if self.ranks.size == 1:
            return any(self.rule.looks(self.n_done - 1, self.n_done))
        if self.n_done < self._ends[self._block]:
            return False
        self._block += 1
        return True

    def _stops(self) -> bool:
        return self.callback is not None and bool(self.callback(self.n_done, self.total))

    def _fits(self, step: Step, batch: range) -> bool:
        """Evaluates a batch, or notes that the run ends inside it. Returns False if memory ran out."""
        looks = () if self.rule is None or self.ranks.size > 1 else tuple(self.rule.looks(batch.start, batch.stop - 1))
        try:
            reached = step(batch.start, batch.stop, looks)
        except (RuntimeError, MemoryError) as error:
            if len(batch) == 1 or not is_out_of_memory(error):
                raise
        else:
            if reached is None:
                self._n_own += len(batch)
            else:
                self.total = reached
            return True
        # outside of the except clause, because its error would keep the batch's tensors alive
        self.per_eval = len(batch) // 2
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        warn(
            f"{self.name} ran out of memory with {len(batch)} perturbations in a batch and continues with "
            f"{self.per_eval}.",
            stacklevel=10,  # the caller of attribute
        )
        return False


def fastest_batch_size(evaluate: Callable[[int], object]) -> int:
    """Finds a fast batch size: doubles it while this saves a twentieth of the time per example and memory suffices.

    Args:
        evaluate: evaluates the given number of examples at once, and returns when the result is there.
    """
    best, least = 1, math.inf  # seconds per example
    size = 1
    while size <= MAX_BATCH:
        start = time.perf_counter()
        try:
            evaluate(size)
        except (RuntimeError, MemoryError) as error:
            if size == 1 or not is_out_of_memory(error):
                raise
            break
        seconds = (time.perf_counter() - start) / size
        if seconds > 0.95 * least:
            break
        best, least, size = size, seconds, 2 * size
    return best


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on any device; torch has no error class for it on the CPU."""
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "DefaultCPUAllocator" in str(error)


def check_counts(n_samples: int, perturbations_per_eval: int, n_granularities: int) -> None:
    """Raises a ValueError if there are fewer samples than granularities, or no sample in a batch."""
    if not isinstance(n_samples, (int, Integral)) or n_samples < n_granularities:
        raise ValueError(
            f"n_samples must be an integer of at least {n_granularities}, one perturbation for each granularity of "
            f"the feature_mask, not {n_samples}."
        )
    check_positive(perturbations_per_eval=perturbations_per_eval)


def check_positive(**values: object) -> None:
    """Raises a ValueError for a number of samples that is not an integer of at least 1."""
    for name, value in values.items():
        if not isinstance(value, Integral) or value < 1:
            raise ValueError(f"{name} must be an integer of at least 1, not {value}.")
