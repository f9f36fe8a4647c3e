"""Data sets of runs: built from the `data` part of a checked config, kept for later runs."""

import functools
import inspect
import json
from collections.abc import Callable, MutableMapping
from typing import Any

import torch
from torch import nn

from runner.core.errors import ConfigError
from runner.core.memo import Recent
from runner.core.schema import GROUPS
from runner.core.targets import construct, locate
from runner.core.text import shown
from runner.data.prepare import prepare
from runner.data.splits import Source, Splits
from runner.model.presets import preset
from runner.transfer.weights import Weights, stem_channels

SOURCES, CUTS = 4, 8  # cached data sets, and cached splits of them; each counts again on a device
PHOTO_SIZES = (72, 64)  # (resize, size) where the architecture has no preset
SPLIT_KEYS = ("val_fraction", "split_seed", "limit", "per_class", "classes")  # keys of data that `prepare` takes
DATA_DEFAULTS = {key: field.default for key, field in GROUPS["data"].model_fields.items()}


class DataSets:
    """Cache of data sets that were loaded, split and moved to a device, for the last few configs."""

    def __init__(self) -> None:
        # few entries, because a sweep over keys of the data would fill the memory
        self._sources: MutableMapping[str, Source] = Recent(SOURCES)
        self._cut: MutableMapping[str, Splits] = Recent(CUTS)  # with their own statistics
        self._splits: MutableMapping[tuple[str, str], Splits] = Recent(CUTS)

    def of(
        self,
        config: dict[str, Any],
        device: torch.device | None,
        weights: Weights | None,
        network: Callable[[Splits], nn.Module],
    ) -> Splits:
        """Return the data of a config on a device, split, and normalized as for its weights.

        network: builds the network for splits; its first kernel tells the channels of a file that does not name them.
        """
        node = dict(config["data"])
        sizes = preset(config["model"]) if weights is None else weights.preset
        resize, size = (sizes.resize, sizes.size) if sizes else PHOTO_SIZES
        node["resize"] = resize if node["resize"] == "auto" else node["resize"]
        node["size"] = min(size, node["resize"]) if node["size"] == "auto" else node["size"]
        if node["size"] > node["resize"]:
            raise ConfigError(
                f"data.size={node['size']} is larger than data.resize={node['resize']}, of which it is a cut"
            )
        target = locate("data", node["_target_"], config["trust"])
        parameters = inspect.signature(target).parameters
        unused = [
            f"data.{key}={shown(config['data'][key])}"
            for key, default in DATA_DEFAULTS.items()
            if key not in parameters and key not in SPLIT_KEYS and config["data"][key] != default
        ]
        if unused:
            raise ConfigError(f"{', '.join(unused)}: data={_short(node['_target_'])} has no use for it; leave it out")
        keys = {key: value for key, value in node.items() if key in parameters}
        source_key = json.dumps([node["_target_"], keys], sort_keys=True)
        cut = {key: node[key] for key in SPLIT_KEYS}
        cut_key = source_key + json.dumps(cut, sort_keys=True)
        if cut_key not in self._cut:
            if source_key not in self._sources:
                self._sources[source_key] = construct("data", {"_target_": node["_target_"]} | keys, config["trust"])
            self._cut[cut_key] = prepare(self._sources[source_key], **cut)
        splits = self._cut[cut_key]
        if weights is not None:
            splits = as_trained(splits, weights, functools.partial(network, splits))
        key = (cut_key + json.dumps([splits.mean.tolist(), splits.std.tolist()]), str(device))
        if key not in self._splits:
            self._splits[key] = splits if device is None else splits.to(device)
        return self._splits[key]


def as_trained(splits: Splits, weights: Weights, build: Callable[[], nn.Module]) -> Splits:
    """Return a data set normalized as for its weights, gray images in as many channels as those take.

    build: builds the network; its first kernel tells the channels of a file that does not name them.
    """
    channels, sizes = splits.channels, weights.preset
    if channels == 1:
        channels = weights.channels or stem_channels(_meta_network(build), weights) or 1
    if sizes is not None:
        return splits.normalized_as(sizes.mean, sizes.std, channels)
    return splits.normalized_as(splits.mean.tolist(), splits.std.tolist(), channels)


def _meta_network(build: Callable[[], nn.Module]) -> nn.Module:
    """Build the network, on the meta device if possible."""
    try:
        with torch.device("meta"):
            return build()
    except (NotImplementedError, RuntimeError):  # a model that needs real values
        return build()


def _short(target: str) -> str:
    """Return the name of the file with the target: usually the option's name."""
    return target.split(".")[-2]
