"""Configs of many combinations from few compositions.

Hydra composes what chooses files; plain values (`optimizer.lr=0.1`, `seed=3`) are put into a copy of the result, which
takes a hundredth of the time. Whatever is not plainly a value of a key that is there goes through Hydra itself, so
that its errors are Hydra's.
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
KEY = re.compile(r"[+~]*([^@=]*)")  # of a typed word, without its sign and package
JOB = re.compile(r"\$\{hydra:job\.(id|num)\}")  # what a run's config may ask of its own job
IN_PLACE = ("sweep", "run", "overrides")  # parts of Hydra's config that each run has resolved, or as typed


@dataclass(frozen=True)
class Part:
    """Hydra's own part of a run's config, light enough to be handed to another process with every run."""

    content: bytes  # the node, pickled; the same for all runs that were composed alike
    own: dict[str, Any]  # dotted key, below `hydra` -> what it is in this run
    refers: bool = False  # whether it refers to keys of the run's own config

    def node(self) -> DictConfig:
        """The node `{hydra: ...}`."""
        node = pickle.loads(self.content)  # noqa: S301 - this program's own
        with read_write(node.hydra), open_dict(node.hydra):
            for key, value in self.own.items():
                section, _, name = key.partition(".")
                node.hydra[section][name] = value
        return node


@dataclass(frozen=True)
class Base:
    """Hydra's part of a composition, which many combinations share."""

    node: DictConfig
    dirname: dict[str, Any]  # `hydra.job.config.override_dirname`

    @functools.cached_property
    def pickled(self) -> bytes:
        """As it is handed over with a run."""
        return pickle.dumps(self.node)

    @functools.cached_property
    def raw(self) -> dict[str, Any]:
        """Hydra's part as plain values, interpolations as text."""
        return OmegaConf.to_container(self.node.hydra, resolve=False, enum_to_str=True)

    @functools.cached_property
    def references(self) -> frozenset[str]:
        """The first words of all interpolations: keys, resolvers, `hydra`."""
        return frozenset(REFERENCE.findall(str({key: part for key, part in self.raw.items() if key not in IN_PLACE})))

    @functools.cached_property
    def outputs(self) -> tuple[str, str | None]:
        """The name of a run's log, and that of the folder of Hydra's own files, as the config has them."""
        return self.raw["job"]["name"], self.raw["output_subdir"]


@dataclass(frozen=True)
class Composed:
    """The config of a combination, resolved, and what is needed to make Hydra's part of it."""

    config: dict[str, Any]
    words: list[str]
    base: Base  # Hydra's part, of the composition without the plain values
    choices: dict[str, str]  # group -> option, of groups that are no stacks

    def hydra(self, name: str, number: int) -> Part:
        """Hydra's part of the config of the run that is called so; `number`: its place among the runs of its sweep."""
        own = {
            "job.id": name,
            "job.num": number,
            "job.override_dirname": override_dirname(self.words, **self.base.dirname),
            "overrides.task": list(self.words),
        }
        return Part(self.base.pickled, own, not self.base.references.isdisjoint(self.config))

    def outputs(self, name: str, number: int) -> tuple[str, str | None]:
        """Return the name of the run's log, and that of the folder of Hydra's own files."""
        log, output = self.base.outputs
        if "${" in f"{log}{output}":
            whole = OmegaConf.merge(self.hydra(name, number).node(), self.config)
            with active_config(whole):
                return whole.hydra.job.name, whole.hydra.output_subdir
        return log, output


def override_dirname(words: list[str], exclude_keys: list[str], item_sep: str, kv_sep: str) -> str:
    """Return the typed words as one name of a folder, as Hydra makes it."""
    kept = sorted(word for word in words if KEY.match(word)[1] not in exclude_keys)
    return item_sep.join(kept).replace("=", kv_sep)


def freeze_clock() -> None:
    """Make `${now:...}` the time at which a command began, in all of its compositions."""
    began = datetime.now()
    OmegaConf.register_new_resolver("now", lambda pattern: began.strftime(pattern), replace=True)


