"""The runs of one command, as they were planned."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from runner.core.devices import check_device, threads
from runner.core.errors import ConfigError
from runner.core.text import shown
from runner.store import lock
from runner.store.fingerprint import Pair
from runner.store.ledger import GOOD, Record, read
from runner.store.owned import check_sweep_folder
from runner.sweep.compose.compose import Composed, Part
from runner.sweep.plan.layout import run_folder
from runner.task.job import Job
from runner.task.preflight import Facts
from runner.task.resources import Resources
from runner.train.slot import Slot

GroupSlot = tuple[str, Slot]  # the group, and the seat in it


@dataclass(frozen=True)
class Entry:
    """A checked combination."""

    job: Job
    facts: Facts
    composed: Composed
    name: str  # of its folder, as planned
    program: str = ""  # the key of the one that it may share with other runs; empty where it can share none
    earlier: Pair | None = None  # fingerprint and training that the same run had in earlier versions, see `identity`

    @property
    def hydra(self) -> Part:
        """Hydra's own part of its config."""
        part = self.composed.hydra(self.name, self.job.number or 0)
        where = {} if self.job.number is None else {"sweep.dir": str(self.job.sweep), "sweep.subdir": self.job.run}
        return replace(part, own=part.own | where)

    def with_number(self, number: int) -> "Entry":
        """The entry as the run of that number. Raises `ConfigError`."""
        folder = run_folder(self.composed, self.name, number, self.job.sweep)
        return replace(self, job=replace(self.job, folder=folder, number=number))

    @property
    def label(self) -> str:
        """The combination in words."""
        words = self.job.swept or dict.fromkeys(["defaults"])
        return " ".join(f"{k}={shown(v)}" if v is not None or k != "defaults" else k for k, v in words.items())


@dataclass
class Plan:
    """The runs of one command."""

    entries: list[Entry]
    folder: Path  # of the sweep
    lone: bool
    rerun: bool
    resources: Resources
    done: dict[str, Record] = field(default_factory=dict)  # fingerprint -> what was finished before
    left: dict[str, Record] = field(default_factory=dict)  # fingerprint -> what was begun, or failed
    trained: dict[str, Path] = field(default_factory=dict)  # training -> a finished run, whichever its evaluation
    duplicates: int = 0
    refused: dict[str, list[str]] = field(default_factory=dict)  # reason -> the combinations that cannot run
    requested: int = 0  # combinations, those included
    probe: bool = True  # a dry run measures
    workers: int = 0  # runs done at once; 0: in this process, one after the other
    fusing: str = "false"  # auto | true | false: whether runs of one program are trained as one
    fuse_max: int = 1  # runs of a group
    slots: dict[str, GroupSlot] = field(default_factory=dict)  # fingerprint -> its place among those it trains with

    @property
    def todo(self) -> list[Entry]:
        """What is still to be run."""
        return [entry for entry in self.entries if entry.job.fingerprint not in self.done]

    @property
    def device(self) -> str:
        """The kind of device that the runs have: `cpu`, `cuda`, `mps`; `cuda:1` where one is named."""
        config = self.entries[0].job.config
        return config["device"] if ":" in config["device"] else check_device(config).type

    def set_workers(self, workers: int, frozen: dict[str, int]) -> None:
        """How many runs are done at once, and each one's threads: as typed, else those that an earlier plan gave it."""
        self.workers = workers
        for i, entry in enumerate(self.entries):
            job = entry.job
            earlier = frozen.get(job.fingerprint) if job.config["threads"] == "auto" else None
            count = earlier or threads(job.config, entry.facts.flops, workers)
            self.entries[i] = replace(entry, job=replace(job, threads=count))

    def status(self, entry: Entry) -> str:
        """done, diverged, failed, ...: as its folder has it; `running` where somebody does it now, `resumable` where it
        was begun; else `new`."""
        fingerprint = entry.job.fingerprint
        if fingerprint in self.done:
            return self.done[fingerprint].status
        if fingerprint in self.left:
            status = self.left[fingerprint].status
            going = status == "running" and lock.holder(self.left[fingerprint].folder) is not None
            return status if going or status != "running" else "resumable"
        return "new"

    def results(self) -> list[dict[str, Any] | None]:
        """The results as they stand in the folders, in the plan's order."""
        return [self.result(entry) for entry in self.entries]

    def result(self, entry: Entry) -> dict[str, Any] | None:
        """One run's result as it stands in its folder."""
        record = read(entry.job.folder)
        return None if record is None else record.result

    def displayed_result(self, entry: Entry) -> dict[str, Any] | None:
        """Return one run's result as a person is told it: with its standing, and where it resumes; None for a run that
        was not started."""
        record = read(entry.job.folder)
        if record is None or record.standing == "not started":
            return None
        return record.result | {"status": record.standing, "resumes": record.resumes}

    def exit_code(self) -> int:
        """0 only if every run ended well."""
        return 0 if all(result is not None and result["status"] in GOOD for result in self.results()) else 1


def assign_numbers(entries: list[Entry], taken: Mapping[str, int | None]) -> None:
    """Give each run its place in the plan as its number, or another one where a run of the folder has that already.

    taken: fingerprint -> number, of the folder's runs, which keep theirs.
    """
    used = {number for number in taken.values() if number is not None}
    for i, entry in enumerate(entries):
        own = taken.get(entry.job.fingerprint)
        if own is None:
            own = entry.job.number if entry.job.number not in used else max(used) + 1
        used.add(own)
        if own != entry.job.number:
            entries[i] = entry.with_number(own)


def in_folder(entry: Entry, folder: Path, trained: Path | None = None) -> Entry:
    """The entry, its run in the folder where it was begun (under other words, perhaps)."""
    return replace(entry, job=replace(entry.job, folder=folder, trained=trained))


def check_writable(folder: Path) -> None:
    """Raises `ConfigError` where results could not be written; makes nothing."""
    there = next(path for path in (folder, *folder.resolve().parents) if path.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        raise ConfigError(
            f"{folder}: cannot write there ({there} is not a writable folder); set name= or hydra.sweep.dir="
        )
    check_sweep_folder(folder)
