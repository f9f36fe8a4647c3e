"""Choice of `torch.compile` for a run that trains alone: by its config, or by a trial for `compile=auto`."""

import hashlib
import logging
import warnings
from pathlib import Path

import torch
from torch import Tensor

from runner.execution.compile import compiled, missing_compiler
from runner.execution.decision import Decision, Decisions, too_short
from runner.execution.eager import gradients
from runner.execution.fused.compatible import compatibility_key, structure
from runner.execution.trial import Trial, untouched
from runner.optimizer.base import needs_closure
from runner.train.state import TrainState

log = logging.getLogger(__name__)

# Minimum of remaining training seconds for a trial. CPU, measured: compiling takes 20 to 30 s and gains at most 10 %;
# it breaks even after 300 s; the minimum is twice that. GPU: a guess, not measured.
LEAST = {"cpu": 600.0, "cuda": 180.0}


def choose_compile(run: TrainState, folder: Path | None) -> None:
    """Compile a run's network if its config or a trial says so. A resumed run keeps its choice.

    folder: of the sweep, where all runs of one program share the decision.
    """
    value = run.config["compile"]
    if value != "auto":
        run.chosen |= {"compile": "on (compile=true)"} if value else {}
        return
    if run.compiled is None:
        decision = _decide(run, folder)
        run.compiled, run.compile_reason = decision.on, decision.reason
    decision = Decision(run.compiled, run.compile_reason)
    if decision.on and (missing := missing_compiler(run.device)):
        log.warning("goes on uncompiled, with other last digits: %s", missing)
        decision = Decision(False, missing)
    elif decision.on:
        run.forward = compiled(run.model)
    run.chosen["compile"] = str(decision)
    log.info("compile: %s", decision)


def _decide(run: TrainState, folder: Path | None) -> Decision:
    if reason := _never(run):
        return Decision(False, reason)
    decisions = None if folder is None else Decisions(folder, "compile")
    key_parts = structure(run.model), compatibility_key(run), run.steps, torch.get_num_threads(), torch.__version__
    key = hashlib.sha256(repr(key_parts).encode()).hexdigest()[:16]
    if decisions is not None and (earlier := decisions.load(key)) is not None:
        return earlier
    decision = _try(run)
    if decision is None:  # not saved, because a run with more steps left may decide otherwise
        return Decision(False, f"less than {LEAST[run.device.type]:.0f} s of training: it would not pay")
    return decision if decisions is None else decisions.save(key, decision)


def _never(run: TrainState) -> str:
    """Return why a run is not compiled, without a trial; empty if a trial decides."""
    if run.device.type not in LEAST:
        return f"device={run.device.type}"
    if run.features is not None:
        return "features are kept"
    if needs_closure(run.optimizer):
        return f"{type(run.optimizer).__name__} looks at the loss more than once a step"
    return missing_compiler(run.device) or too_short(run.steps - run.progress.step)


def _try(run: TrainState) -> Decision | None:
    """Return the decision of a trial; None if too little training is left for one."""
    run.train_mode()
    with untouched([run]):
        batch = run.next_batch()
    forward = run.forward

    def compile_and_compute() -> Tensor:
        if run.forward is not forward:
            return gradients(run, batch)
        run.forward = compiled(run.model)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the compiler warns about the runner's and torch's code
            return gradients(run, batch)

    trial = Trial(
        runs=[run],
        leaves=run.trained,
        plain=lambda: gradients(run, batch),
        other=compile_and_compute,
        steps=run.steps - run.progress.step,
        preparation="compiling",
        least=LEAST[run.device.type],
    )
    try:
        return trial.decide()
    finally:
        run.forward = forward
