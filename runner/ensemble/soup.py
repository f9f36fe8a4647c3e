"""Greedy soup (Wortsman et al. 2022, recipe 1): one network with the mean of finished runs' weights."""

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor

from runner.core.errors import ConfigError
from runner.ensemble.checkpoints import Bench, Checkpoints
from runner.evaluation.base import Member
from runner.evaluation.trained import LoadedRun


class Soup(Checkpoints):
    """Add runs in the order of their validation accuracy, each only if the mean's accuracy does not fall.

    All runs must have the same initial weights, because averaging needs networks in one basin of the loss.
    Batch-norm statistics are estimated on the training images after averaging.
    """

    needs_bench: ClassVar[bool] = True

    def __init__(self, runs: str | list[str] | None = None):
        super().__init__(runs)

    def select_runs(self, runs: Sequence[LoadedRun]) -> list[LoadedRun]:
        runs = super().select_runs(runs)
        if several := [run for run in runs if len(run.networks) > 1]:
            raise ConfigError(
                f"{several[0].folder}: is an ensemble of {len(several[0].networks)}; a soup is of single runs"
            )
        first = runs[0]
        for other in runs[1:]:
            if shapes(other) != shapes(first):
                raise ConfigError(
                    f"{other.folder}: another architecture than {first.folder}; their weights have no mean: use "
                    "ensemble=checkpoints, which averages answers"
                )
            if origin(other) != origin(first):
                raise ConfigError(
                    f"{other.folder}: began with {origin(other)}, {first.folder} with {origin(first)}; the mean of "
                    "networks from different starts is no network: use ensemble=checkpoints"
                )
        return runs

    def combine(self, members: list[Member], bench: Bench) -> tuple[list[Member], list[Member]]:
        if bench.accuracy is None:
            raise ConfigError("ensemble=soup: chooses by validation accuracy, and data.val_fraction is 0")
        ranked = sorted(members, key=bench.accuracy, reverse=True)
        soup, best = ranked[:1], bench.accuracy(ranked[0])
        final = soup[0]
        for member in ranked[1:]:
            candidate = self._mean([*soup, member], bench)
            if (accuracy := bench.accuracy(candidate)) >= best:
                soup, best, final = [*soup, member], accuracy, candidate
        return [final], [replace(member, name=f"{member.name}{' *' if member in soup else ''}") for member in ranked]

    def _mean(self, members: list[Member], bench: Bench) -> Member:
        model = copy.deepcopy(members[0].model)
        states = [member.model.state_dict() for member in members]
        model.load_state_dict({name: mean([state[name] for state in states]) for name in states[0]})
        bench.estimate_norms(model, members[0])
        return replace(members[0], model=model)


def mean(tensors: list[Tensor]) -> Tensor:
    """Return the mean of float tensors; of integer tensors (a norm's counter) the first."""
    return torch.stack(tensors).mean(0) if tensors[0].is_floating_point() else tensors[0]


def shapes(run: LoadedRun) -> dict[str, torch.Size]:
    """Return the shapes of a run's weights by name."""
    return {name: value.shape for name, value in run.networks[0].model.state_dict().items()}


def origin(run: LoadedRun) -> str:
    """Return a description of a run's initial weights."""
    weights = run.config["transfer"].get("weights")
    return f"transfer.weights={weights}" if weights is not None else f"the random weights of seed={run.config['seed']}"
