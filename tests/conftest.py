"""Fixtures for every test."""

import errno
import logging
import os
import signal
from pathlib import Path

import pytest
import torch

from runner.__main__ import main

pytest.register_assert_rewrite("tests.shared")

SHARED = Path(__file__).parent.parent.parent / "shared" / "data"


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Decoded photos go to a folder of the test's own, never to the user's cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    """The suite runs in as many processes as there are cores."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="session")
def _ctrl_c() -> None:
    """A shell that puts the suite into the background has it ignore Ctrl-C; commands under test must not."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _logging() -> None:
    """No handler is left of a command that another test gave in this process, whose streams are closed by now."""
    root = logging.getLogger()
    root.handlers[:] = [handler for handler in root.handlers if type(handler) is not logging.StreamHandler]


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """The cache finds the disk full while it writes an entry."""

    def fill(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("runner.store.cache.fill", fill)


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture):
    """`cli("epochs=1") -> (exit code, output, errors)` in an empty folder, as a user types it."""
    monkeypatch.chdir(tmp_path)

    def run(*argv: str) -> tuple[int, str, str]:
        if "-m" in argv and not any(word.startswith(("hydra", "dry_run=true")) for word in argv):
            argv = (*argv, "hydra.launcher.workers=0")  # saves seconds a test; test_workers has processes
        handlers = list(logging.getLogger().handlers)
        try:
            code = main(list(argv))
        finally:  # Hydra configures the process's logging for each run
            logging.getLogger().handlers[:] = handlers
        out, err = capfd.readouterr()
        return code, out, err

    return run


@pytest.fixture(scope="session")
def shared() -> Path:
    """Real data beside the checkout; tests that need it skip where it is not."""
    if not SHARED.is_dir():
        pytest.skip("the real data sets are not beside this checkout")
    return SHARED
