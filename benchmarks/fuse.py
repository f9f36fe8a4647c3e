"""Runs that share a program against the same runs one after the other: time, memory, and the whole loop.

    python benchmarks/fuse.py [--device cuda] [--models mlp convnet resnet20] [--largest 64] [--rounds 3] [--fast]

N runs of one network, with four optimizers as in a sweep (sgd, momentum, rmsprop, adam), each with its own seed. A step
is the loop's own (`runner.train.loop.step`): batch, forward, backward, update, counting, logs every 50 steps;
validation is left
out. Fused and alone take turns in one warm process; medians over the rounds. On the CPU with one thread it is CPU
time, so that a busy machine disturbs little; on a GPU the wall clock, synchronised. Of many runs four are measured
alone, one an optimizer, which are the same for each. Memory is what PyTorch's allocator held at its peak from the
building of the runs to their second step; their data, which they share, is not counted.

The whole loop is 32 runs of mlp on digits, 20 epochs: everything that a run does between its first step and its last
(validation, TensorBoard, metrics.csv, best weights, checkpoints), and the whole command. `--fast` is tiny: it shows
that everything works, and measures nothing. The picture of all models goes to docs/pictures/fuse.png, unless `--fast`.
"""

import argparse
import contextlib
import itertools
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from feature_cache import config_of
from loop_overhead import measured
from matplotlib.figure import Figure
from newton_cost import peak_bytes
from sweep import Case, runner

from runner.core.listener import Listener
from runner.core.seeds import generator
from runner.core.timing import timed
from runner.data.splits import ResidentSplit, Splits
from runner.execution.compile import compile_if_configured
from runner.execution.eager import EagerProgram
from runner.execution.fused.program import FusedProgram
from runner.task.job import Job
from runner.task.resources import Resources
from runner.task.session import Session
from runner.train.loop import step, train
from runner.train.program import Program
from runner.train.state import TrainState

OPTIMIZERS = ("sgd", "momentum", "rmsprop", "adam")
COLOURS = {"mlp": "#0072b2", "convnet": "#d55e00", "resnet20": "#009e73"}
PICTURE = Path(__file__).parent.parent / "docs" / "pictures" / "fuse.png"
STEPS = {"mlp": 20, "convnet": 10, "resnet20": 2}  # of one measurement; a log every 50
HEAD = "| model | runs | alone, ms a run and step | fused | times | a run alone, MB | all fused, MB |"

Row = tuple[str, int, float, float, float, float, float]


def images32(count: int, device: torch.device) -> Splits:
    """Noise of 3x32x32 in ten classes."""
    draws = torch.Generator().manual_seed(0)

    def split(images: int) -> ResidentSplit:
        pixels = torch.randint(0, 256, (images, 3, 32, 32), generator=draws, dtype=torch.uint8)
        return ResidentSplit(pixels, torch.arange(images) % 10).to(device)

    half = torch.full((3,), 0.5)
    return Splits(split(count), None, split(64), tuple("0123456789"), "0" * 64, half, half / 2, 32)


def configs_of(count: int, words: list[str]) -> list[dict]:
    """Of runs with seeds and optimizers of their own; those of one optimizer side by side, as in a sweep's plan."""
    names = sorted(itertools.islice(itertools.cycle(OPTIMIZERS), count), key=OPTIMIZERS.index)
    made = {name: config_of([*words, "threads=1", f"optimizer={name}"]) for name in dict.fromkeys(names)}
    return [made[name] | {"seed": seed} for seed, name in enumerate(names)]


def runs_of(model: str, count: int, device: torch.device, builder: Resources, more: list[str]) -> list[TrainState]:
    """Runs that are ready to train."""
    common = [f"model={model}", "epochs=10000", f"device={device}", "data.val_fraction=0", *more]
    runs = []
    for config in configs_of(count, common):
        if runs:
            splits = runs[0].parts.splits  # that they share
        else:
            splits = images32(2048, device) if model == "resnet20" else builder.splits(config, device)
        noise = generator(config["seed"], "noise", device)
        parts = builder.parts(config, splits, device, noise)
        runs.append(compile_if_configured(TrainState(config, parts, device, noise)))
    for run in runs:
        run.train_mode()
    return runs


def seconds(work: Callable[[], object], device: torch.device) -> float:
    """Of the CPU, where one thread works on it; else by the clock."""
    if device.type == "cpu" and torch.get_num_threads() == 1:
        began = time.process_time()
        work()
        return time.process_time() - began
    return timed(work, device)[1]


def steps(runs: list[TrainState], program: Program, count: int) -> None:
    for _ in range(count):
        step(runs, program)


def held(work: Callable[[], object], device: torch.device) -> float:
    """Megabytes at the peak of the work, above what was there."""
    if device.type != "cuda":
        return peak_bytes(work) / 1e6
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    work()
    return (torch.cuda.max_memory_allocated(device) - before) / 1e6


