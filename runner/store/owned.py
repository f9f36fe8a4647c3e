"""Files that runs and sweeps of ours write, told from everything else in their folders.

A run's folder is ours where its `result.json` or its lock is one of ours, or where its name ends in the run's
fingerprint. In it a file is ours by its name: those that `result.json` lists (`files`), or while it lists none, all
that a run can write. Files of a sweep's folder are known by their contents. Nothing else is replaced or removed, nor is
a link, whose target may be anybody's.
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
RUN_FILES = (  # of any task, but for pictures of a preview and event files, whose names vary
    *(RESULT, "config.yaml", "metrics.csv", "checkpoint.pt", "mistakes.png", "ensemble.png", "predictions.csv"),
    *("range.csv", "range.png", "saddles.csv", "saddles.png", "trajectory.csv", "surface.npz", "path.png", "steps.png"),
)
VARYING = re.compile(rf"preview(_.+)?\.png|{EVENTS.pattern}")
SWEEP_FILES = ("results.csv", "results.parquet", "report.html", PLAN, "study.db", "mean", lock.GUARD)
TABLE_HEAD = re.compile(rb"run,status[,\r\n]")
PAGE_HEAD = "· report</title>\n<style>".encode()
PARQUET_MARK = b"runner.results"  # among the file's metadata
ELSEWHERE = "choose another folder (name=, hydra.run.dir= or hydra.sweep.dir=), or move it away"


def run_files(log: str, subfolder: str | None) -> tuple[str, ...]:
    """Return the names, relative to a run's folder, of all that a run can write whose name is known beforehand.

    log: of the run's log, without its ending. subfolder: of Hydra's own files.
    """
    hydra = () if subfolder is None else tuple(f"{subfolder}/{name}" for name in HYDRA_FILES)
    return (*RUN_FILES, f"{log}.log", *hydra)


def present(folder: Path, names: Iterable[str]) -> list[str]:
    """Return which of these names, and of the event files and pictures of a run, stand in its folder."""
    varying = [path.name for path in folder.iterdir() if VARYING.fullmatch(path.name)]
    return [*(name for name in names if os.path.lexists(folder / name)), *sorted(varying)]


def written(folder: Path, names: Iterable[str]) -> list[str]:
    """Return what a run lists as written by it; event files, whose names have the time in them, are known by those."""
    return [name for name in present(folder, names) if not EVENTS.fullmatch(name)]


def check_run_folder(folder: Path, fingerprint: str, names: Iterable[str]) -> None:
    """Raises `ConfigError` where something of somebody else's stands under a name that the run writes."""
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
    """The guard is an empty file; a lock that is taken empties it."""
    guard = folder / lock.GUARD
    if guard.is_symlink() or os.path.lexists(guard) and (not guard.is_file() or guard.stat().st_size):
        raise ConfigError(f"{guard}: is another program's; {ELSEWHERE}")


def _owned(folder: Path, fingerprint: str) -> set[str] | None:
    """Return the names of the files of a run's folder that a run of ours has written; None for all that it can."""
    with contextlib.suppress(OSError, ValueError):
        files = ledger.parse(folder).result.get("files")
        return set(map(str, files)) if isinstance(files, list) else None
    if lock.read(folder) is not None or folder.name.endswith(f"-{fingerprint}"):
        return None
    for sweep in folder.parents:  # whose plan may name a run further below
        if (sweep / PLAN).is_file():
            with contextlib.suppress(ConfigError):  # another program's plan
                if folder.relative_to(sweep).as_posix() in {run["run"] for run in plans.runs(sweep)}:
                    return None
            break
    return set()


def _is_owned(name: str, owned: set[str] | None) -> bool:
    return owned is None or name in owned or bool(owned) and EVENTS.fullmatch(name) is not None


def clear_run(folder: Path, fingerprint: str, names: Iterable[str]) -> None:
    """Remove what an earlier run wrote into a run's folder, but for its lock; all else stays."""
    owned = _owned(folder, fingerprint)
    for name in present(folder, names):
        path = folder / name
        if _is_owned(name, owned) and path.is_file() and not path.is_symlink():
            path.unlink()
    for parent in {(folder / name).parent for name in names} - {folder}:
        with contextlib.suppress(OSError):  # it holds something else, or is not there
            parent.rmdir()


def check_sweep_folder(folder: Path) -> None:
    """Raises `ConfigError` where something of somebody else's stands under a name that a sweep or its report writes."""
    for name in SWEEP_FILES:
        path = folder / name
        if path.is_symlink():
            raise ConfigError(f"{path}: is a link, and a sweep writes a file of its own there; {ELSEWHERE}")
        if os.path.lexists(path) and not (path.is_dir() if name == "mean" else path.is_file()):
            raise ConfigError(f"{path}: is another program's; {ELSEWHERE}")
    _check_guard(folder)
    page, table, parquet = folder / "report.html", folder / "results.csv", folder / "results.parquet"
    paged = page.is_file() and PAGE_HEAD in page.read_bytes()[:2000]
    if page.is_file() and not paged:
        raise ConfigError(f"{page} is another program's: {ELSEWHERE}")
    tabled = table.is_file() and TABLE_HEAD.match(_head(table)) and (paged or _holds_runs(folder))
    if table.is_file() and not tabled:
        raise ConfigError(f"{table} is another program's: {ELSEWHERE}")
    if parquet.is_file() and not is_own_parquet(parquet) and not (tabled and b"status" in parquet.read_bytes()):
        raise ConfigError(f"{parquet} is another program's: {ELSEWHERE}")


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(100)


def is_own_parquet(path: Path) -> bool:
    """Tell a table that a report wrote."""
    return PARQUET_MARK in path.read_bytes()


def _holds_runs(folder: Path) -> bool:
    """Tell a folder in which a run of ours has left its result."""
    return holds_result(folder) or any(map(holds_result, ledger.run_folders(folder)))


def holds_result(folder: Path) -> bool:
    """Tell a folder with the result of a run of ours."""
    try:
        ledger.parse(folder)
    except (OSError, ValueError):
        return False
    return True
