"""Optimizers' steps in as few passes over memory, and with as little around them, as torch has kernels for."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from runner.core.startup import is_plain
from runner.core.startup.torch_compiler import has_step_hooks
from runner.optimizer.adam import Adam

State = dict[str, list[Tensor]]  # of a group: a tensor for each of its weights; `counters`: one of all their steps

# Optimizers of torch that can take a step of all weights in one pass over memory, and the kinds of devices on which
# they can. Memory is what a step waits for: on the CPU Adam's kernel takes a third of the time of its eight passes
# (docs/benchmarks.md).
FUSED = {
    torch.optim.SGD: ("cpu", "cuda"),
    torch.optim.Adam: ("cpu", "cuda"),
    torch.optim.AdamW: ("cpu", "cuda"),
    torch.optim.Adagrad: ("cpu",),
    Adam: ("cpu", "cuda"),
}


def use_kernel(optimizer: torch.optim.Optimizer) -> None:
    """Has an optimizer of one of these classes use that kernel."""
    if isinstance(optimizer, Adam) and not optimizer.bias_correction:  # its step is our own
        return
    if type(optimizer) is torch.optim.SGD and not all(p.requires_grad for p in _weights(optimizer)):
        return  # its kernel fails where some have a momentum and others not, as in stages that thaw
    devices = FUSED.get(type(optimizer), ())
    for group in optimizer.param_groups:
        if all(p.device.type in devices and p.is_floating_point() for p in group["params"]):
            group["fused"], group["foreach"] = True, False


def lay_out(optimizer: torch.optim.Optimizer) -> None:
    """State that is a number for each weight lies in memory as the weights do, whose order may have changed
    (channels-last): kernels walk through both side by side."""
    for p in _weights(optimizer):
        for name, value in optimizer.state.get(p, {}).items():
            if torch.is_tensor(value) and value.shape == p.shape and value.stride() != p.stride():
                optimizer.state[p][name] = torch.empty_like(p, dtype=value.dtype).copy_(value)


def direct(optimizer: torch.optim.Optimizer) -> "Direct | None":
    """Its steps by themselves, where they are a few calls for all weights of a group."""
    groups, weights = optimizer.param_groups, _weights(optimizer)
    if (
        is_plain()
        or len({(p.device, p.dtype) for p in weights}) > 1
        or any(group.get("capturable") for group in groups)
    ):
        return None
    if type(optimizer) is torch.optim.RMSprop:
        others = any(group["momentum"] or group["centered"] or group["alpha"] >= 1 for group in groups)
        fits = weights[0].device.type == "cpu" and weights[0].is_floating_point() and not others
    elif type(optimizer) is torch.optim.SGD:
        fits = all(group["fused"] or group["foreach"] for group in groups)
    else:
        fits = type(optimizer) in CALLS and all(group["fused"] for group in groups)
    return Direct(optimizer) if fits else None


class Direct:
    """An optimizer's steps without what torch does around them each time: for a small network that takes longer than
    they do. Steps that make state, and those of weights without a gradient, are torch's.
    """

    def __init__(self, optimizer: torch.optim.Optimizer):
        self._optimizer, self._call = optimizer, CALLS[type(optimizer)]
        self.weights = _weights(optimizer)
        self.given: list[Tensor] | None = None  # their gradients for the next step, where they do not hold them
        self._known: list[State] = []  # the state, a dictionary a group

    @torch.no_grad()
    def step(self) -> None:
        """Moves the weights."""
        given, self.given = self.given, None
        gradients = given or [p.grad for p in self.weights]
        optimizer = self._optimizer
        if has_step_hooks(optimizer) or any(gradient is None for gradient in gradients) or not self._stands():
            for p, gradient in zip(self.weights, given or ()):
                p.grad = gradient
            optimizer.step()
            for p in self.weights if given else ():  # else penalties would add theirs to it
                p.grad = None
            return
        first = 0
        for group, state in zip(optimizer.param_groups, self._known):
            last = first + len(group["params"])
            self._call(group, group["params"], gradients[first:last], state)
            first = last

    def forget(self) -> None:
        """The state may be others' tensors now."""
        self._known = []

    def _stands(self) -> bool:
        """Whether there is all state, and known: others may have put their own into its place."""
        own, names = self._optimizer.state.get(self.weights[0], {}), _names(self._optimizer)
        if self._known and all(own.get(name) is self._known[0][name][0] for name in names):
            return True
        states = [[self._optimizer.state.get(p, {}) for p in group["params"]] for group in self._optimizer.param_groups]
        if any(state.get(name) is None for some in states for state in some for name in names):
            return False
        self._known = [{name: [state[name] for state in some] for name in names} for some in states]
        for known, some in zip(self._known, states):
            if "step" in known:  # torch counts for each weight, which takes as long as a small one's step
                counters = torch.stack(known["step"])
                known |= {"step": list(counters.unbind(0)), "counters": [counters]}
                for state, step in zip(some, known["step"]):
                    state["step"] = step
        return True


