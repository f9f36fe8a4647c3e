"""A run with its folder: what it writes, shows and keeps, from where it stood to its end."""

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
from runner.evaluation.metrics import Examined
from runner.evaluation.standard import Standard
from runner.store import checkpoint
from runner.task.ensemble_facts import compared, tell
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
    """A run with its folder, tracker and checkpoint, from where it stood to its end."""

    def __init__(self, job: Job, resources: Resources, device: torch.device, listener: Listener):
        super().__init__(job, resources, device)
        resumed = self.resumed
        self.status: str | None = None
        self.stopped: dict[str, int] | None = None  # where an interrupted run goes on
        self._rows = self._history()
        self.recorder = Recorder(job, self.run, self.splits, listener, self._rows, resumed)
        for run in self.runs:
            run.on_log, run.on_epoch, run.on_pause = self._ignore, self._on_epoch, self._on_pause
        self.run.on_log = self._on_log
        self._saved = time.perf_counter()
        self._kept = self._steps() if resumed else [0] * len(self.runs)  # of the checkpoint that is there

    def __enter__(self) -> "Session":
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, Exception):
            self.status = failure(error)["status"]
        self.recorder.close(self.status)
        for run in self.runs:
            run.release()

    def _history(self) -> list[dict[str, Any]]:
        """A row for each epoch that all runs have reached, or did not live to see: the mean over them."""
        histories = [run.progress.history for run in self.runs]
        sure = min([len(run.progress.history) for run in self.runs if not run.ended] or [max(map(len, histories))])
        return [mean_row([history[i] for history in histories if len(history) > i]) for i in range(sure)]

    def _ignore(self, step: int, scalars: dict[str, float]) -> None:
        """The steps of further members are theirs alone."""

    def _on_log(self, step: int, scalars: dict[str, float]) -> None:
        with writing(self.job.folder):
            self.recorder.log(step, scalars)

    def _on_epoch(self, _: dict[str, Any]) -> None:
        with writing(self.job.folder):
            self._add_rows()

    def _add_rows(self) -> None:
        known, self._rows = len(self._rows), self._history()
        for row in self._rows[known:]:
            self.recorder.epoch(row)
            ended = all(run.ended for run in self.runs)
            if self.job.pruner is not None and (reason := self.job.pruner.stop_reason(row, ended)):
                raise Pruned(reason)

    def _on_pause(self, run: TrainState) -> None:
        together = len({run.progress.step for run in self.runs if not run.ended}) <= 1
        if together and time.perf_counter() - self._saved >= self.config["checkpoint"]["seconds"]:
            with writing(self.job.folder):
                self.save()

    def save(self, members: list[torch.nn.Module] | None = None) -> None:
        """Writes the checkpoint: the last state, with the best weights in it; in the end, the networks that answer."""
        self.recorder.flush()  # else a kill after this save would lose what a resumed run does not do again
        state = {
            "training": self.job.training,
            "fingerprint": self.job.fingerprint,
            "about": json.dumps(self._about()),
            "runs": [run.state_dict() for run in self.runs],
            "compile_reasons": [run.compile_reason for run in self.runs],  # words for the result
            "members": None if members is None else [member.state_dict() for member in members],
        }
        checkpoint.save(self.path, state)
        self._saved, self._kept = time.perf_counter(), self._steps()

    def _steps(self) -> list[int]:
        return [run.progress.step for run in self.runs]

    def interrupt(self, saves: bool) -> None:
        """Keep where an interrupted run goes on. `saves`: it stands between two steps, so that it can be saved."""
        if saves and self._steps() != self._kept and not any(run.dropped for run in self.runs):
            self.save()
        self.stopped = {"step": min(self._kept), "steps": self.run.steps}
        log.info("interrupted; goes on after step %d of %d", *self.stopped.values())

    def _about(self) -> dict[str, Any]:
        """What another program must know to use the weights."""
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
        """What the result says of model, data and the way they ran."""
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
        """Which weights came from elsewhere, and which stages never train."""
        run = self.run
        audit = run.transfer.audit
        rows = [vars(row) for row in run.transfer.table(run.model)]
        told = {"stages": rows, "cache": self.cached[0]}
        if audit is None:
            return {"weights": None} | told
        kept = {key: getattr(audit, key) for key in ("adapted", "unfit", "missing", "unused")}
        return {"weights": audit.origin, "loaded": len(audit.loaded), **kept} | told

    def reached(self) -> dict[str, Any]:
        """How far training came."""
        progress = self.run.progress
        best = None if progress.best is None else progress.best["epoch"]
        told = {"epochs": len(self._rows), "seconds": round(self.run.seconds(), 3), "best_epoch": best}
        told |= {} if self.stopped is None else {"stopped": self.stopped}
        return told | self.run.chosen | ({"fused": self.run.fused} if self.run.fused else {})

    def outcome(self) -> TaskParts:
        """Yield this session, which is ready to train; then its end, whichever it is."""
        try:
            yield self
            self.raise_end()
            check()
            found = self.finish()
        except Diverged as end:
            log.warning("diverged: %s", end.reason)
            good = self.run.progress.last_good
            kept = {key: good[key] for key in ("val_loss", "val_accuracy") if key in good}
            found = kept | {"status": "diverged", "reason": end.reason, "diverged_step": end.step}
        except KeyboardInterrupt as end:  # a plain one comes from anywhere in a step
            self.interrupt(saves=isinstance(end, Interrupted))
            raise
        except Pruned as end:
            log.info("pruned: %s", end)
            last = self._rows[-1]
            found = {"status": "pruned", "reason": str(end)} | {key: last[key] for key in ("val_loss", "val_accuracy")}
        self.status = found["status"]
        yield found

    def finish(self) -> dict[str, Any]:
        """After training: the chosen weights are validated, and tested this once."""
        run = self.run
        for one, sealed in zip(self.runs, self.sealed):
            if broken := broken_seals(one.model, sealed):
                raise RuntimeError(f"frozen, and yet it changed: {', '.join(broken[:5])}")
        with deferred():
            for one in self.runs:
                if one.progress.best_weights is not None:
                    one.ensemble.watched(one).load_state_dict(one.progress.best_weights)
            members = [member.eval() for member in run.ensemble.members(self.runs)]
            self.save(members)
        check()
        result: dict[str, Any] = {"status": "done"}
        for name in ("val", "test"):
            split = getattr(self.splits, name)
            if split is None:
                continue
            found = self._examine(members, split)
            if not math.isfinite(found.loss):
                raise Diverged(run.progress.step, f"the {name} loss was {found.loss} after training")
            result |= {f"{name}_{key}": value for key, value in found.numbers(self.splits.classes).items()}
        result["confusion"] = found.confusion.tolist()
        result["ensemble"] = found.ensemble or self._compared(found.accuracy)
        if result["ensemble"] is not None:
            tell(result["ensemble"], "test", self.job.folder, self.recorder.tracker, run.progress.step)
        self.recorder.tested(result, found)
        return result

    def _examine(self, members: list[torch.nn.Module], split: Split) -> Examined:
        run, evaluation = self.run, self.run.parts.evaluation
        evaluation.begin(run.pipeline, generator(self.config["seed"], "evaluation", run.device))
        if type(evaluation) is Standard:  # others look at the images themselves
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

    def _compared(self, accuracy: float) -> dict[str, Any] | None:
        """An average of weights beside the networks that went into it."""
        run = self.run
        test = self.splits.test
        found = [
            evaluate(
                run.as_members([network.eval()], test),
                test,
                run.normalize,
                run.autocast,
                run.batch_size,
                run.num_classes,
            )
            for network in run.ensemble.compared(self.runs)
        ]
        return compared(accuracy, [one.accuracy for one in found]) if found else None
