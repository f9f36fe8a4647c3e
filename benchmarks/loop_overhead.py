"""What the runner's loop costs: steps per second against a plain hand-written PyTorch loop, and against a DataLoader.

    python benchmarks/loop_overhead.py --root FOLDER_OF_FASHION_MNIST [--threads N] [--repeats 5]

The plain loop has the data resident, the same model, optimizer, batch, augmentation, memory format and threads, adds
up the loss and measures validation accuracy after each epoch. The runner's has all its defaults on: schedule,
accuracy, TensorBoard, metrics.csv, best weights, checkpoints. Both train the same number of steps, in turn, in one
process; the medians are compared. The DataLoader's loop reads torchvision's data set through per-sample
`transforms.v2`, with 0 or 2 workers, whichever is faster.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from torch.nn.functional import cross_entropy, pad

from runner.build.check import check
from runner.core.listener import Listener
from runner.execution.eager import EagerProgram
from runner.sweep.compose.explain import CONF
from runner.task.job import Job
from runner.task.resources import Resources
from runner.task.session import Session
from runner.train.loop import train

CASES = {  # name -> overrides, epochs in one measurement
    "mlp on digits": (["model=mlp", "data=digits"], 40),
    "convnet on Fashion-MNIST": (["model=convnet", "data=fashion_mnist", "data.limit=12000"], 1),
    "convnet on Fashion-MNIST, flip and crop": (
        ["model=convnet", "data=fashion_mnist", "data.limit=12000", "augmentation=[flip,crop]"],
        1,
    ),
    "mlp on Fashion-MNIST, flip and crop": (
        ["model=mlp", "data=fashion_mnist", "data.limit=12000", "augmentation=[flip,crop]"],
        2,
    ),
}


def config_of(overrides: list[str], epochs: int, root: str) -> dict:
    """A checked config, as the command line makes it."""
    if "data=fashion_mnist" in overrides:
        overrides = [*overrides, f"data.root={root}"]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("config", [*overrides, f"epochs={epochs}"])
    return check(OmegaConf.to_container(config, resolve=True))


def runner_seconds(config: dict, builder: Resources) -> float:
    """Seconds of the runner's loop, all its defaults on."""
    with tempfile.TemporaryDirectory() as folder:
        job = Job(Path(folder), config, "0", "0", [], {}, {}, "", torch.get_num_threads())
        with Session(job, builder, torch.device("cpu"), Listener()) as session:
            start = time.perf_counter()
            train([session.run], EagerProgram())
            return time.perf_counter() - start


def network(config: dict, builder: Resources) -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    """The same model and optimizer, for the loops written by hand."""
    model = builder.model(config, builder.splits(config))
    if any(isinstance(module, torch.nn.Conv2d) for module in model.modules()):
        model = model.to(memory_format=torch.channels_last)
    return model, torch.optim.Adam(model.parameters(), lr=1e-3)


def augment(images: torch.Tensor) -> torch.Tensor:
    """Pad-and-crop and flip by hand, each image with its own draw."""
    batch, channels, size, _ = images.shape
    images = torch.where((torch.rand(batch) < 0.5).view(-1, 1, 1, 1), images.flip(-1), images)
    padding = size // 8
    images = pad(images, (padding,) * 4)
    top, left = torch.randint(2 * padding + 1, (2, batch))
    rows = (top[:, None] + torch.arange(size))[:, None, :, None].expand(-1, channels, -1, size + 2 * padding)
    columns = (left[:, None] + torch.arange(size))[:, None, None, :].expand(-1, channels, size, -1)
    return images.gather(2, rows).gather(3, columns)


