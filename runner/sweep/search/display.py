"""Terminal output of a search: its space, trials as they end, the best trials and their commands."""

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
from runner.sweep.run.table import COLORS, MOST_ROWS
from runner.sweep.run.tally import tally
from runner.sweep.search.problem import Scope
from runner.sweep.search.space import Params
from runner.sweep.search.study import ENDED, RUN, TrialStore, front, is_complete


class SearchDisplay(Display):
    """Live display of a search and its final table."""

    def __init__(self, scope: Scope, store: TrialStore, known: int, left: int):
        super().__init__(scope.plan, left)
        self.scope, self.search, self.space, self.store = scope, scope.settings, scope.space, store
        self._known = known

    def __enter__(self) -> "SearchDisplay":
        self.out.print(describe_search(self.scope, self._known), soft_wrap=True)
        self._begin()
        return self

    def score(self, result: dict[str, Any]) -> tuple[float, str] | None:
        metric, value = self.search.metric[0], result.get(self.search.metric[0])
        if result["status"] != "done" or value is None or len(self.search.metric) > 1:
            return None
        return (value if self.search.higher[0] else -value), f"{metric} {number(value)}"

    def show_copied(self, entry: Entry) -> None:
        """Show a trial whose run another trial has done."""
        self.ended += 1
        self.out.print(Text(f"[{self.ended}/{self.count}] {entry.label}  is done already"), soft_wrap=True)

    def show_refused(self, params: Params, reason: str) -> None:
        """Show a trial whose config is invalid."""
        self.ended += 1
        text = " ".join(self.space.overrides(params)[: len(self.space.dimensions)])
        self.out.print(Text(f"[{self.ended}/{self.count}] {text}  ") + Text("refused", style="red") + f"  {reason}")

    def print_summary(self) -> None:
        """Print the table, the best trials and the counts."""
        trials = self.store.trials()
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
        counts = self._counts(trials)
        total = max(self.scope.total, len(trials))
        self.out.print(f"{len(trials)} of {counted(total, 'trial')}: {counts}; {time.monotonic() - self.started:.1f} s")
        self.print_fusing(record.result for record in records(self.plan.folder))
        if self.report:
            self.out.print(f"report:  {self.report}", soft_wrap=True)
            self.out.print(f"curves:  tensorboard --logdir {self.plan.folder}", soft_wrap=True)

    def describe_remaining(self) -> str:
        """Describe what an interrupted search leaves to do."""
        return f"{self._counts(self.store.trials())}; the same command goes on where it stopped"

    def _counts(self, trials: list[FrozenTrial]) -> str:
        """Describe how many trials have each status, including those to come, and where interrupted ones resume."""
        known = by_fingerprint(self.plan.folder)
        run_records = [known.get(trial.user_attrs[RUN]["fingerprint"]) for trial in trials if RUN in trial.user_attrs]
        counts = Counter(current_status(trial, known) for trial in trials)
        counts["not started"] += max(0, self.scope.total - len(trials))
        resumes = [record.resumes for record in run_records if record is not None and record.standing == "interrupted"]
        return tally(counts, resumes)

    def _command(self, params: Params) -> str:
        """Return the command that runs one point of the space."""
        overrides = self.space.overrides(params)
        # An experiment may set keys that only this sweeper has.
        sweeper = ["hydra/sweeper=search"] if any(override.startswith("experiment=") for override in overrides) else []
        return shlex.join(["python", "-m", "runner", *overrides, *sweeper])

    def _results(self, trials: list[FrozenTrial], best: set[int]) -> Table:
        table = Table(title=str(self.plan.folder))
        keys = [dim.key for dim in self.space.dimensions]
        for column in ("trial", *keys, "status", *self.search.metric):
            table.add_column(column, justify="left" if column in (*keys, "status") else "right")
        sign = -1 if self.search.higher[0] else 1
        ranked = sorted(
            trials, key=lambda trial: (not is_complete(trial), sign * trial.values[0] if trial.values else 0)
        )
        known = by_fingerprint(self.plan.folder)
        for trial in ranked[:MOST_ROWS]:
            status_text = current_status(trial, known)
            shown = Text(status_text, style=COLORS.get(status_text, ""))
            texts = (
                dim.text(trial.params[dim.key]) if dim.key in trial.params else "-" for dim in self.space.dimensions
            )
            values = [number(value) for value in trial.values or ()]
            values += ["-"] * (len(self.search.metric) - len(values))
            mark = "* " if trial.number in best else ""
            table.add_row(f"{mark}{trial.number}", *map(Text, texts), shown, *values)
        if len(ranked) > MOST_ROWS:
            table.caption = f"{len(ranked) - MOST_ROWS} more in {self.plan.folder / 'results.csv'}"
        return table


def show_space(scope: Scope, known: int) -> None:
    """Print the space of a search for `dry_run=true`; writes nothing."""
    out = console()
    table = Table(title=f"a search in {scope.plan.folder} (dry run: nothing is started)")
    for column in ("key", "space", "values"):
        table.add_column(column)
    for dim in scope.space.dimensions:
        values = dim.values()
        table.add_row(Text(dim.key), Text(dim.typed), "any between" if values is None else str(len(values)))
    out.print(table)
    out.print(describe_search(scope, known), soft_wrap=True)


def describe_search(scope: Scope, known: int) -> str:
    """Return a line on the search: metrics, sampler, pruner and number of trials."""
    search, total = scope.settings, scope.total
    pruner = "no pruner" if search.pruner == "none" else f"pruner {search.pruner}"
    goals = ", ".join(f"{'highest' if more else 'lowest'} {name}" for name, more in zip(search.metric, search.higher))
    counts = f"{counted(total, 'trial')} in all, {known} known, {max(0, total - known)} to come"
    return f"search for the {goals} (sampler {search.sampler}, {pruner}): {counts}"


def current_status(trial: FrozenTrial, known: Mapping[str, Record]) -> str:
    """Return a trial's status; before its end the status of its run. `known`: fingerprint -> record."""
    if ENDED in trial.user_attrs:
        return status(trial)
    record = known.get(trial.user_attrs[RUN]["fingerprint"]) if RUN in trial.user_attrs else None
    return "not started" if record is None else record.standing


def status(trial: FrozenTrial) -> str:
    """Return the status of the trial's run: done, pruned, diverged, failed, ...; `interrupted` before its end."""
    return trial.user_attrs[ENDED]["status"] if ENDED in trial.user_attrs else "interrupted"
