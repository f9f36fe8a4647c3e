"""Problems that the tests of optimizers minimize, and optimizers built from the configs."""

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from runner.build.check import check
from runner.model.convnet import ConvNet
from runner.model.mlp import MLP
from runner.model.stages import stages
from runner.optimizer.param_groups import parameter_groups
from runner.task.resources import Resources
from tests.shared.configs import composed

DRAW = np.random.default_rng(7)
X, Y = DRAW.normal(size=(30, 4)), DRAW.integers(3, size=30)
START = DRAW.normal(size=(4, 3))
BASIS = np.linalg.qr(DRAW.normal(size=(6, 6)))[0]
BOWL = torch.tensor(BASIS @ np.diag([1.0, 2, 5, 10, 50, 100]) @ BASIS.T)
CENTRE = torch.tensor(DRAW.normal(size=6))


def gradient(w: np.ndarray) -> np.ndarray:
    """Of the mean negative log-likelihood of a softmax regression `[4, 3]` on (X, Y), worked out by hand."""
    scores = np.exp(X @ w - (X @ w).max(1, keepdims=True))
    return X.T @ (scores / scores.sum(1, keepdims=True) - np.eye(3)[Y]) / len(X)


class Problem:
    """An objective over tensors, as the loop gives one to optimizers; its loss is the sum of `losses()`."""

    def __init__(self, params: list[Tensor], losses: Callable[[], Iterator[Tensor]]):
        self.params, self.losses, self.calls = list(params), losses, 0

    def __call__(self) -> Tensor:
        self.calls += 1
        for p in self.params:
            p.grad = None
        loss = sum(self.losses())
        loss.backward()
        return loss.detach()

    @torch.no_grad()
    def value(self) -> Tensor:
        return sum(self.losses())

    def pieces(self) -> Iterator[Tensor]:
        yield from self.losses()


def function(f: Callable[[Tensor], Tensor], start: list[float]) -> tuple[Tensor, Problem]:
    """A point in float64 and the problem of lowering `f` there."""
    point = torch.tensor(start, dtype=torch.float64, requires_grad=True)
    return point, Problem([point], lambda: iter([f(point)]))


def regression() -> tuple[Tensor, Problem]:
    """The softmax regression from START, in two pieces."""
    x, y = torch.tensor(X), torch.tensor(Y)
    w = torch.tensor(START, requires_grad=True)
    parts = list(zip(x.split(20), y.split(20)))
    return w, Problem([w], lambda: (cross_entropy(a @ w, b, reduction="sum") / len(x) for a, b in parts))


def classifier(model: nn.Module, images: Tensor, labels: Tensor) -> Problem:
    """A network's loss on a batch, in two pieces."""
    pieces = list(zip(images.split(len(images) // 2), labels.split(len(images) // 2)))
    losses = lambda: (cross_entropy(model(a), b) * (len(a) / len(images)) for a, b in pieces)  # noqa: E731
    return Problem(list(model.parameters()), losses)


def build(model: nn.Module, *overrides: str) -> torch.optim.Optimizer:
    """The optimizer that overrides choose, over a model's parameters, in the groups that a run would make."""
    config = check(composed(*overrides))
    rates = dict.fromkeys([name for name, _ in stages(model)], 1.0)
    return Resources().optimizer(config, parameter_groups(model, rates, config["optimizer"]["no_decay"]))


def rosenbrock(p: Tensor) -> Tensor:
    """100 (y - x^2)^2 + (1 - x)^2, summed over neighbours."""
    return (100 * (p[1:] - p[:-1] ** 2) ** 2 + (1 - p[:-1]) ** 2).sum()


def bowl(p: Tensor) -> Tensor:
    """A quadratic with its minimum at CENTRE and curvatures from 1 to 100."""
    return (p - CENTRE) @ BOWL @ (p - CENTRE) / 2


def problem(seed: int = 0, kind: str = "mlp") -> tuple[nn.Module, Problem]:
    """A small network and a batch of noise; kernels are channels-last. `seed` is that of the weights."""
    torch.manual_seed(seed)
    sizes = {"in_channels": 1, "num_classes": 3, "image_size": 4}
    model = MLP([6], **sizes) if kind == "mlp" else ConvNet([2, 2], 3, **sizes)
    draws = torch.Generator().manual_seed(9)
    images, labels = torch.randn(24, 1, 4, 4, generator=draws), torch.randint(3, (24,), generator=draws)
    if kind == "conv":
        model.to(memory_format=torch.channels_last)
    return model, classifier(model, images, labels)
