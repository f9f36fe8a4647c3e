"""Folder of a sweep: created before the first step, removed by an error before any run has started."""

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

from runner.core.errors import ConfigError
from runner.store import lock
from runner.store.git import PATCHES
from runner.sweep.plan import plan_file
from runner.sweep.plan.plan import Plan

HIDDEN = (".submitit", ".fuse", ".compile", PATCHES)  # folders of the runner in a sweep's folder


@contextlib.contextmanager
def sweep_folder(folder: Path, own: str = "") -> Iterator[None]:
    """Create the folder for the context; remove it again after a `ConfigError` if no run has started.

    own: a file that is removed with it. Raises `ConfigError` where the folder cannot be created.
    """
    created = [path for path in (folder, *folder.parents) if not path.exists()]
    with explain_write_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except ConfigError:
        # Keep a folder with other files: a run has started, or the plan is another command's.
        if created and not {path.name for path in folder.glob("[!.]*")} - {own}:
            for name in filter(None, (own, lock.GUARD)):
                (folder / name).unlink(missing_ok=True)
            for name in HIDDEN:
                shutil.rmtree(folder / name, ignore_errors=True)
            with contextlib.suppress(OSError):  # another sweep has started in one of these folders
                for path in created:
                    path.rmdir()
        raise


@contextlib.contextmanager
def write_plan(plan: Plan) -> Iterator[None]:
    """Write the plan file for the context; remove the plan again after a `ConfigError` if no run has started.

    Raises `ConfigError` where it cannot be written.
    """
    with sweep_folder(plan.folder):
        if not plan.todo or plan.lone:
            yield
            return
        with explain_write_errors(plan.folder):
            plan_file.write(plan)
        try:
            yield
        except ConfigError:
            if not any(entry.job.folder.exists() for entry in plan.entries):
                plan_file.withdraw(plan)
            raise


@contextlib.contextmanager
def explain_write_errors(folder: Path) -> Iterator[None]:
    """Turn an `OSError` inside the context into a `ConfigError`."""
    try:
        yield
    except OSError as error:
        raise ConfigError(f"{folder}: cannot write there ({error.strerror}); set name= or hydra.sweep.dir=") from error
