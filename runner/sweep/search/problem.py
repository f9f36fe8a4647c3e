"""Scope of a search: its settings and space, read from the command and checked before a run starts."""

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

STARTUP = 5  # finished runs before the median pruner starts


@dataclass(frozen=True)
class Scope:
    """Checked search: settings, space, planner, plan and pruner."""

    settings: Settings
    space: Space
    planner: Planner
    plan: Plan  # holds the first corner; trials are added
    pruner: PruningRule
    total: int  # number of trials
    command: str

    def entry(self, params: Params, number: int = 0) -> Entry:
        """Return a point of the space as a checked combination. `number`: of the trial. Raises `ConfigError`."""
        return self.planner.entry(self.space.overrides(params), self.space.swept(params), self.command, number)


def make_scope(composer: Composer, arguments: list[str]) -> Scope:
    """Read and check a search. Raises `ConfigError` for bad bounds, invalid corners and conflicting settings."""
    master, loader = composer.master, composer.loader
    search, space = settings(master), _space(master, loader, arguments)
    _check_sampler(search, space)
    planner = Planner(composer, Resources(), lone=False)
    command = command_line()
    corners = _corners(planner, space, command)
    _check_runs(search, corners, planner.resources)
    first = corners[0]
    plan = Plan([first], first.job.sweep, lone=False, rerun=False, resources=planner.resources)
    check_writable(plan.folder)
    epochs = [entry.job.config["epochs"] for entry in corners]
    min_epochs = search.min_epochs or 1
    if search.pruner != "none" and min_epochs >= min(epochs):
        raise ConfigError(
            f"{PREFIX}pruner={search.pruner}: nothing can be stopped early with epochs={min(epochs)} and "
            f"min_epochs={min_epochs}; more epochs, or pruner=none"
        )
    startup, factor = search.startup_trials or STARTUP, search.reduction_factor
    pruner = PruningRule(search.pruner, search.metric[0], search.higher[0], max(epochs), min_epochs, startup, factor)
    return Scope(search, space, planner, plan, pruner, _total(search, space), command)


def _space(master: DictConfig, loader: ConfigLoader, arguments: list[str]) -> Space:
    """Return the space of the command and of its experiment."""
    overrides = parse(loader, arguments)
    check_overrides(overrides, loader)
    products = load_products(master, loader, overrides)
    if len(products) > 1 and any(product.params for product in products):
        raise ConfigError("hydra/sweeper=search: searches one space; name one experiment, without hydra.sweeper.grids")
    sweep = sweep_keys(products[0].config, overrides)
    for key, is_set in (("zip", sweep.zip), ("exclude", sweep.exclude), ("repeat", sweep.repeat > 1)):
        if is_set:
            raise ConfigError(f"sweep.{key}: is for grids; leave it out of a search, and repeat what it finds instead")
    keys = {override_key(override) for override in overrides}
    defaults = [override for override in parse(loader, products[0].params) if override_key(override) not in keys]
    return make_space([override for override in (*overrides, *defaults) if not is_part(override)], loader)


def _check_sampler(search: Settings, space: Space) -> None:
    if search.sampler == "cmaes" and sum(dim.is_numeric for dim in space.dimensions) < 2:
        raise ConfigError(
            f"{PREFIX}sampler=cmaes: walks through numbers, and needs at least two keys with interval(A,B) or "
            "range(A,B); use tpe"
        )
    if search.sampler == "grid" and (infinite := [dim for dim in space.dimensions if dim.values() is None]):
        raise ConfigError(
            f"{PREFIX}sampler=grid: {infinite[0].key}={infinite[0].typed} has no end of values; use choice(...) or "
            "range(...), or another sampler"
        )


def _corners(planner: Planner, space: Space, command: str) -> list[Entry]:
    """Return the corners of the space as checked combinations. Raises `ConfigError` for invalid ones."""
    entries: list[Entry] = []
    refused: dict[str, list[str]] = {}
    corners = space.corners()
    for params in corners:
        overrides = space.overrides(params)
        label = " ".join(overrides[: len(space.dimensions)])
        try:
            entries.append(planner.entry(overrides, space.swept(params), command, len(entries)))
        except ConfigError as error:
            lines = error.lines if isinstance(error, Refused) else [str(error)]
            for complaint in dict.fromkeys(_int_hint(line, space) for line in lines):
                refused.setdefault(complaint, []).append(label)
    if len(refused) == 1:
        raise ConfigError(_format_single(*next(iter(refused.items())), len(corners)))
    if refused:
        raise ConfigError(format_refusal(refused, len(corners)))
    check_one_folder(entry.job.sweep for entry in entries)
    folders = {entry.job.folder for entry in entries}
    if len(folders) < len({entry.job.fingerprint for entry in entries}):
        raise ConfigError(
            f"{entries[0].job.folder}: several runs would share this folder; hydra.sweep.subdir must tell them apart"
        )
    return entries


def _int_hint(line: str, space: Space) -> str:
    """Return a complaint about a non-integer value of an interval as one about the interval; others unchanged."""
    for dim in space.dimensions:
        if line.startswith(f"{dim.key}=") and line.endswith("must be a whole number") and dim.values() is None:
            typed = re.sub(r"interval\([^)]*\)", r"int(\g<0>)", dim.typed)
            return f"{dim.key}={dim.typed}: must be whole numbers; type {dim.key}={typed}"
    return line


def _format_single(line: str, labels: list[str], count: int) -> str:
    """Return the only complaint; it names a corner unless it names one of its keys or all corners are refused."""
    named = any(word.partition("=")[0] in line for word in labels[0].split())
    return line if named or len(labels) == count else f"{line}  [{labels[0]}, in this space]"


def _check_runs(search: Settings, corners: list[Entry], resources: Resources) -> None:
    """Raise `ConfigError` for runs without the metrics of the search."""
    for config in (entry.job.config for entry in corners):
        if not isinstance(resources.task(config), Train):
            raise ConfigError("hydra/sweeper=search: needs runs that are validated: task=train")
        if config["rerun"]:
            raise ConfigError("rerun=true: a search repeats nothing; begin another one with name=")
        if resources.splits(config).val is None and any(metric.startswith("val_") for metric in search.metric):
            raise ConfigError(
                f"{PREFIX}metric={search.metric[0]}: there are no validation images (data.val_fraction=0)"
            )


def _total(search: Settings, space: Space) -> int:
    if search.sampler != "grid":
        return search.n_trials or TRIALS
    return min(search.n_trials or space.size(), space.size())
