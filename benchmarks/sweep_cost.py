"""What a run of a sweep costs beside its training: tracking, ledger, Hydra's job, hand-over to a worker process.

    python benchmarks/sweep_cost.py [--rounds 40] [--repeats 3]

`mlp` for one epoch on the digits, one thread. The first three rows are medians in one warm process, interleaved: a
session alone (training, checkpoint, validation, test), with TensorBoard, and as the task executes it (`result.json`,
`config.yaml`, settings of the process). The last two are whole sweeps of 8 and of 72 runs: the difference of what they
tell of themselves, over 64. That counts the report's share of a run, and leaves out start-up and plan; their CPU
seconds are those of all processes of the whole commands, plan included.
"""

import argparse
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

import torch
from descendants import cpu_seconds
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from runner.build.check import check
from runner.core.listener import Listener
from runner.sweep.compose.explain import CONF
from runner.task.job import Job
from runner.task.resources import Resources
from runner.task.session import Session

WORDS = ["model=mlp", "epochs=1", "threads=1", "device=cpu"]
FEW, MANY = 8, 72


def config_of(seed: int, tensorboard: bool) -> dict:
    """A checked config, as the command line makes it."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("config", [*WORDS, f"seed={seed}", f"log.tensorboard={str(tensorboard).lower()}"])
    return check(OmegaConf.to_container(config, resolve=True))


Cost = tuple[float, float]  # seconds by the wall clock, and of the CPU


def session_cost(config: dict, builder: Resources) -> Cost:
    """A run without the files of the ledger."""
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter(), time.process_time()
        with Session(job_of(folder, config), builder, torch.device("cpu"), Listener()) as session:
            session.facts()
            session.outcome()
        return time.perf_counter() - start[0], time.process_time() - start[1]


def task_cost(config: dict, builder: Resources) -> Cost:
    """A run as a worker executes it."""
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter(), time.process_time()
        result = builder.task(config).execute(job_of(folder, config), builder, Listener())
        cost = time.perf_counter() - start[0], time.process_time() - start[1]
    if result["status"] != "done":
        raise SystemExit(result["reason"])
    return cost


def job_of(folder: str, config: dict) -> Job:
    return Job(Path(folder), config, "0", "0", [], {}, {}, "", 1)


def launcher_cost(workers: int) -> Cost:
    """A run's share of a sweep."""
    told = []
    for runs in (FEW, MANY):
        seeds = ",".join(map(str, range(runs)))
        command = [sys.executable, "-m", "runner", "-m", *WORDS, f"seed={seeds}", f"hydra.launcher.workers={workers}"]
        with tempfile.TemporaryDirectory() as folder:
            before = cpu_seconds()
            done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
            taken = cpu_seconds() - before
        found = re.search(rf"{runs} runs: {runs} done; ([\d.]+) s", done.stdout)
        if found is None:
            raise SystemExit(f"{done.stdout[-2000:]}{done.stderr[-4000:]}")
        told.append((float(found[1]), taken))
    return tuple((many - few) / (MANY - FEW) for few, many in zip(*told, strict=True))


def middle(costs: Iterable[Cost]) -> Cost:
    """Medians, in milliseconds."""
    return tuple(1000 * statistics.median(column) for column in zip(*costs, strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=40, help="of the rows in one process")
    parser.add_argument("--repeats", type=int, default=3, help="of the sweeps")
    given = parser.parse_args()
    torch.set_num_threads(1)
    builder, rounds = Resources(), []
    for seed in range(given.rounds + 1):
        shown, bare = config_of(seed, True), config_of(seed, False)
        rounds.append((session_cost(bare, builder), session_cost(shown, builder), task_cost(shown, builder)))
    rows = [middle(costs) for costs in zip(*rounds[1:], strict=True)]
    sweeps = [[launcher_cost(workers) for workers in (0, 1)] for _ in range(given.repeats)]
    rows += [middle(costs) for costs in zip(*sweeps, strict=True)]
    names = ("session", "with TensorBoard", "as a task", "in a sweep, workers=0", "in a sweep, workers=1")
    lines = ["| a run of mlp on digits, one epoch | ms | more than the session | CPU ms | more |", "|---" * 5 + "|"]
    for name, (wall, cpu) in zip(names, rows, strict=True):
        more = wall - rows[0][0], cpu - rows[0][1]
        lines.append(f"| {name} | {wall:.0f} | {more[0]:.0f} | {cpu:.0f} | {more[1]:.0f} |")
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
