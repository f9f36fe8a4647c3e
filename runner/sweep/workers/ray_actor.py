"""RayActor: executes runs in a worker process on a Ray node. Loads no torch; the worker does, while Ray starts."""

from typing import TYPE_CHECKING

from runner.sweep.workers.forkserver import prepare

if TYPE_CHECKING:
    from runner.sweep.run.executor import Outcome
    from runner.sweep.run.work import Work
    from runner.sweep.workers.processes import Processes
    from runner.sweep.workers.remote import CommandOrigin, ResultStamp


class RayActor:
    """Ray actor with its own CPUs and GPUs. It executes one run at a time in a worker process, like launcher `local`.

    A crash ends the run only: the actor and its fork server stay.
    """

    def __init__(self, limit: float | None):
        self.limit = limit  # seconds per run
        self.executor: Processes | None = None
        prepare()

    def work(self, origin: "CommandOrigin", work: "Work") -> "tuple[Outcome, ResultStamp]":
        """Execute a run. Return its outcome and the stamp of the result in its folder."""
        from runner.sweep.workers.processes import Processes
        from runner.sweep.workers.remote import ResultStamp

        if self.executor is None:
            origin.enter()
            self.executor = Processes(origin.context, [None], self.limit)
        self.executor.submit(work)
        while not (outcomes := self.executor.wait(1.0)):
            pass
        return outcomes[0], ResultStamp.of(work.job.folder)

    def save(self) -> None:
        """Save a checkpoint of the current run, end its process and wait for that. Ray calls it during `work`."""
        if self.executor is not None:
            self.executor.save()
