"""Planner: composes and checks all runs of a command before the first one starts."""

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from runner.build.check import check
from runner.build.complaints import Refused
from runner.core import interruption
from runner.core.devices import threads
from runner.core.errors import ConfigError
from runner.core.schema import STACKS
from runner.core.text import few
from runner.store.fingerprint import earlier, fingerprints, own_code, slug
from runner.store.ledger import FINISHED, Record, by_fingerprint, read
from runner.store.owned import check_run_folder, holds_result, run_files
from runner.store.revisions import applying
from runner.store.sources import forget_edited
from runner.sweep.compose.argv import command_line
from runner.sweep.compose.combinations import check_single_run, load_products, make_combinations
from runner.sweep.compose.compose import Composer
from runner.sweep.compose.exclude import apply_exclusions
from runner.sweep.compose.overrides import check_overrides, parse, parse_value, resolve_interpolations
from runner.sweep.compose.product import find_varying_keys, sweep_keys
from runner.sweep.plan import grouping, plan_file
from runner.sweep.plan.known import match, match_training
from runner.sweep.plan.layout import FolderLayout, check_disjoint, check_one_folder
from runner.sweep.plan.plan import Entry, Plan, assign_numbers, check_writable, in_folder
from runner.task.base import Task
from runner.task.job import Job
from runner.task.resources import Resources
from runner.train.precision import resolved


class Planner:
    """Composer and checker of combinations, one at a time; a search uses it as well."""

    def __init__(self, composer: Composer, resources: Resources, lone: bool):
        self.composer, self.resources, self.lone = composer, resources, lone
        self._layout = FolderLayout(lone)
        forget_edited()
        self._tasks: dict[str, Task] = {}

    def _task(self, config: dict[str, Any]) -> Task:
        """Return the task of a config; equal tasks are built once."""
        key = json.dumps([config["task"], config["trust"]], sort_keys=True)
        if key not in self._tasks:
            self._tasks[key] = self.resources.task(config)
        return self._tasks[key]

    def entry(self, overrides: list[str], swept: dict[str, Any], line: str, number: int) -> Entry:
        """Return a checked combination as the run of that number; `line`: the command. Raises `ConfigError`."""
        composed = self.composer.compose(overrides, number)
        config = check(composed.config)
        overrides, swept = resolve_interpolations(overrides, swept, config, composed.choices)
        task = self._task(config)
        if unused := [word for word in overrides if _sets_any(word, task.refuses)]:
            raise ConfigError(f"{', '.join(unused)}: this task has no use for it; leave it out")
        if config["cuda_graph"] is True and not task.replays:
            raise ConfigError("cuda_graph=true: only the steps of task=train are replayed; leave it out")
        config = task.complete(config, overrides)
        config = resolved(config, task.device(config))
        facts = task.preflight(self.resources, config)
        origins = [asdict(origin) for origin in facts.origins]
        revisions = applying(config, facts.channels, task.ignores, origins)
        code = own_code(config, task.ignores, origins)
        identity = config, facts.identity, task.ignores, revisions, code
        fingerprint, training = fingerprints(*identity)
        swept_first = sorted(overrides, key=lambda word: word.partition("=")[0].lstrip("+") not in swept)
        name = f"{slug(swept_first)}-{fingerprint}"
        sweep, folder = self._layout.locate(composed, name, number, fingerprint)
        job = Job(
            folder=folder,
            config=config,
            fingerprint=fingerprint,
            training=training,
            overrides=[word for word in overrides if not word.startswith("hydra.")],
            swept=swept,
            choices=task.choices(composed.choices | {group: list(config[group]) for group in STACKS}, overrides, facts),
            command=line,
            threads=threads(config, facts.flops, 1),
            columns=task.columns,
            revisions=revisions,
            code=code,
            ignores=tuple(sorted(task.ignores)),
            origins=facts.origins,
            sweep=sweep,
            number=None if self.lone else number,
            files=run_files(*composed.outputs(name, number)),
        )
        program = grouping.program_key(config, facts) if task.fuses else ""
        return Entry(job, facts, composed, name, program, earlier(*identity))


def _sets_any(word: str, sections: frozenset[str]) -> bool:
    """Return whether an override sets one of these sections of the config, or a key in it."""
    key = word.partition("=")[0].lstrip("+~")
    return any(key == section or key.startswith(f"{section}.") for section in sections)


