"""Which runs of a plan may be trained as one program, and the refusal of those that were told to and cannot."""

import hashlib
import itertools
import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from runner.core.errors import ConfigError
from runner.execution.decision import too_short
from runner.execution.fused.slot import MANY_WEIGHTS, batches, noise
from runner.sweep.plan.plan import Entry, GroupSlot, Plan
from runner.train.slot import APART, BATCHES, NOISE, Slot

if TYPE_CHECKING:
    from runner.task.preflight import Facts

# What a program is made of beside the network: the rest (optimizer, rates, schedule, penalties, seeds, augmentation,
# probabilities) may differ from run to run.
SHARED = ("batch_size", "accumulate", "precision", "channels_last", "deterministic", "device")
AUTO_MOST = 32  # runs of a group: more gain little
# Operations of a run's step on a CPU, above which `auto` leaves it alone: it keeps a core busy by itself (the largest
# networks that gained, in docs/benchmarks.md, have a tenth), and many such at once may not fit into memory. On a GPU
# too little memory halves a program.
LARGE = 2e9


class FuseOptions(Protocol):
    """What a launcher says of runs that may share a program."""

    fuse: bool | str
    fuse_max: int | str


def program_key(config: dict[str, Any], facts: "Facts") -> str:
    """The key of a run's program; empty where it can share none."""
    if facts.apart:
        return ""
    parts = [facts.network, facts.identity, facts.members, *(config[key] for key in SHARED)]
    parts += [config["cuda_graph"]] if config["cuda_graph"] != "auto" else []
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def set_fusing(plan: Plan, launcher: FuseOptions) -> None:
    """Whether runs are to be trained as one. Raises `ConfigError` where they are told to and cannot, each reason
    once."""
    plan.fusing = str(launcher.fuse).lower()
    plan.fuse_max = AUTO_MOST if launcher.fuse_max == "auto" else launcher.fuse_max
    if plan.fusing == "true" and (lines := _refusals(plan)):
        raise ConfigError(f"hydra.launcher.fuse=true: {'; '.join(lines)}; use hydra.launcher.fuse=auto")


def assign_slots(plan: Plan, launcher: FuseOptions, earlier: dict[str, GroupSlot]) -> None:
    """Fixes which runs are trained as one; `earlier`: by fingerprint, what the folder's plans have fixed. Raises
    `ConfigError` as `set_fusing` does."""
    set_fusing(plan, launcher)
    plan.slots = {}
    if plan.fusing == "false":
        return
    groups: dict[str, list[Entry]] = {}
    for entry in plan.entries:
        if entry.program and entry.job.fingerprint in earlier:
            plan.slots[entry.job.fingerprint] = earlier[entry.job.fingerprint]
        elif not reason_alone(plan, entry):
            groups.setdefault(f"{entry.program}-{entry.job.threads}", []).append(entry)
    taken = {group for group, _ in earlier.values()}
    for key, entries in groups.items():
        for number, some in enumerate(_shared_out(entries, plan)):
            if len(some) < 2 and plan.fusing == "auto" and entries[0].facts.members == 1:
                continue
            name = next(name for i in itertools.count(number) if (name := f"{key}-{i}") not in taken)
            taken.add(name)
            plan.slots |= {entry.job.fingerprint: (name, seat) for entry, seat in zip(some, make_slots(some))}


def make_slots(entries: list[Entry]) -> list[Slot]:
    """Seats for runs that share a program."""
    common = _common(entries)
    return [Slot(row, len(entries), common) for row in range(len(entries))]


def _common(entries: list[Entry]) -> int:
    """What all of these have in common, as `runner.execution.fused.slot` has it."""
    if len(entries) == 1 or entries[0].facts.members > 1 or not _same(entries, batches, "mixing"):
        return APART
    return NOISE if _same(entries, noise, "modifying") else BATCHES


def _same(entries: list[Entry], key: Callable[[dict[str, Any], Any], str], items: str) -> bool:
    return len({key(entry.job.config, getattr(entry.facts, items)) for entry in entries}) == 1


def _refusals(plan: Plan) -> list[str]:
    """Why runs cannot be trained as one, each reason once."""
    from runner.core.devices import check_device  # with all that trains: only who asks for it pays
    from runner.execution.choose.fused import impossible

    lines = {entry.facts.apart or "task: only task=train trains" for entry in plan.entries if not entry.program}
    distinct = {entry.program: entry for entry in plan.entries if entry.program}
    for entry in distinct.values():
        config = entry.job.config
        lines.add(impossible(plan.resources, plan.resources.features, config, check_device(config)))
    return sorted(lines - {""})


def reason_alone(plan: Plan, entry: Entry) -> str:
    """Why a run shares no program, whoever else there is; empty where it may."""
    if not entry.program:
        return entry.facts.apart or "task: only task=train trains"
    if plan.fusing != "auto":
        return ""
    if plan.fuse_max == 1 and entry.facts.members == 1:
        return "hydra.launcher.fuse_max=1"
    if reason := too_short(entry.facts.steps, kept=entry.facts.step_flops < entry.facts.flops):
        return reason
    if plan.device == "cpu" and 3 * entry.facts.step_flops * entry.job.config["batch_size"] > LARGE:
        return f"a step has more than {LARGE:.0e} operations: it keeps a core busy by itself"
    return ""


def _shared_out(entries: list[Entry], plan: Plan) -> list[list[Entry]]:
    """Groups of nearly equal size, as many as there are workers; in each those of one optimizer side by side, and not
    in many groups where their steps are taken together. Where it comes out even each group's runs see the same
    images."""
    order = sorted(entries, key=lambda entry: json.dumps(_kind(entry.job.config["optimizer"]), sort_keys=True))
    count = max(-(-len(order) // plan.fuse_max), min(max(1, plan.workers), len(order) // 2), 1)
    dealt = [order[number::count] for number in range(count)]  # some of each optimizer, for some take longer
    alike = _stretches(sorted(order, key=lambda entry: batches(entry.job.config, entry.facts.mixing)), count)
    together = dealt if order[0].facts.trainable > MANY_WEIGHTS else _stretches(order, count)
    return alike if all(map(_common, alike)) and not all(map(_common, together)) else together


def _stretches(order: list[Entry], count: int) -> list[list[Entry]]:
    size, more = divmod(len(order), count)
    ends = list(itertools.accumulate(size + (number < more) for number in range(count)))
    return [order[first:end] for first, end in zip([0, *ends], ends)]


def _kind(optimizer: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in optimizer.items() if key not in ("lr", "weight_decay")}
