"""What the peers share: the combinations, the networks, the optimizers, the cut of the data, per-sample transforms."""

import argparse
import itertools
import json
import sys
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, Subset
from torchvision import transforms
from torchvision.datasets import FashionMNIST

MEAN, STD = 0.2860, 0.3530
BATCH = 64
TEST_BATCH = 256

# name -> network, images for training and validation, epochs, the factors of the sweep
WORKLOADS: dict[str, dict[str, Any]] = {
    "w1": {
        "model": "mlp",
        "limit": 12800,
        "epochs": 3,
        "optimizer": ("sgd", "momentum", "rmsprop", "adam"),
        "lr_scale": (0.5, 1.0),
        "weight_decay": (0.0, 1e-4),
    },
    "w2": {
        "model": "convnet",
        "limit": 6400,
        "epochs": 1,
        "optimizer": ("momentum", "adam"),
        "lr_scale": (0.5, 1.0),
        "weight_decay": (0.0, 1e-4),
    },
}
OPTIMIZERS = {  # what the runner's options of the same names are
    "sgd": (torch.optim.SGD, {"lr": 0.1}),
    "momentum": (torch.optim.SGD, {"lr": 0.03, "momentum": 0.9}),
    "rmsprop": (torch.optim.RMSprop, {"lr": 1e-3}),
    "adam": (torch.optim.Adam, {"lr": 1e-3}),
}


def arguments(description: str, *flags: str) -> argparse.Namespace:
    """What every peer takes, and flags of its own."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--root", required=True, help="folder that holds FashionMNIST/raw")
    parser.add_argument("--workload", choices=list(WORKLOADS), default="w1")
    parser.add_argument("--limit", type=int, help="images for training and validation; the workload's own by default")
    parser.add_argument("--threads", type=int, help="torch's own choice by default")
    for flag in flags:
        parser.add_argument(flag, action="store_true")
    found = parser.parse_args()
    found.limit = found.limit or WORKLOADS[found.workload]["limit"]
    if found.threads:
        torch.set_num_threads(found.threads)
    return found


def combinations(workload: str) -> Iterator[dict[str, Any]]:
    """The product of a workload's factors."""
    names = ("optimizer", "lr_scale", "weight_decay")
    for values in itertools.product(*(WORKLOADS[workload][name] for name in names)):
        yield dict(zip(names, values, strict=True))


def network(name: str) -> nn.Sequential:
    """784-128-10, or conv3x3-32, pool, conv3x3-64, pool, linear 128, linear 10; ReLU between."""
    if name == "mlp":
        return nn.Sequential(nn.Flatten(), nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, 10))
    return nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(64 * 7 * 7, 128),
        nn.ReLU(),
        nn.Linear(128, 10),
    )


def optimizer(model: nn.Module, combination: dict[str, Any]) -> torch.optim.Optimizer:
    """The optimizer of a combination."""
    kind, settings = OPTIMIZERS[combination["optimizer"]]
    rate = settings["lr"] * combination["lr_scale"]
    return kind(model.parameters(), **settings | {"lr": rate, "weight_decay": combination["weight_decay"]})


def cut(limit: int) -> tuple[Tensor, Tensor]:
    """Rows of Fashion-MNIST's training images: nine tenths of `limit` to train on, a tenth to validate on."""
    rows = torch.randperm(60000, generator=torch.Generator().manual_seed(0))[:limit]
    return rows[limit // 10 :], rows[: limit // 10]


def datasets(root: str, limit: int) -> tuple[Subset, Subset, FashionMNIST]:
    """Training, validation and test set with per-sample transforms."""
    plain = transforms.Compose([transforms.ToTensor(), transforms.Normalize((MEAN,), (STD,))])
    augmented = transforms.Compose(
        [transforms.RandomHorizontalFlip(), transforms.RandomCrop(28, padding=3), *plain.transforms]
    )
    train, val = cut(limit)
    return (
        Subset(FashionMNIST(root, transform=augmented), train.tolist()),
        Subset(FashionMNIST(root, transform=plain), val.tolist()),
        FashionMNIST(root, train=False, transform=plain),
    )


def loaders(root: str, limit: int) -> tuple[DataLoader, DataLoader, DataLoader]:
    """Training, validation and test batches."""
    train, val, test = datasets(root, limit)
    return DataLoader(train, BATCH, shuffle=True), DataLoader(val, TEST_BATCH), DataLoader(test, TEST_BATCH)


@torch.no_grad()
def evaluate(model: nn.Module, batches: Any) -> tuple[float, float]:
    """(accuracy, loss)"""
    model.eval()
    right = total = loss = 0.0
    for images, labels in batches:
        logits = model(images)
        right += (logits.argmax(1) == labels).sum().item()
        loss += cross_entropy(logits, labels, reduction="sum").item()
        total += len(labels)
    model.train()
    return right / total, loss / total


def fit(model: nn.Module, combination: dict[str, Any], epochs: int, train: Any, val: Any, test: Any) -> dict[str, Any]:
    """A plain loop: validates after each epoch, tests the best weights once."""
    steps = optimizer(model, combination)
    best, kept, total = -1.0, {}, 0.0
    for _ in range(epochs):
        total = 0.0
        for images, labels in train:
            loss = cross_entropy(model(images), labels)
            steps.zero_grad()
            loss.backward()
            steps.step()
            total += loss.item()
        accuracy, _ = evaluate(model, val)
        if accuracy > best:
            best, kept = accuracy, {name: value.clone() for name, value in model.state_dict().items()}
    model.load_state_dict(kept)
    return {"val_accuracy": best, "test_accuracy": evaluate(model, test)[0], "train_loss": total / len(train)}


def tell(combination: dict[str, Any], result: dict[str, Any]) -> None:
    """One line a combination."""
    sys.stdout.write(json.dumps({**combination, **result}) + "\n")
    sys.stdout.flush()
