"""Runs in one network: their gradients in one pass, their steps, and their validation."""

import itertools
import logging
from collections.abc import Container, Iterator

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from runner.core import memory
from runner.core.text import first_line
from runner.evaluation.evaluate import Measured, evaluate_all
from runner.evaluation.softmax import padded
from runner.execution.closeness import TOLERANCE, distance
from runner.execution.cuda_graph.replay import Replays
from runner.execution.fused.broadcast import beside, once
from runner.execution.fused.errors import Unlike, by
from runner.execution.fused.network import Network
from runner.execution.fused.optimizer import Together, kind
from runner.execution.trial import untouched
from runner.model.noise import noisy
from runner.model.train_mode import set_mode
from runner.train.batch import Batch
from runner.train.protocols import Capture
from runner.train.slot import APART, NOISE, Seat
from runner.train.state import Run

log = logging.getLogger(__name__)

SMALL = 1e-6  # size of logits below which their differences are rounding


class Bundle:
    """Runs in one network, each in its place (`Run.seat`), on which and on whose number its last digits depend."""

    def __init__(self, runs: list[Run], mapped: bool = False):
        self.runs, self._mapped = runs, mapped
        self._rows, count, common = list(range(len(runs))), len(runs), APART
        if runs[0].seat is not None:
            self._rows, (_, count, common) = [run.seat.row for run in runs], runs[0].seat
        self._common, self._takes_once = common > APART, True
        places: list[Run | None] = [None] * count
        for row, run in zip(self._rows, runs):
            places[row] = run
        self.network = Network([None if run is None else run.model for run in places], mapped, common == NOISE)
        for run in runs:
            run.lay_out()
        if (features := runs[0].features) is not None:
            self.network.enter(features.cut, runs[0].device)
        kinds = [None if run is None else kind(run) for run in places]
        self._together = [
            Together(places[first : first + many], first, self.network.stacks)
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
        self.replays = Replays(self.runs, stacks, held, self._passes, capture, must, self._eager)
        return self.replays

    def like(self, runs: list[Run]) -> "Bundle":
        """Of these of its runs: they need not be compared again, and their steps are done in the same way."""
        found = Bundle(runs, self._mapped)
        found._takes_once = self._takes_once
        if self.graphs is not None:
            found.replay(*self.graphs)
        return found

    def only(self, wanted: Container[int]) -> "Bundle | None":
        """With those of its runs alone that have these ids; None where there is none."""
        left = [run for run in self.runs if id(run) in wanted]
        if len(left) == len(self.runs):
            return self
        self.part()
        return self.like(left) if left else None

    def halves(self) -> list["Bundle"]:
        """Two of half the size."""
        log.warning("out of memory: %d runs that share a program go on in two halves", len(self.runs))
        self.part()
        for run in self.runs:
            for p in run.model.parameters():
                p.grad = None
        middle = len(self.runs) // 2
        parts = self.runs[:middle], self.runs[middle:]
        device = self.runs[0].device
        del self.network, self._together, self.replays
        memory.free(device)
        for part in parts:
            for row, run in enumerate(part):
                run.seat = Seat(row, len(part), run.seat.common if run.seat else APART)
        return [self.like(part) for part in parts]

    def part(self) -> None:
        """Gives each run all that is its own."""
        self._take_back()
        for together in self._together:
            together.part()
        self.network.part()
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

    def _eager(self, batches: list[Batch]) -> Tensor:
        """Losses `[N]`, kernel by kernel; where that fails, everything stands as it stood."""
        draws = [run.noise.get_state() for run in self.runs] if self._noisy else []
        statistics = [(stack, stack.clone()) for stack, _ in self.network.statistics]
        try:
            return self._passes(batches)
        except Exception:  # perhaps for memory: then halves begin where this began
            self._shown = [p for _, own in self.network.stacks for p in own]  # penalties' may stand in some
            for run, state in zip(self.runs, draws):
                run.noise.set_state(state)
            for stack, before in statistics:
                stack.copy_(before)
            raise

    def _passes(self, batches: list[Batch]) -> Tensor:
        """Losses `[N]`; the gradients stand in the stacks."""
        counts: list[tuple[Tensor, tuple[Batch, ...]]] = []
        for stack, _ in self.network.stacks:
            stack.grad = None
        total = None
        for parts in zip(*(batch.split(self.runs[0].accumulate) for batch in batches)):
            loss, guesses = self._loss(parts)
            loss.sum().backward()
            counts.append((guesses, parts))
            total = loss.detach() if total is None else total + loss.detach()
        for guesses, parts in counts:
            for row, (run, batch) in enumerate(zip(self.runs, parts)):
                run.meter.count(guesses[:, row], batch.labels)
        self._weigh()
        return total

    def measure(self, runs: list[Run]) -> dict[int, Measured]:
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
            found = evaluate_all(lambda x: self.network(self._same(x)), count, split, normalize, *options)
        finally:
            for run in self.runs:
                run.train_mode()
        return {id(run): found[row] for run, row in zip(self.runs, self._rows) if id(run) in asked}

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
        guesses = logits.detach().argmax(2)
        return losses if batches[0].share == 1.0 else losses * batches[0].share, guesses

    def _logits(self, images: list[Tensor]) -> Tensor:
        """`[B, N, K]` of images `[B, C, H, W]` for each run; empty places see nothing, and say nothing."""
        if self._common:
            found = self.network(self._same(images[0]))
            return found if self.network.count == len(images) else _at(found, self._rows)
        if self.network.count == len(images):
            return self.network(torch.cat(images, 1))
        parts = [torch.zeros_like(images[0])] * self.network.count
        for row, own in zip(self._rows, images):
            parts[row] = own
        return _at(self.network(torch.cat(parts, 1)), self._rows)

    def _same(self, images: Tensor) -> Tensor:
        """What is the same for all networks, as theirs takes it."""
        return once(images) if self._takes_once else beside(once(images), self.network.count)

    def _weigh(self) -> None:
        """Gradients of penalties, which look at a run's own weights, go into the stacks."""
        weighed = [row for run, row in zip(self.runs, self._rows) if run.penalties]
        for stack, own in self.network.stacks:
            for row in weighed if stack.grad is not None else ():
                if own[row].grad is not None:
                    stack.grad[row] += own[row].grad
                    own[row].grad = None

    def _moved(self, run: Run, row: int) -> list[int] | None:
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

    @torch.no_grad()
    def compare(self) -> None:
        """Raises `Unlike` where the shared network gives other logits than each run's own."""
        name = type(self.runs[0].model).__name__
        way = "torch.func.vmap" if self._mapped else "networks side by side in the channels"
        seen = self.runs[:1] if self._common else self.runs
        images = [run.entering(min(run.batch_size, 8)) for run in seen] * (len(self.runs) // len(seen))
        self._takes_once = self._try_once(images[0])
        for run in self.runs:
            run.train_mode()
        with self.runs[0].autocast():
            with untouched(self.runs):
                alone = torch.stack([run.forward(batch) for run, batch in zip(self.runs, images)], 1)
            try:
                with untouched(self.runs), torch.enable_grad():  # in which some layers object that else do not
                    together = self._logits(images).detach()
            except RuntimeError as error:
                raise Unlike(f"{name} does not take {way} ({first_line(error)})") from error
        if alone.shape != together.shape:
            raise Unlike(f"{name} does not take {way}")
        off = distance([together], [alone], SMALL)
        if not off <= TOLERANCE[self.runs[0].precision]:
            raise Unlike(f"{name} answers otherwise with {way} (logits are {off:.1g} off)")

    def _try_once(self, images: Tensor) -> bool:
        """Whether what is the same for all need not lie side by side: some networks' own code objects."""
        for run in self.runs:
            set_mode(run.model, training=False)
        with self.runs[0].autocast():
            try:
                # Of these runs alone: whether they take it must not depend on empty places, where noise goes on.
                wanted = _at(self.network(beside(once(images), self.network.count)), self._rows)
                answers = _at(self.network(once(images)), self._rows)
                return distance([answers], [wanted], SMALL) <= TOLERANCE[self.runs[0].precision]
            except RuntimeError:
                return False


def _at(logits: Tensor, rows: list[int]) -> Tensor:
    """`logits[:, rows]`, for which a GPU would wait."""
    return torch.stack([logits[:, row] for row in rows], 1)


def _stretches(kinds: list[str | None]) -> Iterator[tuple[str | None, int, int]]:
    """Neighbours that are alike: what, from which place on, how many."""
    first = 0
    for found, group in itertools.groupby(kinds):
        many = len(list(group))
        yield found, first, many
        first += many


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
