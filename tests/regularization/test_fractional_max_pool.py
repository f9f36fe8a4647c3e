"""Fractional max pooling: regions and values against Graham's and torch's, training and testing."""

import itertools
import math

import pytest
import torch
from torch import nn
from torch.nn.functional import fractional_max_pool2d

from runner.model.convnet import ConvNet
from runner.model.noise import sampled
from runner.regularization import fractional_max_pool as fmp
from runner.regularization.fractional_max_pool import FractionalMaxPool, FractionalPooling
from tests.shared.draws import seeded
from tests.shared.noise_structure import NODES, PASSES, SHAPE, bound, built, layers, meta

# -- fractional pools: the regions ----------------------------------------------------------------------------------


def graham(u, rows, out, window):
    """First rows of the windows as in the author's code (SparseConvNet, PseudorandomOverlappingFmpTicks)."""
    alpha = (rows - window) / (out - 1)
    return [math.floor((i + u) * alpha) - math.floor(u * alpha) for i in range(out)]


@pytest.mark.parametrize(("rows", "out", "window"), [(28, 14, 3), (14, 7, 3), (28, 19, 2), (8, 4, 3), (55, 27, 4)])
def test_regions_are_grahams(rows, out, window):
    """The windows begin where the author's code lets them begin, for many draws; the smallest window that can move is
    taken."""
    assert fmp.window(rows, out) == window
    u = torch.rand(200, 1, generator=seeded(), dtype=torch.float64)
    found = fmp.starts(u, rows - window, out)
    assert found.tolist() == [graham(x, rows, out, window) for x in u[:, 0].tolist()]
    assert len(found.unique(dim=0)) > 2


def test_windows_leave_nothing_out():
    """For all sizes up to 40 windows begin at one border and end at the other, leave no row out and are the smallest
    that do, or one larger where they could not move otherwise."""
    u = torch.linspace(0, 1, 50)[:-1, None]
    for rows in range(1, 41):
        for out in range(1, rows + 1):
            size = fmp.window(rows, out)
            smallest = math.ceil(rows / out)
            assert smallest <= size <= smallest + 1
            found = fmp.starts(u, rows - size, out)
            assert (found[:, 0] == 0).all() or out == 1
            assert (found[:, -1] == rows - size).all()
            steps = found.diff(dim=1)
            assert (steps >= 1).all() and (steps <= size).all()
            moves = len(found.unique(dim=0)) > 1
            assert moves == (out > 2 and (rows - size) % (out - 1) > 0)
            if size > smallest:
                assert moves and len(fmp.starts(u, rows - smallest, out).unique(dim=0)) == 1


def pool(ratio="auto", samples=1, noise=None, replaced=None):
    return FractionalPooling(replaced or nn.MaxPool2d(2), ratio, samples, noise)


def drawn(layer, x, seed):
    """A training pass, and torch's own pool for the same draws (columns first, and a draw for each channel)."""
    layer.noise = seeded(seed)
    found = layer.train()(x)
    u = torch.rand(len(x), 2, generator=seeded(seed)).flip(1)[:, None].expand(-1, x.shape[1], -1).to(x.dtype)
    size = layer.output_size(x)
    kernel = [fmp.window(rows, out) for rows, out in zip(x.shape[2:], size)]
    return found, fractional_max_pool2d(x, kernel, size, _random_samples=u)


@pytest.mark.parametrize("ratio", ["auto", 0.5, 0.71, 0.8])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("size", [(28, 28), (14, 9), (8, 13)])
def test_values_are_torchs(ratio, layout, size):
    """For the same draws values and gradients are those of torch's fractional pool; the size is the replaced pool's,
    or floor(ratio x rows)."""
    x = torch.randn(5, 3, *size, generator=seeded()).to(memory_format=layout).requires_grad_()
    layer = pool(ratio)
    found, expected = drawn(layer, x, 4)
    assert torch.equal(found, expected)
    wanted = nn.MaxPool2d(2)(x).shape[2:] if ratio == "auto" else [math.floor(ratio * rows) for rows in size]
    assert list(found.shape[2:]) == list(wanted)
    weight = torch.randn(found.shape, generator=seeded(7))
    grads = [torch.autograd.grad((y * weight).sum(), x)[0] for y in (found, expected)]
    torch.testing.assert_close(*grads)
    assert not torch.equal(found, drawn(layer, x, 5)[0])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_types(dtype):
    """Half precision draws the same regions as full precision, and picks its own values exactly."""
    x = torch.randn(5, 3, 28, 28, generator=seeded()).to(dtype)
    found, _ = drawn(pool(), x.float(), 4)
    half = pool(noise=seeded(4))
    half.noise = seeded(4)
    y = half.train()(x)
    assert y.dtype == dtype and torch.equal(y.float(), found)


