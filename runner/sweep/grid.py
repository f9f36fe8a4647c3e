"""What the sweeper `grid` does: plan, show, hand over, sum up."""

import sys

from hydra.core.config_loader import ConfigLoader
from hydra.plugins.launcher import Launcher
from omegaconf import DictConfig

from runner.build import Builder
from runner.errors import ConfigError
from runner.sweep import display
from runner.sweep.plan import make_plan


def grid(master: DictConfig, loader: ConfigLoader, launcher: Launcher, arguments: list[str], multirun: bool) -> None:
    """Plans every combination, then has the launcher run those that are not done. Ends the process with 1 where
    some run did not end well; raises `ConfigError` before anything starts where some combination cannot run."""
    if not callable(getattr(launcher, "launch_plan", None)):
        raise ConfigError(f"hydra/launcher: {type(launcher).__name__} takes no plan; use hydra/launcher=local")
    with display.planning() as watch:
        plan = make_plan(master, loader, arguments, multirun, Builder(), watch)
    if plan.entries[0].job.config["dry_run"]:
        display.show_plan(plan)
        return
    launcher.launch_plan(plan)
    if code := plan.exit_code():
        sys.exit(code)
