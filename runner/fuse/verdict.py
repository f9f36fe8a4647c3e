"""What was decided for the runs of one program in a sweep: kept in its folder, for all who ask again."""

import contextlib
import json
import logging
import os
import uuid
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import ClassVar, TypeVar

from runner.files import write_json

log = logging.getLogger(__name__)

LEAST = 100  # steps of a run below which a trial would not pay
LEAST_KEPT = 20  # of one on kept features, whose epochs are few steps of little but shared work
SHORT = f"fewer than {LEAST} steps: a trial would not pay"


def least(kept: bool) -> int:
    """Steps of a run from which on a trial pays; `kept`: it trains on features that are kept."""
    return LEAST_KEPT if kept else LEAST


@dataclass(frozen=True)
class Verdict:
    """What was decided for all runs of one program in a sweep, and why."""

    folder: ClassVar[str] = ".fuse"  # in the sweep's
    fused: bool
    reason: str


@dataclass(frozen=True)
class Compiled:
    """Whether their networks are compiled, and why."""

    folder: ClassVar[str] = ".compile"
    compiled: bool
    reason: str


Kind = TypeVar("Kind", Verdict, Compiled)


def known(folder: Path, key: str, kind: type[Kind] = Verdict) -> Kind | None:
    """What was decided in a sweep's folder, by whichever of its processes was first."""
    with contextlib.suppress(OSError, ValueError, TypeError):
        return kind(**json.loads((folder / kind.folder / f"{key}.json").read_bytes()))
    return None


def verdicts(folder: Path) -> list[Verdict]:
    """All that was decided in a sweep's folder."""
    found = [known(folder, path.stem) for path in sorted((folder / Verdict.folder).glob("[!.]*.json"))]
    return [verdict for verdict in found if verdict is not None]


def keep(folder: Path, key: str, verdict: Kind, must: bool = False) -> Kind:
    """Writes a verdict down; returns the one that counts: another process may have been faster. `must`: this one, which
    also takes the place of a damaged one."""
    path = folder / verdict.folder / f"{key}.json"
    path.parent.mkdir(exist_ok=True)
    draft = path.with_name(f".{key}.{uuid.uuid4().hex}")
    write_json(draft, asdict(verdict), durable=False)
    damaged = path.exists() and known(folder, key, type(verdict)) is None
    if damaged:
        log.warning("%s is damaged: it is written anew", path)
    if must or damaged:
        draft.replace(path)
        return verdict
    try:
        os.link(draft, path)  # fails where there is one
    except FileExistsError:
        pass
    finally:
        draft.unlink()
    return known(folder, key, type(verdict)) or verdict
