"""Which epoch's weights a run tests: the one decision behind `checkpoint.select`. Imports no torch."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from runner.schedule.base import Schedule

LOW = 0.1  # of the highest rate: a schedule that ends below it has come to rest
SAMPLES = 1000  # steps at which a schedule is looked at
GOLDEN = 0.6180339887498949  # multiples of it, modulo 1, fill the run evenly and fall into step with no cycle

Rule = Literal["last", "val_loss", "val_accuracy"]


@dataclass(frozen=True)
class Selection:
    """`rule`: `last` epoch, or the metric that is best at the epoch whose weights are tested."""

    rule: Rule
    reason: str

    @property
    def keeps_best(self) -> bool:
        """Whether the weights of the best epoch so far are kept beside the last."""
        return self.rule != "last"

    def fact(self) -> dict[str, str]:
        """Return what a result records."""
        return {"rule": self.rule, "reason": self.reason}


def select_weights(
    config: Mapping[str, Any], schedule: "Schedule", has_validation: bool, answers_elsewhere: bool = False
) -> Selection:
    """Return the resolved `checkpoint.select` of a run.

    answers_elsewhere: the networks that answer are no epoch's (snapshots of a schedule's cycles).
    """
    keep = config["checkpoint"]
    if keep["select"] == "last":
        return Selection("last", "checkpoint.select=last")
    if not has_validation:
        return Selection("last", "there are no validation images")
    if keep["select"] == "best":
        return Selection(keep["metric"], "checkpoint.select=best")
    if answers_elsewhere:
        return Selection("last", "the snapshots answer")
    if (patience := config["early_stopping"]["patience"]) is not None:
        return Selection("val_loss", f"early_stopping.patience={patience} may end the run at a high rate")
    if not schedule.foreseen:
        return Selection("val_loss", "where the schedule ends is not known before training")
    share = final_share(schedule)
    ends = f"the schedule ends at {100 * share:.3g} % of its highest rate"
    return Selection("last", f"{ends}, and nothing stops early") if share < LOW else Selection("val_loss", ends)


def needs_validation(config: Mapping[str, Any]) -> bool:
    """Return whether the typed choice cannot do without validation images."""
    return config["checkpoint"]["select"] == "best"


def final_share(schedule: "Schedule") -> float:
    """Return the rate of the last step over the highest one; of long runs, over the highest of a thousand steps."""
    last = schedule.timeline.steps - 1
    steps = range(last) if last <= SAMPLES else (int(i * GOLDEN % 1 * last) for i in range(SAMPLES))
    end = schedule(last)
    highest = max(end, *map(schedule, steps)) if last else end
    return end / highest if highest > 0 else 1.0