def make_plan(
    composer: Composer,
    arguments: list[str],
    multirun: bool,
    resources: Resources,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Plan:
    """Compose and check all combinations of a command; return their plan.

    Raises `ConfigError` with all errors of all combinations. A dry run in which some can run keeps them in its plan.
    """
    master, loader = composer.master, composer.loader
    typed = parse(loader, arguments)
    check_overrides(typed, loader)
    products = load_products(master, loader, typed)
    if not multirun:
        check_single_run(typed, products)
    planner = Planner(composer, resources, lone=not multirun)
    requested = make_combinations(loader, typed, products)
    varying = find_varying_keys(pairs for pairs, _ in requested)
    included = apply_exclusions(requested, planner.composer)
    command = command_line()
    entries: dict[str, Entry] = {}
    refused: dict[str, list[str]] = {}
    duplicates = 0
    for i, pairs in enumerate(included):
        interruption.check()
        words = [f"{key}={text}" for key, text in pairs]
        swept = {
            key.lstrip("+"): parse_value(key, text) for key, text in pairs if key in varying or len(requested) == 1
        }
        swept = {key: content for key, content in swept.items() if key not in ("name", "dry_run", "rerun", "trust")}
        label = " ".join(f"{key}={text}" for key, text in pairs if key in varying)
        try:
            entry = planner.entry(words, swept, command, len(entries))
        except Refused as error:
            for complaint in dict.fromkeys(error.lines):
                refused.setdefault(complaint, []).append(label)
        except ConfigError as error:
            refused.setdefault(str(error), []).append(label)
        else:
            duplicates += entry.job.fingerprint in entries
            entries.setdefault(entry.job.fingerprint, entry)
        on_progress(i + 1, len(included))
    if refused and not (entries and master.dry_run):
        raise ConfigError(format_refusal(refused, len(included)))
    plan = _match_folders(list(entries.values()), duplicates, not multirun, resources)
    plan.refused, plan.requested, plan.probe = refused, len(included), sweep_keys(products[0].config, typed).probe
    return plan


def format_refusal(complaints: dict[str, list[str]], count: int) -> str:
    """Return every error once, with its combinations."""
    if all(len(labels) == count for labels in complaints.values()):
        return "; ".join(complaints)
    invalid = len({label for labels in complaints.values() for label in labels})
    lines = [f"{invalid} of {count} combinations cannot run; nothing was started:"]
    for line, labels in complaints.items():
        where = "all" if len(labels) == count else few(labels, 3, "; ", "; ")
        lines.append(f"  {line}  [{where}]")
    return "\n".join(lines)


def _match_folders(entries: list[Entry], duplicates: int, lone: bool, resources: Resources) -> Plan:
    """Return the plan of checked runs, matched with existing run folders. Raises `ConfigError` for occupied folders."""
    first = entries[0]
    check_one_folder(entry.job.sweep for entry in entries)
    sweep = first.job.sweep
    own_folder = sweep == first.job.folder  # hydra.run.dir was set
    check_writable(sweep)
    rerun = first.job.config["rerun"]
    plan = Plan(entries, sweep, lone, rerun, resources, duplicates=duplicates)
    known = _read_records(first, sweep, own_folder, rerun)
    trained = {} if own_folder else {r.result["training"]: r for r in known.values() if r.status == "done"}
    matched: dict[str, Record] = {}  # by fingerprint
    for i, entry in enumerate(entries):
        if finished := match_training(entry, trained):
            entry, folder = finished
            plan.trained[entry.job.training] = folder
        if result := match(entry, known):
            entry, record = result
            matched[entry.job.fingerprint] = record
        entries[i] = entry
    if not lone:
        recorded = {key: record.result.get("number") for key, record in known.items()}
        assign_numbers(entries, recorded | plan_file.numbers(sweep))
    folders = [entry.job.folder for entry in entries]
    if shared := sorted(str(folder) for folder, count in Counter(folders).items() if count > 1):
        raise ConfigError(f"{shared[0]}: several runs would share this folder; hydra.sweep.subdir must tell them apart")
    for entry in entries:
        if not holds_result(entry.job.folder):
            check_run_folder(entry.job.folder, entry.job.fingerprint, entry.job.files)
    for i, entry in enumerate(entries):
        record = matched.get(entry.job.fingerprint)
        if record is None:
            occupant = None if rerun or own_folder else read(entry.job.folder)
            if occupant is not None:
                raise ConfigError(
                    f"{occupant.folder} holds another run: choose another folder, or rerun=true to replace it"
                )
            continue
        entries[i] = in_folder(entry, record.folder)
        records = plan.done if record.status in FINISHED and not rerun else plan.left
        records[entry.job.fingerprint] = record
    new = [entry.job.folder for entry in plan.entries if entry.job.fingerprint not in known]
    check_disjoint(sweep, new, (record.folder for record in known.values()))
    for entry in plan.todo:
        check_run_folder(entry.job.folder, entry.job.fingerprint, entry.job.files)
    return plan


def _read_records(first: Entry, sweep: Path, own_folder: bool, rerun: bool) -> dict[str, Record]:
    """Return the records in the folder, by fingerprint. Raises `ConfigError` if a folder for one run holds another."""
    if not own_folder:
        return by_fingerprint(sweep)
    record = read(sweep)
    if record is None:
        return {}
    known = {record.result["fingerprint"]: record}
    if match(first, known) is None and not rerun:
        raise ConfigError(f"{sweep} holds another run: choose another folder, or rerun=true to replace it")
    return known
