"""Executes the runs of a plan with an executor, then writes the report."""

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
from runner.sweep.run.tally import describe_remaining


class Launcher(Protocol):
    """Launcher: the object behind `hydra/launcher=...`; it makes the executor of a plan.

    fuse: auto | True | False, train runs of one program together. fuse_max: auto, or the most runs of a group.
    """

    fuse: Any
    fuse_max: Any

    def count(self, runs: int, lone: bool, device: str) -> int:
        """Return how many of `runs` are executed at once on that kind of device; 0: in this process."""

    def make_executor(self, plan: Plan, display: Display) -> Executor:
        """Return the executor of the plan's runs."""


def open_launcher(launcher: object) -> Launcher:
    """Return what a launcher plugin opens. Raises `ConfigError` for a plugin that takes no plans."""
    if not callable(getattr(launcher, "open", None)):
        raise ConfigError(f"hydra/launcher: {type(launcher).__name__} takes no plan; use hydra/launcher=local")
    return launcher.open()


def prepare_plan(plan: Plan, launcher: Launcher) -> None:
    """Set the number of runs at once, the threads of each run and its slot."""
    earlier = {} if plan.lone else plan_file.threads(plan.folder)
    plan.set_workers(launcher.count(len(plan.todo), plan.lone, plan.device), earlier)
    grouping.assign_slots(plan, launcher, {} if plan.lone else plan_file.slots(plan.folder))


def launch(plan: Plan, launcher: Launcher) -> None:
    """Execute the runs to do; each result is in its run's folder. An error ends only its own run."""
    with write_plan(plan), Display(plan) as display:
        try:
            if plan.todo:
                with launcher.make_executor(plan, display) as executor:
                    # With several seeds the report has statistics.
                    several = len({entry.job.config["seed"] for entry in plan.entries}) > 1
                    worker_reports = executor.ready and not several
                    if plan.workers and not worker_reports:  # this process only waits meanwhile
                        threading.Thread(target=_prepare_report, args=[several], daemon=True).start()
                    for entry in Scheduler(plan, executor, display).all(plan.todo):
                        display.end(entry)
                    if worker_reports:
                        display.report = executor.report(plan.folder)
        except DiskFull as full:
            raise DiskFull(f"{full}; {describe_shortage(plan)}") from full
        except KeyboardInterrupt as end:
            remaining = describe_remaining(map(plan.displayed_result, plan.entries), plan.lone)
            raise make_interrupted(end, remaining) from end
        finally:
            if display.report is None and any(map(plan.displayed_result, plan.entries)):
                display.report = write_report(plan.folder)


def make_interrupted(end: KeyboardInterrupt, words: str) -> Interrupted:
    """Return the interruption with a message on what is left to do."""
    return Interrupted(getattr(end, "number", signal.SIGINT), words)


def _prepare_report(several: bool) -> None:
    """Import what the report needs; with `several` seeds, also the statistics."""
    import_module("runner.report.preload")
    if several:
        import_module("runner.report.statistics.multiple_comparisons")


def describe_shortage(plan: Plan) -> str:
    """Describe how much disk space the remaining runs need, from the sizes of the finished ones."""
    sizes = [
        sum((entry.job.folder / name).stat().st_size for name in present(entry.job.folder, entry.job.files))
        for entry, result in zip(plan.entries, plan.results())
        if result is not None and result["status"] == "done"
    ]
    remaining = len(plan.entries) - len(sizes)
    free = shutil.disk_usage(plan.folder).free
    if not sizes:
        return f"{free / 1e6:,.0f} MB are free there; make room, then the same command goes on"
    needed = remaining * sum(sizes) / len(sizes)
    more = max(0.0, needed - free)
    return (
        f"the rest ({count(remaining, 'run')}) takes about {needed / 1e6:,.0f} MB, {more / 1e6:,.0f} MB more than are "
        "free; make room, then the same command goes on"
    )