def test_sizes_of_replaced_pools():
    """`auto` keeps the size that torch's pool gives, whatever its kernel, stride, padding, dilation and ceil mode."""
    seen = 0
    keys = itertools.product((2, 3, (2, 3)), (2, 3, (3, 2)), (0, 1, (1, 0)), (1, 2), (False, True))
    for kernel, stride, padding, dilation, ceil in keys:
        replaced = nn.MaxPool2d(kernel, stride, padding, dilation, ceil_mode=ceil)
        for size in [(7, 8), (9, 14), (12, 5)]:
            x = torch.empty(1, 1, *size, device="meta")
            assert pool(replaced=replaced).output_size(x) == list(replaced(x).shape[2:])
            seen += 1
    assert seen == 324


def test_every_image_draws():
    """In a training batch images have regions of their own, which their channels share. Of the 13 steps from 28 rows to
    14 (a = 25 / 13) one is 1 and the others are 2: by the formula the last with probability 1/25, each other one with
    2/25; frequencies are within binomial bounds."""
    ramp = torch.arange(28.0)[:, None].expand(PASSES, 1, 28, 2)
    found = pool(noise=seeded(1), replaced=nn.MaxPool2d((2, 1))).train()(torch.cat((ramp, ramp + 5), 1))
    assert torch.equal(found[:, 0] + 5, found[:, 1])
    last = found[:, 0, :, 0]  # row of each window
    steps = last.diff(dim=1)
    assert (last[:, 0] == 2).all() and (last[:, -1] == 27).all()
    assert ((steps == 1).sum(1) == 1).all() and ((steps == 2).sum(1) == 12).all()
    shares = torch.bincount((steps == 1).int().argmax(1), minlength=13) / PASSES
    wanted = torch.tensor([2.0] * 12 + [1.0]) / 25
    assert ((shares - wanted).abs() < bound(13) * (wanted * (1 - wanted) / PASSES).sqrt()).all()


# -- fractional pools: testing --------------------------------------------------------------------------------------


def test_frozen_regions():
    """A test pass has regions that were drawn once, from the run's noise, are the same for all images, and are in
    the state; they are not the replaced pool's."""
    x = torch.randn(6, 2, 28, 28, generator=seeded())
    layer, twin, other = pool(noise=seeded(1)), pool(noise=seeded(1)), pool(noise=seeded(2))
    found = layer.eval()(x)
    assert torch.equal(found, layer(x)) and torch.equal(found, twin.eval()(x))
    assert torch.equal(found[3:], layer(x[3:]))
    u = layer.regions.flip(1).expand(6, 2, 2)
    assert torch.equal(found, fractional_max_pool2d(x, 3, 14, _random_samples=u))
    assert not torch.equal(found, nn.MaxPool2d(2)(x)) and not torch.equal(found, other.eval()(x))
    other.load_state_dict(layer.state_dict())
    assert torch.equal(found, other(x))


@pytest.mark.parametrize("samples", [2, 5])
def test_averaged_regions(samples):
    """With `samples` a test pass is the mean of torch's pools with each of the regions in the state."""
    x = torch.randn(6, 2, 14, 9, generator=seeded(), dtype=torch.float64)
    layer = pool(samples=samples, noise=seeded(1)).eval()
    assert layer.regions.shape == (samples, 2)
    size = layer.output_size(x)
    kernel = [fmp.window(rows, out) for rows, out in zip((14, 9), size)]
    each = [
        fractional_max_pool2d(x, kernel, size, _random_samples=u.flip(0).expand(6, 2, 2).double())
        for u in layer.regions
    ]
    torch.testing.assert_close(layer(x), torch.stack(each).mean(0))
    assert not torch.allclose(layer(x), each[0])


