"""Composer: the configs of many combinations from few Hydra compositions.

Hydra composes the overrides that choose files. Plain values (`optimizer.lr=0.1`, `seed=3`) are set in a copy of the
result, in a hundredth of the time. Any other override goes through Hydra, so that errors are Hydra's.
"""

import contextlib
import functools
import pickle
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict, read_write
from omegaconf.errors import OmegaConfBaseException

from runner.core.errors import ConfigError
from runner.sweep.compose.explain import explain

REFERENCE = re.compile(r"\$\{([A-Za-z_]\w*)")  # the first word of an interpolation
KEY = re.compile(r"[+~]*([^@=]*)")  # of an override, without its sign and package
JOB = re.compile(r"\$\{hydra:job\.(id|num)\}")  # a run's config may refer to its own job
IN_PLACE = ("sweep", "run", "overrides")  # sections of Hydra's config that are resolved for each run, or stay as typed


@dataclass(frozen=True)
class Part:
    """The `hydra` node of a run's config, small enough to send to another process with each run."""

    content: bytes  # the node, pickled; shared by all runs of one composition
    own: dict[str, Any]  # dotted key below `hydra` -> its value in this run
    refers: bool = False  # True where it interpolates keys of the run's own config

    def node(self) -> DictConfig:
        """Return the node `{hydra: ...}`."""
        node = pickle.loads(self.content)  # noqa: S301 - pickled by this program
        with read_write(node.hydra), open_dict(node.hydra):
            for key, value in self.own.items():
                section, _, name = key.partition(".")
                node.hydra[section][name] = value
        return node


@dataclass(frozen=True)
class Base:
    """The `hydra` node of a composition, shared by many combinations."""

    node: DictConfig
    dirname: dict[str, Any]  # `hydra.job.config.override_dirname`

    @functools.cached_property
    def pickled(self) -> bytes:
        """The node in the form that is sent with a run."""
        return pickle.dumps(self.node)

    @functools.cached_property
    def raw(self) -> dict[str, Any]:
        """The node as plain values, with interpolations as text."""
        return OmegaConf.to_container(self.node.hydra, resolve=False, enum_to_str=True)

    @functools.cached_property
    def references(self) -> frozenset[str]:
        """The first words of all interpolations: keys, resolvers, `hydra`."""
        sections = {key: section for key, section in self.raw.items() if key not in IN_PLACE}
        return frozenset(REFERENCE.findall(str(sections)))

    @functools.cached_property
    def outputs(self) -> tuple[str, str | None]:
        """The names of a run's log and of the folder of Hydra's files, with interpolations as text."""
        return self.raw["job"]["name"], self.raw["output_subdir"]


@dataclass(frozen=True)
class Composed:
    """The resolved config of a combination, and the `hydra` node that belongs to it."""

    config: dict[str, Any]
    words: list[str]  # overrides
    base: Base  # of the composition without the plain values
    choices: dict[str, str]  # group -> option, of groups that are no stacks

    def hydra(self, name: str, number: int) -> Part:
        """Return the `hydra` node for a run of that name; `number`: its index in the sweep."""
        values = {
            "job.id": name,
            "job.num": number,
            "job.override_dirname": override_dirname(self.words, **self.base.dirname),
            "overrides.task": list(self.words),
        }
        return Part(self.base.pickled, values, not self.base.references.isdisjoint(self.config))

    def outputs(self, name: str, number: int) -> tuple[str, str | None]:
        """Return the names of the run's log and of the folder of Hydra's files."""
        log, output = self.base.outputs
        if "${" in f"{log}{output}":
            merged = OmegaConf.merge(self.hydra(name, number).node(), self.config)
            with active_config(merged):
                return merged.hydra.job.name, merged.hydra.output_subdir
        return log, output


def override_dirname(words: list[str], exclude_keys: list[str], item_sep: str, kv_sep: str) -> str:
    """Return overrides as the name of a folder, in Hydra's format."""
    included = sorted(word for word in words if KEY.match(word)[1] not in exclude_keys)
    return item_sep.join(included).replace("=", kv_sep)


def freeze_clock() -> None:
    """Make `${now:...}` the start time of the command in all of its compositions."""
    start = datetime.now()
    OmegaConf.register_new_resolver("now", lambda pattern: start.strftime(pattern), replace=True)


@contextlib.contextmanager
def active_config(config: DictConfig) -> Iterator[None]:
    """Let `HydraConfig.get()` and `${hydra:...}` see this config inside the context."""
    instance = HydraConfig.instance()
    previous, instance.cfg = instance.cfg, config
    try:
        yield
    finally:
        instance.cfg = previous


