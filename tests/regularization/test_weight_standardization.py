"""Weight standardization: values and gradients against the formula, and its places."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import conv2d, max_pool2d
from torch.nn.utils import parametrize

from runner.model.resnet import ResNet
from runner.regularization.weight_standardization import Standardized, WeightStandardization
from tests.shared.norms import SHAPE, images, networks


@pytest.mark.parametrize("eps", [1e-5, 0.1])
def test_standardized_formula(eps):
    """(W - mean) / (std + eps) for each output channel, with the biased deviation (equations 5 to 7)."""
    weight = torch.randn(6, 3, 5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 0.3 + 0.2
    rows = weight.numpy().reshape(6, -1)
    expected = (rows - rows.mean(1, keepdims=True)) / (rows.std(1, keepdims=True) + eps)
    np.testing.assert_allclose(Standardized(eps)(weight).numpy().reshape(6, -1), expected, rtol=1e-9, atol=1e-12)


def test_standardized_gradient():
    """The optimizer's gradient goes through mean and deviation; a constant filter has a finite one."""
    weight = torch.randn(2, 2, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert torch.autograd.gradcheck(Standardized(1e-5), weight.requires_grad_())
    constant = torch.full((2, 2, 2, 2), 0.3, requires_grad=True)
    Standardized(1e-5)(constant).sum().backward()
    assert constant.grad.isfinite().all()


def test_standardization_of_a_network():
    """Convolutions use standardized kernels; linear layers, biases and the raw weights stay."""
    plain, model, x = networks()["convnet"], networks()["convnet"], images()
    WeightStandardization().modify(model, None)
    y = x
    for name in ("conv1", "conv2"):
        layer = plain.get_submodule(name)
        rows = layer.weight.detach().numpy().reshape(len(layer.weight), -1)
        rows = (rows - rows.mean(1, keepdims=True)) / (rows.std(1, keepdims=True) + 1e-5)
        kernel = torch.from_numpy(rows.reshape(layer.weight.shape))
        y = max_pool2d(torch.relu(conv2d(y, kernel, layer.bias, padding=1)), 2)
        assert torch.equal(model.get_submodule(name).parametrizations.weight.original, layer.weight)
    expected = plain.head(torch.relu(plain.hidden(y.flatten(1))))
    torch.testing.assert_close(model(x), expected, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(plain(x), expected, rtol=0.1)
    assert not parametrize.is_parametrized(model.hidden) and not parametrize.is_parametrized(model.head)


def test_standardization_forgets_scale_and_mean():
    """A kernel times 7 plus 3 gives the same network."""
    model, x = networks()["convnet"], images()
    WeightStandardization(1e-9).modify(model, None)
    before = model(x)
    with torch.no_grad():
        model.conv2.parametrizations.weight.original.mul_(7).add_(3)
    torch.testing.assert_close(model(x), before, rtol=1e-3, atol=1e-4)


def test_standardization_places():
    """Kernels of one weight, which would become 0, and a convolution that gives the logits are left alone."""
    depthwise = nn.Sequential(
        nn.Conv2d(1, 4, 1), nn.Conv2d(4, 4, 3, groups=4), nn.Conv2d(4, 4, 1, groups=4), nn.Conv2d(4, 3, 1)
    )
    assert WeightStandardization().places(depthwise) == ["1"]
    assert len(WeightStandardization().places(ResNet(20, **SHAPE))) == 19
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.Conv2d(4, 8, 3), nn.Flatten(), nn.Linear(128, 3))
    assert WeightStandardization().places(model) == ["0", "1"]
