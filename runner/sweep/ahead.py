"""Compositions that a second process makes while this one loads torch. Light."""

import contextlib
import os
import pickle
import struct
import sys
import tempfile
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
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - open until the other process has ended
        parent = os.getpid()
        self._process = os.fork()
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
                    self._file.write(LENGTH.pack(len(content)) + content)
                    self._file.flush()
        finally:
            os._exit(0)

    def take(self, question: Any) -> Any | None:
        """The answer, once; None where there is none."""
        self._look()
        found = self._found.pop(question, None)
        return None if found is None else pickle.loads(found)  # noqa: S301 - this program's own

    def _look(self) -> None:
        """Reads what has been answered by now."""
        while self._process:
            ended = os.waitpid(self._process, os.WNOHANG)[0]  # before the last look
            while content := self._record():
                question, answer = pickle.loads(content)  # noqa: S301 - this program's own
                self._found[question] = answer
            if not ended:
                return
            self._process = None
            self._file.close()

    def _record(self) -> bytes | None:
        """The next one, if all of it is there."""
        descriptor = self._file.fileno()  # whose position is the other process's, too
        head = os.pread(descriptor, LENGTH.size, self._read)
        if len(head) < LENGTH.size:
            return None
        content = os.pread(descriptor, *LENGTH.unpack(head), self._read + LENGTH.size)
        if len(content) < LENGTH.unpack(head)[0]:
            return None
        self._read += LENGTH.size + len(content)
        return content
