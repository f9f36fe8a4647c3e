"""Files of small data sets, and how their YAMLs load them."""

import numpy as np
import torch
import yaml
from PIL import Image

from tests.shared.paths import ROOT


def photo(path, seed, size=(20, 14)):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def folder(root, **parts):
    """`train=3`: three photos in each of the classes a and b of root/train."""
    seed = 0
    for part, count in parts.items():
        for name in "ab":
            for index in range(count):
                photo(root / part / name / f"{index}.png", seed)
                seed += 1
    return str(root)


def content(split):
    return [(images.tolist(), labels.tolist()) for images, labels in split.batches(torch.arange(len(split)).split(3))]


CONF = ROOT / "conf" / "data"


def own_keys(name):
    node = yaml.safe_load((CONF / f"{name}.yaml").read_text())
    module, function = node.pop("_target_").rsplit(".", 1)
    return getattr(__import__(module, fromlist=[function]), function), node


def idx(path, array):
    header = bytes([0, 0, 8, array.ndim]) + b"".join(size.to_bytes(4, "big") for size in array.shape)
    path.write_bytes(header + array.tobytes())


def mnist(root, folder="MNIST"):
    raw = root / folder / "raw"
    raw.mkdir(parents=True)
    random = np.random.default_rng(0)
    for part, count in (("train", 20), ("t10k", 10)):
        idx(raw / f"{part}-images-idx3-ubyte", random.integers(0, 256, (count, 28, 28), dtype=np.uint8))
        idx(raw / f"{part}-labels-idx1-ubyte", (np.arange(count) % 10).astype(np.uint8))
    return raw
