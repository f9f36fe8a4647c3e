"""Executes a plan: its runs on a crew, then the report."""

import shutil
import signal
import threading
from importlib import import_module
from typing import Any, Protocol

from runner.core.errors import ConfigError, DiskFull
from runner.core.interruption import Interrupted
from runner.report import write_report
from runner.report.results.format import count
from runner.store.owned import present
from runner.sweep.plan import grouping, plan_file
from runner.sweep.plan.folder import write_plan
from runner.sweep.plan.plan import Plan
from runner.sweep.run.display import Display
from runner.sweep.run.executor import Executor
from runner.sweep.run.scheduler import Scheduler
from runner.sweep.run.tally import left


class Launcher(Protocol):
    """What `hydra/launcher=...` stands for.

    fuse: auto | True | False, whether runs of one program are trained as one; fuse_max: auto, or runs of such a group.
    """

    fuse: Any
    fuse_max: Any

    def count(self, runs: int, lone: bool, device: str) -> int:
        """How many of so many runs are done at once, on that kind of device; 0: in this process."""

    def crew(self, plan: Plan, display: Display) -> Executor:
        """Those who do the plan's runs."""


def opened(launcher: object) -> Launcher:
    """What a plugin of Hydra's stands for. Raises `ConfigError` for one that is not ours."""
    if not callable(getattr(launcher, "open", None)):
        raise ConfigError(f"hydra/launcher: {type(launcher).__name__} takes no plan; use hydra/launcher=local")
    return launcher.open()


def prepare_plan(plan: Plan, launcher: Launcher) -> None:
    """Fixes how many runs are done at once, and each one's threads."""
    earlier = {} if plan.lone else plan_file.threads(plan.folder)
    plan.set_workers(launcher.count(len(plan.todo), plan.lone, plan.device), earlier)
    grouping.assign_slots(plan, launcher, {} if plan.lone else plan_file.slots(plan.folder))


def launch(plan: Plan, launcher: Launcher) -> None:
    """Executes what is left to do; each run's end stands in its folder. An error ends its own run alone."""
    with write_plan(plan), Display(plan) as display:
        try:
            if plan.todo:
                with launcher.crew(plan, display) as crew:
                    several = len({entry.job.config["seed"] for entry in plan.entries}) > 1  # which has statistics
                    elsewhere = crew.ready and not several
                    if plan.workers and not elsewhere:  # this process waits anyway
                        threading.Thread(target=_prepare_report, args=[several], daemon=True).start()
                    for entry in Scheduler(plan, crew, display).all(plan.todo):
                        display.end(entry)
                    if elsewhere:
                        display.report = crew.report(plan.folder)
        except DiskFull as full:
            raise DiskFull(f"{full}; {missing(plan)}") from full
        except KeyboardInterrupt as end:
            raise interrupted(end, left(map(plan.displayed_result, plan.entries), plan.lone)) from end
        finally:
            if display.report is None and any(map(plan.displayed_result, plan.entries)):
                display.report = write_report(plan.folder)


def interrupted(end: KeyboardInterrupt, words: str) -> Interrupted:
    """Return the same end, with what is left to do."""
    return Interrupted(getattr(end, "number", signal.SIGINT), words)


def _prepare_report(several: bool) -> None:
    """Loads what the report will need; of `several` seeds, too."""
    import_module("runner.report.preload")
    if several:
        import_module("runner.report.statistics.multiple_comparisons")


def missing(plan: Plan) -> str:
    """How much room the rest of a plan needs, by what its finished runs took."""
    sizes = [
        sum((entry.job.folder / name).stat().st_size for name in present(entry.job.folder, entry.job.files))
        for entry, result in zip(plan.entries, plan.results())
        if result is not None and result["status"] == "done"
    ]
    left = len(plan.entries) - len(sizes)
    free = shutil.disk_usage(plan.folder).free
    if not sizes:
        return f"{free / 1e6:,.0f} MB are free there; make room, then the same command goes on"
    needed = left * sum(sizes) / len(sizes)
    more = max(0.0, needed - free)
    return (
        f"the rest ({count(left, 'run')}) takes about {needed / 1e6:,.0f} MB, {more / 1e6:,.0f} MB more than are free; "
        "make room, then the same command goes on"
    )
