"""The rehearsal of a combination before training: counts, shapes, refusals."""

import pytest
import torch
from torch import nn

from runner.build.check import check
from runner.task.resources import Resources
from tests.shared.complaints import FEW, complaints
from tests.shared.configs import composed

OWN = ("model=custom", "trust=[tests]")


# -- networks of one's own, for the rehearsal -----------------------------------------------------------------------


class Plain(nn.Sequential):
    """Takes what it needs of what the builder gives."""

    def __init__(self, image_size: int, outputs: int = 10):
        super().__init__(nn.Flatten(), nn.Linear(image_size**2, outputs))


class Stubborn(Plain):
    """Reads a value while it is made, which the meta device does not have."""

    def __init__(self, image_size: int):
        super().__init__(image_size)
        with torch.no_grad():
            self[1].weight.mul_(1 / self[1].weight.abs().max().item())


class StubbornForward(Plain):
    """Reads a value while it runs."""

    def forward(self, x):
        return super().forward(x) * (1 if x.sum().item() == 0 else 2)


class WrongSize(Plain):
    """Its shapes do not fit."""

    def __init__(self):
        super().__init__(image_size=9)


@pytest.mark.parametrize("model", ["mlp", "convnet", "resnet20", "mobilenet_v3_small"])
def test_rehearsal_counts_the_real_parameters(model):
    """The count from the meta device is that of the network that is trained, and no real memory is taken for it."""
    config = check(composed(*FEW, f"model={model}", "batch_size=16"))
    builder = Resources()
    facts = builder.preflight(config)
    splits = builder.splits(config)
    real = builder.parts(config, splits, torch.device("cpu"), None).model
    assert facts.parameters == facts.trainable == sum(p.numel() for p in real.parameters())
    assert (facts.train_size, facts.steps) == (180, 20 * (180 // 16)) and facts.identity == splits.identity
    assert all(not p.is_meta for p in real.parameters())


def test_rehearsal_counts_operations():
    """The forward pass of one image through an MLP takes two operations a weight."""
    facts = Resources().preflight(check(composed(*FEW, "model=mlp", "model.hidden=[12]")))
    assert facts.flops == 2 * (64 * 12 + 12 * 10)


@pytest.mark.parametrize("name", ["Plain", "Stubborn", "StubbornForward"])
def test_networks_that_cannot_be_on_the_meta_device(name):
    """A network that reads values while it is made, or while it runs, is rehearsed on the CPU."""
    config = check(composed(*FEW, *OWN, f"model._target_=tests.task.test_preflight.{name}"))
    assert Resources().preflight(config).parameters == 650


def test_logits_of_the_wrong_shape():
    """A network with another number of outputs than classes is refused."""
    assert complaints(*FEW, *OWN, "model._target_=tests.task.test_preflight.Plain", "+model.outputs=7") == [
        "model: gives (2, 7) for 2 images, not (2, 10), a logit for each class"
    ]


def test_a_network_that_does_not_fit_the_images():
    """Shapes that do not fit are one line."""
    (line,) = complaints(*FEW, *OWN, "model._target_=tests.task.test_preflight.WrongSize")
    assert line.startswith("this combination cannot be built: ") and "\n" not in line


def test_rehearsal_leaves_torchs_generator_alone():
    """Rehearsing, on the meta device or the CPU, draws nothing from the global generator."""
    for words in (("model=mlp",), (*OWN, "model._target_=tests.task.test_preflight.Stubborn")):
        config = check(composed(*FEW, *words))
        state = torch.get_rng_state()
        Resources().preflight(config)
        assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize(
    ("words", "lines"),
    [
        (
            ("batch_size=500",),
            ["batch_size=500: larger than the training split of 180 images; use batch_size=180 or less"],
        ),
        (("batch_size=500", "optimizer.full_batch=true"), []),
        (
            ("accumulate=65",),
            ["accumulate=65: more micro-batches than images (batch_size=64)"],
        ),
        (
            ("data.val_fraction=0", "checkpoint.select=best", "early_stopping.patience=2"),
            [
                "checkpoint.select=best needs validation data, and data.val_fraction is 0",
                "early_stopping.patience=2 needs validation data, and data.val_fraction is 0",
            ],
        ),
        (("data.val_fraction=0",), []),
        (("data.size=5",), ["data.size=5: data=digits has no use for it; leave it out"]),
        (
            ("data.resize=50", "data.size=60"),
            ["data.size=60 is larger than data.resize=50, of which it is a cut"],
        ),
        (
            ("model.channels=[4,4,4,4]",),
            [
                "model.channels=[4, 4, 4, 4] halves the image 4 times and needs at least 16 pixels a side, not 8: "
                "give fewer channels or larger images"
            ],
        ),
        (("schedule=cosine", "schedule.warmup=30"), ["schedule.warmup=30: 60 steps of a run of 40; make it shorter"]),
    ],
)
def test_combinations_that_cannot_work(words, lines):
    """What only the combination shows is refused before anything runs, with the way out."""
    assert complaints(*FEW, *words) == lines


def test_device_that_is_not_here(monkeypatch):
    """A GPU that is not there is refused; `auto` takes what there is."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert complaints("device=cuda:1") == ["device=cuda:1: no CUDA device is here; use device=auto or device=cpu"]
    assert complaints(*FEW, "device=auto") == []


# -- objects --------------------------------------------------------------------------------------------------------


class TinyTransformer(nn.Module):
    """Rows of pixels as tokens."""

    def __init__(self, in_channels: int, num_classes: int, image_size: int):
        super().__init__()
        self.enter = nn.Linear(in_channels * image_size, 16)
        self.layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
        self.leave = nn.Linear(16, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.leave(self.layer(self.enter(x.transpose(1, 2).flatten(2))).mean(1))


@pytest.mark.parametrize(
    "words",
    [
        ("model=mlp",),
        ("model=convnet",),
        ("model=resnet20",),
        (*OWN, "model._target_=tests.task.test_preflight.TinyTransformer"),
    ],
)
def test_small_networks_count_alike_on_real_numbers(words, monkeypatch):
    """The rehearsal counts the operations of a network that is too large for numbers, by shapes alone."""
    config = check(composed(*words, *FEW))
    real = Resources().preflight(config)
    monkeypatch.setattr("runner.task.preflight.SMALL", 0)
    shapes = Resources().preflight(config)
    assert real == shapes and real.flops > 0
