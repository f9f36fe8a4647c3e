"""Errors that the command shows in one line."""

import difflib
import errno
from collections.abc import Iterable


class ConfigError(Exception):
    """Invalid user input: one line with the value, what is allowed and the way out.

    Shown without a traceback, exit code 2. Any other exception is a bug of the runner or a failure of the run.
    """


class DiskFull(Exception):
    """No space left for results: the sweep stops, and the same command continues it. Exit code 1."""


def is_disk_full(error: BaseException | None) -> bool:
    """Return whether an error, or one of its causes, says that the disk or a quota is full."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        error = error.__cause__ or error.__context__
    return False


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return `"; did you mean 'adam'?"` for the nearest known word; an empty text where none is near."""
    matches = difflib.get_close_matches(str(word), list(known), n=1, cutoff=0.6)
    return f"; did you mean '{matches[0]}'?" if matches else ""
