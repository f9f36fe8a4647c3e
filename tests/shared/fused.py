"""Runs compared alone and in a shared program."""

from dataclasses import replace

import torch

from runner.execution.eager import EagerProgram
from runner.execution.fused.program import FusedProgram
from runner.train.loop import step
from runner.train.slot import APART, Slot
from tests.shared.training import make

ELEMENTWISE = ["sgd", "momentum", "nesterov", "adagrad", "rmsprop", "adam"]
ELEMENTWISE += ["adamw", "nadam", "radam", "adamax", "adadelta", "lion"]
SMALL_CONV = ("model=convnet", "model.channels=[3,4]", "model.hidden=8")


def doubled(*overrides, **options):
    """A run in float64, without validation."""
    run = make(*overrides, **options)
    run.val_split = None
    run.model.double()
    for state in run.optimizer.state.values():  # AdaGrad has it from the start
        state["sum"] = state["sum"].double()
    plain = run.mix

    def mix(*given):
        batch = plain(*given)
        targets = batch.targets.double() if batch.targets.is_floating_point() else batch.targets
        return replace(batch, images=batch.images.double(), targets=targets)

    run.mix = mix
    run.precision = torch.float64
    run.autocast = lambda: torch.autocast("cpu", enabled=False)
    return run


def states(runs):
    return [
        {name: value.clone() for name, value in run.model.state_dict().items()}
        | {
            f"state {i} {key}": torch.as_tensor(value).clone()
            for i, state in run.optimizer.state_dict()["state"].items()
            for key, value in state.items()
        }
        for run in runs
    ]


def compare(alone, together, steps=10, **tolerance):
    """Trains the first runs each by itself and the others together, and compares after every step."""
    tolerance = tolerance or {"rtol": 1e-10, "atol": 1e-12}
    program = FusedProgram(together)
    for run in (*alone, *together):
        run.train_mode()
    for _ in range(steps):
        step(alone, EagerProgram())
        step(together, program)
        losses = [
            torch.stack([run.meter.losses[-1] for run in runs]) if runs[0].meter.losses else None
            for runs in (alone, together)
        ]
        if losses[0] is not None:
            torch.testing.assert_close(losses[1], losses[0], **tolerance)
        for one, other in zip(states(alone), states(together)):
            assert one.keys() == other.keys()
            for name, value in one.items():
                torch.testing.assert_close(
                    other[name], value, **tolerance, msg=lambda text, name=name: f"{name}: {text}"
                )
    return program


def seated(runs, count=None, common=APART):
    for row, run in enumerate(runs):
        run.slot = Slot(row, count or len(runs), common)
    return runs


def train_together(runs, steps, program=None):
    program = program or FusedProgram(runs)
    for run in runs:
        run.train_mode()
    for _ in range(steps):
        step([run for run in runs if not run.ended], program)
    return program
