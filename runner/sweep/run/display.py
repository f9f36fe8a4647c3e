"""Terminal output of a plan: progress bars (plain lines without a terminal) and the final table."""

import contextlib
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from rich.console import Group
from rich.live import Live
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.text import Text

from runner.core.console import console
from runner.core.listener import Listener
from runner.execution.decision import Decisions
from runner.report.results.format import count as counted
from runner.store import lock
from runner.sweep.plan.plan import Entry, Plan
from runner.sweep.run.fused_summary import fused_summary
from runner.sweep.run.table import COLORS, outcome, results_table
from runner.sweep.run.tally import tally

NOT_STARTED = {"status": "not started", "reason": None, "resumes": "", "val_accuracy": None}


@contextlib.contextmanager
def planning() -> Iterator[Callable[[int, int], None]]:
    """Show a progress bar while a plan is made. Yields a callback `(done, count)`."""
    out = console()
    if not out.is_terminal:
        yield lambda done, count: None
        return
    with Progress(
        TextColumn("planning"),
        BarColumn(),
        TextColumn("{task.completed}/{task.total}"),
        console=out,
        transient=True,
    ) as bar:
        task = bar.add_task("plan", total=None)
        yield lambda done, count: bar.update(task, completed=done, total=count)


def describe_duplicates(plan: Plan) -> str:
    """Return a clause on combinations that were typed twice; empty if there are none."""
    return f", {plan.duplicates} typed twice and run once" if plan.duplicates else ""


