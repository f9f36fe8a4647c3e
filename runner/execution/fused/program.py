"""The program of several runs: one forward and backward pass for all, their optimizers' steps together."""

from collections import defaultdict
from typing import Any

import torch
from torch import Tensor

from runner.core import memory
from runner.data.splits import ResidentSplit
from runner.evaluation.metrics import EvaluationResult
from runner.execution.cuda_graph.replay import Replays
from runner.execution.fused.compatible import program, refusal, same_batches, structure
from runner.execution.fused.errors import Incompatible, by
from runner.execution.fused.network import mappable
from runner.execution.fused.stacked_runs import StackedRuns
from runner.train.batch import Batch
from runner.train.program import Objective, OnFailure, Program
from runner.train.protocols import Capture
from runner.train.slot import Slot
from runner.train.state import TrainState


class FusedProgram(Program):
    """Runs whose networks have one structure. Raises `Incompatible` where they cannot share a program.

    A run that ends leaves its place empty, so that no run's numbers depend on others. Where memory does not suffice,
    two halves share a program each.
    """

    def __init__(self, runs: list[TrainState]):
        for reason in filter(None, map(refusal, runs)):
            raise Incompatible(reason)
        if len({(structure(run.model), program(run)) for run in runs}) > 1:
            raise Incompatible("their networks, batches or devices differ")
        self._seat(runs)
        self._draws: list[tuple[TrainState, Tensor]] = []  # what their generators stood at before the step's batches
        self.on_failure: OnFailure | None = None  # who is told of a run whose own optimizer fails

    def _seat(self, runs: list[TrainState]) -> None:
        """Makes networks of those that are due first."""
        first = _due(runs)
        self.bundles = self._tried(_seated(first))
        self._alike = same_batches(first)

    def due(self, runs: list[TrainState]) -> list[TrainState]:
        """Runs whose batches are made once stay at one step: after a kill some may have further to go than others."""
        due = _due(runs)
        here = {id(run) for bundle in self.bundles for run in bundle.runs}
        if not here.issuperset(map(id, due)):
            graphs = self.bundles[0].graphs
            self.unstack()
            self._seat(runs)
            if graphs is not None:
                self.replay(due, *graphs)
        return due

    def _tried(self, groups: list[list[TrainState]]) -> list[StackedRuns]:
        """Networks side by side; where that shares nothing, or gives other answers, mapped as wholes."""
        runs = [run for some in groups for run in some]
        no = mappable([run.model for run in runs]) if runs[0].features is None else "features are kept"
        try:
            bundles = _compared(groups, mapped=False)
        except Incompatible as error:
            if no:
                raise Incompatible(f"{error}; nor by torch.func.vmap: {no}") from error
            return _compared(groups, mapped=True)
        if no or not bundles[0].network.asks_each:
            return bundles
        for bundle in bundles:
            bundle.unstack()
        try:
            return _compared(groups, mapped=True)
        except Incompatible:
            return _compared(groups, mapped=False)

    def unstack(self) -> None:
        """Gives each run all that is its own, so that it can go on alone."""
        for bundle in self.bundles:
            bundle.unstack()

    def restack(self) -> None:
        """After `unstack`: the same runs again, from what was loaded into them."""
        self.bundles = [bundle.like(bundle.runs) for bundle in self.bundles]

    def batches(self, runs: list[TrainState]) -> list[Batch]:
        """Runs of one seed and one augmentation see the same images: one of them makes the batch for all."""
        self._draws = []
        sharing: dict[Any, list[TrainState]] = defaultdict(list)
        for run in runs:
            sharing[self._alike[id(run)], run.progress.step].append(run)
        firsts = [some[0] for some in sharing.values()]
        drawing = [some for some in sharing.values() if some[0].pipeline or some[0].mixers]
        for first, *others in drawing:
            state = first.augmenting.get_state()
            self._draws += [(run, state) for run in (first, *others)]
        batches = self._made(firsts)
        for first, *others in drawing:
            if others:
                state = first.augmenting.get_state()
                for run in others:
                    run.augmenting.set_state(state)
        found = {id(run): batch for some, batch in zip(sharing.values(), batches) for run in some}
        return [found[id(run)] for run in runs]

    def _made(self, runs: list[TrainState]) -> list[Batch]:
        """What lies in memory is fetched for all at once; what nothing augments is normalised at once, too."""
        first, split = runs[0], runs[0].train_split
        kept = first.features is not None or not isinstance(split, ResidentSplit)
        if kept or any(run.train_split is not split for run in runs):
            return [by(run, run.next_batch) for run in runs]
        images, labels = next(split.batches([torch.cat([run.next_rows() for run in runs])]))
        plain = all(not run.pipeline and run.parts.splits is first.parts.splits for run in runs)
        if plain:
            images = first.normalize(images)
        parts = zip(runs, images.split(first.batch_size), labels.split(first.batch_size))
        return [by(run, run.mix if plain else run.augment, *part, run.augmenting) for run, *part in parts]

    def undo(self) -> None:
        """Forgets the batches of a step that failed."""
        for run, state in self._draws:
            run.augmenting.set_state(state)
        for bundle in self.bundles:
            for run in bundle.runs:
                run.rewind(losses=False)

    def gradients(self, runs: list[TrainState], batches: list[Batch]) -> list[Tensor]:
        if batches[0].repeated:
            raise RuntimeError(f"{type(runs[0].optimizer).__name__} looks at the loss more than once a step")
        mine = {id(run): batch for run, batch in zip(runs, batches)}
        losses: dict[int, Tensor] = {}
        todo = self.bundles
        self.bundles = []
        while todo:
            bundle = todo.pop(0).only(mine)
            if bundle is None:
                continue
            try:
                losses |= zip(map(id, bundle.runs), bundle.gradients([mine[id(run)] for run in bundle.runs]))
            except Exception as error:
                if not memory.is_out_of_memory(error) or len(bundle.runs) == 1:
                    self.bundles += [bundle, *todo]
                    raise
                todo = [*bundle.halves(), *todo]
            else:
                self.bundles.append(bundle)
        return [losses[id(run)] for run in runs]

    def replay(self, runs: list[TrainState], capture: Capture, must: bool) -> list[Replays]:
        return [bundle.replay(capture, must) for bundle in self.bundles]

    def measure(self, runs: list[TrainState]) -> dict[int, EvaluationResult]:
        """Where memory does not suffice, each looks by itself."""
        wanted = {id(run) for run in runs}
        found: dict[int, EvaluationResult] = {}
        for bundle in self.bundles:
            try:
                found |= bundle.measure([run for run in bundle.runs if id(run) in wanted])
            except Exception as error:
                if not memory.is_out_of_memory(error):
                    raise
        return found

    def update(self, runs: list[TrainState], objectives: list[Objective]) -> None:
        apart = {id(run) for bundle in self.bundles for run in bundle.apart}
        for run, objective in zip(runs, objectives):
            if id(run) not in apart:
                run.clip_gradients()
                continue
            try:
                run.update(objective)
            except Exception as error:
                if self.on_failure is None:
                    raise
                self.on_failure(run, error)
        for bundle in self.bundles:
            bundle.step()


