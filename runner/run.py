"""One run, from config to result."""

import contextlib
import logging
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import torch
from omegaconf import OmegaConf

from runner import checkpoint
from runner.build import Builder, Facts, check_device
from runner.evaluate import Measured, evaluate
from runner.files import Lines, write_atomic, write_json
from runner.schedule.picture import draw
from runner.seeds import generator
from runner.task.base import RESULT, Job, Listener, Task, failure, started
from runner.tracking.events import Tracker
from runner.tracking.pictures import batch_grid, confusion_matrix
from runner.train import Diverged, Run, train

log = logging.getLogger(__name__)

METRICS = "metrics.csv"
COLUMNS = ("epoch", "step", "train_loss", "train_accuracy", "val_loss", "val_accuracy", "lr", "seconds")


class Train(Task):
    """`task=train`: trains, validates, tests once."""

    ignores: ClassVar[frozenset[str]] = frozenset({"surface"})
    refuses: ClassVar[frozenset[str]] = frozenset({"surface"})
    columns: ClassVar[Mapping[str, str]] = {
        "val accuracy": "val_accuracy",
        "test accuracy": "test_accuracy",
        "val loss": "val_loss",
        "epochs": "epochs",
    }

    def rehearse(self, builder: Builder, config: dict[str, Any]) -> Facts:
        """Raises what cannot work before anything runs."""
        return builder.rehearse(config)

    def execute(self, job: Job, builder: Builder, listener: Listener) -> dict[str, Any]:
        """Trains, or goes on, and leaves a result; errors of the run become its status. Returns the result."""
        device = check_device(job.config)
        result = started(job, device)
        write_json(job.folder / RESULT, result)
        write_atomic(job.folder / "config.yaml", OmegaConf.to_yaml(OmegaConf.create(job.config)), durable=False)
        with process_settings(job.config, job.threads):
            try:
                with Session(job, builder, device, listener) as session:
                    result |= session.facts()
                    try:
                        result |= session.outcome()
                    finally:
                        result |= session.reached()
            except Exception as error:
                log.exception("the run ended early")
                result |= failure(error)
        write_json(job.folder / RESULT, result)
        return result


