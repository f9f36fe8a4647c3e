"""A fast replacement of `nn.Module.train`."""

from torch import nn


def set_mode(model: nn.Module, training: bool) -> None:
    """Set the training flag of all modules, as `model.train(training)`."""
    # Because nn.Module.__setattr__ checks every attribute. With many small layers that takes longer than a small step.
    modules = list(model.modules())
    if any(type(module).train is not nn.Module.train for module in modules):  # overrides `train`
        model.train(training)
        return
    for module in modules:
        vars(module)["training"] = training
