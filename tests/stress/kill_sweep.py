"""Kills a sweep (of 12 runs) at random moments, types its command again, and compares with an undisturbed sweep.

    python tests/stress/kill_sweep.py [--kills 20] [--seed 0] [--folder DIR] [--fuse true|auto|false] [--seeds 2]

Each time the parent, one worker, or every process of the sweep is killed (SIGKILL), in turn. Rounds go on until so many
kills have hit; each round ends with the command typed until it exits with 0. Then every run's result (but for times and
memory), metrics.csv and weights must be those of the undisturbed sweep, bit for bit, and no run is there twice. With
`--fuse auto` what the undisturbed sweep's trial decided stands for all: another one may see it otherwise.
"""

import argparse
import csv
import json
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
import torch

SWEEP = [
    *("-m", "model=mlp", "optimizer=sgd,adam,rmsprop", "schedule=constant,cosine", "epochs=30"),
    *("regularization=[dropout,label_smoothing]", "augmentation=[flip,crop]", "threads=1", "log.images=0"),
    "checkpoint.seconds=0.3",
]
TARGETS = ("parent", "worker", "all")
TIMES = {"seconds", "started", "command", "overrides", "peak_memory_mb", "fused"}  # and who was still there


def start(folder: Path, name: str, *words: str) -> subprocess.Popen:
    """The sweep, as typed."""
    command = [sys.executable, "-m", "runner", *SWEEP, *words, f"name={name}"]
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def workers(process: subprocess.Popen) -> list[psutil.Process]:
    """The processes that do runs: children of the server that the sweep forks them from."""
    try:
        children = psutil.Process(process.pid).children()
        return [worker for child in children for worker in child.children()]
    except psutil.Error:
        return []


def kill(process: subprocess.Popen, target: str, draws: random.Random) -> bool:
    """Kills the target; False where there was none any more."""
    found = workers(process)
    if process.poll() is not None or (target == "worker" and not found):
        return False
    try:
        everything = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
        chosen = {"parent": everything[:1], "worker": [draws.choice(found or [None])], "all": everything}[target]
        for one in chosen:
            one.kill()
    except psutil.Error:
        return False
    return True


def wait_for_work(process: subprocess.Popen, folder: Path, seconds: float = 60.0) -> None:
    """Until some run is under way, so that a kill hits work and not the loading of torch."""
    end = time.monotonic() + seconds
    while process.poll() is None and time.monotonic() < end and not list(folder.glob("*/lock.json")):
        time.sleep(0.02)


def results(folder: Path) -> dict[str, dict[str, Any]]:
    """What every run left, by fingerprint."""
    found: dict[str, dict[str, Any]] = {}
    for path in sorted(folder.glob("*/result.json")):
        result = json.loads(path.read_text())
        with (path.parent / "metrics.csv").open() as file:
            rows = [{key: value for key, value in row.items() if key != "seconds"} for row in csv.DictReader(file)]
        state = torch.load(path.parent / "checkpoint.pt", weights_only=True)
        assert result["fingerprint"] not in found, f"{path.parent} is there twice"
        found[result["fingerprint"]] = {
            "result": {key: value for key, value in result.items() if key not in TIMES},
            "metrics": rows,
            "weights": {name: value.numpy().tobytes() for name, value in state["members"][0].items()},
        }
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--fuse", choices=["true", "auto", "false"], default="auto")
    parser.add_argument("--seeds", type=int, default=2, help="of each of the six combinations")
    asked = parser.parse_args()
    count = 6 * asked.seeds
    words = (f"hydra.launcher.fuse={asked.fuse}", f"sweep.repeat={asked.seeds}")
    folder = asked.folder or Path(tempfile.mkdtemp())
    draws, kills, rounds, commands = random.Random(asked.seed), dict.fromkeys(TARGETS, 0), 0, 0
    began = time.monotonic()
    assert start(folder, "whole", *words).wait() == 0
    length = time.monotonic() - began
    whole = results(folder / "outputs/whole")
    assert len(whole) == count
    fused = [json.loads(path.read_text()).get("fused") for path in (folder / "outputs/whole").glob("*/result.json")]
    while sum(kills.values()) < asked.kills:
        rounds += 1
        cut, code = folder / f"outputs/cut{rounds}", None
        if (decided := folder / "outputs/whole/.fuse").is_dir():
            shutil.copytree(decided, cut / ".fuse")
        while code != 0:
            process = start(folder, cut.name, *words)
            commands += 1
            if sum(kills.values()) < asked.kills:
                wait_for_work(process, cut)
                time.sleep(draws.uniform(0, length / 4))
                target = TARGETS[sum(kills.values()) % len(TARGETS)]
                kills[target] += kill(process, target, draws)
            code = process.wait()
        found = results(cut)
        assert found.keys() == whole.keys(), "runs are missing, or too many"
        for fingerprint, expected in whole.items():
            for part in expected:
                same = found[fingerprint][part] == expected[part]
                assert same, f"{found[fingerprint]['result']['run']}: {part} differ after kills"
        assert not list(cut.glob("*/lock.json")), "a lock was left"
    told = ", ".join(
        f"{count} of the {target}" if target != "all" else f"{count} of all" for target, count in kills.items()
    )
    together = f"{sum(map(bool, fused))} of them trained together"
    sys.stdout.write(
        f"{sum(kills.values())} kills ({told}) in {rounds} rounds, {commands} commands: all {count} runs of each round "
        f"({together}) equal the undisturbed sweep bit for bit ({time.monotonic() - began:.0f} s)\n"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
