"""Hydra's sweepers and launchers: those of the runner, and their keys. Imports no torch."""

import difflib

from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from omegaconf import OmegaConf

from runner.core.errors import did_you_mean

PARTS = ("launcher", "sweeper")
INNER = frozenset({"_target_", "params", "grids", "multirun"})  # keys that are never typed


def plugin_options(part: str, provided: bool) -> list[str]:
    """Return the installed options of `hydra/launcher` or `hydra/sweeper`.

    provided: True for the runner's own; False for those of other packages, which run single jobs and take no plans.
    """
    Plugins.instance()  # imports them all
    store, group = ConfigStore.instance(), f"hydra/{part}"
    is_own = {file: store.load(f"{group}/{file}").provider == "runner" for file in store.list(group)}
    return [file.removesuffix(".yaml") for file, own in is_own.items() if own is provided]


def explain_plugin_key(word: str, part: str, key: str, option: str) -> str | None:
    """Return one line for a key that the chosen launcher or sweeper does not have.

    word: the override as typed. None where the key exists, and for an option that is not the runner's.
    """
    known = {name: _keys(part, name) for name in plugin_options(part, provided=True)}
    if option not in known or key in known[option]:
        return None
    own_keys = known.pop(option)
    message = f"{word}: hydra/{part}={option} has no key '{key}'"
    if not (near := did_you_mean(key, own_keys)):
        for name, keys in known.items():
            if similar := [key] if key in keys else difflib.get_close_matches(key, keys, n=1):
                return f"{message}; hydra/{part}={name} has '{similar[0]}'"
    return f"{message}; it has {', '.join(own_keys) or 'none of its own'}{near}"


def full_keys(key: str) -> list[str]:
    """Return the full names (`hydra.launcher.KEY`) of a launcher, a sweeper or one of their keys."""
    if key in PARTS:
        return [f"hydra/{key}"]
    options = [(part, name) for part in PARTS for name in plugin_options(part, provided=True)]
    return list(dict.fromkeys(f"hydra.{part}.{key}" for part, name in options if key in _keys(part, name)))


def _keys(part: str, option: str) -> list[str]:
    node = OmegaConf.create(ConfigStore.instance().load(f"hydra/{part}/{option}.yaml").node)
    return [str(key) for key in node if key not in INNER]
