"""The server that workers are forked from, and what a process does before its first run so that it is quick."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.shared.marks import quick

linux = pytest.mark.skipif(sys.platform != "linux", reason="what the system's C library has")


def said(tmp_path: Path, script: str, *words: str, **environment: str) -> str:
    (tmp_path / "script.py").write_text(script)
    command = [sys.executable, "script.py", *words]
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, env=os.environ | environment, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


SERVER = """
import multiprocessing, os, sys

def answer(pipe):
    pipe.send((os.environ.get("OMP_NUM_THREADS"), [name in sys.modules for name in ("torch", "matplotlib")]))

if __name__ == "__main__":
    from runner.sweep.workers.forkserver import prepare
    prepare()
    context = multiprocessing.get_context("forkserver")
    mine, its = context.Pipe()
    worker = context.Process(target=answer, args=[its])
    worker.start()
    assert mine.poll(60)
    print(*mine.recv(), "torch" in sys.modules, os.environ.get("OMP_NUM_THREADS"))
    worker.join()
"""


def test_workers_begin_with_what_they_need(tmp_path):
    """torch and what a report needs is loaded in the server, with one OpenMP thread; here nothing is."""
    assert said(tmp_path, SERVER) == "1 [True, True] False None"


FAULTS = """
import resource, torch
from runner.core.startup import malloc
def faults(megabytes):
    for _ in range(40):
        torch.ones(megabytes << 18)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        torch.ones(megabytes << 18)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
before = faults(40)
malloc.keep()
print(before > 1000, faults(40) < 1000)
"""


@quick
@linux
def test_memory_is_kept(tmp_path):
    """Blocks of 40 MB come back without a fault a page; where the user set an own limit, it stays."""
    assert said(tmp_path, FAULTS) == "True True"
    assert said(tmp_path, FAULTS, MALLOC_MMAP_THRESHOLD_="1000000") == "True False"


TWICE = """
import sys
from runner.__main__ import main
if __name__ == "__main__":
    words = "epochs=1", "data.limit=200", "log.images=0", "threads=2", "model=convnet"
    codes = [main(list(words)), main(["-m", *words, "seed=1,2", "hydra.launcher.workers=1"])]
    codes.append(main([*words, "seed=3", "hydra.launcher.timeout=60"]))
    print(codes)
"""


def test_workers_of_a_process_that_has_trained(tmp_path):
    """Whose OpenMP threads do not live on in a fork: runs in it would wait for ever. A lone run in a worker, too."""
    assert said(tmp_path, TWICE).endswith("[0, 0, 0]")


def test_a_lone_run_in_a_worker(tmp_path):
    """Planning has used torch by the time it is started."""
    words = "model=convnet", "epochs=1", "data.limit=400", "log.images=0", "threads=2", "hydra.launcher.timeout=60"
    script = (
        "import sys\nfrom runner.__main__ import main\nif __name__ == '__main__':\n    sys.exit(main(sys.argv[1:]))\n"
    )
    assert "done" in said(tmp_path, script, *words)
