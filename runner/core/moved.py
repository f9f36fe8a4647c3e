"""Import hook for modules that moved: their old names work for one more version, with a warning."""

import sys
import warnings
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_loader
from types import ModuleType
from typing import Any

CORE = ("console", "devices", "errors", "listener", "memory", "option", "schema", "seeds", "timing")
MOVED = {
    f"runner.{old}": f"{package}.{name}"
    for package, names in {
        "runner.build": {"check": "check", "load": "load"},
        "runner.core": {name: name for name in CORE},
        "runner.data": {"inputs": "normalize"},
        "runner.evaluation": {"evaluate": "evaluate", "softmax": "softmax"},
        "runner.execution": {"distributed": "distributed"},
        "runner.model": {"noise": "noise", "regularization.drop_path": "drop_path", "model.modes": "train_mode"},
        "runner.optimizer": {"optimizer.flat": "flat_params", "optimizer.groups": "param_groups"},
        "runner.regularization": {"regularization.places": "layers"},
        "runner.store": {"checkpoint": "checkpoint", "files": "files"},
        "runner.task": {"run": "train", "session": "session"},
        "runner.tracking": {"tracking.records": "record_file"},
        "runner.train": {"batch": "batch", "meter": "metrics", "progress": "progress", "running": "state"},
    }.items()
    for old, name in names.items()
}


class OldName(ModuleType):
    """A module under its old name: it has the attributes of the new one.

    It can be called, because `import runner.load` puts it in place of the function `runner.load(...)`.
    """

    def __getattr__(self, name: str) -> Any:
        return getattr(import_module(MOVED[self.__name__]), name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return getattr(self, self.__name__.rpartition(".")[2])(*args, **kwargs)


class OldNames(MetaPathFinder, Loader):
    """Finder and loader of the modules in `MOVED`. It comes last, so it never sees a name that exists."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        return spec_from_loader(fullname, self) if fullname in MOVED else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return OldName(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        name = module.__name__
        message = f"{name} is now {MOVED[name]}; the old name works for one more version"
        warnings.warn(message, FutureWarning, stacklevel=2)


def answer_old_names() -> None:
    """Install the import hook for old names."""
    sys.meta_path.append(OldNames())
