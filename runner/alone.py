"""Runs that share no program: how each does its steps is settled, and then they train."""

from pathlib import Path

from runner import compile_trial, interruption
from runner.graph import trial
from runner.running import Run
from runner.train import Alone, Leave, train


def train_alone(runs: list[Run], folder: Path | None = None, leave: Leave | None = None) -> None:
    """Trains runs to their ends, each by a program of its own. `folder`: of the sweep that they are of."""
    program = Alone()
    for run in runs:
        if not run.ended and not interruption.pending():
            compile_trial.settle(run, folder)
            trial.settle([run], program)
    train(runs, program, leave)
