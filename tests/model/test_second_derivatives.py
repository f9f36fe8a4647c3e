"""Second derivatives of networks whose kernels have none: attention, hard sigmoids. And which images they are of."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn.functional import cross_entropy

from runner.core.seeds import generator
from runner.data.normalize import sample_by_class
from runner.model.formulas import twice_differentiable
from runner.optimizer.flat_params import Flat
from runner.optimizer.newton import hessian
from runner.optimizer.newton_cg import hessian_product
from runner.train.probes import hessian_ends
from tests.shared.results import result_of

OWN = ("model=custom", "trust=[tests]", "log.tensorboard=false", "data.limit=100", "data.classes=[0,1]")
NETS = {
    name: (*OWN, f"model._target_=tests.model.test_second_derivatives.{name}") for name in ("Attending", "Squeezing")
}


class Attending(nn.Module):
    """Rows of an image as tokens, one layer of a transformer, a head."""

    def __init__(self, width: int = 4, *, in_channels: int, num_classes: int, image_size: int):
        super().__init__()
        self.stem = nn.Linear(in_channels * image_size, width)
        self.layer = nn.TransformerEncoderLayer(width, 2, 6, dropout=0.0, activation="gelu", batch_first=True)
        self.head = nn.Linear(width, num_classes)

    def forward(self, images):
        return self.head(self.layer(self.stem(images.transpose(1, 2).flatten(2))).mean(1))


class Squeezing(nn.Module):
    """A convolution, a gate with a hard sigmoid as in MobileNetV3, a head."""

    def __init__(self, width: int = 4, *, in_channels: int, num_classes: int):
        super().__init__()
        self.stem = nn.Conv2d(in_channels, width, 3)
        self.gate = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(width, width, 1), nn.Hardsigmoid())
        self.head = nn.Linear(width, num_classes)

    def forward(self, images):
        maps = nn.functional.hardswish(self.stem(images))
        return self.head((maps * self.gate(maps)).mean((2, 3)))


class Pieces:
    """A loss over two batches, as second-order methods ask for it."""

    def __init__(self, model, images, labels):
        self.model, self.images, self.labels = model, images, labels

    def pieces(self):
        for rows in (slice(0, 4), slice(4, None)):
            yield cross_entropy(self.model(self.images[rows]), self.labels[rows], reduction="sum") / len(self.labels)


def problem(make):
    """A network in float64, its loss on eight images, and its Hessian by central differences of the gradient."""
    torch.manual_seed(3)
    model = make(in_channels=1, num_classes=3, **({"image_size": 5} if make is Attending else {})).double()
    loss = Pieces(model, torch.randn(8, 1, 5, 5).double(), torch.randint(0, 3, (8,)))
    flat = Flat(list(model.parameters()))
    start, rows, step = flat.get(), [], 1e-5
    for unit in torch.eye(len(flat), dtype=torch.float64):
        sides = []
        for sign in (1, -1):
            with torch.no_grad():
                flat.set(start + sign * step * unit)
            total = sum(loss.pieces())
            sides.append(torch.cat([g.flatten() for g in torch.autograd.grad(total, flat.params)]))
        rows.append((sides[0] - sides[1]) / (2 * step))
    with torch.no_grad():
        flat.set(start)
    return loss, flat, torch.stack(rows)


@pytest.mark.parametrize("make", [Attending, Squeezing])
def test_second_derivatives_are_those_of_finite_differences(make):
    """The Hessian, its products with vectors and its ends; as torch runs the layers there is none."""
    loss, flat, wanted = problem(make)
    first = torch.autograd.grad(sum(loss.pieces()), flat.params, create_graph=True)
    with pytest.raises(RuntimeError, match="is not implemented"):
        torch.autograd.grad(first[0].sum(), flat.params)
    torch.testing.assert_close(hessian(loss, flat), (wanted + wanted.T) / 2, rtol=1e-5, atol=1e-7)
    vector = torch.randn(len(flat), generator=torch.Generator().manual_seed(0)).double()
    torch.testing.assert_close(hessian_product(loss, flat, vector), wanted @ vector, rtol=1e-5, atol=1e-7)
    values = torch.linalg.eigvalsh((wanted + wanted.T) / 2)
    ends = hessian_ends(flat.params, loss.pieces)
    assert ends == pytest.approx((values[0].item(), values[-1].item()), rel=1e-3, abs=1e-6)


@pytest.mark.parametrize(
    "layer",
    [nn.Hardsigmoid(), nn.Hardswish(), nn.SiLU(), nn.GELU(), nn.Mish(), nn.ELU(), nn.Softplus(), nn.ReLU6()],
    ids=lambda layer: type(layer).__name__,
)
def test_formulas_give_what_the_layers_give(layer):
    """Inside, a layer answers as outside, and can be differentiated twice."""
    x = torch.linspace(-4.05, 4.05, 82, dtype=torch.float64, requires_grad=True)
    with twice_differentiable():
        inside = layer(x)
        (slope,) = torch.autograd.grad(inside.sum(), x, create_graph=True)
        torch.autograd.grad(slope.square().sum(), x)
    torch.testing.assert_close(inside, layer(x))
    torch.testing.assert_close(slope, torch.autograd.grad(layer(x).sum(), x)[0])


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize(
    "words",
    [
        ("probe.curvature_every=1", "epochs=1", "batch_size=30"),
        ("optimizer=newton_cg", "optimizer.max_cg=3", "epochs=2"),
        ("optimizer=newton", "epochs=1"),
        ("task=saddles", "task.of=network", "task.looks=2", "epochs=1"),
    ],
    ids=["probe", "newton_cg", "newton", "saddles"],
)
def test_whatever_differentiates_twice_runs_on_such_a_network(cli, name, words):
    """Typed as a user types it: no run ends for want of a second derivative."""
    code, _, err = cli(*NETS[name], *words, "name=twice")
    assert (code, err) == (0, "")
    assert result_of(Path("outputs/twice"))["status"] == "done"


# -- of which images --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [30, 100, 5000])
@pytest.mark.parametrize("order", ["sorted", "in turn", "mixed"])
def test_a_sample_has_its_share_of_each_class(order, count):
    """However the images lie: as many of each class as its share, each image once, the same for the same seed."""
    labels = torch.arange(3).repeat_interleave(torch.tensor([500, 300, 200]))
    if order == "in turn":
        labels = torch.arange(1000) % 10 % 3
    elif order == "mixed":
        labels = labels[torch.randperm(1000, generator=torch.Generator().manual_seed(0))]
    rows = sample_by_class(labels, count, generator(5, "curvature"))
    assert len(rows) == min(count, 1000) == len(rows.unique())
    share = labels.bincount() * len(rows) / 1000
    assert ((labels[rows].bincount() - share).abs() <= 1).all()
    assert torch.equal(rows, sample_by_class(labels, count, generator(5, "curvature")))
    if count < 1000:
        assert not torch.equal(rows, sample_by_class(labels, count, generator(6, "curvature")))


def test_the_curvature_of_a_folder_is_of_all_its_classes(cli, monkeypatch):
    """Photos lie class by class: the sample has all classes, and a run that goes on looks at the same images."""
    draws = np.random.default_rng(0)
    for name, shade in (("a", 60), ("b", 120), ("c", 180)):
        for part, count in (("train", 40), ("val", 4)):
            folder = Path("photos", part, name)
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = draws.integers(shade - 20, shade + 20, (8, 8, 3)).astype(np.uint8)
                Image.fromarray(pixels).save(folder / f"{number}.png")
    seen = []
    monkeypatch.setattr("runner.train.epoch.CURVATURE_IMAGES", 20)
    monkeypatch.setattr(
        "runner.train.epoch.sample_by_class",
        lambda *args: seen.append((args[0], sample_by_class(*args))) or seen[-1][1],
    )
    words = ("data=image_folder", "data.root=photos", "data.resize=8", "data.size=8", "model=mlp", "model.hidden=[4]")
    code, _, err = cli(*words, "epochs=2", "batch_size=30", "probe.curvature_every=1", "name=folder")
    assert (code, err) == (0, "") and len(seen) == 2
    (labels, first), (_, second) = seen
    assert torch.equal(first, second)
    assert labels[first].bincount().tolist() in ([7, 7, 6], [7, 6, 7], [6, 7, 7])
