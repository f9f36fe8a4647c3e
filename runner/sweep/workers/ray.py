"""Launcher `ray`: executes the runs of a plan on a Ray cluster."""

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
from runner.sweep.run.executor import Executor, Outcome
from runner.sweep.run.work import Work
from runner.sweep.workers.forkserver import environment
from runner.sweep.workers.ray_actor import RayActor
from runner.sweep.workers.remote import CommandOrigin, check_installed, check_precision, wait_until_visible

STORE = 100 * 2**20  # bytes of Ray's object store: it only transfers plans and outcomes
QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}  # no usage reports, no hints


@dataclass(frozen=True)
class Ray:
    """Launcher on a Ray cluster. Raises `ConfigError` for invalid values.

    address: of a cluster, `auto`, or None for a cluster on this machine. workers: `auto` or a number. gpus: per run,
    `auto` or a number. timeout: seconds per run, or None.
    """

    fuse: ClassVar[bool] = False  # each run has its own actor
    fuse_max: ClassVar[int] = 1

    context: HydraContext
    address: Any
    workers: Any
    gpus: Any
    timeout: Any

    def __post_init__(self) -> None:
        if self.workers != "auto" and not (_is_number(self.workers) and isinstance(self.workers, int) and self.workers):
            raise ConfigError(f"hydra.launcher.workers={self.workers}: must be auto, or a whole number of at least 1")
        if self.gpus != "auto" and not (_is_number(self.gpus) and (self.gpus < 1 or self.gpus == int(self.gpus))):
            raise ConfigError(f"hydra.launcher.gpus={self.gpus}: must be auto, a share below 1, or a whole number")
        if self.timeout is not None and not (_is_number(self.timeout) and self.timeout):
            raise ConfigError(f"hydra.launcher.timeout={self.timeout}: must be seconds above 0, or null")
        if self.address is not None and not isinstance(self.address, str):
            raise ConfigError(f"hydra.launcher.address={self.address}: must be null, auto or HOST:PORT")
        check_installed("ray", "ray", "ray")

    def count(self, runs: int, lone: bool, device: str) -> int:
        """Return how many of `runs` are executed at once on that kind of device."""
        if ":" in device:
            raise ConfigError(f"device={device}: Ray says which GPU a run has; use device=cuda")
        if self.workers != "auto":
            return max(1, min(self.workers, runs))
        if self.address is None:
            resources = {"CPU": cores(), "GPU": torch.cuda.device_count()}
            return max(1, min(runs, _count_slots([resources], 1, self._gpus_per_run(device))))
        return max(1, min(runs, _count_slots(self._node_resources(), 1, self._gpus_per_run(device))))

    def make_executor(self, plan: Plan, display: Display) -> Executor:
        """Return the executor of the plan's runs. Raises `ConfigError` if no machine has room for a run."""
        threads, gpus = max(entry.job.threads for entry in plan.todo), self._gpus_per_run(plan.device)
        check_precision(plan, gpus)
        slots = _count_slots(self._node_resources(), threads, gpus)
        if not slots:
            raise ConfigError(
                f"no machine of the Ray cluster has room for a run, which needs CPUs for its {threads} threads "
                f"(threads=N) and {gpus:g} GPUs (hydra.launcher.gpus=N)"
            )
        origin = CommandOrigin.here(self.context, plan.folder)
        return RayActors(origin, min(plan.workers, slots), threads, gpus, self.timeout)

    def _gpus_per_run(self, device: str) -> float:
        """Return the number of GPUs per run."""
        return self.gpus if self.gpus != "auto" else float(device == "cuda")

    def _node_resources(self) -> list[dict[str, float]]:
        """Connect to the cluster and return the resources of each machine."""
        import ray

        resources = {"num_cpus": cores(), "object_store_memory": STORE} if self.address is None else {}
        if not ray.is_initialized():
            try:
                _check_address(self.address)
                with environment(QUIET):
                    ray.init(
                        address=self.address or "local",
                        include_dashboard=False if self.address is None else None,
                        logging_level=logging.ERROR,
                        log_to_driver=False,
                        **resources,
                    )
            except (OSError, ValueError, RuntimeError) as error:
                raise ConfigError(
                    f"hydra.launcher.address={self.address}: no Ray cluster answers there "
                    f"({str(error).splitlines()[0]}); start one (ray start --head), set RAY_AUTH_MODE=token where "
                    "it asks for a token, or leave the address out"
                ) from error
        return [node["Resources"] for node in ray.nodes() if node["Alive"]]


class RayActors(Executor):
    """Executor of `capacity` Ray actors, each with `cpus` CPUs and `gpus` GPUs. `limit`: seconds per run."""

    def __init__(self, origin: CommandOrigin, capacity: int, cpus: int, gpus: float, limit: float | None):
        import ray

        # Two concurrent calls: `work`, and `save` during it.
        options = {"num_cpus": cpus, "num_gpus": gpus, "max_restarts": 0, "max_task_retries": 0, "max_concurrency": 2}
        self._make = ray.remote(**options)(RayActor).remote
        self._origin, self._limit = origin, limit
        self.capacity, self.shares = capacity, gpus < 1
        self._idle: list[Any] = []
        self._running: dict[Any, tuple[Work, Any]] = {}  # future result -> run and actor

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        import ray

        if isinstance(error, KeyboardInterrupt) and self._running:
            interruption.write_notice()
            saved = [actor.save.remote() for _, actor in self._running.values()]
            ray.wait(saved, num_returns=len(saved), timeout=interruption.PATIENCE)
        ray.shutdown()  # ends its actors and their processes

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
        return [self._outcome(future, *self._running.pop(future)) for future in ready]

    def _outcome(self, future: Any, work: Work, actor: Any) -> Outcome:
        import ray
        from ray.exceptions import OutOfMemoryError, RayError, RayTaskError

        try:
            outcome, stamp = ray.get(future)
        except RayTaskError as error:
            raise error.cause from error
        except OutOfMemoryError:
            return Outcome(work, lost="its machine ran out of memory, and Ray ended its process", memory=True)
        except RayError as error:
            return Outcome(work, lost=f"Ray lost its process: {_reason(error)}")
        self._idle.append(actor)
        if outcome.done and not outcome.lost and not outcome.interrupted:
            wait_until_visible(work, stamp)
        return Outcome(work, outcome.done, outcome.lost, outcome.memory, outcome.interrupted)


def _check_address(address: str | None) -> None:
    """Raise `OSError` if nothing listens at HOST:PORT, because Ray itself would only fail after minutes."""
    if address is not None and address.rpartition(":")[2].isdigit():
        host, _, port = address.rpartition(":")
        socket.create_connection((host.rpartition("/")[2], int(port)), timeout=10).close()


def _count_slots(nodes: list[dict[str, float]], cpus: int, gpus: float) -> int:
    """Return how many runs with these CPUs and GPUs fit on the machines."""
    return sum(
        min(int(node.get("CPU", 0) // cpus), int(node.get("GPU", 0) // gpus) if gpus else 10**9) for node in nodes
    )


def _reason(error: BaseException) -> str:
    """Return the longest line of Ray's message on a lost process, shortened."""
    line = max((line.strip() for line in str(error).splitlines()), key=len, default=type(error).__name__)
    return textwrap.shorten(line.partition(" Some common causes")[0], 200)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value >= 0
