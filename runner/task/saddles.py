"""`task=saddles`: curvature where the gradient is small.

The share of negative curvature directions (the index) at critical points of random functions, against their dimension
(Bray & Dean 2007, Phys. Rev. Lett. 98, 150201; Dauphin et al. 2014, arXiv 1406.2572), or along a network's training.
"""

import copy
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from runner.core.errors import ConfigError
from runner.core.listener import Listener
from runner.core.schema import Factor, Positive
from runner.core.seeds import generator
from runner.execution.compile import compile_if_configured
from runner.execution.eager import EagerProgram
from runner.optimizer.flat_params import Flat
from runner.optimizer.newton import hessian
from runner.store.files import csv_text, png, write_atomic
from runner.task.base import Task, tracking
from runner.task.job import Job
from runner.task.preflight import Facts
from runner.task.random_functions import Field, critical_points, curvature
from runner.task.resources import Resources
from runner.train.loop import step
from runner.train.state import TrainState

BOX = 10.0  # length scales: side of the cube in which searches start
LARGEST = 2000  # parameters of a network: the eigenvalues of a larger Hessian take minutes each time
SURFACE = frozenset({"surface"})
NETWORK = frozenset(  # parts of a config that random functions do not use
    ("data", "model", "regularization", "augmentation", "transfer", "ensemble", "evaluation", "optimizer", "schedule")
    + ("epochs", "batch_size", "lr_scale", "precision", "accumulate", "clip_grad_norm", "early_stopping", "checkpoint")
)


class Saddles(Task):
    """Measure the share of negative curvature at critical points of random functions, or along a training.

    of: `function` or `network` (the config's model, data, optimizer and schedule, trained for its epochs).
    dimension: of the random functions; a list puts all of them in one picture.
    functions, starts: number of functions for each dimension, and of searches on each.
    features: random features of each function.
    looks: number of measurements of a network, from its first weights to its last, at growing distances.
    flat: eigenvalues closer to zero than this share of the largest |eigenvalue| are neither positive nor negative.
    """

    ignores: ClassVar[frozenset[str]] = SURFACE
    columns: ClassVar[Mapping[str, str]] = {
        "points": "points",
        "share of negative directions": "negative",
        "minima": "minima",
        "saddles": "saddles",
    }

    def __init__(
        self,
        of: Literal["function", "network"] = "function",
        dimension: Positive | list[Positive] = 10,
        functions: Positive = 20,
        starts: Positive = 20,
        features: Positive = 1000,
        looks: Positive = 12,
        flat: Factor = 1e-4,
    ):
        self.of, self.functions, self.starts, self.features = of, functions, starts, features
        self.dimensions = sorted({dimension} if isinstance(dimension, int) else set(dimension))
        self.looks, self.flat = looks, flat
        if of == "function":
            self.ignores = SURFACE | NETWORK  # type: ignore[misc]
        if not self.dimensions:
            raise ConfigError("task.dimension=[]: give at least one dimension")
        if features < 10 * self.dimensions[-1]:
            raise ConfigError(
                f"task.features={features}: too few for {self.dimensions[-1]} dimensions, whose Hessians would lack "
                f"directions; use task.features={10 * self.dimensions[-1]} or more"
            )

    def preflight(self, resources: Resources, config: dict[str, Any]) -> Facts:
        """Return the facts about a config; raises `ConfigError` if the eigenvalues of a network would take too long."""
        if self.of == "function":
            searches = len(self.dimensions) * self.functions * self.starts
            return Facts(self.dimensions[-1], self.dimensions[-1], "random functions", 0, searches)
        facts = resources.preflight(config)
        if facts.trainable > LARGEST:
            raise ConfigError(
                f"task.of=network: eigenvalues of {facts.trainable:,} parameters take too long (limit {LARGEST:,}): "
                "use a smaller model, such as model=mlp 'model.hidden=[8]', or probe.curvature_every=1 for the two ends"
            )
        return facts

    def work(
        self, job: Job, resources: Resources, listener: Listener, device: torch.device
    ) -> Iterator[dict[str, Any]]:
        """Write saddles.csv and saddles.png, and yield a result."""
        # imported here because matplotlib takes a second
        from runner.report import saddle_pictures

        begun = time.perf_counter()
        with tracking(job) as tracker:
            if self.of == "function":
                rows = self.in_functions(job.config["seed"], listener)
                image = saddle_pictures.of_functions(rows)
            else:
                rows = self.in_network(job.config, resources, device, listener)
                image = saddle_pictures.of_network(rows)
            write_atomic(job.folder / "saddles.csv", csv_text(rows, list(rows[0])), durable=False)
            write_atomic(job.folder / "saddles.png", png(image), durable=False)
            if tracker is not None:
                tracker.hparams({"task.of": self.of, "seed": job.config["seed"]})
                tracker.picture("saddles", 0, image)
        yield {"status": "done", "seconds": round(time.perf_counter() - begun, 3)} | summary(rows)

    def in_functions(self, seed: int, listener: Listener) -> list[dict[str, Any]]:
        """Return a row for each critical point. Raises `RuntimeError` if a dimension has none."""
        rows: list[dict[str, Any]] = []
        done, searches = 0, len(self.dimensions) * self.functions * self.starts
        for n in self.dimensions:
            draws = np.random.default_rng(generator(seed, f"random functions of {n} dimensions").initial_seed())
            count_before = len(rows)
            for number in range(self.functions):
                field = Field.draw(n, self.features, draws)
                for x in critical_points(field, draws.uniform(0, BOX, (self.starts, n))):
                    about = {"dimension": n, "function": number, "value": field.value(x)}
                    about["gradient_norm"] = float(np.linalg.norm(field.gradient(x)))
                    rows.append(about | curvature(field.hessian(x), self.flat))
                done += self.starts
                listener.progress(done, searches, {})
            if len(rows) == count_before:
                raise RuntimeError(f"no critical point in {n} dimensions: more task.starts, or fewer dimensions")
        return rows

    def in_network(
        self, config: dict[str, Any], resources: Resources, device: torch.device, listener: Listener
    ) -> list[dict[str, Any]]:
        """Return a row for each measurement of the loss over the training split."""
        torch.manual_seed(generator(config["seed"], "layers of libraries").initial_seed())
        noise = generator(config["seed"], "noise", device)
        parts = resources.parts(config, resources.splits(config, device), device, noise)
        run = compile_if_configured(
            TrainState(config, replace(parts, splits=replace(parts.splits, val=None)), device, noise)
        )
        due = {round(step) for step in np.geomspace(1, run.steps + 1, self.looks) - 1} | {run.steps}
        rows = []
        while True:
            done = run.progress.step
            if done in due:
                rows.append({"step": done} | measure(run, self.flat))
                listener.progress(done, run.steps, {"train_loss": rows[-1]["value"]})
            if run.ended:
                return rows
            step([run], EagerProgram())


