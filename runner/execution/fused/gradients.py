"""The forward and backward passes of runs in one network."""

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from runner.core.text import first_line
from runner.evaluation.softmax import padded
from runner.execution.closeness import TOLERANCE, distance
from runner.execution.fused.broadcast import beside, once
from runner.execution.fused.errors import Incompatible, by
from runner.execution.fused.network import StackedNetwork
from runner.execution.trial import untouched
from runner.model.train_mode import set_mode
from runner.train.batch import Batch
from runner.train.state import TrainState

SMALL = 1e-6  # size of logits below which their differences are rounding


class Passes:
    """Called, it computes the losses of a batch of each run and their gradients, which stand in the stacks."""

    def __init__(self, runs: list[TrainState], network: StackedNetwork, rows: list[int], shared: bool):
        """rows: each run's place in the network. shared: whether all runs see the same images."""
        self.runs, self.network, self.rows, self._shared = runs, network, rows, shared
        self.takes_once = True  # whether what is the same for all need not lie side by side

    def __call__(self, batches: list[Batch]) -> Tensor:
        """Losses `[N]`; the gradients stand in the stacks."""
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
        self._weigh()
        return total

    def _loss(self, batches: tuple[Batch, ...]) -> tuple[Tensor, Tensor]:
        """Losses `[N]` and answers `[B, N]`, of a (micro-)batch of each run."""
        with self.runs[0].autocast():
            logits = self._logits([batch.images for batch in batches])
            losses = _cross_entropies(logits, batches)
        terms = {
            row: by(run, run.penalty, logits[:, row], batch)
            for row, (run, batch) in enumerate(zip(self.runs, batches))
            if run.penalties or run.output_penalties
        }
        if terms:
            none = losses.new_zeros(())
            losses = losses + torch.stack([terms.get(row, none) for row in range(len(self.runs))])
        predictions = logits.detach().argmax(2)
        return losses if batches[0].share == 1.0 else losses * batches[0].share, predictions

    def _logits(self, images: list[Tensor]) -> Tensor:
        """`[B, N, K]` of images `[B, C, H, W]` for each run; empty places see nothing, and say nothing."""
        if self._shared:
            found = self.network(self.same(images[0]))
            return found if self.network.count == len(images) else _at(found, self.rows)
        if self.network.count == len(images):
            return self.network(torch.cat(images, 1))
        parts = [torch.zeros_like(images[0])] * self.network.count
        for row, own in zip(self.rows, images):
            parts[row] = own
        return _at(self.network(torch.cat(parts, 1)), self.rows)

    def same(self, images: Tensor) -> Tensor:
        """What is the same for all networks, as theirs takes it."""
        return once(images) if self.takes_once else beside(once(images), self.network.count)

    def _weigh(self) -> None:
        """Gradients of penalties, which look at a run's own weights, go into the stacks."""
        weighed = [row for run, row in zip(self.runs, self.rows) if run.penalties]
        for stack, own in self.network.stacks:
            for row in weighed if stack.grad is not None else ():
                if own[row].grad is not None:
                    stack.grad[row] += own[row].grad
                    own[row].grad = None

    @torch.no_grad()
    def compare(self, mapped: bool) -> None:
        """Raises `Incompatible` where the shared network gives other logits than each run's own."""
        name = type(self.runs[0].model).__name__
        way = "torch.func.vmap" if mapped else "networks side by side in the channels"
        seen = self.runs[:1] if self._shared else self.runs
        images = [run.first_inputs(min(run.batch_size, 8)) for run in seen] * (len(self.runs) // len(seen))
        self.takes_once = self._try_once(images[0])
        for run in self.runs:
            run.train_mode()
        with self.runs[0].autocast():
            with untouched(self.runs):
                alone = torch.stack([run.forward(batch) for run, batch in zip(self.runs, images)], 1)
            try:
                with untouched(self.runs), torch.enable_grad():  # in which some layers object that else do not
                    together = self._logits(images).detach()
            except RuntimeError as error:
                raise Incompatible(f"{name} does not take {way} ({first_line(error)})") from error
        if alone.shape != together.shape:
            raise Incompatible(f"{name} does not take {way}")
        off = distance([together], [alone], SMALL)
        if not off <= TOLERANCE[self.runs[0].precision]:
            raise Incompatible(f"{name} answers otherwise with {way} (logits are {off:.1g} off)")

    def _try_once(self, images: Tensor) -> bool:
        """Whether what is the same for all need not lie side by side: some networks' own code objects."""
        for run in self.runs:
            set_mode(run.model, training=False)
        with self.runs[0].autocast():
            try:
                # Of these runs alone: whether they take it must not depend on empty places, where noise goes on.
                wanted = _at(self.network(beside(once(images), self.network.count)), self.rows)
                answers = _at(self.network(once(images)), self.rows)
                return distance([answers], [wanted], SMALL) <= TOLERANCE[self.runs[0].precision]
            except RuntimeError:
                return False


def _at(logits: Tensor, rows: list[int]) -> Tensor:
    """`logits[:, rows]`, for which a GPU would wait."""
    return torch.stack([logits[:, row] for row in rows], 1)


def _cross_entropies(logits: Tensor, batches: tuple[Batch, ...]) -> Tensor:
    """Each run's mean over its batch, `[N]`, of logits `[B, N, K]`; targets are labels or probabilities."""
    count = logits.shape[1]
    found: list[Tensor | None] = [None] * count
    for ndim in {batch.targets.ndim for batch in batches}:
        rows = [row for row, batch in enumerate(batches) if batch.targets.ndim == ndim]
        mine = logits if len(rows) == count else _at(logits, rows)
        targets = torch.stack([batches[row].targets for row in rows], 1)
        mine = padded(mine) if ndim == 1 else mine
        each = cross_entropy(mine.flatten(0, 1), targets.flatten(0, 1), reduction="none")
        means = each.view(-1, len(rows)).t().contiguous().mean(1)  # summed in an order that is the same for any number
        if len(rows) == count:
            return means
        for row, mean in zip(rows, means.unbind(0)):
            found[row] = mean
    return torch.stack(found)
