"""Surfaces: their formulas, walks on them against plain loops, the verdicts, the task and its overlays."""

import csv
import json
import math

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from runner.__main__ import main
from runner.core.errors import ConfigError
from runner.core.targets import locate
from runner.report import write_report
from runner.schedule.base import Timeline
from runner.schedule.constant import Constant
from runner.schedule.cosine import Cosine
from runner.surface.beale import Beale
from runner.surface.himmelblau import Himmelblau
from runner.surface.monkey_saddle import MonkeySaddle
from runner.surface.plateau import Plateau
from runner.surface.rastrigin import Rastrigin
from runner.surface.ravine import Ravine
from runner.surface.rosenbrock import Rosenbrock
from runner.surface.saddle import Saddle
from runner.surface.trajectory import LOST, SurfaceObjective, Walk, oscillates, steps_to, verdict, walk
from runner.sweep.compose.explain import CONF
from runner.task.resources import Resources

FILES = sorted((CONF / "surface").glob("*.yaml"))
ALL = (Beale, Himmelblau, MonkeySaddle, Plateau, Rastrigin, Ravine, Rosenbrock, Saddle)
FAST = ["threads=1", "log.tensorboard=false"]


def slopes(surface, x, y):
    """The gradients as they are derived by hand."""
    if isinstance(surface, Ravine):
        return x / surface.condition, y
    if isinstance(surface, Saddle):
        return x, y**3 - y
    if isinstance(surface, MonkeySaddle):
        r2 = x**2 + y**2
        return 3 * x**2 - 3 * y**2 + 3 * r2 * x, -6 * x * y + 3 * r2 * y
    if isinstance(surface, Rosenbrock):
        return -2 * (1 - x) - 400 * x * (y - x**2), 200 * (y - x**2)
    if isinstance(surface, Beale):
        a, b, c = 1.5 - x + x * y, 2.25 - x + x * y**2, 2.625 - x + x * y**3
        return (
            2 * a * (y - 1) + 2 * b * (y**2 - 1) + 2 * c * (y**3 - 1),
            2 * a * x + 4 * b * x * y + 6 * c * x * y**2,
        )
    if isinstance(surface, Himmelblau):
        a, b = x**2 + y - 11, x + y**2 - 7
        return 4 * x * a + 2 * b, 2 * a + 4 * y * b
    if isinstance(surface, Rastrigin):
        return tuple(2 * t + 20 * math.pi * math.sin(2 * math.pi * t) for t in (x, y))
    well = math.exp(-(x**2 + y**2) / 2)
    return x * well, y * well


def gradient(surface, point):
    """By automatic differentiation."""
    at = torch.tensor(point, dtype=torch.float64, requires_grad=True)
    (found,) = torch.autograd.grad(surface(at), at)
    return found.tolist()


def point(surface):
    """The optimizer's weights at the surface's start."""
    return (torch.tensor(surface.start, dtype=torch.float64) / surface.unit).requires_grad_()


