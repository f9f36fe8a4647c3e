"""Whether runs are faster in one program or each in its own: measured, and kept for all who ask again."""

import contextlib
import copy
import json
import logging
import os
import time
import uuid
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from runner.files import write_json
from runner.fuse.program import Fused, Unlike
from runner.timing import timed
from runner.train import Alone, Objective, Program, Run

log = logging.getLogger(__name__)

FOLDER = ".fuse"  # in the sweep's folder
LEAST = 100  # steps of a run below which a trial would not pay
GAIN = 1.05  # that one program must be faster to be chosen
LOOKS = 3
SLOW, FEW = 0.02, 4  # where a lone step takes more seconds, so many runs speak for all


@dataclass(frozen=True)
class Verdict:
    """What was decided for all runs of one program in a sweep, and why."""

    fused: bool
    reason: str


def known(folder: Path, key: str) -> Verdict | None:
    """What was decided in a sweep's folder, by whichever of its processes was first."""
    with contextlib.suppress(OSError, ValueError, TypeError):
        return Verdict(**json.loads((folder / FOLDER / f"{key}.json").read_bytes()))
    return None


def keep(folder: Path, key: str, verdict: Verdict) -> Verdict:
    """Writes a verdict down; returns the one that counts: another process may have been faster."""
    path = folder / FOLDER / f"{key}.json"
    path.parent.mkdir(exist_ok=True)
    draft = path.with_name(f".{key}.{uuid.uuid4().hex}")
    write_json(draft, asdict(verdict), durable=False)
    try:
        os.link(draft, path)  # fails where there is one
    except FileExistsError:
        pass
    finally:
        draft.unlink()
    return known(folder, key) or verdict


def judge(runs: list[Run], must: bool) -> tuple[Verdict, Fused | None]:
    """Tries both ways; the runs stand where they stood. `must`: one program, unless that is impossible."""
    if not must and max(run.steps for run in runs) < LEAST:
        return Verdict(False, f"fewer than {LEAST} steps: a trial would not pay"), None
    try:
        program = Fused(runs)
    except Unlike as error:
        return Verdict(False, str(error)), None
    if must:
        return Verdict(True, "hydra.launcher.fuse=true"), program
    program.part()
    states = [copy.deepcopy(run.state_dict()) for run in runs]
    alone = sum(_seconds([run], Alone(), 2) for run in runs[:FEW]) / len(runs[:FEW])
    some = runs
    if alone > SLOW:
        some = runs[:FEW]
    else:
        alone = sum(_seconds([run], Alone(), 2) for run in runs) / len(runs)
    _rewind(runs, states)
    program = Fused(some)
    together = _seconds(some, program, LOOKS) / len(some)
    program.part()
    _rewind(runs, states)
    words = f"a step takes {1e3 * alone:.3g} ms alone and {1e3 * together:.3g} ms among {len(some)}"
    if alone < GAIN * together:
        return Verdict(False, words), None
    return Verdict(True, words), Fused(runs)


def _seconds(runs: list[Run], program: Program, looks: int) -> float:
    """Of the fastest of a few steps, after one to warm up. Nothing is told to listeners, and no step is counted."""
    for run in runs:
        run.train_mode()
    device = runs[0].device
    if device.type == "cpu" and torch.get_num_threads() == 1:  # whatever else this machine does
        return min([_cpu_seconds(lambda: _step(runs, program)) for _ in range(looks + 1)][1:])
    return min([timed(lambda: _step(runs, program), device)[1] for _ in range(looks + 1)][1:])


def _cpu_seconds(work: Callable[[], None]) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began


def _step(runs: list[Run], program: Program) -> None:
    for run in runs:
        run.rewind()
    batches = program.batches(runs)
    losses = program.gradients(runs, batches)
    for run, loss in zip(runs, losses):
        run.before_update(loss)
    objectives = [Objective(run, batch, loss, program) for run, batch, loss in zip(runs, batches, losses)]
    program.update(runs, objectives)


def _rewind(runs: list[Run], states: list[dict]) -> None:
    for run, state in zip(runs, states):
        run.load_state_dict(copy.deepcopy(state))
