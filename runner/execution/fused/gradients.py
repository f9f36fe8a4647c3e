"""Losses and gradients of fused runs: forward and backward passes of the stacked network."""

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from runner.core.text import first_line
from runner.evaluation.softmax import padded
from runner.execution.closeness import TOLERANCE, distance
from runner.execution.fused.broadcast import broadcast, repeat_channels
from runner.execution.fused.errors import Incompatible, call_for
from runner.execution.fused.network import StackedNetwork
from runner.execution.trial import untouched
from runner.model.train_mode import set_mode
from runner.train.batch import Batch
from runner.train.state import TrainState

SMALL = 1e-6  # smallest divisor of relative differences of logits


class Passes:
    """Computes losses and gradients of a batch of each run; the gradients are stored in the stacks."""

    def __init__(self, runs: list[TrainState], network: StackedNetwork, rows: list[int], shared: bool):
        """rows: each run's slot in the network. shared: whether all runs train on the same images."""
        self.runs, self.network, self.rows, self._shared = runs, network, rows, shared
        self.takes_broadcast = True  # whether the network takes `Broadcast` images

    def __call__(self, batches: list[Batch]) -> Tensor:
        """Return the losses `[N]`; set the gradients of the stacks."""
        counts: list[tuple[Tensor, tuple[Batch, ...]]] = []
        for stack, _ in self.network.stacks:
            stack.grad = None
        total = None
        for parts in zip(*(batch.split(self.runs[0].accumulate) for batch in batches)):
            loss, predictions = self._loss(parts)
            loss.sum().backward()
            counts.append((predictions, parts))
            total = loss.detach() if total is None else total + loss.detach()
        for predictions, parts in counts:
            for row, (run, batch) in enumerate(zip(self.runs, parts)):
                run.meter.count(predictions[:, row], batch.labels)
        self._add_penalty_gradients()
        return total

    def _loss(self, batches: tuple[Batch, ...]) -> tuple[Tensor, Tensor]:
        """Return losses `[N]` and predictions `[B, N]` of a (micro-)batch of each run."""
        with self.runs[0].autocast():
            logits = self._logits([batch.images for batch in batches])
            losses = _cross_entropies(logits, batches)
        terms = {
            row: call_for(run, run.penalty, logits[:, row], batch)
            for row, (run, batch) in enumerate(zip(self.runs, batches))
            if run.penalties or run.output_penalties
        }
        if terms:
            zero = losses.new_zeros(())
            losses = losses + torch.stack([terms.get(row, zero) for row in range(len(self.runs))])
        predictions = logits.detach().argmax(2)
        return losses if batches[0].share == 1.0 else losses * batches[0].share, predictions

    def _logits(self, images: list[Tensor]) -> Tensor:
        """Return logits `[B, N, K]` of images `[B, C, H, W]` for each run; empty slots get zeros and are left out."""
        if self._shared:
            logits = self.network(self.share(images[0]))
            return logits if self.network.count == len(images) else _select(logits, self.rows)
        if self.network.count == len(images):
            return self.network(torch.cat(images, 1))
        parts = [torch.zeros_like(images[0])] * self.network.count
        for row, own in zip(self.rows, images):
            parts[row] = own
        return _select(self.network(torch.cat(parts, 1)), self.rows)

    def share(self, images: Tensor) -> Tensor:
        """Return images for all networks, in the form that the stacked network takes."""
        shared = broadcast(images)
        return shared if self.takes_broadcast else repeat_channels(shared, self.network.count)

    def _add_penalty_gradients(self) -> None:
        """Add to the stacks the gradients of penalties, which are computed from each run's own parameters."""
        penalized = [row for run, row in zip(self.runs, self.rows) if run.penalties]
        for stack, own in self.network.stacks:
            for row in penalized if stack.grad is not None else ():
                if own[row].grad is not None:
                    stack.grad[row] += own[row].grad
                    own[row].grad = None

    @torch.no_grad()
    def compare(self, mapped: bool) -> None:
        """Raise `Incompatible` if the stacked network's logits differ from those of each run's own network."""
        name = type(self.runs[0].model).__name__
        way = "torch.func.vmap" if mapped else "networks side by side in the channels"
        drawing = self.runs[:1] if self._shared else self.runs
        images = [run.first_inputs(min(run.batch_size, 8)) for run in drawing] * (len(self.runs) // len(drawing))
        self.takes_broadcast = self._try_broadcast(images[0])
        for run in self.runs:
            run.train_mode()
        with self.runs[0].autocast():
            with untouched(self.runs):
                alone = torch.stack([run.forward(batch) for run, batch in zip(self.runs, images)], 1)
            try:
                with untouched(self.runs), torch.enable_grad():  # because some layers fail only with gradients
                    together = self._logits(images).detach()
            except RuntimeError as error:
                raise Incompatible(f"{name} does not take {way} ({first_line(error)})") from error
        if alone.shape != together.shape:
            raise Incompatible(f"{name} does not take {way}")
        difference = distance([together], [alone], SMALL)
        if not difference <= TOLERANCE[self.runs[0].precision]:
            raise Incompatible(f"{name} answers otherwise with {way} (logits are {difference:.1g} off)")

    def _try_broadcast(self, images: Tensor) -> bool:
        """Return whether the network takes `Broadcast` images; custom code of some networks does not."""
        for run in self.runs:
            set_mode(run.model, training=False)
        with self.runs[0].autocast():
            try:
                # only these runs' rows, because noise is still drawn in empty slots
                expected = _select(self.network(repeat_channels(broadcast(images), self.network.count)), self.rows)
                logits = _select(self.network(broadcast(images)), self.rows)
                return distance([logits], [expected], SMALL) <= TOLERANCE[self.runs[0].precision]
            except RuntimeError:
                return False


def _select(logits: Tensor, rows: list[int]) -> Tensor:
    """Return `logits[:, rows]`."""
    # not by indexing with a list, because it synchronizes with the GPU
    return torch.stack([logits[:, row] for row in rows], 1)


def _cross_entropies(logits: Tensor, batches: tuple[Batch, ...]) -> Tensor:
    """Return each run's mean cross-entropy, `[N]`, from logits `[B, N, K]`; targets are labels or probabilities."""
    count = logits.shape[1]
    losses: list[Tensor | None] = [None] * count
    for ndim in {batch.targets.ndim for batch in batches}:
        rows = [row for row, batch in enumerate(batches) if batch.targets.ndim == ndim]
        selected = logits if len(rows) == count else _select(logits, rows)
        targets = torch.stack([batches[row].targets for row in rows], 1)
        selected = padded(selected) if ndim == 1 else selected
        terms = cross_entropy(selected.flatten(0, 1), targets.flatten(0, 1), reduction="none")
        # contiguous, so that the order of the sum does not depend on the number of runs
        means = terms.view(-1, len(rows)).t().contiguous().mean(1)
        if len(rows) == count:
            return means
        for row, mean in zip(rows, means.unbind(0)):
            losses[row] = mean
    return torch.stack(losses)
