"""Signals that ask this process to end, so that it saves what it trains first. Imports no torch.

While a run trains, the handler only notes the signal: the loop asks `pending` between two steps, where a checkpoint can
be taken. At any other moment `Interrupted` is raised at once. A second Ctrl-C ends the process and its workers.
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
EXIT_CODES = frozenset(128 + number for number in SIGNALS)  # as a shell counts them
PATIENCE = 120.0  # seconds that processes which save their runs are waited for
_DEFAULTS = (signal.SIG_DFL, signal.default_int_handler)

_signal: int | None = None  # that asked this process to end
_deferred = 0  # nested parts that are not to be cut off
_attended = False  # whether somebody catches `Interrupted`
_line = ""  # shown where a signal has to wait


class Interrupted(KeyboardInterrupt):
    """A signal asked this process to end. `words`: what is left to do, for the console."""

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
    """Ask this process to end, as the signal would while a run trains. Any thread may call it."""
    global _signal
    if _signal is None:
        _signal = number


@contextlib.contextmanager
def deferred() -> Iterator[None]:
    """Note signals inside without raising `Interrupted`; the caller asks `pending`, or calls `check` afterwards."""
    global _deferred
    _deferred += 1
    try:
        yield
    finally:
        _deferred -= 1


@contextlib.contextmanager
def listening(line: str = "", everything: bool = False) -> Iterator[None]:
    """Handle signals inside. Ignored ones stay ignored, and so stay those that others handle, unless `everything`.

    line: written to standard error where a signal has to wait for the end of a step.
    """
    global _signal, _attended, _line
    before = _install(everything)
    outer, _signal, _attended, _line = (_attended, _line), None, True, line
    try:
        yield
    finally:
        _signal, (_attended, _line) = None, outer
        for number, handler in before.items():
            signal.signal(number, handler)


def begin_worker() -> None:
    """Handle signals in a worker process: it ends at once, or inside `working` after its runs are saved.

    Ctrl-C, which a terminal sends to all processes, is left to the command: it asks its workers with SIGTERM.
    """
    _install(everything=True)
    signal.signal(signal.SIGINT, signal.SIG_IGN)


@contextlib.contextmanager
def working() -> Iterator[None]:
    """Do a worker's task inside; end the process where a signal asked for it, when the task's runs are saved."""
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
    """Start processes inside that ignore a signal."""
    before = signal.signal(number, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(number, before)


def ask_children() -> None:
    """Ask the worker processes of this one to save their runs and to end."""
    for process in _children():
        with contextlib.suppress(OSError):  # it has ended
            os.kill(process.pid, signal.SIGTERM)


def _children() -> list[Any]:
    loaded = sys.modules.get("multiprocessing")  # else there are none
    return [] if loaded is None else loaded.active_children()


def _install(everything: bool) -> dict[int, Callable | int]:
    """Take over the signals; return the handlers that were there before."""
    before: dict[int, Callable | int] = {}
    for number in SIGNALS:
        handler = signal.getsignal(number)
        if handler in _DEFAULTS or everything and handler not in (signal.SIG_IGN, None):
            try:
                signal.signal(number, _handle)
            except ValueError:  # not the main thread: nobody can be told here
                return before
            before[number] = handler
    return before


def _handle(number: int, _: FrameType | None) -> None:
    global _signal
    if not _attended:
        os._exit(128 + number)
    if _signal is not None:  # only a person at the keyboard is in a hurry: Slurm and others send several of theirs
        if number == signal.SIGINT:
            _end_at_once(number)
        return
    _signal = number
    if not _deferred:
        raise Interrupted(number)
    tell()


def tell() -> None:
    """Write the line of `listening` to standard error: not through Python's stream, which may be in use right now."""
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