def test_averages_converge():
    """The average over k regions nears the mean of 20,000 random passes as 1 / sqrt k, in float64: the mean square
    distance of 60 layers, all outputs together, is the draws' variance over k."""
    x = torch.randn(1, 2, 8, 8, generator=seeded(), dtype=torch.float64)
    with torch.no_grad():
        passes = pool(noise=seeded(1)).train()(x.expand(PASSES, -1, -1, -1))
        mean, variance = passes.mean(0), passes.var(0)
        errors = {}
        for k in (1, 4, 16, 64):
            tried = [pool(samples=k, noise=seeded(100 + i)).eval()(x)[0] for i in range(60)]
            errors[k] = (torch.stack(tried) - mean).square().mean(0).sum().item()
            expected = (variance.sum() * (1 / k + 1 / PASSES)).item()
            assert 0.7 < errors[k] / expected < 1.4
        many = pool(samples=2000, noise=seeded(2)).eval()(x)[0]
    moved = variance > 0
    assert moved.sum() > 10  # corner windows never move
    limit = bound(int(moved.sum())) * (variance * (1 / PASSES + 1 / 2000)).sqrt()
    assert ((many - mean).abs() <= limit + 1e-12).all()
    assert errors[1] > 30 * errors[64]


def test_monte_carlo_draws_regions():
    """Where a test pass is sampled it draws anew, an image at a time, and afterwards its regions are the old ones."""
    layer = pool(noise=seeded(1)).eval()
    x = torch.randn(1, 2, 28, 28, generator=seeded()).expand(8, -1, -1, -1)
    before = layer(x)
    with sampled(layer, seeded(3)):
        first, second = layer(x), layer(x)
    assert not torch.equal(first, second) and len(first.unique(dim=0)) > 4
    assert torch.equal(layer(x), before)


# -- fractional pools: where ----------------------------------------------------------------------------------------


def test_places():
    """Every max pool that makes images smaller is replaced; those of stride 1 in GoogLeNet stay."""
    assert fmp.places(ConvNet([4, 4], 8, **SHAPE)) == ["pool1", "pool2"]
    assert fmp.places(meta("googlenet", 96)) == ["maxpool1", "maxpool2", "maxpool3", "maxpool4"]
    model = meta("vgg11")
    FractionalMaxPool().modify(model, None)
    assert len(layers(model, FractionalPooling)) == 5 and fmp.places(model) == [
        f"{name}.pool" for name, layer in model.named_modules() if isinstance(layer, FractionalPooling)
    ]


def test_the_models_with_pools(option_models):
    """Exactly the models that the refusal names have max pools."""
    large = {name for name, model in option_models.items() if fmp.places(model)}
    assert large == {"airbench", "convnet", "squeezenet1_1", "resnet18", "resnet50"}
    assert {name for name in large if fmp.places(built(NODES[name], 32))} == {"airbench", "convnet", "squeezenet1_1"}


@pytest.mark.parametrize("ratio", ["auto", 0.71])
@pytest.mark.parametrize(("name", "size"), [("squeezenet1_1", 32), ("vgg11", 32), ("resnet18", 96), ("googlenet", 64)])
def test_networks_with_pools(name, size, ratio):
    """Networks that take any size give logits with each ratio, and the pools inside have the sizes it says."""
    model, seen = meta(name, size), []
    with torch.device("meta"):
        FractionalMaxPool(ratio).modify(model, None)
    for layer in layers(model, FractionalPooling):
        layer.register_forward_hook(lambda layer, inputs, y: seen.append((inputs[0], layer.pool(inputs[0]), y)))
    assert model.eval()(torch.zeros(2, 3, size, size, device="meta")).shape == (2, 3)
    assert seen
    for x, replaced, y in seen:
        assert y.shape[2] == (replaced.shape[2] if ratio == "auto" else math.floor(ratio * x.shape[2]))
