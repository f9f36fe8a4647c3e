"""Decisions on how steps are done, and where a sweep keeps them. Loads no torch."""

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

LEAST = 100  # steps below which a trial would not pay
LEAST_KEPT = 20  # of a run on kept features, whose epochs are few steps of little but shared work
NAMES = {"fuse": "fused", "compile": "compiled"}  # of `Decision.on`, in the files of each kind


def too_short(steps: int, kept: bool = False) -> str:
    """Return why a trial would not pay in so many steps; empty where it would. `kept`: they read kept features."""
    least = LEAST_KEPT if kept else LEAST
    return f"fewer than {least} steps: a trial would not pay" if steps < least else ""


class Decision(NamedTuple):
    """The choice of a way to compute steps (on) or of the plain one (off), and the reason."""

    on: bool
    reason: str

    def __str__(self) -> str:
        return f"{'on' if self.on else 'off'} ({self.reason})"


@dataclass(frozen=True)
class Decisions:
    """Decisions of one kind in a sweep's folder, by the key of a program: all processes of the sweep share them."""

    folder: Path  # the sweep's
    kind: Literal["fuse", "compile"]

    @property
    def files(self) -> Path:
        """The folder of their files."""
        return self.folder / f".{self.kind}"

    def load(self, key: str) -> Decision | None:
        """Return a decision; None where there is none, or none that can be read."""
        with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
            content = json.loads((self.files / f"{key}.json").read_bytes())
            return Decision(content[NAMES[self.kind]], content["reason"])
        return None

    def load_all(self) -> list[Decision]:
        """Return all decisions."""
        decisions = [self.load(path.stem) for path in sorted(self.files.glob("[!.]*.json"))]
        return [decision for decision in decisions if decision is not None]

    def save(self, key: str, decision: Decision, must: bool = False) -> Decision:
        """Write a decision, and return the one that counts: another process may have been faster.

        must: this one counts, also in place of another. A damaged one is replaced.
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
            os.link(draft, path)  # fails where there is one
        except FileExistsError:
            pass
        finally:
            draft.unlink()
        return self.load(key) or decision
