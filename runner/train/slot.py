"""A run's place in a program that several share. Loads no torch."""

from typing import NamedTuple

APART, BATCHES, NOISE = range(3)  # what all runs of a program have in common: nothing; batches; noise, too


class Slot(NamedTuple):
    """Fixed before the first step, and kept in the checkpoint: on all of it a run's last digits depend."""

    row: int
    count: int  # places
    common: int = APART
