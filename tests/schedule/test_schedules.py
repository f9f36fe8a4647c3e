"""Schedules: against torch's own, against the formulas, and one contract over every option."""

import math
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from torch.optim import lr_scheduler

from runner.__main__ import main
from runner.build.arguments import _type_error
from runner.core.context import Context
from runner.core.errors import ConfigError
from runner.core.targets import locate
from runner.schedule.base import Timeline
from runner.schedule.constant import Constant
from runner.schedule.cosine import Cosine
from runner.schedule.cyclic import Cyclic
from runner.schedule.exponential import Exponential
from runner.schedule.inverse_sqrt import InverseSqrt
from runner.schedule.inverse_time import InverseTime
from runner.schedule.linear import Linear
from runner.schedule.multistep import MultiStep
from runner.schedule.one_cycle import OneCycle
from runner.schedule.plateau import Plateau
from runner.schedule.polynomial import Polynomial
from runner.schedule.step import Step
from runner.schedule.warm_restarts import WarmRestarts
from runner.schedule.wsd import WarmupStableDecay
from runner.sweep.compose.explain import CONF
from runner.tracking.schedule_picture import draw, ticks

FILES = sorted((CONF / "schedule").glob("*.yaml"))
LINE = Timeline(60, 1)  # an epoch is a step: torch's schedulers count the same


def made(file: Path, timeline: Timeline, **more):
    """The schedule of a YAML with keys overridden."""
    node = OmegaConf.to_container(OmegaConf.load(file))
    target = locate("schedule", node.pop("_target_"), [])
    return target(timeline, **{**node, **more})


def of_torch(build, steps: int, lr: float = 1.0) -> list[float]:
    """The rates of a torch scheduler, one a step."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=lr)
    with warnings.catch_warnings():  # PolynomialLR and OneCycleLR complain of each other's habits
        warnings.simplefilter("ignore")
        scheduler = build(optimizer)
        found = []
        for _ in range(steps):
            found.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            scheduler.step()
    return found


@pytest.mark.parametrize(
    "mine, build",
    [
        (Step(LINE, every=7, gamma=0.3), lambda o: lr_scheduler.StepLR(o, 7, 0.3)),
        (MultiStep(LINE, [10, "50%", 45], 0.2), lambda o: lr_scheduler.MultiStepLR(o, [10, 30, 45], 0.2)),
        (Exponential(LINE, every=1, gamma=0.9), lambda o: lr_scheduler.ExponentialLR(o, 0.9)),
        (Cosine(LINE, floor=0.1), lambda o: lr_scheduler.CosineAnnealingLR(o, 60, 0.1)),
        (Linear(LINE, floor=0.2), lambda o: lr_scheduler.LinearLR(o, 1.0, 0.2, 60)),
        (Polynomial(LINE, power=2.5), lambda o: lr_scheduler.PolynomialLR(o, 60, 2.5)),
        (
            OneCycle(LINE, rise="30%", div_factor=20, final_div_factor=50),
            lambda o: lr_scheduler.OneCycleLR(
                o, 1.0, 60, pct_start=0.3, div_factor=20, final_div_factor=50, cycle_momentum=False
            ),
        ),
        (
            WarmRestarts(LINE, every=4, mult=2, floor=0.05),
            lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 4, 2, 0.05),
        ),
        (WarmRestarts(LINE, every="25%"), lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 15)),
        (
            Cyclic(LINE, low=0.1, up=5, down=7),
            lambda o: lr_scheduler.CyclicLR(o, 0.1, 1.0, 5, 7, cycle_momentum=False),
        ),
        (
            Cyclic(LINE, low=0.25, up="10%", gamma=0.5),
            lambda o: lr_scheduler.CyclicLR(o, 0.25, 1.0, 6, mode="triangular2", cycle_momentum=False),
        ),
        (Constant(LINE), lambda o: lr_scheduler.ConstantLR(o, 1.0)),
    ],
    ids=lambda value: type(value).__name__ if not callable(value) or isinstance(value, Constant) else None,
)
def test_schedules_are_torchs(mine, build):
    """Every step's multiplier is the rate of torch's scheduler of that name."""
    assert [mine(step) for step in range(60)] == pytest.approx(of_torch(build, 60), rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("steps", range(56, 64))
def test_all_cycles_but_the_last_are_torchs(steps):
    """Where cycles do not fill the run, they are torch's up to the beginning of the last one."""
    line = Timeline(steps, 1)
    for mine, build in (
        (WarmRestarts(line, every=7), lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 7)),
        (WarmRestarts(line, every=3, mult=2), lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 3, 2)),
        (Cyclic(line, up=4, down=9), lambda o: lr_scheduler.CyclicLR(o, 0.1, 1.0, 4, 9, cycle_momentum=False)),
    ):
        last = mine.cycles()[-2]
        assert last > 20
        assert [mine(step) for step in range(last)] == pytest.approx(of_torch(build, last), rel=1e-9, abs=1e-12)


