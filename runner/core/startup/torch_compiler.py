"""Classes of torch without what only its compiler and its profiler need.

Some of their methods load the compiler (`torch._dynamo`) when they are first called, only to ask it to keep out of
them: a second for each process, and for nothing where they are not called from inside of what is compiled. Here only
networks are (`runner.execution.compile`). And each step of an optimizer is announced to the profiler, which takes a
tenth of it or more.
"""

import contextlib
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

GUARDS = ("torch._compile", "torch.optim.optimizer")  # modules of torch's wrappers that load the compiler


@functools.cache
def plain_optimizers() -> None:
    """From now on torch's optimizers leave the compiler alone."""
    for kind in _kinds(Optimizer):
        plain_methods(kind)


def plain_methods(kind: type) -> None:
    """From now on the methods of a class leave the compiler alone, unless it is there already."""
    if is_plain() or "torch._dynamo" in sys.modules:
        return
    for name, method in list(vars(kind).items()):
        if inspect.isfunction(method) and hasattr(method, "__wrapped__") and method.__globals__["__name__"] in GUARDS:
            own = inspect.unwrap(method)
            setattr(kind, name, _without_gradients(own) if issubclass(kind, Optimizer) and name == "step" else own)


def hooked(optimizer: Optimizer) -> bool:
    """Whether somebody is to be called before or after its steps."""
    everyones = _global_optimizer_pre_hooks, _global_optimizer_post_hooks
    return any((*everyones, optimizer._optimizer_step_pre_hooks, optimizer._optimizer_step_post_hooks))


def flop_counter() -> "FlopCounterMode":
    """torch's, which counts silently.

    Its module loads triton, to count what kernels that are written in it do: a tenth of a second, for nothing here.
    """
    with _absent("triton"):
        from torch.utils.flop_counter import FlopCounterMode
    return FlopCounterMode(display=False)


@contextlib.contextmanager
def _absent(name: str) -> Iterator[None]:
    """Inside, a package that is not loaded yet is as one that is not installed, without a word about that."""
    if is_plain() or name in sys.modules:
        yield
        return
    sys.modules[name] = None
    log = logging.getLogger("torch.utils.flop_counter")
    before, log.disabled = log.disabled, True
    try:
        yield
    finally:
        del sys.modules[name]
        log.disabled = before


def _kinds(kind: type) -> Iterator[type]:
    """It, and those of torch's own that derive from it."""
    if kind.__module__.startswith("torch."):
        yield kind
        for below in kind.__subclasses__():
            yield from _kinds(below)


def _without_gradients(step: Callable[..., Any]) -> Callable[..., Any]:
    """What else torch's wrappers of an optimizer's step do."""
    announced = Optimizer.profile_hook_step(step)

    @functools.wraps(step)
    def wrapped(self: Optimizer, *given: Any, **named: Any) -> Any:
        own = type(self).step is wrapped  # a class that calls this one is announced by torch
        with torch.set_grad_enabled(self.defaults["differentiable"]):
            return (announced if own and hooked(self) else step)(self, *given, **named)

    wrapped.hooked = True  # so that torch does not announce it
    return wrapped
