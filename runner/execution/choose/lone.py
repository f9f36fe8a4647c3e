"""Train runs one by one; choose compile and CUDA graphs for each."""

from pathlib import Path

from runner.core import interruption
from runner.execution.choose.compile import choose_compile
from runner.execution.choose.cuda_graph import choose_graph
from runner.execution.eager import EagerProgram
from runner.train.loop import train
from runner.train.program import OnFailure
from runner.train.state import TrainState


def train_alone(runs: list[TrainState], folder: Path | None = None, on_failure: OnFailure | None = None) -> None:
    """Train runs to their ends, each by its own program. `folder`: of their sweep, for decisions."""
    program = EagerProgram()
    for run in runs:
        if interruption.pending():
            break
        if not run.ended or run.compiled is not None:  # a finished run that is resumed reports its choice
            choose_compile(run, folder)
        if not run.ended:
            choose_graph([run], program)
    train(runs, program, on_failure)
