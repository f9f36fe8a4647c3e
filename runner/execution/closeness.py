"""Comparison of tensors within the rounding error of a whole network."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

# Tolerated difference by dtype, relative to the largest value; 0 for other dtypes.
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-3, torch.bfloat16: 5e-2, torch.float16: 1e-2}


def close(result: Tensor, expected: Tensor) -> bool:
    """Return whether two tensors are equal within rounding; NaN equals nothing."""
    return distance([result], [expected]) <= TOLERANCE.get(expected.dtype, 0.0)


def distance(results: Sequence[Tensor | None], expected: Sequence[Tensor | None], floor: float = 1e-12) -> float:
    """Return the largest difference between two lists of tensors, relative to each tensor's largest absolute value.

    This divisor is at least a hundredth of the largest over all tensors, and at least `floor`.
    """
    if any((x is None) is not (y is None) for x, y in zip(results, expected, strict=True)):
        return math.inf
    pairs = [(_wide(x), _wide(y)) for x, y in zip(results, expected) if x is not None]
    if not pairs:
        return 0.0
    differences = torch.stack([(x - y).abs().max() for x, y in pairs])
    sizes = torch.stack([y.abs().max() for _, y in pairs])
    return float((differences / sizes.clamp_min(max(1e-2 * float(sizes.max()), floor))).max())


def _wide(tensor: Tensor) -> Tensor:
    """Return the tensor in float32 or wider."""
    # not float64, because Apple's GPUs lack it
    return tensor.detach().to(torch.promote_types(tensor.dtype, torch.float32))
