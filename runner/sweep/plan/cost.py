"""Costs of a plan's runs (time, memory, disk), estimated before they start."""

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

BUDGET = 20.0  # seconds of probing; after them no further program is measured
RUN_OVERHEAD = 0.35  # seconds of a run besides training and evaluation: pictures, files, tracking (docs/sweeps.md)
RUN_BYTES = 95e3  # of a run's texts and event files
PIXEL_BYTES = 150  # of a run's pictures, for each number of an image
# Config keys that decide the program of a run; no other key makes a step longer.
PROGRAM = (
    *("batch_size", "accumulate", "device", "precision", "threads", "channels_last", "deterministic", "checkpoint"),
    *("data", "model", "optimizer", "regularization", "augmentation", "transfer", "ensemble", "evaluation"),
)
FROZEN = ("data", "model", "transfer", "augmentation", "precision")  # equal: frozen stages have equal features
SHAPES = ("data", "model")  # keys where any number may change the shapes


@dataclass(frozen=True)
class Cost:
    """Cost of one run. None: not known."""

    flops: float | None = None  # floating-point operations of a training step
    training: float | None = None  # seconds
    evaluation: float | None = None  # seconds of the final evaluation and of `RUN_OVERHEAD`
    memory: float | None = None  # mebibytes at the peak
    disk: float | None = None  # bytes
    exact: bool = True  # measured on the run's own program, with its whole batch

    @property
    def seconds(self) -> float | None:
        """The duration of the run."""
        return None if self.training is None else self.training + self.evaluation


@dataclass
class Costs:
    """Costs of a plan's runs."""

    runs: dict[str, Cost] = field(default_factory=dict)  # fingerprint -> cost
    programs: int = 0
    probed: int = 0
    failed: dict[str, str] = field(default_factory=dict)  # label -> error of the program's first steps
    shared: float = 0.0  # seconds to compute the features of frozen stages, once for all runs

    def total(self, plan: Plan) -> float | None:
        """Return the seconds until all remaining runs are done; None where a run's are not known."""
        seconds, trained = [], set(plan.trained)
        for entry in plan.todo:
            cost = self.runs[entry.job.fingerprint]
            if cost.seconds is None:
                return None
            seconds.append(cost.evaluation if entry.job.training in trained else cost.seconds)
            trained.add(entry.job.training)
        return max([self.shared + sum(seconds) / max(1, plan.workers), *seconds])

    def disk(self, plan: Plan) -> float | None:
        """Return the bytes of all remaining runs; None where a run's are not known."""
        sizes = [self.runs[entry.job.fingerprint].disk for entry in plan.todo]
        return None if None in sizes else sum(sizes)

    def memory(self, plan: Plan) -> float | None:
        """Return the mebibytes of the largest remaining run; None where none is known."""
        known = [cost.memory for entry in plan.todo if (cost := self.runs[entry.job.fingerprint]).memory is not None]
        return max(known, default=None)


def estimate_costs(plan: Plan, probing: bool) -> Costs:
    """Return the costs of every run of a plan.

    probing: measure the distinct programs, the smallest first, as many as `BUDGET` allows.
    """
    programs: dict[str, list[Entry]] = {}
    costs = Costs()
    is_training: dict[str, bool] = {}  # task -> whether it trains
    for entry in plan.entries:
        task = json.dumps(entry.job.config["task"])
        if task not in is_training:
            is_training[task] = isinstance(plan.resources.task(entry.job.config), Train)
        if is_training[task]:
            programs.setdefault(program_key(entry), []).append(entry)
        else:
            costs.runs[entry.job.fingerprint] = Cost()
    costs.programs, start = len(programs), time.monotonic()
    last: tuple[Entry, Timings] | None = None
    frozen: dict[str, float] = {}
    for entries in sorted(programs.values(), key=lambda entries: operations(entries[0])):
        first, measured = entries[0], None
        if probing and time.monotonic() - start < BUDGET and any(e.job.fingerprint not in plan.done for e in entries):
            try:
                measured = probe(plan.resources, first.job.config, first.facts, first.job.threads)
            except Exception as error:  # the run would fail in the same way, but its plan is valid
                log.warning("the probe of %s failed", first.label, exc_info=True)
                costs.failed[first.label] = failure(error)["reason"]
            else:
                last, costs.probed = (first, measured), costs.probed + 1
        splits = plan.resources.splits(first.job.config)
        members = plan.resources.ensemble(first.job.config).count
        for entry in entries:
            costs.runs[entry.job.fingerprint] = _cost(entry, splits, members, measured, last)
        if measured is not None and measured.frozen:
            features_key = json.dumps([first.job.config[key] for key in FROZEN])
            frozen[features_key] = measured.frozen * (len(splits.train) * measured.views + _evaluated_images(splits))
    costs.shared = sum(frozen.values())
    return costs


def program_key(entry: Entry) -> str:
    """Return a key that is equal for runs with equally long steps. A float counts only as zero or nonzero."""
    config = entry.job.config
    parts = {key: config[key] if key in SHAPES else _reduce_floats(config[key]) for key in PROGRAM}
    return json.dumps([parts, config["clip_grad_norm"] is None, entry.job.threads, entry.facts.identity])


def _reduce_floats(node: Any) -> Any:
    if isinstance(node, dict):
        return {key: _reduce_floats(value) for key, value in node.items()}
    if isinstance(node, list):
        return [_reduce_floats(value) for value in node]
    return node != 0 if isinstance(node, float) else node


def operations(entry: Entry) -> float:
    """Return the floating-point operations of a training step, estimated from one image's forward pass."""
    images, _ = batches(entry.job.config, entry.facts.train_size)
    return float(entry.facts.flops * images * (1 + BACKWARD))


def _evaluated_images(splits: Splits) -> int:
    """Return the number of validation and test images."""
    return len(splits.test) + (0 if splits.val is None else len(splits.val))


def _cost(
    entry: Entry,
    splits: Splits,
    members: int,
    timings: Timings | None,
    last: tuple[Entry, Timings] | None,
) -> Cost:
    """Return a run's cost from the probe of its program; else from its operations, at the speed of the last probe.

    timings: of the run's program, None without a probe. last: the last program that was probed.
    """
    flops = operations(entry)
    if last is None:
        return Cost(flops=flops, exact=False)
    facts, (probed, measured) = entry.facts, last
    step = image = size = 1.0  # ratios to the probed program
    if timings is None:
        step = flops / max(1.0, operations(probed))
        image = facts.flops / max(1, probed.facts.flops)
        size = facts.parameters / max(1, probed.facts.parameters)
    validation_images = _evaluated_images(splits) - len(splits.test)
    validations = entry.job.config["epochs"] * validation_images * measured.validated * image
    training = measured.built + facts.steps * measured.step * step + validations
    return Cost(
        flops=measured.flops if timings is not None and measured.flops else flops,
        training=members * training,
        evaluation=members * _evaluated_images(splits) * measured.tested * image + RUN_OVERHEAD,
        memory=None if timings is None else measured.memory,
        disk=members * measured.state * size + RUN_BYTES + PIXEL_BYTES * splits.channels * splits.size**2,
        exact=timings is not None and measured.part == 1,
    )
