"""Choice of CUDA graphs for runs of one program: by the config, or by a trial for `cuda_graph=auto`."""

import logging
from typing import TYPE_CHECKING

from torch import Tensor

from runner.core import memory
from runner.core.text import first_line
from runner.execution.cuda_graph.capture import CudaGraphs, unfit
from runner.execution.cuda_graph.replay import WARM, Replays
from runner.execution.decision import Decision, too_short
from runner.execution.trial import Trial, Unusable, untouched
from runner.train.program import Program
from runner.train.protocols import Capture

if TYPE_CHECKING:
    from runner.train.batch import Batch
    from runner.train.state import TrainState

log = logging.getLogger(__name__)


def choose_graph(runs: list["TrainState"], program: Program, capture: Capture | None = None) -> None:
    """Let a program replay the gradients of its runs if the config or a trial says so."""
    value, device = runs[0].config["cuda_graph"], runs[0].device
    if value is False or (value == "auto" and device.type != "cuda" and capture is None):
        return
    for run in runs:
        run.train_mode()
    decision = _decide(runs, program, capture or CudaGraphs(device), must=value is True)
    for run in runs:
        run.chosen["cuda_graph"] = str(decision)
    log.info("CUDA graph: %s", decision)


def _decide(runs: list["TrainState"], program: Program, capture: Capture, must: bool) -> Decision:
    if must:
        program.replay(runs, capture, must)
        return Decision(True, "cuda_graph=true")
    steps = max(run.steps - run.progress.step for run in runs)
    if reason := next(filter(None, map(_never, runs)), "") or too_short(steps):
        return Decision(False, reason)
    replays = program.replay(runs, capture, must)
    try:
        with untouched(runs):
            batches = {id(run): batch for run, batch in zip(runs, program.batches(runs))}
            decision = _trial(replays[0], [batches[id(run)] for run in replays[0].runs], steps).decide()
    except Exception as error:  # if plain computation fails too, the step itself raises it
        decision = Decision(False, first_line(error))
        memory.free(runs[0].device)
    if not decision.on:
        for replay in replays:
            replay.stop(decision.reason)
    return decision


def _never(run: "TrainState") -> str:
    """Return why a run's steps cannot be replayed; empty if a trial decides."""
    if run.team is not None:
        return "torchrun: several processes share this run"
    return unfit(run.parts.optimizer, run.config)


def _trial(replays: Replays, batches: list["Batch"], steps: int) -> Trial:
    def replay() -> Tensor:
        losses = replays(batches)
        if replays.failed:
            raise Unusable(replays.failed)
        return losses

    return Trial(
        runs=replays.runs,
        leaves=replays.leaves,
        plain=lambda: replays.eager(batches),
        other=replay,
        steps=steps,
        warm=WARM,
    )
