"""What the runs of a plan cost, estimated before they start."""

import json
import logging
import time
from dataclasses import dataclass, field
from typing import Any

from runner.core.timeline import batches
from runner.data.splits import Splits
from runner.sweep.plan.plan import Entry, Plan
from runner.sweep.plan.probe import BACKWARD, Timings, probe
from runner.task.job import failure
from runner.task.train import Train

log = logging.getLogger(__name__)

BUDGET = 20.0  # seconds of probing, after which no further program is measured
EACH = 0.35  # seconds of a run beside training and evaluation: pictures, files, tracking (docs/sweeps.md)
LEFT, DRAWN = 95e3, 150  # bytes of a run beside its checkpoint: texts and events, and for each number of an image
# Parts of a config that decide which program runs; of the others none makes a step longer.
PROGRAM = (
    *("batch_size", "accumulate", "device", "precision", "threads", "channels_last", "deterministic", "checkpoint"),
    *("data", "model", "optimizer", "regularization", "augmentation", "transfer", "ensemble", "evaluation"),
)
FROZEN = ("data", "model", "transfer", "augmentation", "precision")  # alike where the frozen stages' answers are
SHAPES = ("data", "model")  # in which any number may change the shapes


@dataclass(frozen=True)
class Cost:
    """Of one run. None: not known."""

    flops: float | None = None  # floating-point operations of a training step
    training: float | None = None  # seconds
    evaluation: float | None = None  # seconds, of the trained network at the end, and of what surrounds a run
    memory: float | None = None  # mebibytes at the peak
    disk: float | None = None  # bytes
    exact: bool = True  # measured on this very program, with its whole batch

    @property
    def seconds(self) -> float | None:
        """From its start to its end."""
        return None if self.training is None else self.training + self.evaluation


@dataclass
class Costs:
    """Of the runs of a plan."""

    runs: dict[str, Cost] = field(default_factory=dict)  # fingerprint -> cost
    programs: int = 0
    probed: int = 0
    failed: dict[str, str] = field(default_factory=dict)  # label -> what the program's first steps raised
    shared: float = 0.0  # seconds for the answers of frozen stages, computed once

    def total(self, plan: Plan) -> float | None:
        """Seconds until all that is left is done; None where some run's are not known."""
        seconds, trained = [], set(plan.trained)
        for entry in plan.todo:
            cost = self.runs[entry.job.fingerprint]
            if cost.seconds is None:
                return None
            seconds.append(cost.evaluation if entry.job.training in trained else cost.seconds)
            trained.add(entry.job.training)
        return max([self.shared + sum(seconds) / max(1, plan.workers), *seconds])

    def disk(self, plan: Plan) -> float | None:
        """Bytes of all that is left."""
        sizes = [self.runs[entry.job.fingerprint].disk for entry in plan.todo]
        return None if None in sizes else sum(sizes)

    def memory(self, plan: Plan) -> float | None:
        """Mebibytes of the largest run that is left."""
        known = [cost.memory for entry in plan.todo if (cost := self.runs[entry.job.fingerprint]).memory is not None]
        return max(known, default=None)


def estimate_costs(plan: Plan, probing: bool) -> Costs:
    """Of every run of a plan: by probes of its distinct programs, the smallest first, as many as `BUDGET` allows."""
    programs: dict[str, list[Entry]] = {}
    found = Costs()
    trains: dict[str, bool] = {}
    for entry in plan.entries:
        task = json.dumps(entry.job.config["task"])
        if task not in trains:
            trains[task] = isinstance(plan.resources.task(entry.job.config), Train)
        if trains[task]:
            programs.setdefault(program_key(entry), []).append(entry)
        else:
            found.runs[entry.job.fingerprint] = Cost()
    found.programs, began = len(programs), time.monotonic()
    last: tuple[Entry, Timings] | None = None
    frozen: dict[str, float] = {}
    for entries in sorted(programs.values(), key=lambda entries: operations(entries[0])):
        first, measured = entries[0], None
        if probing and time.monotonic() - began < BUDGET and any(e.job.fingerprint not in plan.done for e in entries):
            try:
                measured = probe(plan.resources, first.job.config, first.facts, first.job.threads)
            except Exception as error:  # the run itself would end so: the plan stands all the same
                log.warning("the probe of %s failed", first.label, exc_info=True)
                found.failed[first.label] = failure(error)["reason"]
            else:
                last, found.probed = (first, measured), found.probed + 1
        splits = plan.resources.splits(first.job.config)
        side_by_side = plan.resources.ensemble(first.job.config).count
        for entry in entries:
            found.runs[entry.job.fingerprint] = _cost(entry, splits, side_by_side, measured, last)
        if measured is not None and measured.frozen:
            alike = json.dumps([first.job.config[key] for key in FROZEN])
            frozen[alike] = measured.frozen * (len(splits.train) * measured.views + _judged(splits))
    found.shared = sum(frozen.values())
    return found


def program_key(entry: Entry) -> str:
    """What tells programs apart: of rates, strengths and probabilities only whether they are zero."""
    config = entry.job.config
    parts = {key: config[key] if key in SHAPES else _kinds(config[key]) for key in PROGRAM}
    return json.dumps([parts, config["clip_grad_norm"] is None, entry.job.threads, entry.facts.identity])


def _kinds(node: Any) -> Any:
    if isinstance(node, dict):
        return {key: _kinds(value) for key, value in node.items()}
    if isinstance(node, list):
        return [_kinds(value) for value in node]
    return node != 0 if isinstance(node, float) else node


def operations(entry: Entry) -> float:
    """Floating-point operations of a training step, by those of one image's forward pass."""
    images, _ = batches(entry.job.config, entry.facts.train_size)
    return float(entry.facts.flops * images * (1 + BACKWARD))


def _judged(splits: Splits) -> int:
    """Images on which a trained network is validated and tested."""
    return len(splits.test) + (0 if splits.val is None else len(splits.val))


def _cost(
    entry: Entry,
    splits: Splits,
    side_by_side: int,
    own: Timings | None,
    last: tuple[Entry, Timings] | None,
) -> Cost:
    """By the probe of the run's own program; else by operations, at the speed of the last one that was probed."""
    flops = operations(entry)
    if last is None:
        return Cost(flops=flops, exact=False)
    facts, (other, measured) = entry.facts, last
    step = image = size = 1.0
    if own is None:
        step = flops / max(1.0, operations(other))
        image = facts.flops / max(1, other.facts.flops)
        size = facts.parameters / max(1, other.facts.parameters)
    validations = entry.job.config["epochs"] * (_judged(splits) - len(splits.test)) * measured.validated * image
    training = measured.built + facts.steps * measured.step * step + validations
    return Cost(
        flops=measured.flops if own is not None and measured.flops else flops,
        training=side_by_side * training,
        evaluation=side_by_side * _judged(splits) * measured.tested * image + EACH,
        memory=None if own is None else measured.memory,
        disk=side_by_side * measured.state * size + LEFT + DRAWN * splits.channels * splits.size**2,
        exact=own is not None and measured.part == 1,
    )
