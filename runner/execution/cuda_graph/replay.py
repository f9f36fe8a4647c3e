"""Replay of a step's forward and backward passes, losses and penalties from captured CUDA graphs."""

import logging
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from runner.core import memory
from runner.core.errors import ConfigError
from runner.core.text import first_line
from runner.execution.cuda_graph.capture import side_stream
from runner.execution.trial import temporary_meters
from runner.model.noise import noisy
from runner.train.batch import Batch
from runner.train.protocols import Capture, Replay

if TYPE_CHECKING:
    from runner.train.state import TrainState

log = logging.getLogger(__name__)

WARM = 3  # eager steps before a capture: libraries choose kernels and allocate workspaces
MOST = 4  # graphs kept, each with its own memory; new ones are rare (a stage is unfrozen, a mode changes)

Work = Callable[[list[Batch]], Tensor]


@dataclass(frozen=True)
class Graph:
    """Captured graph with its input and output tensors."""

    replay: Replay
    inputs: list[Tensor]
    gradients: list[Tensor | None]  # of the leaves
    losses: Tensor
    predictions: Tensor  # [N, B]
    penalties: Tensor | None  # [P]
    penalty_names: list[tuple["TrainState", str]]  # run and name of each penalty


class Replays:
    """Computes gradients of runs that share a program, or of a single run, by graph replay.

    Everything that the host code of a step depends on is in a key. After a change of the key, `WARM` steps run eagerly
    and another graph is captured.

    leaves: tensors that receive the gradients. tensors: all tensors with a fixed address in the graph.
    work: computation to capture. eager: its eager version, by default `work` itself.
    must: raise if a step cannot be captured.
    """

    def __init__(
        self,
        runs: Sequence["TrainState"],
        leaves: Sequence[Tensor],
        tensors: Sequence[Tensor],
        work: Work,
        capture: Capture,
        must: bool = False,
        eager: Work | None = None,
    ):
        self.runs, self.leaves, self._tensors, self._work = list(runs), leaves, tensors, work
        self._capture, self._must, self.eager = capture, must, eager or work
        self.failed = ""  # reason why all steps run eagerly; empty: they do not
        self._modules = [module for run in runs for module in run.model.modules()]
        self._items = [item for run in runs for item in run.parts.stack.values()]
        self._known: dict[Hashable, int | Graph] = {}  # key -> graph, or number of warm-up steps; most recent last

    def __call__(self, batches: list[Batch]) -> Tensor:
        """Return the losses; set the gradients and update the meters."""
        if self.failed:
            return self.eager(batches)
        inputs, places = _distinct(batches)
        key = self._key(inputs, places, batches)
        known = self._known.pop(key, 0)
        if isinstance(known, int) and known == WARM:
            try:
                known = self._capture_graph(inputs, places, batches)
            except Exception as error:
                self._fail(error)
                return self.eager(batches)
        self._known[key] = known + 1 if isinstance(known, int) else known
        for old in list(self._known)[:-MOST]:
            del self._known[old]
        if isinstance(known, int):
            return self._warm_up(batches)
        return self._replay_graph(known, inputs, batches)

    def _key(self, inputs: list[Tensor], places: list[int], batches: list[Batch]) -> Hashable:
        return (
            tuple((tensor.shape, tensor.stride(), tensor.dtype) for tensor in inputs),
            tuple(places),
            tuple(batch.share for batch in batches),
            tuple(leaf.requires_grad for leaf in self.leaves),
            tuple(tensor.data_ptr() for tensor in self._tensors),
            bytes(module.training for module in self._modules),
            tuple(run.forward for run in self.runs),
        )

    def _warm_up(self, batches: list[Batch]) -> Tensor:
        earlier = self._host_state()
        with side_stream(self.runs[0].device):
            losses = self.eager(batches)
        changed = [owner for owner, old, new in zip(self._owners(), earlier, self._host_state()) if old != new]
        if changed:
            self._fail(RuntimeError(f"{type(changed[0]).__name__} keeps numbers of its own, step by step, in Python"))
        return losses

    def _owners(self) -> list[Any]:
        return [*self._modules, *self._items]

    def _host_state(self) -> list[dict[str, Any]]:
        """Return the Python values of layers and stack items. A replay cannot change them."""
        plain = bool | int | float | str | tuple | None
        states = map(vars, self._owners())
        return [{key: value for key, value in state.items() if isinstance(value, plain)} for state in states]

    def _capture_graph(self, inputs: list[Tensor], places: list[int], batches: list[Batch]) -> Graph:
        static_inputs = [tensor.clone() for tensor in inputs]
        tensors = iter(static_inputs[place] for place in places)
        static_batches = [replace(batch, images=next(tensors), targets=next(tensors)) for batch in batches]
        outputs: dict[str, Any] = {}

        def work() -> None:
            with temporary_meters(self.runs) as meters:
                outputs["losses"] = self._work(static_batches).detach()
                outputs["predictions"] = torch.stack([meter.predictions() for meter in meters])
                terms = [(run, *term) for run, meter in zip(self.runs, meters) for term in meter.penalties.items()]
                outputs["penalties"] = torch.stack([term for _, _, term in terms]) if terms else None
                outputs["penalty_names"] = [(run, name) for run, name, _ in terms]

        # only the generators in use, because each costs two kernels per replay
        replay = self._capture(work, [run.noise for run in self.runs if noisy(run.model)])
        return Graph(replay, static_inputs, [leaf.grad for leaf in self.leaves], **outputs)

    def _replay_graph(self, graph: Graph, inputs: list[Tensor], batches: list[Batch]) -> Tensor:
        for dtype in {tensor.dtype for tensor in inputs}:  # one kernel per dtype
            pairs = [pair for pair in zip(graph.inputs, inputs) if pair[0].dtype == dtype]
            torch._foreach_copy_(*map(list, zip(*pairs)))
        graph.replay()
        for leaf, gradient in zip(self.leaves, graph.gradients):
            leaf.grad = gradient
        # copies, because the next replay overwrites the outputs
        for run, batch, predictions in zip(self.runs, batches, graph.predictions.clone().unbind(0)):
            run.meter.count(predictions, batch.labels)
        if graph.penalties is not None:
            for (run, name), term in zip(graph.penalty_names, graph.penalties.clone().unbind(0)):
                run.meter.penalize(name, term, True)
        return graph.losses.clone()

    def stop(self, reason: str) -> None:
        """Run all further steps eagerly; `reason`: why."""
        self.failed = reason
        self._known.clear()
        memory.free(self.runs[0].device)

    def _fail(self, error: Exception) -> None:
        while error.__context__ is not None:  # report the cause, not the failed end of the capture
            error = error.__context__
        self.stop(first_line(error))
        if self._must:
            raise ConfigError(f"cuda_graph=true: this step is no graph ({self.failed}); use cuda_graph=auto") from error
        log.warning("no CUDA graph: %s", self.failed)
        for run in self.runs:
            run.chosen["cuda_graph"] = f"off from step {run.progress.step + 1} on ({self.failed})"


def _distinct(batches: list[Batch]) -> tuple[list[Tensor], list[int]]:
    """Return the distinct input tensors of a step, and for each batch's images and targets their place in that list."""
    distinct: dict[int, Tensor] = {}
    tensors = [tensor for batch in batches for tensor in (batch.images, batch.targets)]
    for tensor in tensors:
        distinct.setdefault(id(tensor), tensor)
    places = {key: place for place, key in enumerate(distinct)}
    return list(distinct.values()), [places[id(tensor)] for tensor in tensors]
