"""Everything that a GPU is for, in one call of less than eight minutes, and one table.

    python benchmarks/gpu.py [--parts loop fuse augmentation cache sweep] [--device cuda] [--fast]

- loop: our loop (as it comes, `compile=true`, `cuda_graph=true`) beside one written by hand: resident data, the same
  network, batch, precision and optimizer, no schedule, no accuracy, no log; eager, with torch.compile, and as one CUDA
  graph a step, its optimizer included.
- fuse: 32 runs that share a program, as it comes and with `cuda_graph=true`, beside the same runs alone, in both ways,
  and beside lone runs as CUDA graphs, captured by hand: the honest baseline. Memory too.
- augmentation: batches of 512 images of 3x32x32, from bytes to what the network takes.
- cache: a sweep of eight heads on frozen stages with and without the feature cache.
- sweep: 32 runs of convnet from the shell: one after the other, packed workers, fused; how busy the GPU is meanwhile,
  as nvidia-smi tells.

By the clock, synchronised; medians of interleaved rounds. `--device cpu --fast` is tiny: it shows that everything works
where there is no GPU, leaves out with a line what needs one, and measures nothing.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from busy import watched
from feature_cache import HEADS
from fuse import OPTIMIZERS, memory, runs_of, speeds, steps
from loop_overhead import measured
from sweep import Case, runner
from torch.nn.functional import cross_entropy

from runner.core.timing import timed
from runner.execution.cuda_graph.capture import CudaGraphs
from runner.execution.cuda_graph.replay import WARM
from runner.execution.eager import EagerProgram
from runner.execution.fused.program import FusedProgram
from runner.task.resources import Resources
from runner.train.program import Program
from runner.train.state import TrainState

STEPS = {"mlp": 200, "convnet": 100, "resnet20": 20}  # of one measurement
PIPELINES = ("flip,crop", "flip,crop,color_jitter", "randaugment", "trivialaugment", "affine,cutout")

Row = tuple[str, str]  # case, and what was found


class ByHand:
    """A training loop as one writes it out, for the data, the network and the optimizer of a run."""

    def __init__(self, run: TrainState, name: str, way: str):
        self.run, split, network = run, run.train_split, run.model
        self.images, self.labels = split.images, split.labels
        options = {} if way != "graph" else {"capturable": True}
        self.optimizer = {
            "sgd": lambda weights: torch.optim.SGD(weights, lr=0.01),
            "momentum": lambda weights: torch.optim.SGD(weights, lr=0.01, momentum=0.9),
            "rmsprop": lambda weights: torch.optim.RMSprop(weights, lr=1e-3, **options),
            "adam": lambda weights: torch.optim.Adam(weights, lr=1e-3, **options),
        }[name](network.parameters())
        self.network = torch.compile(network) if way == "compiled" else network
        self.order = torch.randint(len(split), (256, run.batch_size), device=run.device)
        self.rows = self.order[0].clone()  # where a graph looks for them
        self._once = self._captured() if way == "graph" else self._step

    def _step(self) -> None:
        precision, device = self.run.precision, self.run.device.type
        with torch.autocast(device, precision, precision != torch.float32, cache_enabled=False):
            logits = self.network(self.run.normalize(self.images[self.rows]))
            loss = cross_entropy(logits, self.labels[self.rows])
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()

    def _captured(self) -> Callable[[], None]:
        """The step as a CUDA graph: after a few on another stream, as torch's notes on graphs say."""
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                self._step()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._step()
        return graph.replay

    def __call__(self, count: int) -> None:
        for number in range(count):
            self.rows.copy_(self.order[number % len(self.order)])
            self._once()


