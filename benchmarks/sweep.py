"""Whole sweeps from the shell, start-up and everything counted, beside peers that do the same work.

    python benchmarks/sweep.py --root FOLDER_OF_FASHION_MNIST --peers PYTHON [--parts w1 w2 digits workers ...]
        [--repeats 3] [--only runner resident] [--fast] [--runner WORD ...]

`--peers` is the interpreter of the peers' own environment (`benchmarks/peers/README.md`). The commands of a part are
run in turn, so that a busy moment strikes all of them; Python keeps the bytecode of what they import, as it does unless
told not to. A ratio is the median over the rounds of a command's seconds over the first command's in the same round.
CPU seconds are those of all processes that a command started and that have ended with it. `--fast` takes few images and
epochs: it shows that everything works, and measures nothing.
"""

import argparse
import itertools
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from descendants import cpu_seconds
from peers.common import WORKLOADS

PEERS = Path(__file__).parent / "peers"
FACTORS = {"optimizer": "optimizer", "lr_scale": "lr_scale", "weight_decay": "optimizer.weight_decay"}


@dataclass
class Case:
    """One or several commands that together do a part's work."""

    name: str
    commands: list[list[str]]
    runs: int
    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    said: list[float] = field(default_factory=list)  # seconds that the runner itself tells, without start-up and plan
    accuracies: tuple[float, float] = (0.0, 0.0)  # best validation accuracy, mean test accuracy

    def measure(self) -> None:
        """Runs the commands in a folder of their own; an error where not every combination left a result."""
        environment = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
        with tempfile.TemporaryDirectory() as folder:
            before, start, text = cpu_seconds(), time.perf_counter(), ""
            for command in self.commands:
                done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
                if done.returncode:
                    raise SystemExit(f"{' '.join(command)}\n{done.stdout[-2000:]}{done.stderr[-4000:]}")
                text += done.stdout
            self.wall.append(time.perf_counter() - start)
            self.cpu.append(cpu_seconds() - before)
            found = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
            found += [json.loads(path.read_bytes()) for path in Path(folder).glob("outputs/*/*/result.json")]
        if len(found) != self.runs:
            raise SystemExit(f"{self.name}: {len(found)} results of {self.runs}\n{text[-2000:]}")
        self.said.append(sum(float(seconds) for seconds in re.findall(r"runs?: .*; ([\d.]+) s", text)))
        tested = statistics.fmean(one["test_accuracy"] for one in found)
        self.accuracies = max(one["val_accuracy"] for one in found), tested


def runner(words: list[str]) -> list[str]:
    return [sys.executable, "-m", "runner", *words]


def workload(name: str, given: argparse.Namespace) -> list[str]:
    """The words of a workload for the runner."""
    work = WORKLOADS[name]
    factors = [f"{key}={','.join(map(str, work[factor]))}" for factor, key in FACTORS.items()]
    return [
        *("-m", f"model={work['model']}", "data=fashion_mnist", f"data.root={given.root}", "batch_size=64"),
        *(f"data.limit={_limit(name, given)}", f"epochs={work['epochs']}", "augmentation=[flip,crop]"),
        *factors,
    ]


def _limit(name: str, given: argparse.Namespace) -> int:
    return 1280 if given.fast else WORKLOADS[name]["limit"]


