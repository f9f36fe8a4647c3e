"""Where Ray has room for a run. Light: its worker process loads torch while Ray's own process starts."""

from typing import TYPE_CHECKING

from runner.sweep.workers.forkserver import prepare

if TYPE_CHECKING:
    from runner.sweep.run.executor import Outcome
    from runner.sweep.run.work import Work
    from runner.sweep.workers.processes import Processes
    from runner.sweep.workers.remote import CommandOrigin, ResultStamp


class RayActor:
    """An actor of Ray's, with CPUs and GPUs of its own: does one run at a time, in a worker process as the launcher
    `local` has them. A crash costs that run, and neither the actor nor what is loaded."""

    def __init__(self, limit: float | None):
        self.limit = limit  # seconds that a run may take
        self.executor: Processes | None = None
        prepare()

    def work(self, origin: "CommandOrigin", what: "Work") -> "tuple[Ended, Said]":
        """Does a run; also what stands in its folder then."""
        from runner.sweep.workers.processes import Processes
        from runner.sweep.workers.remote import ResultStamp

        if self.executor is None:
            origin.enter()
            self.executor = Processes(origin.context, [None], self.limit)
        self.executor.submit(what)
        while not (ended := self.executor.wait(1.0)):
            pass
        return ended[0], ResultStamp.of(what.job.folder)

    def save(self) -> None:
        """Have the run that is under way saved, and its process ended; wait for that. Called beside `work`."""
        if self.executor is not None:
            self.executor.save()
