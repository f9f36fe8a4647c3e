"""Runs on cached features of frozen stages."""

import pytest
import torch

from runner.build.check import check
from runner.core.seeds import generator
from runner.execution.eager import EagerProgram
from runner.execution.features import cache
from runner.execution.features.store import Store
from runner.task.resources import Resources
from runner.train.loop import train
from runner.train.state import TrainState
from tests.shared.configs import composed
from tests.shared.training import splits

CPU = torch.device("cpu")
CONVNET = ("model=convnet", "model.channels=[4,6]", "model.hidden=12")
SQUEEZENET = ("model=torchvision", "model.name=squeezenet1_1")
LOOP = ("batch_size=16", "epochs=2", "optimizer=sgd", "optimizer.lr=0.1", "checkpoint.select=last")
HEAD = "transfer.freeze_depth=all"


def make(*overrides, data=None, store=None, prepare=lambda parts: None, budget=None, model=CONVNET):
    """A run ready to train, and what its result says of the cache."""
    data = data or DATA
    config = check(composed(*model, HEAD, "transfer.cache=true", *LOOP, *overrides))
    config["data"]["budget_gb"] = budget
    torch.manual_seed(0)  # from which layers of libraries draw
    noise = generator(config["seed"], "noise")
    parts = Resources().parts(config, data, CPU, noise)
    prepare(parts)
    run = TrainState(config, parts, CPU, noise)
    return run, cache.use_feature_cache(run, data, store or Store())


DATA = splits(train=50, val=20)


def trained(*overrides, **options):
    run, said = make(*overrides, **options)
    assert said == ("off" if "transfer.cache=false" in overrides else "on")
    train([run], EagerProgram())
    return run


def rows(run):
    return [{key: value for key, value in row.items() if key != "seconds"} for row in run.progress.history]


def assert_equal(cached, plain, bound=1e-6):
    """Weights, buffers and every epoch's row."""
    for name, value in plain.model.state_dict().items():
        torch.testing.assert_close(cached.model.state_dict()[name], value, rtol=bound, atol=bound, msg=name)
    for row, wanted in zip(rows(cached), rows(plain), strict=True):
        assert row == pytest.approx(wanted, rel=bound)
