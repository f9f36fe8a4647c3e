"""Whether a step is replayed as a CUDA graph: as the config says, else as a trial finds it."""

import logging
from typing import TYPE_CHECKING

from runner import memory
from runner.graph.capture import Capture, CudaGraphs, unfit
from runner.graph.replays import WARM, Replays
from runner.train import Program
from runner.trying import Found, fastest, untouched

if TYPE_CHECKING:
    from runner.batch import Batch
    from runner.running import Run

log = logging.getLogger(__name__)

GAIN = 1.05  # that replays must be faster to be chosen
LEAST = 100  # steps that are left, below which a trial would not pay
LOOKS = 5


def settle(runs: list["Run"], program: Program, capture: Capture | None = None) -> None:
    """Decides it for runs that a program is about to train; each run is told."""
    run = runs[0]
    asked, device = run.config["cuda_graph"], run.device
    if asked is False or (asked == "auto" and device.type != "cuda" and capture is None):
        return
    for run in runs:
        run.train_mode()
    word = _word(runs, program, capture or CudaGraphs(device), must=asked is True)
    for run in runs:
        run.chosen["cuda_graph"] = word
    log.info("CUDA graph: %s", word)


def _word(runs: list["Run"], program: Program, capture: Capture, must: bool) -> str:
    if must:
        program.replay(runs, capture, must)
        return "on (cuda_graph=true)"
    if reason := next(filter(None, map(eager, runs)), ""):
        return f"off ({reason})"
    if max(run.steps - run.progress.step for run in runs) < LEAST:
        return f"off (fewer than {LEAST} steps: a trial would not pay)"
    replays = program.replay(runs, capture, must)
    try:
        with untouched(runs):
            batches = {id(run): batch for run, batch in zip(runs, program.batches(runs))}
            on, reason = _tried(replays[0], [batches[id(run)] for run in replays[0].runs])
    except Exception as error:  # the step itself will show it
        on, reason = False, (str(error) or type(error).__name__).splitlines()[0]
        memory.free(runs[0].device)
    if not on:
        for some in replays:
            some.stop(reason)
    return f"{'on' if on else 'off'} ({reason})"


def eager(run: "Run") -> str:
    """Why a run's steps are always done as they come; empty where they may be replayed."""
    if run.team is not None:
        return "torchrun: several processes share this run"
    return unfit(run.parts.optimizer, run.config)


def _tried(replays: Replays, batches: list["Batch"]) -> tuple[bool, str]:
    """Both ways, each from where the runs stand now."""
    runs = replays.runs
    device, precision = runs[0].device, runs[0].precision
    with untouched(runs):
        wanted = Found.of(replays.eager(batches), replays.leaves)
        plain = fastest(lambda: replays.eager(batches), device, LOOKS)
    with untouched(runs):
        for _ in range(WARM):
            replays(batches)
    with untouched(runs):
        found = Found.of(replays(batches), replays.leaves)
        if replays.failed:
            return False, replays.failed
        if off := found.off(wanted, precision):
            return False, off
        replayed = fastest(lambda: replays(batches), device, LOOKS)
    words = f"gradients of a step take {1e3 * replayed:.3g} ms against {1e3 * plain:.3g} ms"
    return plain >= GAIN * replayed, words
