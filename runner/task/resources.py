"""Resources: objects that the runs of one process share."""

from typing import Any

from runner.build.builder import Builder
from runner.execution.features.store import Store
from runner.task.preflight import Facts, Preflights


class Resources(Builder):
    """Builder with the caches of features and preflights; a process creates one and passes it down."""

    def __init__(self) -> None:
        super().__init__()
        self.features = Store()
        self._preflights = Preflights(self)

    def preflight(self, config: dict[str, Any]) -> Facts:
        """Return the facts about a checked config before it runs.

        Raises `ConfigError` for what cannot be built.
        """
        return self._preflights.of(config)
