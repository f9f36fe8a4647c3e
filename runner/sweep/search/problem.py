"""What a search is about, read from the command and checked before anything starts."""

import re
from dataclasses import dataclass

from hydra.core.config_loader import ConfigLoader
from omegaconf import DictConfig

from runner.build.complaints import Refused
from runner.core.errors import ConfigError
from runner.sweep.compose.argv import command_line
from runner.sweep.compose.combinations import load_products
from runner.sweep.compose.compose import Composer
from runner.sweep.compose.overrides import check_overrides, override_key, parse
from runner.sweep.compose.product import is_part, sweep_keys
from runner.sweep.plan.layout import check_one_folder
from runner.sweep.plan.plan import Entry, Plan, check_writable
from runner.sweep.plan.planner import Planner, format_refusal
from runner.sweep.search.pruner import PruningRule
from runner.sweep.search.settings import PREFIX, TRIALS, Settings, settings
from runner.sweep.search.space import Params, Space, make_space
from runner.task.resources import Resources
from runner.task.train import Train

STARTUP = 5  # finished runs before which their median means nothing


@dataclass(frozen=True)
class Scope:
    """A search that can be begun."""

    settings: Settings
    space: Space
    planner: Planner
    plan: Plan  # of its first corner; what is asked for comes to it
    pruner: PruningRule
    total: int  # trials
    command: str

    def entry(self, params: Params, number: int = 0) -> Entry:
        """A point of the space as a checked combination; `number`: the trial's. Raises `ConfigError`."""
        return self.planner.entry(self.space.words(params), self.space.swept(params), self.command, number)


def make_scope(composer: Composer, arguments: list[str]) -> Scope:
    """Raises `ConfigError` for all that cannot be searched: bad bounds, corners that cannot run, what does not go
    together."""
    master, loader = composer.master, composer.loader
    asked, space = settings(master), _space(master, loader, arguments)
    _check_sampler(asked, space)
    planner = Planner(composer, Resources(), lone=False)
    line = command_line()
    corners = _corners(planner, space, line)
    _check_runs(asked, corners, planner.resources)
    first = corners[0]
    plan = Plan([first], first.job.sweep, lone=False, rerun=False, resources=planner.resources)
    check_writable(plan.folder)
    epochs = [entry.job.config["epochs"] for entry in corners]
    least = asked.min_epochs or 1
    if asked.pruner != "none" and least >= min(epochs):
        raise ConfigError(
            f"{PREFIX}pruner={asked.pruner}: nothing can be stopped early with epochs={min(epochs)} and "
            f"min_epochs={least}; more epochs, or pruner=none"
        )
    startup, factor = asked.startup_trials or STARTUP, asked.reduction_factor
    pruner = PruningRule(asked.pruner, asked.metric[0], asked.higher[0], max(epochs), least, startup, factor)
    return Scope(asked, space, planner, plan, pruner, _total(asked, space), line)


def _space(master: DictConfig, loader: ConfigLoader, arguments: list[str]) -> Space:
    """The space of the command, and of the experiment that it names."""
    typed = parse(loader, arguments)
    check_overrides(typed, loader)
    brought = load_products(master, loader, typed)
    if len(brought) > 1 and any(product.params for product in brought):
        raise ConfigError("hydra/sweeper=search: searches one space; name one experiment, without hydra.sweeper.grids")
    sweep = sweep_keys(brought[0].config, typed)
    for key, given in (("zip", sweep.zip), ("exclude", sweep.exclude), ("repeat", sweep.repeat > 1)):
        if given:
            raise ConfigError(f"sweep.{key}: is for grids; leave it out of a search, and repeat what it finds instead")
    names = {override_key(override) for override in typed}
    more = [override for override in parse(loader, brought[0].params) if override_key(override) not in names]
    return make_space([override for override in (*typed, *more) if not is_part(override)], loader)


def _check_sampler(asked: Settings, space: Space) -> None:
    if asked.sampler == "cmaes" and sum(one.numeric for one in space.dimensions) < 2:
        raise ConfigError(
            f"{PREFIX}sampler=cmaes: walks through numbers, and needs at least two keys with interval(A,B) or "
            "range(A,B); use tpe"
        )
    if asked.sampler == "grid" and (endless := [one for one in space.dimensions if one.every() is None]):
        raise ConfigError(
            f"{PREFIX}sampler=grid: {endless[0].key}={endless[0].typed} has no end of values; use choice(...) or "
            "range(...), or another sampler"
        )


def _corners(planner: Planner, space: Space, line: str) -> list[Entry]:
    """The corners of the space as checked combinations."""
    entries: list[Entry] = []
    refused: dict[str, list[str]] = {}
    corners = space.corners()
    for params in corners:
        words = space.words(params)
        label = " ".join(words[: len(space.dimensions)])
        try:
            entries.append(planner.entry(words, space.swept(params), line, len(entries)))
        except ConfigError as error:
            lines = error.lines if isinstance(error, Refused) else [str(error)]
            for line in dict.fromkeys(_whole(line, space) for line in lines):
                refused.setdefault(line, []).append(label)
    if len(refused) == 1:
        raise ConfigError(_one(*next(iter(refused.items())), len(corners)))
    if refused:
        raise ConfigError(format_refusal(refused, len(corners)))
    check_one_folder(entry.job.sweep for entry in entries)
    folders = {entry.job.folder for entry in entries}
    if len(folders) < len({entry.job.fingerprint for entry in entries}):
        raise ConfigError(
            f"{entries[0].job.folder}: several runs would share this folder; hydra.sweep.subdir must tell them apart"
        )
    return entries


def _whole(line: str, space: Space) -> str:
    """A complaint about a number between two bounds that is to be whole, about the bounds."""
    for one in space.dimensions:
        if line.startswith(f"{one.key}=") and line.endswith("must be a whole number") and one.every() is None:
            typed = re.sub(r"interval\([^)]*\)", r"int(\g<0>)", one.typed)
            return f"{one.key}={one.typed}: must be whole numbers; type {one.key}={typed}"
    return line


def _one(line: str, labels: list[str], count: int) -> str:
    """The only complaint, with a corner that it is about, unless it names one of its keys."""
    named = any(word.partition("=")[0] in line for word in labels[0].split())
    return line if named or len(labels) == count else f"{line}  [{labels[0]}, in this space]"


def _check_runs(asked: Settings, corners: list[Entry], resources: Resources) -> None:
    """Raises `ConfigError` for runs that could not be judged."""
    for config in (entry.job.config for entry in corners):
        if not isinstance(resources.task(config), Train):
            raise ConfigError("hydra/sweeper=search: needs runs that are validated: task=train")
        if config["rerun"]:
            raise ConfigError("rerun=true: a search repeats nothing; begin another one with name=")
        if resources.splits(config).val is None and any(metric.startswith("val_") for metric in asked.metric):
            raise ConfigError(f"{PREFIX}metric={asked.metric[0]}: there are no validation images (data.val_fraction=0)")


def _total(asked: Settings, space: Space) -> int:
    if asked.sampler != "grid":
        return asked.n_trials or TRIALS
    return min(asked.n_trials or space.size(), space.size())
