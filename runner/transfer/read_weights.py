"""Loading of weights from a file, a finished run or torchvision, without executing pickled code."""

import functools
import hashlib
import pickle
import re
import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from runner.core.errors import ConfigError, did_you_mean
from runner.model.presets import Preset, preset
from runner.model.stages import raw_name
from runner.store import checkpoint
from runner.store.about import contents, describe
from runner.store.ledger import run_folders
from runner.transfer.published import renamed
from runner.transfer.weights import Weights


def read(source: str, node: Mapping[str, Any]) -> Weights:
    """Load the weights named by `transfer.weights` for a model's config node. Raises ConfigError."""
    path = Path(source).expanduser()
    if not path.exists():
        return _published(source, node)
    file = _run_file(path) if path.is_dir() else path
    stat = file.stat()
    weights = _read(str(file), stat.st_size, stat.st_mtime_ns)
    return weights if weights.preset else replace(weights, preset=preset(node))


def _run_file(folder: Path) -> Path:
    """Return the checkpoint file of a run's folder, or of the only run in a folder of runs."""
    if (folder / checkpoint.FILE).exists():
        return folder / checkpoint.FILE
    candidates = {*folder.glob(f"*/{checkpoint.FILE}"), *(run / checkpoint.FILE for run in run_folders(folder))}
    runs = sorted(file for file in candidates if file.exists())
    if len(runs) > 1:
        raise ConfigError(
            f"transfer.weights={folder}: {len(runs)} runs are in this folder; name one, its name in quotes of its own: "
            f"\"transfer.weights='{runs[0].parent}'\""
        )
    if not runs:
        raise ConfigError(
            f"transfer.weights={folder}: a folder without {checkpoint.FILE}; name a finished run, or a file"
        )
    return runs[0]


@functools.lru_cache(maxsize=4)
def _read(source: str, size: int, changed: int) -> Weights:
    """Load one file. Cached in the process while its size and modification time stay the same."""
    path = Path(source)
    content = path.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load

        try:
            return Weights(renamed(load(content)), digest, path.name)
        except SafetensorError as error:
            raise ConfigError(f"transfer.weights={source}: damaged, or no safetensors file ({error})") from error
    try:
        with warnings.catch_warnings(action="ignore"):  # warnings about pickle protocols; unreadable files raise
            state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        match = re.search(r"GLOBAL ([\w.]+)", str(error))
        name = f" ({match[1]})" if match else ""
        raise ConfigError(
            f"transfer.weights={source}: holds more than tensors{name}, or is damaged; nothing of it was run: save the "
            "state_dict alone"
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, AttributeError, IndexError) as error:
        raise ConfigError(f"transfer.weights={source}: damaged, or no file of weights") from error
    if isinstance(state, dict) and {"about", "members"} <= state.keys():
        return of_run(path)
    for key in ("state_dict", "model"):  # wrappers of many training scripts
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict) or not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise ConfigError(f"transfer.weights={source}: holds no mapping of names to tensors; save model.state_dict()")
    state = renamed({key.removeprefix("module."): value for key, value in state.items()})
    return Weights(state, digest, path.name)


def of_run(file: Path) -> Weights:
    """Load the tested weights of a finished run from its checkpoint."""
    folder = file.parent
    try:
        saved = checkpoint.load(file)
    except checkpoint.Damaged as error:
        raise ConfigError(f"transfer.weights={folder}: {error}") from error
    source = f"transfer.weights={folder}"
    saved = contents(saved, source)
    if saved["members"] is None:
        raise ConfigError(f"{source}: this run is not finished; run its command again first")
    about = describe(saved["abouts"][0], source)
    if len(saved["members"]) > 1:
        raise ConfigError(
            f"transfer.weights={folder}: an ensemble of {len(saved['members'])} networks; name a run of one"
        )
    (state,) = saved["members"]
    state = {raw_name(key): value for key, value in state.items()}
    digest = hashlib.sha256()
    for key, value in sorted(state.items()):
        digest.update(key.encode() + value.cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    sizes = Preset(about["size"], about["size"], tuple(about["mean"]), tuple(about["std"]))
    return Weights(
        state,
        digest.hexdigest(),
        f"run {folder.name}",
        sizes,
        tuple(about["classes"]),
        about["channels"],
        about.get("transform_input", False),  # checkpoints without it are from versions that never set it
    )


def _published(source: str, node: Mapping[str, Any]) -> Weights:
    """Load torchvision's weights by the name in its enumeration."""
    if preset(node) is None:
        raise ConfigError(
            f"transfer.weights={source}: no such file or folder (torchvision has weights for its own models only)"
        )
    from torchvision.models import get_model_weights

    known = get_model_weights(node["name"])
    names = ["default", *(weights.name for weights in known)]
    if source.upper() not in [name.upper() for name in names]:
        raise ConfigError(
            f"transfer.weights={source}: no such file, and {node['name']} has the weights {', '.join(names)}"
            f"{did_you_mean(source, names)}"
        )
    weights = known.DEFAULT if source.upper() == "DEFAULT" else known[source.upper()]
    state = _fetched(weights)
    if isinstance(state, Exception):
        raise ConfigError(f"transfer.weights={source}: cannot be fetched ({state}); give the path of a file instead")
    sizes = preset(node, weights)
    return Weights(renamed(state), weights.url, f"{node['name']} {weights.name}", sizes, channels=len(sizes.mean))


@functools.lru_cache(maxsize=4)
def _fetched(weights: Any) -> dict[str, Tensor] | Exception:
    """Download a member of torchvision's enumeration, once per process. Return the error if that fails."""
    try:
        return weights.get_state_dict(progress=False, check_hash=True)
    except (OSError, RuntimeError) as error:  # no network, or an incomplete file
        return error
