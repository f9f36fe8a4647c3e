"""Data sets of small images from torchvision, as arrays."""

from pathlib import Path
from typing import Any

import numpy as np

from runner.core.errors import ConfigError
from runner.data import array_cache, arrays
from runner.data.splits import Source, expand_root

UNPICKLED = ("LSUN", "LSUNClass")  # data sets that unpickle an index beside their files, without a checksum


def load(
    root: str | None,
    dataset: str,
    files: str,
    train: dict[str, bool | str],
    test: dict[str, bool | str],
    labels: str = "targets",
    channels_first: bool = False,
    names: list[str] | None = None,
    download: bool = False,
    cache_dir: str | None = None,
) -> Source:
    """Load `torchvision.datasets.<dataset>`; `train` and `test` are its arguments for the two splits.

    files: path that must exist in `root`. labels: attribute with the labels. names: of the classes, where the data set
    has no (good) ones. For errors see `torchvision_set`.
    """
    folder = expand_root(root)

    def read() -> Source:
        pairs = {}
        for part, arguments in (("train", train), ("test", test)):
            loaded = torchvision_set(folder, dataset, files, arguments, download)
            images = np.asarray(loaded.data)
            images = images.transpose(0, 2, 3, 1) if channels_first else images
            where = f"{dataset}: {part}"
            pairs[part] = (arrays.check_images(images, where), np.asarray(getattr(loaded, labels)))
            classes = tuple(loaded.classes if names is None else names)
        return arrays.source(pairs, classes, dataset)

    inputs = [dataset, train, test, labels, channels_first, names]
    return array_cache.source(folder / files, inputs, cache_dir, read)


def torchvision_set(root: Path, dataset: str, files: str, arguments: dict[str, Any], download: bool) -> Any:
    """Return a data set of torchvision. ConfigError: missing without `download`, failed download, unreadable."""
    if not download and not (root / files).exists():
        reason = f"data.root='{root}': {dataset} is not there (looked for '{files}' in it)"
        raise ConfigError(f"{reason}; correct the folder, or fetch it by data.download=true")
    from torchvision import datasets  # a slow import (one second), not needed for cached arrays

    if dataset not in datasets.__all__ or dataset in UNPICKLED:
        raise ConfigError(f"data.dataset={dataset}: no set of torchvision's that is read without running code in it")
    try:
        return getattr(datasets, dataset)(root=root, download=download, **arguments)
    except ModuleNotFoundError as error:
        needed = f"the package '{error.name}', which is not installed"
        raise ConfigError(f"{dataset} needs {needed}; pip install {error.name}") from error
    except Exception as error:  # torchvision's parsers and the network raise errors of any type
        reason = " ".join(str(error).split()) or type(error).__name__
        if download:
            raise ConfigError(f"data.root='{root}': fetching or reading {dataset} failed: {reason}") from error
        way_out = "repair the files, or fetch them again by data.download=true"
        raise ConfigError(f"data.root='{root}': reading {dataset} failed: {reason}; {way_out}") from error