class FullLoss:
    """The loss over the training split in float64, in the form that second-order methods use."""

    def __init__(self, run: TrainState):
        self.model = copy.deepcopy(run.model).double().eval()
        rows = torch.arange(len(run.train_split), device=run.device)
        self.parts = [(run.normalize(x).double(), y) for x, y in run.train_split.batches(rows.split(256))]
        self.count = len(rows)

    def pieces(self) -> Any:
        """Yield losses that add up to the total loss."""
        for images, labels in self.parts:
            yield cross_entropy(self.model(images), labels) * (len(labels) / self.count)


def measure(run: TrainState, flat: float) -> dict[str, float]:
    """Return loss, gradient norm and curvature of the exact Hessian (two backward passes)."""
    full_loss = FullLoss(run)
    parameters = [p for p in full_loss.model.parameters() if p.requires_grad]
    gradients = [torch.zeros_like(p) for p in parameters]
    value = 0.0
    for loss in full_loss.pieces():
        value += loss.item()
        for total, part in zip(gradients, torch.autograd.grad(loss, parameters)):
            total += part
    norm = torch.stack([g.norm() for g in gradients]).norm().item()
    matrix = hessian(full_loss, Flat(parameters)).cpu().numpy()
    return {"value": value, "gradient_norm": norm} | curvature(matrix, flat)


def summary(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return means over all points of a run."""
    negative, positive = (np.array([row[key] for row in rows]) for key in ("negative", "positive"))
    return {
        "points": len(rows),
        "negative": float(negative.mean()),
        "minima": float((negative == 0).mean()),
        "saddles": float(((negative > 0) & (positive > 0)).mean()),
    }
