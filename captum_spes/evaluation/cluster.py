"""Utterances of an evaluation completed by workers of Ray, on this machine or on a cluster."""

from __future__ import annotations

import math
import os
import warnings
from collections import deque
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

from captum_spes._extras import require
from captum_spes.evaluation.corpus import CorpusUtterance
from captum_spes.evaluation.runner import Runner
from captum_spes.models.protocol import SpeechToTextModel

# How often Ray tries an utterance again whose worker died, before it is left out. A worker is restarted without limit.
MAX_RETRIES = 10
# A busy machine may not start Ray in the 30 s that Ray waits for it.
START_ATTEMPTS = 3
# Ray's smallest object store is 75 MB; utterances and results are paths and short texts
OBJECT_STORE_BYTES = 100_000_000

# an utterance, and why it could not be completed, or nothing
Completed = tuple[CorpusUtterance, str]


@dataclass(frozen=True)
class Workers:
    """Workers of Ray that complete the utterances of an :class:`.Evaluation`.

    Each is an actor that loads the model once, on a GPU or on its share of the CPUs. It is given one utterance at a
    time. Ray restarts a worker that dies, on another node where its own is gone, and gives it the utterance again.

    Args:
        load: loads the model in a worker; called as ``load(device=...)``.
        n_workers: how many. Default: one for each GPU of the cluster.
        address: the address of a running cluster, ``"auto"`` or ``"ray://host:10001"``. Default: Ray is started on
            this machine for the run alone, unless the program has initialised it before.
        device: ``"cpu"`` keeps the workers off the GPUs. Default: GPUs where there are any.

    Raises:
        ImportError: the extra ``cluster`` is not installed.
        ValueError: a number of workers below 1, or another device.

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
            raise ValueError(f"there must be at least 1 worker, not {self.n_workers}.")
        if self.device not in (None, "cpu", "cuda"):
            raise ValueError(f"the device of workers must be cpu or cuda, not {self.device!r}: Ray numbers the GPUs.")


def complete(workers: Workers, runner: Runner, items: Sequence[CorpusUtterance]) -> Generator[Completed, None, None]:
    """Completes utterances in the order given; yields each when it ends, with its problem if it has one.

    Raises:
        ValueError: more workers than the cluster has CPUs.
        ConnectionError: there is no cluster at the address.
        ChildProcessError: a worker died again and again while it loaded the model.
        Exception: the first error of a worker that is none of a single utterance, such as a full disk.
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
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # a run on one's own machine reports to nobody
    # Ray's default of 15 starves the workers on a machine that others use; they are to run as this process would.
    os.environ.setdefault("RAY_worker_niceness", "0")
    local = {"address": "local", "include_dashboard": False, "object_store_memory": OBJECT_STORE_BYTES}
    n_cpus = max(os.cpu_count() or 1, workers.n_workers or 1)
    for attempt in range(START_ATTEMPTS):
        try:
            ray.init(num_cpus=n_cpus, **local, **quiet)
            return
        except Exception as error:  # Ray raises no class of its own where its 30 s were not enough
            ray.shutdown()
            if attempt + 1 == START_ATTEMPTS:
                raise ConnectionError(f"Ray could not be started on this machine: {error}") from error


def share(
    nodes: Sequence[dict[str, float]], n_workers: int | None, device: str | None = None
) -> tuple[int, dict[str, float]]:
    """How many workers there are, and what each takes of a cluster.

    A worker takes a GPU, or a part of one where there are more workers than GPUs. Without GPUs it takes as many CPUs as
    all workers can have alike: it computes with that many threads.

    Args:
        nodes: the resources of each node, with the names that Ray gives them.
        n_workers: how many are asked for; None for one a GPU.
        device: ``"cpu"``, ``"cuda"`` or None for GPUs where there are any.

    Raises:
        ValueError: no GPU to count by, or too few CPUs.

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
        raise ValueError(f"the cluster has no GPU and {sum(cpus)} CPUs: say how many workers share them (--workers).")
    fitting = [n for n in range(1, max(cpus, default=0) + 1) if sum(count // n for count in cpus) >= n_workers]
    if not fitting:
        raise ValueError(f"the cluster has {sum(cpus)} CPUs: give no more than as many workers, not {n_workers}.")
    return n_workers, {"num_cpus": fitting[-1]}


def _dispatch(ray: Any, actors: list[Any], items: Sequence[CorpusUtterance]) -> Generator[Completed, None, None]:
    """Gives each worker an utterance when it has loaded the model, and another when it is done.

    A worker for which nothing is left is let go: its GPU is free for one that Ray restarts.
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
    """The problem of an utterance, or nothing.

    Raises:
        ChildProcessError: the worker died again and again while it loaded the model.
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
        return f"{died} was at it (out of memory?). The same command tries again."


class _Worker:
    """The actor: it has the model, and completes utterances."""

    def __init__(self, load: Callable[[], SpeechToTextModel], runner: Runner) -> None:
        self.load = load
        self.runner = runner

    @cached_property
    def model(self) -> SpeechToTextModel:
        """Loaded at the first call and not in the constructor, whose errors Ray does not hand on as they are."""
        warnings.simplefilter("ignore")  # what is wrong with an utterance is told by its problem
        return self.load()

    def prepare(self) -> str:
        """Loads the model."""
        _ = self.model
        return ""

    def complete(self, item: CorpusUtterance) -> str:
        return self.runner.complete(self.model, item, lambda *progress: None)
