"""What a user typed wrong, said in one line."""

import difflib
import errno
from collections.abc import Iterable


class ConfigError(Exception):
    """The user's input cannot work: one line with the value, what is allowed and the way out.

    Shown without a traceback, exit code 2. Anything else that is raised is a bug of ours, or of the run.
    """


class DiskFull(Exception):
    """No room for results: the sweep stops, and goes on with the same command. Exit code 1."""


def disk_full(error: BaseException | None) -> bool:
    """Whether an error, or what led to it, says that there is no room left where it was written."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        error = error.__cause__ or error.__context__
    return False


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`"; did you mean 'adam'?"`, or nothing where no known word is near."""
    near = difflib.get_close_matches(str(word), list(known), n=1, cutoff=0.6)
    return f"; did you mean '{near[0]}'?" if near else ""
