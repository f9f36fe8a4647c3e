"""Attention as a formula, for who looks at its operations."""

import contextlib
from collections.abc import Iterator

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel


@contextlib.contextmanager
def plain_attention() -> Iterator[None]:
    """Inside, it is matrix products and a softmax: none of the kernels that torch chooses by the device,
    nor the one for a whole layer of a transformer at test time."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)
