"""Slot: a run's place in a program that several runs share. Imports no torch."""

from typing import NamedTuple

APART, BATCHES, NOISE = range(3)  # shared by all runs of a program: nothing; batches; batches and noise


class Slot(NamedTuple):
    """Place of a run; fixed before the first step and saved, because its last digits depend on every field."""

    row: int
    count: int  # slots of the program
    common: int = APART
