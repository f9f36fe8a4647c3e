"""Sweeper `grid`: plans all combinations and executes them."""

import sys

from hydra.plugins.launcher import Launcher

from runner.core.errors import ConfigError
from runner.execution import distributed
from runner.sweep.compose.compose import Composer
from runner.sweep.plan.planner import format_refusal, make_plan
from runner.sweep.run import display, torchrun
from runner.sweep.run.launch import launch, open_launcher, prepare_plan
from runner.task.resources import Resources
from runner.task.torchrun import follow


def grid(composer: Composer, launcher: Launcher, arguments: list[str], multirun: bool) -> None:
    """Execute the command. Under torchrun, rank 0 leads and the other processes follow it in training."""
    team = distributed.team()
    if team is None:
        _command(composer, launcher, arguments, multirun)
    elif not team.is_leader:
        follow(team, Resources())
    else:
        try:
            torchrun.refuse_sweep(multirun)
            _command(composer, launcher, arguments, multirun)
        finally:
            team.dismiss()


def _command(composer: Composer, launcher: Launcher, arguments: list[str], multirun: bool) -> None:
    """Plan every combination, then execute those that are not done.

    Exits with code 1 if a run did not end well. Raises `ConfigError` before any run starts if a combination cannot run.
    """
    plan_launcher = open_launcher(launcher)
    with display.planning() as progress:
        plan = make_plan(composer, arguments, multirun, Resources(), progress)
    prepare_plan(plan, plan_launcher)
    torchrun.check(plan)
    if plan.entries[0].job.config["dry_run"]:
        from runner.sweep.run import dry_run  # loads code that counts FLOPs and draws tables

        dry_run.show(plan)
        if plan.refused:
            raise ConfigError(format_refusal(plan.refused, plan.requested))
        return
    launch(plan, plan_launcher)
    if exit_code := plan.exit_code():
        sys.exit(exit_code)
