"""Loading of a finished run's networks for prediction: `load("outputs/first/RUN")`."""

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
from runner.model.library_noise import replace_library_noise
from runner.store import checkpoint
from runner.store.about import contents, refusal
from runner.transfer.published import set_transform_input


def load(path: str | Path, device: torch.device | str = "cpu", trust: Sequence[str] = ()) -> LoadedRun:
    """Load the networks of a run in evaluation mode, from its folder or its checkpoint.

    trust: your own packages that its classes may come from, as in the config; the file's own `trust` is ignored.
    Raises `ConfigError`, naming the file, where it is missing, damaged, or of a run that is not finished.
    """
    file = checkpoint_path(path)
    state = read(path, device)
    abouts = [describe_network(text, path, list(trust)) for text in state["abouts"]]
    networks = [_network(path, *pair, device) for pair in zip(abouts, state["members"], strict=True)]
    return LoadedRun([network.eval() for network in networks], file.parent, state["training"], digest(state["members"]))


def checkpoint_path(path: str | Path) -> Path:
    """Return the path of a checkpoint, given itself or its run's folder. Raises `ConfigError` where there is none."""
    file = Path(path).expanduser()
    file = file / checkpoint.FILE if file.is_dir() else file
    if not file.is_file():
        raise ConfigError(f"{path}: no finished run ({checkpoint.FILE} is not there)")
    return file


def read(path: str | Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Return the contents of a finished run's checkpoint. Raises `ConfigError`, see `load`."""
    file = checkpoint_path(path)
    try:
        state = checkpoint.load(file, device)
    except checkpoint.Damaged as error:
        raise ConfigError(f"{error}; train that run again, or leave it out") from error
    state = contents(state, file)
    if not isinstance(state.get("training"), str):
        raise ConfigError(f"{file}: no checkpoint of a run (it does not say of which training it is)")
    if state["members"] is None:
        raise ConfigError(f"{path}: this run is not finished; type its command again first, or leave it out")
    return state


def _network(
    path: str | Path, about: dict[str, Any], state: dict[str, Tensor], device: torch.device | str
) -> TrainedNetwork:
    """Return the model with its stack's layers and its trained weights."""
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
        if not config["trust"]:  # a user's own class may need real values
            _compare(path, _shapes(config, inputs), state)
        model = _untrained(config, inputs, torch.Generator())
        set_transform_input(model, about["transform_input"])
        Builder().stack(config, "augmentation")  # checked here, because an evaluation takes its views from it
    except ConfigError as error:
        raise error if str(error).startswith(f"{path}: ") else refusal(path, str(error)) from error
    except Exception as error:  # torch's layers raise errors of any type for invalid arguments
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
    replace_library_noise(model, noise)
    for item in builder.stack(config, "regularization").values():
        item.modify(model, noise)
    return model


def _shapes(config: dict[str, Any], inputs: Inputs) -> dict[str, torch.Size] | None:
    """Return the shapes of the network's tensors without allocating them; None where it needs real values."""
    try:
        with torch.device("meta"):
            model = _untrained(config, inputs, None)
    except (NotImplementedError, RuntimeError):
        return None
    return {name: tensor.shape for name, tensor in model.state_dict().items()}


def _compare(path: str | Path, expected: dict[str, torch.Size] | None, state: dict[str, Tensor]) -> None:
    """Raise `ConfigError` where the weights have other names or shapes than the network."""
    shapes = {name: tensor.shape for name, tensor in state.items()}
    if expected is not None and expected != shapes:
        names = [name for name in expected | shapes if expected.get(name) != shapes.get(name)]
        raise refusal(path, f"its weights are not those of its own config ({few(names)})")
