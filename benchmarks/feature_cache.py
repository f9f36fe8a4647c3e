"""What the feature cache gains: a sweep of 8 heads (4 optimizers x 2 rates) on frozen stages, with and without it.

    python benchmarks/feature_cache.py --root FOLDER_OF_PHOTOS --weights FILE.pth [--model squeezenet1_1]
        [--size 224] [--epochs 10] [--threads 1] [--command] [--depths]

`training` is the loop's time, validation after each epoch included, and with the cache all that it needs: trying the
cut, computing, keeping and checking activations, from an empty folder; then, as in any sweep, a trial of whether the
heads are trained as one program, and that. `one by one` is with the cache and without that. `again` is the same sweep
in a process that finds the files. Each row is one measurement of both; on a busy machine read the CPU's seconds.
`--command` measures whole commands as a user types them: start-up, tests, pictures, report. `--depths` sweeps
freeze_depth.
"""

import argparse
import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from descendants import cpu_seconds
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from runner.build.check import check
from runner.core.listener import Listener
from runner.execution.choose.fused import choose_fused
from runner.execution.eager import EagerProgram
from runner.execution.features.cache import use_feature_cache
from runner.sweep.compose.explain import CONF
from runner.task import training
from runner.task.job import Job
from runner.task.resources import Resources
from runner.task.session import Session
from runner.train.loop import train
from runner.train.slot import NOISE, Slot

OPTIMIZERS, RATES = ("sgd", "adam", "rmsprop", "adagrad"), ("0.3", "1")
HEADS = [(f"optimizer={name}", f"lr_scale={rate}") for name in OPTIMIZERS for rate in RATES]
CASES = {"no augmentation": "augmentation=[]", "flip": "augmentation=[flip]"}


class Stopwatch:
    """Adds up the seconds inside of `running()`."""

    def __init__(self) -> None:
        self.wall = self.cpu = 0.0

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        wall, cpu = time.perf_counter(), time.process_time()
        yield
        self.wall += time.perf_counter() - wall
        self.cpu += time.process_time() - cpu


def config_of(overrides: list[str]) -> dict:
    """A checked config, as the command line makes it."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return check(OmegaConf.to_container(compose("config", overrides), resolve=True))


def sweep(common: list[str], heads: list[tuple[str, ...]], fuse: bool = False) -> tuple[Stopwatch, list[float]]:
    """The time that training takes, and each head's last validation loss. fuse: as one program, if a trial says so."""
    builder, watch, losses = Resources(), Stopwatch(), []

    def timed(*arguments: Any) -> str:
        with watch.running():
            return use_feature_cache(*arguments)

    for group in [heads] if fuse else [[head] for head in heads]:
        with contextlib.ExitStack() as stack:
            stack.enter_context(mock.patch.object(training, "use_feature_cache", timed))
            runs = []
            for row, head in enumerate(group):
                folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
                job = Job(folder, config_of([*common, *head]), "0", "0", [], {}, {}, "", torch.get_num_threads())
                runs.append(stack.enter_context(Session(job, builder, torch.device("cpu"), Listener())).run)
                runs[-1].slot = Slot(row, len(group), NOISE) if fuse else None  # one seed: as a sweep's plan has it
            with watch.running():
                decision, program = choose_fused(runs, must=False) if fuse else (None, None)
                for some in [runs] if program is not None else [[run] for run in runs]:
                    train(some, program or EagerProgram())
            if decision is not None:
                sys.stderr.write(f"{len(runs)} heads: {decision.reason}\n")
            losses += [run.progress.history[-1]["val_loss"] for run in runs]
    return watch, losses


def command(words: list[str]) -> Stopwatch:
    """A command's time, its children's seconds of the CPU included."""
    watch, before = Stopwatch(), cpu_seconds()
    with tempfile.TemporaryDirectory() as folder, watch.running():
        subprocess.run([sys.executable, "-m", "runner", *words], cwd=folder, check=True, capture_output=True)
    watch.cpu = cpu_seconds() - before
    return watch


def line(name: str, plain: Stopwatch, cached: Stopwatch) -> None:
    """A row of the table, told at once: the next takes minutes."""
    sys.stdout.write(
        f"| {name} | {plain.wall:.1f} | {cached.wall:.2f} | {plain.wall / cached.wall:.0f} | "
        f"{plain.cpu:.1f} | {cached.cpu:.2f} | {plain.cpu / cached.cpu:.0f} |\n"
    )
    sys.stdout.flush()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", required=True, help="folder of photos, a folder a class")
    parser.add_argument("--model", default="squeezenet1_1", help="an option of model=")
    parser.add_argument("--weights", required=True, help="file of its weights")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--command", action="store_true")
    parser.add_argument("--depths", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    words = [
        *("data=image_folder", f"data.root={Path(arguments.root).resolve()}"),
        *(f"data.resize={arguments.size * 8 // 7}", f"data.size={arguments.size}", f"epochs={arguments.epochs}"),
        *(f"model={arguments.model}", "transfer=last_layer", f"transfer.weights={Path(arguments.weights).resolve()}"),
        f"threads={arguments.threads}",
    ]
    sys.stdout.write(
        "| sweep | s without | s with | ratio | CPU s without | CPU s with | ratio |\n" + "|---" * 7 + "|\n"
    )
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_CACHE_HOME"] = folder
        sweep([*words, "epochs=1", "transfer.cache=false"], HEADS[:1])  # decodes the photos, warms the process up
        for name, augmentation in CASES.items():
            plain, wanted = sweep([*words, augmentation, "transfer.cache=false"], HEADS)
            for way, fuse in (("training", True), ("training, one by one", False)):
                for more in ("", ", again"):
                    cached, found = sweep([*words, augmentation, "transfer.cache=true"], HEADS, fuse)
                    line(f"8 heads, {name}: {way}{more}", plain, cached)
                far = max(abs(a - b) / b for a, b in zip(found, wanted, strict=True))
                sys.stdout.write(
                    f"| largest relative difference of the last validation losses: {far:.1g} |" + " |" * 6 + "\n"
                )
                for path in Path(folder).rglob("features-*"):
                    path.unlink()
        if arguments.depths:
            depths = [(f"transfer.freeze_depth={depth}", f"seed={seed}") for depth in ("all", 3, 2) for seed in (0, 1)]
            plain, _ = sweep([*words, "transfer.cache=false"], depths)
            cached, _ = sweep([*words, "transfer.cache=true"], depths)
            line("freeze_depth=all,3,2 x 2 seeds: training", plain, cached)
    if arguments.command:
        swept = ["-m", *words, f"optimizer={','.join(OPTIMIZERS)}", f"lr_scale={','.join(RATES)}"]
        for name, augmentation in CASES.items():
            with tempfile.TemporaryDirectory() as folder:
                os.environ["XDG_CACHE_HOME"] = folder
                command([*words, "dry_run=true"])  # decodes the photos
                plain = command([*swept, augmentation, "transfer.cache=false"])
                cached = command([*swept, augmentation])
            line(f"8 heads, {name}: the whole command", plain, cached)
    sys.stdout.write(
        f"\n{arguments.model}, {arguments.size} pixels, {arguments.epochs} epochs, {arguments.threads} thread(s), "
        f"torch {torch.__version__}\n"
    )


if __name__ == "__main__":
    main()
