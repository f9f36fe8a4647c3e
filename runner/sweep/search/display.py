"""What a person sees of a search: its space, the trials as they end, the best of them and how to run it again."""

import shlex
import time
from collections import Counter
from collections.abc import Mapping
from typing import Any

from optuna.trial import FrozenTrial
from rich.table import Table
from rich.text import Text

from runner.core.console import console
from runner.core.text import number
from runner.report.results.format import count as counted
from runner.store.ledger import Record, by_fingerprint, records
from runner.sweep.plan.plan import Entry
from runner.sweep.run.display import Display
from runner.sweep.run.table import COLOURS, MOST_ROWS
from runner.sweep.run.tally import tally
from runner.sweep.search.problem import Scope
from runner.sweep.search.space import Params
from runner.sweep.search.study import ENDED, RUN, TrialStore, complete, front


class SearchDisplay(Display):
    """The live display of a search, and its table at the end."""

    def __init__(self, scope: Scope, memory: TrialStore, known: int, left: int):
        super().__init__(scope.plan, left)
        self.scope, self.search, self.space, self.memory = scope, scope.settings, scope.space, memory
        self._known = known

    def __enter__(self) -> "Trials":
        self.out.print(summary(self.scope, self._known), soft_wrap=True)
        self._begin()
        return self

    def score(self, result: dict[str, Any]) -> tuple[float, str] | None:
        metric, value = self.search.metric[0], result.get(self.search.metric[0])
        if result["status"] != "done" or value is None or len(self.search.metric) > 1:
            return None
        return (value if self.search.higher[0] else -value), f"{metric} {number(value)}"

    def copied(self, entry: Entry) -> None:
        """A trial whose run another trial has done."""
        self.ended += 1
        self.out.print(Text(f"[{self.ended}/{self.count}] {entry.label}  is done already"), soft_wrap=True)

    def refused(self, params: Params, reason: str) -> None:
        """A trial that no run can be made of."""
        self.ended += 1
        words = " ".join(self.space.words(params)[: len(self.space.dimensions)])
        self.out.print(Text(f"[{self.ended}/{self.count}] {words}  ") + Text("refused", style="red") + f"  {reason}")

    def summary(self) -> None:
        """The table, the best trials, the counts."""
        trials = self.memory.trials()
        if not trials:
            return
        best = front(trials, self.search.higher)
        self.out.print(self._results(trials, {trial.number for trial in best}))
        for trial in best[:MOST_ROWS] if len(self.search.metric) > 1 else best[:1]:
            values = ", ".join(f"{key} {number(value)}" for key, value in zip(self.search.metric, trial.values))
            others = f" (as good: {len(best) - 1} more)" if len(self.search.metric) == 1 and len(best) > 1 else ""
            self.out.print(
                f"best: trial {trial.number}, {values}{others}:  {self._command(trial.params)}", soft_wrap=True
            )
        words = self._counts(trials)
        total = max(self.scope.total, len(trials))
        self.out.print(f"{len(trials)} of {counted(total, 'trial')}: {words}; {time.monotonic() - self.started:.1f} s")
        self.print_fusing(record.result for record in records(self.plan.folder))
        if self.report:
            self.out.print(f"report:  {self.report}", soft_wrap=True)
            self.out.print(f"curves:  tensorboard --logdir {self.plan.folder}", soft_wrap=True)

    def left(self) -> str:
        """Return in words what an interrupted search leaves to do."""
        return f"{self._counts(self.memory.trials())}; the same command goes on where it stopped"

    def _counts(self, trials: list[FrozenTrial]) -> str:
        """Count the trials of each status in words, those to come included; name where interrupted ones resume."""
        known = by_fingerprint(self.plan.folder)
        records = [known.get(trial.user_attrs[RUN]["fingerprint"]) for trial in trials if RUN in trial.user_attrs]
        counts = Counter(standing(trial, known) for trial in trials)
        counts["not started"] += max(0, self.scope.total - len(trials))
        resumes = [record.resumes for record in records if record is not None and record.standing == "interrupted"]
        return tally(counts, resumes)

    def _command(self, params: Params) -> str:
        """How one point of the space is run alone. An experiment may have keys that only this sweeper knows."""
        words = self.space.words(params)
        more = ["hydra/sweeper=search"] if any(word.startswith("experiment=") for word in words) else []
        return shlex.join(["python", "-m", "runner", *words, *more])

    def _results(self, trials: list[FrozenTrial], best: set[int]) -> Table:
        table = Table(title=str(self.plan.folder))
        keys = [one.key for one in self.space.dimensions]
        for column in ("trial", *keys, "status", *self.search.metric):
            table.add_column(column, justify="left" if column in (*keys, "status") else "right")
        sign = -1 if self.search.higher[0] else 1
        ranked = sorted(trials, key=lambda trial: (not complete(trial), sign * trial.values[0] if trial.values else 0))
        known = by_fingerprint(self.plan.folder)
        for trial in ranked[:MOST_ROWS]:
            word = standing(trial, known)
            shown = Text(word, style=COLOURS.get(word, ""))
            texts = (
                one.text(trial.params[one.key]) if one.key in trial.params else "-" for one in self.space.dimensions
            )
            values = [number(value) for value in trial.values or ()]
            values += ["-"] * (len(self.search.metric) - len(values))
            mark = "* " if trial.number in best else ""
            table.add_row(f"{mark}{trial.number}", *map(Text, texts), shown, *values)
        if len(ranked) > MOST_ROWS:
            table.caption = f"{len(ranked) - MOST_ROWS} more in {self.plan.folder / 'results.csv'}"
        return table


def show_space(scope: Scope, known: int) -> None:
    """`dry_run=true`: what would be searched; nothing is made."""
    out = console()
    table = Table(title=f"a search in {scope.plan.folder} (dry run: nothing is started)")
    for column in ("key", "space", "values"):
        table.add_column(column)
    for one in scope.space.dimensions:
        every = one.every()
        table.add_row(Text(one.key), Text(one.typed), "any between" if every is None else str(len(every)))
    out.print(table)
    out.print(summary(scope, known), soft_wrap=True)


def summary(scope: Scope, known: int) -> str:
    """A search in a line."""
    search, total = scope.settings, scope.total
    pruner = "no pruner" if search.pruner == "none" else f"pruner {search.pruner}"
    goals = ", ".join(f"{'highest' if more else 'lowest'} {name}" for name, more in zip(search.metric, search.higher))
    counts = f"{counted(total, 'trial')} in all, {known} known, {max(0, total - known)} to come"
    return f"search for the {goals} (sampler {search.sampler}, {pruner}): {counts}"


def standing(trial: FrozenTrial, known: Mapping[str, Record]) -> str:
    """Return `status`, or for a trial that has not ended what its run's record says. `known`: by fingerprint."""
    if ENDED in trial.user_attrs:
        return status(trial)
    record = known.get(trial.user_attrs[RUN]["fingerprint"]) if RUN in trial.user_attrs else None
    return "not started" if record is None else record.standing


def status(trial: FrozenTrial) -> str:
    """done, pruned, diverged, failed, ... as its run ended; `interrupted` where it has not."""
    return trial.user_attrs[ENDED]["status"] if ENDED in trial.user_attrs else "interrupted"
