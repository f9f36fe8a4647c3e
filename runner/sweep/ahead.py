"""Compositions that a second process makes while this one loads torch. Light."""

import contextlib
import os
import pickle
import signal
import struct
import sys
import threading
from collections.abc import Callable, Iterable
from typing import Any

from runner import libraries

LENGTH = struct.Struct("q")


class Ahead:
    """Answers of a function to questions that are known before torch is: from the last one to the first, for this
    process asks the other way round. What the other process does not get done, or could not, is simply not here."""

    def __init__(self, questions: Callable[[], Iterable[Any]], answer: Callable[[Any], Any]):
        libraries.wait()  # a lock of the system's, held by a thread while it forks, would stay so
        self._found: dict[Any, bytes] = {}
        self._read, self._process = 0, None
        torchrun = "TORCHELASTIC_RUN_ID" in os.environ
        if sys.platform != "linux" or "torch" in sys.modules or torchrun or threading.active_count() > 1:
            return
        parent = os.getpid()
        try:
            self._file = os.memfd_create("ahead")
        except (AttributeError, OSError):  # some builds of Python have none
            return
        try:
            self._process = os.fork()
        except OSError:  # no more processes for this user: it is done without
            os.close(self._file)
            return
        if self._process:
            return
        try:
            silent = os.open(os.devnull, os.O_RDWR)  # whatever there is to say, this process's parent says it
            for stream in (0, 1, 2):
                os.dup2(silent, stream)
            for question in reversed(list(questions())):
                if os.getppid() != parent:
                    break
                with contextlib.suppress(Exception):  # it is asked again
                    content = pickle.dumps((question, pickle.dumps(answer(question))))
                    with open(self._file, "ab", closefd=False) as file:
                        file.write(LENGTH.pack(len(content)) + content)
        finally:
            os._exit(0)

    def take(self, question: Any) -> Any | None:
        """The answer, once; None where there is none."""
        self._look()
        found = self._found.pop(question, None)
        return None if found is None else pickle.loads(found)  # noqa: S301 - this program's own

    def end(self) -> None:
        """Nothing more is asked."""
        if self._process:
            with contextlib.suppress(OSError):
                os.kill(self._process, signal.SIGKILL)
                os.waitpid(self._process, 0)
            self._process = None
            os.close(self._file)

    def _look(self) -> None:
        """Reads what has been answered by now."""
        while self._process and (content := self._record()):
            question, answer = pickle.loads(content)  # noqa: S301 - this program's own
            self._found[question] = answer

    def _record(self) -> bytes | None:
        """The next one, if all of it is there."""
        head = os.pread(self._file, LENGTH.size, self._read)  # without its position, which is the other process's
        if len(head) < LENGTH.size:
            return None
        content = os.pread(self._file, *LENGTH.unpack(head), self._read + LENGTH.size)
        if len(content) < LENGTH.unpack(head)[0]:
            return None
        self._read += LENGTH.size + len(content)
        return content
