"""Session: a training with its folder, tracker and checkpoint."""

import json
import logging
import math
import time
from typing import Any

import torch

from runner.core.interruption import Interrupted, check, deferred
from runner.core.listener import Listener
from runner.core.run_log import writing
from runner.core.seeds import generator
from runner.data.splits import Split
from runner.evaluation.evaluate import evaluate, examine
from runner.evaluation.metrics import DetailedResult
from runner.evaluation.standard import Standard
from runner.store import checkpoint
from runner.task.ensemble_facts import compare_members, write_facts
from runner.task.job import Job, failure
from runner.task.phases import TaskParts
from runner.task.recorder import Recorder, mean_row
from runner.task.resources import Resources
from runner.task.training import Training
from runner.train.progress import Diverged, Pruned
from runner.train.state import TrainState
from runner.transfer.finetune import broken_seals
from runner.transfer.published import transforms_input

log = logging.getLogger(__name__)


class Session(Training):
    """A training with its folder, tracker and checkpoint, from start or resume to its end."""

    def __init__(self, job: Job, resources: Resources, device: torch.device, listener: Listener):
        super().__init__(job, resources, device)
        resumed = self.resumed
        self.status: str | None = None
        self.stopped: dict[str, int] | None = None  # where an interrupted run continues
        self._rows = self._history()
        self.recorder = Recorder(job, self.run, self.splits, listener, self._rows, resumed)
        for run in self.runs:
            run.on_log, run.on_epoch, run.on_pause = self._ignore, self._on_epoch, self._on_pause
        self.run.on_log = self._on_log
        self._saved_at = time.perf_counter()
        self._saved_steps = self._steps() if resumed else [0] * len(self.runs)  # of the last checkpoint

    def __enter__(self) -> "Session":
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, Exception):
            self.status = failure(error)["status"]
        self.recorder.close(self.status)
        for run in self.runs:
            run.release()

    def _history(self) -> list[dict[str, Any]]:
        """Return a mean row for each epoch that all active runs have reached; ended runs count up to their end."""
        histories = [run.progress.history for run in self.runs]
        complete = min([len(run.progress.history) for run in self.runs if not run.ended] or [max(map(len, histories))])
        return [mean_row([history[i] for history in histories if len(history) > i]) for i in range(complete)]

    def _ignore(self, step: int, scalars: dict[str, float]) -> None:
        """Ignore the steps of further members: only the first member logs them."""

    def _on_log(self, step: int, scalars: dict[str, float]) -> None:
        with writing(self.job.folder):
            self.recorder.log(step, scalars)

    def _on_epoch(self, _: dict[str, Any]) -> None:
        with writing(self.job.folder):
            self._add_rows()

    def _add_rows(self) -> None:
        count, self._rows = len(self._rows), self._history()
        for row in self._rows[count:]:
            self.recorder.epoch(row)
            has_ended = all(run.ended for run in self.runs)
            if self.job.pruner is not None and (reason := self.job.pruner.stop_reason(row, has_ended)):
                raise Pruned(reason)

    def _on_pause(self, run: TrainState) -> None:
        aligned = len({run.progress.step for run in self.runs if not run.ended}) <= 1
        if aligned and time.perf_counter() - self._saved_at >= self.config["checkpoint"]["seconds"]:
            with writing(self.job.folder):
                self.save()

    def save(self, members: list[torch.nn.Module] | None = None) -> None:
        """Save the checkpoint: the last state with the best weights and, at the end, the `members` to evaluate."""
        self.recorder.flush()  # because a resumed run does not write these events again
        state = {
            "training": self.job.training,
            "fingerprint": self.job.fingerprint,
            "about": json.dumps(self._about()),
            "runs": [run.state_dict() for run in self.runs],
            "compile_reasons": [run.compile_reason for run in self.runs],  # text for the result
            "members": None if members is None else [member.state_dict() for member in members],
        }
        checkpoint.save(self.path, state)
        self._saved_at, self._saved_steps = time.perf_counter(), self._steps()

    def _steps(self) -> list[int]:
        return [run.progress.step for run in self.runs]

    def interrupt(self, saves: bool) -> None:
        """Note the step at which an interrupted run continues. `saves`: it is between two steps and can be saved."""
        if saves and self._steps() != self._saved_steps and not any(run.dropped for run in self.runs):
            self.save()
        self.stopped = {"step": min(self._saved_steps), "steps": self.run.steps}
        log.info("interrupted; goes on after step %d of %d", *self.stopped.values())

    def _about(self) -> dict[str, Any]:
        """Return the description that another program needs to use the weights."""
        splits = self.splits
        return {
            "config": self.config,
            "choices": self.job.choices,
            "classes": splits.classes,
            "channels": splits.channels,
            "image_channels": splits.train.shape[0],
            "transform_input": transforms_input(self.run.model),
            "size": splits.size,
            "side": splits.train.shape[1],
            "identity": splits.identity,
            "mean": splits.mean.tolist(),
            "std": splits.std.tolist(),
        }

    def facts(self) -> dict[str, Any]:
        """Return the facts for the result about model, data and execution."""
        splits, run = self.splits, self.run
        sizes = {name: len(split) for name in ("train", "val", "test") if (split := getattr(splits, name)) is not None}
        return {
            "parameters": sum(p.numel() for p in run.model.parameters()),
            "data": {
                "identity": splits.identity,
                **{"val": 0} | sizes,
                "classes": list(splits.classes),
                "channels": splits.train.shape[0],
                "skipped": list(splits.skipped),
            },
            "transfer": self._transfer(),
            "select": run.selection.fact(),
            "precision": str(run.precision).removeprefix("torch."),
            "channels_last": run.memory_format is torch.channels_last,
            "processes": 1 if run.team is None else run.team.size,
        }

    def _transfer(self) -> dict[str, Any]:
        """Return the origin of pretrained weights and the plan of each stage."""
        run = self.run
        audit = run.transfer.audit
        rows = [vars(row) for row in run.transfer.table(run.model)]
        stages = {"stages": rows, "cache": self.cached[0]}
        if audit is None:
            return {"weights": None} | stages
        lists = {key: getattr(audit, key) for key in ("adapted", "unfit", "missing", "unused")}
        return {"weights": audit.origin, "loaded": len(audit.loaded), **lists} | stages

    def reached(self) -> dict[str, Any]:
        """Return the facts for the result about the progress of the training."""
        progress = self.run.progress
        best = None if progress.best is None else progress.best["epoch"]
        facts = {"epochs": len(self._rows), "seconds": round(self.run.seconds(), 3), "best_epoch": best}
        facts |= {} if self.stopped is None else {"stopped": self.stopped}
        return facts | self.run.chosen | ({"fused": self.run.fused} if self.run.fused else {})

    def outcome(self) -> TaskParts:
        """Yield this session, ready to train; afterwards the result of its end, whichever it is."""
        try:
            yield self
            self.raise_end()
            check()
            result = self.finish()
        except Diverged as end:
            log.warning("diverged: %s", end.reason)
            good = self.run.progress.last_good
            kept = {key: good[key] for key in ("val_loss", "val_accuracy") if key in good}
            result = kept | {"status": "diverged", "reason": end.reason, "diverged_step": end.step}
        except KeyboardInterrupt as end:  # a plain one may come in the middle of a step
            self.interrupt(saves=isinstance(end, Interrupted))
            raise
        except Pruned as end:
            log.info("pruned: %s", end)
            last = self._rows[-1]
            result = {"status": "pruned", "reason": str(end)} | {key: last[key] for key in ("val_loss", "val_accuracy")}
        self.status = result["status"]
        yield result

    def finish(self) -> dict[str, Any]:
        """Validate and test the selected weights after training; return the result."""
        run = self.run
        for member, sealed in zip(self.runs, self.sealed):
            if broken := broken_seals(member.model, sealed):
                raise RuntimeError(f"frozen, and yet it changed: {', '.join(broken[:5])}")
        with deferred():
            for member in self.runs:
                if member.progress.best_weights is not None:
                    member.ensemble.watched(member).load_state_dict(member.progress.best_weights)
            members = [network.eval() for network in run.ensemble.members(self.runs)]
            self.save(members)
        check()
        result: dict[str, Any] = {"status": "done"}
        for name in ("val", "test"):
            split = getattr(self.splits, name)
            if split is None:
                continue
            examined = self._examine(members, split)
            if not math.isfinite(examined.loss):
                raise Diverged(run.progress.step, f"the {name} loss was {examined.loss} after training")
            result |= {f"{name}_{key}": value for key, value in examined.numbers(self.splits.classes).items()}
        result["confusion"] = examined.confusion.tolist()
        result["ensemble"] = examined.ensemble or self._compare_members(examined.accuracy)
        if result["ensemble"] is not None:
            write_facts(result["ensemble"], "test", self.job.folder, self.recorder.tracker, run.progress.step)
        self.recorder.tested(result, examined)
        return result

    def _examine(self, members: list[torch.nn.Module], split: Split) -> DetailedResult:
        run, evaluation = self.run, self.run.parts.evaluation
        evaluation.begin(run.pipeline, generator(self.config["seed"], "evaluation", run.device))
        if type(evaluation) is Standard:  # other evaluations need the images
            members = run.as_members(members, split)
        return examine(
            members,
            split,
            run.normalize,
            run.autocast,
            run.batch_size,
            run.num_classes,
            evaluation,
            run.ensemble.average,
        )

    def _compare_members(self, accuracy: float) -> dict[str, Any] | None:
        """Return the facts of a weight average beside the averaged networks; None without any."""
        run, test = self.run, self.splits.test
        settings = test, run.normalize, run.autocast, run.batch_size, run.num_classes
        networks = run.ensemble.compared(self.runs)
        accuracies = [evaluate(run.as_members([network.eval()], test), *settings).accuracy for network in networks]
        return compare_members(accuracy, accuracies) if accuracies else None
