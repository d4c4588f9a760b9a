"""Completes the utterances of an evaluation by workers of Ray, on this machine or on a cluster."""

from __future__ import annotations

import logging
import math
import os
import warnings
from collections import deque
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

from captum_spes._extras import require
from captum_spes._log import LOGGER
from captum_spes.evaluation.corpus import CorpusUtterance
from captum_spes.evaluation.runner import Runner
from captum_spes.models.protocol import SpeechToTextModel

# Number of times that Ray tries an utterance again after its worker died. A worker is restarted without limit.
MAX_RETRIES = 10
# On a busy machine the start of Ray may take longer than the 30 s for which Ray waits.
START_ATTEMPTS = 3
# the smallest object store of Ray is 75 MB, which is enough for paths and short texts
OBJECT_STORE_BYTES = 100_000_000

# an utterance, and the reason if it could not be completed, or an empty text
Completed = tuple[CorpusUtterance, str]


@dataclass(frozen=True)
class Workers:
    """Workers of Ray that complete the utterances of an :class:`.Evaluation`.

    A worker is an actor that loads the model once, on a GPU or on its share of the CPUs. It gets one utterance at a
    time. Ray restarts a worker that dies, on another node if its own is gone, and gives it the utterance again.

    Args:
        load: loads the model in a worker; called as ``load(device=...)``.
        n_workers: number of workers. Default: one for each GPU of the cluster.
        address: the address of a running cluster, ``"auto"`` or ``"ray://host:10001"``. Default: Ray is started on
            this machine for the run only, unless the program has initialised it before.
        device: ``"cpu"`` makes the workers use CPUs. Default: GPUs if there are any.

    Raises:
        ImportError: the extra ``cluster`` is not installed.
        ValueError: the number of workers is below 1, or the device is another one.

    Example::

        >>> from functools import partial
        >>> from captum_spes.evaluation.cluster import Workers
        >>> from captum_spes.models import load_model
        >>> workers = Workers(partial(load_model, "whisper-tiny.en"), n_workers=2)
        >>> workers.n_workers  # evaluation.run(workers=workers) starts them
        2
    """

    load: Callable[..., SpeechToTextModel]
    n_workers: int | None = None
    address: str | None = None
    device: str | None = None

    def __post_init__(self) -> None:
        require("ray", "cluster")
        if self.n_workers is not None and self.n_workers < 1:
            raise ValueError(f"n_workers must be at least 1, not {self.n_workers}.")
        if self.device not in (None, "cpu", "cuda"):
            raise ValueError(f"the device of workers must be cpu or cuda, not {self.device!r}: Ray numbers the GPUs.")


def complete(workers: Workers, runner: Runner, items: Sequence[CorpusUtterance]) -> Generator[Completed, None, None]:
    """Completes utterances in the given order; yields each when it is finished, with its problem if it has one.

    Raises:
        ValueError: there are more workers than CPUs of the cluster.
        ConnectionError: there is no cluster at the address.
        ChildProcessError: a worker died repeatedly while it loaded the model.
        Exception: the first error of a worker that does not belong to a single utterance, such as a full disk.
    """
    if not items:
        return
    ray = require("ray", "cluster")
    is_ours = not ray.is_initialized()
    if is_ours:
        _start(ray, workers)
    try:
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        n_workers, resources = share(nodes, workers.n_workers, workers.device)
        load = partial(workers.load, device="cuda" if "num_gpus" in resources else "cpu")
        actor = ray.remote(_Worker).options(max_restarts=-1, max_task_retries=MAX_RETRIES, **resources)
        yield from _dispatch(ray, [actor.remote(load, runner) for _ in range(min(n_workers, len(items)))], items)
    finally:
        if is_ours:
            ray.shutdown()


def _start(ray: Any, workers: Workers) -> None:
    """Connects to the cluster, or starts Ray on this machine.

    Raises:
        ConnectionError: there is no cluster at the address, or Ray does not start.
    """
    quiet = {"log_to_driver": False, "logging_level": "error"}
    if workers.address is not None:
        ray.init(address=workers.address, **quiet)
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # no usage statistics are sent
    # Ray's default priority of 15 slows the workers down on a shared machine; they get the priority of this process.
    os.environ.setdefault("RAY_worker_niceness", "0")
    local = {"address": "local", "include_dashboard": False, "object_store_memory": OBJECT_STORE_BYTES}
    n_cpus = max(os.cpu_count() or 1, workers.n_workers or 1)
    for attempt in range(START_ATTEMPTS):
        try:
            ray.init(num_cpus=n_cpus, **local, **quiet)
            return
        except Exception as error:  # Ray has no class of its own for a start that takes too long
            ray.shutdown()
            if attempt + 1 == START_ATTEMPTS:
                raise ConnectionError(f"Ray could not be started on this machine: {error}") from error


