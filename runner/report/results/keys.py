"""Swept keys: the columns that distinguish runs, and each run's values in them, in the syntax of overrides."""

from collections.abc import Iterable
from typing import Any

import yaml

from runner.core.schema import PRECISIONS
from runner.report.results.collect import RunRecord
from runner.report.results.provenance import CODE, Programs
from runner.store.plans import flat
from runner.store.revisions import covers

# Overridden keys that do not change the experiment: where its files are, and which machine it runs on.
WITHOUT_EFFECT = ("name", "device", "threads", "rerun", "hydra", "sweep", "dry_run")


class SweptKeys:
    """SweptKeys: the columns that distinguish the runs of a folder, and each run's values in them.

    These are the union of the keys that the runs swept. A folder may hold the runs of several commands: a key that
    each of them fixed (`epochs=5`, then `epochs=10`) counts as swept too, because a mean would mix both values.
    """

    def __init__(self, records: Iterable[RunRecord]) -> None:
        self._records = [record for record in records if not record.is_damaged]
        self._configs: dict[int, Any] = {}
        swept = list(dict.fromkeys(key for record in self._records for key in record.swept))
        self.names = swept + [key for key in self._typed() if key not in swept and self._differs(key)]
        self.names += self._of_networks()
        self.programs = Programs(self._config, self._records)
        if self._mixed():
            self.names.append(CODE)

    def value(self, record: RunRecord, key: str) -> str:
        """Return a run's value of `key` in the syntax of overrides; empty if it has none.

        For a run that evaluates trained networks, and ignores `key`, this is the value they were trained with.
        """
        if record.is_damaged:
            return ""
        if key == CODE:
            return self.programs.label(record)
        if key == "precision" and record.facts.get("precision") in _PRECISIONS:
            return _PRECISIONS[record.facts["precision"]]  # resolved from `auto`
        if key in record.swept:
            return plain(record.swept[key])
        if key in record.choices:
            return plain(record.choices[key])
        if covers(record.ignores, key):
            return _trained_with(record, key)
        node = _leaf(self._config(record), key)
        if node is _NOTHING:
            return typed_overrides(record).get(key, "")
        return "" if isinstance(node, dict) else plain(node)

    def _of_networks(self) -> list[str]:
        """Return keys that only the evaluated networks differ in, for runs with the same settings."""
        evaluating = [record for record in self._records if record.facts.get("origins")]
        settings = [tuple(self.value(record, name) for name in self.names) for record in evaluating]
        if len(set(settings)) == len(settings):
            return []
        keys = dict.fromkeys(key for record in evaluating for key in _trained_keys(record))
        return [
            key
            for key in keys
            if key not in self.names and len({_trained_with(record, key) for record in evaluating}) > 1
        ]

    def _mixed(self) -> bool:
        """Return whether runs that differ at most in the seed had different programs."""
        programs = [self.programs.key(record) for record in self._records]
        if len(set(programs)) < 2:
            return False
        names = [name for name in self.names if name != "seed"]
        settings = [tuple(self.value(record, name) for name in names) for record in self._records]
        return len(set(zip(settings, programs))) > len(set(settings))

    def _typed(self) -> list[str]:
        """Return the keys that some run overrides, but not all with the same value."""
        typed = [typed_overrides(record) for record in self._records]
        keys = dict.fromkeys(key for overrides in typed for key in overrides)
        return [
            key
            for key in keys
            if key.split(".")[0] not in WITHOUT_EFFECT and len({overrides.get(key) for overrides in typed}) > 1
        ]

    def _differs(self, key: str) -> bool:
        return len({self.value(record, key) for record in self._records}) > 1

    def _config(self, record: RunRecord) -> Any:
        if id(record) not in self._configs:
            try:
                text = (record.folder / "config.yaml").read_bytes()
                self._configs[id(record)] = yaml.load(text, Loader=yaml.CSafeLoader)
            except (OSError, yaml.YAMLError):  # the report then shows an empty cell
                self._configs[id(record)] = None
        return self._configs[id(record)]


_NOTHING = object()
_PRECISIONS = {dtype: name for name, dtype in PRECISIONS.items()}


def _leaf(node: Any, key: str) -> Any:
    """Return the value of a dotted key; `_NOTHING` if it is missing."""
    for part in key.split("."):
        if not isinstance(node, dict) or part not in node:
            return _NOTHING
        node = node[part]
    return node


def _trained_with(record: RunRecord, key: str) -> str:
    """Return the value of `key` that the networks which the run evaluates were trained with; a list if they differ."""
    origins = record.facts.get("origins") or []
    leaves = [_leaf(origin.get("config"), key) for origin in origins if isinstance(origin, dict)]
    values = list(dict.fromkeys(plain(leaf) for leaf in leaves if leaf is not _NOTHING and not isinstance(leaf, dict)))
    return values[0] if len(values) == 1 else f"[{','.join(values)}]" if values else ""


def _trained_keys(record: RunRecord) -> Iterable[str]:
    """Yield the dotted keys of the configs that a run's evaluated networks were trained with."""
    for origin in record.facts.get("origins") or []:
        config = origin.get("config") if isinstance(origin, dict) else None
        for key in flat(config) if isinstance(config, dict) else ():
            if key.partition(".")[0] not in WITHOUT_EFFECT:
                yield key


def label(record: RunRecord, group: list[RunRecord]) -> str:
    """Return a run's label within `group`: its values of the keys that differ (`adam`, `sgd, lr=0.1`)."""
    keys = SweptKeys(group)
    names = [key for key in keys.names if len({keys.value(member, key) for member in group}) > 1] or ["optimizer"]
    own = [key for key in names if key in record.swept] or names  # not those that only other commands swept
    values = {key: keys.value(record, key) for key in own}
    return ", ".join(v if k == "optimizer" else f"{k.rpartition('.')[2]}={v}" for k, v in values.items() if v != "")


def typed_overrides(record: RunRecord) -> dict[str, str]:
    """Return key -> value of a run's overrides."""
    pairs = (override.lstrip("+").partition("=") for override in record.overrides)
    return {key: value for key, equals, value in pairs if equals}


def plain(value: Any) -> str:
    """Format a value in the syntax of overrides: `[dropout,l2]`, `true`, `null`, `0.001`."""
    if isinstance(value, list | tuple):
        return f"[{','.join(plain(item) for item in value)}]"
    if isinstance(value, dict):
        return "{" + ",".join(f"{key}:{plain(item)}" for key, item in value.items()) + "}"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(value)
