"""Command line `python -m runner.sweep status DIR`: the status of a sweep, read from its folder alone."""

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

MOST_ROWS = 40  # runs that are listed; all are counted


def list_runs(folder: Path) -> list[tuple[str, str, str]]:
    """Return (run, status, details) of every run that has a folder or was planned.

    An unfinished run is `running` while its lock is held, else `interrupted`, or `not started` before its first step.
    Raises `ConfigError` where there are no runs.
    """
    if not folder.is_dir():
        raise ConfigError(f"{folder}: no such folder; name a sweep's, such as outputs/NAME")
    rows, fingerprints = [], set()
    for record in ledger.records(folder):
        fingerprints.add(record.result["fingerprint"])
        status, details = record.standing, record.result.get("reason") or ""
        if status == "interrupted":
            details = record.resumes or "the same command goes on with it"
        elif status == "running":
            details = _describe_progress(lock.read(record.folder) or {})
        elif record.result.get("val_accuracy") is not None:
            details = details or f"val accuracy {record.result['val_accuracy']:.4f}"
        rows.append((record.folder.relative_to(folder).as_posix(), status, details))
    for plan in plans.read(folder):
        for run in plan["runs"]:
            if run["fingerprint"] not in fingerprints:
                fingerprints.add(run["fingerprint"])
                rows.append((run["run"], "not started", ""))
    if not rows:
        raise ConfigError(f"{folder}: holds no runs; name a sweep's folder, such as outputs/NAME")
    return rows


def list_outdated(folder: Path) -> list[str]:
    """Return a line that counts the runs of older revisions, then a line for each; no lines where there are none."""
    lines = []
    for record in ledger.records(folder):
        if record.result.get("revision_list") == revision_list():
            continue
        try:
            config = yaml.load((record.folder / "config.yaml").read_bytes(), yaml.CSafeLoader)
        except (OSError, yaml.YAMLError):
            continue
        if revisions := older(record.result, config):
            keys = ", ".join(f"{key} (revision {number})" for key, number in revisions.items())
            lines.append(f"  {record.folder.name}: {keys}")
    if not lines:
        return []
    rest = [f"  and {len(lines) - MOST_ROWS} more"] if len(lines) > MOST_ROWS else []
    first = f"{count(len(lines), 'run')} of an older revision; the same command trains anew, beside them:"
    return [first, *lines[:MOST_ROWS], *rest]


def _describe_progress(owner: dict) -> str:
    """Return in words what the process that holds a run's lock has written into it."""
    if not owner:  # the run has ended meanwhile
        return ""
    process = f"process {owner['pid']} on {owner['host'].split()[0]}"
    if not owner.get("steps"):
        return f"begins, {process}"
    accuracy = owner.get("numbers", {}).get("val_accuracy")
    numbers = "" if accuracy is None else f", val accuracy {accuracy:.4f}"
    return f"step {owner['step']:,} of {owner['steps']:,}{numbers}, {process}"


def main(argv: list[str] | None = None) -> int:
    """Print the table of runs; return the exit code: 2 where the folder holds no sweep."""
    parser = argparse.ArgumentParser(prog="python -m runner.sweep")
    commands = parser.add_subparsers(required=True)
    status = commands.add_parser("status", help="how many runs are done, running, interrupted, failed, not started")
    status.add_argument("folder", metavar="DIR", type=Path, help="a sweep's folder: outputs/NAME")
    folder = parser.parse_args(argv).folder
    try:
        rows = list_runs(folder)
    except ConfigError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    out = console()
    counts = Counter(status for _, status, _ in rows)
    out.print(f"{count(len(rows), 'run')} in {folder}: " + ", ".join(f"{n} {status}" for status, n in counts.items()))
    for line in list_outdated(folder):
        out.print(line, soft_wrap=True)
    decisions = Decisions(folder, "fuse").load_all()
    if summary := fused_summary((record.result for record in ledger.records(folder)), decisions):
        out.print(summary, soft_wrap=True)
    unfinished = [row for row in rows if row[1] != "done"]
    if unfinished:
        table = Table()
        for column in ("run", "status", ""):
            table.add_column(column, overflow="fold")
        for row in unfinished[:MOST_ROWS]:
            table.add_row(*map(Text, row))
        if len(unfinished) > MOST_ROWS:
            table.caption = f"{len(unfinished) - MOST_ROWS} more"
        out.print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
