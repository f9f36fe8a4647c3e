"""The launcher `ray`: the runs of a plan where Ray's scheduler has room for them."""

import logging
import socket
import textwrap
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from hydra.types import HydraContext

from runner.core import interruption
from runner.core.devices import cores
from runner.core.errors import ConfigError
from runner.sweep.plan.plan import Plan
from runner.sweep.run.display import Display
from runner.sweep.run.executor import Outcome, Executor
from runner.sweep.run.work import Work
from runner.sweep.workers.forkserver import environment
from runner.sweep.workers.ray_actor import RayActor
from runner.sweep.workers.remote import CommandOrigin, check_precision, needs, seen

STORE = 100 * 2**20  # bytes for Ray's shared objects: only plans and outcomes travel
QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}  # no reports to Ray, no advice


@dataclass(frozen=True)
class Ray:
    """`address`: of a cluster, `auto`, or None for one of this machine alone; `workers`: `auto` or a number; `gpus` of
    each run: `auto` or a number; `timeout`: seconds that a run may take, or None. Raises `ConfigError` for others."""

    fuse: ClassVar[bool] = False  # each run is a job of its own there
    fuse_max: ClassVar[int] = 1

    context: HydraContext
    address: Any
    workers: Any
    gpus: Any
    timeout: Any

    def __post_init__(self) -> None:
        if self.workers != "auto" and not (_number(self.workers) and isinstance(self.workers, int) and self.workers):
            raise ConfigError(f"hydra.launcher.workers={self.workers}: must be auto, or a whole number of at least 1")
        if self.gpus != "auto" and not (_number(self.gpus) and (self.gpus < 1 or self.gpus == int(self.gpus))):
            raise ConfigError(f"hydra.launcher.gpus={self.gpus}: must be auto, a share below 1, or a whole number")
        if self.timeout is not None and not (_number(self.timeout) and self.timeout):
            raise ConfigError(f"hydra.launcher.timeout={self.timeout}: must be seconds above 0, or null")
        if self.address is not None and not isinstance(self.address, str):
            raise ConfigError(f"hydra.launcher.address={self.address}: must be null, auto or HOST:PORT")
        needs("ray", "ray", "ray")

    def count(self, runs: int, lone: bool, device: str) -> int:
        """How many runs are done at once, of so many on that kind of device."""
        if ":" in device:
            raise ConfigError(f"device={device}: Ray says which GPU a run has; use device=cuda")
        if self.workers != "auto":
            return max(1, min(self.workers, runs))
        if self.address is None:
            own = {"CPU": cores(), "GPU": torch.cuda.device_count()}
            return max(1, min(runs, _places([own], 1, self._share(device))))
        return max(1, min(runs, _places(self._machines(), 1, self._share(device))))

    def make_executor(self, plan: Plan, display: Display) -> Executor:
        """Those who do the plan's runs. Raises `ConfigError` where no machine has what a run needs."""
        threads, share = max(entry.job.threads for entry in plan.todo), self._share(plan.device)
        check_precision(plan, share)
        places = _places(self._machines(), threads, share)
        if not places:
            raise ConfigError(
                f"no machine of the Ray cluster has room for a run, which needs CPUs for its {threads} threads "
                f"(threads=N) and {share:g} GPUs (hydra.launcher.gpus=N)"
            )
        origin = CommandOrigin.here(self.context, plan.folder)
        return RayActors(origin, min(plan.workers, places), threads, share, self.timeout)

    def _share(self, device: str) -> float:
        """GPUs of a run."""
        return self.gpus if self.gpus != "auto" else float(device == "cuda")

    def _machines(self) -> list[dict[str, float]]:
        """What each machine of the cluster has; connects to it."""
        import ray

        own = {"num_cpus": cores(), "object_store_memory": STORE} if self.address is None else {}
        if not ray.is_initialized():
            try:
                _knock(self.address)
                with environment(QUIET):
                    ray.init(
                        address=self.address or "local",
                        include_dashboard=False if self.address is None else None,
                        logging_level=logging.ERROR,
                        log_to_driver=False,
                        **own,
                    )
            except (OSError, ValueError, RuntimeError) as error:
                raise ConfigError(
                    f"hydra.launcher.address={self.address}: no Ray cluster answers there "
                    f"({str(error).splitlines()[0]}); start one (ray start --head), set RAY_AUTH_MODE=token where "
                    "it asks for a token, or leave the address out"
                ) from error
        return [node["Resources"] for node in ray.nodes() if node["Alive"]]


