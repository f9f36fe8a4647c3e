"""Trained runs and their weights after every step."""

import copy

import numpy as np
import torch

from runner.execution.eager import EagerProgram
from runner.task.resources import Resources
from runner.train.loop import train
from tests.shared.training import checked, make

LOGGED = ("log.every=1", "epochs=4")


def recorded(*overrides, **options):
    """A trained run, and its weights before the first step and after each: [steps + 1, weights]."""
    run = make(*LOGGED, *overrides, **options)
    seen = [state(run.model)]
    run.on_log = lambda step, scalars: seen.append(state(run.model)) if "train/loss" in scalars else None
    train([run], EagerProgram())
    assert len(seen) == run.steps + 1
    return run, np.stack(seen)


def state(model):
    """Parameters in one vector, float64."""
    return torch.cat([p.detach().flatten() for p in model.parameters()]).double().numpy()


def preflight(*overrides):
    config = copy.deepcopy(checked(("model=mlp", "model.hidden=[12]", *overrides)))
    return Resources().preflight(config)
