"""A step's forward passes, losses, penalties and backward passes, recorded once and replayed in later steps."""

import logging
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from runner.core import memory
from runner.core.errors import ConfigError
from runner.core.text import first_line
from runner.execution.cuda_graph.capture import beside
from runner.execution.trial import aside
from runner.model.noise import noisy
from runner.train.batch import Batch
from runner.train.protocols import Capture, Replay

if TYPE_CHECKING:
    from runner.train.state import TrainState

log = logging.getLogger(__name__)

WARM = 3  # steps before a capture: libraries choose their kernels, and what is made once is made
MOST = 4  # graphs that are kept, each with memory of its own: stages thaw, and modes change, rarely

Work = Callable[[list[Batch]], Tensor]


@dataclass(frozen=True)
class Recorded:
    """A graph, where it reads and where it writes."""

    replay: Replay
    inputs: list[Tensor]
    gradients: list[Tensor | None]  # of the leaves
    losses: Tensor
    predictions: Tensor  # [N, B]
    penalties: Tensor | None  # [P], of `named`
    named: list[tuple["TrainState", str]]


class Replays:
    """The gradients of runs that share a program, or of a lone one. Whatever the host's part of the work depends on is
    in a key: where it changes, a few steps are done as they come, and another graph is recorded.

    leaves: the tensors whose gradients these are. held: all that lies where the graph reads or writes it.
    work: what is recorded. eager: the same as the host does it, which may take precautions of its own.
    must: a step that cannot be captured is an error.
    """

    def __init__(
        self,
        runs: Sequence["TrainState"],
        leaves: Sequence[Tensor],
        held: Sequence[Tensor],
        work: Work,
        capture: Capture,
        must: bool = False,
        eager: Work | None = None,
    ):
        self.runs, self.leaves, self._held, self._work = list(runs), leaves, held, work
        self._capture, self._must, self.eager = capture, must, eager or work
        self.failed = ""  # why all steps are done as they come
        self._modules = [module for run in runs for module in run.model.modules()]
        self._items = [item for run in runs for item in run.parts.stack.values()]
        self._known: dict[Hashable, int | Recorded] = {}  # steps done so far, or their graph; used last, stands last

    def __call__(self, batches: list[Batch]) -> Tensor:
        """The losses; the gradients stand, and what meters count was counted."""
        if self.failed:
            return self.eager(batches)
        inputs, places = _distinct(batches)
        key = self._key(inputs, places, batches)
        known = self._known.pop(key, 0)
        if isinstance(known, int) and known == WARM:
            try:
                known = self._recorded(inputs, places, batches)
            except Exception as error:
                self._fail(error)
                return self.eager(batches)
        self._known[key] = known + 1 if isinstance(known, int) else known
        for old in list(self._known)[:-MOST]:
            del self._known[old]
        if isinstance(known, int):
            return self._warmed(batches)
        return self._replayed(known, inputs, batches)

    def _key(self, inputs: list[Tensor], places: list[int], batches: list[Batch]) -> Hashable:
        return (
            tuple((tensor.shape, tensor.stride(), tensor.dtype) for tensor in inputs),
            tuple(places),
            tuple(batch.share for batch in batches),
            tuple(leaf.requires_grad for leaf in self.leaves),
            tuple(tensor.data_ptr() for tensor in self._held),
            bytes(module.training for module in self._modules),
            tuple(run.forward for run in self.runs),
        )

    def _warmed(self, batches: list[Batch]) -> Tensor:
        before = self._told()
        with beside(self.runs[0].device):
            found = self.eager(batches)
        changed = [owner for owner, told, now in zip(self._owners(), before, self._told()) if told != now]
        if changed:
            self._fail(RuntimeError(f"{type(changed[0]).__name__} keeps numbers of its own, step by step, in Python"))
        return found

    def _owners(self) -> list[Any]:
        return [*self._modules, *self._items]

    def _told(self) -> list[dict[str, Any]]:
        """What layers and items hold that no graph would change."""
        plain = bool | int | float | str | tuple | None
        return [{key: value for key, value in vars(x).items() if isinstance(value, plain)} for x in self._owners()]

    def _recorded(self, inputs: list[Tensor], places: list[int], batches: list[Batch]) -> Recorded:
        own = [tensor.clone() for tensor in inputs]
        read = iter(own[place] for place in places)
        given = [replace(batch, images=next(read), targets=next(read)) for batch in batches]
        found: dict[str, Any] = {}

        def work() -> None:
            with aside(self.runs) as meters:
                found["losses"] = self._work(given).detach()
                found["predictions"] = torch.stack([meter.predictions() for meter in meters])
                terms = [(run, *term) for run, meter in zip(self.runs, meters) for term in meter.penalties.items()]
                found["penalties"] = torch.stack([term for _, _, term in terms]) if terms else None
                found["named"] = [(run, name) for run, name, _ in terms]

        # Only those that are needed: each costs two kernels a replay.
        replay = self._capture(work, [run.noise for run in self.runs if noisy(run.model)])
        return Recorded(replay, own, [leaf.grad for leaf in self.leaves], **found)

    def _replayed(self, graph: Recorded, inputs: list[Tensor], batches: list[Batch]) -> Tensor:
        for dtype in {tensor.dtype for tensor in inputs}:  # a kernel for all of a type
            pairs = [pair for pair in zip(graph.inputs, inputs) if pair[0].dtype == dtype]
            torch._foreach_copy_(*map(list, zip(*pairs)))
        graph.replay()
        for leaf, gradient in zip(self.leaves, graph.gradients):
            leaf.grad = gradient
        # Copies, for the next replay writes there.
        for run, batch, predictions in zip(self.runs, batches, graph.predictions.clone().unbind(0)):
            run.meter.count(predictions, batch.labels)
        if graph.penalties is not None:
            for (run, name), term in zip(graph.named, graph.penalties.clone().unbind(0)):
                run.meter.penalize(name, term, True)
        return graph.losses.clone()

    def stop(self, reason: str) -> None:
        """From now on all steps are done as they come."""
        self.failed = reason
        self._known.clear()
        memory.free(self.runs[0].device)

    def _fail(self, error: Exception) -> None:
        while error.__context__ is not None:  # what a capture ended with says less than what broke it
            error = error.__context__
        self.stop(first_line(error))
        if self._must:
            raise ConfigError(f"cuda_graph=true: this step is no graph ({self.failed}); use cuda_graph=auto") from error
        log.warning("no CUDA graph: %s", self.failed)
        for run in self.runs:
            run.chosen["cuda_graph"] = f"off from step {run.progress.step + 1} on ({self.failed})"


def _distinct(batches: list[Batch]) -> tuple[list[Tensor], list[int]]:
    """The tensors that a step reads, each once, and which of them are each batch's images and targets."""
    found: dict[int, Tensor] = {}
    each = [tensor for batch in batches for tensor in (batch.images, batch.targets)]
    for tensor in each:
        found.setdefault(id(tensor), tensor)
    number = {key: place for place, key in enumerate(found)}
    return list(found.values()), [number[id(tensor)] for tensor in each]
