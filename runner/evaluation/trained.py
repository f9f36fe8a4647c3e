"""Trained networks with their normalization, ready for inference."""

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
    """Input specification of a trained network."""

    channels: int  # of the network's input
    image_channels: int  # of the training images: 1 if gray images were repeated to `channels`
    size: int  # side of the network's input in pixels
    side: int  # of the stored images in pixels; the input is their center
    classes: tuple[str, ...]
    mean: Tensor  # [C], of pixels in [0, 1]
    std: Tensor  # [C]
    identity: str | None  # hash of the training data's contents


class TrainedNetwork(nn.Module):
    """A trained network with its normalization: maps images to logits `[B, K]`.

    Images are uint8 or floats in [0, 1]. Images larger than `inputs.size` are center-cropped; gray images are repeated
    to the network's channels.
    """

    def __init__(self, model: nn.Module, inputs: Inputs, about: dict[str, Any], device: torch.device | str):
        super().__init__()
        self.model, self.inputs, self.about = model, inputs, about
        self.config: dict[str, Any] = about["config"]  # of the training run
        self.normalize = Normalize(inputs, torch.device(device), torch.contiguous_format)

    def forward(self, images: Tensor) -> Tensor:
        return self.model(self.normalize(images))


@dataclass(frozen=True)
class LoadedRun:
    """Finished run, loaded from its checkpoint."""

    networks: list[TrainedNetwork]  # several for an ensemble, else one
    folder: Path
    training: str  # fingerprint of the training; equal for all evaluations of the same weights
    digest: str  # sha256 of the weights

    @property
    def config(self) -> dict[str, Any]:
        """Return the run's config; the first member's for an ensemble of several runs."""
        return self.networks[0].config

    @property
    def inputs(self) -> Inputs:
        """Return the input specification of the first network."""
        return self.networks[0].inputs

    @property
    def average(self) -> Average:
        """Return whether an ensemble averages probabilities or logits."""
        return self.config["ensemble"].get("average", "probabilities")

    @torch.no_grad()
    def probabilities(self, images: Tensor) -> Tensor:
        """Return class probabilities `[B, K]` of images `[B, C, H, W]`, uint8 or floats in [0, 1]."""
        members = torch.stack([network(images).float().log_softmax(-1) for network in self.networks])
        return ensembles(members, self.average)[-1].exp()


def digest(members: Sequence[dict[str, Tensor]]) -> str:
    """Return the sha256 of the weights of several networks."""
    sha256 = hashlib.sha256()
    for state in members:
        for key, value in sorted(state.items()):
            sha256.update(key.encode() + value.cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return sha256.hexdigest()
