"""At which layers of a network noise goes: the words that the items with a key `where` share."""

from torch import nn


def places(model: nn.Module, where: str) -> list[str]:
    """Dotted names of linear and convolutional layers, in the order of the network's definition.

    where: `linear` (every linear layer but one that reads the images), `conv` (every convolution but the first),
    `head` (the last linear layer or, in networks that end in one, the last convolution), `input` (the layer that
    reads the images), `all` (every linear layer and convolution).
    """
    # Attention reads its projection's weight without calling the layer, so nothing could be dropped before it.
    inside = {id(m) for a in model.modules() if isinstance(a, nn.MultiheadAttention) for m in a.modules()}
    layers = [
        (name, layer)
        for name, layer in model.named_modules()
        if isinstance(layer, nn.Linear | nn.Conv2d) and id(layer) not in inside
    ]
    if where == "all":
        return [name for name, _ in layers]
    if where == "input":
        return [name for name, _ in layers[:1]]
    if where == "head":
        return [name for name, _ in layers[1:]][-1:]
    kind = nn.Linear if where == "linear" else nn.Conv2d
    return [name for name, layer in layers[1:] if isinstance(layer, kind)]


def no_place(item: str, where: str, model: nn.Module, words: str = "linear, conv, head") -> str | None:
    """The line that refuses an item whose `where` names no layer of the model; None where there is one."""
    if places(model, where):
        return None
    after = "" if where == "input" else " after its first"
    return (
        f"regularization.{item}.where={where}: {type(model).__name__} has no such layer{after}; use another of {words}"
    )
