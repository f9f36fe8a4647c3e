"""A run's task in several processes, started by `torchrun`.

The first process is the command: it plans, holds the run's lock, writes, evaluates and prints. It sends the others
the run to train; they follow and write nothing.
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
from runner.execution.distributed import INTERRUPTED, POLL, LeaderEnded, Team
from runner.store.files import RESULT, write_json
from runner.store.ledger import read
from runner.task.job import Job, failure
from runner.task.resources import Resources

log = logging.getLogger(__name__)

GRACE = 30.0  # seconds a failed process waits, so that the first can record the failure


def leading(job: Job, device: torch.device) -> contextlib.AbstractContextManager:
    """Return the context of a run in the first of several processes; for a single process it does nothing."""
    team = distributed.team()
    return contextlib.nullcontext() if team is None else lead(team, job, device)


@contextlib.contextmanager
def lead(team: Team, job: Job, device: torch.device) -> Iterator[None]:
    """Lead a run from the first process: the others train it too, and if one of them fails, the run fails."""
    team.broadcast(job)
    ended = threading.Event()
    threading.Thread(target=_watch, args=(team, job, ended), daemon=True).start()
    try:
        with team.process_group(device):
            try:
                yield
            except interruption.Interrupted:
                team.dismiss()  # because their gradients would wait for this process
                raise
    finally:
        ended.set()


def _watch(team: Team, job: Job, ended: threading.Event) -> None:
    """Pass on interruptions, and exit if another process has failed."""
    # because a process that waits for another's gradients cannot be woken
    while not ended.wait(POLL):
        if team.store.check([INTERRUPTED]):
            interruption.request(int(team.store.get(INTERRUPTED)))
        if team.store.check(["failed"]):
            result = pickle.loads(team.store.get("failed"))
            log.error("the run ended early: %s", result["reason"])
            record = read(job.folder)
            write_json(job.folder / RESULT, ({} if record is None else record.result) | result)
            os._exit(1)


def follow(team: Team, resources: Resources) -> None:
    """Train the runs that the first process sends, until it ends; for the other processes."""
    try:
        while True:
            job = team.receive()
            task = resources.task(job.config)
            device = task.device(job.config)
            with team.process_group(device):
                task.follow(job, resources, device)
    except LeaderEnded:
        return
    except Exception as error:
        if team.has_ended:  # the first process has ended in the middle of the run
            return
        result = failure(error)
        team.store.set("failed", pickle.dumps(result | {"reason": f"process {team.rank}: {result['reason']}"}))
        time.sleep(GRACE)
        raise