class Session:
    """A run with its folder, tracker and checkpoint, from where it stood to its end."""

    def __init__(self, job: Job, builder: Builder, device: torch.device, listener: Listener):
        self.job, self.config, self.listener = job, job.config, listener
        self.status: str | None = None
        seed = self.config["seed"]
        torch.manual_seed(generator(seed, "layers of libraries").initial_seed())
        self.splits = builder.splits(self.config, device)
        noise = generator(seed, "noise", device)
        self.run = Run(self.config, builder.parts(self.config, self.splits, device, noise), device, noise)
        self.path = job.folder / checkpoint.FILE
        resumed = self._resume(device)
        progress = self.run.progress
        self.metrics = Lines(job.folder / METRICS, COLUMNS, progress.history)
        self.tracker = None
        if self.config["log"]["tensorboard"]:
            self.tracker = Tracker(job.folder, purge_step=progress.step + 1 if resumed else None)
            self._introduce(resumed)
        self.run.on_log, self.run.on_epoch, self.run.on_pause = self._on_log, self._on_epoch, self._on_pause
        self._saved = self.run.seconds()

    def __enter__(self) -> "Session":
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self.metrics.close()
        if isinstance(error, Exception):
            self.status = failure(error)["status"]
        if self.tracker is not None:
            self.tracker.close(self.status)

    def _resume(self, device: torch.device) -> bool:
        own = checkpoint.load_if_whole(self.path, device)
        if own is not None and own["training"] == self.job.training:
            self.run.load_state_dict(own["run"])
            log.info("goes on after step %d of %d", self.run.progress.step, self.run.steps)
            return True
        if self.job.trained is not None:
            other = checkpoint.load_if_whole(self.job.trained / checkpoint.FILE, device)
            if other is not None and other["training"] == self.job.training:
                self.run.load_state_dict(other["run"])
                log.info("takes the trained network of %s", self.job.trained.name)
        return False

    def _introduce(self, resumed: bool) -> None:
        """The row of hparams, the config, the first batch as the network gets it."""
        told = ("data", "model", "optimizer", "schedule", "regularization", "augmentation")
        shown = {group: _word(self.job.choices[group]) for group in told if self.job.choices.get(group)}
        shown |= {"optimizer.lr": self.config["optimizer"]["lr"] * self.config["lr_scale"]}
        shown |= {key: self.config[key] for key in ("seed", "epochs", "batch_size")}
        self.tracker.hparams(shown | {key: _word(value) for key, value in self.job.swept.items()})
        if resumed:
            return
        for row in self.run.progress.history:  # of a network trained by another run
            self.tracker.scalars(row["step"], _scalars(row))
        text = OmegaConf.to_yaml(OmegaConf.create(self.config))
        self.tracker.text("config", "    " + text.replace("\n", "\n    "))
        if self.run.schedule.foreseen:
            self.tracker.picture("schedule", 0, draw(self.run.schedule, self.run.rates[0]))
        if count := min(self.config["log"]["images"], self.config["batch_size"]):
            batch = self.run.preview(count)
            labels = [describe(target, self.splits.classes) for target in batch.targets.cpu()]
            images = self.run.normalize.undo(batch.images).cpu().numpy()
            self.tracker.picture("train/first_batch", 0, batch_grid(images, labels))
        self.tracker.flush()

    def _on_log(self, step: int, scalars: dict[str, float]) -> None:
        if self.tracker is not None:
            self.tracker.scalars(step, scalars)
        shown = {"train_loss": scalars["train/loss"]} if "train/loss" in scalars else {}
        self.listener.progress(step, self.run.steps, shown)

    def _on_epoch(self, row: dict[str, Any]) -> None:
        self.metrics.add(row)
        log.info("%s", " ".join(f"{key}={value:.5g}" for key, value in row.items() if value is not None))
        if self.tracker is not None:
            self.tracker.scalars(row["step"], _scalars(row))
        self.listener.progress(row["step"], self.run.steps, {k: v for k, v in row.items() if v is not None})

    def _on_pause(self, run: Run) -> None:
        if run.seconds() - self._saved >= self.config["checkpoint"]["seconds"]:
            self.save()

    def save(self) -> None:
        """Writes the checkpoint: the last state, with the best weights in it."""
        if self.tracker is not None:
            self.tracker.flush()  # else a kill after this save would lose what a resumed run does not do again
        state = {
            "training": self.job.training,
            "fingerprint": self.job.fingerprint,
            "run": self.run.state_dict(),
        }
        checkpoint.save(self.path, state)
        self._saved = self.run.seconds()

    def facts(self) -> dict[str, Any]:
        """What the result says of model, data and the way they ran."""
        splits, run = self.splits, self.run
        sizes = {name: len(split) for name in ("train", "val", "test") if (split := getattr(splits, name)) is not None}
        return {
            "parameters": sum(p.numel() for p in run.model.parameters()),
            "data": {
                "identity": splits.identity,
                **{"val": 0} | sizes,
                "classes": list(splits.classes),
                "skipped": list(splits.skipped),
            },
            "precision": str(run.precision).removeprefix("torch."),
            "channels_last": run.memory_format is torch.channels_last,
        }

    def reached(self) -> dict[str, Any]:
        """How far training came."""
        progress = self.run.progress
        best = None if progress.best is None else progress.best["epoch"]
        return {"epochs": len(progress.history), "seconds": round(self.run.seconds(), 3), "best_epoch": best}

    def outcome(self) -> dict[str, Any]:
        """Trains to the end, whichever it is, and says which."""
        try:
            train([self.run])
            found = self.finish()
        except Diverged as end:
            log.warning("diverged: %s", end.reason)
            good = self.run.progress.last_good
            kept = {key: good[key] for key in ("val_loss", "val_accuracy") if key in good}
            found = kept | {"status": "diverged", "reason": end.reason, "diverged_step": end.step}
        self.status = found["status"]
        return found

    def finish(self) -> dict[str, Any]:
        """After training: the chosen weights are validated, and tested this once."""
        self.save()
        run, tracker = self.run, self.tracker
        if run.progress.best_weights is not None:
            run.model.load_state_dict(run.progress.best_weights)
        members = run.parts.ensemble.members(run.model.eval())
        result: dict[str, Any] = {"status": "done"}
        if self.splits.val is not None:
            val = self._measure(members, self.splits.val)
            result |= {"val_accuracy": val.accuracy, "val_loss": val.loss}
        test = self._measure(members, self.splits.test)
        result |= {"test_accuracy": test.accuracy, "test_loss": test.loss}
        result["confusion"] = test.confusion.tolist()
        if tracker is not None:
            scalars = {"test/accuracy": test.accuracy, "test/loss": test.loss}
            tracker.scalars(run.progress.step, scalars)
            picture = confusion_matrix(test.confusion.numpy(), list(self.splits.classes))
            tracker.picture("test/confusion", run.progress.step, picture)
        return result

    def _measure(self, members: list[torch.nn.Module], split: Any) -> Measured:
        run = self.run
        return evaluate(
            members, split, run.normalize, run.autocast, run.batch_size, run.num_classes, run.parts.evaluation
        )


def _scalars(row: dict[str, Any]) -> dict[str, float]:
    tags = {
        "train_accuracy": "train/accuracy",
        "val_loss": "val/loss",
        "val_accuracy": "val/accuracy",
        "epoch": "epoch",
    }
    return {tag: row[key] for key, tag in tags.items() if row[key] is not None}


def _word(value: Any) -> Any:
    return "[" + ",".join(map(str, value)) + "]" if isinstance(value, list | tuple) else value


def describe(target: torch.Tensor, classes: tuple[str, ...]) -> str:
    """A target in words: the class, or the two largest shares (`cat .7 / dog .3`)."""
    if target.ndim == 0:
        return classes[int(target)]
    share, index = target.topk(2)
    words = [f"{classes[i]} {s:.2f}".replace("0.", ".") for s, i in zip(share.tolist(), index.tolist()) if s > 0]
    return " / ".join(words)


@contextlib.contextmanager
def process_settings(config: dict[str, Any], threads: int) -> Iterator[None]:
    """Threads, determinism and TF32 are the process's: set for the run, put back after it."""
    before, strict = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    tf32 = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(config["deterministic"])
    # fp32 means fp32: the last bits are given up only where bf16 or fp16 was asked for.
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.set_num_threads(before)
        torch.use_deterministic_algorithms(strict)
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = tf32