class Composer:
    """Composer of combinations that caches the compositions they share."""

    def __init__(self, master: DictConfig, loader: ConfigLoader):
        self.master, self.loader = master, loader
        freeze_clock()
        self._parser = OverridesParser.create(config_loader=loader)
        self._values: dict[str, tuple[str, Any] | None] = {}
        self._bases: dict[tuple[str, ...], tuple[Composed, bytes]] = {}
        self._is_group = functools.cache(lambda key: bool(loader.get_group_options(key)))  # it reads folders

    def compose(self, words: list[str], number: int | None = None) -> Composed:
        """Return the config of the overrides `words`; `number`: of its run. Raises `ConfigError`."""
        choosing = tuple(word for word in words if self._plain_value(word) is None)
        if len(choosing) == len(words):
            return self._compose(words, number)
        if choosing not in self._bases:
            try:
                base = self._compose(list(choosing), number, complete=False)
            except ConfigError:  # perhaps a missing value, or an interpolation of one
                return self._compose(words, number)
            self._bases[choosing] = base, pickle.dumps(base.config)
        base, content = self._bases[choosing]
        config = pickle.loads(content)  # noqa: S301 - a copy, in a tenth of the time of copy.deepcopy
        if not all(set_value(config, *pair) for pair in filter(None, map(self._plain_value, words))):
            return self._compose(words, number)
        if _has_unresolved(config):
            return self._compose(words, number)
        return Composed(config, words, base.base, base.choices)

    def _plain_value(self, word: str) -> tuple[str, Any] | None:
        """Return (key, value) of an override that sets a plain value; None for one that chooses files."""
        if word not in self._values:
            self._values[word] = self._read(self._parser.parse_override(word))
        return self._values[word]

    def _read(self, override: Override) -> tuple[str, Any] | None:
        if override.is_add() or override.is_delete() or override.package is not None or override.is_sweep_override():
            return None
        key, value = override.key_or_group, override.value()
        if isinstance(value, dict) or key.split(".")[0] == "hydra" or self._is_group(key):
            return None
        return key, value

    def _compose(self, words: list[str], number: int | None, complete: bool = True) -> Composed:
        """Compose with Hydra. `complete`: missing values raise `ConfigError`, and interpolations are resolved."""
        try:
            config = self.loader.load_sweep_config(self.master, words)
            HydraConfig.instance().set_config(config)  # for ${hydra:...} in a user's config
            job = OmegaConf.masked_copy(config, [key for key in config if key != "hydra"])
            missing = sorted(str(key) for key in OmegaConf.missing_keys(job))
            if complete and missing:
                raise ConfigError("; ".join(f"{key} is missing: {key}=VALUE" for key in missing))
            if complete and (keys := JOB.findall(str(OmegaConf.to_container(job, resolve=False)))):
                _set_job_number(config, keys, number)
                HydraConfig.instance().set_config(config)
            resolved = OmegaConf.to_container(job, resolve=complete)
            dirname = OmegaConf.to_container(config.hydra.job.config.override_dirname, resolve=True)
        except (HydraException, OmegaConfBaseException) as error:
            raise ConfigError(explain(error, words)) from error
        choices = {
            group: name
            for group, name in dict(config.hydra.runtime.choices).items()
            if "/" not in group and isinstance(name, str) and name != "null"
        }
        return Composed(resolved, words, Base(OmegaConf.masked_copy(config, ["hydra"]), dirname), choices)


def _set_job_number(config: DictConfig, keys: list[str], number: int | None) -> None:
    """Set `hydra.job.num` for a config that interpolates it. Raises `ConfigError` for keys that are not known yet."""
    if "id" in keys:
        raise ConfigError("${hydra:job.id}: is made of the run's config, so no key of that can refer to it")
    if number is None:
        raise ConfigError("${hydra:job.num}: is not known here; name another key")
    with read_write(config.hydra):
        config.hydra.job.num = number


def set_value(config: dict[str, Any], key: str, value: Any) -> bool:
    """Set a dotted key; return False where the key does not exist or holds other keys."""
    *path, last = key.split(".")
    node: Any = config
    for part in path:
        if not isinstance(node, dict) or part not in node:
            return False
        node = node[part]
    if not isinstance(node, dict) or last not in node or isinstance(node[last], dict):
        return False
    node[last] = value
    return True


def _has_unresolved(node: Any) -> bool:
    """Return True where a value is missing or an interpolation."""
    if isinstance(node, dict):
        return any(map(_has_unresolved, node.values()))
    if isinstance(node, list):
        return any(map(_has_unresolved, node))
    return isinstance(node, str) and (node == "???" or "${" in node)
