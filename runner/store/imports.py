"""The user's own modules and their imports, read from source.

Imports are read from the source (`ast`), not from `sys.modules`, so that the result depends neither on the order in
which modules were imported nor on the branches that this process took. No module is imported, torch least of all.
"""

import ast
import functools
import hashlib
import importlib.util
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

from runner.store.shipped import is_added

OURS = frozenset({"runner", "hydra_plugins", "torch", "torchvision"})  # identified by a version or by revisions
INSTALLED = frozenset({"site-packages", "dist-packages"})  # folders where pip and Debian install packages
SOURCE = (".py", ".pyw")
IMPORTERS = ("import_module", "__import__")
ANY = "*"  # stands for an import with a name computed at run time


@dataclass(frozen=True)
class Module:
    """One of the user's own modules, as its file was when this process read it."""

    origin: str  # the file; empty for a namespace package
    digest: str  # of the file's bytes
    imports: frozenset[str]  # dotted names; some are no modules


def closure(names: Iterable[str], known: dict[str, Module]) -> dict[str, Module]:
    """Return these modules, their packages, and all of the user's own modules that they import, by name.

    known: modules that this process has read before; the function adds those that it reads.
    """
    start, pending = frozenset(names), list(names)
    modules: dict[str, Module] = {}
    excluded: set[str] = set()
    while pending:
        for name in prefixes(pending.pop()):
            if name in modules or name in excluded:
                continue
            spec = find(name)
            if spec is None or name not in start and not is_own(spec):
                excluded.add(name)
                continue
            if name not in known:
                known[name] = _read(name, spec)
            modules[name] = known[name]
            pending += known[name].imports
    return modules


def find(name: str) -> ModuleSpec | None:
    """Return a module's spec without importing its packages; None where there is no such module."""
    path: Any = None
    spec = None
    for part in prefixes(name):
        if not part.rpartition(".")[2].isidentifier():
            return None
        finders = (finder for finder in sys.meta_path if hasattr(finder, "find_spec"))
        spec = next((spec for finder in finders if (spec := finder.find_spec(part, path)) is not None), None)
        if spec is None:
            return None
        path = spec.submodule_search_locations
        if path is None and part != name:  # no package, so it has no submodules
            return None
    return spec


def is_own(spec: ModuleSpec) -> bool:
    """Return whether a module is the user's own source: not the runner's, Python's or an installed distribution's."""
    if spec.name.partition(".")[0] in OURS:
        return is_added(spec.name)
    locations = [spec.origin] if spec.has_location else list(spec.submodule_search_locations or [])
    return not all(map(_is_library, locations))


def is_installed(path: str | None) -> bool:
    """Return whether a file lies in a folder of installed distributions."""
    return bool(INSTALLED & set(Path(str(path)).parts))


def prefixes(name: str) -> list[str]:
    """Return `a`, `a.b`, `a.b.c` of `a.b.c`."""
    parts = name.split(".")
    return [".".join(parts[: i + 1]) for i in range(len(parts))]


def file_digest(content: bytes) -> str:
    """Return the digest of a file's bytes."""
    return hashlib.sha256(content).hexdigest()


def _is_library(path: str | None) -> bool:
    parts = Path(str(path)).parts
    return is_installed(path) or any(parts[: len(folder)] == folder for folder in _standard_library())


@functools.cache
def _standard_library() -> list[tuple[str, ...]]:
    """Return the folders of Python's standard library, each as its path's parts."""
    return [Path(sysconfig.get_path(name)).parts for name in ("stdlib", "platstdlib")]


def _read(name: str, spec: ModuleSpec) -> Module:
    if not spec.has_location or spec.origin is None:  # a namespace package
        return Module("", "", frozenset())
    content = _content(spec)
    imports: frozenset[str] = frozenset()
    if spec.origin.endswith(SOURCE):
        package = name if spec.submodule_search_locations is not None else name.rpartition(".")[0]
        imports = frozenset(_imports(content, name, package))
        if ANY in imports:
            imports = imports - {ANY} | frozenset(_all_below(name.partition(".")[0]))
    return Module(spec.origin, file_digest(content), imports)


def _content(spec: ModuleSpec) -> bytes:
    """Return the bytes of a module's file (source or compiled extension), also from inside a zip file."""
    try:
        return Path(str(spec.origin)).read_bytes()
    except OSError:
        load = getattr(spec.loader, "get_data", None)
        return load(spec.origin) if load else b""


def _imports(content: bytes, name: str, package: str) -> Iterator[str]:
    """Yield the names that a source imports, also inside functions; `ANY` for a name computed at run time."""
    try:
        tree = ast.parse(content)
    except (SyntaxError, ValueError):  # cannot be imported
        return
    if _is_importer_renamed(tree):
        yield ANY
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = _absolute("." * node.level + (node.module or ""), package)
            yield from (base if alias.name == "*" else f"{base}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and _name(node.func) in IMPORTERS:
            text = node.args[0].value if node.args and isinstance(node.args[0], ast.Constant) else None
            yield _absolute(text, package) if isinstance(text, str) else ANY
        elif isinstance(node, ast.Assign) and any(getattr(target, "id", "") == "__all__" for target in node.targets):
            entries = (item.value for item in ast.walk(node.value) if isinstance(item, ast.Constant))
            yield from (f"{name}.{entry}" for entry in entries if isinstance(entry, str))  # `import *` imports them


def _name(node: ast.AST) -> str:
    return getattr(node, "attr", getattr(node, "id", ""))


def _is_importer_renamed(tree: ast.Module) -> bool:
    """Return whether a source uses an importing function other than by a direct call: its arguments are unknown."""
    called = {id(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and any(alias.name in IMPORTERS and alias.asname for alias in node.names):
            return True
        if isinstance(node, ast.Constant) and node.value in IMPORTERS:  # `getattr(importlib, "import_module")`
            return True
        if isinstance(node, ast.Name | ast.Attribute) and _name(node) in IMPORTERS and id(node) not in called:
            return True
    return False


def _absolute(name: str, package: str) -> str:
    """Return an imported name as absolute; empty where its dots lead out of the package."""
    try:
        return importlib.util.resolve_name(name, package) if name.startswith(".") else name
    except ImportError:
        return ""


def _all_below(top: str) -> Iterator[str]:
    """Yield every module of a package."""
    spec = find(top)
    for folder in (spec.submodule_search_locations or []) if spec else []:
        for path in Path(folder).rglob("*.py"):
            parts = path.relative_to(folder).with_suffix("").parts
            yield ".".join([top, *(parts[:-1] if parts[-1] == "__init__" else parts)])
