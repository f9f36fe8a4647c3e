"""The rate stays what it is."""

from runner.schedule.base import Schedule


class Constant(Schedule):
    def decay(self, step: int) -> float:
        return 1.0
