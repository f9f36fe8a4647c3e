"""What optimizers refuse before training, what they warn of, and full batches through the whole program."""

from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from runner.build.check import check
from runner.build.complaints import Refused
from runner.core.context import Context
from runner.optimizer.param_groups import parameter_groups
from runner.regularization.base import Item, soft
from runner.sweep.compose.explain import CONF
from runner.task.resources import Resources
from tests.shared.configs import composed
from tests.shared.optimizer_problems import build, problem
from tests.shared.results import result_of

FULL = [path.stem for path in sorted((CONF / "optimizer").glob("*.yaml")) if OmegaConf.load(path).get("full_batch")]

SMALL = ("model=mlp", "threads=1", "log.tensorboard=false")
REFUSED = [
    (("optimizer=newton", "precision=bf16"), "precision=bf16: newton"),
    (("optimizer=lbfgs", "precision=fp16"), "precision=fp16: lbfgs"),
    (("optimizer=bfgs", "accumulate=2"), "accumulate=2: bfgs"),
    (("optimizer=newton_cg", "clip_grad_norm=1"), "clip_grad_norm=1.0: newton_cg"),
    (("optimizer=newton_cg", "compile=true"), "compile=true: newton_cg needs second derivatives"),
    (("optimizer=newton", "model.hidden=[447]"), "newton needs a 9.0 GB Hessian for 33,5"),
    (("optimizer=bfgs", "model.hidden=[447]"), "bfgs needs a 4.5 GB inverse Hessian for 33,5"),
    (("optimizer=bfgs", "optimizer.max_gb=1e-4"), "limit 0.0001 GB): use newton_cg or lbfgs, or a smaller model"),
    (("optimizer=sam", "precision=fp16"), "precision=fp16: sam"),
    (("optimizer=sam", "optimizer.rho=-1"), "optimizer.rho=-1: must be at least 0"),
    (("optimizer=sam", "optimizer.base.momentum=1.5"), "optimizer.base.momentum=1.5: must be below 1"),
    (("optimizer=rmsprop", "optimizer.alpha=1"), "optimizer.alpha=1: must be below 1"),
    (("optimizer=lion", "optimizer.betas=[0.9,1]"), "optimizer.betas=1: must be below 1"),
    (("optimizer=lbfgs", "optimizer.max_iter=0"), "optimizer.max_iter=0: must be at least 1"),
    (("optimizer=adam", "optimizer.bias_correction=perhaps"), "bias_correction=perhaps: must be true or false"),
    (("optimizer=muon", "optimizer.adjust_lr_fn=none"), "adjust_lr_fn=none: must be 'original'"),
    (("optimizer=library",), "optimizer.name is missing"),
]


@pytest.mark.parametrize(("words", "said"), REFUSED, ids=[" ".join(words) for words, _ in REFUSED])
def test_what_cannot_work_is_refused_before_training(cli, words, said):
    """One line that names the value; nothing is left behind."""
    code, out, err = cli(*SMALL, *words)
    assert code == 2 and err.startswith("runner: ") and err.count("\n") == 1, err
    assert said in err and out == "" and not Path("outputs").exists()


class Shaking(Item):
    """Mixes at random, as mixup does."""

    def mix(self, images, targets, num_classes, generator):
        return images * torch.rand(1, generator=generator), targets


class Blurring(Item):
    """Mixes the same way each time, as label smoothing does."""

    def mix(self, images, targets, num_classes, generator):
        return images, soft(targets, num_classes)


@pytest.mark.parametrize("name", FULL)
def test_random_mixing_is_refused_by_full_batch_methods(name):
    """An item that draws in `mix` changes the loss from step to step; one that does not is fine."""
    model, _ = problem()
    sizes = {"channels": 1, "in_channels": 1, "stored_size": 4, "image_size": 4, "num_classes": 3, "train_size": 9}
    rest = sizes | {"model": model, "has_validation": True, "pipeline": {}}
    rest["config"] = check(composed(f"optimizer={name}"))
    refused = f"regularization=[shaking]: mixes images at random, and {name}"
    optimizer = build(model, f"optimizer={name}")
    with torch.device("meta"):  # as the rehearsal asks
        assert optimizer.check(Context(stack={"shaking": Shaking()}, **rest)).startswith(refused)
        assert optimizer.check(Context(stack={"still": Blurring(), "none": Item()}, **rest)) is None


def test_vectors_alone_are_not_for_muon():
    """A model without matrices is refused, with the way out."""
    model = torch.nn.BatchNorm1d(3)
    with pytest.raises(Exception, match="optimizer=muon is for matrices.*use optimizer=adamw"):
        build(model, "optimizer=muon")


@pytest.mark.parametrize("base", ["lbfgs", "newton", "sam"])
def test_sam_is_refused_around_what_takes_the_loss_itself(base):
    """Full-batch methods and another SAM cannot be the base."""
    with pytest.raises(Exception, match="optimizer=sam works around a first-order optimizer"):
        build(problem()[0], "optimizer=sam", f"optimizer@optimizer.base={base}")


@pytest.mark.parametrize("name", FULL)
def test_one_direction_has_one_rate(name):
    """Groups with rates of their own are refused by full-batch methods."""
    model, _ = problem()
    groups = [
        group | {"lr": rate} for group, rate in zip(parameter_groups(model, {"linear1": 1, "head": 1}, True), (1, 2))
    ]
    target = type(build(model, f"optimizer={name}"))
    with pytest.raises(Exception, match=f"{name} takes one step for all parameters"):
        target(groups)


def test_mini_batches_work_and_are_warned_of(cli, caplog):
    """L-BFGS on mini-batches trains, and says once that it was not made for them."""
    code, _, _ = cli(
        *SMALL, "model.hidden=[4]", "optimizer=lbfgs", "optimizer.full_batch=false", "data.limit=200", "epochs=1"
    )
    assert code == 0
    assert caplog.text.count("optimizer.full_batch=false: lbfgs models one loss") == 1
    assert result_of(Path("outputs/runs"))["status"] == "done"


@pytest.mark.parametrize("name", FULL)
def test_a_full_batch_is_one_step_an_epoch(cli, name):
    """Through the whole program: one step an epoch, and the training loss falls."""
    code, _, err = cli(*SMALL, "model.hidden=[4]", "epochs=3", f"optimizer={name}", "data.limit=300", "name=full")
    assert code == 0, err
    rows = next(Path("outputs/full").glob("*/metrics.csv")).read_text().splitlines()[1:]
    assert [row.split(",")[1] for row in rows] == ["1", "2", "3"]
    losses = [float(row.split(",")[2]) for row in rows]
    assert losses == sorted(losses, reverse=True) and losses[2] < losses[0]


def test_noise_is_refused_by_full_batch_methods():
    """A network that draws noise at each look is no function to model: the item is named, and the way out."""
    config = check(composed("model=mlp", "optimizer=lbfgs", "regularization=[dropout]"))
    with pytest.raises(Refused) as refused:
        Resources().preflight(config)
    assert refused.value.lines == [
        "regularization=[dropout]: draws new noise at each look, and optimizer=lbfgs needs a loss that stays the same; "
        "leave it out, or use a mini-batch optimizer"
    ]