class RayActors(Executor):
    """`capacity` actors, each with so many CPUs and GPUs; `limit`: seconds that a run may take."""

    def __init__(self, origin: CommandOrigin, capacity: int, cpus: int, gpus: float, limit: float | None):
        import ray

        # Two calls at once: a run, and the word that it is to be saved.
        options = {"num_cpus": cpus, "num_gpus": gpus, "max_restarts": 0, "max_task_retries": 0, "max_concurrency": 2}
        self._make = ray.remote(**options)(RayActor).remote
        self._origin, self._limit = origin, limit
        self.capacity, self.shares = capacity, gpus < 1
        self._idle: list[Any] = []
        self._running: dict[Any, tuple[Work, Any]] = {}  # what will be there -> the run and its actor

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        import ray

        if isinstance(error, KeyboardInterrupt) and self._running:
            interruption.write_notice()
            saved = [actor.save.remote() for _, actor in self._running.values()]
            ray.wait(saved, num_returns=len(saved), timeout=interruption.PATIENCE)
        ray.shutdown()  # its actors end with it, and their processes with them

    def submit(self, work: Work) -> None:
        actor = self._idle.pop() if self._idle else self._make(self._limit)
        self._running[actor.work.remote(self._origin, work)] = work, actor

    def wait(self, seconds: float) -> list[Outcome]:
        import ray

        if not self._running:
            return []
        pending = list(self._running)
        if not ray.wait(pending, timeout=seconds)[0]:
            return []
        ready, _ = ray.wait(pending, num_returns=len(pending), timeout=0)
        return [self._outcome(answer, *self._running.pop(answer)) for answer in ready]

    def _outcome(self, answer: Any, work: Work, actor: Any) -> Outcome:
        import ray
        from ray.exceptions import OutOfMemoryError, RayError, RayTaskError

        try:
            ended, said = ray.get(answer)
        except RayTaskError as error:
            raise error.cause from error
        except OutOfMemoryError:
            return Outcome(work, lost="its machine ran out of memory, and Ray ended its process", memory=True)
        except RayError as error:
            return Outcome(work, lost=f"Ray lost its process: {_words(error)}")
        self._idle.append(actor)
        if ended.done and not ended.lost and not ended.interrupted:
            seen(work, said)
        return Outcome(work, ended.done, ended.lost, ended.memory, ended.interrupted)


def _knock(address: str | None) -> None:
    """Raises `OSError` where nobody listens at HOST:PORT, of which Ray would only be sure after minutes."""
    if address is not None and address.rpartition(":")[2].isdigit():
        host, _, port = address.rpartition(":")
        socket.create_connection((host.rpartition("/")[2], int(port)), timeout=10).close()


def _places(machines: list[dict[str, float]], cpus: int, gpus: float) -> int:
    """Runs that these machines have room for, each of which needs so much."""
    return sum(
        min(int(has.get("CPU", 0) // cpus), int(has.get("GPU", 0) // gpus) if gpus else 10**9) for has in machines
    )


def _words(error: BaseException) -> str:
    """Ray's longest line on why a process is gone, as far as it says something."""
    line = max((line.strip() for line in str(error).splitlines()), key=len, default=type(error).__name__)
    return textwrap.shorten(line.partition(" Some common causes")[0], 200)


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value >= 0
