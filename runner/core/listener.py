"""Listener: receives the progress of a run. Imports no torch."""


class Listener:
    """Receiver of a run's progress; this base class ignores it."""

    def progress(self, step: int, steps: int, numbers: dict[str, float]) -> None:
        """Receive the step, the total of steps and the metrics after each piece of training."""
