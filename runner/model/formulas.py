"""Layers as compositions of simpler operations, for second derivatives."""

import contextlib
from collections.abc import Iterator

from torch.nn.functional import hardsigmoid, relu6
from torch.overrides import TorchFunctionMode

from runner.model.attention import plain_attention


class _Formulas(TorchFunctionMode):
    """Mode that replaces functions with a backward pass that torch cannot differentiate."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function is hardsigmoid:
            return relu6(args[0] + 3) / 6
        return function(*args, **kwargs or {})


@contextlib.contextmanager
def twice_differentiable() -> Iterator[None]:
    """Compute forward passes so that they can be differentiated twice, also through attention and hard sigmoids."""
    with plain_attention(), _Formulas():
        yield
