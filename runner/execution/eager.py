"""Eager execution: each run computes its gradients with its own network, micro-batch by micro-batch."""

import functools

from torch import Tensor

from runner.execution.cuda_graph.replay import Replays
from runner.train.batch import Batch
from runner.train.program import Program
from runner.train.protocols import Capture
from runner.train.state import TrainState


class EagerProgram(Program):
    """Program of runs that compute separately, eagerly or by CUDA graph replays."""

    def gradients(self, runs: list[TrainState], batches: list[Batch]) -> list[Tensor]:
        return [
            gradients(run, batch) if run.replays is None or batch.repeated else run.replays([batch])
            for run, batch in zip(runs, batches)
        ]

    def replay(self, runs: list[TrainState], capture: Capture, must: bool) -> list[Replays]:
        for run in runs:
            tensors = [*run.model.parameters(), *run.model.buffers()]
            run.replays = Replays([run], run.trained, tensors, functools.partial(_gradients, run), capture, must)
        return [run.replays for run in runs]


def _gradients(run: TrainState, batches: list[Batch]) -> Tensor:
    return gradients(run, batches[0])


def gradients(run: TrainState, batch: Batch) -> Tensor:
    """Compute the gradients of one run on its batch and return the loss."""
    run.optimizer.zero_grad()
    total = None
    for part in batch.split(run.accumulate):
        loss = run.loss(part)
        run.backward(loss)
        total = loss.detach() if total is None else total + loss.detach()
    return total