def _weights(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [p for group in optimizer.param_groups for p in group["params"]]


def _names(optimizer: torch.optim.Optimizer) -> tuple[str, ...]:
    """What is kept of each weight."""
    group = optimizer.param_groups[0]
    if isinstance(optimizer, torch.optim.SGD):
        return ("momentum_buffer",) if any(group["momentum"] for group in optimizer.param_groups) else ()
    if isinstance(optimizer, torch.optim.Adagrad):
        return "sum", "step"
    if isinstance(optimizer, torch.optim.RMSprop):
        return "square_avg", "step"
    return "exp_avg", "exp_avg_sq", "step", *(("max_exp_avg_sq",) if group["amsgrad"] else ())


def _sgd(group: dict[str, Any], weights: Sequence[Tensor], gradients: Sequence[Tensor], state: State) -> None:
    if not group["fused"]:
        _sgd_passes(group, weights, gradients, state)
        return
    torch._fused_sgd_(
        weights,
        gradients,
        state["momentum_buffer"] if group["momentum"] else [],
        weight_decay=group["weight_decay"],
        momentum=group["momentum"],
        lr=group["lr"],
        dampening=group["dampening"],
        nesterov=group["nesterov"],
        maximize=group["maximize"],
        is_first_step=False,
    )


def _sgd_passes(group: dict[str, Any], weights: Sequence[Tensor], gradients: Sequence[Tensor], state: State) -> None:
    gradients = _with_decay(group, weights, gradients)
    if group["momentum"]:
        buffers = state["momentum_buffer"]
        torch._foreach_mul_(buffers, group["momentum"])
        torch._foreach_add_(buffers, gradients, alpha=1 - group["dampening"])
        gradients = torch._foreach_add(gradients, buffers, alpha=group["momentum"]) if group["nesterov"] else buffers
    torch._foreach_add_(weights, gradients, alpha=-group["lr"])


def _with_decay(group: dict[str, Any], weights: Sequence[Tensor], gradients: Sequence[Tensor]) -> Sequence[Tensor]:
    """Gradients of what is minimised, with that of a coupled decay."""
    if group["maximize"]:
        gradients = torch._foreach_neg(gradients)
    if group["weight_decay"]:
        gradients = torch._foreach_add(gradients, weights, alpha=group["weight_decay"])
    return gradients


def _adam(group: dict[str, Any], weights: Sequence[Tensor], gradients: Sequence[Tensor], state: State) -> None:
    state["counters"][0].add_(1)
    beta1, beta2 = group["betas"]
    (torch._fused_adamw_ if group["decoupled_weight_decay"] else torch._fused_adam_)(
        weights,
        gradients,
        state["exp_avg"],
        state["exp_avg_sq"],
        state.get("max_exp_avg_sq", []),
        state["step"],
        amsgrad=group["amsgrad"],
        lr=group["lr"],
        beta1=beta1,
        beta2=beta2,
        weight_decay=group["weight_decay"],
        eps=group["eps"],
        maximize=group["maximize"],
    )


def _adagrad(group: dict[str, Any], weights: Sequence[Tensor], gradients: Sequence[Tensor], state: State) -> None:
    state["counters"][0].add_(1)
    torch._fused_adagrad_(
        weights,
        gradients,
        state["sum"],
        state["step"],
        lr=group["lr"],
        lr_decay=group["lr_decay"],
        weight_decay=group["weight_decay"],
        eps=group["eps"],
        maximize=group["maximize"],
    )


def _rmsprop(group: dict[str, Any], weights: Sequence[Tensor], gradients: Sequence[Tensor], state: State) -> None:
    """By Adam's kernel, a third of the time of torch's six passes: without a memory of the mean (`beta1` 0), and after
    endless steps, when nothing is corrected for a bias any more, Adam is RMSProp (to the last digit or two)."""
    if "mean" not in state:
        state["mean"] = [torch.zeros_like(p) for p in weights]  # each its own: what diverged stays in there
        state["endless"] = [torch.tensor(math.inf)] * len(weights)
    options = {"betas": (0.0, group["alpha"]), "amsgrad": False, "decoupled_weight_decay": False}
    moments = {"exp_avg": state["mean"], "exp_avg_sq": state["square_avg"], "step": state["endless"]}
    _adam(group | options, weights, gradients, state | moments)


CALLS: dict[type[torch.optim.Optimizer], Callable[..., None]] = {
    torch.optim.SGD: _sgd,
    torch.optim.Adam: _adam,
    torch.optim.AdamW: _adam,
    torch.optim.Adagrad: _adagrad,
    torch.optim.RMSprop: _rmsprop,
    Adam: _adam,
}
