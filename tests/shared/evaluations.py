"""Networks, images, and evaluations of the ones on the others."""

import contextlib

import numpy as np
import torch
from PIL import Image
from torch import nn

from runner.data.normalize import Normalize
from runner.data.splits import ResidentSplit, Splits
from runner.evaluation.evaluate import evaluate
from runner.model.convnet import ConvNet
from runner.regularization.dropout import Dropout
from tests.shared.draws import seeded

CLASSES = 4


def data(count=600, side=5):
    draws = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, 2, side, side), generator=draws).to(torch.uint8)
    labels = torch.randint(0, CLASSES, (count,), generator=draws)
    split = ResidentSplit(images, labels)
    mean, std = torch.tensor([0.4, 0.6]), torch.tensor([0.2, 0.3])
    return Splits(split, None, split, tuple("abcd"), "0" * 64, mean, std, side)


def network(seed=0, outputs=CLASSES):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(50, outputs)).eval()


def measure(members, splits=None, batch_size=64, autocast=contextlib.nullcontext, **options):
    splits = splits or data()
    normalize = Normalize(splits, torch.device("cpu"), torch.contiguous_format)
    return evaluate(members, splits.test, normalize, autocast, batch_size, CLASSES, **options)


CPU = torch.device("cpu")


def photos(count=6, side=12, channels=3):
    return torch.randint(0, 256, (count, channels, side, side), generator=seeded(1)).to(torch.uint8)


def normalizer(size=8, channels=3, memory_format=torch.contiguous_format):
    """Of a network that takes `size` pixels."""
    mean, std = torch.linspace(0.3, 0.6, channels), torch.linspace(0.2, 0.3, channels)
    split = ResidentSplit(photos(2, size, channels), torch.tensor([0, 1]))
    return Normalize(Splits(split, None, split, tuple("abcde"), "", mean, std, size), CPU, memory_format)


def convnet(seed=0, **options):
    torch.manual_seed(seed)
    return ConvNet([6, 8], 16, in_channels=3, num_classes=5, image_size=8).eval()


def dropped(p=0.5, inverted=True):
    """A network with dropout before its linear layers, and the generator that its training draws from."""
    model, noise = convnet(), seeded(5)
    Dropout(p, inverted).modify(model, noise)
    return model.eval(), noise


def ask(evaluation, model, images, normalize, pipeline=(), seed=9):
    """An evaluation's passes [S, B, K], from the start of a split."""
    evaluation.begin(list(pipeline), seeded(seed))
    with torch.no_grad():
        return evaluation.log_probabilities(model, images, normalize)


def probabilities(model, inputs):
    with torch.no_grad():
        return model(inputs).double().softmax(-1)


def fitted(transform, size=8):
    transform.fit(None, size)
    return transform


def folder(root, classes=12):
    """A data set of photos in twelve colours; the words that choose it."""
    draws = np.random.default_rng(0)
    for part, count in (("train", 6), ("test", 2)):
        for label in range(classes):
            (root / part / f"class{label:02}").mkdir(parents=True, exist_ok=True)
            for i in range(count):
                pixels = draws.integers(0, 60, (20, 22, 3)) + 16 * label * np.array([1, 0, 0.5])
                Image.fromarray(pixels.astype(np.uint8)).save(root / part / f"class{label:02}" / f"{i}.png")
    return "data=image_folder", f"data.root={root}"
