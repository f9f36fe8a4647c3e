"""Owned files: those in the folders of runs and sweeps that the runner wrote and may replace or remove.

A run's folder is ours where it has a valid `result.json` or lock, or where its name ends in the run's fingerprint. Its
files are ours by their names: those that `result.json` lists (`files`), or while it lists none, all that a run can
write. Files of a sweep's folder are recognized by their contents. No other file is replaced or removed. Links are not
either, because their targets may belong to others.
"""

import contextlib
import os
import re
from collections.abc import Iterable
from pathlib import Path

from runner.core.errors import ConfigError
from runner.store import ledger, lock, plans
from runner.store.files import EVENTS, PLAN, RESULT

HYDRA_FILES = ("config.yaml", "hydra.yaml", "overrides.yaml")  # in the folder that `hydra.output_subdir` names
RUN_FILES = (  # of any task, except pictures of a preview and event files, which have varying names
    *(RESULT, "config.yaml", "metrics.csv", "checkpoint.pt", "mistakes.png", "ensemble.png", "predictions.csv"),
    *("range.csv", "range.png", "saddles.csv", "saddles.png", "trajectory.csv", "surface.npz", "path.png", "steps.png"),
)
VARYING = re.compile(rf"preview(_.+)?\.png|{EVENTS.pattern}")
SWEEP_FILES = ("results.csv", "results.parquet", "report.html", PLAN, "study.db", "mean", lock.GUARD)
TABLE_HEAD = re.compile(rb"run,status[,\r\n]")
PAGE_HEAD = "· report</title>\n<style>".encode()
PARQUET_MARK = b"runner.results"  # in the file's metadata
ELSEWHERE = "choose another folder (name=, hydra.run.dir= or hydra.sweep.dir=), or move it away"


def run_files(log: str, subfolder: str | None) -> tuple[str, ...]:
    """Return the fixed names of files that a run can write, relative to its folder.

    log: name of the run's log, without its suffix. subfolder: of Hydra's own files.
    """
    hydra = () if subfolder is None else tuple(f"{subfolder}/{name}" for name in HYDRA_FILES)
    return (*RUN_FILES, f"{log}.log", *hydra)


def present(folder: Path, names: Iterable[str]) -> list[str]:
    """Return those of the names that exist in a run's folder, and its event files and preview pictures."""
    varying = [path.name for path in folder.iterdir() if VARYING.fullmatch(path.name)]
    return [*(name for name in names if os.path.lexists(folder / name)), *sorted(varying)]


def written(folder: Path, names: Iterable[str]) -> list[str]:
    """Return the names of a run's files for its list; event files are left out, because their names identify them."""
    return [name for name in present(folder, names) if not EVENTS.fullmatch(name)]


def check_run_folder(folder: Path, fingerprint: str, names: Iterable[str]) -> None:
    """Raise `ConfigError` where a file of another program has a name that the run writes."""
    if not os.path.lexists(folder):
        return
    if not folder.is_dir():
        raise ConfigError(f"{folder}: is no folder; {ELSEWHERE}")
    owned = _owned(folder, fingerprint)
    for name in present(folder, names):
        path = folder / name
        if not _is_owned(name, owned):
            raise ConfigError(f"{path}: was not written by this run, which would replace it; {ELSEWHERE}")
        _check_kind(path)
        _check_kind(path.parent, folder)
    for parent in {(folder / name).parent for name in names} - {folder}:
        if os.path.lexists(parent) and not parent.is_dir():
            raise ConfigError(f"{parent}: is no folder, and a run writes one; {ELSEWHERE}")
    own_lock = owned is None or lock.read(folder) is not None
    if os.path.lexists(folder / lock.FILE):
        _check_kind(folder / lock.FILE)
        if not own_lock:
            raise ConfigError(f"{folder / lock.FILE}: is no lock of a run, which would replace it; {ELSEWHERE}")
    _check_guard(folder)


