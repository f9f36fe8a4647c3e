"""Cosine annealing from the rate to its floor (Loshchilov & Hutter 2017, equation 5, one cycle)."""

import math

from runner.schedule.base import Schedule


class Cosine(Schedule):
    def decay(self, step: int) -> float:
        return self.to_floor(0.5 * (1 + math.cos(math.pi * self.done(step))))
