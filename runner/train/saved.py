"""The state dict of a run, for checkpoints."""

import time
from dataclasses import replace
from typing import Any

import torch

from runner.train.attributes import Attributes
from runner.train.progress import Progress
from runner.train.slot import Slot


class Saved(Attributes):
    """Mixin of `TrainState` that saves and restores it."""

    def state_dict(self) -> dict[str, Any]:
        """Return the state from which training continues bit for bit."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "ensemble": self.ensemble.state_dict(),
            "scaler": None if self.scaler is None else self.scaler.state_dict(),
            "generators": {"augmentation": self.augmenting.get_state(), "noise": self.noise.get_state()},
            "global_noise": torch.get_rng_state(),
            "device_noise": torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else None,
            "seat": None if self.slot is None else tuple(self.slot),
            "compiled": self.compiled,
            "progress": vars(replace(self.progress, seconds=self.seconds())),
            **self._between_logs(),
        }

    def _between_logs(self) -> dict[str, Any]:
        """Return the metrics since the last log; empty if the state is saved at one."""
        if self.meter.since == self.progress.step:
            return {}
        return {"meter": self.meter.state_dict(), "probe": self.probe.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a `state_dict`."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.lay_out()
        self.schedule.load_state_dict(state["schedule"])
        self.ensemble.load_state_dict(state["ensemble"])
        if self.scaler is not None:
            self.scaler.load_state_dict(state["scaler"])
        self.augmenting.set_state(state["generators"]["augmentation"].cpu())
        self.noise.set_state(state["generators"]["noise"].cpu())
        torch.set_rng_state(state["global_noise"].cpu())
        if state["device_noise"] is not None and self.device.type == "cuda":
            torch.cuda.set_rng_state(state["device_noise"].cpu(), self.device)
        self.slot = None if state["seat"] is None else Slot(*state["seat"])
        self.compiled = state.get("compiled", False)  # older checkpoints lack it: they had no compile trial
        self.progress = Progress(**state["progress"])
        self.meter.since, self._started = self.progress.step, time.perf_counter()
        self.rewind()
        if "meter" in state:
            self.meter.load_state_dict(state["meter"])
            self.probe.load_state_dict(state["probe"])
        self.transfer.thaw(self.model, self.progress.step // self.steps_per_epoch)
