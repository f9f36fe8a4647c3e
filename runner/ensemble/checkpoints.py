"""Ensembles of finished runs."""

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

BY_MODEL = frozenset({"resize", "size", "on_corrupt"})  # keys of data that may differ between members


@dataclass(frozen=True)
class Bench:
    """Validation tools for choosing the members of an ensemble; they never use the test split."""

    accuracy: Callable[[Member], float] | None  # on the validation split; None without one
    estimate_norms: Callable[[nn.Module, Member], None]  # sets batch-norm statistics from the training split


class Checkpoints(Ensemble):
    """Average the predictions of finished runs of any architectures, each with its own normalization.

    runs: run folders or checkpoints, also as glob patterns (`*`). The same network counts once.
    """

    def __init__(self, runs: str | list[str] | None = None, average: Average = "probabilities"):
        if not runs:
            raise ConfigError("ensemble.runs is missing: name finished runs, 'ensemble.runs=outputs/first/*'")
        self.runs, self.average = [runs] if isinstance(runs, str) else list(runs), average

    needs_bench: ClassVar[bool] = False  # whether `combine` evaluates candidates

    def check(self, context: Context) -> str | None:
        return (
            f"ensemble.runs={','.join(self.runs)}: finished runs are put together, not trained; add task=evaluate "
            "(or task=predict)"
        )

    def paths(self) -> list[Path]:
        """Return the paths of the configured runs. Raises `ConfigError` for a pattern without matches."""
        return list(
            dict.fromkeys(path for text in self.runs for path in match_runs("ensemble.runs", text, is_training))
        )

    def select_runs(self, runs: Sequence[LoadedRun]) -> list[LoadedRun]:
        """Return each training once. Raises `ConfigError` for runs with different classes or splits."""
        runs = list({run.training: run for run in runs}.values())
        if len(runs) < 2:
            raise ConfigError(f"ensemble.runs={','.join(self.runs)}: one network alone; name at least 2 runs")
        first = runs[0]
        for other in runs[1:]:
            if other.inputs.classes != first.inputs.classes:
                raise ConfigError(
                    f"{other.folder}: other classes ({few(other.inputs.classes)}) than {first.folder} "
                    f"({few(first.inputs.classes)}); an ensemble answers one question"
                )
            left, right = split_config(first), split_config(other)
            if differing := [key for key in sorted(left.keys() | right.keys()) if left.get(key) != right.get(key)]:
                words = ", ".join(f"data.{key} is {right.get(key)} there and {left.get(key)} here" for key in differing)
                raise ConfigError(
                    f"{other.folder}: other splits than {first.folder} ({words}): one would be judged on images that "
                    "another was trained on; name runs of the same data"
                )
        return runs

    def combine(self, members: list[Member], bench: Bench) -> tuple[list[Member], list[Member]]:
        """Return the networks that predict, and those merged into them, which are tested for comparison."""
        return members, []


def match_runs(key: str, text: str, is_run: Callable[[Path], bool]) -> list[Path]:
    """Return the path itself, or the checkpoints and run folders that match a glob pattern, sorted.

    Raises `ConfigError` for a pattern without matches; `key`: the config key to name in it.
    """
    path = Path(text).expanduser()
    start = next((i for i, part in enumerate(path.parts) if any(mark in part for mark in "*?[")), None)
    if start is None or path.exists():
        return [path]
    matches = sorted(Path(*path.parts[:start]).glob(str(Path(*path.parts[start:]))))
    runs = [match for match in matches if match.name == checkpoint.FILE or is_run(match)]
    if not runs:
        reason = f"{len(matches)} files and folders, none of a run with networks" if matches else "nothing is there"
        raise ConfigError(f"{key}={text}: names no run ({reason})")
    return runs


def has_checkpoint(folder: Path) -> bool:
    """Return whether a folder holds a checkpoint, of a training or of an evaluated ensemble."""
    return (folder / checkpoint.FILE).is_file()


def is_training(folder: Path) -> bool:
    """Return whether a folder belongs to a training run, finished or not."""
    # unfinished runs match too, because loading then fails with an error that names them
    record = read(folder) if folder.is_dir() else None
    return record is not None and record.result.get("choices", {}).get("task", "train") == "train"


def split_config(run: LoadedRun) -> dict[str, Any]:
    """Return the data config that determines which image is in which split, and a hash of the data."""
    data = run.config["data"]
    keys = {key: value for key, value in data.items() if f"data.{key}" not in NOT_IDENTITY | {"data._target_"}}
    keys = {key: value for key, value in keys.items() if key not in BY_MODEL}
    return keys | {"contents": run.inputs.identity and run.inputs.identity[:10]}
