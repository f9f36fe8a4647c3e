"""Constant learning rate."""

from runner.schedule.base import Schedule


class Constant(Schedule):
    def decay(self, step: int) -> float:
        return 1.0
