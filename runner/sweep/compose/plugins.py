"""Hydra's sweepers and launchers: which are ours, their keys. Light."""

import difflib

from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from omegaconf import OmegaConf

from runner.core.errors import did_you_mean

PARTS = ("launcher", "sweeper")
INNER = frozenset({"_target_", "params", "grids", "multirun"})  # keys that nobody types


def plugin_options(part: str, provided: bool) -> list[str]:
    """The options of `hydra/launcher` or `hydra/sweeper` that plugins bring: ours, or (`provided` false) those of
    Hydra and of other packages, which run single jobs and take no plans."""
    Plugins.instance()  # imports them all
    store, group = ConfigStore.instance(), f"hydra/{part}"
    ours = {file: store.load(f"{group}/{file}").provider == "runner" for file in store.list(group)}
    return [file.removesuffix(".yaml") for file, mine in ours.items() if mine is provided]


def explain_plugin_key(said: str, part: str, key: str, option: str) -> str | None:
    """What to say of a key that the chosen launcher or sweeper does not have; None where it has it, and for an option
    that is not ours."""
    known = {name: _keys(part, name) for name in plugin_options(part, provided=True)}
    if option not in known or key in known[option]:
        return None
    mine = known.pop(option)
    told = f"{said}: hydra/{part}={option} has no key '{key}'"
    if not (near := did_you_mean(key, mine)):
        for other, theirs in known.items():
            if found := [key] if key in theirs else difflib.get_close_matches(key, theirs, n=1):
                return f"{told}; hydra/{part}={other} has '{found[0]}'"
    return f"{told}; it has {', '.join(mine) or 'none of its own'}{near}"


def full_keys(key: str) -> list[str]:
    """Where a launcher, a sweeper or a key of theirs is typed that somebody types at the top."""
    if key in PARTS:
        return [f"hydra/{key}"]
    ours = [(part, name) for part in PARTS for name in plugin_options(part, provided=True)]
    return list(dict.fromkeys(f"hydra.{part}.{key}" for part, name in ours if key in _keys(part, name)))


def _keys(part: str, option: str) -> list[str]:
    node = OmegaConf.create(ConfigStore.instance().load(f"hydra/{part}/{option}.yaml").node)
    return [str(key) for key in node if key not in INNER]
