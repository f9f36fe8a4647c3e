"""`task=surface`: run an optimizer and a schedule on a function of two variables."""

import io
import time
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import numpy as np
import torch

from runner.build.complaints import Refused
from runner.core.context import Context
from runner.core.errors import ConfigError
from runner.core.listener import Listener
from runner.core.option import Option
from runner.core.schema import Positive, Rate
from runner.core.seeds import generator
from runner.core.text import first_line
from runner.core.timeline import Timeline
from runner.store.files import csv_text, png, write_atomic
from runner.surface.base import Surface
from runner.surface.trajectory import COLUMNS, Walk, steps_to, verdict, walk
from runner.task.base import Task, tracking
from runner.task.job import Job
from runner.task.preflight import Facts
from runner.task.resources import Resources
from runner.tracking.events import Tracker

GRID = (240, 180)  # grid points of a picture
# Config values that options check: a surface has one loss, computed in full precision.
PLAIN = {"precision": "fp32", "accumulate": 1, "clip_grad_norm": None, "compile": False}
LOOKS = 25  # minimum of evaluations in a line search
UNUSED = {"clip_grad_norm": (None,), "accumulate": (1,), "compile": ("auto", False)}


class SurfaceTask(Task):
    """Walk of an optimizer on a surface. One step is one epoch: `schedule.warmup=20` is 20 steps.

    steps: the length of the walk.
    tolerance: the walk has converged when the loss is less than this above the minimum.
    max_iter: replaces `optimizer.max_iter` if the optimizer has it. With 1, each point of the path is one iteration of
        BFGS or L-BFGS; null keeps the optimizer's value.
    """

    ignores: ClassVar[frozenset[str]] = frozenset(
        [
            "data",
            "model",
            "regularization",
            "augmentation",
            "transfer",
            "ensemble",
            "evaluation",
            "epochs",
            "batch_size",
            "precision",
            "accumulate",
            "clip_grad_norm",
            "early_stopping",
            "checkpoint",
            "optimizer.no_decay",
            "optimizer.norm_bias_lr_scale",
            "optimizer.full_batch",
        ]
    )
    columns: ClassVar[Mapping[str, str]] = {
        "verdict": "verdict",
        "steps to tolerance": "steps_to_tolerance",
        "loss": "final_loss_shown",
        "distance": "distance",
    }

    def __init__(self, steps: Positive = 300, tolerance: Rate = 1e-6, max_iter: Positive | None = 1):
        self.steps, self.tolerance, self.max_iter = steps, tolerance, max_iter

    def preflight(self, resources: Resources, config: dict[str, Any]) -> Facts:
        """Build everything and take one step; raises `ConfigError` if an option cannot work on a surface."""
        for key, unused in UNUSED.items():
            if config[key] not in unused:
                raise ConfigError(f"{key}={config[key]}: task=surface has no use for it; leave it out")
        name = config["optimizer"]["_target_"]
        try:
            surface, optimizer, schedule = self.parts(resources, config)
            self.check(config, surface, optimizer, schedule)
            walk(surface, optimizer, schedule, 1, torch.Generator())
        except KeyError as error:
            raise ConfigError(
                f"schedule: watches {error.args[0]}, and a surface has only train_loss and val_loss (its loss, both)"
            ) from error
        except (ValueError, TypeError, RuntimeError) as error:
            raise ConfigError(
                f"optimizer._target_={name} does not work on a surface, a vector of 2: {first_line(error)}"
            ) from error
        return Facts(parameters=2, trainable=2, identity="surface", train_size=0, steps=self.steps, flops=0)

    def check(self, config: dict[str, Any], surface: Surface, optimizer: Any, schedule: Any) -> None:
        """Call the `check` of optimizer and schedule. Raises `Refused`."""
        node = config["optimizer"] | {"full_batch": surface.noise == 0}  # without noise each step has the same loss
        context = Context(
            config=config | PLAIN | {"optimizer": node},
            model=torch.nn.ParameterList(optimizer.param_groups[0]["params"]),
            channels=0,
            in_channels=0,
            stored_size=0,
            image_size=0,
            num_classes=0,
            train_size=0,
            has_validation=True,
            stack={},
            pipeline={},
        )
        options = [option for option in (optimizer, schedule) if isinstance(option, Option)]
        if lines := [line for option in options if (line := option.check(context))]:
            raise Refused(lines)

    def parts(self, resources: Resources, config: dict[str, Any]) -> tuple[Surface, torch.optim.Optimizer, Any]:
        """Return the surface, the optimizer of a point at its start, and the schedule."""
        surface = resources.surface(config)
        weights = torch.tensor(surface.start, dtype=torch.float64) / surface.unit
        group = {"params": [weights.requires_grad_()], "lr_scale": 1.0, "name": "point"}
        node = config["optimizer"]
        if self.max_iter is not None and "max_iter" in node:
            node = node | {"max_iter": self.max_iter}
        optimizer = resources.optimizer(config | {"optimizer": node}, [group])
        for group in optimizer.param_groups:
            if "max_eval" in group:  # torch's L-BFGS: for one iteration the default is too low for a line search
                group["max_eval"] = max(group["max_eval"], LOOKS)
        return surface, optimizer, resources.schedule(config, Timeline(self.steps, 1))

    def device(self, config: dict[str, Any]) -> torch.device:
        """Return CPU: a surface has two parameters."""
        return torch.device("cpu")

    def work(
        self, job: Job, resources: Resources, listener: Listener, device: torch.device
    ) -> Iterator[dict[str, Any]]:
        """Walk; write trajectory.csv, path.png, steps.png and surface.npz, and yield a result for any verdict."""
        begun = time.perf_counter()
        surface, optimizer, schedule = self.parts(resources, job.config)

        def report(row: dict[str, Any]) -> None:
            listener.progress(row["step"], self.steps, {"train_loss": row["loss"]})

        noise = generator(job.config["seed"], "noise of the surface")
        path = walk(surface, optimizer, schedule, self.steps, noise, report)
        seconds = time.perf_counter() - begun
        outcome = verdict(path, surface, self.tolerance)
        about = self.about(surface)
        write_atomic(job.folder / "trajectory.csv", csv_text(path.rows, COLUMNS), durable=False)
        pictures = self._draw(job, surface, path, outcome, about)
        with tracking(job) as tracker:
            if tracker is not None:
                write_events(tracker, job, path, pictures)
        last = path.rows[-1]
        distance = min(np.hypot(last["x"] - x, last["y"] - y) for x, y in surface.minima)
        yield {
            "status": "done",
            "verdict": outcome,
            "steps": last["step"],
            "evaluations": last["evaluations"],
            "final_loss": last["loss"],
            "final_loss_shown": f"{last['loss']:.3g}",
            "distance": float(distance),
            "steps_to_tolerance": steps_to(path.column("loss"), surface.minimum, self.tolerance)
            if outcome == "converged"
            else None,
            "diverged_step": path.lost,
            "parameters": 2,
            "seconds": round(seconds, 3),
            "surface": about,
        }

    def about(self, surface: Surface) -> dict[str, Any]:
        """Return the description of the surface for the result."""
        keys = ("title", "formula", "scale", "unit", "noise", "start", "domain", "minima", "saddles", "minimum", "bend")
        return {key: getattr(surface, key) for key in keys} | {"tolerance": self.tolerance}

    def _draw(
        self, job: Job, surface: Surface, path: Walk, outcome: str, about: dict[str, Any]
    ) -> dict[str, np.ndarray]:
        # imported here because matplotlib takes a second
        from runner.report import surface_pictures as pictures

        x, y, values = (part.numpy() for part in surface.grid(*GRID))
        file = io.BytesIO()
        np.savez_compressed(file, x=x, y=y, values=values.astype(np.float32))
        write_atomic(job.folder / "surface.npz", file.getvalue(), durable=False)
        ground = pictures.Ground(x, y, values, about)
        columns = {name: path.column(name) for name in COLUMNS}
        curve = pictures.Trajectory(job.choices.get("optimizer", "optimizer"), outcome, columns)
        images = {"path": pictures.path_picture(ground, curve), "steps": pictures.steps_picture(ground, curve)}
        for name, image in images.items():
            write_atomic(job.folder / f"{name}.png", png(image), durable=False)
        return images


def write_events(tracker: Tracker, job: Job, path: Walk, pictures: dict[str, np.ndarray]) -> None:
    """Write the walk to TensorBoard: hparams, four curves and two pictures."""
    shown = {group: job.choices[group] for group in ("surface", "optimizer", "schedule") if group in job.choices}
    shown["optimizer.lr"] = path.rows[1]["rate"] if len(path.rows) > 1 else None
    swept = {key: str(value) if isinstance(value, list) else value for key, value in job.swept.items()}
    tracker.hparams(shown | swept)
    for row in path.rows:
        scalars = {"loss": row["loss"], "gradient_norm": row["gradient_norm"]}
        if row["step"] > 0:
            scalars |= {"rate": row["rate"], "step_length": row["step_length"]}
        tracker.scalars(row["step"], scalars)
    for name, image in pictures.items():
        tracker.picture(name, path.rows[-1]["step"], image)
