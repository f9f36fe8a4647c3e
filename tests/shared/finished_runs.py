"""Finished runs on the digits, and their answers."""

from pathlib import Path

from runner.build.check import check
from runner.build.load import load
from runner.task.resources import Resources
from tests.shared.configs import composed

QUICK = ("epochs=3", "threads=1", "data.limit=200", "log.tensorboard=false")
MLP = ("model=mlp", "model.hidden=[8]")
RUNS = {
    "plain": MLP,
    "other": (*MLP, "seed=1"),
    "stack": (*MLP, "regularization=[batchnorm,dropout]", "augmentation=[crop]"),
    "weight_standardization": (
        "model=convnet",
        "model.channels=[4]",
        "model.hidden=8",
        "regularization=[weight_standardization]",
    ),
    "group": (*MLP, "ensemble=independent", "ensemble.members=2", "ensemble.average=logits"),
    "ema": (*MLP, "regularization=[batchnorm]", "ensemble=ema"),
    "start": (*MLP, "optimizer.lr=0.003"),
    "split": (*MLP, "data.split_seed=1"),
    "classes": (*MLP, "data.classes=[0,1,2]"),
}


def answer(path: Path, images):
    return load(path).probabilities(images)


def digits():
    return Resources().splits(check(composed(*QUICK)))
