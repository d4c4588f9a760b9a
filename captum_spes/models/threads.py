"""Threads of a process take turns with its models, because a pass changes a model until it ends."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

# One lock for all models: adapters may share a model, and models share random generators and the settings of
# Transformers. It is none of a model's attributes, so that models can be copied and pickled.
_lock = threading.RLock()
_here = threading.local()


def _renew() -> None:
    global _lock, _here
    _lock, _here = threading.RLock(), threading.local()


if hasattr(os, "register_at_fork"):  # the thread that holds the lock does not exist in a forked process
    os.register_at_fork(after_in_child=_renew)


@contextmanager
def exclusive() -> Iterator[None]:
    """A context in which no other thread of the process runs a model; it may be entered again inside.

    Every pass of an adapter is in such a context, and so is the whole run of an attribution method, whose hooks and
    random numbers serve several passes.

    Example::

        >>> from captum_spes.models.threads import exclusive
        >>> with exclusive(), exclusive():
        ...     pass  # run the model
    """
    if getattr(_here, "is_lent", False):
        yield
        return
    with _lock:
        yield


@contextmanager
def lent() -> Iterator[None]:
    """A context for passes inside of a backward pass, whose caller is in :func:`exclusive` and waits.

    Autograd runs backward passes on a GPU in a thread of its own, which would wait for its caller without end.

    Example::

        >>> from captum_spes.models.threads import exclusive, lent
        >>> with lent(), exclusive():
        ...     pass  # run the model in the thread of a backward pass
    """
    before = getattr(_here, "is_lent", False)
    _here.is_lent = True
    try:
        yield
    finally:
        _here.is_lent = before
