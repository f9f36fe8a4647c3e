"""Folders of a command's runs: `hydra.sweep.dir` for all, `hydra.sweep.subdir` below it for each run.

A single run is in `hydra.run.dir`.
"""

import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf, open_dict, read_write

from runner.core.errors import ConfigError
from runner.sweep.compose.compose import Composed, active_config

REFERENCE = re.compile(r"(?<!\\)\$\{(?:oc\.select:)?((?:hydra:)?[A-Za-z_][\w.\[\]-]*)\}")  # to a key
NESTED = 8  # levels of references to other references
LONGEST = 255  # bytes of a folder's name, on all usual file systems
OWN = {"mean", "plan.json", "study.db", "results.csv", "results.parquet", "report.html"}  # names in a sweep's folder


class FolderLayout:
    """Folders of the runs of one command. Resolvers in `hydra.sweep.dir` are called once."""

    def __init__(self, lone: bool):
        self.lone = lone
        self._sweeps: dict[str, str] = {}  # text without references -> the folder

    def locate(self, composed: Composed, name: str, number: int, fingerprint: str) -> tuple[Path, Path]:
        """Return the folders of the sweep and of the run of that name. Raises `ConfigError`."""
        text = _fill_references(composed, name, number, "sweep.dir")
        if text not in self._sweeps:
            self._sweeps[text] = _call_resolvers(composed, name, number, "sweep.dir", text)
        sweep = _folder("hydra.sweep.dir", self._sweeps[text])
        if not self.lone:
            return sweep, run_folder(composed, name, number, sweep)
        text = _fill_references(composed, name, number, "run.dir")
        run = _folder("hydra.run.dir", _call_resolvers(composed, name, number, "run.dir", text))
        if not run.name.endswith(fingerprint):  # a folder for this run only
            return run, run
        return sweep if sweep in run.parents else run.parent, run


def run_folder(composed: Composed, name: str, number: int, sweep: Path) -> Path:
    """Return the folder of a sweep's run. Raises `ConfigError`."""
    text = _fill_references(composed, name, number, "sweep.subdir")
    text = _call_resolvers(composed, name, number, "sweep.subdir", text)
    typed, path = f"hydra.sweep.subdir={composed.base.raw['sweep']['subdir']}", Path(os.path.normpath(text or "."))
    if path.is_absolute() or not path.parts or ".." in path.parts:
        raise ConfigError(f"{typed}: must name a folder below hydra.sweep.dir, one for each run")
    if hidden := next((part for part in path.parts if part.startswith(".")), None):
        raise ConfigError(f"{typed}: '{hidden}' would be hidden; begin it with another sign than a dot")
    if path.parts[0] in OWN:
        raise ConfigError(f"{typed}: '{path.parts[0]}' in a sweep's folder is its own; choose another name")
    _check_length(typed, path)
    return sweep / path


def check_one_folder(sweeps: Iterable[Path]) -> None:
    """Raise `ConfigError` if the runs of one command would be in several sweep folders."""
    different = list(dict.fromkeys(map(str, sweeps)))
    if len(different) > 1:
        raise ConfigError(
            f"hydra.sweep.dir differs between runs ({different[0]}, {different[1]}): a sweep is one folder; put what "
            "differs into hydra.sweep.subdir (or type one name= for all)"
        )


def check_disjoint(sweep: Path, planned: Iterable[Path], existing: Iterable[Path]) -> None:
    """Raise `ConfigError` if a planned run's folder would be inside another run's, contain one, or be a file."""
    planned = set(planned)
    for path in {path for folder in planned for path in (folder, *folder.parents) if sweep in path.parents}:
        if path.exists() and not path.is_dir():
            raise ConfigError(f"{path} is no folder, and a run would lie there; change hydra.sweep.subdir")
    for folder in (folders := planned | set(existing)):
        outer = next((parent for parent in folder.parents if parent in folders), None)
        if outer is not None and planned & {folder, outer}:
            raise ConfigError(f"{folder} would lie in another run's folder, {outer}; change hydra.sweep.subdir")


def _fill_references(composed: Composed, name: str, number: int, key: str) -> str:
    """Return the text of one of Hydra's keys, with a run's values in place of references to keys.

    Calls of resolvers remain. Values are formatted as OmegaConf does in a text.
    """
    raw, run_values = composed.base.raw, composed.hydra(name, number).own

    def value(match: re.Match) -> str:
        path = match[1].replace("hydra:", "hydra.").replace("[", ".").replace("]", "").split(".")
        is_hydra = path[0] == "hydra"
        content = run_values.get(".".join(path[1:])) if is_hydra else None
        content = _get_path(raw if is_hydra else composed.config, path[is_hydra:]) if content is None else content
        return match[0] if isinstance(content, dict) or content == "???" else str(content)

    content = _get_path(raw, key.split("."))
    text = "" if content in (None, "???") else str(content)
    for _ in range(NESTED):
        text, previous = REFERENCE.sub(value, text), text
        if text == previous:
            break
    return text


def _get_path(node: Any, path: list[str]) -> Any:
    """Return a config's value at a path; `???` where there is none."""
    for part in path:
        if isinstance(node, list) and part.isdecimal() and int(part) < len(node):
            node = node[int(part)]
        elif isinstance(node, dict) and part in node:
            node = node[part]
        else:
            return "???"
    return node


def _call_resolvers(composed: Composed, name: str, number: int, key: str, text: str) -> str:
    """Return the text of one of Hydra's keys with the results of its resolvers."""
    if "${" not in text:
        return text
    section, _, last = key.partition(".")
    merged = OmegaConf.merge(composed.hydra(name, number).node(), composed.config)
    with read_write(merged.hydra), open_dict(merged.hydra):
        merged.hydra[section][last] = text
    with active_config(merged):
        value = merged.hydra[section][last]
    return "" if value is None else str(value)


def _folder(key: str, text: str) -> Path:
    """Return the folder that a key names."""
    if not text:
        raise ConfigError(f"{key}: must name a folder")
    try:
        path = Path(os.path.normpath(Path(text).expanduser()))
    except RuntimeError as error:  # `~USER` of an unknown user
        raise ConfigError(f"{key}={text}: {error}") from error
    _check_length(key, path)
    return path


def _check_length(key: str, path: Path) -> None:
    if long := next((part for part in path.parts if len(os.fsencode(part)) > LONGEST), None):
        raise ConfigError(f"{key}: '{long[:20]}...' is longer than {LONGEST} bytes, and no folder's name may be")
