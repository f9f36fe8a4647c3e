"""A network whose run ends badly, each time in another way.

Typed as `model._target_=tests.shared.faults.Faulty +model.fault=raise`.
"""

import os
from pathlib import Path

import torch
from torch import Tensor, nn

HEALED = Path("healed")  # where this file lies, in the folder where the command is typed, nothing goes wrong


class Faulty(nn.Module):
    """A linear layer; after a few training batches comes its fault: `none`, `raise`, `exit` (without a word) or
    `memory` (as torch raises it where a GPU's is full)."""

    def __init__(self, in_channels: int, num_classes: int, image_size: int, fault: str = "none"):
        super().__init__()
        self.layer = nn.Linear(in_channels * image_size**2, num_classes)
        self.fault, self.calls = fault, 0

    def forward(self, images: Tensor) -> Tensor:
        self.calls += self.training
        if self.calls > 5 and not HEALED.exists():
            self.fail()
        return self.layer(images.flatten(1))

    def fail(self) -> None:
        """As `fault` says."""
        if self.fault == "raise":
            raise OSError("the cable is out")
        if self.fault == "exit":
            os._exit(1)
        if self.fault == "memory":
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


class Told(nn.Module):
    """A linear layer that adds a line to told.txt: what the environment of its run says."""

    def __init__(self, in_channels: int, num_classes: int, image_size: int):
        super().__init__()
        self.layer = nn.Linear(in_channels * image_size**2, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        if self.training and "TOLD" in os.environ:
            with Path("told.txt").open("a") as file:
                file.write(f"{os.environ['TOLD']}\n")
        return self.layer(x.flatten(1))
