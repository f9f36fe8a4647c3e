"""The steps of several optimizers of one class as one.

For optimizers that treat each number alone and whose step is proportional to the rate (`ELEMENTWISE`): one of them
takes a step of rate 1, from zero, with the gradients of all; each run's row of it times the run's own rate is the run's
step. Weight decay is applied outside, per run. State lives in stacked tensors, of which each run's own optimizer has
its rows: what it saves is what it would have alone. Kernels that do a whole step at once (`runner.optimizer.kernels`),
but for SGD's, get the rows themselves, in one call: they round the last numbers of a tensor otherwise than those
before. Where a run has many weights, on a CPU, it takes its step by itself, if that is a few calls.
"""

import copy
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from runner.execution.fused.slot import MANY_WEIGHTS
from runner.optimizer.adam import Adam
from runner.optimizer.kernels import direct
from runner.optimizer.lion import Lion
from runner.train.state import TrainState

ELEMENTWISE = {  # class -> whether its weight decay is decoupled from the gradient, where no option of its own says
    torch.optim.SGD: False,
    torch.optim.Adagrad: False,
    torch.optim.RMSprop: False,
    torch.optim.Adadelta: False,
    torch.optim.Adamax: False,
    torch.optim.Adam: False,
    torch.optim.AdamW: True,
    torch.optim.NAdam: False,
    torch.optim.RAdam: False,
    Adam: False,
    Lion: True,
}
OWN = {"params", "lr", "weight_decay", "name", "lr_scale", "initial_lr"}  # what may differ between runs and groups


def kind(run: TrainState) -> str | None:
    """What runs must agree in to take their steps together; None where each takes its own."""
    optimizer = run.optimizer
    if type(optimizer) not in ELEMENTWISE or run.scaler is not None:
        return None
    if run.device.type == "cpu" and run.direct is not None and sum(p.numel() for p in run.trained) > MANY_WEIGHTS:
        return None
    options = [{key: value for key, value in group.items() if key not in OWN} for group in optimizer.param_groups]
    if any(group != options[0] for group in options) or any(p.ndim == 0 for p in run.trained):
        return None
    attributes = {key: value for key, value in vars(optimizer).items() if isinstance(value, int | float | bool)}
    return repr((type(optimizer), sorted(options[0].items()), sorted(attributes.items()), run.progress.step))


