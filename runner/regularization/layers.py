"""Selection of a network's layers by the key `where` of noise items."""

from torch import nn


def places(model: nn.Module, where: str) -> list[str]:
    """Return the dotted names of linear and convolutional layers, in the order of the network's definition.

    where: `linear` (every linear layer except one that reads the images), `conv` (every convolution except the first),
    `head` (the last linear layer or, in networks that end in one, the last convolution), `input` (the layer that
    reads the images), `all` (every linear layer and convolution).
    """
    # Excludes attention: it uses the weight of its projection without calling the layer, so hooks would not run.
    in_attention = {id(m) for a in model.modules() if isinstance(a, nn.MultiheadAttention) for m in a.modules()}
    layers = [
        (name, layer)
        for name, layer in model.named_modules()
        if isinstance(layer, nn.Linear | nn.Conv2d) and id(layer) not in in_attention
    ]
    if where == "all":
        return [name for name, _ in layers]
    if where == "input":
        return [name for name, _ in layers[:1]]
    if where == "head":
        return [name for name, _ in layers[1:]][-1:]
    kind = nn.Linear if where == "linear" else nn.Conv2d
    return [name for name, layer in layers[1:] if isinstance(layer, kind)]


def no_place(item: str, where: str, model: nn.Module, choices: str = "linear, conv, head") -> str | None:
    """Return the error message for a `where` that selects no layer of the model, or None."""
    if places(model, where):
        return None
    after = "" if where == "input" else " after its first"
    problem = f"{type(model).__name__} has no such layer{after}"
    return f"regularization.{item}.where={where}: {problem}; use another of {choices}"