def beside_peers(name: str, given: argparse.Namespace) -> Iterator[Case]:
    """W1 and W2."""
    work, limit = WORKLOADS[name], _limit(name, given)
    count = len(list(itertools.product(*(work[factor] for factor in FACTORS))))
    yield Case("runner", [runner([*workload(name, given), *given.runner])], count)
    script = ["--root", given.root, "--workload", name, "--limit", str(limit)]
    swept = [f"{factor}={','.join(map(str, work[factor]))}" for factor in FACTORS]
    hydra = [f"root={given.root}", f"limit={limit}", f"model={work['model']}", f"epochs={work['epochs']}", *swept]
    peers = {
        "script, resident": ["script_resident.py", *script],
        "script, resident, channels-last": ["script_resident.py", *script, "--channels-last"],
        "script, DataLoader": ["script_dataloader.py", *script],
        "Lightning + Hydra, basic": ["lightning_hydra.py", "-m", *hydra],
        "Lightning + Hydra, joblib": [
            *("lightning_hydra.py", "-m", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2", *hydra)
        ],
        "Ray Tune, resident": ["ray_tune.py", *script, "--resident"],
        "Ray Tune, DataLoader": ["ray_tune.py", *script],
    }
    for title, (file, *words) in peers.items():
        if work["model"] == "convnet" or "channels-last" not in title:
            yield Case(title, [[given.peers, str(PEERS / file), *words]], count)


def on_digits(given: argparse.Namespace) -> Iterator[Case]:
    """16 runs as one sweep, and as 16 commands."""
    common = ["model=mlp", f"epochs={1 if given.fast else 5}"]
    work = WORKLOADS["w1"]
    swept = [f"{key}={','.join(map(str, work[factor]))}" for factor, key in FACTORS.items()]
    each = itertools.product(*([f"{key}={value}" for value in work[factor]] for factor, key in FACTORS.items()))
    yield Case("one sweep", [runner(["-m", *common, *swept, *given.runner])], 16)
    yield Case("16 commands", [runner([*common, *words]) for words in each], 16)


def on_workers(name: str, given: argparse.Namespace) -> Iterator[Case]:
    """Ways to use two cores."""
    count = len(list(itertools.product(*(WORKLOADS[name][factor] for factor in FACTORS))))
    for workers, threads in ((2, 1), (1, 1), (1, 2)):
        words = [f"hydra.launcher.workers={workers}", f"threads={threads}"]
        yield Case(f"{workers} worker(s) of {threads} thread(s)", [runner([*workload(name, given), *words])], count)


PARTS = {
    "w1": ("W1: 16 x mlp, 12,800 images, 3 epochs", lambda given: beside_peers("w1", given)),
    "w2": ("W2: 8 x convnet, 6,400 images, 1 epoch", lambda given: beside_peers("w2", given)),
    "digits": ("16 x mlp on digits, 5 epochs", on_digits),
    "workers": ("W1 by workers and threads", lambda given: on_workers("w1", given)),
    "workers_convnet": ("W2 by workers and threads", lambda given: on_workers("w2", given)),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", required=True, help="folder that holds FashionMNIST/raw")
    parser.add_argument("--peers", help="interpreter of the peers; without it they are left out")
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--only", nargs="+", help="commands whose names hold one of these words, and the first one")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--runner", nargs="+", default=[], metavar="WORD", help="further words for the runner's sweeps")
    parser.add_argument("--fast", action="store_true")
    given = parser.parse_args()
    given.root = str(Path(given.root).resolve())
    sys.stdout.write(
        "| | seconds | without start-up and plan | CPU s | times the first | best val | mean test |\n"
        + "|---" * 7
        + "|\n"
    )
    for part in given.parts:
        title, make = PARTS[part]
        cases = [case for case in make(given) if given.peers or None not in case.commands[0]]  # their interpreter
        first, *others = cases
        if given.only:
            others = [case for case in others if any(word.lower() in case.name.lower() for word in given.only)]
        for _ in range(given.repeats):
            for case in (first, *others):
                case.measure()
        sys.stdout.write(f"| **{title}** | | | | | | |\n")
        for case in (first, *others):
            sys.stdout.write(line(case, first))
        sys.stdout.flush()
    load = os.getloadavg()[2]
    sys.stdout.write(f"\n{os.cpu_count()} cores, {given.repeats} repeats, load over the last 15 minutes {load:.1f}\n")


def line(case: Case, first: Case) -> str:
    """A row of the table."""
    ratio = statistics.median(own / its for own, its in zip(case.wall, first.wall, strict=True))
    said = statistics.median(case.said)
    best, tested = case.accuracies
    return (
        f"| {case.name} | {statistics.median(case.wall):.1f} | {f'{said:.1f}' if said else ''} | "
        f"{statistics.median(case.cpu):.1f} | {ratio:.2f} | {best:.4f} | {tested:.4f} |\n"
    )


if __name__ == "__main__":
    main()
