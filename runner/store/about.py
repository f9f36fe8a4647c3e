"""About: the description of a trained network in a checkpoint, parsed and type-checked.

A checkpoint may come from anybody, so nothing in it is interpolated.
"""

import json
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import BaseModel, ConfigDict, Field, StrictStr, ValidationError, model_validator
from torch import Tensor

from runner.core.errors import ConfigError
from runner.core.schema import Average, Count, Positive, Rate, Real

MAX_VALUES = 1 << 28  # of an image: 16,384 pixels a side in gray


class EnsembleKeys(BaseModel):
    model_config = ConfigDict(extra="allow")
    average: Average = "probabilities"


class SavedConfig(BaseModel):
    """Parts of a run's config that its network is built from or that other commands read."""

    model_config = ConfigDict(extra="allow")
    seed: Annotated[Count, Field(lt=2**63)] = 0
    model: dict[StrictStr, Any]
    regularization: dict[StrictStr, Any] = {}
    augmentation: dict[StrictStr, Any] = {}
    ensemble: EnsembleKeys = EnsembleKeys()
    transfer: dict[StrictStr, Any] = {}
    data: dict[StrictStr, Any]


class About(BaseModel):
    """Description of a trained network: all that is needed to use its weights."""

    config: dict[str, Any]
    channels: Positive  # that enter the network
    image_channels: Positive | None = None  # of its images: 1 where gray images are repeated
    transform_input: bool = False  # of torchvision's GoogLeNet and Inception; older checkpoints lack it
    size: Positive  # pixels of the side that enters the network
    side: Positive | None = None  # of the stored images, from which the center is cut
    classes: Annotated[list[StrictStr], Field(min_length=1)]
    mean: list[Real]  # [channels], of pixels in 0..1
    std: list[Rate]
    identity: StrictStr | None = None  # hash of the contents of its data

    @model_validator(mode="after")
    def _agree(self) -> "About":
        if self.channels != len(self.mean) or self.channels != len(self.std):
            raise ValueError(f"{self.channels} channels, and means of {len(self.mean)}")
        self.image_channels = self.image_channels or self.channels
        if self.image_channels not in (1, self.channels):
            raise ValueError(f"images of {self.image_channels} channels, for a network that takes {self.channels}")
        self.side = self.side or self.size
        if self.side < self.size or self.channels * self.side**2 > MAX_VALUES:
            raise ValueError(f"images of {self.side} pixels a side, for a network that takes {self.size}")
        return self


def contents(state: Any, source: str | Path) -> dict[str, Any]:
    """Return a checkpoint's contents, with one entry of `abouts` for each of `members` (None in an unfinished run).

    source: the file, for messages. Raises `ConfigError` where it is no checkpoint of a run.
    """
    if not isinstance(state, dict) or not {"members", "about"} <= set(state):
        raise refusal(source, "no checkpoint of a run")
    members, texts = state["members"], state.get("abouts") or [state["about"]]
    if members is None:
        return state
    if not (isinstance(members, list) and members and all(map(_is_state, members))):
        raise refusal(source, "no checkpoint of a run (its networks are no tensors by name)")
    if not isinstance(texts, list) or len(texts) not in (1, len(members)):
        raise refusal(source, f"no checkpoint of a run (it does not describe its {len(members)} networks)")
    return state | {"abouts": texts * len(members) if len(texts) == 1 else texts}


def _is_state(value: Any) -> bool:
    """Return whether a value is a mapping from names to dense tensors."""
    return isinstance(value, dict) and all(
        isinstance(name, str) and isinstance(tensor, Tensor) and tensor.layout is torch.strided
        for name, tensor in value.items()
    )


def describe(text: Any, source: str | Path) -> dict[str, Any]:
    """Return the description in a checkpoint's `about`. Raises `ConfigError` where it is invalid."""
    try:
        return About.model_validate(json.loads(text)).model_dump()
    except ValidationError as error:
        raise _invalid(source, "about", error) from error
    except (ValueError, TypeError, RecursionError) as error:
        raise refusal(source, f"no checkpoint of a run (about: {error})") from error


def settings(about: dict[str, Any], source: str | Path) -> dict[str, Any]:
    """Return the config of a description. Raises `ConfigError` where its groups are no mappings."""
    try:
        return SavedConfig.model_validate(about["config"]).model_dump()
    except ValidationError as error:
        raise _invalid(source, "about.config", error) from error


def _invalid(source: str | Path, place: str, error: ValidationError) -> ConfigError:
    first = error.errors()[0]
    return refusal(source, f"no checkpoint of a run ({'.'.join(map(str, (place, *first['loc'])))}: {first['msg']})")


def refusal(source: str | Path, reason: str) -> ConfigError:
    """Return a `ConfigError` that names a file and, in one printable line, what is wrong with its contents."""
    line = " ".join(reason.split())
    return ConfigError(f"{source}: {''.join(char if char.isprintable() else '?' for char in line)[:400]}")
