"""Gain of each change to torch and the C library (`runner/core/startup/`): one command with it and without it.

    python benchmarks/startup.py --root FOLDER_OF_FASHION_MNIST [--rounds 5] [--pieces malloc kernels ...]
        [--commands 0 1 2] [--fast]

Each command runs in a process of its own, in random order with the same command without one piece, and without all of
them (RUNNER_PLAIN=1). Both figures are medians over the rounds; the ratio is the median of a round's seconds without
the piece over those with it. `--fast` takes few steps: it shows that everything works, and measures nothing.
"""

import argparse
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time

from descendants import cpu_seconds

START = "from runner.__main__ import cli; cli()"
WITHOUT = {  # piece -> statements that put the plain way in its place
    "malloc": "from runner.core.startup import malloc; malloc.keep = lambda: None",
    "optimizer wrappers": "from runner.core.startup import torch_compiler as c; c.unwrap_methods = lambda owner: None",
    "kernels": "from runner.optimizer import kernels; kernels.direct = lambda optimizer: None",
}
COMMANDS = {
    "one run of mlp, 100 epochs of digits": ["model=mlp", "epochs=100", "optimizer=momentum"],
    "8 runs of mlp as one program, 40 epochs": [
        *("-m", "model=mlp", "epochs=40", "optimizer=sgd,momentum,rmsprop,adam", "seed=0,1"),
        *("hydra.launcher.workers=0", "hydra.launcher.fuse=true"),
    ],
    "convnet, 6,400 images of Fashion-MNIST": ["data=fashion_mnist", "data.limit=6400", "epochs=1", "batch_size=128"],
}


def measure(words: list[str], statements: str, environment: dict[str, str]) -> tuple[float, float]:
    """Return wall and CPU seconds of a command in an empty folder."""
    code = f"{statements}; {START}" if statements else START
    with tempfile.TemporaryDirectory() as folder:
        before, began = cpu_seconds(), time.perf_counter()
        command = [sys.executable, "-c", code, *words]
        subprocess.run(command, cwd=folder, env=os.environ | environment, check=True, capture_output=True)
        return time.perf_counter() - began, cpu_seconds() - before


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", required=True, help="folder that holds FashionMNIST/raw")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--pieces", nargs="+", choices=list(WITHOUT), default=list(WITHOUT))
    parser.add_argument("--commands", nargs="+", type=int, choices=range(len(COMMANDS)), default=range(len(COMMANDS)))
    parser.add_argument("--fast", action="store_true")
    options = parser.parse_args()
    cases = {"all of them": ("", {})}
    cases |= {f"without {piece}": (WITHOUT[piece], {}) for piece in options.pieces}
    cases["RUNNER_PLAIN=1"] = "", {"RUNNER_PLAIN": "1"}
    for title, words in (list(COMMANDS.items())[number] for number in options.commands):
        words = [*words, "threads=1", *([f"data.root={options.root}"] if "data=fashion_mnist" in words else [])]
        words += ["epochs=1", "data.limit=640"] if options.fast else []
        words = list({word.partition("=")[0]: word for word in words}.values())
        seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in cases}
        for number in range(1 if options.fast else options.rounds):
            for name in random.Random(number).sample(list(cases), len(cases)):  # the order must not matter
                seconds[name].append(measure(words, *cases[name]))
        print(f"\n{title}\n{'':28}{'seconds':>9}{'CPU s':>9}{'ratio':>9}{'CPU ratio':>11}")  # noqa: T201
        for name, pairs in seconds.items():
            wall, cpu = (statistics.median(values) for values in zip(*pairs))
            ratios = [
                statistics.median(a[i] / b[i] for a, b in zip(pairs, seconds["all of them"], strict=True))
                for i in (0, 1)
            ]
            print(f"{name:28}{wall:9.2f}{cpu:9.2f}{ratios[0]:9.2f}{ratios[1]:11.2f}", flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
