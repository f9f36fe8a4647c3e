"""Runs on cached features equal runs that compute every stage."""

import copy

import pytest
import torch
from torch import nn

from runner.augmentation.flip import Flip
from runner.augmentation.vertical_flip import VerticalFlip
from runner.evaluation.base import Member
from runner.evaluation.evaluate import examine
from runner.evaluation.standard import Standard
from runner.execution.eager import EagerProgram
from runner.execution.features import activations as kept
from runner.train.loop import train
from tests.shared.features import CONVNET, DATA, SQUEEZENET, assert_equal, make, trained
from tests.shared.training import splits


@pytest.mark.parametrize(
    ("overrides", "model"),
    [
        ((), CONVNET),
        (("transfer.freeze_depth=2",), CONVNET),
        (("transfer.freeze_depth=1", "augmentation=[flip]"), CONVNET),
        (("augmentation=[flip]", "augmentation.flip.p=0.3", "accumulate=3", "optimizer=adam"), CONVNET),
        (("augmentation=[flip,vertical_flip]", "channels_last=false"), CONVNET),
        (("regularization=[dropout,l2,label_smoothing]", "regularization.dropout.where=head"), CONVNET),
        (("regularization=[batchnorm]", "transfer.freeze_depth=2", "clip_grad_norm=0.5"), CONVNET),
        (("optimizer=lbfgs", "optimizer.lr=1"), ("model=mlp", "model.hidden=[12]")),
        (("ensemble=ema",), CONVNET),
    ],
    ids=lambda words: " ".join(words) or "head",
)
def test_cached_equals_uncached(overrides, model):
    """Weights and history are those of the run that computes all stages in each step."""
    plain = trained(*overrides, "transfer.cache=false", model=model)
    cached = trained(*overrides, model=model)
    assert_equal(cached, plain)
    fresh = make(*overrides, model=model)[0].model.state_dict()
    assert any(not torch.equal(value, fresh[name]) for name, value in cached.model.state_dict().items())


def test_noise_of_a_library_equals():
    """Squeezenet's head drops pixels of its map: from torch's global generator, in the order of the map's memory."""
    data, words = splits(train=32, val=4, side=32), ("augmentation=[flip]",)
    plain = trained(*words, "transfer.cache=false", model=SQUEEZENET, data=data)
    cached = trained(*words, model=SQUEEZENET, data=data)
    assert len(cached.features.cut.features.shape) == 3
    assert cached.features.cut.strides[0] == 1  # channels lie last
    assert_equal(cached, plain)


def test_low_precision_equals():
    """What is kept has the type that the pass has there."""
    words = ("precision=bf16", "transfer.freeze_depth=1", "augmentation=[flip]")
    plain, cached = trained(*words, "transfer.cache=false"), trained(*words)
    assert cached.features.cut.features.dtype == torch.bfloat16
    assert_equal(cached, plain, 1e-2)


def test_frozen_norms_equal():
    """Batch norms of frozen stages keep their statistics, those of the others follow the data as ever."""
    words = ("transfer.freeze_depth=1", "regularization=[batchnorm]")
    plain, cached = trained(*words, "transfer.cache=false"), trained(*words)
    assert_equal(cached, plain)
    means = [norm.running_mean.abs().max() for norm in cached.model.modules() if isinstance(norm, nn.BatchNorm2d)]
    assert means[0] == 0 < means[1]


def test_resumed_run_equals():
    """A run that goes on in the middle of an epoch draws the flips that the other would have drawn."""
    whole = trained("augmentation=[flip]")
    first, _ = make("augmentation=[flip]")
    first.on_log = lambda step, scalars: None
    first.train_mode()
    states = []
    first.on_pause = lambda run: states.append(copy.deepcopy(run.state_dict()))
    first.every = 2
    train([first], EagerProgram())
    second, _ = make("augmentation=[flip]")
    second.load_state_dict(states[0])
    assert second.progress.step == 2
    train([second], EagerProgram())
    for name, value in whole.model.state_dict().items():
        assert torch.equal(second.model.state_dict()[name], value), name


def test_tested_as_uncached():
    """The closer look at the end finds what it finds without the cache."""
    run = trained("augmentation=[flip]")
    network, rest = [run.model.eval()], (DATA.test, run.normalize, run.autocast, run.batch_size, 3, Standard())
    seen = run.as_members(network, DATA.test)
    assert isinstance(seen[0], Member)
    plain, cached = examine(network, *rest), examine(seen, *rest)
    assert cached.loss == pytest.approx(plain.loss, rel=1e-6)
    assert torch.equal(cached.confusion, plain.confusion)
    assert torch.equal(cached.mistakes, plain.mistakes)


def test_other_networks_see_images():
    """A network whose frozen stages are another's is not asked through this run's cache; nor is an unknown split."""
    run = trained()
    same, other = copy.deepcopy(run.model), copy.deepcopy(run.model)
    with torch.no_grad():
        other.conv1.bias[0] += 1
        same.head.bias[0] += 1
    seen = run.as_members([run.model, same, other], DATA.val)
    assert [isinstance(one, Member) for one in seen] == [True, True, False]
    assert seen[2] is other
    assert run.as_members([run.model], splits().test) == [run.model]


def test_forward_is_left_as_it_was():
    """After a cached pass the network answers to images as before, copies included."""
    run = trained()
    images = torch.rand(3, 1, 8, 8)
    wanted = run.model.eval()(images)
    run.forward(next(run.features.batches(run._order(), run.augmenting))[0])
    assert torch.equal(run.model(images), wanted)
    assert torch.equal(copy.deepcopy(run.model)(images), wanted)
    assert not any("forward" in vars(module) or module._forward_pre_hooks for module in run.model.modules())


@pytest.mark.parametrize("item", [Flip(0.4), VerticalFlip(0.6)], ids=["flip", "vertical_flip"])
def test_variants_are_the_items_own(item):
    """An item that says how few variants it makes draws and makes them as it does as a whole."""
    images = torch.randint(0, 256, (40, 3, 5, 5), dtype=torch.uint8)
    draws = [torch.Generator().manual_seed(3) for _ in range(2)]
    picked = item.pick(len(images), draws[0])
    assert torch.equal(item.apply(images, picked), item(images, draws[1]))
    assert torch.equal(draws[0].get_state(), draws[1].get_state())
    assert set(picked.long().tolist()) == set(range(item.variants))


def test_numbers_of_variants():
    """The number that is drawn is the place of the variant that the pipeline makes."""
    pipeline = [Flip(), VerticalFlip()]
    images = torch.randint(0, 256, (30, 1, 4, 4), dtype=torch.uint8)
    picked = kept.pick(30, pipeline, torch.Generator().manual_seed(0))
    views = torch.stack(list(kept.variants(images, pipeline)), 1)
    draws = torch.Generator().manual_seed(0)
    for item in pipeline:
        images = item(images, draws)
    assert torch.equal(views[torch.arange(30), picked], images)
    assert set(picked.tolist()) == {0, 1, 2, 3}
