"""Digests of the user's own code: of a `_target_`'s module and of all own modules that it imports.

Importing this module imports no torch.
"""

import functools
import hashlib
import importlib
import importlib.metadata
import importlib.util
import json
import pkgutil
import sys
from collections.abc import Iterable, Iterator, Mapping
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

from runner.store.imports import (
    INSTALLED,
    OURS,
    SOURCE,
    Module,
    closure,
    file_digest,
    find,
    is_installed,
    is_own,
    prefixes,
)
from runner.store.shipped import is_added

LENGTH = 16  # hexadecimal digits of a digest

Code = dict[str, dict[str, str]]  # group -> `_target_` -> digest

_modules: dict[str, Module] = {}  # read by this process, as they were when it imported them


def code(config: Mapping[str, Any], ours: tuple[str, ...]) -> Code:
    """Return the digests of the user's own targets in a config, by group; empty where all are from `ours`.

    ours: packages without digests; their changes are revisions (`runner.store.revisions`).
    """
    digests: Code = {}
    for group, node in config.items():
        for target in sorted(set(targets(node))):
            if not (_within(target, ours) and _within(home(target), ours)) or is_added(home(target)):
                digests.setdefault(group, {})[target] = digest(target)
    return digests


def targets(node: Any) -> Iterator[str]:
    """Yield every `_target_` in a config, at any depth."""
    if isinstance(node, Mapping):
        if isinstance(node.get("_target_"), str):
            yield node["_target_"]
        for inner in node.values():
            yield from targets(inner)
    elif isinstance(node, list | tuple):
        for inner in node:
            yield from targets(inner)


def edited(planned: Mapping[str, Mapping[str, str]]) -> list[str]:
    """Return the targets with code that was edited since a run was planned."""
    return [target for group in planned.values() for target, old in group.items() if digest(target) != old]


@functools.cache
def home(target: str) -> str:
    """Return the name of the module that defines a target."""
    target_object = pkgutil.resolve_name(target)
    return getattr(target_object, "__module__", None) or type(target_object).__module__


@functools.cache
def digest(target: str) -> str:
    """Return the digest of a target's code, the same on every machine and in every folder.

    An installed distribution counts by name and version. One installed from a folder counts also by the hashes that its
    installer recorded, because its files may change under the same version.
    """
    names = {next((name for name in reversed(prefixes(target)) if find(name) is not None), target)}
    if _top(home(target)) not in OURS or _top(target) in OURS:
        names.add(home(target))
    contents: list[Any] = []
    sources = []
    for name in sorted(names):
        spec = find(name)
        if spec is not None and (package := _distribution(spec)) is not None:
            contents.append(package)
        elif spec is not None:
            sources.append(name)
    contents += [[name, module.digest] for name, module in sorted(closure(sources, _modules).items())]
    return hashlib.sha256(json.dumps(contents).encode()).hexdigest()[:LENGTH]


def forget_edited() -> None:
    """Remove the user's modules from this process if a file of theirs was edited.

    A later command in the same process (a notebook) then runs the code in its fingerprint.
    """
    stale = [module for module in _modules.values() if _current_digest(module) not in (None, module.digest)]
    if not stale:
        return
    for module in stale:  # Python may miss the edit: it compares size and whole seconds
        if module.origin.endswith(SOURCE):
            Path(importlib.util.cache_from_source(module.origin)).unlink(missing_ok=True)
    for name in _modules:
        sys.modules.pop(name, None)
    _modules.clear()
    home.cache_clear()
    digest.cache_clear()
    importlib.invalidate_caches()


def _current_digest(module: Module) -> str | None:
    try:
        return file_digest(Path(module.origin).read_bytes())
    except OSError:
        return None


def _distribution(spec: ModuleSpec) -> list[str] | None:
    """Return name and version of a module's installed distribution; None where it is source."""
    top = _top(spec.name)
    if is_own(spec) or top not in OURS and not is_installed(spec.origin):
        return None
    package = _package(top, Path(str(spec.origin)))
    if package is None:
        return None
    version = package.version.partition("+")[0]  # builds for CPUs and for GPUs count as one version
    if package.read_text("direct_url.json") is None:  # PEP 610: from an index, where a version's files never change
        return [package.name, version]
    lines = (line.rpartition(",")[0] for line in (package.read_text("RECORD") or "").splitlines())
    return [package.name, version, *sorted(line for line in lines if line.partition(",")[0].endswith(SOURCE))]


def _package(top: str, origin: Path) -> importlib.metadata.Distribution | None:
    """Return the distribution of a top-level module: the one of its name, else one with its files."""
    try:
        return importlib.metadata.distribution(top)
    except importlib.metadata.PackageNotFoundError:
        folder = next((str(parent) for parent in origin.parents if parent.name in INSTALLED), "")
    for package in importlib.metadata.distributions(path=[folder]):
        record = "\n" + (package.read_text("RECORD") or package.read_text("top_level.txt") or "")
        if any(f"\n{top}{end}" in record for end in ("/", ".py", "\n")):
            return package
    return None


def _within(name: str, packages: Iterable[str]) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def _top(name: str) -> str:
    return name.partition(".")[0]