class StackedOptimizer:
    """One step for the runs whose rows in the stacks are `first` and those after it."""

    def __init__(self, runs: Sequence[TrainState], first: int, stacks: Sequence[tuple[Tensor, list[Tensor]]]):
        self.runs = runs
        rows = slice(first, first + len(runs))
        groups = [
            {id(p): number for number, group in enumerate(run.optimizer.param_groups) for p in group["params"]}
            for run in runs
        ]
        moved = [(stack, own[rows]) for stack, own in stacks if id(own[first]) in groups[0]]
        self._own = [own for _, own in moved]
        self._stacks = [stack for stack, _ in moved]
        self._rows = rows
        self._weights = [stack.data[rows] for stack, _ in moved]
        self._steps = [torch.zeros_like(weights) for weights in self._weights]
        self._apart = _by_kernel(runs[0])
        self._moved = [row for steps in self._steps for row in steps.unbind(0)] if self._apart else self._steps
        self._groups = [[group[id(own[row])] for own in self._own] for row, group in enumerate(groups)]
        self._rates: list[list[float]] = []
        self._inner = self._one()
        self._direct = direct(self._inner)
        self._decoupled = self._inner.param_groups[0].get("decoupled_weight_decay", ELEMENTWISE[type(self._inner)])
        self._own_decays = [[group["weight_decay"] for group in run.optimizer.param_groups] for run in runs]
        # What multiplies weights: the decay, or what a decoupled one leaves of them.
        self._decays = self._columns(self._own_decays) if any(map(any, self._own_decays)) else None
        self._take()

    def _one(self) -> torch.optim.Optimizer:
        """An optimizer like the first run's, of rate 1 and without decay, that moves `_steps`."""
        like = self.runs[0].optimizer
        options = {key: value for key, value in like.param_groups[0].items() if key not in OWN}
        if not self._apart and options.get("fused"):
            options |= {"fused": False, "foreach": True}
        inner = object.__new__(type(like))
        vars(inner).update(vars(like))  # copy.copy would leave out what a subclass added
        inner.param_groups = [options | {"params": self._moved, "lr": 1.0, "weight_decay": 0.0}]
        inner.state = defaultdict(dict)
        return inner

    def _take(self) -> None:
        """The runs' own state, where they have been trained before."""
        if self._apart:
            for row, run, p in self._each_row():
                if state := run.optimizer.state.get(p):
                    self._inner.state[row] = state
            return
        for steps, own in zip(self._steps, self._own):
            states = [run.optimizer.state.get(p) for run, p in zip(self.runs, own)]
            if states[0]:
                self._inner.state[steps] = {
                    key: torch.stack([state[key] for state in states]) if _each(value, own[0]) else copy.deepcopy(value)
                    for key, value in states[0].items()
                }
        self._give()

    def _give(self) -> None:
        """Makes the rows of the state each run's own."""
        if self._apart:
            for row, run, p in self._each_row():
                if state := self._inner.state.get(row):
                    run.optimizer.state[p] = state
            return
        for steps, own in zip(self._steps, self._own):
            if state := self._inner.state.get(steps):
                for row, (run, p) in enumerate(zip(self.runs, own)):
                    run.optimizer.state[p] = {
                        key: value[row] if _each(value, steps) else value for key, value in state.items()
                    }

    def _each_row(self) -> Iterator[tuple[Tensor, TrainState, Tensor]]:
        """What moves, the run that it belongs to, and the run's own weights."""
        owners = ((run, p) for own in self._own for run, p in zip(self.runs, own))
        return ((row, run, p) for row, (run, p) in zip(self._moved, owners, strict=True))

    def unstack(self) -> None:
        """Gives each run what it shares with the others, before they go different ways."""
        for run in self.runs:
            for state in run.optimizer.state.values():
                state |= {key: value.clone() for key, value in state.items() if isinstance(value, Tensor)}

    def _columns(self, values: list[list[float]]) -> list[Tensor]:
        """A number a run and group as what multiplies each stack: `[n, 1, ...]`."""
        like = self._weights[0]
        each = [[row[number] for number in numbers] for row, numbers in zip(values, self._groups)]
        table = torch.tensor(each, dtype=like.dtype, pin_memory=like.is_cuda)  # so that nobody waits for its way there
        columns = table.to(like.device, non_blocking=True).unbind(1)
        return [column.view(-1, *[1] * (weights.ndim - 1)) for column, weights in zip(columns, self._weights)]

    @torch.no_grad()
    def step(self) -> None:
        """Moves all weights by their gradients, which stand in the stacks."""
        rates = [[group["lr"] for group in run.optimizer.param_groups] for run in self.runs]
        if rates != self._rates:
            self._rates, self._scales = rates, self._columns(rates)
            if self._decoupled and self._decays is not None:
                pairs = [zip(rate, decay) for rate, decay in zip(rates, self._own_decays)]
                self._decays = self._columns([[1 - rate * decay for rate, decay in pair] for pair in pairs])
        gradients = [stack.grad[self._rows] for stack in self._stacks]
        if self._decays is not None:
            if self._decoupled:
                torch._foreach_mul_(self._weights, self._decays)
            else:
                gradients = torch._foreach_addcmul(gradients, self._weights, self._decays)
        if self._apart:
            gradients = [row for gradient in gradients for row in gradient.unbind(0)]
        fresh = not self._inner.state
        if self._direct is not None:
            self._direct.given = gradients
            self._direct.step()
        else:
            for steps, gradient in zip(self._moved, gradients, strict=True):
                steps.grad = gradient
            self._inner.step()
        torch._foreach_addcmul_(self._weights, self._steps, self._scales)
        torch._foreach_zero_(self._steps)
        if fresh:
            self._give()


def _by_kernel(run: TrainState) -> bool:
    """Whether its optimizer's step is a single kernel; SGD's few passes over stacks are quicker than one that is handed
    every row."""
    kind = type(run.optimizer)
    if kind is torch.optim.RMSprop:
        return run.direct is not None
    return kind is not torch.optim.SGD and bool(run.optimizer.param_groups[0].get("fused"))


def _each(value: Any, like: Tensor) -> bool:
    """Whether a piece of state is a number for each weight, not one for all of them."""
    return isinstance(value, Tensor) and value.shape == like.shape