def walked(surface, optimizer, steps, schedule=None, seed=0):
    """A walk with a constant rate unless told otherwise."""
    schedule = schedule or Constant(Timeline(steps, 1))
    return walk(surface, optimizer, schedule, steps, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("kind", ALL)
def test_the_gradient_is_the_hand_written_one(kind):
    """At twenty points of the picture, with another scale than the default."""
    surface = kind(scale=0.7)
    left, right, bottom, top = surface.domain
    for x, y in np.random.default_rng(0).uniform((left, bottom), (right, top), (20, 2)).tolist():
        expected = [0.7 * slope for slope in slopes(surface, x, y)]
        assert gradient(surface, (x, y)) == pytest.approx(expected, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("kind", ALL)
def test_minima_and_saddles_are_what_they_say(kind):
    """No point of the picture is lower than a minimum; a saddle is flat and has lower and higher neighbours."""
    surface = kind()
    _, _, values = surface.grid(160, 120)
    for minimum in surface.minima:
        height = float(surface(torch.tensor(minimum, dtype=torch.float64)))
        assert height == pytest.approx(surface.minimum, abs=1e-12)
        assert gradient(surface, minimum) == pytest.approx((0, 0), abs=1e-12)
        assert height <= float(values.min()) + 1e-12
    for saddle in surface.saddles:
        assert gradient(surface, saddle) == pytest.approx((0, 0), abs=1e-7)
        angles = torch.linspace(0, 2 * math.pi, 64, dtype=torch.float64)
        around = torch.tensor(saddle, dtype=torch.float64)[:, None] + 0.01 * torch.stack([angles.cos(), angles.sin()])
        here = surface(torch.tensor(saddle, dtype=torch.float64))
        assert surface(around).min() < here < surface(around).max()


@pytest.mark.parametrize("kind", ALL)
def test_surfaces_draw_on_grids_in_any_precision(kind):
    """A grid gives the values that its points give; float32 stays float32."""
    surface = kind()
    x, y, values = surface.grid(7, 5)
    assert values.shape == (5, 7)
    assert float(values[3, 2]) == float(surface(torch.stack([x[2], y[3]])))
    assert surface(torch.zeros(2)).dtype == torch.float32


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_option_keeps_the_contract(file):
    """Named like its module, defaults those of the class, start and minima in the picture, an outside start refused."""
    node = OmegaConf.to_container(OmegaConf.load(file))
    target = node.pop("_target_")
    assert target.split(".")[:3] == ["runner", "surface", file.stem]
    kind = locate("surface", target, [])
    assert {"scale", "unit", "noise", "start"} <= set(node)
    assert vars(kind(**node)) == vars(kind())
    left, right, bottom, top = kind.domain
    assert all(left < x < right and bottom < y < top for x, y in kind().minima)
    with pytest.raises(ConfigError, match=r"^surface.start=\[99,0\]: outside the picture"):
        kind(start=[99, 0])


def test_there_is_a_file_for_every_surface():
    """The test's list and the folder agree."""
    assert {file.stem for file in FILES} == {kind.__module__.rpartition(".")[2] for kind in ALL}


@pytest.mark.parametrize("unit", [1.0, 30.0])
def test_gradient_descent_and_momentum_walk_as_a_plain_loop(unit):
    """v = m v + g, x -= lr v in the plane's own numbers: `unit` does not matter to them; 50 steps in NumPy."""
    surface = Rosenbrock(unit=unit)
    for momentum in (0.0, 0.9):
        schedule = Cosine(Timeline(50, 1))
        found = walked(surface, torch.optim.SGD([point(surface)], lr=0.05, momentum=momentum), 50, schedule)
        x, v = np.array(surface.start), np.zeros(2)
        for step in range(50):
            rate = 0.05 * 0.5 * (1 + math.cos(math.pi * step / 50))
            v = momentum * v + 0.01 * np.array(slopes(surface, *x))
            before, x = x, x - rate * v
            row = found.rows[step + 1]
            assert (row["x"], row["y"]) == pytest.approx(tuple(x), rel=1e-10)
            assert row["rate"] == pytest.approx(rate) and row["step"] == step + 1
            assert row["step_length"] == pytest.approx(np.linalg.norm(x - before), rel=1e-8)
            assert row["loss"] == pytest.approx(0.01 * ((1 - x[0]) ** 2 + 100 * (x[1] - x[0] ** 2) ** 2), rel=1e-9)
            assert row["gradient_norm"] == pytest.approx(0.01 * np.linalg.norm(slopes(surface, *x)), rel=1e-9)


def test_unit_is_the_length_of_a_step_of_adam():
    """Adam's first step has the length of its rate in each coordinate, times unit."""
    surface = Himmelblau(unit=25.0)
    found = walked(surface, torch.optim.Adam([point(surface)], lr=0.002), 1)
    moved = found.rows[1]["x"] - found.rows[0]["x"], found.rows[1]["y"] - found.rows[0]["y"]
    assert tuple(map(abs, moved)) == pytest.approx((0.05, 0.05), rel=1e-6)


def test_noise_is_added_to_the_gradient_and_follows_from_the_seed():
    """On a plane part of the surface the steps' scatter is the noise times the rate; the rows' loss is without it."""
    surface = Plateau(start=(-3.8, 2.4), noise=0.5)
    found = walked(surface, torch.optim.SGD([point(surface)], lr=0.01), 400)
    steps = np.diff(np.array([found.column("x"), found.column("y")]))
    assert steps.std() / 0.01 == pytest.approx(0.5, rel=0.1)
    last = found.rows[-1]
    assert last["loss"] == float(surface(torch.tensor([last["x"], last["y"]], dtype=torch.float64)))
    again = walked(surface, torch.optim.SGD([point(surface)], lr=0.01), 400)
    other = walked(surface, torch.optim.SGD([point(surface)], lr=0.01), 400, seed=1)
    assert again.rows == found.rows and other.rows != found.rows


def test_the_objective_is_one_function_a_step():
    """However often it is asked: the value, the pieces and the gradient belong together, noise included."""
    surface = Beale(noise=1.0)
    weights = point(surface)
    objective = SurfaceObjective(surface, weights, torch.tensor([0.3, -0.4], dtype=torch.float64))
    first, grad = float(objective()), weights.grad.clone()
    assert float(objective.value()) == float(sum(objective.pieces()).detach()) == float(objective()) == first
    assert torch.equal(weights.grad, grad)
    expected = np.array(gradient(surface, surface.start)) + (0.3, -0.4)
    assert (weights.grad * surface.unit).tolist() == pytest.approx(expected.tolist())
    with torch.no_grad():
        weights += 1e-6
    rise = float(objective.value()) - first
    assert rise == pytest.approx(float(grad.sum()) * 1e-6, rel=1e-3)
    assert objective.evaluations == 5


def test_steps_to_tolerance_counts_arrivals_only():
    """A loss that passes through has not arrived; one that starts within has at once."""
    assert steps_to([1, 0.5, 0.1, 0.05], 0, 0.1) == 2
    assert steps_to([1, 0.0, 1, 0.1, 0.1], 0, 0.1) == 3
    assert steps_to([0.1, 0.1], 0, 0.1) == 0
    assert steps_to([1, 0.05, 1], 0, 0.1) is None
    assert steps_to([1, float("nan")], 0, 0.1) is None
    assert steps_to([1.05, 0.95], -1, 2.0) == 1


def test_the_verdict_is_converged_where_the_loss_ends_within_tolerance():
    """Momentum on the ravine at its default rate."""
    surface = Ravine()
    found = walked(surface, torch.optim.SGD([point(surface)], lr=0.03, momentum=0.9), 300)
    assert verdict(found, surface, 1e-6) == "converged"
    assert verdict(found, surface, 1e-14) == "not converged"


def test_the_verdict_is_oscillates_where_steps_go_back_and_forth_without_end():
    """Gradient descent at the edge of stability, and RMSprop with a rate that does not shrink."""
    surface = Ravine()
    edge = walked(surface, torch.optim.SGD([point(surface)], lr=2 / 19.5 * 0.99999), 100)
    assert verdict(edge, surface, 1e-6) == "oscillates"
    surface = Plateau()
    chatter = walked(surface, torch.optim.RMSprop([point(surface)], lr=0.01), 300)
    assert verdict(chatter, surface, 1e-6) == "oscillates"


def test_what_oscillates_and_what_does_not():
    """A circle does; a straight way, a way that dies away, and rest do not."""
    circle = [(math.cos(0.3 * t), math.sin(0.3 * t)) for t in range(200)]
    assert oscillates(circle, 0.01)
    assert not oscillates([(0.01 * t, 0.0) for t in range(200)], 0.01)
    assert not oscillates([((-0.8) ** t, 0.0) for t in range(40)], 1e-9)
    assert not oscillates([(1e-9 * (-1) ** t, 0.0) for t in range(200)], 0.01)


@pytest.mark.parametrize("start", [(-2.0, 0.0), (-2.0, 1e-5)])
def test_gradient_descent_stays_on_the_ridge_of_the_saddle(start):
    """On it for ever, just beside it for the 300 steps; momentum beside it leaves; noise drives it off the ridge."""
    surface = Saddle(start=start)
    plain = walked(surface, torch.optim.SGD([point(surface)], lr=0.1), 300)
    assert verdict(plain, surface, 1e-6) == "stuck at the saddle"
    assert start[1] != 0 or plain.rows[-1]["y"] == 0
    heavy = walked(surface, torch.optim.SGD([point(surface)], lr=0.03, momentum=0.9), 300)
    assert verdict(heavy, surface, 1e-6) == ("converged" if start[1] else "stuck at the saddle")
    noisy = Saddle(start=start, noise=0.05)
    found = walked(noisy, torch.optim.SGD([point(noisy)], lr=0.1), 300)
    assert verdict(found, noisy, 1e-6) != "stuck at the saddle" and abs(found.rows[-1]["y"]) > 0.5


def test_the_verdict_is_diverged_where_the_walk_is_lost():
    """Gradient descent above 2 over the largest curvature; the walk ends there, every row a number."""
    surface = Ravine()
    found = walked(surface, torch.optim.SGD([point(surface)], lr=0.2), 300)
    assert verdict(found, surface, 1e-6) == "diverged"
    assert found.lost == len(found.rows) < 20
    assert math.hypot(found.rows[-1]["x"], found.rows[-1]["y"]) < (LOST + 1) * math.hypot(6.5, 4)
    rosenbrock = Rosenbrock(scale=1.0)
    found = walked(rosenbrock, torch.optim.SGD([point(rosenbrock)], lr=10.0), 50)
    assert found.lost is not None and all(math.isfinite(loss) for loss in found.column("loss"))


def test_the_verdict_is_not_converged_on_the_way_and_at_rest_elsewhere():
    """Plain descent in Rosenbrock's valley; a hole of Rastrigin's that is not the deepest; two rows of a walk."""
    for surface in (Rosenbrock(), Rastrigin()):
        found = walked(surface, torch.optim.SGD([point(surface)], lr=0.1), 300)
        assert verdict(found, surface, 1e-6) == "not converged"
    assert verdict(Walk(found.rows[:2]), Rastrigin(), 1e-6) == "not converged"


def results(folder):
    """The results of a sweep's folder, by option of the optimizer."""
    found = [json.loads(file.read_text()) for file in folder.glob("*/result.json")]
    return {(result["choices"]["surface"], result["choices"]["optimizer"]): result for result in found}


def test_a_sweep_overlays_all_paths_of_a_surface(tmp_path, monkeypatch):
    """Each run has its files and its verdict, each surface one picture and a table; no empty accuracies anywhere."""
    monkeypatch.chdir(tmp_path)
    words = ["-m", "task=surface", "surface=ravine,saddle", "optimizer=sgd,momentum,newton", "name=s", *FAST]
    assert main(words) == 0
    folder = tmp_path / "outputs" / "s"
    found = results(folder)
    assert found["ravine", "newton"]["steps_to_tolerance"] == 1
    assert found["saddle", "sgd"]["verdict"] == "stuck at the saddle"
    assert found["ravine", "momentum"]["verdict"] == "converged"
    assert {result["status"] for result in found.values()} == {"done"}
    for run in folder.glob("task=*"):
        rows = list(csv.DictReader((run / "trajectory.csv").read_text().splitlines()))
        assert len(rows) == 301 and rows[0]["rate"] == "" and float(rows[-1]["loss"]) is not None
        assert {"path.png", "steps.png", "surface.npz", "config.yaml"} <= {file.name for file in run.iterdir()}
    assert {"surface_ravine.png", "surface_saddle.png"} <= {file.name for file in folder.iterdir()}
    header = (folder / "results.csv").read_text().splitlines()[0]
    assert header == ("run,status,surface,optimizer,verdict,steps_to_tolerance,final_loss,distance,evaluations,seconds")
    page = (folder / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 2 and "stuck at the saddle" in page
    assert "accuracy" not in page
    (folder / "surface_ravine.png").unlink()
    write_report(folder)
    assert (folder / "surface_ravine.png").is_file()


def test_a_folder_with_classifiers_and_walks_shows_both(tmp_path, monkeypatch):
    """Two curvatures are two pictures; the trained run keeps its own table, without the walks."""
    monkeypatch.chdir(tmp_path)
    assert main(["-m", "task=surface", "surface.condition=5,50", "optimizer=sgd", "name=m", *FAST]) == 0
    assert main(["model=mlp", "epochs=1", "data.limit=200", "name=m", *FAST]) == 0
    folder = tmp_path / "outputs" / "m"
    assert (folder / "surface_ravine.png").is_file() and (folder / "surface_ravine_2.png").is_file()
    page = (folder / "report.html").read_text()
    assert "Combinations, by validation accuracy" in page and "3 runs, 1 combination" in " ".join(page.split())
    assert {"verdict", "val_accuracy"} <= set((folder / "results.csv").read_text().splitlines()[0].split(","))


def test_tensorboard_has_the_walk(tmp_path, monkeypatch):
    """Loss, gradient norm, rate and step length over the steps; the path and the curves as pictures."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    monkeypatch.chdir(tmp_path)
    assert main(["task=surface", "surface=beale", "optimizer=adam", "task.steps=20", "threads=1"]) == 0
    (run,) = (tmp_path / "outputs" / "runs").glob("task=*")
    events = EventAccumulator(str(run), size_guidance={"images": 0}).Reload()
    assert set(events.Tags()["images"]) == {"path", "steps"}
    assert set(events.Tags()["scalars"]) >= {"loss", "gradient_norm", "rate", "step_length"}
    assert [event.step for event in events.Scalars("loss")] == list(range(21))
    assert [event.step for event in events.Scalars("rate")] == list(range(1, 21))


def test_the_second_order_methods_take_one_iteration_a_step(tmp_path, monkeypatch):
    """`task.max_iter` is 1, so each row of L-BFGS is an iteration; null gives it its own 20."""
    monkeypatch.chdir(tmp_path)
    words = ["task=surface", "surface=rosenbrock", "optimizer=lbfgs", *FAST]
    assert main([*words, "name=one"]) == 0 and main([*words, "task.max_iter=null", "name=own"]) == 0
    one, own = (results(tmp_path / "outputs" / name)["rosenbrock", "lbfgs"] for name in ("one", "own"))
    assert own["steps_to_tolerance"] <= 3 < 10 < one["steps_to_tolerance"]


def test_a_diverged_walk_is_done(tmp_path, monkeypatch):
    """A verdict is a result: exit code 0, the step in the result, pictures all the same."""
    monkeypatch.chdir(tmp_path)
    assert main(["task=surface", "optimizer=sgd", "optimizer.lr=0.2", *FAST]) == 0
    (run,) = (tmp_path / "outputs" / "runs").glob("task=*")
    result = json.loads((run / "result.json").read_text())
    assert (result["status"], result["verdict"]) == ("done", "diverged") and result["diverged_step"] < 20
    assert result["steps_to_tolerance"] is None and math.isfinite(result["final_loss"])
    assert (run / "path.png").is_file()


@pytest.mark.parametrize(
    "words, said",
    [
        (["optimizer=muon"], "muon"),
        (["surface.start=[9,9]"], "surface.start=[9,9]: outside the picture, x from -5 to 1.5"),
        (["surface.noise=-1"], "surface.noise=-1: must be at least 0"),
        (["surface.condition=0"], "surface.condition=0: must be above 0"),
        (["surface=saddle", "surface.condition=5"], "condition"),
        (["surface=canyon"], "surface=canyon: no such option; surface has beale"),
        (["task.steps=0"], "task.steps=0: must be at least 1"),
        (["clip_grad_norm=1"], "clip_grad_norm=1.0: task=surface has no use for it"),
        (
            ["schedule=plateau", "schedule.metric=val_accuracy"],
            "watches val_accuracy, and a surface has only train_loss",
        ),
        (["optimizer=nesterov", "optimizer.momentum=0"], "does not work on a surface"),
    ],
)
def test_what_cannot_work_is_refused_in_one_line(words, said, tmp_path, monkeypatch, capsys):
    """Exit code 2, nothing made."""
    monkeypatch.chdir(tmp_path)
    assert main(["task=surface", *words]) == 2
    message = capsys.readouterr().err
    assert said in message and message.count("\n") == 1
    assert not (tmp_path / "outputs").exists()


def test_every_schedule_runs_on_a_surface():
    """A step is an epoch; the one that listens is told the loss and cuts the rate."""
    from runner.task.surface import SurfaceTask

    for file in sorted((CONF / "schedule").glob("*.yaml")):
        node = OmegaConf.to_container(OmegaConf.load(file))
        schedule = locate("schedule", node.pop("_target_"), [])(Timeline(100, 1), **node)
        surface = Ravine()
        found = walked(surface, torch.optim.SGD([point(surface)], lr=0.1), 100, schedule)
        assert verdict(found, surface, 1e-6) != "diverged"
        if file.stem == "plateau":
            stuck = walked(Rastrigin(), torch.optim.SGD([point(Rastrigin())], lr=0.1), 100, schedule)
            assert stuck.rows[-1]["rate"] < 1e-3
    assert SurfaceTask().steps == 300


def test_what_a_walk_ignores_makes_no_second_run(tmp_path, monkeypatch, capsys):
    """Data, model and epochs do not matter to it: combinations that differ in them are one run."""
    monkeypatch.chdir(tmp_path)
    assert main(["-m", "task=surface", "model=mlp,convnet", "epochs=1,2", "dry_run=true"]) == 0
    assert "1 to run" in capsys.readouterr().out


def test_the_builder_makes_the_surface():
    """From a config's node, by its target."""
    node = OmegaConf.to_container(OmegaConf.load(CONF / "surface" / "ravine.yaml"))
    assert Resources().surface({"surface": node | {"condition": 7}}).condition == 7
