"""Combinations of a command: the products of its overrides and of its experiments, with their exclusions."""

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
    """Keys of which all combinations are run; an experiment may define several products."""

    fixed: Pairs  # the experiment, where several are typed
    params: list[str]  # overrides that the experiment sweeps
    config: DictConfig  # of the sweep, or the experiment's own


def load_products(master: DictConfig, loader: ConfigLoader, typed: list[Override]) -> list[Product]:
    """Return the products that the experiments of a command define; one without overrides where there are none.

    A file's `hydra.sweeper.grids` is a list of separate products; each also sweeps `hydra.sweeper.params`.
    """
    experiments = [
        (o.get_key_element(), value) for o in typed if o.key_or_group == "experiment" for value in override_values(o)
    ]
    products = []
    for pair in experiments if len(experiments) > 1 else [None]:
        config = master if pair is None else loader.load_sweep_config(master, ["=".join(pair)])
        sweeper = config.hydra.sweeper
        for grid in sweeper.grids or [{}]:
            params = {**(sweeper.params or {}), **grid}
            words = [f"{key}={value}" for key, value in params.items()]
            products.append(Product([] if pair is None else [pair], words, config))
    return products


def check_single_run(typed: list[Override], products: list[Product]) -> None:
    """Raise `ConfigError` for overrides that make several runs, in a command without -m."""
    if swept := [o.input_line for o in typed if o.is_interval_sweep() or len(override_values(o)) > 1]:
        raise ConfigError(f"{', '.join(swept)}: several values are a sweep: add -m (a list is '[A,B]', in quotes)")
    keys = {override_key(o) for o in typed}
    if any(word.partition("=")[0].lstrip("+") not in keys for product in products for word in product.params):
        raise ConfigError("this experiment brings a sweep of its own: add -m")
    sweep = sweep_keys(products[0].config, typed)
    if sweep.zip or sweep.exclude or sweep.repeat > 1:
        setting = next(f"{key}={shown(value)}" for key, value in sweep if value not in ([], 1))
        raise ConfigError(f"sweep.{setting}: is about several runs: add -m")


def make_combinations(
    loader: ConfigLoader, typed: list[Override], products: list[Product]
) -> list[tuple[Pairs, list[Condition]]]:
    """Return every combination, with the conditions that may exclude it."""
    overrides_of_products = []
    for product in products:
        fixed = {key for key, _ in product.fixed}
        from_command = [o for o in typed if not is_part(o) and override_key(o) not in fixed]
        keys = {override_key(o) for o in from_command}
        from_experiment = [o for o in parse(loader, product.params) if override_key(o) not in keys]
        overrides_of_products.append([*from_command, *from_experiment])
    conditions: dict[str, Condition] = {}
    rows = []
    for product, overrides in zip(products, overrides_of_products):
        sweep = sweep_keys(product.config, typed)
        siblings = [
            o
            for sibling, its_overrides in zip(products, overrides_of_products)
            if sibling.fixed == product.fixed
            for o in its_overrides
        ]
        check_zip(sweep, list(dict.fromkeys(override_key(o) for o in siblings if len(override_values(o)) > 1)))
        texts = itertools.chain(*map(alternatives, sweep.exclude))
        excluding = [conditions.setdefault(text, parse_condition(text)) for text in texts]
        rows += [(product.fixed + pairs, excluding) for pairs in combine(overrides, sweep, product.config.seed)]
    return rows
