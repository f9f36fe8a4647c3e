"""Checks of a command that torchrun started."""

import os

import torch

from runner.core.errors import ConfigError
from runner.core.targets import locate
from runner.execution import distributed
from runner.optimizer.base import FullBatch
from runner.sweep.plan.plan import Plan


def refuse_sweep(multirun: bool) -> None:
    """Raise `ConfigError` for a sweep under torchrun."""
    if multirun:
        raise ConfigError("torchrun trains one run on several devices: leave -m out, or start the sweep without it")


def check(plan: Plan) -> None:
    """Raise `ConfigError` for options that several processes cannot share. Does nothing without torchrun."""
    if (team := distributed.team()) is None:
        return
    config, resources, size = plan.entries[0].job.config, plan.resources, team.size
    lines = []
    if plan.workers:
        lines.append("hydra/launcher: torchrun's own processes do the run: leave hydra/launcher and its keys out")
    if not resources.task(config).together:
        lines.append("task: several processes can do task=train alone; start this without torchrun")
    optimizer = locate("optimizer", config["optimizer"]["_target_"], config["trust"])
    if config["optimizer"]["full_batch"] or isinstance(optimizer, type) and issubclass(optimizer, FullBatch):
        lines.append("optimizer: one that compares losses of a step cannot be shared out; start it without torchrun")
    if config["cuda_graph"] is True:
        lines.append("cuda_graph=true: steps of several processes are not replayed; use cuda_graph=auto")
    if resources.ensemble(config).count > 1:
        lines.append("ensemble: its members are runs of their own; start it without torchrun")
    if resources.transfer(config).cache is True:
        lines.append("transfer.cache=true: several processes keep no features; use transfer.cache=auto")
    if config["batch_size"] < size * config["accumulate"]:
        shares = f"{size} processes" + (f" times accumulate={config['accumulate']}" * (config["accumulate"] > 1))
        lines.append(f"batch_size={config['batch_size']}: fewer images than {shares}")
    if plan.device.startswith("cuda"):
        local_size, gpus = int(os.environ["LOCAL_WORLD_SIZE"]), torch.cuda.device_count()
        if ":" in plan.device:
            lines.append(f"device={plan.device}: each process has a GPU of its own; use device=cuda")
        elif local_size > gpus:
            lines.append(f"--nproc-per-node {local_size}: there are GPUs for {gpus}; start as many, or use device=cpu")
    if lines:
        raise ConfigError("torchrun: " + "; ".join(lines))
