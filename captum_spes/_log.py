"""The warnings of the library: Python warnings, which the logger ``captum_spes`` can silence or redirect."""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

LOGGER = logging.getLogger("captum_spes")


def warn(message: str, stacklevel: int = 1) -> None:
    """Warns through the logger if a program has given it a handler, and otherwise through ``warnings``.

    The logger's level and filters hold for both.

    Args:
        message: a sentence.
        stacklevel: the stack level, as in ``warnings.warn``: 1 is the caller of this function.
    """
    if LOGGER.handlers:
        LOGGER.warning("%s", message, stacklevel=stacklevel + 1)
        return
    record = LOGGER.makeRecord(LOGGER.name, logging.WARNING, "", 0, message, (), None)
    if LOGGER.isEnabledFor(logging.WARNING) and LOGGER.filter(record):
        warnings.warn(message, stacklevel=stacklevel + 1)


@contextmanager
def without_warnings(pattern: str = "") -> Iterator[None]:
    """Drops the warnings that begin with a pattern, all of them by default, while it lasts."""

    def passes(record: logging.LogRecord) -> bool:
        return re.match(pattern, record.getMessage()) is None

    LOGGER.addFilter(passes)
    try:
        yield
    finally:
        LOGGER.removeFilter(passes)