class Display(Listener):
    """Live display of a plan; plain lines if standard output is not a terminal."""

    def __init__(self, plan: Plan, count: int | None = None):
        """`count`: number of runs to come, if the plan does not hold them yet."""
        self.plan, self.out = plan, console()
        self.count, self.ended = len(plan.todo) if count is None else count, 0
        self.columns = plan.resources.task(plan.entries[0].job.config).columns
        self.report: Path | None = None
        self._bests: dict[str, tuple[float, str]] = {}  # combination -> its best run
        self._unfinished: set[str] = set()  # combinations with an unfinished run: their best may be luck
        self.started = time.monotonic()
        self._bars = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=30),
            TextColumn("{task.fields[words]}", markup=False),
            TimeRemainingColumn(),
            console=self.out,
        )
        self._total_bar = self._bars.add_task("sweep" if self.count > 1 else "run", total=max(self.count, 1), words="")
        self._run_bars: dict[str, TaskID] = {}  # fingerprint -> progress bar of a run under way
        self._live = Live(Group(self._bars), console=self.out, transient=True, refresh_per_second=4)
        self._last_line = self._watched = 0.0

    def __enter__(self) -> "Display":
        plan = self.plan
        if plan.done:
            self.out.print(
                f"{len(plan.done)} of {counted(len(plan.entries), 'run')} done already" + describe_duplicates(plan)
            )
        elif plan.duplicates:
            self.out.print(f"{counted(plan.duplicates, 'combination')} typed twice and run once")
        self._begin()
        return self

    def _begin(self) -> None:
        plan = self.plan
        if skipped := max(entry.facts.skipped for entry in plan.entries):
            self.out.print(f"{counted(skipped, 'image')} could not be read, and will not be used")
        if self.out.is_terminal and self.count:
            self._live.start()

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if self._live.is_started:
            self._live.stop()
        if error is None or isinstance(error, KeyboardInterrupt):
            self.print_summary()

    def begin(self, entry: Entry) -> None:
        """Show that a run starts."""
        self._last_line = time.monotonic()
        if self.plan.lone:
            if not self.out.is_terminal:
                facts = entry.facts
                words = f"{entry.label}: {facts.parameters:,} parameters, {facts.train_size:,} training images"
                self.out.print(words, soft_wrap=True)
        elif entry.job.fingerprint not in self._run_bars:
            self._run_bars[entry.job.fingerprint] = self._bars.add_task(entry.label[:60], total=1, words="")
            self._current = entry

    def progress(self, step: int, steps: int, numbers: dict[str, float]) -> None:
        """Show the progress of the run in this process."""
        words = _epoch_text(numbers)
        if not self.plan.lone:
            self._advance(self._current, step, steps, words)
            self._update_total(step / steps)
            return
        if words and not self.out.is_terminal and self._is_due(step, steps):
            self.out.print(words, soft_wrap=True)
        self._bars.update(self._total_bar, completed=step / steps, **({"words": words} if words else {}))

    def watch(self, entries: list[Entry]) -> None:
        """Show the progress of runs in other processes, read from their lock files."""
        if not self._live.is_started or time.monotonic() - self._watched < 0.5:
            return
        self._watched, share = time.monotonic(), 0.0
        for entry in entries:
            state = lock.read(entry.job.folder)
            if state is not None and state.get("steps"):
                self._advance(entry, state["step"], state["steps"], _epoch_text(state.get("numbers", {})))
                share += state["step"] / state["steps"]
        self._update_total(share)

    def _advance(self, entry: Entry, step: int, steps: int, words: str) -> None:
        self._bars.update(
            self._run_bars[entry.job.fingerprint], total=steps, completed=step, **({"words": words} if words else {})
        )

    def _update_total(self, share: float) -> None:
        self._bars.update(self._total_bar, completed=self.ended + share, words=self._total_text())

    def _is_due(self, step: int, steps: int) -> bool:
        """Return True if a plain line is due: once a second at most, and at the last step."""
        now = time.monotonic()
        if now - self._last_line < 1 and step < steps:
            return False
        self._last_line = now
        return True

    def end(self, entry: Entry) -> None:
        """Show that a run ended."""
        self.ended += 1
        result = self.plan.displayed_result(entry) or NOT_STARTED
        self._update_best(entry, result)
        if (bar := self._run_bars.pop(entry.job.fingerprint, None)) is not None:
            self._bars.remove_task(bar)
        self._update_total(0.0)
        words = outcome(result, self.columns)
        if self.plan.lone:
            return
        line = Text(f"[{self.ended}/{self.count}] {entry.label}  ")
        self.out.print(
            line + Text(result["status"], style=COLORS.get(result["status"], "")) + f"  {words}",
            soft_wrap=True,
        )

    def _update_best(self, entry: Entry, result: dict[str, Any]) -> None:
        """Record the run if it is its combination's best; mark the combination as unfinished if the run failed."""
        combination = str({key: value for key, value in entry.job.swept.items() if key != "seed"})
        score = self.score(result)
        if result["status"] != "done":
            self._unfinished.add(combination)
        elif score is not None and (combination not in self._bests or score[0] > self._bests[combination][0]):
            self._bests[combination] = score[0], f"{score[1]} ({entry.label})"

    @property
    def best(self) -> tuple[float, str] | None:
        """Best score so far and its text, among combinations without unfinished runs."""
        bests = [best for combination, best in self._bests.items() if combination not in self._unfinished]
        return max(bests, key=lambda best: best[0], default=None)

    def _total_text(self) -> str:
        runs = f"{self.ended}/{counted(self.count, 'run')}"
        return runs if self.best is None else f"{runs}, best {self.best[1]}"

    def score(self, result: dict[str, Any]) -> tuple[float, str] | None:
        """Return a run's score (higher is better) and its text; None if it has no score."""
        value = result["val_accuracy"]
        return None if result["status"] != "done" or value is None else (value, f"val {value:.4f}")

    def print_summary(self) -> None:
        """Print the final table and the paths of results and report."""
        plan, out = self.plan, self.out
        results = [result for entry in plan.entries if (result := plan.displayed_result(entry)) is not None]
        if not results:
            return
        if plan.lone:
            result = results[0]
            out.print(
                Text(result["status"], style=COLORS.get(result["status"], "")) + f": {outcome(result, self.columns)}",
                soft_wrap=True,
            )
            out.print(f"results: {plan.entries[0].job.folder}", soft_wrap=True)
        else:
            out.print(results_table(plan, results, self.columns))
            counts = Counter(result["status"] for result in results)
            counts["not started"] = len(plan.entries) - len(results)
            out.print(f"{counted(len(plan.entries), 'run')}: {tally(counts)}; {time.monotonic() - self.started:.1f} s")
            self.print_fusing(results)
            if len(plan.done) == len(plan.entries):
                out.print("nothing was left to do; rerun=true repeats")
        if self.report:
            out.print(f"report:  {self.report}", soft_wrap=True)
            out.print(f"curves:  tensorboard --logdir {plan.folder}", soft_wrap=True)

    def print_fusing(self, results: Iterable[dict[str, Any]]) -> None:
        """Print which runs were trained together, if any choice was made."""
        if words := fused_summary(results, Decisions(self.plan.folder, "fuse").load_all()):
            self.out.print(words, soft_wrap=True)


def _epoch_text(numbers: dict[str, float]) -> str:
    """Return the metrics of an epoch that has ended, as text."""
    keys = ("epoch", "train_loss", "val_loss", "val_accuracy")
    return "  ".join(f"{key} {numbers[key]:.4g}" for key in keys if key in numbers) if "epoch" in numbers else ""
