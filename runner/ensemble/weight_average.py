"""What `ema`, `swa` and `polyak` share: a second network whose weights are a mean of the run's weights."""

import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from runner.core.seeds import generator
from runner.ensemble.base import Ensemble
from runner.ensemble.batch_norm import batch_norms, estimate
from runner.ensemble.training_run import TrainingRun
from runner.model.noise import sampled


class WeightAverage(Ensemble):
    """One network answers: the average, which is also validated while the run trains, from its first weights on.

    torch's `swa_utils.AveragedModel` would wait for the device in every step, to read its counter there.
    """

    count_averaged: int  # weights in the average so far

    def due(self, run: TrainingRun) -> bool:
        """Whether the weights after this step enter the average."""
        raise NotImplementedError

    def share(self) -> float:
        """The part of the new weights in the average."""
        return 1 / (self.count_averaged + 1)

    def estimate_norms(self, run: TrainingRun) -> None:
        """At the end of an epoch, before validation: what weights alone do not give."""

    def begin(self, run: TrainingRun) -> None:
        self.network = copy.deepcopy(run.model).requires_grad_(False).eval()
        self.count_averaged = 0
        # Parameters and buffers themselves, not their storage, which an optimizer may replace.
        pairs = list(zip(_tensors(self.network), _tensors(run.model), strict=True))
        self._means = [pair for pair in pairs if pair[0].is_floating_point()]
        self._counts = [pair for pair in pairs if not pair[0].is_floating_point()]

    @torch.no_grad()
    def after_step(self, run: TrainingRun) -> None:
        if self.due(run):
            means, now = zip(*self._means)
            torch._foreach_lerp_(means, now, self.share())
            if self._counts:
                torch._foreach_copy_(*zip(*self._counts))
            if not self.count_averaged:
                self.start(run)
            self.count_averaged += 1
        if self.count_averaged and (run.progress.step + 1) % run.steps_per_epoch == 0:
            self.estimate_norms(run)

    def start(self, run: TrainingRun) -> None:
        """The first weights are in: what was best before was another network."""
        progress = run.progress
        progress.best = progress.best_weights = progress.watched = None
        progress.waited = 0

    def after_epoch(self, run: TrainingRun, row: Mapping[str, float | int | None]) -> None:
        if not self.count_averaged:  # a run that stops before there is an average would have none
            run.progress.stopped, run.progress.watched, run.progress.waited = False, None, 0

    def watched(self, run: TrainingRun) -> nn.Module:
        return self.network if self.count_averaged else run.model

    def compared(self, runs: Sequence[TrainingRun]) -> list[nn.Module]:
        return [run.model for run in runs]

    def state_dict(self) -> dict[str, Any]:
        return {"network": self.network.state_dict(), "count": self.count_averaged}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.network.load_state_dict(state["network"])
        self.count_averaged = state["count"]


class EstimatedAverage(WeightAverage):
    """An average whose batch-norm statistics are estimated anew, for those of its weights are no mean of theirs."""

    def estimate_norms(self, run: TrainingRun) -> None:
        run.transfer.train_mode(self.network, run.progress.step // run.steps_per_epoch)
        if batch_norms(self.network):
            draws = generator(run.config["seed"], f"batch norm statistics of step {run.progress.step}", run.device)
            with sampled(self.network, draws), run.autocast():
                estimate(self.network, training_images(run))
        self.network.eval()


def training_images(run: TrainingRun) -> Iterator[Tensor]:
    """All training images but for the last, smaller batch, shuffled, and not augmented: as a test has them."""
    draw = generator(run.config["seed"], "batch norm statistics")
    order = torch.randperm(len(run.train_split), generator=draw).to(run.train_split.device)
    size = -(-run.batch_size // run.accumulate)
    rows = order[: len(order) // size * size].view(-1, size)
    return (run.normalize(images) for images, _ in run.train_split.batches(rows))


def _tensors(model: nn.Module) -> list[Tensor]:
    return [*model.parameters(), *model.buffers()]
