"""Every weight starts at random and is trained."""

from torch import nn

from runner.model.stages import stages
from runner.option import Option


class Scratch(Option):
    def prepare(self, model: nn.Module) -> None:
        """Loads and freezes: here nothing."""

    def rates(self, model: nn.Module) -> dict[str, float]:
        """Stage -> multiplier of the learning rate; a stage that is left out is not trained."""
        return {name: 1.0 for name, _ in stages(model)}
