"""A run's task in several processes, which `torchrun` starts.

The first process is the command: it plans, holds the run's lock, writes, evaluates and prints. It tells the others
which run to train; they follow and write nothing.
"""

import contextlib
import logging
import os
import pickle
import threading
import time
from collections.abc import Iterator

import torch

from runner.core import interruption
from runner.execution import distributed
from runner.execution.distributed import INTERRUPTED, LOOK, Over, Team
from runner.store.files import RESULT, write_json
from runner.store.ledger import read
from runner.task.job import Job, failure
from runner.task.resources import Resources

log = logging.getLogger(__name__)

GRACE = 30.0  # seconds that a process which failed leaves the first to write it down


def leading(job: Job, device: torch.device) -> contextlib.AbstractContextManager:
    """Around a run of the first of several processes; of a lone one, nothing."""
    first = distributed.team()
    return contextlib.nullcontext() if first is None else lead(first, job, device)


@contextlib.contextmanager
def lead(team: Team, job: Job, device: torch.device) -> Iterator[None]:
    """The first process's part of a run: the others train it too. Where one of them fails, so does the run."""
    team.broadcast(job)
    ended = threading.Event()
    threading.Thread(target=_watch, args=(team, job, ended), daemon=True).start()
    try:
        with team.together(device):
            try:
                yield
            except interruption.Interrupted:
                team.dismiss()  # before their gradients find nobody any more
                raise
    finally:
        ended.set()


def _watch(team: Team, job: Job, ended: threading.Event) -> None:
    """A process that waits for another's gradients cannot be woken: where they will never come, it is ended."""
    while not ended.wait(LOOK):
        if team.store.check([INTERRUPTED]):
            interruption.request(int(team.store.get(INTERRUPTED)))
        if team.store.check(["failed"]):
            found = pickle.loads(team.store.get("failed"))
            log.error("the run ended early: %s", found["reason"])
            record = read(job.folder)
            write_json(job.folder / RESULT, ({} if record is None else record.result) | found)
            os._exit(1)


def follow(team: Team, resources: Resources) -> None:
    """Train what the first process says, as each of the others does, until it has ended."""
    try:
        while True:
            job = team.receive()
            task = resources.task(job.config)
            device = task.device(job.config)
            with team.together(device):
                task.follow(job, resources, device)
    except Over:
        return
    except Exception as error:
        if team.over:  # it was the first that ended, in the middle of the run
            return
        found = failure(error)
        team.store.set("failed", pickle.dumps(found | {"reason": f"process {team.rank}: {found['reason']}"}))
        time.sleep(GRACE)
        raise
