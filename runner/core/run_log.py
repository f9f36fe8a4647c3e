"""Lines of the log that belong to one run, where a process does several at a time."""

import contextlib
import logging
from collections.abc import Iterator
from contextvars import ContextVar
from pathlib import Path

_folder: ContextVar[Path | None] = ContextVar("folder", default=None)


@contextlib.contextmanager
def writing(folder: Path) -> Iterator[None]:
    """What is logged inside goes to the log of the run in this folder alone."""
    token = _folder.set(folder)
    try:
        yield
    finally:
        _folder.reset(token)


class OwnLines(logging.Filter):
    """Keeps a run's lines, and those that are of no run."""

    def __init__(self, folder: Path):
        super().__init__()
        self._own = folder

    def filter(self, record: logging.LogRecord) -> bool:
        return _folder.get() in (None, self._own)