def by_loop(device: torch.device, fast: bool, builder: Resources, _: Path) -> Iterator[Row]:
    """Steps a second of a lone run."""
    for model in ["mlp"] if fast else STEPS:
        count = 2 if fast else STEPS[model]

        def one(*more: str, model: str = model) -> TrainState:
            return runs_of(model, 1, device, builder, list(more))[0]

        ways = {
            "ours": _ours([one()], EagerProgram()),
            "ours, compile=true": _ours([one("compile=true")], EagerProgram()),
            "by hand, eager": ByHand(one(), "sgd", "eager"),
            "by hand, compiled": ByHand(one(), "sgd", "compiled"),
        }
        if device.type == "cuda":
            ways["ours, cuda_graph=true"] = _replayed([one()], EagerProgram())
            ways["ours, compile=true, cuda_graph=true"] = _replayed([one("compile=true")], EagerProgram())
            ways["by hand, one CUDA graph"] = ByHand(one(), "sgd", "graph")
        took, _ = measured(1 if fast else 5, *(_clock(way, count, device) for way in ways.values()))
        rates = {name: count / seconds for name, seconds in zip(ways, took, strict=True)}
        for name, rate in rates.items():
            share = rate / rates["by hand, compiled"]
            yield f"{model}: {name}", f"{rate:,.0f} steps/s, {share:.2f} of the compiled loop by hand"
        if device.type != "cuda":
            yield f"{model}: CUDA graphs, ours and by hand", "left out: need CUDA"


def _ours(runs: list[TrainState], program: Program) -> Callable[[int], None]:
    return lambda count: steps(runs, program, count)


def _replayed(runs: list[TrainState], program: Program) -> Callable[[int], None]:
    """The same with CUDA graphs, which are recorded here."""
    program.replay(runs, CudaGraphs(runs[0].device), must=True)
    steps(runs, program, WARM + 1)
    return _ours(runs, program)


def _clock(way: Callable[[int], None], count: int, device: torch.device) -> Callable[[], float]:
    return lambda: timed(lambda: way(count), device)[1]


