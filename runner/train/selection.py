"""Resolve `checkpoint.select`: the epoch that provides the tested weights. Imports no torch."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from runner.schedule.base import Schedule

LOW = 0.1  # of the highest rate: a schedule that ends below it has converged
SAMPLES = 1000  # steps at which a schedule is evaluated
GOLDEN = 0.6180339887498949  # its multiples modulo 1 cover the run evenly and align with no cycle

Rule = Literal["last", "val_loss", "val_accuracy"]


@dataclass(frozen=True)
class Selection:
    """Rule that selects the tested weights: `last` epoch, or the epoch with the best value of a metric."""

    rule: Rule
    reason: str

    @property
    def keeps_best(self) -> bool:
        """Return whether the weights of the best epoch so far are kept beside the last."""
        return self.rule != "last"

    def fact(self) -> dict[str, str]:
        """Return the entry `select` of result.json."""
        return {"rule": self.rule, "reason": self.reason}


def select_weights(
    config: Mapping[str, Any], schedule: "Schedule", has_validation: bool, has_own_members: bool = False
) -> Selection:
    """Return the resolved `checkpoint.select` of a run.

    has_own_members: the ensemble predicts with members of its own, such as snapshots at a schedule's cycles.
    """
    checkpoint = config["checkpoint"]
    if checkpoint["select"] == "last":
        return Selection("last", "checkpoint.select=last")
    if not has_validation:
        return Selection("last", "there are no validation images")
    if checkpoint["select"] == "best":
        return Selection(checkpoint["metric"], "checkpoint.select=best")
    if has_own_members:
        return Selection("last", "the snapshots answer")
    if (patience := config["early_stopping"]["patience"]) is not None:
        return Selection("val_loss", f"early_stopping.patience={patience} may end the run at a high rate")
    if not schedule.foreseen:
        return Selection("val_loss", "where the schedule ends is not known before training")
    share = final_share(schedule)
    ends = f"the schedule ends at {100 * share:.3g} % of its highest rate"
    return Selection("last", f"{ends}, and nothing stops early") if share < LOW else Selection("val_loss", ends)


def needs_validation(config: Mapping[str, Any]) -> bool:
    """Return whether `checkpoint.select` needs validation images."""
    return config["checkpoint"]["select"] == "best"


def final_share(schedule: "Schedule") -> float:
    """Return the rate of the last step over the highest rate; long runs are sampled at a thousand steps."""
    last = schedule.timeline.steps - 1
    steps = range(last) if last <= SAMPLES else (int(i * GOLDEN % 1 * last) for i in range(SAMPLES))
    end = schedule(last)
    highest = max(end, *map(schedule, steps)) if last else end
    return end / highest if highest > 0 else 1.0
