"""What the runs of one process share."""

from typing import Any

from runner.build.builder import Builder
from runner.execution.features.store import Store
from runner.task.preflight import Facts, Preflights


class Resources(Builder):
    """A builder with the cache of features and what preflight found; made once by a process, and passed down."""

    def __init__(self) -> None:
        super().__init__()
        self.features = Store()
        self._preflights = Preflights(self)

    def preflight(self, config: dict[str, Any]) -> Facts:
        """Return what is known of a checked combination before it runs.

        Raises `ConfigError` for what cannot be built.
        """
        return self._preflights.of(config)
