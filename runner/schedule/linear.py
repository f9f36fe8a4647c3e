"""Linear decay from the rate to its floor (torch's `LinearLR` from 1 to the floor)."""

from runner.schedule.base import Schedule


class Linear(Schedule):
    def decay(self, step: int) -> float:
        return self.to_floor(1 - self.done(step))
