"""Torch's classes without the wrappers that only its compiler and its profiler need.

Some wrappers import the compiler (`torch._dynamo`) at their first call, only to exclude a method from compilation. That
takes a second a process, for nothing: the runner compiles networks alone (`runner.execution.compile`). Another wrapper
reports each step of an optimizer to the profiler, which takes a tenth of the step or more.
"""

import functools
import inspect
import logging
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch.optim import Optimizer
from torch.optim.optimizer import _global_optimizer_post_hooks, _global_optimizer_pre_hooks

from runner.core.startup import is_plain

if TYPE_CHECKING:
    from torch.utils.flop_counter import FlopCounterMode

GUARDS = ("torch._compile", "torch.optim.optimizer")  # modules of the wrappers that import the compiler


@functools.cache
def unwrap_optimizers() -> None:
    """Remove the wrappers from the methods of torch's optimizers."""
    for optimizer_class in _torch_classes(Optimizer):
        unwrap_methods(optimizer_class)


def unwrap_methods(owner: type) -> None:
    """Remove the wrappers from the methods of a class, unless the compiler is imported already."""
    if is_plain() or "torch._dynamo" in sys.modules:
        return
    for name, method in list(vars(owner).items()):
        if inspect.isfunction(method) and hasattr(method, "__wrapped__") and method.__globals__["__name__"] in GUARDS:
            inner = inspect.unwrap(method)
            is_step = issubclass(owner, Optimizer) and name == "step"
            setattr(owner, name, _without_gradients(inner) if is_step else inner)


def has_step_hooks(optimizer: Optimizer) -> bool:
    """Return whether hooks run before or after the optimizer's steps."""
    global_hooks = _global_optimizer_pre_hooks, _global_optimizer_post_hooks
    return any((*global_hooks, optimizer._optimizer_step_pre_hooks, optimizer._optimizer_step_post_hooks))


def flop_counter() -> "FlopCounterMode":
    """Return torch's counter of floating-point operations, without its printed table."""
    # its warning that triton is not installed concerns triton's kernels alone
    logging.getLogger("torch.utils.flop_counter").setLevel(logging.ERROR)
    from torch.utils.flop_counter import FlopCounterMode

    return FlopCounterMode(display=False)


def _torch_classes(base: type) -> Iterator[type]:
    """Yield a class and its subclasses in torch."""
    if base.__module__.startswith("torch."):
        yield base
        for subclass in base.__subclasses__():
            yield from _torch_classes(subclass)


def _without_gradients(step: Callable[..., Any]) -> Callable[..., Any]:
    """Return a step without gradients, and with torch's hooks where there are any."""
    with_hooks = Optimizer.profile_hook_step(step)

    @functools.wraps(step)
    def wrapped(self: Optimizer, *args: Any, **kwargs: Any) -> Any:
        is_own = type(self).step is wrapped  # of a subclass that calls this one, torch runs the hooks
        with torch.set_grad_enabled(self.defaults["differentiable"]):
            return (with_hooks if is_own and has_step_hooks(self) else step)(self, *args, **kwargs)

    wrapped.hooked = True  # torch's mark: it adds no wrapper of its own
    return wrapped