def plain_seconds(config: dict, builder: Resources) -> float:
    """Seconds of a plain loop over resident data."""
    splits = builder.splits(config)
    model, optimizer = network(config, builder)
    channels_last = any(isinstance(module, torch.nn.Conv2d) for module in model.modules())
    images, labels, batch = splits.train.images, splits.train.labels, config["batch_size"]
    mean, std = splits.mean.view(-1, 1, 1) * 255, splits.std.view(-1, 1, 1) * 255

    def prepared(raw: torch.Tensor) -> torch.Tensor:
        x = (raw - mean) / std
        return x.contiguous(memory_format=torch.channels_last) if channels_last else x

    start = time.perf_counter()
    for _ in range(config["epochs"]):
        order, total = torch.randperm(len(labels)), 0.0
        for i in range(len(labels) // batch):
            chosen = order[i * batch : (i + 1) * batch]
            raw = images[chosen]
            if config["augmentation"]:
                raw = augment(raw)
            loss = cross_entropy(model(prepared(raw)), labels[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item()
        model.eval()
        with torch.no_grad():
            parts = range(0, len(splits.val), 256)
            right = sum(
                (model(prepared(splits.val.images[i : i + 256])).argmax(1) == splits.val.labels[i : i + 256])
                .sum()
                .item()
                for i in parts
            )
        model.train()
        assert 0 <= right <= len(splits.val)
    return time.perf_counter() - start


def loader_seconds(config: dict, builder: Resources, workers: int, root: str, steps: int) -> float:
    """Seconds of `steps` steps with a DataLoader and per-sample transforms."""
    from torchvision.datasets import FashionMNIST
    from torchvision.transforms import v2

    splits = builder.splits(config)
    transform = v2.Compose(
        [
            v2.ToImage(),
            v2.RandomHorizontalFlip(),
            v2.RandomCrop(28, padding=3),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(splits.mean.tolist(), splits.std.tolist()),
        ]
    )
    data = torch.utils.data.Subset(FashionMNIST(root, transform=transform), range(len(splits.train)))
    loader = torch.utils.data.DataLoader(
        data, config["batch_size"], shuffle=True, drop_last=True, num_workers=workers, persistent_workers=workers > 0
    )
    model, optimizer = network(config, builder)
    next(iter(loader))  # workers start outside of the measurement
    start, done = time.perf_counter(), 0
    while done < steps:
        for images, labels in loader:
            loss = cross_entropy(model(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            done += 1
            if done == steps:
                break
    return time.perf_counter() - start


def measured(repeats: int, *loops: Callable[[], float]) -> tuple[list[float], float]:
    """Median seconds of interleaved loops, the first round left out, and the median over the rounds of the last
    loop's seconds over the first's: a busy moment slows the neighbours in a round alike."""
    rounds = [[loop() for loop in loops] for _ in range(repeats + 1)][1:]
    seconds = [statistics.median(column) for column in zip(*rounds, strict=True)]
    return seconds, statistics.median(row[-1] / row[0] for row in rounds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", required=True, help="folder that holds FashionMNIST/raw")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    builder = Resources()
    lines = ["| case | runner, steps/s | plain loop, steps/s | ratio |", "|---|---|---|---|"]
    for name, (overrides, epochs) in CASES.items():
        config = config_of(overrides, epochs, arguments.root)
        steps = epochs * (len(builder.splits(config).train) // config["batch_size"])
        (ours, plain), ratio = measured(
            arguments.repeats, lambda c=config: runner_seconds(c, builder), lambda c=config: plain_seconds(c, builder)
        )
        lines.append(f"| {name} | {steps / ours:,.0f} | {steps / plain:,.0f} | {ratio:.2f} |")
    loaders = [
        measured(
            max(1, arguments.repeats // 2),
            lambda c=config: runner_seconds(c, builder) / steps,
            lambda c=config, w=w: loader_seconds(c, builder, w, arguments.root, 100) / 100,
        )
        for w in (0, 2)
    ]
    (mine, other), ratio = min(loaders, key=lambda found: found[1])
    lines.append(f"| the last against DataLoader, per-sample v2 | {1 / mine:,.0f} | {1 / other:,.0f} | {ratio:.1f} |")
    lines.append(f"\n{arguments.threads} thread(s), torch {torch.__version__}, batch 64, {arguments.repeats} repeats")
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
