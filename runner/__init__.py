"""A configuration-driven experiment runner for image classifiers.

`PUBLIC` is the Python interface: `from runner import load`. Each name is imported at first use, so that `import runner`
alone loads no torch.
"""

from importlib import import_module
from typing import Any

from runner.core.moved import answer_old_names

__version__ = "0.1.0"

PUBLIC = {
    "ConfigError": "runner.core.errors",
    "Evaluation": "runner.evaluation.base",
    "Fitted": "runner.model.fitted",
    "Item": "runner.regularization.base",
    "Schedule": "runner.schedule.base",
    "Source": "runner.data.splits",
    "Stage": "runner.model.stages",
    "Tracker": "runner.tracking.events",
    "Transform": "runner.augmentation.base",
    "load": "runner.build.load",
    "prepare": "runner.data.prepare",
    "stages": "runner.model.stages",
    "write_report": "runner.report",
    "write_results": "runner.report",
}

answer_old_names()


def __getattr__(name: str) -> Any:
    if name not in PUBLIC:
        raise AttributeError(f"module 'runner' has no attribute '{name}'")
    return getattr(import_module(PUBLIC[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *PUBLIC})
