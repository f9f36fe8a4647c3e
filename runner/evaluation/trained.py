"""Trained networks, ready to answer."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from runner.core.schema import Average
from runner.data.normalize import Normalize
from runner.evaluation.metrics import ensembles


@dataclass(frozen=True)
class Inputs:
    """What a network was made for."""

    channels: int  # that enter it
    image_channels: int  # of the images that it was trained on: one, where grey images were repeated
    size: int  # pixels of the side that enters it
    side: int  # of the images as they were kept, of which that is the centre
    classes: tuple[str, ...]
    mean: Tensor  # [C], of pixels in 0..1
    std: Tensor
    identity: str | None  # of the contents of its data


class TrainedNetwork(nn.Module):
    """A trained network with its own normalisation: uint8 or [0, 1] images of any size at or above its own, cut to
    their centre, to logits `[B, K]`. Grey images are repeated to the channels that it takes."""

    def __init__(self, model: nn.Module, inputs: Inputs, about: dict[str, Any], device: torch.device | str):
        super().__init__()
        self.model, self.inputs, self.about = model, inputs, about
        self.config: dict[str, Any] = about["config"]  # of the run that trained it
        self.normalize = Normalize(inputs, torch.device(device), torch.contiguous_format)

    def forward(self, images: Tensor) -> Tensor:
        return self.model(self.normalize(images))


@dataclass(frozen=True)
class Loaded:
    """A finished run."""

    networks: list[TrainedNetwork]  # one; several of an ensemble
    folder: Path
    training: str  # identity of the training: the same network, whatever it was asked
    digest: str  # sha256 of the weights

    @property
    def config(self) -> dict[str, Any]:
        """The run's; of an ensemble of several runs, the first one's."""
        return self.networks[0].config

    @property
    def inputs(self) -> Inputs:
        """The first network's."""
        return self.networks[0].inputs

    @property
    def average(self) -> Average:
        """What is averaged where there are several networks."""
        return self.config["ensemble"].get("average", "probabilities")

    @torch.no_grad()
    def probabilities(self, images: Tensor) -> Tensor:
        """The answer to images, uint8 or [0, 1] `[B, C, H, W]`: `[B, K]`."""
        members = torch.stack([network(images).float().log_softmax(-1) for network in self.networks])
        return ensembles(members, self.average)[-1].exp()


def digest(members: Sequence[dict[str, Tensor]]) -> str:
    """Sha256 of the weights of networks."""
    found = hashlib.sha256()
    for state in members:
        for key, value in sorted(state.items()):
            found.update(key.encode() + value.cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()
