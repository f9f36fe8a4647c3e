"""Small runs on images of noise, ready to train, and their numbers."""

import copy
import functools

import torch

from runner.build.check import check
from runner.core.seeds import generator
from runner.data.splits import ResidentSplit, Splits
from runner.execution.eager import EagerProgram
from runner.task.resources import Resources
from runner.train.loop import train
from runner.train.state import TrainState
from tests.shared.configs import composed

CPU = torch.device("cpu")
SMALL = ("model=mlp", "model.hidden=[12]", "batch_size=16", "epochs=2", "optimizer=sgd", "channels_last=false")
checked = functools.cache(lambda overrides: check(composed(*overrides)))


def splits(train=50, val=20, channels=1, side=8, classes=3):
    """Images of noise whose brightness tells the class; image i of training has the corner pixel i."""
    draws = torch.Generator().manual_seed(1)

    def split(count):
        labels = torch.arange(count) % classes
        images = torch.randint(0, 120, (count, channels, side, side), generator=draws)
        images += 60 * labels.view(-1, 1, 1, 1)
        images[:, :, 0, 0] = torch.arange(count)[:, None]
        return ResidentSplit(images.to(torch.uint8), labels)

    mean, std = torch.full((channels,), 0.4), torch.full((channels,), 0.25)
    names = tuple("abcdefghij"[:classes])
    return Splits(split(train), split(val) if val else None, split(20), names, "0" * 64, mean, std, side)


def make(*overrides, data=None, prepare=lambda parts: None):
    """A run ready to train, from overrides on top of `SMALL`."""
    config = copy.deepcopy(checked((*SMALL, *overrides)))
    noise = generator(config["seed"], "noise")
    parts = Resources().parts(config, data or splits(), CPU, noise)
    prepare(parts)
    return TrainState(config, parts, CPU, noise)


def trained(*overrides, **options):
    run = make(*overrides, **options)
    train([run], EagerProgram())
    return run


def weights(run):
    return torch.cat([p.detach().flatten() for p in run.model.parameters()])


def first_look(run):
    """The first batch, its loss and, in `grad`, its gradients."""
    run.model.train()
    batch = run.next_batch()
    (loss,) = EagerProgram().gradients([run], [batch])
    return batch, loss


def gradient(run):
    return torch.cat([p.grad.flatten() for p in run.model.parameters()])


def told(run):
    """What the run tells: the log lines and the rows of its epochs, filled while it trains."""
    lines, rows = [], []
    run.on_log = lambda step, scalars: lines.append((step, scalars))
    run.on_epoch = rows.append
    return lines, rows


def numbers(rows):
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]
