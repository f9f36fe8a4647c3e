"""The server that workers are forked from, and what a process does before its first run so that it is quick."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

linux = pytest.mark.skipif(sys.platform != "linux", reason="what the system's C library has")

SERVER = """
import logging, multiprocessing, os, sys, threading

def ask(pipe):
    import torch
    files = f"/proc/{os.getppid()}/fd"  # the server's
    open_there = any("held.txt" in os.readlink(f"{files}/{name}") for name in os.listdir(files))
    if "held" in globals():
        globals()["held"].close()  # what is left of it there; it must not close the pipe
    print("said by a worker", flush=True)
    logging.warning("logged by a worker")
    threads, report = os.environ.get("OMP_NUM_THREADS"), "matplotlib" in sys.modules
    pipe.send((getattr(torch, "seen_by", None), threads, report, open_there))

if __name__ == "__main__":
    if "fork" in sys.argv:
        import torch
        torch.seen_by = os.getpid()
    if "thread" in sys.argv:
        threading.Thread(target=threading.Event().wait, daemon=True).start()
    from runner.sweep.server import prepare
    sys.stdout.write("buffered ")
    held = sys.stdout = open("held.txt", "w")  # as who captures what is printed has it
    logging.basicConfig(stream=held)
    prepare(fork="fork" in sys.argv)
    sys.stdout = sys.__stdout__
    context = multiprocessing.get_context("forkserver")
    mine, its = context.Pipe()
    worker = context.Process(target=ask, args=[its])
    worker.start()
    assert mine.poll(60)
    seen, threads, report, held = mine.recv()
    worker.join()
    print(seen == os.getpid(), threads, report, held)
"""


def said(tmp_path: Path, script: str, *words: str, **environment: str) -> str:
    (tmp_path / "script.py").write_text(script)
    command = [sys.executable, "script.py", *words]
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, env=os.environ | environment, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@linux
@pytest.mark.parametrize(
    ("words", "forked"),
    [(["fork"], True), ([], False), (["fork", "thread"], False)],
    ids=["a fork", "new", "beside a thread"],
)
def test_the_server_is_a_fork_where_that_is_safe(tmp_path, words, forked):
    """It has what is loaded here, none of the files that are open here, and what a report needs; else it is new. What
    workers say goes where a new process's words would."""
    assert said(tmp_path, SERVER, *words) == f"buffered said by a worker\n{forked} 1 True False"


FAULTS = """
import resource, torch
from runner import memory
def faults(megabytes):
    for _ in range(40):
        torch.ones(megabytes << 18)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        torch.ones(megabytes << 18)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
before = faults(40)
memory.keep()
print(before > 1000, faults(40) < 1000)
"""


@linux
def test_memory_is_kept(tmp_path):
    """Blocks of 40 MB come back without a fault a page; where the user set an own limit, it stays."""
    assert said(tmp_path, FAULTS) == "True True"
    assert said(tmp_path, FAULTS, MALLOC_MMAP_THRESHOLD_="1000000") == "True False"


LIBRARIES = """
import sys, threading
from runner import libraries
libraries.load()
for thread in threading.enumerate():
    if thread is not threading.main_thread():
        thread.join()
print("libtorch_cpu" in open("/proc/self/maps").read(), "torch" in sys.modules, end=" ")
import torch
libraries.load()
print(threading.active_count(), float(torch.ones(3).sum()))
"""


@linux
def test_torchs_libraries_are_there_before_torch_is_asked_for(tmp_path):
    assert said(tmp_path, LIBRARIES) == "True False 1 3.0"


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
