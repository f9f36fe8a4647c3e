"""Weight averaging, the base of `ema`, `swa`, `polyak` and `lookahead`: a second network with averaged weights."""

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
    """Average of the run's weights: after its first update, the network that is validated and that predicts."""

    # not torch's `swa_utils.AveragedModel`, because it synchronizes with the device every step to read its counter

    count_averaged: int  # updates of the average so far

    def due(self, run: TrainingRun) -> bool:
        """Return whether the average is updated after this step."""
        raise NotImplementedError

    def share(self) -> float:
        """Return the weight of the newest weights in the average."""
        return 1 / (self.count_averaged + 1)

    def estimate_norms(self, run: TrainingRun) -> None:
        """Estimate batch-norm statistics at the end of an epoch, before validation."""

    def begin(self, run: TrainingRun) -> None:
        self.network = copy.deepcopy(run.model).requires_grad_(False).eval()
        self.count_averaged = 0
        # tensors, not their storage, because an optimizer may replace it
        pairs = list(zip(_tensors(self.network), _tensors(run.model), strict=True))
        self._pairs = [pair for pair in pairs if pair[0].is_floating_point()]  # (average, current)
        self._counters = [pair for pair in pairs if not pair[0].is_floating_point()]

    @torch.no_grad()
    def after_step(self, run: TrainingRun) -> None:
        if self.due(run):
            averages, current = zip(*self._pairs)
            torch._foreach_lerp_(averages, current, self.share())
            if self._counters:
                torch._foreach_copy_(*zip(*self._counters))
            if not self.count_averaged:
                self.start(run)
            self.count_averaged += 1
        if self.count_averaged and (run.progress.step + 1) % run.steps_per_epoch == 0:
            self.estimate_norms(run)

    def start(self, run: TrainingRun) -> None:
        """Reset early stopping and the best weights: so far they were about another network."""
        progress = run.progress
        progress.best = progress.best_weights = progress.watched = None
        progress.waited = 0

    def after_epoch(self, run: TrainingRun, row: Mapping[str, float | int | None]) -> None:
        if not self.count_averaged:  # keep training until there is an average
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
    """Weight average that estimates its batch-norm statistics on training images instead of averaging them."""

    def estimate_norms(self, run: TrainingRun) -> None:
        run.transfer.train_mode(self.network, run.progress.step // run.steps_per_epoch)
        if batch_norms(self.network):
            draws = generator(run.config["seed"], f"batch norm statistics of step {run.progress.step}", run.device)
            with sampled(self.network, draws), run.autocast():
                estimate(self.network, training_images(run))
        self.network.eval()


def training_images(run: TrainingRun) -> Iterator[Tensor]:
    """Yield shuffled batches of the training images, not augmented, without the last incomplete batch."""
    draws = generator(run.config["seed"], "batch norm statistics")
    order = torch.randperm(len(run.train_split), generator=draws).to(run.train_split.device)
    size = -(-run.batch_size // run.accumulate)
    rows = order[: len(order) // size * size].view(-1, size)
    return (run.normalize(images) for images, _ in run.train_split.batches(rows))


def _tensors(model: nn.Module) -> list[Tensor]:
    return [*model.parameters(), *model.buffers()]