@contextlib.contextmanager
def active_config(config: DictConfig) -> Iterator[None]:
    """Inside, `HydraConfig.get()` and `${hydra:...}` see this config."""
    instance = HydraConfig.instance()
    before, instance.cfg = instance.cfg, config
    try:
        yield
    finally:
        instance.cfg = before


class Composer:
    """Composes combinations; remembers the compositions that they share."""

    def __init__(self, master: DictConfig, loader: ConfigLoader):
        self.master, self.loader = master, loader
        freeze_clock()
        self._parser = OverridesParser.create(config_loader=loader)
        self._values: dict[str, tuple[str, Any] | None] = {}
        self._bases: dict[tuple[str, ...], tuple[Composed, bytes]] = {}
        self._is_group = functools.cache(lambda key: bool(loader.get_group_options(key)))  # which looks into folders

    def compose(self, words: list[str], number: int | None = None) -> Composed:
        """The config of `words` on top of the defaults; `number`: of its run. Raises `ConfigError`."""
        chosen = tuple(word for word in words if self._value(word) is None)
        if len(chosen) == len(words):
            return self._full(words, number)
        if chosen not in self._bases:
            try:
                base = self._full(list(chosen), number, whole=False)
            except ConfigError:  # perhaps a value that is missing, or an interpolation of one
                return self._full(words, number)
            self._bases[chosen] = base, pickle.dumps(base.config)
        base, content = self._bases[chosen]
        config = pickle.loads(content)  # noqa: S301 - a copy, in a tenth of the time of copy.deepcopy
        if not all(put(config, *pair) for pair in filter(None, map(self._value, words))) or _unplain(config):
            return self._full(words, number)
        return Composed(config, words, base.base, base.choices)

    def _value(self, word: str) -> tuple[str, Any] | None:
        """`(key, value)` of a word that may be a plain value."""
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

    def _full(self, words: list[str], number: int | None, whole: bool = True) -> Composed:
        """By Hydra. With `whole` nothing may be missing, and what is interpolated is resolved."""
        try:
            config = self.loader.load_sweep_config(self.master, words)
            HydraConfig.instance().set_config(config)  # for what a user's config asks of ${hydra:...}
            job = OmegaConf.masked_copy(config, [key for key in config if key != "hydra"])
            missing = sorted(str(key) for key in OmegaConf.missing_keys(job))
            if whole and missing:
                raise ConfigError("; ".join(f"{key} is missing: {key}=VALUE" for key in missing))
            if whole and (keys := JOB.findall(str(OmegaConf.to_container(job, resolve=False)))):
                _give(config, keys, number)
                HydraConfig.instance().set_config(config)
            resolved = OmegaConf.to_container(job, resolve=whole)
            dirname = OmegaConf.to_container(config.hydra.job.config.override_dirname, resolve=True)
        except (HydraException, OmegaConfBaseException) as error:
            raise ConfigError(explain(error, words)) from error
        taken = dict(config.hydra.runtime.choices)
        choices = {
            group: name
            for group, name in taken.items()
            if "/" not in group and isinstance(name, str) and name != "null"
        }
        return Composed(resolved, words, Base(OmegaConf.masked_copy(config, ["hydra"]), dirname), choices)


def _give(config: DictConfig, keys: list[str], number: int | None) -> None:
    """Make Hydra's keys of a run that its own config asks for known. Raises `ConfigError` for what cannot be known."""
    if "id" in keys:
        raise ConfigError("${hydra:job.id}: is made of the run's config, so no key of that can refer to it")
    if number is None:
        raise ConfigError("${hydra:job.num}: is not known here; name another key")
    with read_write(config.hydra):
        config.hydra.job.num = number


def put(config: dict[str, Any], key: str, value: Any) -> bool:
    """Sets a dotted key that is there and holds no keys of its own; False where it is not so."""
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


def _unplain(node: Any) -> bool:
    """Whether something is missing or interpolated."""
    if isinstance(node, dict):
        return any(map(_unplain, node.values()))
    if isinstance(node, list):
        return any(map(_unplain, node))
    return isinstance(node, str) and (node == "???" or "${" in node)
