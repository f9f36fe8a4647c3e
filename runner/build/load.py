"""The networks of a finished run, ready to answer, in one call: `load("outputs/first/RUN")`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from runner.build.about import describe_network
from runner.build.builder import Builder
from runner.core.errors import ConfigError
from runner.core.text import few
from runner.evaluation.trained import Inputs, LoadedRun, TrainedNetwork, digest
from runner.model.library_noise import own
from runner.store import checkpoint
from runner.store.about import contents, refusal
from runner.transfer.published import set_transform_input


def load(path: str | Path, device: torch.device | str = "cpu", trust: Sequence[str] = ()) -> LoadedRun:
    """The networks that answer for a run, in evaluation mode, from its folder or its checkpoint.

    trust: packages of your own that its classes may come from, as in the config; the file's own word does not count.
    Raises `ConfigError`, naming the file, where it is missing, damaged, or of a run that is not finished.
    """
    file = place(path)
    kept = read(path, device)
    abouts = [describe_network(text, path, list(trust)) for text in kept["abouts"]]
    networks = [_network(path, *pair, device) for pair in zip(abouts, kept["members"], strict=True)]
    return LoadedRun([one.eval() for one in networks], file.parent, kept["training"], digest(kept["members"]))


def place(path: str | Path) -> Path:
    """The checkpoint's file, of a run's folder or of itself. Raises `ConfigError` where there is none."""
    file = Path(path).expanduser()
    file = file / checkpoint.FILE if file.is_dir() else file
    if not file.is_file():
        raise ConfigError(f"{path}: no finished run ({checkpoint.FILE} is not there)")
    return file


def read(path: str | Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """What the checkpoint of a finished run holds. Raises `ConfigError`, see `load`."""
    file = place(path)
    try:
        kept = checkpoint.load(file, device)
    except checkpoint.Damaged as error:
        raise ConfigError(f"{error}; train that run again, or leave it out") from error
    kept = contents(kept, file)
    if not isinstance(kept.get("training"), str):
        raise ConfigError(f"{file}: no checkpoint of a run (it does not say of which training it is)")
    if kept["members"] is None:
        raise ConfigError(f"{path}: this run is not finished; type its command again first, or leave it out")
    return kept


def _network(
    path: str | Path, about: dict[str, Any], state: dict[str, Tensor], device: torch.device | str
) -> TrainedNetwork:
    """The model with its stack's layers, under trained weights."""
    config = about["config"]
    inputs = Inputs(
        about["channels"],
        about["image_channels"],
        about["size"],
        about["side"],
        tuple(about["classes"]),
        *(torch.tensor(about[key]) for key in ("mean", "std")),
        about["identity"],
    )
    try:
        if not config["trust"]:  # a class of the user's own may need real numbers
            _compare(path, _shapes(config, inputs), state)
        model = _untrained(config, inputs, torch.Generator())
        set_transform_input(model, about["transform_input"])
        Builder().stack(config, "augmentation")  # which an evaluation takes its views from
    except ConfigError as error:
        raise error if str(error).startswith(f"{path}: ") else refusal(path, str(error)) from error
    except Exception as error:  # torch's layers raise anything for arguments that make no sense
        if config["trust"]:
            raise
        raise refusal(path, f"its network cannot be built ({type(error).__name__}: {error})") from error
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise refusal(path, f"its weights are not those of its own config ({error})") from error
    return TrainedNetwork(model.to(device), inputs, about, device)


def _untrained(config: dict[str, Any], inputs: Inputs, noise: torch.Generator | None) -> nn.Module:
    builder = Builder()
    model = builder.model(config, inputs)
    own(model, noise)
    for item in builder.stack(config, "regularization").values():
        item.modify(model, noise)
    return model


def _shapes(config: dict[str, Any], inputs: Inputs) -> dict[str, torch.Size] | None:
    """The network's tensors, known without taking memory, whatever the sizes; None where it needs real numbers."""
    try:
        with torch.device("meta"):
            model = _untrained(config, inputs, None)
    except (NotImplementedError, RuntimeError):
        return None
    return {name: tensor.shape for name, tensor in model.state_dict().items()}


def _compare(path: str | Path, wanted: dict[str, torch.Size] | None, state: dict[str, Tensor]) -> None:
    """Raises `ConfigError` where the weights have other names or shapes than the network."""
    shapes = {name: tensor.shape for name, tensor in state.items()}
    if wanted is not None and wanted != shapes:
        names = [name for name in wanted | shapes if wanted.get(name) != shapes.get(name)]
        raise refusal(path, f"its weights are not those of its own config ({few(names)})")
