"""The task `surface`: files, overlays, TensorBoard and refusals."""

import csv
import json
import math

import pytest
import torch
from omegaconf import OmegaConf

from runner.__main__ import main
from runner.core.targets import locate
from runner.report import write_report
from runner.schedule.base import Timeline
from runner.surface.rastrigin import Rastrigin
from runner.surface.ravine import Ravine
from runner.surface.trajectory import verdict
from runner.sweep.compose.explain import CONF
from tests.shared.walks import point, walked

FAST = ["threads=1", "log.tensorboard=false"]


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
