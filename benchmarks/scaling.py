"""What a sweep costs against the number of its runs and of its workers, the size of the model and that of the data.

    python benchmarks/scaling.py [--panels runs workers model data] [--repeats 1] [--fast]

Whole commands, start-up and all; CPU seconds of a command that does its runs itself, so that a busy machine disturbs
little. A straight line is fitted (least squares): where it begins is start-up, and it is said which point is farthest
off, in parts of the whole rise. Workers are the exception: runs a second by the clock, without start-up and plan,
beside multiples of what one worker does; that panel needs a machine that does nothing else. `--fast` is tiny: it shows
that everything works, and measures nothing. The picture goes to docs/pictures/scaling.png, unless something is left
out.
"""

import argparse
import os
import statistics
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from sweep import Case, runner

from runner.model.mlp import MLP

PICTURE = Path(__file__).parent.parent / "docs" / "pictures" / "scaling.png"
COLOURS = ("#0072b2", "#d55e00")
OPTIMIZERS = "optimizer=sgd,momentum,rmsprop,adam"
BENT = 0.1  # of the rise, off the line


@dataclass
class Series:
    """Sweeps that differ in one size `x`; `values` are what is drawn."""

    panel: str
    label: str
    cases: list[tuple[float, Case]]
    values: list[float] = field(default_factory=list)

    def measure(self, repeats: int) -> Iterator[str]:
        """Lines of the table."""
        for x, case in self.cases:
            for _ in range(repeats):
                case.measure()
            cpu, wall, said = (statistics.median(told) for told in (case.cpu, case.wall, case.said))
            self.values.append(case.runs / said if self.panel == "workers" else cpu)
            yield f"| {self.panel} | {self.label} | {x:,.0f} | {case.runs} | {cpu:.1f} | {wall:.1f} | {said:.1f} |\n"

    def line(self) -> tuple[float, float]:
        """Start and slope of what is expected."""
        if self.panel == "workers":
            return 0.0, self.values[0] / self.cases[0][0]
        slope, start = np.polyfit([x for x, _ in self.cases], self.values, 1)
        return float(start), float(slope)

    def verdict(self) -> str:
        """The line in words, and how straight it is."""
        start, slope = self.line()
        off = {x: value - start - slope * x for (x, _), value in zip(self.cases, self.values, strict=True)}
        rise = max(self.values) - min(self.values)
        far = max(off, key=lambda x: abs(off[x]))
        if self.panel == "workers":
            bent = [x for x, value in off.items() if value < -BENT * slope * x]
            words = f"{slope:.2f} runs a second and worker; "
            return words + (f"bends at {bent[0]:g} (cores: {os.cpu_count()})" if bent else "straight")
        words = f"{start:.1f} s and {_per(slope)}; farthest off at {far:,.0f}: {off[far]:+.1f} s"
        return words + f" ({abs(off[far]) / rise:.0%} of the rise)" + (", bends" if abs(off[far]) > BENT * rise else "")


def _per(slope: float) -> str:
    return f"{slope:.3f} s each" if abs(slope) >= 0.01 else f"{slope * 1e6:.3g} s a million"


