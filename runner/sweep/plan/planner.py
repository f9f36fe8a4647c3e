"""From what was typed to a list of checked runs. Everything is composed and checked before anything starts."""

import json
import os
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from runner.build.builder import Builder
from runner.build.check import Refused, check, shown
from runner.core import interruption
from runner.core.devices import check_device, threads
from runner.core.errors import ConfigError
from runner.core.schema import STACKS
from runner.core.text import few
from runner.store import lock
from runner.store.fingerprint import Pair, earlier, fingerprints, own_code, slug
from runner.store.ledger import FINISHED, GOOD, Record, by_fingerprint, read
from runner.store.owned import check_run_folder, check_sweep_folder, holds_result, run_files
from runner.store.revisions import applying
from runner.store.sources import forget_edited
from runner.sweep.compose.argv import command
from runner.sweep.compose.combinations import bring, combinations, refuse_sweeps
from runner.sweep.compose.compose import Composed, Composer, Part
from runner.sweep.compose.exclude import take_out
from runner.sweep.compose.overrides import interpolated, parse, refuse_slips, value
from runner.sweep.compose.product import part, several
from runner.sweep.plan import grouping as fuse
from runner.sweep.plan import plan_file as frozen
from runner.sweep.plan.known import match, match_training
from runner.sweep.plan.layout import Layout, check_apart, check_one, number, run_folder
from runner.task.base import Job, Task
from runner.task.preflight import Facts
from runner.train.state import resolved


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

    def numbered(self, number: int) -> "Entry":
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
    builder: Builder
    done: dict[str, Record] = field(default_factory=dict)  # fingerprint -> what was finished before
    left: dict[str, Record] = field(default_factory=dict)  # fingerprint -> what was begun, or failed
    trained: dict[str, Path] = field(default_factory=dict)  # training -> a finished run, whichever its evaluation
    duplicates: int = 0
    refused: dict[str, list[str]] = field(default_factory=dict)  # reason -> the combinations that cannot run
    asked: int = 0  # combinations, those included
    probe: bool = True  # a dry run measures
    workers: int = 0  # runs done at once; 0: in this process, one after the other
    fusing: str = "false"  # auto | true | false: whether runs of one program are trained as one
    fuse_max: int = 1  # runs of a group
    seats: dict[str, fuse.Place] = field(default_factory=dict)  # fingerprint -> its place among those it trains with

    @property
    def todo(self) -> list[Entry]:
        """What is still to be run."""
        return [entry for entry in self.entries if entry.job.fingerprint not in self.done]

    @property
    def device(self) -> str:
        """The kind of device that the runs have: `cpu`, `cuda`, `mps`; `cuda:1` where one is named."""
        config = self.entries[0].job.config
        return config["device"] if ":" in config["device"] else check_device(config).type

    def settle(self, workers: int, frozen: dict[str, int]) -> None:
        """How many runs are done at once, and each one's threads: as typed, else those that an earlier plan gave it."""
        self.workers = workers
        for i, entry in enumerate(self.entries):
            job = entry.job
            earlier = frozen.get(job.fingerprint) if job.config["threads"] == "auto" else None
            count = earlier or threads(job.config, entry.facts, workers)
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

    def shown(self, entry: Entry) -> dict[str, Any] | None:
        """Return one run's result as a person is told it: with its standing, and where it resumes; None for a run that
        was not started."""
        record = read(entry.job.folder)
        if record is None or record.standing == "not started":
            return None
        return record.result | {"status": record.standing, "resumes": record.resumes}

    def exit_code(self) -> int:
        """0 only if every run ended well."""
        return 0 if all(result is not None and result["status"] in GOOD for result in self.results()) else 1


