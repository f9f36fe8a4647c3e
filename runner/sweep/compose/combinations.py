"""What a command asks for: its products, those that its experiments load_products, and what is taken out of them."""

import itertools
from dataclasses import dataclass

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig

from runner.core.errors import ConfigError
from runner.core.text import shown
from runner.sweep.compose.exclude import Condition, alternatives, parse_condition
from runner.sweep.compose.overrides import Pairs, override_key, override_values, parse
from runner.sweep.compose.product import check_zip, combine, is_part, sweep_keys


@dataclass(frozen=True)
class Product:
    """The combinations of some keys; several stand beside each other where experiments load_products them."""

    fixed: Pairs  # the experiment, of several
    params: list[str]  # what it sweeps
    config: DictConfig  # of the sweep, or the experiment's own


def load_products(master: DictConfig, loader: ConfigLoader, typed: list[Override]) -> list[Product]:
    """What a command sweeps beside what is typed: the products that its experiments load_products; one of nothing where none.

    A file's `hydra.sweeper.grids` is a list of products beside each other; each also has what `params` sweeps.
    """
    named = [
        (o.get_key_element(), value) for o in typed if o.key_or_group == "experiment" for value in override_values(o)
    ]
    found = []
    for pair in named if len(named) > 1 else [None]:
        config = master if pair is None else loader.load_sweep_config(master, ["=".join(pair)])
        sweeper = config.hydra.sweeper
        for grid in sweeper.grids or [{}]:
            params = {**(sweeper.params or {}), **grid}
            words = [f"{key}={value}" for key, value in params.items()]
            found.append(Product([] if pair is None else [pair], words, config))
    return found


def check_single_run(typed: list[Override], brought: list[Product]) -> None:
    """Raises `ConfigError` for whatever makes several runs, typed without -m."""
    if wide := [o.input_line for o in typed if o.is_interval_sweep() or len(override_values(o)) > 1]:
        raise ConfigError(f"{', '.join(wide)}: several values are a sweep: add -m (a list is '[A,B]', in quotes)")
    names = {override_key(o) for o in typed}
    if any(word.partition("=")[0].lstrip("+") not in names for product in brought for word in product.params):
        raise ConfigError("this experiment brings a sweep of its own: add -m")
    sweep = sweep_keys(brought[0].config, typed)
    if sweep.zip or sweep.exclude or sweep.repeat > 1:
        found = next(f"{key}={shown(found)}" for key, found in sweep if found not in ([], 1))
        raise ConfigError(f"sweep.{found}: is about several runs: add -m")


def combinations(
    loader: ConfigLoader, typed: list[Override], brought: list[Product]
) -> list[tuple[Pairs, list[Condition]]]:
    """Every combination, with the conditions that may take it out."""
    products = []
    for product in brought:
        fixed = {key for key, _ in product.fixed}
        mine = [o for o in typed if not is_part(o) and override_key(o) not in fixed]
        names = {override_key(o) for o in mine}
        more = [o for o in parse(loader, product.params) if override_key(o) not in names]
        products.append([*mine, *more])
    conditions: dict[str, Condition] = {}
    asked = []
    for product, overrides in zip(brought, products):
        sweep = sweep_keys(product.config, typed)
        beside = [o for other, theirs in zip(brought, products) if other.fixed == product.fixed for o in theirs]
        check_zip(sweep, list(dict.fromkeys(override_key(o) for o in beside if len(override_values(o)) > 1)))
        texts = itertools.chain(*map(alternatives, sweep.exclude))
        theirs = [conditions.setdefault(text, parse_condition(text)) for text in texts]
        asked += [(product.fixed + pairs, theirs) for pairs in combine(overrides, sweep, product.config.seed)]
    return asked
