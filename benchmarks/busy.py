"""How busy a GPU is while something else runs, as nvidia-smi tells."""

import contextlib
import shutil
import subprocess
import threading
from collections.abc import Iterator

LOOK = 0.5  # seconds between two looks


@contextlib.contextmanager
def watched() -> Iterator[list[float]]:
    """Percents of the time in which the GPU did something, filled meanwhile; empty where nothing tells."""
    found: list[float] = []
    tool, ended = shutil.which("nvidia-smi"), threading.Event()

    def look() -> None:
        ask = [tool, "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits"]
        while not ended.wait(LOOK):
            told = subprocess.run(ask, capture_output=True, text=True, check=True).stdout
            found.append(max(map(float, told.split())))

    watcher = threading.Thread(target=look)
    if tool is not None:
        watcher.start()
    yield found
    ended.set()
    if tool is not None:
        watcher.join()
