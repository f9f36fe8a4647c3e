"""Losses, predictions and penalties of steps, kept on the device until they are read."""

import math
from typing import Any

import torch
from torch import Tensor

from runner.train.progress import Diverged, Progress
from runner.train.protocols import Collective


class Meter:
    """Meter of a run: one small tensor a step; only `read` makes the host wait for the device."""

    def __init__(self) -> None:
        self.losses: list[Tensor] = []
        self.norm: Tensor | None = None  # of the gradient, before its last clipping
        self.penalties: dict[str, Tensor] = {}  # of the last step, by item
        self.since = 0  # step up to which losses have been read
        self._predictions: list[Tensor] = []
        self._labels: list[Tensor] = []

    def count(self, predictions: Tensor, labels: Tensor) -> None:
        """Add predictions `[B]` and labels `[B]` to the epoch's accuracy."""
        self._predictions.append(predictions)
        self._labels.append(labels)

    def predictions(self) -> Tensor:
        """Return all predictions that are not read yet, `[N]`."""
        return self._predictions[0] if len(self._predictions) == 1 else torch.cat(self._predictions)

    def penalize(self, name: str, part: Tensor, first: bool) -> None:
        """Add the penalty of a (micro-)batch; with `first` it replaces that of the last step."""
        self.penalties[name] = part if first else self.penalties[name] + part

    def clear(self) -> None:
        """Drop everything that is not read yet."""
        for tensors in (self.losses, self._predictions, self._labels):
            tensors.clear()

    def state_dict(self) -> dict[str, Any]:
        """Return everything that is not read yet, for a checkpoint."""
        return {
            "since": self.since,
            "losses": list(self.losses),
            "guesses": list(self._predictions),
            "labels": list(self._labels),
            "penalties": dict(self.penalties),
            "norm": self.norm,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a `state_dict`."""
        self.since, self.norm, self.penalties = state["since"], state["norm"], dict(state["penalties"])
        self.losses, self._predictions, self._labels = (list(state[key]) for key in ("losses", "guesses", "labels"))

    def read(self, progress: Progress, team: Collective | None) -> dict[str, float]:
        """Add the metrics to the progress and return the scalars to log. Raises `Diverged`."""
        losses = torch.stack(self.losses).tolist()
        bad = next((i for i, loss in enumerate(losses) if not math.isfinite(loss)), None)
        if bad is not None:
            good = progress.last_good | ({"train_loss": losses[bad - 1]} if bad else {})
            words = ", ".join(f"{key} {value:.4g}" for key, value in good.items()) or "none"
            step = self.since + bad + 1  # counted from 1, as in metrics.csv and TensorBoard
            raise Diverged(step, f"the loss was {losses[bad]} at step {step}; last good values: {words}")
        progress.loss_sum += math.fsum(losses)
        hits = (torch.cat(self._predictions) == torch.cat(self._labels)).sum()
        progress.hits += (hits if team is None else team.total(hits)).item()
        if team is not None:
            self.penalties = {name: team.total(part.clone()) for name, part in self.penalties.items()}
        self.clear()
        progress.last_good["train_loss"] = losses[-1]
        self.since = progress.step
        scalars = {"train/loss": math.fsum(losses) / len(losses)}
        scalars |= {f"train/penalty/{name}": value.item() for name, value in self.penalties.items()}
        return scalars | ({} if self.norm is None else {"grad_norm/before_clipping": float(self.norm)})
