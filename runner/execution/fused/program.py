"""Fused program: one forward and backward pass and one optimizer step for several runs."""

from collections import defaultdict
from typing import Any

import torch
from torch import Tensor

from runner.core import memory
from runner.data.splits import ResidentSplit
from runner.evaluation.metrics import EvaluationResult
from runner.execution.cuda_graph.replay import Replays
from runner.execution.fused.compatible import compatibility_key, refusal, same_batches, structure
from runner.execution.fused.errors import Incompatible, call_for
from runner.execution.fused.network import mappable
from runner.execution.fused.stacked_runs import StackedRuns
from runner.train.batch import Batch
from runner.train.program import Objective, OnFailure, Program
from runner.train.protocols import Capture
from runner.train.slot import Slot
from runner.train.state import TrainState


class FusedProgram(Program):
    """Program of runs with one network structure. Raises `Incompatible` if they cannot share a program.

    A run that ends leaves its slot empty, so that no run's results depend on others. If memory runs out, the runs
    continue in two halves.
    """

    def __init__(self, runs: list[TrainState]):
        for reason in filter(None, map(refusal, runs)):
            raise Incompatible(reason)
        if len({(structure(run.model), compatibility_key(run)) for run in runs}) > 1:
            raise Incompatible("their networks, batches or devices differ")
        self._stack(runs)
        self._draws: list[tuple[TrainState, Tensor]] = []  # augmentation generators' states before the step's batches
        self.on_failure: OnFailure | None = None  # called if a run's own optimizer fails

    def _stack(self, runs: list[TrainState]) -> None:
        """Stack the networks of the runs that are due first."""
        first = _due(runs)
        self.bundles = self._choose_bundles(_group_by_program(first))
        self._batch_sets = same_batches(first)

    def due(self, runs: list[TrainState]) -> list[TrainState]:
        """Return the runs at the earliest step, if runs share batches or noise; else all runs."""
        # because after a kill, checkpoints of the runs may be of different steps
        due = _due(runs)
        stacked = {id(run) for bundle in self.bundles for run in bundle.runs}
        if not stacked.issuperset(map(id, due)):
            graphs = self.bundles[0].graphs
            self.unstack()
            self._stack(runs)
            if graphs is not None:
                self.replay(due, *graphs)
        return due

    def _choose_bundles(self, groups: list[list[TrainState]]) -> list[StackedRuns]:
        """Stack networks by channels; if that shares nothing or changes the logits, by vmap."""
        runs = [run for group in groups for run in group]
        reason = mappable([run.model for run in runs]) if runs[0].features is None else "features are kept"
        try:
            bundles = _make_bundles(groups, mapped=False)
        except Incompatible as error:
            if reason:
                raise Incompatible(f"{error}; nor by torch.func.vmap: {reason}") from error
            return _make_bundles(groups, mapped=True)
        if reason or not bundles[0].network.shares_nothing:
            return bundles
        for bundle in bundles:
            bundle.unstack()
        try:
            return _make_bundles(groups, mapped=True)
        except Incompatible:
            return _make_bundles(groups, mapped=False)

    def unstack(self) -> None:
        """Give each run its own copies of weights and state, so that it can train alone."""
        for bundle in self.bundles:
            bundle.unstack()

    def restack(self) -> None:
        """Stack the same runs again after `unstack`, with their current state."""
        self.bundles = [bundle.remake(bundle.runs) for bundle in self.bundles]

    def batches(self, runs: list[TrainState]) -> list[Batch]:
        """Return a batch for each run; runs with equal batches share one."""
        self._draws = []
        sharing: dict[Any, list[TrainState]] = defaultdict(list)
        for run in runs:
            sharing[self._batch_sets[id(run)], run.progress.step].append(run)
        firsts = [group[0] for group in sharing.values()]
        drawing = [group for group in sharing.values() if group[0].pipeline or group[0].mixers]
        for first, *others in drawing:
            state = first.augmenting.get_state()
            self._draws += [(run, state) for run in (first, *others)]
        batches = self._make_batches(firsts)
        for first, *others in drawing:
            if others:
                state = first.augmenting.get_state()
                for run in others:
                    run.augmenting.set_state(state)
        batch_of = {id(run): batch for group, batch in zip(sharing.values(), batches) for run in group}
        return [batch_of[id(run)] for run in runs]

    def _make_batches(self, runs: list[TrainState]) -> list[Batch]:
        """Return a batch for each run; index a resident split and normalize images once for all if possible."""
        first, split = runs[0], runs[0].train_split
        is_separate = first.features is not None or not isinstance(split, ResidentSplit)
        if is_separate or any(run.train_split is not split for run in runs):
            return [call_for(run, run.next_batch) for run in runs]
        images, labels = next(split.batches([torch.cat([run.next_rows() for run in runs])]))
        plain = all(not run.pipeline and run.parts.splits is first.parts.splits for run in runs)
        if plain:
            images = first.normalize(images)
        parts = zip(runs, images.split(first.batch_size), labels.split(first.batch_size))
        return [call_for(run, run.mix if plain else run.augment, *part, run.augmenting) for run, *part in parts]

    def undo(self) -> None:
        """Discard the batches of a failed step and restore the generators."""
        for run, state in self._draws:
            run.augmenting.set_state(state)
        for bundle in self.bundles:
            for run in bundle.runs:
                run.rewind(losses=False)

    def gradients(self, runs: list[TrainState], batches: list[Batch]) -> list[Tensor]:
        if batches[0].repeated:
            raise RuntimeError(f"{type(runs[0].optimizer).__name__} looks at the loss more than once a step")
        batch_of = {id(run): batch for run, batch in zip(runs, batches)}
        losses: dict[int, Tensor] = {}
        queue = self.bundles
        self.bundles = []
        while queue:
            bundle = queue.pop(0).keep_only(batch_of)
            if bundle is None:
                continue
            try:
                losses |= zip(map(id, bundle.runs), bundle.gradients([batch_of[id(run)] for run in bundle.runs]))
            except Exception as error:
                if not memory.is_out_of_memory(error) or len(bundle.runs) == 1:
                    self.bundles += [bundle, *queue]
                    raise
                queue = [*bundle.split(), *queue]
            else:
                self.bundles.append(bundle)
        return [losses[id(run)] for run in runs]

    def replay(self, runs: list[TrainState], capture: Capture, must: bool) -> list[Replays]:
        return [bundle.replay(capture, must) for bundle in self.bundles]

    def measure(self, runs: list[TrainState]) -> dict[int, EvaluationResult]:
        """Return validation results by `id(run)`, without runs that memory does not suffice for."""
        ids = {id(run) for run in runs}
        results: dict[int, EvaluationResult] = {}
        for bundle in self.bundles:
            try:
                results |= bundle.measure([run for run in bundle.runs if id(run) in ids])
            except Exception as error:
                if not memory.is_out_of_memory(error):
                    raise
        return results

    def update(self, runs: list[TrainState], objectives: list[Objective]) -> None:
        separate = {id(run) for bundle in self.bundles for run in bundle.separate_runs}
        for run, objective in zip(runs, objectives):
            if id(run) not in separate:
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