def _check_kind(path: Path, but: Path | None = None) -> None:
    if path == but:
        return
    if path.is_symlink():
        raise ConfigError(f"{path}: is a link, and a run writes a file of its own there; {ELSEWHERE}")
    if but is None and not path.is_file():
        raise ConfigError(f"{path}: is no file, and a run writes one; {ELSEWHERE}")


def _check_guard(folder: Path) -> None:
    """Raise `ConfigError` where the guard is no empty file (taking the lock empties it)."""
    guard = folder / lock.GUARD
    if guard.is_symlink() or os.path.lexists(guard) and (not guard.is_file() or guard.stat().st_size):
        raise ConfigError(f"{guard}: is another program's; {ELSEWHERE}")


def _owned(folder: Path, fingerprint: str) -> set[str] | None:
    """Return the names of files in a run's folder that the runner wrote; None for all that a run can write."""
    with contextlib.suppress(OSError, ValueError):
        files = ledger.parse(folder).result.get("files")
        return set(map(str, files)) if isinstance(files, list) else None
    if lock.read(folder) is not None or folder.name.endswith(f"-{fingerprint}"):
        return None
    for sweep in folder.parents:  # its plan may name a run several levels below
        if (sweep / PLAN).is_file():
            with contextlib.suppress(ConfigError):  # another program's plan
                if folder.relative_to(sweep).as_posix() in {run["run"] for run in plans.runs(sweep)}:
                    return None
            break
    return set()


def _is_owned(name: str, owned: set[str] | None) -> bool:
    return owned is None or name in owned or bool(owned) and EVENTS.fullmatch(name) is not None


def clear_run(folder: Path, fingerprint: str, names: Iterable[str]) -> None:
    """Remove an earlier run's files from a run's folder, except its lock; all other files stay."""
    owned = _owned(folder, fingerprint)
    for name in present(folder, names):
        path = folder / name
        if _is_owned(name, owned) and path.is_file() and not path.is_symlink():
            path.unlink()
    for parent in {(folder / name).parent for name in names} - {folder}:
        with contextlib.suppress(OSError):  # it holds other files, or does not exist
            parent.rmdir()


def check_sweep_folder(folder: Path) -> None:
    """Raise `ConfigError` where a file of another program has a name that a sweep or its report writes."""
    for name in SWEEP_FILES:
        path = folder / name
        if path.is_symlink():
            raise ConfigError(f"{path}: is a link, and a sweep writes a file of its own there; {ELSEWHERE}")
        if os.path.lexists(path) and not (path.is_dir() if name == "mean" else path.is_file()):
            raise ConfigError(f"{path}: is another program's; {ELSEWHERE}")
    _check_guard(folder)
    page, table, parquet = folder / "report.html", folder / "results.csv", folder / "results.parquet"
    is_own_page = page.is_file() and PAGE_HEAD in page.read_bytes()[:2000]
    if page.is_file() and not is_own_page:
        raise ConfigError(f"{page} is another program's: {ELSEWHERE}")
    is_own_table = table.is_file() and TABLE_HEAD.match(_head(table)) and (is_own_page or _holds_runs(folder))
    if table.is_file() and not is_own_table:
        raise ConfigError(f"{table} is another program's: {ELSEWHERE}")
    if parquet.is_file() and not is_own_parquet(parquet) and not (is_own_table and b"status" in parquet.read_bytes()):
        raise ConfigError(f"{parquet} is another program's: {ELSEWHERE}")


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(100)


def is_own_parquet(path: Path) -> bool:
    """Return whether a report of the runner wrote this table."""
    return PARQUET_MARK in path.read_bytes()


def _holds_runs(folder: Path) -> bool:
    """Return whether a folder, or one of its run folders, holds a valid result."""
    return holds_result(folder) or any(map(holds_result, ledger.run_folders(folder)))


def holds_result(folder: Path) -> bool:
    """Return whether a folder holds a valid result of a run."""
    try:
        ledger.parse(folder)
    except (OSError, ValueError):
        return False
    return True
