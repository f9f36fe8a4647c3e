"""`python -m runner.sweep status DIR`: where a sweep stands, read from its folder alone."""

import argparse
import sys
from collections import Counter
from pathlib import Path

import yaml
from rich.table import Table
from rich.text import Text

from runner.core.console import console
from runner.core.errors import ConfigError
from runner.execution.decision import Decisions
from runner.report.results.format import count
from runner.store import ledger, lock, plans
from runner.store.revisions import older, revision_list
from runner.sweep.run.fused_summary import fused_summary

MOST_ROWS = 40  # runs that are named; all are counted


def where(folder: Path) -> list[tuple[str, str, str]]:
    """(run, status, what is known of it) of every run that is there or was planned. Raises `ConfigError` where there is
    none. A run that was begun is `running` while its lock is held, else `interrupted`, or `not started` before its
    first step."""
    if not folder.is_dir():
        raise ConfigError(f"{folder}: no such folder; name a sweep's, such as outputs/NAME")
    found, names = [], set()
    for record in ledger.records(folder):
        names.add(record.result["fingerprint"])
        status, words = record.standing, record.result.get("reason") or ""
        if status == "interrupted":
            words = record.resumes or "the same command goes on with it"
        elif status == "running":
            words = _doing(lock.read(record.folder) or {})
        elif record.result.get("val_accuracy") is not None:
            words = words or f"val accuracy {record.result['val_accuracy']:.4f}"
        found.append((record.folder.relative_to(folder).as_posix(), status, words))
    for plan in plans.read(folder):
        for run in plan["runs"]:
            if run["fingerprint"] not in names:
                names.add(run["fingerprint"])
                found.append((run["run"], "not started", ""))
    if not found:
        raise ConfigError(f"{folder}: holds no runs; name a sweep's folder, such as outputs/NAME")
    return found


def outdated(folder: Path) -> list[str]:
    """Return the runs of older revisions in words, a line each; the first says how many."""
    lines = []
    for record in ledger.records(folder):
        if record.result.get("revision_list") == revision_list():
            continue
        try:
            config = yaml.load((record.folder / "config.yaml").read_bytes(), yaml.CSafeLoader)
        except (OSError, yaml.YAMLError):
            continue
        if behind := older(record.result, config):
            keys = ", ".join(f"{key} (revision {number})" for key, number in behind.items())
            lines.append(f"  {record.folder.name}: {keys}")
    if not lines:
        return []
    more = [f"  and {len(lines) - MOST_ROWS} more"] if len(lines) > MOST_ROWS else []
    first = f"{count(len(lines), 'run')} of an older revision; the same command trains anew, beside them:"
    return [first, *lines[:MOST_ROWS], *more]


def _doing(said: dict) -> str:
    if not said:  # it has ended meanwhile
        return ""
    who = f"process {said['pid']} on {said['host'].split()[0]}"
    if not said.get("steps"):
        return f"begins, {who}"
    accuracy = said.get("numbers", {}).get("val_accuracy")
    numbers = "" if accuracy is None else f", val accuracy {accuracy:.4f}"
    return f"step {said['step']:,} of {said['steps']:,}{numbers}, {who}"


def main(argv: list[str] | None = None) -> int:
    """Prints the table; 2 where the folder holds no sweep."""
    parser = argparse.ArgumentParser(prog="python -m runner.sweep")
    commands = parser.add_subparsers(required=True)
    status = commands.add_parser("status", help="how many runs are done, running, interrupted, failed, not started")
    status.add_argument("folder", metavar="DIR", type=Path, help="a sweep's folder: outputs/NAME")
    asked = parser.parse_args(argv)
    try:
        found = where(asked.folder)
    except ConfigError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    out = console()
    counts = Counter(status for _, status, _ in found)
    out.print(
        f"{count(len(found), 'run')} in {asked.folder}: " + ", ".join(f"{n} {status}" for status, n in counts.items())
    )
    for line in outdated(asked.folder):
        out.print(line, soft_wrap=True)
    decisions = Decisions(asked.folder, "fuse").load_all()
    if words := fused_summary((record.result for record in ledger.records(asked.folder)), decisions):
        out.print(words, soft_wrap=True)
    shown = [row for row in found if row[1] != "done"]
    if shown:
        table = Table()
        for column in ("run", "status", ""):
            table.add_column(column, overflow="fold")
        for row in shown[:MOST_ROWS]:
            table.add_row(*map(Text, row))
        if len(shown) > MOST_ROWS:
            table.caption = f"{len(shown) - MOST_ROWS} more"
        out.print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
