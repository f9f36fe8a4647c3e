"""Handling of signals that end this process: it saves its runs first. Imports no torch.

While a run trains, the handler only records the signal: the loop calls `pending` between two steps, where it can save a
checkpoint. At any other moment `Interrupted` is raised at once. A second Ctrl-C ends the process and its workers.
"""

import contextlib
import os
import signal
import sys
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

# Ctrl-C, `kill`, a closed terminal, and the two that Slurm sends before a time limit (`--signal=USR1@90`).
_NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2")
SIGNALS = tuple(getattr(signal, name) for name in _NAMES if hasattr(signal, name))
EXIT_CODES = frozenset(128 + number for number in SIGNALS)  # as shells report them
PATIENCE = 120.0  # seconds to wait for processes that save their runs
_DEFAULTS = (signal.SIG_DFL, signal.default_int_handler)

_signal: int | None = None  # that asked this process to end
_deferred = 0  # nesting depth of `deferred`
_attended = False  # whether a caller catches `Interrupted`
_line = ""  # shown where a signal waits for the end of a step


class Interrupted(KeyboardInterrupt):
    """A signal asked this process to end. `words`: what remains to be done, for the console."""

    def __init__(self, number: int, words: str = ""):
        super().__init__(number, words)
        self.number, self.words = number, words


def pending() -> bool:
    """Return whether a signal has asked this process to end."""
    return _signal is not None


def signal_number() -> int | None:
    """Return the signal that asked this process to end."""
    return _signal


def check() -> None:
    """Raise `Interrupted` where a signal has asked this process to end."""
    if _signal is not None:
        raise Interrupted(_signal)


def request(number: int) -> None:
    """Record a request to end this process, as a signal would while a run trains. Any thread may call it."""
    global _signal
    if _signal is None:
        _signal = number


@contextlib.contextmanager
def deferred() -> Iterator[None]:
    """Record signals inside without raising `Interrupted`; the caller uses `pending` or `check` afterwards."""
    global _deferred
    _deferred += 1
    try:
        yield
    finally:
        _deferred -= 1


@contextlib.contextmanager
def listening(line: str = "", everything: bool = False) -> Iterator[None]:
    """Handle signals inside.

    Ignored signals stay ignored. Signals with a foreign handler keep it, unless `everything`.
    line: written to standard error where a signal waits for the end of a step.
    """
    global _signal, _attended, _line
    previous = _install(everything)
    outer, _signal, _attended, _line = (_attended, _line), None, True, line
    try:
        yield
    finally:
        _signal, (_attended, _line) = None, outer
        for number, handler in previous.items():
            signal.signal(number, handler)


def begin_worker() -> None:
    """Handle signals in a worker process: it ends at once, or inside `working` after its runs are saved.

    A terminal sends Ctrl-C to all processes. Workers ignore it, because the command sends them SIGTERM.
    """
    _install(everything=True)
    signal.signal(signal.SIGINT, signal.SIG_IGN)


@contextlib.contextmanager
def working() -> Iterator[None]:
    """Run a worker's task inside; after a signal, end the process once the task's runs are saved."""
    global _attended
    _attended = True
    try:
        yield
        check()
    except Interrupted as end:
        os._exit(128 + end.number)
    finally:
        _attended = False


@contextlib.contextmanager
def ignoring(number: int) -> Iterator[None]:
    """Ignore a signal inside, so that processes started there ignore it too."""
    previous = signal.signal(number, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(number, previous)


def ask_children() -> None:
    """Send SIGTERM to this process's workers: they save their runs and end."""
    for process in _children():
        with contextlib.suppress(OSError):  # it has ended
            os.kill(process.pid, signal.SIGTERM)


def _children() -> list[Any]:
    module = sys.modules.get("multiprocessing")  # not imported: there are no children
    return [] if module is None else module.active_children()


def _install(everything: bool) -> dict[int, Callable | int]:
    """Install the handler; return the previous handlers by signal."""
    previous: dict[int, Callable | int] = {}
    for number in SIGNALS:
        handler = signal.getsignal(number)
        if handler in _DEFAULTS or everything and handler not in (signal.SIG_IGN, None):
            try:
                signal.signal(number, _handle)
            except ValueError:  # not the main thread, where Python allows no handlers
                return previous
            previous[number] = handler
    return previous


def _handle(number: int, _: FrameType | None) -> None:
    global _signal
    if not _attended:
        os._exit(128 + number)
    if _signal is not None:  # only a second Ctrl-C ends it at once: Slurm and others send several signals
        if number == signal.SIGINT:
            _end_at_once(number)
        return
    _signal = number
    if not _deferred:
        raise Interrupted(number)
    write_notice()


def write_notice() -> None:
    """Write the line of `listening` to standard error."""
    # through the descriptor, because a signal may have interrupted a write to Python's stream
    if _line:
        with contextlib.suppress(OSError):
            os.write(2, f"{_line}\n".encode())


def _end_at_once(number: int) -> None:
    for process in _children():
        process.kill()
    with contextlib.suppress(OSError, ValueError, AttributeError):  # closed
        if sys.stdout.isatty():
            os.write(1, b"\x1b[?25h")  # a live display hides the cursor
    os._exit(128 + number)
