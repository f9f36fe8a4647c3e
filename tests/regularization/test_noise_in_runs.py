"""Stochastic depth and fractional pools in runs: resuming, copies, micro-batches and refusals."""

import copy
import math

import pytest
import torch

from runner.build.check import check
from runner.build.complaints import Refused
from runner.core.seeds import generator
from runner.execution.eager import EagerProgram
from runner.model.stages import stage_parameters, stages
from runner.regularization.fractional_max_pool import FractionalMaxPool, FractionalPooling
from runner.regularization.stochastic_depth import MODELS, DropPath, StochasticDepth
from runner.store import checkpoint
from runner.task.resources import Resources
from runner.train.loop import train
from runner.train.state import TrainState
from tests.shared.configs import composed
from tests.shared.draws import seeded
from tests.shared.noise_structure import layers, meta
from tests.shared.training import CPU, numbers, splits
from tests.shared.training import weights as values


@pytest.mark.parametrize("item", [StochasticDepth(), FractionalMaxPool()])
def test_stages_and_names_stay(item, option_models):
    """Surgery hides and adds no parameter and moves no stage, in every model of conf/model and two more; the state
    gets nothing but the regions."""
    tried = [option_models, {"vgg11": meta("vgg11"), "swin_t": meta("swin_t")}]
    for name, model in (pair for of in tried for pair in of.items()):
        model = copy.deepcopy(model)
        before = [(stage, [key for key, _ in some]) for stage, some in stage_parameters(model)]
        state, cut = list(model.state_dict()), [stage for stage, _ in stages(model)]
        item.modify(model, None)
        assert [(stage, [key for key, _ in some]) for stage, some in stage_parameters(model)] == before, name
        assert [stage for stage, _ in stages(model)] == cut
        assert [key for key in model.state_dict() if not key.endswith(".regions")] == state


STACKS = {
    "stochastic_depth": ("regularization=[stochastic_depth]",),
    "stochastic_depth per batch": ("regularization=[stochastic_depth]", "regularization.stochastic_depth.per=batch"),
    "fractional_max_pool": ("regularization=[fractional_max_pool]",),
    "averaged": ("regularization=[fractional_max_pool]", "regularization.fractional_max_pool.samples=3"),
}
MODEL_OF = {
    "stochastic_depth": ("model=resnet20",),
    "stochastic_depth per batch": ("model=wide_resnet", "model.depth=10", "model.width=1"),
    "fractional_max_pool": ("model=convnet", "model.channels=[4,4]", "model.hidden=8"),
    "averaged": ("model=convnet", "model.channels=[4,4]", "model.hidden=8"),
}


def made(stack, *more, without=False):
    """A run of four steps in two epochs on images of noise."""
    item = () if without else STACKS[stack]
    words = (*MODEL_OF[stack], *item, "batch_size=16", "epochs=2", "optimizer=momentum", *more)
    config, noise = check(composed(*words)), generator(0, "noise")
    return TrainState(config, Resources().parts(config, splits(train=40), CPU, noise), CPU, noise)


@pytest.mark.parametrize("stack", list(STACKS))
def test_goes_on_bit_for_bit(tmp_path, stack):
    """Saved after a step and loaded by a new run, the rest is the same to the last bit; another seed of the noise
    gives other weights."""
    path, whole = tmp_path / checkpoint.FILE, made(stack, "log.every=1")
    whole.on_pause = lambda run: checkpoint.save(path, run.state_dict()) if run.progress.step == 1 else None
    train([whole], EagerProgram())
    assert all(math.isfinite(row["train_loss"] + row["val_loss"]) for row in whole.progress.history)
    resumed = made(stack, "log.every=1")
    resumed.noise.manual_seed(99)  # whatever it drew before, the checkpoint knows where it stood
    for layer in layers(resumed.model, FractionalPooling):
        layer.regions.uniform_()
    resumed.load_state_dict(checkpoint.load(path))
    train([resumed], EagerProgram())
    assert torch.equal(values(resumed), values(whole))
    assert numbers(resumed.progress.history) == numbers(whole.progress.history)
    assert torch.equal(resumed.noise.get_state(), whole.noise.get_state())
    other = made(stack, "log.every=1")
    other.noise.manual_seed(99)
    train([other], EagerProgram())
    assert not torch.allclose(values(other), values(whole), rtol=1e-4)


def test_samples_are_for_testing_alone():
    """How many regions are averaged at test time changes nothing in training."""
    frozen, averaged = made("fractional_max_pool"), made("averaged")
    train([frozen], EagerProgram())
    train([averaged], EagerProgram())
    assert torch.equal(values(frozen), values(averaged))
    assert frozen.progress.history[0]["val_loss"] != averaged.progress.history[0]["val_loss"]


