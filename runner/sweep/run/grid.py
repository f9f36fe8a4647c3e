"""What the sweeper `grid` does: plan, show, hand over, sum up."""

import sys

from hydra.plugins.launcher import Launcher

from runner.core.errors import ConfigError
from runner.execution import distributed
from runner.sweep.compose.compose import Composer
from runner.sweep.plan.planner import format_refusal, make_plan
from runner.sweep.run import display, torchrun
from runner.sweep.run.launch import launch, opened, prepare_plan
from runner.task.resources import Resources
from runner.task.torchrun import follow


def grid(composer: Composer, launcher: Launcher, arguments: list[str], multirun: bool) -> None:
    """What was typed; where torchrun started several processes, the first does it and the others train along."""
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
    """Plans every combination, then has the launcher run those that are not done. Ends the process with 1 where
    some run did not end well; raises `ConfigError` before anything starts where some combination cannot run."""
    ours = opened(launcher)
    with display.planning() as watch:
        plan = make_plan(composer, arguments, multirun, Resources(), watch)
    prepare_plan(plan, ours)
    torchrun.check(plan)
    if plan.entries[0].job.config["dry_run"]:
        from runner.sweep.run import dry_run  # which loads what counts and draws

        dry_run.show(plan)
        if plan.refused:
            raise ConfigError(format_refusal(plan.refused, plan.requested))
        return
    launch(plan, ours)
    if code := plan.exit_code():
        sys.exit(code)
