"""Configs of many combinations from few compositions.

Hydra composes what chooses files; plain values (`optimizer.lr=0.1`, `seed=3`) are put into a copy of the result, which
takes a hundredth of the time. Whatever is not plainly a value of a key that is there goes through Hydra itself, so
that its errors are Hydra's.
"""

import functools
import pickle
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict, read_write
from omegaconf.errors import OmegaConfBaseException

from runner.errors import ConfigError
from runner.explain import explain
from runner.sweep.ahead import Ahead
from runner.sweep.owned import run_files

PLAIN_FOLDERS = ("${name}", "${hydra.job.id}")  # what a folder's name may ask for and be known without Hydra


@dataclass(frozen=True)
class Part:
    """Hydra's own part of a run's config, light enough to be handed to another process with every run."""

    content: bytes  # the node, pickled; the same for all runs that were composed alike
    own: dict[str, Any]  # dotted key, below `hydra` -> what it is in this run

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

    @functools.cached_property
    def pickled(self) -> bytes:
        """As it is handed over with a run."""
        return pickle.dumps(self.node)

    @functools.cached_property
    def folders(self) -> tuple[str, str]:
        """Where a run of a sweep lies, and a lone run, as the config has it."""
        sweep, run = (
            OmegaConf.to_container(part, resolve=False) for part in (self.node.hydra.sweep, self.node.hydra.run)
        )
        return f"{sweep['dir']}/{sweep['subdir']}", run["dir"]

    @functools.cached_property
    def outputs(self) -> tuple[str, str | None]:
        """The name of a run's log, and that of the folder of Hydra's own files, as the config has them."""
        hydra = self.node.hydra
        job, output = (OmegaConf.to_container(hydra, resolve=False)[key] for key in ("job", "output_subdir"))
        return job["name"], output


@dataclass(frozen=True)
class Composed:
    """The config of a combination, resolved, and what is needed to make Hydra's part of it."""

    config: dict[str, Any]
    words: list[str]
    base: Base  # Hydra's part, of the composition without the plain values
    choices: dict[str, str]  # group -> option, of groups that are no stacks

    def hydra(self, name: str) -> Part:
        """Hydra's part of the config of the run that is called so."""
        own = {
            "job.id": name,
            "job.override_dirname": ",".join(sorted(self.words)),
            "overrides.task": list(self.words),
        }
        return Part(self.base.pickled, own)

    def files(self, name: str) -> tuple[str, ...]:
        """Names of all that the run that is called so may write in its folder."""
        log, output = self.base.outputs
        if "${" in f"{log}{output}":
            whole = OmegaConf.merge(self.hydra(name).node(), self.config)
            HydraConfig.instance().set_config(whole)
            log, output = whole.hydra.job.name, whole.hydra.output_subdir
        return run_files(log, output)

    def folder(self, name: str, lone: bool) -> Path:
        """Where the run that is called so lies."""
        text = self.base.folders[lone]
        rest = text
        for part, value in zip(PLAIN_FOLDERS, (str(self.config["name"]), name)):
            text, rest = text.replace(part, value), rest.replace(part, "")
        if "${" not in rest:
            return Path(text)
        whole = OmegaConf.merge(self.hydra(name).node(), self.config)
        HydraConfig.instance().set_config(whole)
        if lone:
            return Path(whole.hydra.run.dir)
        return Path(whole.hydra.sweep.dir) / whole.hydra.sweep.subdir


class Composer:
    """Composes combinations; remembers the compositions that they share."""

    def __init__(self, master: DictConfig, loader: ConfigLoader):
        self.master, self.loader = master, loader
        self._ahead: Ahead | None = None
        self._parser = OverridesParser.create(config_loader=loader)
        self._values: dict[str, tuple[str, Any] | None] = {}
        self._bases: dict[tuple[str, ...], tuple[Composed, bytes]] = {}
        self._is_group = functools.cache(lambda key: bool(loader.get_group_options(key)))  # which looks into folders

    def begin(self, expected: Callable[[], Iterable[list[str]]]) -> None:
        """Has a second process compose these combinations, while torch is loaded here."""
        self._ahead = Ahead(lambda: dict.fromkeys(map(self._question, expected())), self._asked)

    def end(self) -> None:
        """All that is composed from now on is composed here."""
        if self._ahead is not None:
            self._ahead.end()

    def compose(self, words: list[str]) -> Composed:
        """The config of `words` on top of the defaults. Raises `ConfigError`."""
        chosen, whole = self._question(words)
        if whole:
            return self._full(words)
        if chosen not in self._bases:
            try:
                base = self._full(list(chosen), whole=False)
            except ConfigError:  # perhaps a value that is missing, or an interpolation of one
                return self._full(words)
            self._bases[chosen] = base, pickle.dumps(base.config)
        base, content = self._bases[chosen]
        config = pickle.loads(content)  # noqa: S301 - a copy, in a tenth of the time of copy.deepcopy
        if not all(put(config, *pair) for pair in filter(None, map(self._value, words))) or _unplain(config):
            return self._full(words)
        return Composed(config, words, base.base, base.choices)

    def _question(self, words: list[str]) -> tuple[tuple[str, ...], bool]:
        """What Hydra is to compose for a combination, and whether that is the whole of it."""
        chosen = tuple(word for word in words if self._value(word) is None)
        return chosen, len(chosen) == len(words)

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

    def _full(self, words: list[str], whole: bool = True) -> Composed:
        """By Hydra. With `whole` nothing may be missing, and what is interpolated is resolved."""
        question = tuple(words), whole
        found = None if self._ahead is None else self._ahead.take(question)
        composed, config = found or self._asked(question)
        HydraConfig.instance().set_config(config)
        return composed

    def _asked(self, question: tuple[tuple[str, ...], bool]) -> tuple[Composed, DictConfig]:
        """A composition, and the config as it is for Hydra."""
        words, whole = list(question[0]), question[1]
        try:
            config = self.loader.load_sweep_config(self.master, words)
            HydraConfig.instance().set_config(config)  # for what a user's config asks of ${hydra:...}
            job = OmegaConf.masked_copy(config, [key for key in config if key != "hydra"])
            missing = sorted(str(key) for key in OmegaConf.missing_keys(job))
            if whole and missing:
                raise ConfigError("; ".join(f"{key} is missing: {key}=VALUE" for key in missing))
            resolved = OmegaConf.to_container(job, resolve=whole)
        except (HydraException, OmegaConfBaseException) as error:
            raise ConfigError(explain(error, words)) from error
        taken = dict(config.hydra.runtime.choices)
        choices = {
            group: name
            for group, name in taken.items()
            if "/" not in group and isinstance(name, str) and name != "null"
        }
        return Composed(resolved, words, Base(OmegaConf.masked_copy(config, ["hydra"])), choices), config


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
