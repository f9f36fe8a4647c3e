"""Plans of a sweep's commands, read from `plan.json`."""

import json
import logging
from pathlib import Path
from typing import Any

from runner.core.errors import ConfigError
from runner.store.files import PLAN
from runner.store.ledger import records

log = logging.getLogger(__name__)

ELSEWHERE = ": choose another folder (name=, or hydra.sweep.dir=)"


def read(folder: Path) -> list[dict[str, Any]]:
    """Return the plans of a sweep's folder, oldest first. Raises `ConfigError` for the file of another program."""
    path = folder / PLAN
    try:
        content = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return []
    except (OSError, ValueError) as error:
        if not any(records(folder)):  # without runs of ours the file is hardly ours
            raise ConfigError(f"{path}: no plan of the runner{ELSEWHERE}") from error
        log.warning("%s is damaged (%s): it is written anew", path, error)
        return []
    plans = content.get("plans") if isinstance(content, dict) else None
    if not isinstance(plans, list) or not all(map(_is_plan, plans)):
        raise ConfigError(f"{path}: no plan of the runner{ELSEWHERE}")
    return plans


def _is_plan(plan: Any) -> bool:
    """Return whether a value is a valid plan of a command."""
    if not isinstance(plan, dict) or not {"command", "config", "runs"} <= set(plan):
        return False
    keys = {"run", "fingerprint", "threads"}
    return isinstance(plan["runs"], list) and all(isinstance(run, dict) and keys <= set(run) for run in plan["runs"])


def runs(folder: Path) -> list[dict[str, Any]]:
    """Return the runs in a folder's plans, those of the first plan last."""
    return [run for plan in reversed(read(folder)) for run in plan["runs"]]


def flat(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return a nested config as a flat mapping: dotted key -> value."""
    values: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, dict) and value:
            values |= flat(value, f"{prefix}{key}.")
        else:
            values[prefix + key] = value
    return values
