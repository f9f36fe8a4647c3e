"""A CUDA graph's semantics on the CPU: a tape of torch's own operations.

While it records, nothing is left computed: what the operations wrote stands as before, generators too. A replay does
the operations again, in their order, with the tensors and the numbers of the recording, and writes into the memory of
the recording. What no CUDA graph may do (read a number, draw from a generator that is not registered) is an error.
"""

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

WAITS = {"aten::_local_scalar_dense", "aten::nonzero", "aten::equal", "aten::is_nonzero"}


class Tape(TorchDispatchMode):
    """`Tape()(work, generators) -> replay`."""

    def __init__(self):
        super().__init__()
        self.recorded = self.replayed = 0

    def __call__(self, work, generators):
        self._calls, self._before, self._born = [], {}, set()
        self._known = {noise.initial_seed() for noise in (*generators, torch.default_generator)}
        draws = [(noise, noise.get_state()) for noise in (*generators, torch.default_generator)]
        try:
            with self:
                work()
        finally:
            for storage, content in self._before.values():
                storage.copy_(content)
            for noise, state in draws:
                noise.set_state(state)
        calls, self.recorded = self._calls, self.recorded + 1

        def replay():
            self.replayed += 1
            with torch.no_grad():
                for func, args, kwargs, wrote in calls:
                    found = tensors(func(*args, **kwargs))
                    for place, out in wrote:
                        out.copy_(found[place])

        return replay

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = func._schema.name
        if name in WAITS:
            raise RuntimeError(f"operation not permitted when stream is capturing ({name})")
        leaves = tree_leaves((args, kwargs))
        for given in leaves:
            if isinstance(given, torch.Generator) and given.initial_seed() not in self._known:
                raise RuntimeError("Attempt to increase offset for a CUDA generator not in capture mode.")
            if isinstance(given, torch.Tensor) and place(given) not in self._born | self._before.keys():
                storage = given.untyped_storage()
                self._before[place(given)] = storage, storage.clone()
        found = func(*args, **kwargs)
        read = {place(given) for given in leaves if isinstance(given, torch.Tensor)}
        wrote = [(i, out.detach()) for i, out in enumerate(tensors(found)) if place(out) not in read]
        self._born |= {place(out) for _, out in wrote}
        if wrote or func._schema.is_mutable:  # else a view
            self._calls.append((func, args, kwargs, wrote))
        return found


def tensors(found):
    return [leaf for leaf in tree_leaves(found) if isinstance(leaf, torch.Tensor)]


def place(tensor):
    """The memory that a tensor lies in; the tape keeps all that it has seen alive."""
    return tensor.untyped_storage()._cdata
