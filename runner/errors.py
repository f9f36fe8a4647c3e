"""What a user typed wrong, said in one line."""

import difflib
from collections.abc import Iterable


class ConfigError(Exception):
    """The user's input cannot work: one line with the value, what is allowed and the way out.

    Shown without a traceback, exit code 2. Anything else that is raised is a bug of ours, or of the run.
    """


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`"; did you mean 'adam'?"`, or nothing where no known word is near."""
    near = difflib.get_close_matches(str(word), list(known), n=1, cutoff=0.6)
    return f"; did you mean '{near[0]}'?" if near else ""
