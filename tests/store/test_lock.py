"""Locks of runs: one holder, dead processes, leases of other hosts, progress."""

import os
import subprocess
import sys
import threading
import time

from runner.core.listener import Listener
from runner.store import lock
from tests.shared.sweeps import said


def test_one_holds_a_lock(tmp_path):
    """Of many at once exactly one gets it; then the next may."""
    held, start = [], threading.Barrier(8)

    def ask() -> None:
        mine = lock.Lock(tmp_path / "run")
        start.wait()
        with mine as got:
            held.append(got is not None)
            start.wait()

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(held) == 1
    with lock.Lock(tmp_path / "run") as got:
        assert got is not None
    assert lock.holder(tmp_path / "run") is None


def test_the_lock_of_a_dead_process_is_taken_over(tmp_path):
    """A pid that is gone, or that another process has by now; on this host alone."""
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    run = tmp_path / "run"
    said(run)
    assert lock.holder(run) is not None
    for changes in ({"pid": gone.pid}, {"started": 1.0}):
        said(run, **changes)
        assert lock.holder(run) is None
        with lock.Lock(run) as got:
            assert got is not None
    (run / lock.FILE).write_text('{"host": ')  # half-written
    assert lock.holder(run) is None


def test_another_hosts_lock_is_a_lease(tmp_path, monkeypatch):
    """As long as its heart beats it is held, whatever its pid; a minute without a beat, and it is taken over."""
    run = tmp_path / "run"
    said(run, host="elsewhere", pid=1, started=1.0)
    assert lock.holder(run) is not None
    past = time.time() - lock.LEASE - 5
    os.utime(run / lock.FILE, (past, past))
    assert lock.holder(run) is None
    monkeypatch.setattr(lock, "LEASE", 1000.0)
    assert lock.holder(run) is not None
    assert [path.name for path in run.iterdir()] == [lock.FILE], "the probe of the clock was left"


def test_a_lock_tells_how_far_the_run_is(tmp_path, monkeypatch):
    """The file has step and numbers, and its beat makes it new; who listens hears it too."""
    monkeypatch.setattr(lock, "BEAT", 0.02)
    heard = []

    class Ear(Listener):
        def progress(self, step, steps, numbers):
            heard.append((step, steps))

    with lock.Lock(tmp_path, Ear()) as held:
        held.progress(3, 10, {"epoch": 1, "val_loss": float("nan"), "val_accuracy": 0.5})
        deadline = time.monotonic() + 10
        while "step" not in lock.read(tmp_path) and time.monotonic() < deadline:
            time.sleep(0.01)
        now = lock.read(tmp_path)
    assert heard == [(3, 10)]
    assert (now["step"], now["steps"], now["numbers"]) == (3, 10, {"epoch": 1, "val_accuracy": 0.5})