def low_at_the_end(schedule) -> bool:
    """True where the last step has the lowest rate since the top of its cycle, and that is well below the top."""
    steps = schedule.timeline.steps
    begins = [schedule.warmup_steps, *schedule.cycles()][-2]
    rates = [schedule(step) for step in range(begins, steps)]
    falls = rates[rates.index(max(rates)) :]
    return falls == sorted(falls, reverse=True) and len(falls) > 1 and falls[-1] < 0.6 * falls[0]


@pytest.mark.parametrize("warmup", [0, "5%", 0.5])
@pytest.mark.parametrize(
    "make",
    [
        lambda line, warmup: WarmRestarts(line, warmup=warmup),
        lambda line, warmup: WarmRestarts(line, every="30%", mult=2, warmup=warmup),
        lambda line, warmup: WarmRestarts(line, every=0.7, mult=1.5, warmup=warmup),
        lambda line, warmup: WarmRestarts(line, every="100%", warmup=warmup),
        lambda line, warmup: Cyclic(line, warmup=warmup),
        lambda line, warmup: Cyclic(line, up="7%", down="13%", gamma=0.9, warmup=warmup),
        lambda line, warmup: Cyclic(line, up=1, down=0.2, warmup=warmup),
    ],
    ids=["default", "mult", "epochs", "one", "triangles", "uneven", "steep"],
)
def test_the_last_cycle_ends_with_the_run(make, warmup):
    """Every length of 10 to 2,000 steps: the last step is the low point of a cycle, and cycles lie side by side."""
    for steps in [*range(10, 400), *range(400, 2001, 37)]:
        schedule = make(Timeline(steps, max(5, steps // 6)), warmup)
        ends = [schedule.warmup_steps, *schedule.cycles()]
        assert ends[-1] == steps and all(end > begin for begin, end in zip(ends, ends[1:], strict=False))
        assert low_at_the_end(schedule), steps


def test_default_cycles_are_five_and_even():
    """A fifth of the run is a fifth: five cycles, equal but for a step, at every length."""
    for steps in range(10, 2001):
        for schedule in (WarmRestarts(Timeline(steps, steps)), Cyclic(Timeline(steps, steps))):
            lengths = np.diff([0, *schedule.cycles()])
            if steps > 14 or isinstance(schedule, WarmRestarts):  # shorter triangles have no slope to fall
                assert len(lengths) == 5 and lengths.max() - lengths.min() <= 1


@pytest.mark.parametrize("name", ["cosine", "linear", "polynomial", "wsd"])
def test_schedules_that_end_at_their_floor_reach_it_with_the_run(name):
    """Drawn out by one step, each would be at its floor: neither sooner nor later, with and without warm-up."""
    for steps in range(10, 200):
        for warmup in (0, "10%"):
            schedule = made(CONF / "schedule" / f"{name}.yaml", Timeline(steps, steps), warmup=warmup, floor=0.125)
            assert schedule(steps) == pytest.approx(0.125) and schedule(steps - 1) > 0.125


@pytest.mark.parametrize("metric, mode", [("val_loss", "min"), ("val_accuracy", "max"), ("train_loss", "min")])
@pytest.mark.parametrize("patience, cooldown", [(0, 0), (2, 0), (2, 3)])
def test_plateau_is_torchs(metric, mode, patience, cooldown):
    """The rate after each epoch is that of ReduceLROnPlateau, told the same numbers."""
    draws = torch.Generator().manual_seed(4)
    values = (1 / torch.arange(1, 41) ** 0.3 + 0.1 * torch.rand(40, generator=draws)).tolist()
    mine = Plateau(LINE, metric, 0.5, patience, 1e-2, cooldown, floor=0.02)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    theirs = lr_scheduler.ReduceLROnPlateau(
        optimizer, mode, 0.5, patience, threshold=1e-2, cooldown=cooldown, min_lr=0.02
    )
    rates = []
    for epoch, value in enumerate(values):
        mine.observe({metric: value})
        theirs.step(value)
        rates.append(mine(epoch))
        assert rates[-1] == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-12)
    assert rates[-1] < 1


def test_plateau_goes_on_from_its_state():
    """A plateau that loads another's state makes the same cuts from there."""
    first, values = Plateau(LINE, patience=1), [1.0, 0.5, 0.6, 0.7, 0.8, 0.9, 0.4, 0.5, 0.6, 0.7]
    for value in values[:4]:
        first.observe({"val_loss": value})
    second = Plateau(LINE, patience=1)
    second.load_state_dict(first.state_dict())
    for value in values[4:]:
        first.observe({"val_loss": value})
        second.observe({"val_loss": value})
        assert second(0) == first(0)
    assert first(0) == pytest.approx(0.3**3)


def test_plateau_without_validation_data_is_refused():
    """One line with the way out; watching the training loss is allowed."""
    values = dict.fromkeys(Context.__dataclass_fields__) | {"has_validation": False}
    line = Plateau(LINE).check(Context(**values))
    assert line == (
        "schedule.metric=val_loss: plateau watches validation data, and data.val_fraction is 0; "
        "set data.val_fraction=0.1 or schedule.metric=train_loss"
    )
    assert Plateau(LINE, metric="train_loss").check(Context(**values)) is None
    assert Plateau(LINE).check(Context(**values | {"has_validation": True})) is None


@pytest.mark.parametrize(
    "mine, formula",
    [
        (InverseTime(LINE, k=0.5, every=4), lambda t: 1 / (1 + 0.5 * t / 4)),
        (InverseSqrt(LINE, every=9, warmup=0), lambda t: 3 / math.sqrt(9 + t)),
        (WarmupStableDecay(LINE, cooldown="25%", warmup=0), lambda t: min(1, (60 - t) / 15)),
        (
            WarmupStableDecay(LINE, 20, "sqrt", 0, 0.1),
            lambda t: 1 if t <= 40 else 0.1 + 0.9 * (1 - ((t - 40) / 20) ** 0.5),
        ),
        (Exponential(LINE, every="10%", gamma=0.5), lambda t: 2 ** (-t / 6)),
        (Polynomial(LINE, 2.0, floor=0.5), lambda t: 0.5 + 0.5 * (1 - t / 60) ** 2),
        (WarmRestarts(LINE, 10, 1.5), lambda t: 0.5 + 0.5 * math.cos(math.pi * (t / 10 if t < 10 else (t - 10) / 15))),
    ],
)
def test_schedules_are_their_formulas(mine, formula):
    """Those that torch has not, or not with these keys."""
    steps = range(25) if isinstance(mine, WarmRestarts) else range(60)
    assert [mine(step) for step in steps] == pytest.approx([formula(step) for step in steps], rel=1e-12)


def test_inverse_sqrt_after_its_warmup_is_the_transformers():
    """Vaswani et al. 2017, equation 3, up to the constant: min(step ** -0.5, step * warmup ** -1.5)."""
    warmup = 12
    mine = InverseSqrt(LINE, every=warmup, warmup=warmup)
    theirs = [min(s**-0.5, s * warmup**-1.5) * warmup**0.5 for s in range(1, 61)]
    assert [mine(step) for step in range(warmup, 60)] == pytest.approx(theirs[warmup - 1 : 59], rel=1e-12)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
@pytest.mark.parametrize("timeline", [Timeline(100, 10), Timeline(97, 97)], ids=["epochs", "one epoch"])
def test_every_option_keeps_the_contract(file, timeline):
    """Named like its module; between floor and 1; a pure function; warm-up rises in a straight line to the decay."""
    node = OmegaConf.load(file)
    assert node._target_.split(".")[:3] == ["runner", "schedule", file.stem]
    assert file.read_text().startswith("# ") and {"warmup", "floor"} <= set(node)
    schedule = made(file, timeline, warmup="10%", floor=0.01)
    warmup = round(0.1 * timeline.steps)
    values = [schedule(step) for step in range(timeline.steps)]
    assert all(isinstance(value, float) and math.isfinite(value) for value in values)
    assert [schedule(step) for step in reversed(range(timeline.steps))] == values[::-1]
    assert max(values) <= 1 + 1e-12 and min(values[warmup:]) >= 0.01
    rises = np.diff(values[: warmup + 1])
    assert rises == pytest.approx(np.full(warmup, values[warmup] / (warmup + 1)))
    assert values[0] > 0
    fresh = made(file, timeline, warmup="10%", floor=0.01)
    fresh.load_state_dict(schedule.state_dict())
    assert [fresh(step) for step in range(timeline.steps)] == values
    assert schedule.foreseen is (file.stem != "plateau")


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_option_refuses_bad_values_in_one_line(file):
    """A warm-up as long as the run, a duration that is none, a floor above 1: the key, the value, the way out."""
    for key, value in (("warmup", "100%"), ("warmup", "soon"), ("warmup", -1), ("floor", 1.5)):
        with pytest.raises(ConfigError, match=f"^schedule.{key}={value}: ") as error:
            made(file, Timeline(100, 10), **{key: value})
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "make, said",
    [
        (lambda: Step(LINE, every=0), "schedule.every=0: must be at least one step"),
        (lambda: Exponential(LINE, every="0%"), "schedule.every=0%: must be at least one step"),
        (lambda: MultiStep(LINE, []), r"schedule.milestones=\[\]: must be times that grow"),
        (lambda: MultiStep(LINE, [5, 5]), r"schedule.milestones=\[5,5\]: must be times that grow"),
        (lambda: MultiStep(LINE, [5, 60]), r"schedule.milestones=\[5,60\]: 60 steps of a run of 60"),
        (lambda: OneCycle(LINE, rise=1), "schedule.rise=1: 1 steps of 60"),
        (lambda: OneCycle(LINE, rise="100%"), "schedule.rise=100%: 60 steps of 60"),
        (lambda: OneCycle(LINE, div_factor=0.5), "schedule.div_factor=0.5: must be at least 1"),
        (lambda: OneCycle(LINE, final_div_factor=0.01), "schedule.final_div_factor=0.01: must be at least 0.04"),
        (lambda: Cyclic(LINE, down=0), "schedule.down=0: must be at least one step"),
        (lambda: WarmRestarts(LINE, every=1), "schedule.every=1: 1 step of a run of 60, and a cycle needs 2"),
        (lambda: WarmRestarts(LINE, every=130), "schedule.every=130: a cycle of 130 steps, and this run has 60"),
        (lambda: WarmRestarts(LINE, 50, warmup=40), "schedule.every=50: a cycle of 50 steps, and this run has 20"),
        (lambda: Cyclic(LINE, up=50, down=80), "schedule.up=50 schedule.down=80: a cycle of 130 steps, and this run"),
        (lambda: Cyclic(Timeline(2, 2)), "schedule.up=10%: must be at least one step"),
        (lambda: WarmupStableDecay(LINE, cooldown="97%"), "schedule.cooldown=97%: with the warm-up 61 steps"),
        (lambda: Plateau(LINE, patience="x"), "schedule.patience=x: must be epochs"),
    ],
)
def test_a_bad_value_is_named(make, said):
    """Durations that leave no step, and combinations of them, one line each."""
    with pytest.raises(ConfigError, match=f"^{said}"):
        make()


@pytest.mark.parametrize(
    "target, key, value, said",
    [
        (Step, "gamma", 0, "must be above 0"),
        (MultiStep, "gamma", 1.1, "must be at most 1"),
        (InverseTime, "k", -1, "must be above 0"),
        (WarmRestarts, "mult", 0.5, "must be at least 1"),
        (Cyclic, "low", 2, "must be at most 1"),
        (WarmupStableDecay, "shape", "round", "must be 'linear' or 'sqrt'"),
        (Plateau, "metric", "test_loss", "must be 'val_loss', 'val_accuracy' or 'train_loss'"),
        (Plateau, "threshold", float("nan"), "must be a finite number"),
        (Polynomial, "power", "two", "must be a number"),
    ],
)
def test_ranges_stand_in_the_signatures(target, key, value, said):
    """The builder reads them there and says what is wrong before a schedule is made."""
    import typing

    hints = typing.get_type_hints(target.__init__, include_extras=True)
    assert said in _type_error(value, hints[key], None)


def test_the_picture_shows_the_line_and_is_quick():
    """uint8 [H, W, 3]; the line stands where the rate is; 100 epochs of 500 steps take under a second."""
    schedule = Step(Timeline(50_000, 500), every="50%", gamma=0.5)
    started = time.perf_counter()
    picture = draw(schedule, schedule.timeline, 0.1)
    assert time.perf_counter() - started < 1
    assert picture.dtype == np.uint8 and picture.shape == (400, 760, 3)
    blue = (np.abs(picture.astype(int) - (0, 114, 178)) < 12).all(-1)
    first, second = np.argwhere(blue[:, 200])[:, 0].mean(), np.argwhere(blue[:, 650])[:, 0].mean()
    bottom = 400 - 56  # half the rate is half the height
    assert (bottom - second) / (bottom - first) == pytest.approx(0.5, abs=0.02)
    assert draw(Constant(Timeline(1, 1)), Timeline(1, 1), 1e-5).shape == (400, 760, 3)


@pytest.mark.parametrize("most", [1e-5, 0.03, 0.1, 1.0, 7.0, 20.0, 300.0])
def test_ticks_are_round_and_enough(most):
    """From zero to at least the largest value, four to eight of them."""
    found = ticks(most)
    assert found[0] == 0 and most <= found[-1] <= most * 1.7 and 4 <= len(found) <= 8


def test_every_option_composes_with_the_rest(tmp_path, monkeypatch, capsys):
    """A dry run over all of them plans as many runs; plateau without validation data is refused."""
    monkeypatch.chdir(tmp_path)
    names = ",".join(file.stem for file in FILES)
    assert main(["-m", f"schedule={names}", "model=mlp", "epochs=5", "dry_run=true"]) == 0
    assert f"{len(FILES)} to run" in capsys.readouterr().out
    assert main(["schedule=plateau", "model=mlp", "data.val_fraction=0", "dry_run=true"]) == 2
    assert "schedule.metric=val_loss: plateau watches validation data" in capsys.readouterr().err
    assert main(["schedule=step", "schedule.gamma=2", "dry_run=true"]) == 2
    assert "schedule.gamma=2: must be at most 1" in capsys.readouterr().err


def test_a_run_shows_its_schedule_before_training(tmp_path, monkeypatch):
    """TensorBoard has the picture `schedule` at step 0; a plateau, which nobody foresees, has none."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    monkeypatch.chdir(tmp_path)
    words = ["-m", "schedule=cosine,plateau", "model=mlp", "epochs=1", "data.limit=200", "threads=1"]
    assert main([*words, "name=s"]) == 0
    for folder in (tmp_path / "outputs" / "s").glob("schedule=*"):
        events = EventAccumulator(str(folder), size_guidance={"images": 0}).Reload()
        images = events.Tags()["images"]
        assert ("schedule" in images) is folder.name.startswith("schedule=cosine")
        if "schedule" in images:
            assert [image.step for image in events.Images("schedule")] == [0]
