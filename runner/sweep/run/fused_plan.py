"""Describes, for a dry run, which runs of a plan are trained as one program."""

from runner.execution.decision import Decisions
from runner.report.results.format import count
from runner.sweep.plan.grouping import reason_alone
from runner.sweep.plan.plan import Entry, Plan


def describe_fusing(plan: Plan) -> list[str]:
    """Return lines on the runs to do: which share a program or may share one, and why the others train alone."""
    if plan.fusing == "false" or plan.lone and plan.entries[0].facts.members == 1:
        return []
    shared: dict[str, list[Entry]] = {}
    alone: dict[str, int] = {}
    for entry in plan.todo:
        if entry.job.fingerprint in plan.slots:
            shared.setdefault(_shared(plan, entry), []).append(entry)
        elif not plan.lone:
            reason = _alone(plan, entry)
            alone[reason] = alone.get(reason, 0) + 1
    lines = [f"{_programs(plan, entries)}: {words}" for words, entries in shared.items()]
    return lines + [f"{number} alone: {reason}" for reason, number in alone.items()]


def _shared(plan: Plan, entry: Entry) -> str:
    """Describe whether the runs of a program are trained together."""
    decision = Decisions(plan.folder, "fuse").load(entry.program)
    if plan.fusing == "true":
        if plan.slots[entry.job.fingerprint][1].count == entry.facts.members == 1:
            return "each has one to itself: no other run shares it"
        return "trained together (hydra.launcher.fuse=true)"
    if decision is None:
        return "a trial at their start decides whether they are trained together"
    return f"trained {'together' if decision.on else 'one by one'}, as was decided before ({decision.reason})"


def _alone(plan: Plan, entry: Entry) -> str:
    return reason_alone(plan, entry) or "there is no other run of the same network and batches to join"


def _programs(plan: Plan, entries: list[Entry]) -> str:
    """Return how many runs have one program, or several."""
    if plan.lone:
        return f"{entries[0].facts.members} networks in one program"
    groups = {plan.slots[entry.job.fingerprint][0] for entry in entries}
    return f"{count(len(entries), 'run')} in {'one program' if len(groups) == 1 else f'{len(groups)} programs'}"
