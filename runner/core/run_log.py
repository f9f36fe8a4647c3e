"""Log records of one run, where a process trains several at a time."""

import contextlib
import logging
from collections.abc import Iterator
from contextvars import ContextVar
from pathlib import Path

_folder: ContextVar[Path | None] = ContextVar("folder", default=None)


@contextlib.contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Send log records made inside to the log of the run in this folder only."""
    token = _folder.set(folder)
    try:
        yield
    finally:
        _folder.reset(token)


class OwnLines(logging.Filter):
    """Filter that passes the records of one run, and those of no run."""

    def __init__(self, folder: Path):
        super().__init__()
        self._run_folder = folder

    def filter(self, record: logging.LogRecord) -> bool:
        return _folder.get() in (None, self._run_folder)