def by_fuse(device: torch.device, fast: bool, builder: Resources, _: Path) -> Iterator[Row]:
    """Milliseconds a run and step."""
    many = 4 if fast else 32
    for model in ["mlp"] if fast else STEPS:
        length, rounds = (1, 1) if fast else (max(2, STEPS[model] // 10), 3)
        single, shared, ratio = speeds(model, many, device, rounds, length, builder, [])
        size = memory(model, many, device, builder, [])
        yield f"{many} x {model}: alone", f"{single * 1e3:.3f} ms a run and step"
        yield f"{many} x {model}: fused", f"{shared * 1e3:.3f} ms, {ratio:.2f} times faster; {size:.0f} MB"
        if device.type == "cuda":
            made = runs_of(model, many, device, builder, [])
            runs = [runs_of(model, len(OPTIMIZERS), device, builder, []) for _ in range(2)]
            ways = {
                "fused, cuda_graph=true": ([_replayed(made, FusedProgram(made))], many),
                "alone, cuda_graph=true": ([_replayed([run], EagerProgram()) for run in runs[0]], 1),
                "alone, CUDA graphs by hand": ([ByHand(*one, "graph") for one in zip(runs[1], OPTIMIZERS)], 1),
            }
            for name, (loops, sharing) in ways.items():
                took, _ = measured(rounds, *(_clock(loop, STEPS[model], device) for loop in loops))
                each = sum(took) / len(took) / STEPS[model] / sharing
                words = f"{each * 1e3:.3f} ms, {single / each:.2f} times faster than alone"
                yield f"{many} x {model}: {name}", f"{words}; fused is {each / shared:.2f} times that"
        else:
            yield f"{many} x {model}: with CUDA graphs, ours and by hand", "left out: need CUDA"


def by_augmentation(device: torch.device, fast: bool, builder: Resources, _: Path) -> Iterator[Row]:
    """Images a second."""
    batch, count = (64, 1) if fast else (512, 20)
    ways = {}
    for names in PIPELINES:
        (run,) = runs_of("resnet20", 1, device, builder, [f"batch_size={batch}", f"augmentation=[{names}]"])
        images, labels = next(run.train_split.batches([torch.arange(batch, device=device)]))
        ways[names] = lambda count, given=(run, images, labels): _augment(*given, count)
    took, _ = measured(1 if fast else 5, *(_clock(way, count, device) for way in ways.values()))
    for names, seconds in zip(ways, took, strict=True):
        yield names, f"{batch * count / seconds:,.0f} images/s"


def _augment(run: TrainState, images: torch.Tensor, labels: torch.Tensor, count: int) -> None:
    for _ in range(count):
        run.augment(images, labels, run.augmenting)


def by_cache(device: torch.device, fast: bool, _: Resources, folder: Path) -> Iterator[Row]:
    """Seconds of a sweep, without start-up and plan."""
    root = _arrays(folder, 256 if fast else 4000)
    model, epochs = ("resnet20", 1) if fast else ("resnet18", 10)
    heads = [sorted({head[i].partition("=")[2] for head in HEADS}) for i in (0, 1)]
    swept = [f"optimizer={','.join(heads[0][:1] if fast else heads[0])}", f"lr_scale={','.join(heads[1])}"]
    words = ["-m", *root, f"model={model}", "transfer=last_layer", f"epochs={epochs}", f"device={device}", *swept]
    runs = 2 if fast else len(HEADS)
    plain, cached = (
        _swept(runs, [*words, "hydra.launcher.fuse=false", f"transfer.cache={on}"]) for on in ("false", "true")
    )
    yield f"{runs} heads of {model}: without", f"{plain.said[-1]:.1f} s"
    yield (
        f"{runs} heads of {model}: with",
        f"{cached.said[-1]:.1f} s, {plain.said[-1] / cached.said[-1]:.1f} times faster",
    )


def by_sweep(device: torch.device, fast: bool, _: Resources, folder: Path) -> Iterator[Row]:
    """Seconds of whole commands."""
    runs, epochs = (4, 1) if fast else (32, 4)
    seeds = ",".join(map(str, range(runs // len(OPTIMIZERS))))
    words = ["-m", *_arrays(folder, 256 if fast else 8000), "model=convnet", f"epochs={epochs}", f"device={device}"]
    words += [f"optimizer={','.join(OPTIMIZERS)}", f"seed={seeds}"]
    ways = {
        "one after the other": ["hydra.launcher.workers=0", "hydra.launcher.fuse=false"],
        "workers, fuse=false": ["hydra.launcher.fuse=false"],
        "workers, fuse=true": ["hydra.launcher.fuse=true"],
        "defaults": [],
    }
    first = None
    for name, more in list(ways.items())[2 if fast else 0 :]:
        with watched() as busy:
            case = _swept(runs, [*words, *more])
        wall, said = case.wall[-1], case.said[-1]
        first = first or said
        told = f"{statistics.fmean(busy):.0f} % busy" if busy else "no nvidia-smi to tell how busy"
        found = f"{wall:.1f} s, {said:.1f} without start-up and plan ({first / said:.2f} times); {told}"
        yield f"{runs} x convnet: {name}", found


def _swept(runs: int, words: list[str]) -> Case:
    case = Case(" ".join(words), [runner(words)], runs)
    case.measure()
    return case


def _arrays(folder: Path, count: int) -> list[str]:
    """The words for noise of 3x32x32 in a file."""
    path, draws, arrays = folder / f"{count}.npz", np.random.default_rng(0), {}
    for part, images in (("train", count), ("test", 100)):
        arrays[f"x_{part}"] = draws.integers(0, 256, (images, 32, 32, 3), dtype=np.uint8)
        arrays[f"y_{part}"] = np.arange(images) % 10
    np.savez(path, **arrays)
    return ["data=arrays", f"data.root={path}"]


PARTS = {"loop": by_loop, "fuse": by_fuse, "augmentation": by_augmentation, "cache": by_cache, "sweep": by_sweep}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--device", type=torch.device, default=torch.device("cuda"))
    parser.add_argument("--fast", action="store_true")
    given = parser.parse_args()
    if given.device.type == "cuda" and not torch.cuda.is_available():
        raise SystemExit("--device cuda: torch sees no GPU here; --device cpu --fast shows that everything works")
    torch.set_num_threads(1)
    began, builder = time.perf_counter(), Resources()
    sys.stdout.write("| part | case | |\n|---|---|---|\n")
    with tempfile.TemporaryDirectory() as folder:
        for part in given.parts:
            for case, found in PARTS[part](given.device, given.fast, builder, Path(folder)):
                sys.stdout.write(f"| {part} | {case} | {found} |\n")
                sys.stdout.flush()
            if given.device.type == "cuda":
                torch.cuda.empty_cache()
    name = torch.cuda.get_device_name(given.device) if given.device.type == "cuda" else "CPU"
    sys.stdout.write(f"\n{name}, torch {torch.__version__}, {time.perf_counter() - began:.0f} s in all\n")


if __name__ == "__main__":
    main()
