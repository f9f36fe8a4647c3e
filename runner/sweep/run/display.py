"""What a person sees: the plan, the live display (plain lines where there is no terminal), the table at the end."""

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
from runner.sweep.run.table import COLOURS, outcome, results_table
from runner.sweep.run.tally import tally

NOT_STARTED = {"status": "not started", "reason": None, "resumes": "", "val_accuracy": None}


@contextlib.contextmanager
def planning() -> Iterator[Callable[[int, int], None]]:
    """A bar while a large plan is made, on a terminal."""
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


def twice(plan: Plan) -> str:
    """What a plan's duplicates are worth saying."""
    return f", {plan.duplicates} typed twice and run once" if plan.duplicates else ""


class Display(Listener):
    """One live display of a plan; plain lines where standard output is no terminal."""

    def __init__(self, plan: Plan, count: int | None = None):
        """`count`: runs to come, where the plan does not hold them yet."""
        self.plan, self.out = plan, console()
        self.count, self.ended = len(plan.todo) if count is None else count, 0
        self.columns = plan.resources.task(plan.entries[0].job.config).columns
        self.report: Path | None = None
        self._bests: dict[str, tuple[float, str]] = {}  # combination -> its best run
        self._lost: set[str] = set()  # combinations with a run that did not finish: what is left may be luck
        self.started = time.monotonic()
        self._shown = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=30),
            TextColumn("{task.fields[words]}", markup=False),
            TimeRemainingColumn(),
            console=self.out,
        )
        self._all = self._shown.add_task("sweep" if self.count > 1 else "run", total=max(self.count, 1), words="")
        self._each: dict[str, TaskID] = {}  # fingerprint -> the line of a run that is under way
        self._live = Live(Group(self._shown), console=self.out, transient=True, refresh_per_second=4)
        self._last_line = self._watched = 0.0

    def __enter__(self) -> "Display":
        plan = self.plan
        if plan.done:
            self.out.print(f"{len(plan.done)} of {counted(len(plan.entries), 'run')} done already" + twice(plan))
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
            self.summary()

    def begin(self, entry: Entry) -> None:
        """A run starts."""
        self._last_line = time.monotonic()
        if self.plan.lone:
            if not self.out.is_terminal:
                facts = entry.facts
                words = f"{entry.label}: {facts.parameters:,} parameters, {facts.train_size:,} training images"
                self.out.print(words, soft_wrap=True)
        elif entry.job.fingerprint not in self._each:
            self._each[entry.job.fingerprint] = self._shown.add_task(entry.label[:60], total=1, words="")
            self._current = entry

    def progress(self, step: int, steps: int, numbers: dict[str, float]) -> None:
        """The run of this process got on."""
        words = _words(numbers)
        if not self.plan.lone:
            self._advance(self._current, step, steps, words)
            self._sum_up(step / steps)
            return
        if words and not self.out.is_terminal and self._due(step, steps):
            self.out.print(words, soft_wrap=True)
        self._shown.update(self._all, completed=step / steps, **({"words": words} if words else {}))

    def watch(self, entries: list[Entry]) -> None:
        """Runs of other processes are under way: how far they are stands in their locks."""
        if not self._live.is_started or time.monotonic() - self._watched < 0.5:
            return
        self._watched, share = time.monotonic(), 0.0
        for entry in entries:
            said = lock.read(entry.job.folder)
            if said is not None and said.get("steps"):
                self._advance(entry, said["step"], said["steps"], _words(said.get("numbers", {})))
                share += said["step"] / said["steps"]
        self._sum_up(share)

    def _advance(self, entry: Entry, step: int, steps: int, words: str) -> None:
        self._shown.update(
            self._each[entry.job.fingerprint], total=steps, completed=step, **({"words": words} if words else {})
        )

    def _sum_up(self, share: float) -> None:
        self._shown.update(self._all, completed=self.ended + share, words=self._best())

    def _due(self, step: int, steps: int) -> bool:
        """Whether a plain line is due: every second at most, and at the end."""
        now = time.monotonic()
        if now - self._last_line < 1 and step < steps:
            return False
        self._last_line = now
        return True

    def end(self, entry: Entry) -> None:
        """A run ended."""
        self.ended += 1
        result = self.plan.displayed_result(entry) or NOT_STARTED
        self._rank(entry, result)
        if (line := self._each.pop(entry.job.fingerprint, None)) is not None:
            self._shown.remove_task(line)
        self._sum_up(0.0)
        words = outcome(result, self.columns)
        if self.plan.lone:
            return
        line = Text(f"[{self.ended}/{self.count}] {entry.label}  ")
        self.out.print(
            line + Text(result["status"], style=COLOURS.get(result["status"], "")) + f"  {words}",
            soft_wrap=True,
        )

    def _rank(self, entry: Entry, result: dict[str, Any]) -> None:
        """Keep the run as its combination's best, or mark the combination as one that cannot lead."""
        combination = str({key: value for key, value in entry.job.swept.items() if key != "seed"})
        worth = self.worth(result)
        if result["status"] != "done":
            self._lost.add(combination)
        elif worth is not None and (combination not in self._bests or worth[0] > self._bests[combination][0]):
            self._bests[combination] = worth[0], f"{worth[1]} ({entry.label})"

    @property
    def best(self) -> tuple[float, str] | None:
        """The best run so far, of the combinations all of whose runs have ended well, and in words."""
        whole = [best for combination, best in self._bests.items() if combination not in self._lost]
        return max(whole, key=lambda best: best[0], default=None)

    def _best(self) -> str:
        runs = f"{self.ended}/{counted(self.count, 'run')}"
        return runs if self.best is None else f"{runs}, best {self.best[1]}"

    def worth(self, result: dict[str, Any]) -> tuple[float, str] | None:
        """How good a run is (the larger, the better), and in words; None where it gave no answer."""
        value = result["val_accuracy"]
        return None if result["status"] != "done" or value is None else (value, f"val {value:.4f}")

    def summary(self) -> None:
        """The table at the end, and where to look next."""
        plan, out = self.plan, self.out
        results = [result for entry in plan.entries if (result := plan.displayed_result(entry)) is not None]
        if not results:
            return
        if plan.lone:
            result = results[0]
            out.print(
                Text(result["status"], style=COLOURS.get(result["status"], "")) + f": {outcome(result, self.columns)}",
                soft_wrap=True,
            )
            out.print(f"results: {plan.entries[0].job.folder}", soft_wrap=True)
        else:
            out.print(results_table(plan, results, self.columns))
            counts = Counter(result["status"] for result in results)
            counts["not started"] = len(plan.entries) - len(results)
            out.print(f"{counted(len(plan.entries), 'run')}: {tally(counts)}; {time.monotonic() - self.started:.1f} s")
            self.say_together(results)
            if len(plan.done) == len(plan.entries):
                out.print("nothing was left to do; rerun=true repeats")
        if self.report:
            out.print(f"report:  {self.report}", soft_wrap=True)
            out.print(f"curves:  tensorboard --logdir {plan.folder}", soft_wrap=True)

    def say_together(self, results: Iterable[dict[str, Any]]) -> None:
        """Which runs were trained together, in a line, unless there is nothing to say."""
        if words := fused_summary(results, Decisions(self.plan.folder, "fuse").load_all()):
            self.out.print(words, soft_wrap=True)


def _words(numbers: dict[str, float]) -> str:
    """What a run says of an epoch that it ended."""
    keys = ("epoch", "train_loss", "val_loss", "val_accuracy")
    return "  ".join(f"{key} {numbers[key]:.4g}" for key in keys if key in numbers) if "epoch" in numbers else ""
