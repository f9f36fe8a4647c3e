"""Sweeps of networks that take their time."""

import json
import os
import time
from pathlib import Path

import torch
from torch import nn

from runner.store import lock

SWEEP = ("-m", "model=mlp", "optimizer=sgd,adam", "seed=0,1", "epochs=2", "threads=1", "log.images=0")


class Sleeper(nn.Sequential):
    """A network that takes its time."""

    def __init__(self, in_channels: int, num_classes: int, image_size: int, seconds: float = 0.0, edits: bool = False):
        super().__init__(nn.Flatten(), nn.Linear(in_channels * image_size**2, num_classes))
        self.seconds, self.edits = seconds, edits

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training:
            time.sleep(self.seconds)
            if self.edits:  # the user does, while the sweep runs
                Path("conf/optimizer/mine.yaml").write_text("_target_: nothing.of.the.kind\n")
        return super().forward(x)


CUSTOM = (
    "model=custom",
    "model._target_=tests.shared.sweeps.Sleeper",
    "trust=[tests]",
    "log.images=0",
    "threads=1",
)


def said(folder: Path, **changes: object) -> None:
    """A lock as another process wrote it."""
    own = {"host": lock.host(), "pid": os.getpid(), "started": lock.start_time(os.getpid()), "token": "x"}
    folder.mkdir(exist_ok=True)
    (folder / lock.FILE).write_text(json.dumps(own | changes))
