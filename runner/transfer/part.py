"""Files of which too little fits a network to be meant for it."""

from collections.abc import Mapping

from torch import Tensor

from runner.core.errors import ConfigError

SMALL_PART = 0.25  # of the kernels: fewer fit by chance, as those of ResNet-50 in ResNet-18
WHOLE = 0.9  # but for a stem for small images


def refuse_small_part(origin: str, model: Mapping[str, Tensor], file: Mapping[str, Tensor], loaded: set[str]) -> None:
    """Raise `ConfigError` where few kernels of a network, or of the file, are in the other one.

    All that one of them has may be a small part of the other: of a deeper network, or in a file of chosen tensors.

    model, file: tensors by name, but for the head's. loaded: names of those that fit.
    """
    mine, theirs = ({name for name, tensor in tensors.items() if tensor.ndim > 1} for tensors in (model, file))
    count = len(mine & loaded)
    shares = [count / len(names) for names in (mine, theirs) if names]
    if len(shares) == 2 and min(shares) < SMALL_PART and max(shares) < WHOLE:
        raise ConfigError(
            f"transfer.weights: {count} of {len(theirs)} kernels of {origin} fit this model, which has {len(mine)}: "
            "choose the model that the weights are of, or save the tensors that you mean in a file of their own"
        )
