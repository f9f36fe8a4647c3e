"""`plan.json`: the plans of a sweep's commands, written before their first step.

It has each run's name, config (the first run's, and the changes of the others), threads and slot. A resumed run keeps
its threads and slot, whatever the workers of the second command, because its last digits depend on them.
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
    """Return fingerprint -> threads of all runs that a folder's plans have; the first plan counts."""
    return {run["fingerprint"]: run["threads"] for run in runs(folder)}


def numbers(folder: Path) -> dict[str, int]:
    """Return fingerprint -> run number, of the same runs."""
    return {run["fingerprint"]: run["number"] for run in runs(folder) if run.get("number") is not None}


def slots(folder: Path) -> dict[str, GroupSlot]:
    """Return fingerprint -> (group, slot) of the same runs."""
    rows = {run["fingerprint"]: run["seat"] for run in runs(folder) if run.get("seat")}
    return {fingerprint: (group, Slot(*fields)) for fingerprint, (group, *fields) in rows.items()}


def write(plan: Plan) -> None:
    """Add a plan to the folder's file; it replaces an earlier plan of the same command and runs.

    Run numbers that another command has taken meanwhile are not used again.
    """
    with FileLock(plan.folder / lock.GUARD):
        started = plan.done.keys() | plan.left.keys()
        own = {entry.job.fingerprint: entry.job.number for entry in plan.entries if entry.job.fingerprint in started}
        assign_numbers(plan.entries, numbers(plan.folder) | own)
        write_json(plan.folder / PLAN, {"plans": [*_other_plans(plan), _to_json(plan)]}, durable=False)


def _to_json(plan: Plan) -> dict[str, Any]:
    """Return a plan as the file has it."""
    jobs = [entry.job for entry in plan.entries]
    base = flat(jobs[0].config)
    return {
        "command": jobs[0].command,
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "config": jobs[0].config,
        "runs": [
            {
                "run": job.run,
                "fingerprint": job.fingerprint,
                "number": job.number,
                "threads": job.threads,
                "seat": _flatten(plan.slots.get(job.fingerprint)),
                "swept": job.swept,
                "changes": changes(base, flat(job.config)),
            }
            for job in jobs
        ],
    }


def _flatten(group_slot: GroupSlot | None) -> list[Any] | None:
    """Return [group, row, count, common]."""
    return None if group_slot is None else [group_slot[0], *group_slot[1]]


def withdraw(plan: Plan) -> None:
    """Remove a plan, of which no run has started, from the folder's file."""
    with FileLock(plan.folder / lock.GUARD):
        if plans := _other_plans(plan):
            write_json(plan.folder / PLAN, {"plans": plans}, durable=False)
        else:
            (plan.folder / PLAN).unlink()


def _other_plans(plan: Plan) -> list[dict[str, Any]]:
    """Return the folder's plans of another command or of other runs."""
    command, fingerprints = plan.entries[0].job.command, {entry.job.fingerprint for entry in plan.entries}
    return [
        stored
        for stored in read(plan.folder)
        if stored["command"] != command or {run["fingerprint"] for run in stored["runs"]} != fingerprints
    ]


def changes(base: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    """Return the dotted keys of `own` that differ from `base`, with their values; None for a missing key."""
    changed = {key: value for key, value in own.items() if key not in base or base[key] != value}
    return changed | dict.fromkeys(sorted(base.keys() - own.keys()))
