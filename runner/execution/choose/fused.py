"""The choice of one program for several runs, by a trial.

It is no `runner.execution.trial.Trial`: much of the gain lies in the optimizers' steps, so whole steps are measured,
which move the weights, and all of a run's state is put back. Answers are compared by `FusedProgram`, wherever one is
made.
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
from runner.execution.features.cache import serve
from runner.execution.features.store import Store
from runner.execution.fused.errors import Incompatible
from runner.execution.fused.program import FusedProgram
from runner.execution.trial import LOOKS, fastest, is_faster
from runner.train.loop import move
from runner.train.program import Program
from runner.train.state import TrainState

FEW = 4  # runs that speak for all where a lone step takes more than
SHORT_STEP = 0.002  # seconds;
SLOW = 0.02  # where it takes more than these, one look at the program suffices


def choose_fused(runs: list[TrainState], must: bool) -> tuple[Decision, FusedProgram | None]:
    """Decide whether runs share a program, and return that; the runs stand where they stood.

    must: they share one without a trial, unless that is impossible.
    """
    kept = runs[0].features is not None
    if not must and (reason := too_short(max(run.steps for run in runs), kept)):
        return Decision(False, reason), None
    try:
        if must:
            return Decision(True, "hydra.launcher.fuse=true"), FusedProgram(runs)
        return _try(runs)
    except Incompatible as error:
        return Decision(False, str(error)), None


def _try(runs: list[TrainState]) -> tuple[Decision, FusedProgram | None]:
    states = [_moving(run) for run in runs]
    alone = _lone(runs[:: -(-len(runs) // FEW)])  # neighbours are alike
    if alone < SHORT_STEP:
        alone = _lone(runs)
    _rewind(runs, states)
    program = FusedProgram(runs)
    places = sum(bundle.network.count for bundle in program.bundles)  # those of runs that are elsewhere cost as much
    together = _seconds(runs, program, 1 if alone > SLOW else LOOKS) / places
    program.unstack()
    _rewind(runs, states)
    reason = f"a step takes {1e3 * alone:.3g} ms alone and {1e3 * together:.3g} ms among {places}"
    if not is_faster(together, alone):
        return Decision(False, reason), None
    program.restack()
    return Decision(True, reason), program


def _lone(runs: list[TrainState]) -> float:
    return sum(_seconds([run], EagerProgram(), 2) for run in runs) / len(runs)


def impossible(builder: Builder, features: Store, config: dict[str, Any], device: torch.device) -> str:
    """Why runs like this one cannot share a program, tried on two of them; empty where they can."""
    runs = []
    for seed in (config["seed"], config["seed"] + 1):
        own = config | {"seed": seed}
        noise = generator(seed, "noise", device)
        splits = builder.splits(own, device)
        runs.append(TrainState(own, builder.parts(own, splits, device, noise), device, noise))
        serve(runs[-1], splits, features)
    try:
        FusedProgram(runs)
    except Incompatible as error:
        return str(error)
    return ""


def _seconds(runs: list[TrainState], program: Program, looks: int) -> float:
    """Of the fastest of a few steps, done as the runs' would be. Nothing is told to listeners, and no step is
    counted."""
    for run in runs:
        run.train_mode()
    choose_graph(runs, program)
    if runs[0].chosen.get("cuda_graph", "").startswith("on"):
        for _ in range(WARM):
            _step(runs, program)
    found = fastest(lambda: _step(runs, program), runs[0].device, looks)
    for run in runs:
        run.replays, run.chosen = None, {}
    return found


def _step(runs: list[TrainState], program: Program) -> None:
    for run in runs:
        run.rewind()
    move(program.due(runs), program)


def _moving(run: TrainState) -> dict[str, Any]:
    """A copy of a run's state, without the weights that no step moves."""
    still = {name for name, p in run.model.named_parameters() if not p.requires_grad}
    state = run.state_dict()
    weights = {name: value for name, value in state["model"].items() if name not in still}
    return copy.deepcopy(state | {"model": weights})


def _rewind(runs: list[TrainState], states: list[dict[str, Any]]) -> None:
    for run, state in zip(runs, states):
        run.load_state_dict(copy.deepcopy(state) | {"model": run.model.state_dict() | state["model"]})