def sweep(runs: int, *words: str) -> Case:
    """A command of so many runs: four optimizers, and seeds."""
    seeds = ",".join(map(str, range(max(1, runs // 4))))
    return Case("", [runner(["-m", "model=mlp", OPTIMIZERS, f"seed={seeds}", "threads=1", "device=cpu", *words])], runs)


def by_runs(fast: bool, _: Path) -> Iterator[Series]:
    """120 steps each; fused too, for that pays here."""
    counts = (4, 8) if fast else (8, 24, 48, 96)
    for fuse in ("false", "auto"):
        words = ["epochs=6", "hydra.launcher.workers=0", f"hydra.launcher.fuse={fuse}"]
        yield Series("runs", f"fuse={fuse}", [(count, sweep(count, *words)) for count in counts])


def by_workers(fast: bool, _: Path) -> Iterator[Series]:
    """The same runs, shared out."""
    count, epochs = (4, 1) if fast else (32, 6)
    words = [f"epochs={epochs}", "hydra.launcher.fuse=false"]
    workers = (1, 2) if fast else (1, 2, 3, 4)
    yield Series("workers", "fuse=false", [(n, sweep(count, *words, f"hydra.launcher.workers={n}")) for n in workers])


def by_model(fast: bool, _: Path) -> Iterator[Series]:
    """Two hidden layers of equal width."""
    cases = []
    for width in (64, 128) if fast else (512, 1024, 1536, 2048):
        weights = sum(p.numel() for p in MLP([width, width], in_channels=1, num_classes=10, image_size=8).parameters())
        words = [f"model.hidden=[{width},{width}]", f"epochs={1 if fast else 2}", "hydra.launcher.workers=0"]
        cases.append((weights, sweep(4, *words)))
    yield Series("model", "4 runs of 40 steps", cases)


def by_data(fast: bool, folder: Path) -> Iterator[Series]:
    """Noise of 28x28, one epoch."""
    cases, draws = [], np.random.default_rng(0)
    for count in (640, 1280) if fast else (8000, 16000, 32000, 64000):
        arrays = {}
        for part, images in (("train", count), ("test", 1000)):
            arrays[f"x_{part}"] = draws.integers(0, 256, (images, 28, 28), dtype=np.uint8)
            arrays[f"y_{part}"] = np.arange(images) % 10
        path = folder / f"{count}.npz"
        np.savez(path, **arrays)
        words = ["data=arrays", f"data.root={path}", "epochs=1", "hydra.launcher.workers=0"]
        cases.append((count, sweep(8, *words, "hydra.launcher.fuse=false")))
    yield Series("data", "8 runs of 1 epoch", cases)


PANELS = {
    "runs": (by_runs, "runs", "CPU s"),
    "workers": (by_workers, "workers", "runs a second, by the clock"),
    "model": (by_model, "weights", "CPU s"),
    "data": (by_data, "images", "CPU s"),
}


def draw(found: list[Series]) -> None:
    """Four panels: points and their lines."""
    figure = Figure(figsize=(12, 7), layout="constrained")
    for (name, (_, what, unit)), panel in zip(PANELS.items(), figure.subplots(2, 2).flat):
        mine = [series for series in found if series.panel == name]
        for series, colour in zip(mine, COLOURS):
            _draw(panel, series, colour)
        panel.set_xlim(left=0)
        panel.set_ylim(bottom=0)
        panel.set_xlabel(what)
        panel.set_ylabel(unit)
        panel.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        panel.xaxis.set_major_formatter("{x:,.0f}")
        panel.grid(color="#dfe3e8", linewidth=0.6)
        panel.spines[["top", "right"]].set_visible(False)
        panel.legend(frameon=False)
    figure.savefig(PICTURE, dpi=90)


def _draw(panel: Axes, series: Series, colour: str) -> None:
    places = [x for x, _ in series.cases]
    start, slope = series.line()
    panel.plot(places, series.values, "o", color=colour, label=series.label)
    label = "multiples of one worker" if series.panel == "workers" else f"{start:.1f} s and {_per(slope)}"
    ends = [0, max(places)]
    panel.plot(ends, [start + slope * x for x in ends], "--", color=colour, linewidth=1, label=label)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--panels", nargs="+", choices=list(PANELS), default=list(PANELS))
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--fast", action="store_true")
    given = parser.parse_args()
    found = []
    say = sys.stdout.write
    say("| against | | size | runs | CPU s | seconds | without start-up and plan |\n" + "|---" * 7 + "|\n")
    with tempfile.TemporaryDirectory() as folder:
        for name in given.panels:
            for series in PANELS[name][0](given.fast, Path(folder)):
                for row in series.measure(given.repeats):
                    say(row)
                    sys.stdout.flush()
                found.append(series)
    say("\n" + "".join(f"{series.panel}, {series.label}: {series.verdict()}\n" for series in found))
    load = os.getloadavg()[2]
    say(f"\n{os.cpu_count()} cores, {given.repeats} repeat(s), load over the last 15 minutes {load:.1f}\n")
    if not given.fast and list(given.panels) == list(PANELS):
        draw(found)


if __name__ == "__main__":
    main()
