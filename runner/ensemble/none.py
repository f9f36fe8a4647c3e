"""One network answers."""

from torch import nn

from runner.option import Option


class NoEnsemble(Option):
    def members(self, model: nn.Module) -> list[nn.Module]:
        """The networks whose predictions are averaged; `model` carries the chosen weights."""
        return [model]
