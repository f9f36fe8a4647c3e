"""Groups of a plan's runs that are trained as one program; errors for runs that cannot be where `fuse=true`."""

import hashlib
import itertools
import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from runner.core.errors import ConfigError
from runner.execution.decision import too_short
from runner.execution.fused.slot import MANY_WEIGHTS, batches_key, noise_key
from runner.sweep.plan.plan import Entry, GroupSlot, Plan
from runner.train.slot import APART, BATCHES, NOISE, Slot

if TYPE_CHECKING:
    from runner.task.preflight import Facts

# Keys that are equal in all runs of a program, as its network is. All else (optimizer, rates, schedule, penalties,
# seeds, augmentation, probabilities) may differ from run to run.
SHARED = ("batch_size", "accumulate", "precision", "channels_last", "deterministic", "device")
AUTO_MOST = 32  # runs of a group, because more gain little
# Operations of a run's step on a CPU above which `auto` trains it alone: it keeps a core busy by itself, and many such
# runs may not fit into memory. The largest networks that gained, in docs/benchmarks.md, have a tenth of it. On a GPU, a
# program that does not fit into memory is halved.
LARGE = 2e9


class FuseOptions(Protocol):
    """Options of a launcher for runs that may share a program."""

    fuse: bool | str
    fuse_max: int | str


def program_key(config: dict[str, Any], facts: "Facts") -> str:
    """Return the key of the program that a run may share; empty where it can share none."""
    if facts.apart:
        return ""
    parts = [facts.network, facts.identity, facts.members, *(config[key] for key in SHARED)]
    parts += [config["cuda_graph"]] if config["cuda_graph"] != "auto" else []
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def set_fusing(plan: Plan, launcher: FuseOptions) -> None:
    """Set a plan's `fusing` and `fuse_max`. Raises `ConfigError` where `fuse=true` and runs cannot share a program."""
    plan.fusing = str(launcher.fuse).lower()
    plan.fuse_max = AUTO_MOST if launcher.fuse_max == "auto" else launcher.fuse_max
    if plan.fusing == "true" and (lines := _refusals(plan)):
        raise ConfigError(f"hydra.launcher.fuse=true: {'; '.join(lines)}; use hydra.launcher.fuse=auto")


def assign_slots(plan: Plan, launcher: FuseOptions, earlier: dict[str, GroupSlot]) -> None:
    """Set a plan's `slots`: the groups of runs that are trained as one program.

    earlier: fingerprint -> slot in the folder's earlier plans, which it keeps. Raises `ConfigError` as `set_fusing`.
    """
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
        for number, members in enumerate(_split(entries, plan)):
            if len(members) < 2 and plan.fusing == "auto" and entries[0].facts.members == 1:
                continue
            name = next(name for i in itertools.count(number) if (name := f"{key}-{i}") not in taken)
            taken.add(name)
            slots = zip(members, make_slots(members))
            plan.slots |= {entry.job.fingerprint: (name, slot) for entry, slot in slots}


def make_slots(entries: list[Entry]) -> list[Slot]:
    """Return the slots of runs that share a program."""
    common = _common_parts(entries)
    return [Slot(row, len(entries), common) for row in range(len(entries))]


def _common_parts(entries: list[Entry]) -> int:
    """Return what all runs of a program have in common: `APART`, `BATCHES` or `NOISE` of `runner.train.slot`."""
    if len(entries) == 1 or entries[0].facts.members > 1 or not _all_equal(entries, batches_key, "mixing"):
        return APART
    return NOISE if _all_equal(entries, noise_key, "modifying") else BATCHES


def _all_equal(entries: list[Entry], key: Callable[[dict[str, Any], Any], str], items: str) -> bool:
    return len({key(entry.job.config, getattr(entry.facts, items)) for entry in entries}) == 1


def _refusals(plan: Plan) -> list[str]:
    """Return the reasons why runs cannot share a program, each once."""
    from runner.core.devices import check_device  # imported here because it is slow and only fuse=true needs it
    from runner.execution.choose.fused import try_fusing

    lines = {entry.facts.apart or "task: only task=train trains" for entry in plan.entries if not entry.program}
    programs = {entry.program: entry for entry in plan.entries if entry.program}
    for entry in programs.values():
        config = entry.job.config
        lines.add(try_fusing(plan.resources, plan.resources.features, config, check_device(config)))
    return sorted(lines - {""})


def reason_alone(plan: Plan, entry: Entry) -> str:
    """Return the reason why a run shares no program with any other; empty where it may."""
    if not entry.program:
        return entry.facts.apart or "task: only task=train trains"
    if plan.fusing != "auto":
        return ""
    if plan.fuse_max == 1 and entry.facts.members == 1:
        return "hydra.launcher.fuse_max=1"
    if reason := too_short(entry.facts.steps, cached=entry.facts.step_flops < entry.facts.flops):
        return reason
    if plan.device == "cpu" and 3 * entry.facts.step_flops * entry.job.config["batch_size"] > LARGE:
        return f"a step has more than {LARGE:.0e} operations: it keeps a core busy by itself"
    return ""


def _split(entries: list[Entry], plan: Plan) -> list[list[Entry]]:
    """Return groups of nearly equal size, usually one for each worker, with runs of one optimizer side by side.

    Networks up to `MANY_WEIGHTS` keep an optimizer in few groups, because its runs take their steps together there.
    Groups with equal batches are preferred, where they can be formed.
    """
    order = sorted(entries, key=lambda entry: json.dumps(_without_rates(entry.job.config["optimizer"]), sort_keys=True))
    count = max(-(-len(order) // plan.fuse_max), min(max(1, plan.workers), len(order) // 2), 1)
    dealt = [order[number::count] for number in range(count)]  # each optimizer in each, because some take longer
    by_batches = _contiguous(sorted(order, key=lambda entry: batches_key(entry.job.config, entry.facts.mixing)), count)
    groups = dealt if order[0].facts.trainable > MANY_WEIGHTS else _contiguous(order, count)
    return by_batches if all(map(_common_parts, by_batches)) and not all(map(_common_parts, groups)) else groups


def _contiguous(order: list[Entry], count: int) -> list[list[Entry]]:
    size, rest = divmod(len(order), count)
    ends = list(itertools.accumulate(size + (number < rest) for number in range(count)))
    return [order[first:end] for first, end in zip([0, *ends], ends)]


def _without_rates(optimizer: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in optimizer.items() if key not in ("lr", "weight_decay")}
