"""Training: the runs of a job in one process, resumed from their checkpoint."""

import logging
from typing import Any

import torch

from runner.core.seeds import generator
from runner.execution import distributed
from runner.execution.choose.lone import train_alone
from runner.execution.compile import compile_if_configured
from runner.execution.features.cache import use_feature_cache
from runner.store import checkpoint
from runner.store.files import PLAN
from runner.task.job import Job
from runner.task.phases import Trainable
from runner.task.resources import Resources
from runner.train.loop import train
from runner.train.slot import Slot
from runner.train.state import TrainState

log = logging.getLogger(__name__)


class Training(Trainable):
    """The runs of a job, built and resumed from their checkpoint."""

    def __init__(self, job: Job, resources: Resources, device: torch.device):
        self.job, self.config = job, job.config
        seed = generator(self.config["seed"], "layers of libraries").initial_seed()
        torch.default_generator.manual_seed(seed)  # because torch.manual_seed takes 2 ms to seed absent devices
        if device.type == "cuda":
            torch.cuda.manual_seed(seed)
        self.splits = resources.splits(self.config, device)
        self.run = self._build(resources, device, 0)  # the only one, except for ensembles of several runs
        self.runs = [self.run, *(self._build(resources, device, i) for i in range(1, self.run.ensemble.count))]
        self.sealed = [run.transfer.seal(run.model, self.config["epochs"]) for run in self.runs]
        if (slot := job.slot) is not None:  # a checkpoint replaces it
            members = len(self.runs)
            for row, run in enumerate(self.runs, slot.row * members):
                run.slot = Slot(row, slot.count * members, slot.common)
        self.path = job.folder / checkpoint.FILE
        folder = job.sweep or job.folder.parent
        self.folder = folder if (folder / PLAN).exists() else None  # of the sweep
        self.resumed = self._resume(device)
        self.program, team = None, distributed.team()
        if team is not None:
            self.program = team.join(self.run)
            self.cached = ["declined: several processes keep no features"]
            return
        self.cached = [use_feature_cache(run, self.splits, resources.features) for run in self.runs]

    def train(self) -> None:
        """Train to the end, or until a signal asks for an end. Raises `Diverged`."""
        if self.program is not None:
            train(self.runs, self.program)
        else:
            train_alone(self.runs, self.folder)

    def _build(self, resources: Resources, device: torch.device, number: int) -> TrainState:
        """Return the train state of the run, or of further member `number` of an ensemble, with a seed of its own."""
        seed = self.config["seed"]
        seed = seed if number == 0 else generator(seed, f"member {number}").initial_seed() >> 1
        config = self.config | {"seed": seed}
        noise = generator(seed, "noise", device)
        parts = resources.parts(config, self.splits, device, noise)
        return compile_if_configured(TrainState(config, parts, device, noise))

    def _resume(self, device: torch.device) -> bool:
        state = checkpoint.load_if_whole(self.path, device)
        if state is not None and state["training"] == self.job.training:
            self._load(state)
            log.info("goes on after step %d of %d", self.run.progress.step, self.run.steps)
            return True
        if self.job.trained is not None:
            state = checkpoint.load_if_whole(self.job.trained / checkpoint.FILE, device)
            if state is not None and state["training"] == self.job.training:
                self._load(state)
                log.info("takes the trained network of %s", self.job.trained.name)
        return False

    def _load(self, state: dict[str, Any]) -> None:
        for run, run_state in zip(self.runs, state["runs"], strict=True):
            run.load_state_dict(run_state)
        for run, reason in zip(self.runs, state.get("compile_reasons", [])):  # older checkpoints lack them
            run.compile_reason = reason