def _make_bundles(groups: list[list[TrainState]], mapped: bool) -> list[StackedRuns]:
    """Stack groups of runs and compare the logits with those of each run's own network.

    Raises `Incompatible` if they differ; the runs are then unstacked.
    """
    bundles = [StackedRuns(group, mapped) for group in groups]
    try:
        for bundle in bundles:
            bundle.compare()
    except Incompatible:
        for bundle in bundles:
            bundle.unstack()
        raise
    return bundles


def _group_by_program(runs: list[TrainState]) -> list[list[TrainState]]:
    """Return groups of runs with distinct slots of one program; several only if the runs come from several programs."""
    groups: list[list[TrainState]] = []
    for run in sorted(runs, key=lambda run: run.slot or (0, 0, 0)):
        for group in groups:
            if run.slot is None or _fits(run.slot, [member.slot for member in group]):
                group.append(run)
                break
        else:
            groups.append([run])
    return groups


def _due(runs: list[TrainState]) -> list[TrainState]:
    """Return the runs at the earliest step, if runs share batches or noise; else all runs."""
    if not any(run.slot is not None and run.slot.common for run in runs):
        return runs
    least = min(run.progress.step for run in runs)
    return [run for run in runs if run.progress.step == least]


def _fits(slot: Slot, taken: list[Slot | None]) -> bool:
    """Return whether a slot belongs to the program of the taken slots and is free."""
    return all(other is not None and other[1:] == slot[1:] and other != slot for other in taken)
