"""What augmentation costs: the runner's against torchvision's and kornia's, from bytes to what the network takes.

    python benchmarks/augmentation.py [--batch 256] [--rounds 15]

All turn the same batch of uint8 images into normalised float32, with the same parameters. The runner's transforms are
built from their YAML files, as for `augmentation=[flip,crop,color_jitter]`, and end in its own `Normalize`. The peers:
`transforms.v2` on one image after the other, tensors or PIL images, then stacked, as a DataLoader does; `transforms.v2`
on the whole batch, for reference only: all images share one draw; and kornia, where it can be imported.

All contenders take turns in one process of one thread, each for about a tenth of a second a turn. CPU time, so that a
thread that waits for its core costs nothing; medians over the rounds, and of the ratios within each round.
"""

import argparse
import importlib.util
import statistics
import sys
import time
from collections.abc import Callable

import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from torch import Tensor, nn
from torchvision.transforms import v2
from torchvision.transforms.v2.functional import to_pil_image

from runner.build.check import check
from runner.data.normalize import Normalize
from runner.data.splits import ResidentSplit, Splits
from runner.sweep.compose.explain import CONF
from runner.task.resources import Resources

CASES = [  # channels, side, pipeline
    (1, 28, ["flip", "crop"]),
    (3, 32, ["flip", "crop"]),
    (3, 32, ["flip", "crop", "color_jitter"]),
]
MEAN, STD = 0.5, 0.25
TURN = 0.1  # seconds
FACTORS = ("brightness", "contrast", "saturation", "hue")

Loop = Callable[[], Tensor]


def nodes_of(pipeline: list[str]) -> dict:
    """A checked config, as the command line makes it."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("config", [f"augmentation=[{','.join(pipeline)}]"])
    return check(OmegaConf.to_container(config, resolve=True))


def runners(images: Tensor, config: dict) -> Loop:
    """The runner's way."""
    channels, side, _ = images.shape[1:]
    split = ResidentSplit(images, torch.zeros(len(images), dtype=torch.long))
    moments = torch.full((channels,), MEAN), torch.full((channels,), STD)
    normalize = Normalize(
        Splits(split, None, split, ("a", "b"), "", *moments, side), torch.device("cpu"), torch.contiguous_format
    )
    pipeline = list(Resources().stack(config, "augmentation").values())
    for transform in pipeline:
        transform.fit(split, side)
    generator = torch.Generator().manual_seed(0)

    def loop() -> Tensor:
        batch = images
        for transform in pipeline:
            batch = transform(batch, generator)
        return normalize(batch)

    return loop


def torchvisions(images: Tensor, nodes: dict) -> dict[str, Loop]:
    """`transforms.v2` per image, tensors and PIL, and on the whole batch."""
    channels, side, _ = images.shape[1:]
    makers = {
        "flip": lambda node: v2.RandomHorizontalFlip(node["p"]),
        "crop": lambda node: v2.RandomCrop(side, padding=side // 8, fill=node["fill"]),
        "color_jitter": lambda node: v2.ColorJitter(*(node[key] for key in FACTORS)),
    }
    steps = [makers[name](node) for name, node in nodes.items()]
    floats, normalize = v2.ToDtype(torch.float32, scale=True), v2.Normalize([MEAN] * channels, [STD] * channels)
    # Tensors are bytes in flip and crop, and floats from there on: its jitter is a tenth faster on them.
    from_tensor = v2.Compose([*steps[:2], floats, *steps[2:], normalize])
    from_pil = v2.Compose([*steps, v2.ToImage(), floats, normalize])
    singles, photos = list(images), [to_pil_image(image) for image in images]
    return {
        "v2 per image, tensor": lambda: torch.stack([from_tensor(image) for image in singles]),
        "v2 per image, PIL": lambda: torch.stack([from_pil(photo) for photo in photos]),
        "v2 on the batch (one draw for all)": lambda: from_tensor(images),
    }


def kornias(images: Tensor, nodes: dict) -> dict[str, Loop]:
    """kornia, each image with its own draw; nothing where it is not installed."""
    if importlib.util.find_spec("kornia") is None:
        return {}
    from kornia import augmentation

    channels, side, _ = images.shape[1:]
    makers = {
        "flip": lambda node: augmentation.RandomHorizontalFlip(p=node["p"]),
        "crop": lambda node: augmentation.RandomCrop((side, side), padding=side // 8, fill=node["fill"]),
        "color_jitter": lambda node: augmentation.ColorJitter(*(node[key] for key in FACTORS), p=1.0),
    }
    steps = [makers[name](node) for name, node in nodes.items()]
    normalize = augmentation.Normalize(torch.full((channels,), MEAN), torch.full((channels,), STD))
    pipeline = nn.Sequential(*steps, normalize)
    return {"kornia": lambda: pipeline(images / 255)}


def measured(loops: dict[str, Loop], rounds: int) -> dict[str, tuple[float, float]]:
    """CPU seconds a call, and how many times the first loop's in the same round: medians."""
    calls = {}
    for name, loop in loops.items():
        loop()  # warm
        start = time.process_time()
        loop()
        calls[name] = max(1, round(TURN / (time.process_time() - start)))
    table: dict[str, list[float]] = {name: [] for name in loops}
    for _ in range(rounds):
        for name, loop in loops.items():
            start = time.process_time()
            for _ in range(calls[name]):
                loop()
            table[name].append((time.process_time() - start) / calls[name])
    first = next(iter(table.values()))
    ratio = {name: statistics.median(b / a for a, b in zip(first, column)) for name, column in table.items()}
    return {name: (statistics.median(column), ratio[name]) for name, column in table.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=15)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    rows: dict[str, list[str]] = {}
    for channels, side, names in CASES:
        images = torch.randint(0, 256, (arguments.batch, channels, side, side), dtype=torch.uint8)
        config = nodes_of(names)
        nodes = config["augmentation"]
        loops = {"runner": runners(images, config)} | torchvisions(images, nodes) | kornias(images, nodes)
        for name, (seconds, ratio) in measured(loops, arguments.rounds).items():
            rows.setdefault(name, []).append(f"{seconds * 1e6 / arguments.batch:.1f} | {ratio:.1f}")
    heads = [f"{'+'.join(names)} {side}×{side}×{channels} | ratio" for channels, side, names in CASES]
    lines = [f"| µs an image | {' | '.join(heads)} |", "|---" * (2 * len(CASES) + 1) + "|"]
    lines += [f"| {name} | {' | '.join(cells)} |" for name, cells in rows.items()]
    if "kornia" not in rows:
        lines.append(
            "\nkornia is not here: pip install --no-deps --target FOLDER kornia kornia_rs, then PYTHONPATH=FOLDER"
        )
    lines.append(f"\n1 thread, torch {torch.__version__}, batch {arguments.batch}")
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
