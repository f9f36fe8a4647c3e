"""Snapshots: the ends of cycles, and the members taken there."""

from pathlib import Path

import numpy as np
import pytest

from runner.build.complaints import Refused
from runner.core.errors import ConfigError
from runner.schedule.base import Schedule, Timeline
from runner.schedule.cyclic import Cyclic
from runner.schedule.warm_restarts import WarmRestarts
from runner.store import checkpoint
from tests.shared.averages import preflight, recorded, state


def falls(schedule):
    """Steps after which the rate jumps up or begins to rise, and the last: cycle ends, seen from outside."""
    rates = [schedule(step) for step in range(schedule.timeline.steps)]
    return [
        step
        for step in range(1, len(rates))
        if rates[step] > rates[step - 1] and (step < 2 or rates[step - 1] <= rates[step - 2])
    ]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"every": "25%"}, [25, 50, 75, 100]),
        ({"every": "30%"}, [30, 60, 100]),
        ({"every": "10%", "mult": 2.0}, [10, 30, 100]),
        ({"every": "20%", "warmup": "20%"}, [40, 60, 80, 100]),
        ({"every": "20%", "warmup": "5%"}, [25, 45, 65, 85, 100]),
        ({"every": "100%"}, [100]),
    ],
)
def test_ends_of_warm_restarts(options, expected):
    """Cosines end where the rate jumps back, and with the run."""
    schedule = WarmRestarts(Timeline(100, 10), **options)
    assert schedule.cycles() == expected
    jumps = [step for step in falls(schedule) if step > schedule.warmup_steps]
    assert [end for end in expected if end < 100] == jumps[: len([end for end in expected if end < 100])]


def test_ends_of_triangles():
    """A triangle ends where the rate has fallen."""
    assert Cyclic(Timeline(100, 10), up="10%").cycles() == [20, 40, 60, 80, 100]
    assert Cyclic(Timeline(100, 10), up="10%", down="20%", warmup="5%").cycles() == [35, 65, 100]


def test_the_last_cycle_ends_with_the_run():
    """Shares of a run are shares of it, however they are rounded; a rest of half a cycle is one, a smaller one none."""
    assert WarmRestarts(Timeline(98, 10), every="20%").cycles() == [20, 39, 59, 78, 98]
    assert WarmRestarts(Timeline(96, 10), every=2).cycles() == [20, 40, 60, 80, 96]
    assert WarmRestarts(Timeline(90, 10), every=2).cycles() == [20, 40, 60, 80, 90]
    assert WarmRestarts(Timeline(89, 10), every=2).cycles() == [20, 40, 60, 89]


def test_most_schedules_have_no_cycles():
    """The base has none."""
    assert Schedule(Timeline(100, 10)).cycles() == []


def test_snapshots():
    """The members are the weights at the ends of the last cycles, the oldest first."""
    schedule = ("schedule=warm_restarts", "schedule.every=25%")
    run, rows = recorded("ensemble=snapshot", "ensemble.members=3", *schedule)
    members = run.ensemble.members([run])
    np.testing.assert_array_equal([state(member) for member in members], rows[[6, 9, 12]])
    assert run.ensemble.compared([run]) == []
    inside = np.linalg.norm(rows[6] - rows[9])
    assert inside > 0


def test_snapshots_after_a_warm_up(cli):
    """Warm-up leaves room for the five cycles that snapshots need at their defaults."""
    words = ("ensemble=snapshot", "schedule=warm_restarts", "schedule.warmup=5%", "model=mlp", "epochs=3")
    code, _, err = cli(*words, "log.tensorboard=false", "name=snapshots")
    assert (code, err) == (0, "")
    (folder,) = (path for path in Path("outputs/snapshots").glob("[!.]*") if path.is_dir())
    members = checkpoint.load(folder / checkpoint.FILE)["members"]
    assert len(members) == 5
    assert len({tuple(member["head.weight"].flatten().tolist()) for member in members}) == 5


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        ((), "ensemble=snapshot: this schedule has no cycles that end within the run; use schedule=warm_restarts"),
        (("schedule=cosine",), "ensemble=snapshot: this schedule has no cycles"),
        (("schedule=warm_restarts", "ensemble.members=6"), "ensemble.members=6: the schedule ends 5 cycles within"),
        (("schedule=warm_restarts", "early_stopping.patience=3"), "early_stopping.patience=3: the first cycle could"),
    ],
)
def test_snapshots_need_cycles(overrides, line):
    """A schedule without cycles, or with too few, is refused before training."""
    with pytest.raises(Refused) as caught:
        preflight("ensemble=snapshot", *overrides)
    assert caught.value.lines[0].startswith(line) and len(caught.value.lines) == 1


@pytest.mark.parametrize("name", ["independent", "snapshot"])
def test_one_is_no_ensemble(name):
    """It has at least two members."""
    with pytest.raises(ConfigError, match="ensemble.members=1: an ensemble has at least 2; or ensemble=none"):
        preflight(f"ensemble={name}", "ensemble.members=1", "schedule=warm_restarts")
