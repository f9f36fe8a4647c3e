"""Choice of one program for several runs, by a trial of whole steps.

It does not use `runner.execution.trial.Trial`, because much of the gain lies in the optimizers' steps. These move the
weights, so the runs' whole state is restored. `FusedProgram` itself compares the logits.
"""

import copy
from typing import Any

import torch

from runner.build.builder import Builder
from runner.core.seeds import generator
from runner.execution.choose.cuda_graph import choose_graph
from runner.execution.cuda_graph.replay import WARM
from runner.execution.decision import Decision, too_short
from runner.execution.eager import EagerProgram
from runner.execution.features.cache import use_feature_cache
from runner.execution.features.store import Store
from runner.execution.fused.errors import Incompatible
from runner.execution.fused.program import FusedProgram
from runner.execution.trial import REPEATS, fastest, is_faster
from runner.train.loop import move
from runner.train.program import Program
from runner.train.state import TrainState

FEW = 4  # runs measured alone in place of all
SHORT_STEP = 0.002  # seconds; with shorter single steps all runs are measured
SLOW = 0.02  # seconds; with longer single steps the program is measured once


def choose_fused(runs: list[TrainState], must: bool) -> tuple[Decision, FusedProgram | None]:
    """Decide whether runs share a program, and return it if so; the runs' state is unchanged.

    must: skip the trial; only impossibility decides against it.
    """
    cached = runs[0].features is not None
    if not must and (reason := too_short(max(run.steps for run in runs), cached)):
        return Decision(False, reason), None
    try:
        if must:
            return Decision(True, "hydra.launcher.fuse=true"), FusedProgram(runs)
        return _try(runs)
    except Incompatible as error:
        return Decision(False, str(error)), None


def _try(runs: list[TrainState]) -> tuple[Decision, FusedProgram | None]:
    states = [_trained_state(run) for run in runs]
    alone = _single_seconds(runs[:: -(-len(runs) // FEW)])  # evenly spaced, because neighbors are alike
    if alone < SHORT_STEP:
        alone = _single_seconds(runs)
    _rewind(runs, states)
    program = FusedProgram(runs)
    slots = sum(bundle.network.count for bundle in program.bundles)  # empty slots cost as much as occupied ones
    together = _seconds(runs, program, 1 if alone > SLOW else REPEATS) / slots
    program.unstack()
    _rewind(runs, states)
    reason = f"a step takes {1e3 * alone:.3g} ms alone and {1e3 * together:.3g} ms among {slots}"
    if not is_faster(together, alone):
        return Decision(False, reason), None
    program.restack()
    return Decision(True, reason), program


def _single_seconds(runs: list[TrainState]) -> float:
    """Return the mean seconds of a step of runs that train alone."""
    return sum(_seconds([run], EagerProgram(), 2) for run in runs) / len(runs)


def try_fusing(builder: Builder, features: Store, config: dict[str, Any], device: torch.device) -> str:
    """Build two runs of a config and fuse them; return why that fails, empty if it works."""
    runs = []
    for seed in (config["seed"], config["seed"] + 1):
        seeded = config | {"seed": seed}
        noise = generator(seed, "noise", device)
        splits = builder.splits(seeded, device)
        runs.append(TrainState(seeded, builder.parts(seeded, splits, device, noise), device, noise))
        use_feature_cache(runs[-1], splits, features)
    try:
        FusedProgram(runs)
    except Incompatible as error:
        return str(error)
    return ""


def _seconds(runs: list[TrainState], program: Program, repeats: int) -> float:
    """Return the seconds of the fastest of several steps. They call no listeners and are not counted."""
    for run in runs:
        run.train_mode()
    choose_graph(runs, program)
    if runs[0].chosen.get("cuda_graph", "").startswith("on"):
        for _ in range(WARM):
            _step(runs, program)
    seconds = fastest(lambda: _step(runs, program), runs[0].device, repeats)
    for run in runs:
        run.replays, run.chosen = None, {}
    return seconds


def _step(runs: list[TrainState], program: Program) -> None:
    for run in runs:
        run.rewind()
    move(program.due(runs), program)


def _trained_state(run: TrainState) -> dict[str, Any]:
    """Return a copy of a run's state without the frozen weights."""
    frozen = {name for name, p in run.model.named_parameters() if not p.requires_grad}
    state = run.state_dict()
    weights = {name: value for name, value in state["model"].items() if name not in frozen}
    return copy.deepcopy(state | {"model": weights})


def _rewind(runs: list[TrainState], states: list[dict[str, Any]]) -> None:
    for run, state in zip(runs, states):
        run.load_state_dict(copy.deepcopy(state) | {"model": run.model.state_dict() | state["model"]})
