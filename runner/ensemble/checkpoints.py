"""Ensembles of runs that are finished."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from torch import nn

from runner.core.context import Context
from runner.core.errors import ConfigError
from runner.core.schema import NOT_IDENTITY, Average
from runner.core.text import few
from runner.ensemble.base import Ensemble
from runner.evaluation.base import Member
from runner.evaluation.trained import LoadedRun
from runner.store import checkpoint
from runner.store.ledger import read

BY_MODEL = frozenset({"resize", "size", "on_corrupt"})  # keys of data that members may have of their own


@dataclass(frozen=True)
class Bench:
    """What a combination may be tried on while it is put together; never the test images."""

    accuracy: Callable[[Member], float] | None  # on the validation split; None where there is none
    estimate_norms: Callable[[nn.Module, Member], None]  # estimates batch-norm statistics, on the training split


class Checkpoints(Ensemble):
    """The answers of finished runs are averaged: of any architectures, each with its own normalisation.

    runs: folders of runs, or checkpoints; `*` stands for any name. The same network counts once.
    """

    def __init__(self, runs: str | list[str] | None = None, average: Average = "probabilities"):
        if not runs:
            raise ConfigError("ensemble.runs is missing: name finished runs, 'ensemble.runs=outputs/first/*'")
        self.runs, self.average = [runs] if isinstance(runs, str) else list(runs), average

    tries: ClassVar[bool] = False  # whether `combine` needs the bench

    def check(self, context: Context) -> str | None:
        return (
            f"ensemble.runs={','.join(self.runs)}: finished runs are put together, not trained; add task=evaluate "
            "(or task=predict)"
        )

    def paths(self) -> list[Path]:
        """The runs that are named. Raises `ConfigError` where a pattern names none."""
        return list(dict.fromkeys(path for text in self.runs for path in matching("ensemble.runs", text, trains)))

    def agree(self, runs: Sequence[LoadedRun]) -> list[LoadedRun]:
        """Each training once. Raises `ConfigError` for runs whose answers cannot be compared."""
        runs = list({one.training: one for one in runs}.values())
        if len(runs) < 2:
            raise ConfigError(f"ensemble.runs={','.join(self.runs)}: one network alone; name at least 2 runs")
        first = runs[0]
        for other in runs[1:]:
            if other.inputs.classes != first.inputs.classes:
                raise ConfigError(
                    f"{other.folder}: other classes ({few(other.inputs.classes)}) than {first.folder} "
                    f"({few(first.inputs.classes)}); an ensemble answers one question"
                )
            ours, theirs = cut(first), cut(other)
            if differ := [key for key in sorted(ours.keys() | theirs.keys()) if ours.get(key) != theirs.get(key)]:
                words = ", ".join(f"data.{key} is {theirs.get(key)} there and {ours.get(key)} here" for key in differ)
                raise ConfigError(
                    f"{other.folder}: other splits than {first.folder} ({words}): one would be judged on images that "
                    "another was trained on; name runs of the same data"
                )
        return runs

    def combine(self, members: list[Member], bench: Bench) -> tuple[list[Member], list[Member]]:
        """The networks that answer, and those that went into them, to be tested beside."""
        return members, []


def matching(key: str, text: str, wanted: Callable[[Path], bool]) -> list[Path]:
    """The run that a path names, or the runs that a pattern does, in the order of their names: checkpoints, and those
    folders that are wanted. Raises `ConfigError` where a pattern names none."""
    path = Path(text).expanduser()
    start = next((i for i, part in enumerate(path.parts) if any(mark in part for mark in "*?[")), None)
    if start is None or path.exists():
        return [path]
    found = sorted(Path(*path.parts[:start]).glob(str(Path(*path.parts[start:]))))
    runs = [one for one in found if one.name == checkpoint.FILE or wanted(one)]
    if not runs:
        many = f"{len(found)} files and folders, none of a run with networks" if found else "nothing is there"
        raise ConfigError(f"{key}={text}: names no run ({many})")
    return runs


def keeps_networks(folder: Path) -> bool:
    """Whether there is a checkpoint in a folder: of a training, or of what an evaluation put together."""
    return (folder / checkpoint.FILE).is_file()


def trains(folder: Path) -> bool:
    """Whether a folder is a training's, finished or not: what is not finished is no member, and is named."""
    record = read(folder) if folder.is_dir() else None
    return record is not None and record.result.get("choices", {}).get("task", "train") == "train"


def cut(run: LoadedRun) -> dict[str, Any]:
    """What decides which image lies in which split."""
    data = run.config["data"]
    kept = {key: value for key, value in data.items() if f"data.{key}" not in NOT_IDENTITY | {"data._target_"}}
    kept = {key: value for key, value in kept.items() if key not in BY_MODEL}
    return kept | {"contents": run.inputs.identity and run.inputs.identity[:10]}
