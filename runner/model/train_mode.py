"""The mode of a network, set quickly."""

from torch import nn


def set_mode(model: nn.Module, training: bool) -> None:
    """`model.train(training)`, without nn.Module's look at every attribute that is set: on a network of many small
    layers that takes longer than a small step."""
    modules = list(model.modules())
    if any(type(module).train is not nn.Module.train for module in modules):  # has a say of its own
        model.train(training)
        return
    for module in modules:
        vars(module)["training"] = training
