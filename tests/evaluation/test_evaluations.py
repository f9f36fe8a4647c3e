"""Evaluations side by side and through the command line."""

import contextlib
from pathlib import Path

import numpy as np
import pytest
import torch

from runner.augmentation.crop import Crop
from runner.data.splits import ResidentSplit
from runner.evaluation.evaluate import evaluate
from runner.evaluation.monte_carlo import MonteCarlo
from runner.evaluation.views import Views
from runner.model.mlp import MLP
from tests.shared.draws import seeded
from tests.shared.evaluations import ask, dropped, fitted, folder, normalizer, photos
from tests.shared.results import result_of, results_of

QUICK = ("threads=1", "epochs=2", "data.limit=300", "log.images=0")


@pytest.mark.parametrize("evaluation", [MonteCarlo(3), Views(), Views(crops=10), Views(draws=3)])
def test_measured_is_the_mean_of_the_passes(evaluation):
    """Loss and accuracy are those of the mean of the passes' probabilities, batch after batch."""
    model, images, normalize = dropped()[0], photos(40), normalizer(8)
    labels = torch.randint(0, 5, (40,), generator=seeded(4))
    split, pipeline = ResidentSplit(images, labels), [fitted(Crop())]
    evaluation.begin(pipeline, seeded(9))
    found = evaluate([model], split, normalize, contextlib.nullcontext, 16, 5, evaluation)
    expected = ask(evaluation, model, images, normalize, pipeline).double().exp().mean(0)  # 40 images are one batch
    assert found.loss == pytest.approx(-expected[torch.arange(40), labels].log().mean().item(), rel=1e-5)
    assert found.accuracy == (expected.argmax(1) == labels).double().mean().item()
    still = evaluate([model], split, normalize, contextlib.nullcontext, 16, 5)
    assert abs(found.loss - still.loss) > 1e-5


def test_one_training_three_evaluations(cli):
    """A sweep over evaluations trains once; each result has its measures, and uncertainty where there are passes."""
    words = ("-m", *QUICK, "regularization=[dropout]", "augmentation=[crop]", "name=eval")
    words += ("evaluation=standard,monte_carlo,views",)
    code, out, err = cli(*words)
    assert code == 0, out + err
    results = {r["swept"]["evaluation"]: r for r in results_of(Path("outputs/eval")).values()}
    assert len({r["training"] for r in results.values()}) == 1 and len({r["test_loss"] for r in results.values()}) == 3
    runs = {result["run"] for result in results.values()}
    assert results["standard"]["trained_in"] is None
    assert results["monte_carlo"]["trained_in"] in runs and results["views"]["trained_in"] in runs
    for name, result in results.items():
        assert 0 <= result["test_calibration_error"] <= 1 and result["test_top5_accuracy"] is None
        confusion = np.array(result["confusion"])
        expected = confusion.diagonal() / confusion.sum(1)
        assert list(result["test_class_accuracy"].values()) == pytest.approx(expected.tolist())
        assert list(result["test_class_accuracy"]) == list("0123456789")
        assert (Path("outputs/eval") / result["run"] / "mistakes.png").stat().st_size > 1000
        uncertainty = result["test_uncertainty"]
        if name == "standard":
            assert uncertainty is None
        else:
            assert uncertainty["spread"] > 0 and uncertainty["mutual_information"] > 0
            ends = sorted((uncertainty["spread_wrong"], uncertainty["spread_right"]))
            assert ends[0] <= uncertainty["spread"] <= ends[1]
    # Whether the network was trained by this run or taken from another, the numbers are the same.
    assert cli(*words[1:-2], "evaluation=monte_carlo", "name=alone")[0] == 0
    alone = result_of(Path("outputs/alone"))
    assert alone["trained_in"] is None
    for key in ("test_loss", "test_accuracy", "val_loss", "test_uncertainty", "test_calibration_error", "confusion"):
        assert alone[key] == results["monte_carlo"][key]


@pytest.mark.parametrize("words", [("evaluation.crops=10",), ("evaluation.draws=4", "augmentation=[flip,crop]")])
def test_views_of_photos(cli, tmp_path, words):
    """Photos kept larger than the network's input are seen in crops or draws; twelve classes have a top-5."""
    data = (*folder(tmp_path / "photos"), "data.resize=12", "data.size=8", "data.val_fraction=0.2")
    small = ("threads=1", "epochs=1", "batch_size=20", "log.images=0", "model=mlp", "name=photos")
    code, out, err = cli(*data, *small, "evaluation=views", *words)
    assert code == 0, out + err
    result = result_of(Path("outputs/photos"))
    assert result["test_accuracy"] <= result["test_top5_accuracy"] <= 1 and result["test_top5_accuracy"] > 0
    assert result["test_uncertainty"]["spread"] > 0


def test_the_network_of_no_noise_is_named(cli):
    """The command line refuses Monte Carlo without noise before anything runs."""
    code, out, err = cli(*QUICK, "evaluation=monte_carlo", "model=mlp")
    assert code == 2 and f"nothing in {MLP.__name__} is random" in out + err
    assert not Path("outputs/runs").exists()