class Planner:
    """Composes and checks combinations; a search may ask it for one at a time."""

    def __init__(self, composer: Composer, builder: Builder, lone: bool):
        self.composer, self.builder, self.lone = composer, builder, lone
        self._layout = Layout(lone)
        forget_edited()
        self._tasks: dict[str, Task] = {}

    def _task(self, config: dict[str, Any]) -> Task:
        """Made once for all combinations that have the same."""
        key = json.dumps([config["task"], config["trust"]], sort_keys=True)
        if key not in self._tasks:
            self._tasks[key] = self.builder.task(config)
        return self._tasks[key]

    def entry(self, overrides: list[str], swept: dict[str, Any], line: str, number: int) -> Entry:
        """A checked combination, and the run of that number; `line`: the command. Raises `ConfigError`."""
        composed = self.composer.compose(overrides, number)
        config = check(composed.config)
        overrides, swept = interpolated(overrides, swept, config, composed.choices)
        task = self._task(config)
        if unused := [word for word in overrides if _part(word, task.refuses)]:
            raise ConfigError(f"{', '.join(unused)}: this task has no use for it; leave it out")
        if config["cuda_graph"] is True and not task.replays:
            raise ConfigError("cuda_graph=true: only the steps of task=train are replayed; leave it out")
        config = task.complete(config, overrides)
        config = resolved(config, task.device(config))
        facts = task.rehearse(self.builder, config)
        origins = [asdict(origin) for origin in facts.origins]
        revised = applying(config, facts.channels, task.ignores, origins)
        own = own_code(config, task.ignores, origins)
        identity = config, facts.identity, task.ignores, revised, own
        fingerprint, training = fingerprints(*identity)
        first = sorted(overrides, key=lambda word: word.partition("=")[0].lstrip("+") not in swept)
        called = f"{slug(first)}-{fingerprint}"
        sweep, folder = self._layout.locate(composed, called, number, fingerprint)
        job = Job(
            folder=folder,
            config=config,
            fingerprint=fingerprint,
            training=training,
            overrides=[word for word in overrides if not word.startswith("hydra.")],
            swept=swept,
            choices=task.choices(composed.choices | {group: list(config[group]) for group in STACKS}, overrides, facts),
            command=line,
            threads=threads(config, facts, 1),
            columns=task.columns,
            revisions=revised,
            code=own,
            ignores=tuple(sorted(task.ignores)),
            origins=facts.origins,
            sweep=sweep,
            number=None if self.lone else number,
            files=run_files(*composed.outputs(called, number)),
        )
        program = fuse.program(config, facts) if task.fuses else ""
        return Entry(job, facts, composed, called, program, earlier(*identity))


def _part(word: str, parts: frozenset[str]) -> bool:
    """Whether a typed word sets one of these parts of the config, or something in it."""
    key = word.partition("=")[0].lstrip("+~")
    return any(key == part or key.startswith(f"{part}.") for part in parts)


def make_plan(
    composer: Composer,
    arguments: list[str],
    multirun: bool,
    builder: Builder,
    watch: Callable[[int, int], None] = lambda done, all: None,
) -> Plan:
    """Plans a command. Raises `ConfigError` with all complaints about all combinations; a dry run's plan keeps them,
    where some can run."""
    master, loader = composer.master, composer.loader
    typed = parse(loader, arguments)
    refuse_slips(typed, loader)
    brought = bring(master, loader, typed)
    if not multirun:
        refuse_sweeps(typed, brought)
    planner = Planner(composer, builder, lone=not multirun)
    asked = combinations(loader, typed, brought)
    if multirun and len(asked) == 1:
        raise ConfigError(
            "-m without a key of several values (a list is one value): type KEY=A,B or sweep.repeat=N, or leave -m out"
        )
    varying = several(pairs for pairs, _ in asked)
    kept = take_out(asked, planner.composer)
    line = command()
    entries: dict[str, Entry] = {}
    refused: dict[str, list[str]] = {}
    duplicates = 0
    for i, pairs in enumerate(kept):
        interruption.check()
        words = [f"{key}={text}" for key, text in pairs]
        swept = {key.lstrip("+"): value(key, text) for key, text in pairs if key in varying or not multirun}
        swept = {key: found for key, found in swept.items() if key not in ("name", "dry_run", "rerun", "trust")}
        label = " ".join(f"{key}={text}" for key, text in pairs if key in varying)
        try:
            entry = planner.entry(words, swept, line, len(entries))
        except Refused as error:
            for line in dict.fromkeys(error.lines):
                refused.setdefault(line, []).append(label)
        except ConfigError as error:
            refused.setdefault(str(error), []).append(label)
        else:
            duplicates += entry.job.fingerprint in entries
            entries.setdefault(entry.job.fingerprint, entry)
        watch(i + 1, len(kept))
    if refused and not (entries and master.dry_run):
        raise ConfigError(refusal(refused, len(kept)))
    plan = _with_ledger(list(entries.values()), duplicates, not multirun, builder)
    plan.refused, plan.asked, plan.probe = refused, len(kept), part(brought[0].config, typed).probe
    return plan