def _compared(groups: list[list[TrainState]], mapped: bool) -> list[StackedRuns]:
    """Return runs in shared networks. Raises `Incompatible` where these give other logits than each run's own, which
    each then has again."""
    bundles = [StackedRuns(some, mapped) for some in groups]
    try:
        for bundle in bundles:
            bundle.compare()
    except Incompatible:
        for bundle in bundles:
            bundle.unstack()
        raise
    return bundles


def _seated(runs: list[TrainState]) -> list[list[TrainState]]:
    """The runs by programs, in which each has a place of its own: one, unless they come from several."""
    found: list[list[TrainState]] = []
    for run in sorted(runs, key=lambda run: run.slot or (0, 0, 0)):
        for some in found:
            if run.slot is None or _fits(run.slot, [other.slot for other in some]):
                some.append(run)
                break
        else:
            found.append([run])
    return found


def _due(runs: list[TrainState]) -> list[TrainState]:
    """Those at the earliest step, where any of them have something in common."""
    if not any(run.slot is not None and run.slot.common for run in runs):
        return runs
    least = min(run.progress.step for run in runs)
    return [run for run in runs if run.progress.step == least]


def _fits(seat: Slot, taken: list[Slot | None]) -> bool:
    """Whether a place is free in the program of those who have these."""
    return all(other is not None and other[1:] == seat[1:] and other != seat for other in taken)
