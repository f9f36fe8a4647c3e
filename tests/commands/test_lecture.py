"""Experiments of the lecture: they compose, plan and run."""

from pathlib import Path

import pytest
import torch

from runner.model.convnet import ConvNet
from runner.sweep.compose.explain import CONF
from tests.shared.results import results_of

LECTURE = CONF / "experiment" / "lecture"
ALL = sorted(path.stem for path in LECTURE.glob("*.yaml"))
SEEDED = {"learning_rate_decay", "lbfgs_minibatch", "optimizers_seeds"}  # five seeds each, which plan alike
STACKS = {  # regularization, augmentation, averaging at test time
    "dropout_test_time": 20,
    "dropout_as_ensemble": 30,
    "dropout_rate": 18,
    "batchnorm": 36,
    "batch_noise": 12,
    "augmentation": 30,
    "mixing": 15,
    "dropconnect_vs_dropout": 21,
    "fractional_max_pool": 12,
    "stochastic_depth": 9,
    "loss_terms": 12,
    "regularization_stack": 32,
}
ENSEMBLES = {"ensembles": 6, "snapshots": 9, "moving_average": 24}
TRANSFER = {"transfer_small_data": 36, "transfer_rate": 18}  # of weights in a file, on photos
HALVES = {"pretrain_then_transfer": 60}  # of a run that its header makes first
NEEDS_DATA = {"optimizers", "optimizers_seeds", *STACKS, *ENSEMBLES, *HALVES}
ON_SURFACES = {"ravine", "saddle_point", "nesterov", "adagrad_step_size", "rmsprop_decay", "adam_first_step"}
COUNTS = {  # runs of each, so that none gets lost in a grid
    "ravine": 5,
    "saddle_point": 10,
    "nesterov": 8,
    "adagrad_step_size": 4,
    "rmsprop_decay": 9,
    "adam_first_step": 2,
    "learning_rate_decay": 15,
    "second_order": 10,
    "lbfgs_minibatch": 45,
    "saddles_in_high_dimensions": 2,
    "optimizers": 60,
    "optimizers_seeds": 75,
    **STACKS,
    **ENSEMBLES,
    **TRANSFER,
    **HALVES,
}


def test_every_experiment_has_its_count():
    """A new experiment says how many runs it has."""
    assert set(COUNTS) == set(ALL)


@pytest.mark.parametrize("name", ALL)
def test_every_combination_of_every_experiment_can_run(cli, request, name):
    """A dry run plans every run of an experiment: each composes, and is checked."""
    words = ["seed=0"] if name in SEEDED else []
    if name in NEEDS_DATA:
        words.append(f"data.root={request.getfixturevalue('shared')}")
    if name in TRANSFER:
        shared = request.getfixturevalue("shared")
        words += [f"data.root={shared}/flowers", f"transfer.weights={shared}/weights/squeezenet1_1.pth"]
    if name in HALVES:
        torch.save(ConvNet([16, 32], 64, in_channels=1, num_classes=5, image_size=28).state_dict(), "weights.pth")
        words.append("transfer.weights=weights.pth")
    code, out, err = cli("-m", f"experiment=lecture/{name}", "dry_run=true", "sweep.probe=false", *words)
    assert (code, [line for line in err.splitlines() if line.startswith("runner:")]) == (0, [])
    assert f"{COUNTS[name] // (5 if name in SEEDED else 1)} to run, 0 done already" in out
    assert not Path("outputs").exists()


@pytest.mark.parametrize("name", ALL)
def test_a_header_says_question_command_and_time(name):
    """The command in a file's header names the file."""
    head = (LECTURE / f"{name}.yaml").read_text().split("defaults:")[0]
    assert "# Question: " in head and "# Time:  " in head and "# Seen:  " in head
    assert f"# Command:  python -m runner -m experiment=lecture/{name}" in head


@pytest.mark.parametrize("name", sorted(ON_SURFACES))
def test_an_experiment_on_a_surface_leaves_its_picture(cli, name):
    """Every run ends, and the paths are overlaid beside the report."""
    code, _, _ = cli("-m", f"experiment=lecture/{name}", "task.steps=5", "log.tensorboard=false")
    folder = Path("outputs/lecture") / name
    results = results_of(folder)
    assert len(results) == COUNTS[name] and code == 0
    assert all(result["status"] == "done" and result["verdict"] for result in results.values())
    assert len(list(folder.glob("surface_*.png"))) == 1 and (folder / "report.html").exists()


def test_second_order_runs_on_one_full_batch_problem(cli):
    """Newton, its relatives and Adam each take one step an epoch."""
    words = ("epochs=1", "data.limit=100", "model.hidden=[2]", "log.tensorboard=false", "optimizer.lr=0.1")
    assert cli("-m", "experiment=lecture/second_order", *words)[0] == 0
    results = results_of(Path("outputs/lecture/second_order")).values()
    assert {r["choices"]["optimizer"] for r in results} == {"newton", "newton_cg", "bfgs", "lbfgs", "adam"}
    assert all(result["epochs"] == 1 for result in results)
