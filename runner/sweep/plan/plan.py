"""Plan: the checked runs of one command."""

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

GroupSlot = tuple[str, Slot]  # the group, and the slot in it


@dataclass(frozen=True)
class Entry:
    """A checked combination."""

    job: Job
    facts: Facts
    composed: Composed
    name: str  # of the run, before `hydra.sweep.subdir` is applied
    program: str = ""  # key of the program that it may share with other runs; empty where it can share none
    earlier: Pair | None = None  # fingerprints of the same run in earlier versions, see `runner.store.fingerprint`

    @property
    def hydra(self) -> Part:
        """The `hydra` node of its config."""
        part = self.composed.hydra(self.name, self.job.number or 0)
        folders = {} if self.job.number is None else {"sweep.dir": str(self.job.sweep), "sweep.subdir": self.job.run}
        return replace(part, own=part.own | folders)

    def with_number(self, number: int) -> "Entry":
        """Return the entry with another run number, and the folder that belongs to it. Raises `ConfigError`."""
        folder = run_folder(self.composed, self.name, number, self.job.sweep)
        return replace(self, job=replace(self.job, folder=folder, number=number))

    @property
    def label(self) -> str:
        """The swept keys and values, as a text."""
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
    done: dict[str, Record] = field(default_factory=dict)  # fingerprint -> record of a finished run
    left: dict[str, Record] = field(default_factory=dict)  # fingerprint -> record of an unfinished or failed run
    trained: dict[str, Path] = field(default_factory=dict)  # training fingerprint -> folder of a finished run
    duplicates: int = 0
    refused: dict[str, list[str]] = field(default_factory=dict)  # reason -> the combinations that cannot run
    requested: int = 0  # combinations, including the refused ones
    probe: bool = True  # measure costs in a dry run
    workers: int = 0  # number of concurrent runs; 0: in this process, one after the other
    fusing: str = "false"  # auto | true | false: train runs of one program as one
    fuse_max: int = 1  # most runs of a group
    slots: dict[str, GroupSlot] = field(default_factory=dict)  # fingerprint -> its group and slot

    @property
    def todo(self) -> list[Entry]:
        """The entries that are not done."""
        return [entry for entry in self.entries if entry.job.fingerprint not in self.done]

    @property
    def device(self) -> str:
        """The device type of the runs: `cpu`, `cuda`, `mps`; with its index (`cuda:1`) where the config names one."""
        config = self.entries[0].job.config
        return config["device"] if ":" in config["device"] else check_device(config).type

    def set_workers(self, workers: int, planned_threads: dict[str, int]) -> None:
        """Set the number of workers, and each run's threads: as typed, else as in an earlier plan, else computed.

        planned_threads: fingerprint -> threads in the folder's earlier plans.
        """
        self.workers = workers
        for i, entry in enumerate(self.entries):
            job = entry.job
            earlier = planned_threads.get(job.fingerprint) if job.config["threads"] == "auto" else None
            count = earlier or threads(job.config, entry.facts.flops, workers)
            self.entries[i] = replace(entry, job=replace(job, threads=count))

    def status(self, entry: Entry) -> str:
        """Return a run's status: from its record (done, failed, ...), or `running`, `resumable`, `new`.

        A run is `running` while its lock is held, and `resumable` where its process has ended.
        """
        fingerprint = entry.job.fingerprint
        if fingerprint in self.done:
            return self.done[fingerprint].status
        if fingerprint in self.left:
            status = self.left[fingerprint].status
            is_running = status == "running" and lock.holder(self.left[fingerprint].folder) is not None
            return status if is_running or status != "running" else "resumable"
        return "new"

    def results(self) -> list[dict[str, Any] | None]:
        """Read all results from the run folders, in the plan's order; None for a run without one."""
        return [self.result(entry) for entry in self.entries]

    def result(self, entry: Entry) -> dict[str, Any] | None:
        """Read a run's result from its folder; None where there is none."""
        record = read(entry.job.folder)
        return None if record is None else record.result

    def displayed_result(self, entry: Entry) -> dict[str, Any] | None:
        """Return a run's result for a table, with `status` and `resumes` as a user reads them; None if not started."""
        record = read(entry.job.folder)
        if record is None or record.standing == "not started":
            return None
        return record.result | {"status": record.standing, "resumes": record.resumes}

    def exit_code(self) -> int:
        """Return 0 if every run is done or pruned, else 1."""
        return 0 if all(result is not None and result["status"] in GOOD for result in self.results()) else 1


def assign_numbers(entries: list[Entry], taken: Mapping[str, int | None]) -> None:
    """Give each run a number: its own in the folder, else its index in the plan, else the next free one.

    taken: fingerprint -> number of the folder's runs.
    """
    used = {number for number in taken.values() if number is not None}
    for i, entry in enumerate(entries):
        run_number = taken.get(entry.job.fingerprint)
        if run_number is None:
            run_number = entry.job.number if entry.job.number not in used else max(used) + 1
        used.add(run_number)
        if run_number != entry.job.number:
            entries[i] = entry.with_number(run_number)


def in_folder(entry: Entry, folder: Path, trained: Path | None = None) -> Entry:
    """Return the entry with the folder where its run was started, perhaps by differently typed overrides."""
    return replace(entry, job=replace(entry.job, folder=folder, trained=trained))


def check_writable(folder: Path) -> None:
    """Raise `ConfigError` if the folder or its parent is not writable; create nothing."""
    existing = next(path for path in (folder, *folder.resolve().parents) if path.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        raise ConfigError(
            f"{folder}: cannot write there ({existing} is not a writable folder); set name= or hydra.sweep.dir="
        )
    check_sweep_folder(folder)