def share(
    nodes: Sequence[dict[str, float]], n_workers: int | None, device: str | None = None
) -> tuple[int, dict[str, float]]:
    """The number of workers, and the resources of each.

    A worker uses a GPU, or a part of one if there are more workers than GPUs. Without GPUs all workers use the same
    number of CPUs, and compute with this number of threads.

    Args:
        nodes: the resources of each node, by Ray's names.
        n_workers: the number that the user gave; None for one worker per GPU.
        device: ``"cpu"``, ``"cuda"`` or None for GPUs if there are any.

    Raises:
        ValueError: there is no GPU by which to count, or there are too few CPUs.

    Example::

        >>> from captum_spes.evaluation.cluster import share
        >>> share([{"CPU": 16.0, "GPU": 4.0}, {"CPU": 16.0, "GPU": 4.0}], None)
        (8, {'num_cpus': 1, 'num_gpus': 1.0})
        >>> share([{"CPU": 16.0}, {"CPU": 8.0}], 3)
        (3, {'num_cpus': 8})
    """
    n_gpus = 0 if device == "cpu" else sum(int(node.get("GPU", 0)) for node in nodes)
    if n_gpus:
        n_workers = n_workers or n_gpus
        return n_workers, {"num_cpus": 1, "num_gpus": 1 / math.ceil(n_workers / n_gpus)}
    if device == "cuda":
        raise ValueError("the cluster has no GPU: leave out --device, or give cpu.")
    cpus = [int(node.get("CPU", 0)) for node in nodes]
    if n_workers is None:
        raise ValueError(f"the cluster has no GPU and {sum(cpus)} CPUs: give the number of workers (--workers).")
    fitting = [n for n in range(1, max(cpus, default=0) + 1) if sum(count // n for count in cpus) >= n_workers]
    if not fitting:
        raise ValueError(f"the cluster has {sum(cpus)} CPUs: give at most this number of workers, not {n_workers}.")
    return n_workers, {"num_cpus": fitting[-1]}


def _dispatch(ray: Any, actors: list[Any], items: Sequence[CorpusUtterance]) -> Generator[Completed, None, None]:
    """Gives each worker an utterance when it has loaded the model, and another one when it is finished.

    A worker for which no utterance is left is ended, so that its GPU is free for a worker that Ray restarts.
    """
    waiting = deque(items)
    running: dict[Any, tuple[Any, CorpusUtterance | None]] = {actor.prepare.remote(): (actor, None) for actor in actors}
    actors.clear()
    try:
        while waiting or any(item is not None for _, item in running.values()):
            [reference], _ = ray.wait(list(running))
            actor, item = running.pop(reference)
            problem = _result(ray, reference, item)
            if waiting:
                following = waiting.popleft()
                running[actor.complete.remote(following)] = (actor, following)
            del actor
            if item is not None:
                yield item, problem
    finally:
        for actor, _ in running.values():
            ray.kill(actor)


def _result(ray: Any, reference: Any, item: CorpusUtterance | None) -> str:
    """The problem of an utterance, or an empty text.

    Raises:
        ChildProcessError: the worker died repeatedly while it loaded the model.
        Exception: an error of the worker.
    """
    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        raise error.cause from error
    except ray.exceptions.RayActorError as error:
        died = f"the worker died {MAX_RETRIES + 1} times while it"
        if item is None:
            raise ChildProcessError(f"{died} loaded the model: is its memory enough? Ray says: {error}") from error
        return f"{died} explained it (out of memory?). The same command tries again."


class _Worker:
    """The actor, which holds the model and completes utterances."""

    def __init__(self, load: Callable[[], SpeechToTextModel], runner: Runner) -> None:
        self.load = load
        self.runner = runner

    @cached_property
    def model(self) -> SpeechToTextModel:
        """Loads the model at the first call and not in the constructor, because Ray changes errors of constructors."""
        LOGGER.setLevel(logging.ERROR)  # problems of utterances are returned
        warnings.simplefilter("ignore")
        return self.load()

    def prepare(self) -> str:
        """Loads the model."""
        _ = self.model
        return ""

    def complete(self, item: CorpusUtterance) -> str:
        return self.runner.complete(self.model, item, lambda *progress: None)
