"""Fast optimizer steps: torch's fused kernels, called directly without the wrappers of `Optimizer.step`."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from runner.core.startup import is_plain
from runner.core.startup.torch_compiler import has_step_hooks
from runner.optimizer.adam import Adam

State = dict[str, list[Tensor]]  # of a group: name -> one tensor per weight; `counters`: all step counts in one tensor

# Optimizers with a fused kernel, which updates all weights in one pass over memory, and its device types. Steps are
# limited by memory bandwidth: on the CPU Adam's fused kernel takes a third of the time of the eight separate passes
# (docs/benchmarks.md).
FUSED = {
    torch.optim.SGD: ("cpu", "cuda"),
    torch.optim.Adam: ("cpu", "cuda"),
    torch.optim.AdamW: ("cpu", "cuda"),
    torch.optim.Adagrad: ("cpu",),
    Adam: ("cpu", "cuda"),
}


def use_kernel(optimizer: torch.optim.Optimizer) -> None:
    """Switch an optimizer to its fused kernel, if there is one for its weights."""
    if isinstance(optimizer, Adam) and not optimizer.bias_correction:  # it has its own step without a kernel
        return
    if type(optimizer) is torch.optim.SGD and not all(p.requires_grad for p in _weights(optimizer)):
        return  # because the kernel fails if only some weights have momentum buffers, as with unfreezing
    devices = FUSED.get(type(optimizer), ())
    for group in optimizer.param_groups:
        if all(p.device.type in devices and p.is_floating_point() for p in group["params"]):
            group["fused"], group["foreach"] = True, False


def lay_out(optimizer: torch.optim.Optimizer) -> None:
    """Give optimizer state the memory format of its weights, which may have changed to channels-last.

    Kernels need this, because they iterate over both in memory order.
    """
    for p in _weights(optimizer):
        for name, value in optimizer.state.get(p, {}).items():
            if torch.is_tensor(value) and value.shape == p.shape and value.stride() != p.stride():
                optimizer.state[p][name] = torch.empty_like(p, dtype=value.dtype).copy_(value)


def direct(optimizer: torch.optim.Optimizer) -> "Direct | None":
    """Return direct steps for an optimizer, or None if a few kernel calls per group cannot do them."""
    groups, weights = optimizer.param_groups, _weights(optimizer)
    if (
        is_plain()
        or len({(p.device, p.dtype) for p in weights}) > 1
        or any(group.get("capturable") for group in groups)
    ):
        return None
    if type(optimizer) is torch.optim.RMSprop:
        is_unsupported = any(group["momentum"] or group["centered"] or group["alpha"] >= 1 for group in groups)
        fits = weights[0].device.type == "cpu" and weights[0].is_floating_point() and not is_unsupported
    elif type(optimizer) is torch.optim.SGD:
        fits = all(group["fused"] or group["foreach"] for group in groups)
    else:
        fits = type(optimizer) in CALLS and all(group["fused"] for group in groups)
    return Direct(optimizer) if fits else None


class Direct:
    """Steps of an optimizer without the overhead of `Optimizer.step`, which exceeds the step of a small network.

    Steps that create state, or with weights without a gradient, are left to torch.
    """

    def __init__(self, optimizer: torch.optim.Optimizer):
        self._optimizer, self._call = optimizer, CALLS[type(optimizer)]
        self.weights = _weights(optimizer)
        self.gradients: list[Tensor] | None = None  # for the next step; None: the weights' `grad`
        self._known: list[State] = []  # the state per group

    @torch.no_grad()
    def step(self) -> None:
        """Update the weights."""
        separate, self.gradients = self.gradients, None
        gradients = separate or [p.grad for p in self.weights]
        optimizer = self._optimizer
        if has_step_hooks(optimizer) or any(gradient is None for gradient in gradients) or not self._has_state():
            for p, gradient in zip(self.weights, separate or ()):
                p.grad = gradient
            optimizer.step()
            for p in self.weights if separate else ():  # so that penalties do not accumulate into it
                p.grad = None
            return
        first = 0
        for group, state in zip(optimizer.param_groups, self._known):
            last = first + len(group["params"])
            self._call(group, group["params"], gradients[first:last], state)
            first = last

    def forget(self) -> None:
        """Discard the references to state tensors, after they may have been replaced."""
        self._known = []

    def _has_state(self) -> bool:
        """Return whether all state exists, after collecting it again if its tensors were replaced."""
        first_state, names = self._optimizer.state.get(self.weights[0], {}), _names(self._optimizer)
        if self._known and all(first_state.get(name) is self._known[0][name][0] for name in names):
            return True
        states = [[self._optimizer.state.get(p, {}) for p in group["params"]] for group in self._optimizer.param_groups]
        if any(state.get(name) is None for group in states for state in group for name in names):
            return False
        self._known = [{name: [state[name] for state in group] for name in names} for group in states]
        for known, group in zip(self._known, states):
            if "step" in known:  # one tensor of all counts, because one per weight costs as much as a small step
                counters = torch.stack(known["step"])
                known |= {"step": list(counters.unbind(0)), "counters": [counters]}
                for state, step in zip(group, known["step"]):
                    state["step"] = step
        return True


def _weights(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [p for group in optimizer.param_groups for p in group["params"]]


def _names(optimizer: torch.optim.Optimizer) -> tuple[str, ...]:
    """Return the names of the state tensors of each weight."""
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
    """Return the gradients of the minimized loss, including coupled weight decay."""
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
    """Update by Adam's kernel, in a third of the time of torch's six passes.

    With `beta1` 0 and infinite step counts (no bias correction) Adam equals RMSprop, up to rounding.
    """
    if "mean" not in state:
        # One buffer per weight, because a diverged weight leaves NaN in its buffer.
        state["mean"] = [torch.zeros_like(p) for p in weights]
        state["infinite"] = [torch.tensor(math.inf)] * len(weights)
    options = {"betas": (0.0, group["alpha"]), "amsgrad": False, "decoupled_weight_decay": False}
    moments = {"exp_avg": state["mean"], "exp_avg_sq": state["square_avg"], "step": state["infinite"]}
    _adam(group | options, weights, gradients, state | moments)


CALLS: dict[type[torch.optim.Optimizer], Callable[..., None]] = {
    torch.optim.SGD: _sgd,
    torch.optim.Adam: _adam,
    torch.optim.AdamW: _adam,
    torch.optim.Adagrad: _adagrad,
    torch.optim.RMSprop: _rmsprop,
    Adam: _adam,
}
