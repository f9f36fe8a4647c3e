"""Runs in one network: their gradients in one pass, their steps, and their validation."""

import itertools
import logging
from collections.abc import Container, Iterator

from torch import Tensor

from runner.core import memory
from runner.evaluation.evaluate import evaluate_all
from runner.evaluation.metrics import EvaluationResult
from runner.execution.cuda_graph.replay import Replays
from runner.execution.fused.gradients import Passes
from runner.execution.fused.network import StackedNetwork
from runner.execution.fused.optimizer import StackedOptimizer, kind
from runner.model.noise import noisy
from runner.model.train_mode import set_mode
from runner.train.batch import Batch
from runner.train.protocols import Capture
from runner.train.slot import APART, NOISE, Slot
from runner.train.state import TrainState

log = logging.getLogger(__name__)


class StackedRuns:
    """Runs in one network, each in its place (`TrainState.slot`): its last digits depend on that, and on how many
    there are."""

    def __init__(self, runs: list[TrainState], mapped: bool = False):
        self.runs, self._mapped = runs, mapped
        self._rows, count, common = list(range(len(runs))), len(runs), APART
        if runs[0].slot is not None:
            self._rows, (_, count, common) = [run.slot.row for run in runs], runs[0].slot
        places: list[TrainState | None] = [None] * count
        for row, run in zip(self._rows, runs):
            places[row] = run
        self.network = StackedNetwork([None if run is None else run.model for run in places], mapped, common == NOISE)
        self.passes = Passes(runs, self.network, self._rows, shared=common > APART)
        for run in runs:
            run.lay_out()
        if (features := runs[0].features) is not None:
            self.network.enter(features.cut, runs[0].device)
        kinds = [None if run is None else kind(run) for run in places]
        self._together = [
            StackedOptimizer(places[first : first + many], first, self.network.stacks)
            for found, first, many in _stretches(kinds)
            if found is not None
        ]
        self._own = [kinds[row] is None for row in self._rows]  # whose steps are their own
        self.apart = [run for run, own in zip(runs, self._own) if own]
        self._directs = [self._moved(run, row) if own else None for run, row, own in zip(runs, self._rows, self._own)]
        self._shown: list[Tensor] = []  # weights that were given their gradients
        self._noisy = any(noisy(run.model) for run in runs)
        self.replays: Replays | None = None  # what gradients come from, where they are a CUDA graph
        self.graphs: tuple[Capture, bool] | None = None  # how they are made

    def replay(self, capture: Capture, must: bool) -> Replays:
        """From now on the gradients are replayed. `must`: what cannot be captured is an error."""
        self.graphs = capture, must
        stacks = [stack for stack, _ in self.network.stacks]
        held = [*stacks, *(stack for stack, _ in self.network.statistics)]
        self.replays = Replays(self.runs, stacks, held, self.passes, capture, must, self._eager)
        return self.replays

    def like(self, runs: list[TrainState]) -> "StackedRuns":
        """Of these of its runs: they need not be compared again, and their steps are done in the same way."""
        found = StackedRuns(runs, self._mapped)
        found.passes.takes_once = self.passes.takes_once
        if self.graphs is not None:
            found.replay(*self.graphs)
        return found

    def only(self, wanted: Container[int]) -> "StackedRuns | None":
        """With those of its runs alone that have these ids; None where there is none."""
        left = [run for run in self.runs if id(run) in wanted]
        if len(left) == len(self.runs):
            return self
        self.unstack()
        return self.like(left) if left else None

    def halves(self) -> list["StackedRuns"]:
        """Two of half the size."""
        log.warning("out of memory: %d runs that share a program go on in two halves", len(self.runs))
        self.unstack()
        for run in self.runs:
            for p in run.model.parameters():
                p.grad = None
        middle = len(self.runs) // 2
        parts = self.runs[:middle], self.runs[middle:]
        device = self.runs[0].device
        del self.network, self.passes.network, self._together, self.replays
        memory.free(device)
        for part in parts:
            for row, run in enumerate(part):
                run.slot = Slot(row, len(part), run.slot.common if run.slot else APART)
        return [self.like(part) for part in parts]

    def unstack(self) -> None:
        """Gives each run all that is its own."""
        self._take_back()
        for together in self._together:
            together.unstack()
        self.network.unstack()
        for run in self.runs:
            run.model.to(memory_format=run.memory_format)
            run.lay_out()

    def step(self) -> None:
        """Those optimizers' steps that are taken together."""
        for together in self._together:
            together.step()

    def gradients(self, batches: list[Batch]) -> Tensor:
        """Losses `[N]`; the gradients stand in the stacks, and in the parameters of who wants to see them."""
        self._take_back()
        total = self._eager(batches) if self.replays is None else self.replays(batches)
        self._hand_out()
        return total

    def compare(self) -> None:
        """Raises `Incompatible` where the shared network gives other logits than each run's own."""
        self.passes.compare(self._mapped)

    def _eager(self, batches: list[Batch]) -> Tensor:
        """Losses `[N]`, kernel by kernel; where that fails, everything stands as it stood."""
        draws = [run.noise.get_state() for run in self.runs] if self._noisy else []
        statistics = [(stack, stack.clone()) for stack, _ in self.network.statistics]
        try:
            return self.passes(batches)
        except Exception:  # perhaps for memory: then halves begin where this began
            self._shown = [p for _, own in self.network.stacks for p in own]  # penalties' may stand in some
            for run, state in zip(self.runs, draws):
                run.noise.set_state(state)
            for stack, before in statistics:
                stack.copy_(before)
            raise

    def measure(self, runs: list[TrainState]) -> dict[int, EvaluationResult]:
        """By id, what the validation split's one pass found of those of these runs whose own network is watched."""
        first, count = self.runs[0], self.network.count
        own = [run for run in runs if run.ensemble.watched(run) is run.model]
        asked = {id(run) for run in own if run.parts.splits is first.parts.splits}
        if not asked:
            return {}
        for run in self.runs:
            set_mode(run.model, training=False)
        split, normalize = first.val_split, first.normalize
        if first.features is not None:
            split, normalize = first.features.split(split)
        options = first.autocast, first.batch_size, first.num_classes
        try:  # empty places too: what is found of a run is the same, whoever else is left
            found = evaluate_all(lambda x: self.network(self.passes.same(x)), count, split, normalize, *options)
        finally:
            for run in self.runs:
                run.train_mode()
        return {id(run): found[row] for run, row in zip(self.runs, self._rows) if id(run) in asked}

    def _moved(self, run: TrainState, row: int) -> list[int] | None:
        """Numbers of the stacks whose rows a run's steps move, in their order; None where they are not direct."""
        if run.direct is None:
            return None
        places = {id(own[row]): number for number, (_, own) in enumerate(self.network.stacks)}
        return [places[id(p)] for p in run.direct.weights]

    def _hand_out(self) -> None:
        """Gradients of single runs to their direct steps, and to those that look at theirs."""
        looks = [run.clip is not None or run.probe.due(run.progress.step) for run in self.runs]
        if not self.apart and not any(looks):
            return
        rows = [() if stack.grad is None else stack.grad.unbind(0) for stack, _ in self.network.stacks]
        for run, row, own_step, moved, looking in zip(self.runs, self._rows, self._own, self._directs, looks):
            if not looking and moved is not None and all(rows[number] for number in moved):
                run.direct.given = [rows[number][row] for number in moved]
            elif looking or own_step:
                for found, (_, own) in zip(rows, self.network.stacks):
                    if found:
                        own[row].grad = found[row]
                        self._shown.append(own[row])

    def _take_back(self) -> None:
        """Gradients that were handed out: none may be added to them, or be taken for another step's."""
        for p in self._shown:
            p.grad = None
        self._shown = []
        for run in self.runs:
            if run.direct is not None:
                run.direct.given = None


def _stretches(kinds: list[str | None]) -> Iterator[tuple[str | None, int, int]]:
    """Neighbours that are alike: what, from which place on, how many."""
    first = 0
    for found, group in itertools.groupby(kinds):
        many = len(list(group))
        yield found, first, many
        first += many
