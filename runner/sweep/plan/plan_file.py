"""`plan.json`: what a sweep's commands planned, frozen before their first step.

It says of each run what it is called and its whole config (the first run's, and what each of the others changes), and
how many threads it has, and its place among the runs that are trained with it: a run that is resumed keeps them,
whatever the second command's workers.
"""

import logging
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock

from runner.store import lock
from runner.store.files import PLAN, write_json
from runner.store.plans import flat, read, runs
from runner.sweep.plan.plan import GroupSlot, Plan, assign_numbers
from runner.train.slot import Slot

log = logging.getLogger(__name__)


def threads(folder: Path) -> dict[str, int]:
    """Fingerprint -> threads, of all runs that were ever planned in a folder; the first plan counts."""
    return {run["fingerprint"]: run["threads"] for run in runs(folder)}


def numbers(folder: Path) -> dict[str, int]:
    """Fingerprint -> number, likewise."""
    return {run["fingerprint"]: run["number"] for run in runs(folder) if run.get("number") is not None}


def slots(folder: Path) -> dict[str, GroupSlot]:
    """Fingerprint -> its place among the runs that it is trained with, likewise."""
    told = {run["fingerprint"]: run["seat"] for run in runs(folder) if run.get("seat")}
    return {fingerprint: (group, Slot(*seat)) for fingerprint, (group, *seat) in told.items()}


def write(plan: Plan) -> None:
    """Adds a plan to the folder's; one of the same command and runs takes the place of the earlier one.

    Numbers that another command has given to its runs meanwhile are not given again.
    """
    with FileLock(plan.folder / lock.GUARD):
        begun = plan.done.keys() | plan.left.keys()
        own = {entry.job.fingerprint: entry.job.number for entry in plan.entries if entry.job.fingerprint in begun}
        assign_numbers(plan.entries, numbers(plan.folder) | own)
        write_json(plan.folder / PLAN, {"plans": [*_others(plan), _described(plan)]}, durable=False)


def _described(plan: Plan) -> dict[str, Any]:
    """Return what the file says of a plan."""
    runs = [entry.job for entry in plan.entries]
    base = flat(runs[0].config)
    return {
        "command": runs[0].command,
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "config": runs[0].config,
        "runs": [
            {
                "run": job.run,
                "fingerprint": job.fingerprint,
                "number": job.number,
                "threads": job.threads,
                "seat": _flat(plan.slots.get(job.fingerprint)),
                "swept": job.swept,
                "changes": changes(base, flat(job.config)),
            }
            for job in runs
        ],
    }


def _flat(place: GroupSlot | None) -> list[Any] | None:
    """The group, and the numbers of the seat."""
    return None if place is None else [place[0], *place[1]]


def withdraw(plan: Plan) -> None:
    """Takes a plan out of the folder's, of which nothing has begun."""
    with FileLock(plan.folder / lock.GUARD):
        if others := _others(plan):
            write_json(plan.folder / PLAN, {"plans": others}, durable=False)
        else:
            (plan.folder / PLAN).unlink()


def _others(plan: Plan) -> list[dict[str, Any]]:
    """The plans of a folder that are of another command, or of other runs."""
    command, names = plan.entries[0].job.command, {entry.job.fingerprint for entry in plan.entries}
    return [
        other
        for other in read(plan.folder)
        if other["command"] != command or {run["fingerprint"] for run in other["runs"]} != names
    ]


def changes(base: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    """Dotted keys that another config has otherwise; None where it has not."""
    changed = {key: value for key, value in own.items() if key not in base or base[key] != value}
    return changed | dict.fromkeys(sorted(base.keys() - own.keys()))
