"""Results on the terminal: a table of all runs, and one line per finished run."""

from collections.abc import Mapping
from typing import Any

from rich.table import Table
from rich.text import Text

from runner.core.text import number
from runner.sweep.plan.plan import Plan

MOST_ROWS = 40  # of the final table; results.csv has all rows
COLORS = {"done": "green", "pruned": "blue", "diverged": "yellow", "running": "cyan"}
COLORS |= dict.fromkeys(("failed", "out_of_memory"), "red")


def results_table(plan: Plan, results: list[dict[str, Any]], columns: Mapping[str, str]) -> Table:
    """Return a table with a row per run, the best first. `columns`: title -> key of the result, from the runs' task."""
    table = Table(title=str(plan.folder))
    for column in ("combination", "status", *columns, "seconds"):
        table.add_column(column, justify="left" if column in ("combination", "status") else "right")
    labels = {entry.job.fingerprint: entry.label for entry in plan.entries}
    # Without accuracies the sort is stable: the plan's order stays.
    ranked = sorted(results, key=lambda r: (r["status"] != "done", -(r["val_accuracy"] or 0)))
    for result in ranked[:MOST_ROWS]:
        table.add_row(
            Text(labels[result["fingerprint"]]),
            Text(_status(result), style=COLORS.get(result["status"], "")),
            *(number(result.get(key), key) for key in columns.values()),
            number(result["seconds"], "seconds"),
        )
    if len(ranked) > MOST_ROWS:
        table.caption = f"{len(ranked) - MOST_ROWS} more in {plan.folder / 'results.csv'}"
    return table


def _status(result: dict[str, Any]) -> str:
    """Return a run's status; for an interrupted run also the step where it resumes."""
    return f"{result['status']} {result.get('resumes', '').removeprefix('resumes ')}".rstrip()


def outcome(result: dict[str, Any], columns: Mapping[str, str]) -> str:
    """Return a line on a finished run: the columns of its task, or why it ended."""
    if result["status"] != "done":
        return result["reason"] or result.get("resumes") or "the same command goes on with it"
    values = [f"{title} {number(result[key], key)}" for title, key in columns.items() if result.get(key) is not None]
    return ", ".join([*values, f"{result['seconds']:.1f} s"])
