"""Train runs one by one; choose compile and CUDA graphs for each."""

from pathlib import Path

from runner import interruption
from runner.compile_trial import choose_compile
from runner.graph.trial import choose_graph
from runner.running import Run
from runner.train import Alone, Leave, train


def train_alone(runs: list[Run], folder: Path | None = None, leave: Leave | None = None) -> None:
    """Trains runs to their ends, each by a program of its own. `folder`: of the sweep that they are of."""
    program = Alone()
    for run in runs:
        if interruption.pending():
            break
        if not run.ended or run.compiled is not None:  # resumed after its last step, it reports what was chosen
            choose_compile(run, folder)
        if not run.ended:
            choose_graph([run], program)
    train(runs, program, leave)
