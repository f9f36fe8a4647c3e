"""What a run finds in its steps, kept on the device until somebody looks."""

import math
from typing import Any

import torch
from torch import Tensor

from runner.train.progress import Diverged, Progress
from runner.train.protocols import Collective


class Meter:
    """One small tensor a step; `read` is the one place where the host waits for the device."""

    def __init__(self) -> None:
        self.losses: list[Tensor] = []
        self.norm: Tensor | None = None  # of the gradient before it was last clipped
        self.penalties: dict[str, Tensor] = {}  # the last step's, by item
        self.since = 0  # the step up to which losses were read
        self._predictions: list[Tensor] = []
        self._labels: list[Tensor] = []

    def count(self, predictions: Tensor, labels: Tensor) -> None:
        """Takes answers `[B]` and labels `[B]` into the epoch's accuracy."""
        self._predictions.append(predictions)
        self._labels.append(labels)

    def predictions(self) -> Tensor:
        """All that were counted and not read, `[B]`."""
        return self._predictions[0] if len(self._predictions) == 1 else torch.cat(self._predictions)

    def penalize(self, name: str, part: Tensor, first: bool) -> None:
        """A penalty of a (micro-)batch, `first` of its step."""
        self.penalties[name] = part if first else self.penalties[name] + part

    def clear(self) -> None:
        """Forgets what was not read."""
        for kept in (self.losses, self._predictions, self._labels):
            kept.clear()

    def state_dict(self) -> dict[str, Any]:
        """Return what was not read yet, for a checkpoint."""
        return {
            "since": self.since,
            "losses": list(self.losses),
            "guesses": list(self._predictions),
            "labels": list(self._labels),
            "penalties": dict(self.penalties),
            "norm": self.norm,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The counterpart of `state_dict`."""
        self.since, self.norm, self.penalties = state["since"], state["norm"], dict(state["penalties"])
        self.losses, self._predictions, self._labels = (list(state[key]) for key in ("losses", "guesses", "labels"))

    def read(self, progress: Progress, team: Collective | None) -> dict[str, float]:
        """Moves what was found into the progress; returns what is to be logged. Raises `Diverged`."""
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
        found = {"train/loss": math.fsum(losses) / len(losses)}
        found |= {f"train/penalty/{name}": value.item() for name, value in self.penalties.items()}
        return found | ({} if self.norm is None else {"grad_norm/before_clipping": float(self.norm)})
