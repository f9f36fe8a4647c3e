"""Items of the two stacks, alone and together: they train two steps and evaluate, or say in one line why not."""

import itertools
import random

import pytest
import torch

from runner.build.check import check
from runner.build.complaints import Refused
from runner.core.errors import ConfigError
from runner.core.seeds import generator
from runner.evaluation.evaluate import examine
from runner.evaluation.standard import Standard
from runner.execution.eager import EagerProgram
from runner.task.resources import Resources
from runner.train.loop import train
from runner.train.state import TrainState
from tests.shared.configs import composed
from tests.shared.paths import ROOT

CONF = ROOT / "conf"
MODELS = ("resnet20", "convnet")
PRESETS = {"none", "cifar", "imagenet"}
NEEDS = {"torchvision": ("augmentation.torchvision.name=RandomPerspective",)}
COLOUR = {"color_jitter", "grayscale"}  # their words for grey images are tested on their own
BUILDER = Resources()


def items(group: str) -> list[str]:
    """Every item of a group."""
    return sorted(path.stem for path in (CONF / group).glob("*.yaml") if path.stem not in PRESETS)


def two_steps(model: str, *words: str) -> TrainState:
    """A run of one epoch of two steps of 24 images, evaluated."""
    config = check(
        composed(f"model={model}", "data.limit=60", "data.val_fraction=0.2", "batch_size=24", "epochs=1", *words)
    )
    BUILDER.preflight(config)
    splits, device = BUILDER.splits(config, torch.device("cpu")), torch.device("cpu")
    noise = generator(0, "noise")
    run = TrainState(config, BUILDER.parts(config, splits, device, noise), device, noise)
    before = [p.detach().clone() for p in run.trained]
    train([run], EagerProgram())
    assert run.progress.step == 2
    assert any(not torch.equal(a, b) for a, b in zip(before, run.trained))
    found = examine([run.model.eval()], splits.test, run.normalize, run.autocast, 256, run.num_classes, Standard())
    assert 0 <= found.accuracy <= 1 and found.loss == found.loss
    again = examine([run.model.eval()], splits.test, run.normalize, run.autocast, 256, run.num_classes, Standard())
    assert again.loss == found.loss  # noise is off
    return run


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("name", items("regularization"))
def test_each_item_alone(model, name):
    """Every item of the regularization stack trains and evaluates, or is refused in a line that names it."""
    try:
        two_steps(model, f"regularization=[{name}]")
    except Refused as refused:
        assert len(refused.lines) == 1 and name in refused.lines[0] and "\n" not in refused.lines[0]


def test_alone_refused_where_known():
    """Nothing is refused alone but what has no place: norms where some are, depth, pools, weights where none are."""
    found = set()
    for model, name in itertools.product(MODELS, items("regularization")):
        config = check(composed(f"model={model}", f"regularization=[{name}]"))
        try:
            BUILDER.preflight(config)
        except Refused:
            found.add((model, name))
    norms = {("resnet20", name) for name in ("batchnorm", "groupnorm", "layernorm", "ghost_batchnorm")}
    without_weights = {(model, "l2_sp") for model in MODELS}
    assert found == norms | without_weights | {("resnet20", "fractional_max_pool"), ("convnet", "stochastic_depth")}


@pytest.mark.parametrize("name", items("augmentation"))
def test_each_augmentation_alone(name):
    """Every augmentation trains on grey digits, or is refused in a line that names it."""
    try:
        two_steps("convnet", f"augmentation=[{name}]", *NEEDS.get(name, ()))
    except ConfigError as refused:
        assert name in COLOUR and f"augmentation.{name}" in str(refused) and "\n" not in str(refused)


def stacks(count: int) -> list[tuple[str, tuple[str, ...], tuple[str, ...]]]:
    """Random stacks of two to five items, beside pipelines of none to three."""
    draw = random.Random(4)
    found = []
    for number in range(count):
        stack = draw.sample(items("regularization"), draw.randint(2, 5))
        pipeline = draw.sample([name for name in items("augmentation") if name not in COLOUR], draw.randint(0, 3))
        found.append((MODELS[number % 2], tuple(stack), tuple(pipeline)))
    return found


@pytest.mark.parametrize(("model", "stack", "pipeline"), stacks(40))
def test_random_stacks(model, stack, pipeline):
    """A random stack trains and evaluates, or each complaint is one line that names an item of it."""
    more = [word for name in pipeline for word in NEEDS.get(name, ())]
    try:
        two_steps(model, f"regularization=[{','.join(stack)}]", f"augmentation=[{','.join(pipeline)}]", *more)
    except Refused as refused:
        for line in refused.lines:
            assert "\n" not in line and any(name in line for name in stack), line


def test_most_random_stacks_train():
    """The sample is no sample of refusals."""
    trained = 0
    for model, stack, _ in stacks(40):
        try:
            BUILDER.preflight(check(composed(f"model={model}", f"regularization=[{','.join(stack)}]")))
            trained += 1
        except Refused:
            pass
    assert trained >= 15