@pytest.mark.parametrize("stack", list(STACKS))
def test_micro_batches_half_precision_and_layout(stack):
    """Accumulated gradients, bfloat16 and channels-last images train to finite weights, other than without the item,
    and torch's own stream of random numbers is left alone."""
    words = ("accumulate=3", "precision=bf16", "channels_last=true")
    state = torch.get_rng_state()
    run = made(stack, *words)
    train([run], EagerProgram())
    assert torch.equal(torch.get_rng_state(), state)
    plain = made(stack, *words, without=True)
    train([plain], EagerProgram())
    assert values(run).isfinite().all() and not torch.allclose(values(run), values(plain), rtol=1e-3)


@pytest.mark.parametrize("stack", list(STACKS))
def test_a_copy_stands_alone(stack):
    """A deep copy answers alike and draws alike, from a generator of its own, with hooks that are its own."""
    run, images = made(stack), torch.rand(4, 1, 8, 8, generator=seeded())
    twin = copy.deepcopy(run.model)
    assert torch.equal(run.model.eval()(images), twin.eval()(images))
    assert torch.equal(run.model.train()(images), twin.train()(images))
    for drop in layers(twin, DropPath):
        drop.p = 0.0
    for layer in layers(twin, FractionalPooling):
        layer.regions.zero_()
    before = run.noise.get_state()
    assert torch.equal(twin.train()(images), twin(images)) == ("depth" in stack)
    assert torch.equal(run.noise.get_state(), before)
    assert not torch.equal(run.model.train()(images), run.model(images))


@pytest.mark.parametrize(
    ("model", "item"),
    [
        ("wide_resnet", "stochastic_depth"),
        ("resnet18", "stochastic_depth"),
        ("mobilenet_v2", "stochastic_depth"),
        ("efficientnet_b0", "stochastic_depth"),
        ("convnext_tiny", "stochastic_depth"),
        ("squeezenet1_1", "fractional_max_pool"),
    ],
)
def test_trains_two_steps(model, item):
    """Larger networks train two steps with the item and evaluate."""
    words = (f"model={model}", f"regularization=[{item}]", "batch_size=4", "epochs=1", "optimizer=sgd")
    config, noise = check(composed(*words)), generator(0, "noise")
    run = TrainState(config, Resources().parts(config, splits(8, 4, 3, side=32), CPU, noise), CPU, noise)
    train([run], EagerProgram())
    (row,) = run.progress.history
    assert row["step"] == 2 and math.isfinite(row["train_loss"] + row["val_loss"])


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (
            ("model=mlp", "regularization=[stochastic_depth]"),
            f"regularization=[stochastic_depth]: MLP has no residual branches to drop; models that have them: {MODELS}",
        ),
        (
            ("model=resnet20", "regularization=[stochastic_depth]", "regularization.stochastic_depth.p=1"),
            "regularization.stochastic_depth.p=1: must be below 1",
        ),
        (
            ("model=resnet20", "regularization=[fractional_max_pool]"),
            "regularization=[fractional_max_pool]: ResNet has no max pool to replace; models that have: airbench, "
            "convnet, squeezenet1_1 and, for images above 64 pixels, resnet18 and resnet50",
        ),
        (
            ("model=convnet", "regularization=[fractional_max_pool]", "regularization.fractional_max_pool.ratio=0.7"),
            "regularization.fractional_max_pool.ratio=0.7: the layers of ConvNet do not fit the sizes that its pools "
            "would give for images of 8 pixels; use ratio=auto, or a model that takes any size, e.g. "
            "model=squeezenet1_1",
        ),
        (
            ("model=convnet", "regularization=[fractional_max_pool]", "regularization.fractional_max_pool.ratio=0.4"),
            "regularization.fractional_max_pool.ratio=0.4: must be 'auto' or must be at least 0.5",
        ),
        (
            ("model=convnet", "regularization=[fractional_max_pool]", "regularization.fractional_max_pool.samples=0"),
            "regularization.fractional_max_pool.samples=0: must be at least 1",
        ),
    ],
)
def test_refusals(cli, words, line):
    """What cannot work is refused in one line before training, with the way out."""
    code, _, err = cli("threads=1", "epochs=1", *words)
    assert code == 2 and line in " ".join(err.split())
    assert len([part for part in err.splitlines() if "regularization" in part]) == 1


def test_images_too_small_for_regions():
    """Where no region of any pool can move the item is refused."""
    words = ("model=convnet", "model.channels=[4]", "batch_size=10", "regularization=[fractional_max_pool]")
    with torch.device("meta"), pytest.raises(Refused) as refused:
        Resources().parts(check(composed(*words)), splits(side=4), torch.device("meta"), None, rules=())
    assert refused.value.lines == [
        "regularization=[fractional_max_pool]: images of 4 pixels leave the pools of ConvNet no choice of regions; use "
        "larger images or leave it out"
    ]