def speeds(
    model: str, count: int, device: torch.device, rounds: int, length: int, builder: Resources, more: list[str]
) -> tuple[float, float, float]:
    """Seconds a run and step alone and fused, and how many times faster."""
    lone = runs_of(model, count, device, builder, more)[:: max(1, count // len(OPTIMIZERS))]
    together = runs_of(model, count, device, builder, more)
    program = FusedProgram(together)

    def alone() -> float:
        return (
            sum(seconds(lambda run=run: steps([run], EagerProgram(), length), device) for run in lone)
            / len(lone)
            / length
        )

    def fused() -> float:
        return seconds(lambda: steps(together, program, length), device) / len(together) / length

    (shared, single), ratio = measured(rounds, fused, alone)
    return single, shared, ratio


def memory(model: str, count: int, device: torch.device, builder: Resources, more: list[str]) -> float:
    """Megabytes of so many runs that share a program, or of one alone."""

    def build() -> None:
        runs = runs_of(model, count, device, builder, more)
        steps(runs, FusedProgram(runs) if count > 1 else EagerProgram(), 2)

    return held(build, device)


def whole_loop(fused: bool, count: int, epochs: int, device: torch.device, builder: Resources) -> float:
    """Seconds from the first step to the last of runs with all that a run does besides."""
    with contextlib.ExitStack() as stack:
        sessions = []
        for config in configs_of(count, ["model=mlp", f"epochs={epochs}", f"device={device}"]):
            folder = stack.enter_context(tempfile.TemporaryDirectory())
            job = Job(Path(folder), config, "0", "0", [], {}, {}, "", 1)
            sessions.append(stack.enter_context(Session(job, builder, device, Listener())))
        runs = [session.run for session in sessions]
        if fused:
            return seconds(lambda: train(runs, FusedProgram(runs)), device)
        return sum(seconds(lambda run=run: train([run], EagerProgram()), device) for run in runs)


def whole_command(fuse: bool, runs: int, epochs: int, device: torch.device) -> float:
    """CPU seconds of a sweep as it is typed, or wall seconds on a GPU."""
    seeds = ",".join(map(str, range(runs // len(OPTIMIZERS))))
    words = ["-m", "model=mlp", f"optimizer={','.join(OPTIMIZERS)}", f"seed={seeds}", f"epochs={epochs}", "threads=1"]
    words += [f"device={device}", "hydra.launcher.workers=0", f"hydra.launcher.fuse={str(fuse).lower()}"]
    case = Case("", [runner(words)], runs)
    case.measure()
    return case.cpu[-1] if device.type == "cpu" else case.wall[-1]


def draw(rows: list[Row], device: torch.device) -> None:
    """Times and memory against the number of runs."""
    figure = Figure(figsize=(12, 4.2), layout="constrained")
    panels = figure.subplots(1, 2)
    for model in dict.fromkeys(row[0] for row in rows):
        mine = [row for row in rows if row[0] == model]
        counts = [row[1] for row in mine]
        panels[0].plot(counts, [row[4] for row in mine], "o-", color=COLOURS[model], label=model)
        panels[1].plot(counts, [row[6] / row[5] for row in mine], "o-", color=COLOURS[model], label=model)
    counts = sorted({row[1] for row in rows})
    panels[0].axhline(1, color="#697077", linewidth=1, linestyle="--")
    panels[0].set_ylabel(f"times faster than alone, {device.type}")
    panels[1].plot(counts, counts, color="#697077", linewidth=1, linestyle="--", label="as many as runs")
    panels[1].set_ylabel("memory, times that of one run")
    panels[1].set_yscale("log", base=2)
    panels[1].yaxis.set_major_formatter("{x:g}")
    for panel in panels:
        panel.set_xscale("log", base=2)
        panel.set_xticks(counts, [str(count) for count in counts])
        panel.set_xlabel("runs that share a program")
        panel.grid(color="#dfe3e8", linewidth=0.6)
        panel.spines[["top", "right"]].set_visible(False)
        panel.legend(frameon=False)
    panels[0].set_ylim(bottom=0)
    figure.savefig(PICTURE, dpi=90)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    parser.add_argument("--models", nargs="+", choices=list(STEPS), default=list(STEPS))
    parser.add_argument("--largest", type=int, default=64, help="runs, at most")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--fast", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(1)
    builder, rows = Resources(), []
    say, rounds = sys.stdout.write, 1 if given.fast else given.rounds
    say(f"{HEAD}\n{'|---' * HEAD.count(' | ')}|---|\n")
    for model in given.models:
        more = ["batch_size=16"] if model == "resnet20" and given.device.type == "cpu" else []
        most = min(given.largest, 2 if given.fast else 8 if more else 64)
        for count in (2**i for i in range(most.bit_length())):
            length = 1 if given.fast else STEPS[model]
            single, shared, ratio = speeds(model, count, given.device, rounds, length, builder, more)
            small, large = (memory(model, some, given.device, builder, more) for some in (1, count))
            rows.append((model, count, single, shared, ratio, small, large))
            say(f"| {model} | {count} | {single * 1e3:.3f} | {shared * 1e3:.3f} | {ratio:.2f} | ")
            say(f"{small:.1f} | {large:.1f} |\n")
            sys.stdout.flush()
    if "mlp" in given.models:
        count, epochs = (8, 2) if given.fast else (32, 20)
        loops = [lambda fused=fused: whole_loop(fused, count, epochs, given.device, builder) for fused in (True, False)]
        commands = [lambda fuse=fuse: whole_command(fuse, count, epochs, given.device) for fuse in (True, False)]
        say(f"\n| {count} x mlp on digits, {epochs} epochs | alone, s | fused, s | times |\n|---|---|---|---|\n")
        (fused, alone), ratio = measured(min(rounds, 2), *loops)
        say(f"| the whole loop | {alone:.2f} | {fused:.2f} | {ratio:.2f} |\n")
        fused, alone = (command() for command in commands)
        say(f"| the whole command, workers=0 | {alone:.2f} | {fused:.2f} | {alone / fused:.2f} |\n")
    clock = "CPU seconds of one thread" if given.device.type == "cpu" else "seconds by the clock"
    say(f"\n{given.device.type}, {clock}, torch {torch.__version__}, {rounds} round(s)\n")
    if not given.fast and len(given.models) == len(STEPS):
        draw(rows, given.device)


if __name__ == "__main__":
    main()
