"""Check that weights are meant for a network."""

from collections.abc import Mapping

from torch import Tensor

from runner.core.errors import ConfigError

SMALL_PART = 0.25  # of the kernels: a smaller share fits by chance, as with ResNet-50 in ResNet-18
WHOLE = 0.9  # not 1, because a stem for small images may differ


def refuse_small_part(origin: str, model: Mapping[str, Tensor], file: Mapping[str, Tensor], loaded: set[str]) -> None:
    """Raise ConfigError if the network and the file share only a small part of their kernels.

    If nearly all kernels of one are in the other it is accepted: a deeper network, or a file of selected tensors.

    model, file: tensors by name, without the head's. loaded: names of the tensors that fit.
    """
    model_kernels, file_kernels = (
        {name for name, tensor in tensors.items() if tensor.ndim > 1} for tensors in (model, file)
    )
    count = len(model_kernels & loaded)
    shares = [count / len(names) for names in (model_kernels, file_kernels) if names]
    if len(shares) == 2 and min(shares) < SMALL_PART and max(shares) < WHOLE:
        raise ConfigError(
            f"transfer.weights: {count} of {len(file_kernels)} kernels of {origin} fit this model, which has "
            f"{len(model_kernels)}: choose the model that the weights are of, or save the tensors that you mean in a "
            "file of their own"
        )
