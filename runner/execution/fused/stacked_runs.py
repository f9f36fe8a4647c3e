"""Stacked runs: gradients, optimizer steps and validation of runs in one stacked network."""

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
from runner.execution.fused.optimizer import StackedOptimizer, stacking_key
from runner.model.noise import noisy
from runner.model.train_mode import set_mode
from runner.train.batch import Batch
from runner.train.protocols import Capture
from runner.train.slot import APART, NOISE, Slot
from runner.train.state import TrainState

log = logging.getLogger(__name__)


class StackedRuns:
    """Runs in one stacked network, each in its slot (`TrainState.slot`).

    The rounding of a run's results depends on its slot and on the number of slots.
    """

    def __init__(self, runs: list[TrainState], mapped: bool = False):
        self.runs, self._mapped = runs, mapped
        self._rows, count, common = list(range(len(runs))), len(runs), APART
        if runs[0].slot is not None:
            self._rows, (_, count, common) = [run.slot.row for run in runs], runs[0].slot
        slots: list[TrainState | None] = [None] * count
        for row, run in zip(self._rows, runs):
            slots[row] = run
        self.network = StackedNetwork([None if run is None else run.model for run in slots], mapped, common == NOISE)
        self.passes = Passes(runs, self.network, self._rows, shared=common > APART)
        for run in runs:
            run.lay_out()
        if (features := runs[0].features) is not None:
            self.network.enter(features.cut, runs[0].device)
        keys = [None if run is None else stacking_key(run) for run in slots]
        self._optimizers = [
            StackedOptimizer(slots[first : first + length], first, self.network.stacks)
            for key, first, length in _consecutive(keys)
            if key is not None
        ]
        self._is_separate = [keys[row] is None for row in self._rows]
        self.separate_runs = [run for run, separate in zip(runs, self._is_separate) if separate]  # take their own steps
        separate = zip(runs, self._rows, self._is_separate)
        self._direct_stacks = [self._find_stacks(run, row) if own else None for run, row, own in separate]
        self._with_grad: list[Tensor] = []  # parameters with a row of a gradient
        self._noisy = any(noisy(run.model) for run in runs)
        self.replays: Replays | None = None  # computes the gradients by CUDA graph
        self.graphs: tuple[Capture, bool] | None = None  # arguments of `replay`

    def replay(self, capture: Capture, must: bool) -> Replays:
        """Replay the gradients from now on. `must`: raise if capture is impossible."""
        self.graphs = capture, must
        stacks = [stack for stack, _ in self.network.stacks]
        tensors = [*stacks, *(stack for stack, _ in self.network.statistics)]
        self.replays = Replays(self.runs, stacks, tensors, self.passes, capture, must, self._eager)
        return self.replays

    def remake(self, runs: list[TrainState]) -> "StackedRuns":
        """Stack a part of the runs again in the same way, without a comparison."""
        stacked = StackedRuns(runs, self._mapped)
        stacked.passes.takes_broadcast = self.passes.takes_broadcast
        if self.graphs is not None:
            stacked.replay(*self.graphs)
        return stacked

    def keep_only(self, ids: Container[int]) -> "StackedRuns | None":
        """Return the stacked runs with these ids alone; None if there are none."""
        left = [run for run in self.runs if id(run) in ids]
        if len(left) == len(self.runs):
            return self
        self.unstack()
        return self.remake(left) if left else None

    def split(self) -> list["StackedRuns"]:
        """Return two stacks of half the size."""
        log.warning("out of memory: %d runs that share a program go on in two halves", len(self.runs))
        self.unstack()
        for run in self.runs:
            for p in run.model.parameters():
                p.grad = None
        middle = len(self.runs) // 2
        parts = self.runs[:middle], self.runs[middle:]
        device = self.runs[0].device
        del self.network, self.passes.network, self._optimizers, self.replays
        memory.free(device)
        for part in parts:
            for row, run in enumerate(part):
                run.slot = Slot(row, len(part), run.slot.common if run.slot else APART)
        return [self.remake(part) for part in parts]

    def unstack(self) -> None:
        """Give each run its own copies of weights and state."""
        self._clear_gradients()
        for optimizer in self._optimizers:
            optimizer.unstack()
        self.network.unstack()
        for run in self.runs:
            run.model.to(memory_format=run.memory_format)
            run.lay_out()

    def step(self) -> None:
        """Take the stacked optimizers' steps."""
        for optimizer in self._optimizers:
            optimizer.step()

    def gradients(self, batches: list[Batch]) -> Tensor:
        """Return losses `[N]`; set the gradients of the stacks, and of those runs' own parameters that need them."""
        self._clear_gradients()
        losses = self._eager(batches) if self.replays is None else self.replays(batches)
        self._set_own_gradients()
        return losses

    def compare(self) -> None:
        """Raise `Incompatible` if the stacked network's logits differ from those of each run's own network."""
        self.passes.compare(self._mapped)

    def _eager(self, batches: list[Batch]) -> Tensor:
        """Compute losses `[N]` and gradients eagerly; restore generators and statistics after an error."""
        draws = [run.noise.get_state() for run in self.runs] if self._noisy else []
        statistics = [(stack, stack.clone()) for stack, _ in self.network.statistics]
        try:
            return self.passes(batches)
        except Exception:  # perhaps out of memory: then two halves repeat the step
            self._with_grad = [p for _, own in self.network.stacks for p in own]  # because penalties may have set some
            for run, state in zip(self.runs, draws):
                run.noise.set_state(state)
            for stack, earlier in statistics:
                stack.copy_(earlier)
            raise

    def measure(self, runs: list[TrainState]) -> dict[int, EvaluationResult]:
        """Validate the runs that watch their own network, not an average, in one pass; return results by `id(run)`."""
        first, count = self.runs[0], self.network.count
        own = [run for run in runs if run.ensemble.watched(run) is run.model]
        ids = {id(run) for run in own if run.parts.splits is first.parts.splits}
        if not ids:
            return {}
        for run in self.runs:
            set_mode(run.model, training=False)
        split, normalize = first.val_split, first.normalize
        if first.features is not None:
            split, normalize = first.features.split(split)
        options = first.autocast, first.batch_size, first.num_classes
        try:  # with empty slots, so that a run's result does not depend on the other runs
            results = evaluate_all(lambda x: self.network(self.passes.share(x)), count, split, normalize, *options)
        finally:
            for run in self.runs:
                run.train_mode()
        return {id(run): results[row] for run, row in zip(self.runs, self._rows) if id(run) in ids}

    def _find_stacks(self, run: TrainState, row: int) -> list[int] | None:
        """Return the indices of the stacks with the weights of a run's direct steps; None if it has none."""
        if run.direct is None:
            return None
        index_of = {id(own[row]): number for number, (_, own) in enumerate(self.network.stacks)}
        return [index_of[id(p)] for p in run.direct.weights]

    def _set_own_gradients(self) -> None:
        """Set the gradients of runs with separate steps, and of runs that clip or probe them."""
        needs_grad = [run.clip is not None or run.probe.due(run.progress.step) for run in self.runs]
        if not self.separate_runs and not any(needs_grad):
            return
        rows = [() if stack.grad is None else stack.grad.unbind(0) for stack, _ in self.network.stacks]
        columns = zip(self.runs, self._rows, self._is_separate, self._direct_stacks, needs_grad)
        for run, row, is_separate, stacks, needs in columns:
            if not needs and stacks is not None and all(rows[number] for number in stacks):
                run.direct.gradients = [rows[number][row] for number in stacks]
            elif needs or is_separate:
                for gradients, (_, own) in zip(rows, self.network.stacks):
                    if gradients:
                        own[row].grad = gradients[row]
                        self._with_grad.append(own[row])

    def _clear_gradients(self) -> None:
        """Delete the runs' own gradients, so that they are not accumulated or used in a later step."""
        for p in self._with_grad:
            p.grad = None
        self._with_grad = []
        for run in self.runs:
            if run.direct is not None:
                run.direct.gradients = None


def _consecutive(keys: list[str | None]) -> Iterator[tuple[str | None, int, int]]:
    """Yield groups of equal neighbors: key, index of the first, length."""
    first = 0
    for key, group in itertools.groupby(keys):
        length = len(list(group))
        yield key, first, length
        first += length