def refusal(complaints: dict[str, list[str]], count: int) -> str:
    """Every complaint once, with the combinations that it is about."""
    if all(len(labels) == count for labels in complaints.values()):
        return "; ".join(complaints)
    bad = len({label for labels in complaints.values() for label in labels})
    lines = [f"{bad} of {count} combinations cannot run; nothing was started:"]
    for line, labels in complaints.items():
        where = "all" if len(labels) == count else few(labels, 3, "; ", "; ")
        lines.append(f"  {line}  [{where}]")
    return "\n".join(lines)


def _with_ledger(entries: list[Entry], duplicates: int, lone: bool, builder: Builder) -> Plan:
    """The plan, its runs matched with the folders that are there."""
    first = entries[0]
    check_one(entry.job.sweep for entry in entries)
    sweep = first.job.sweep
    own_folder = sweep == first.job.folder  # hydra.run.dir was set
    check_writable(sweep)
    rerun = first.job.config["rerun"]
    plan = Plan(entries, sweep, lone, rerun, builder, duplicates=duplicates)
    known = _known(first, sweep, own_folder, rerun)
    trained = {} if own_folder else {r.result["training"]: r for r in known.values() if r.status == "done"}
    there: dict[str, Record] = {}  # by fingerprint
    for i, entry in enumerate(entries):
        if finished := match_training(entry, trained):
            entry, folder = finished
            plan.trained[entry.job.training] = folder
        if matched := match(entry, known):
            entry, record = matched
            there[entry.job.fingerprint] = record
        entries[i] = entry
    if not lone:
        number(entries, {key: record.result.get("number") for key, record in known.items()} | frozen.numbers(sweep))
    folders = [entry.job.folder for entry in entries]
    if shared := sorted(str(folder) for folder, count in Counter(folders).items() if count > 1):
        raise ConfigError(f"{shared[0]}: several runs would share this folder; hydra.sweep.subdir must tell them apart")
    for entry in entries:
        if not holds_result(entry.job.folder):
            check_run_folder(entry.job.folder, entry.job.fingerprint, entry.job.files)
    for i, entry in enumerate(entries):
        record = there.get(entry.job.fingerprint)
        if record is None:
            other = None if rerun or own_folder else read(entry.job.folder)
            if other is not None:
                raise ConfigError(
                    f"{other.folder} holds another run: choose another folder, or rerun=true to replace it"
                )
            continue
        entries[i] = moved(entry, record.folder)
        kept = plan.done if record.status in FINISHED and not rerun else plan.left
        kept[entry.job.fingerprint] = record
    new = [entry.job.folder for entry in plan.entries if entry.job.fingerprint not in known]
    check_apart(sweep, new, (record.folder for record in known.values()))
    for entry in plan.todo:
        check_run_folder(entry.job.folder, entry.job.fingerprint, entry.job.files)
    return plan


def _known(first: Entry, sweep: Path, own_folder: bool, rerun: bool) -> dict[str, Record]:
    """Return the runs that are there, by fingerprint. Raises `ConfigError` where a folder for one run holds another."""
    if not own_folder:
        return by_fingerprint(sweep)
    record = read(sweep)
    if record is None:
        return {}
    known = {record.result["fingerprint"]: record}
    if match(first, known) is None and not rerun:
        raise ConfigError(f"{sweep} holds another run: choose another folder, or rerun=true to replace it")
    return known


def moved(entry: Entry, folder: Path, trained: Path | None = None) -> Entry:
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
