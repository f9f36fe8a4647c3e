"""Decisions between execution strategies, and their files in a sweep's folder. Imports no torch."""

import contextlib
import json
import logging
import os
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from runner.store.files import write_json

log = logging.getLogger(__name__)

LEAST = 100  # minimum of steps for a trial
LEAST_CACHED = 20  # the same for runs on cached features, because they gain more from sharing a step
NAMES = {"fuse": "fused", "compile": "compiled"}  # kind -> key of `Decision.on` in its files


def too_short(steps: int, cached: bool = False) -> str:
    """Return why a run of so many steps is too short for a trial; empty if it is not. `cached`: on cached features."""
    least = LEAST_CACHED if cached else LEAST
    return f"fewer than {least} steps: a trial would not pay" if steps < least else ""


class Decision(NamedTuple):
    """Decision for an execution strategy (on) or for plain execution (off), and the reason."""

    on: bool
    reason: str

    def __str__(self) -> str:
        return f"{'on' if self.on else 'off'} ({self.reason})"


@dataclass(frozen=True)
class Decisions:
    """Decisions of one kind in a sweep's folder, by program key, shared by all processes of the sweep."""

    folder: Path  # of the sweep
    kind: Literal["fuse", "compile"]

    @property
    def files(self) -> Path:
        """Return the folder of the decision files."""
        return self.folder / f".{self.kind}"

    def load(self, key: str) -> Decision | None:
        """Return a decision; None if it is missing or unreadable."""
        with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
            content = json.loads((self.files / f"{key}.json").read_bytes())
            return Decision(content[NAMES[self.kind]], content["reason"])
        return None

    def load_all(self) -> list[Decision]:
        """Return all decisions."""
        decisions = [self.load(path.stem) for path in sorted(self.files.glob("[!.]*.json"))]
        return [decision for decision in decisions if decision is not None]

    def save(self, key: str, decision: Decision, must: bool = False) -> Decision:
        """Write a decision and return the valid one: the first that any process has written.

        must: overwrite an earlier decision. A damaged one is always overwritten.
        """
        path = self.files / f"{key}.json"
        self.files.mkdir(exist_ok=True)
        draft = path.with_name(f".{key}.{uuid.uuid4().hex}")
        write_json(draft, {NAMES[self.kind]: decision.on, "reason": decision.reason}, durable=False)
        damaged = path.exists() and self.load(key) is None
        if damaged:
            log.warning("%s is damaged: it is written anew", path)
        if must or damaged:
            draft.replace(path)
            return decision
        try:
            os.link(draft, path)  # atomic; fails if the file exists
        except FileExistsError:
            pass
        finally:
            draft.unlink()
        return self.load(key) or decision
