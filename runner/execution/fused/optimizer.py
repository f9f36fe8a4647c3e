"""Stacked optimizer: one step for several optimizers of one class.

It serves elementwise optimizers with a step proportional to the learning rate (`ELEMENTWISE`). An inner optimizer takes
a step with learning rate 1, from zero, on the stacked gradients. Each run's row of it, times its learning rate, is that
run's step. Weight decay is applied outside, per run.

State tensors are stacked; each run's own optimizer holds views of its rows and saves them as if it trained alone.
Fused kernels (`runner.optimizer.kernels`), except SGD's, get a list of rows in place of stacks, because they round the
last elements of a tensor differently. On a CPU, runs with more than `MANY_WEIGHTS` weights take their steps one by one.
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

ELEMENTWISE = {  # class -> decoupled weight decay? (used if the class has no option for it)
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
OWN = {"params", "lr", "weight_decay", "name", "lr_scale", "initial_lr"}  # group keys that may differ between runs


def stacking_key(run: TrainState) -> str | None:
    """Return a key; runs with equal keys can take their steps together. None: the run takes its own steps."""
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
    """Takes the optimizer steps of runs in consecutive rows of the stacks, from row `first` on."""

    def __init__(self, runs: Sequence[TrainState], first: int, stacks: Sequence[tuple[Tensor, list[Tensor]]]):
        self.runs = runs
        rows = slice(first, first + len(runs))
        groups = [
            {id(p): number for number, group in enumerate(run.optimizer.param_groups) for p in group["params"]}
            for run in runs
        ]
        moved = [(stack, own[rows]) for stack, own in stacks if id(own[first]) in groups[0]]
        self._parameters = [own for _, own in moved]  # of each run, for each stack
        self._stacks = [stack for stack, _ in moved]
        self._rows = rows
        self._weights = [stack.data[rows] for stack, _ in moved]
        self._steps = [torch.zeros_like(weights) for weights in self._weights]
        self._by_rows = _needs_rows(runs[0])
        self._params = [row for steps in self._steps for row in steps.unbind(0)] if self._by_rows else self._steps
        self._groups = [[group[id(own[row])] for own in self._parameters] for row, group in enumerate(groups)]
        self._rates: list[list[float]] = []
        self._inner = self._make_inner()
        self._direct = direct(self._inner)
        self._decoupled = self._inner.param_groups[0].get("decoupled_weight_decay", ELEMENTWISE[type(self._inner)])
        self._own_decays = [[group["weight_decay"] for group in run.optimizer.param_groups] for run in runs]
        # factors of the weights: the decay, or for a decoupled one 1 - lr * decay
        self._decays = self._columns(self._own_decays) if any(map(any, self._own_decays)) else None
        self._stack_state()

    def _make_inner(self) -> torch.optim.Optimizer:
        """Return an optimizer like the first run's, with learning rate 1 and no decay, that updates `_steps`."""
        like = self.runs[0].optimizer
        options = {key: value for key, value in like.param_groups[0].items() if key not in OWN}
        if not self._by_rows and options.get("fused"):
            options |= {"fused": False, "foreach": True}
        inner = object.__new__(type(like))
        vars(inner).update(vars(like))  # not copy.copy, because it omits attributes of subclasses
        inner.param_groups = [options | {"params": self._params, "lr": 1.0, "weight_decay": 0.0}]
        inner.state = defaultdict(dict)
        return inner

    def _stack_state(self) -> None:
        """Take over the optimizer state of runs that have been trained before."""
        if self._by_rows:
            for row, run, p in self._each_row():
                if state := run.optimizer.state.get(p):
                    self._inner.state[row] = state
            return
        for steps, own in zip(self._steps, self._parameters):
            states = [run.optimizer.state.get(p) for run, p in zip(self.runs, own)]
            if states[0]:
                self._inner.state[steps] = {
                    key: torch.stack([state[key] for state in states])
                    if _is_per_weight(value, own[0])
                    else copy.deepcopy(value)
                    for key, value in states[0].items()
                }
        self._share_state()

    def _share_state(self) -> None:
        """Give each run's optimizer views of its rows of the state."""
        if self._by_rows:
            for row, run, p in self._each_row():
                if state := self._inner.state.get(row):
                    run.optimizer.state[p] = state
            return
        for steps, own in zip(self._steps, self._parameters):
            if state := self._inner.state.get(steps):
                for row, (run, p) in enumerate(zip(self.runs, own)):
                    run.optimizer.state[p] = {
                        key: value[row] if _is_per_weight(value, steps) else value for key, value in state.items()
                    }

    def _each_row(self) -> Iterator[tuple[Tensor, TrainState, Tensor]]:
        """Yield each row of the inner optimizer, its run, and the run's own parameter."""
        owners = ((run, p) for own in self._parameters for run, p in zip(self.runs, own))
        return ((row, run, p) for row, (run, p) in zip(self._params, owners, strict=True))

    def unstack(self) -> None:
        """Give each run its own copy of the state."""
        for run in self.runs:
            for state in run.optimizer.state.values():
                state |= {key: value.clone() for key, value in state.items() if isinstance(value, Tensor)}

    def _columns(self, values: list[list[float]]) -> list[Tensor]:
        """Return factors of shape `[n, 1, ...]` for each stack, from a value per run and parameter group."""
        like = self._weights[0]
        rows = [[row[number] for number in numbers] for row, numbers in zip(values, self._groups)]
        table = torch.tensor(rows, dtype=like.dtype, pin_memory=like.is_cuda)  # pinned: the copy is asynchronous
        columns = table.to(like.device, non_blocking=True).unbind(1)
        return [column.view(-1, *[1] * (weights.ndim - 1)) for column, weights in zip(columns, self._weights)]

    @torch.no_grad()
    def step(self) -> None:
        """Update all weights with the gradients of the stacks."""
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
        if self._by_rows:
            gradients = [row for gradient in gradients for row in gradient.unbind(0)]
        is_first = not self._inner.state
        if self._direct is not None:
            self._direct.gradients = gradients
            self._direct.step()
        else:
            for steps, gradient in zip(self._params, gradients, strict=True):
                steps.grad = gradient
            self._inner.step()
        torch._foreach_addcmul_(self._weights, self._steps, self._scales)
        torch._foreach_zero_(self._steps)
        if is_first:
            self._share_state()


def _needs_rows(run: TrainState) -> bool:
    """Return whether the optimizer's step is one fused kernel, which needs rows in place of stacks."""
    # not for SGD, because its few passes over stacks are faster than a kernel over all rows
    kind = type(run.optimizer)
    if kind is torch.optim.RMSprop:
        return run.direct is not None
    return kind is not torch.optim.SGD and bool(run.optimizer.param_groups[0].get("fused"))


def _is_per_weight(value: Any, like: Tensor) -> bool:
    """Return whether a piece of optimizer state has one value for each weight."""
    return isinstance(value, Tensor) and value.shape == like.shape
