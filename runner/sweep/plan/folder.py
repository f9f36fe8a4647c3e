"""A sweep's folder: made before the first step, and taken back by a refusal before any run has begun."""

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

from runner.core.errors import ConfigError
from runner.store import lock
from runner.sweep.plan import plan_file
from runner.sweep.plan.plan import Plan

HIDDEN = (".submitit", ".fuse", ".compile")  # folders of ours in a sweep's; removed where the sweep's was made in vain


@contextlib.contextmanager
def sweep_folder(folder: Path, own: str = "") -> Iterator[None]:
    """Inside, the folder is there. `own`: a file that goes with it. Raises `ConfigError` where it cannot be made."""
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    with writable(folder):
        folder.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except ConfigError:
        # A plan that still stands there is another command's; where a run has begun, all stays.
        if made and not {path.name for path in folder.glob("[!.]*")} - {own}:
            for name in filter(None, (own, lock.GUARD)):
                (folder / name).unlink(missing_ok=True)
            for name in HIDDEN:
                shutil.rmtree(folder / name, ignore_errors=True)
            with contextlib.suppress(OSError):  # another sweep has begun beside this one, or in it
                for path in made:
                    path.rmdir()
        raise


@contextlib.contextmanager
def write_plan(plan: Plan) -> Iterator[None]:
    """Inside, the plan stands in its folder. Raises `ConfigError` where it cannot."""
    with sweep_folder(plan.folder):
        if not plan.todo or plan.lone:
            yield
            return
        with writable(plan.folder):
            plan_file.write(plan)
        try:
            yield
        except ConfigError:
            if not any(entry.job.folder.exists() for entry in plan.entries):
                plan_file.withdraw(plan)
            raise


@contextlib.contextmanager
def writable(folder: Path) -> Iterator[None]:
    """Inside, what cannot be written is the user's to mend."""
    try:
        yield
    except OSError as error:
        raise ConfigError(f"{folder}: cannot write there ({error.strerror}); set name= or hydra.sweep.dir=") from error
