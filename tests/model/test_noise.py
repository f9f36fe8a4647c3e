"""Masks from raw bits, and the layers that take the place of torch's: against the binomial, and against torch."""

import copy
import math
from pathlib import Path

import pytest
import torch
import torchvision
from scipy import stats
from torch import nn

from runner.build.check import check
from runner.build.complaints import Refused
from runner.model.library_noise import replace_library_noise
from runner.model.noise import CHUNK, FEW, drop, mask, noisy
from runner.regularization.stochastic_depth import DropPath, StochasticDepth, blocks
from runner.task.resources import Resources
from tests.shared.configs import composed
from tests.shared.draws import seeded
from tests.shared.results import result_of

CPU = torch.device("cpu")
MANY = 4 * CHUNK + 3
LAGS = (1, 2, 3, 4, 7, 8, 64, CHUNK)  # numbers of one word, of neighbouring words, of chunks


def kept(p, count=MANY, seed=0, **kind):
    """A mask of zeros and ones."""
    return mask(torch.empty(count, **kind), p, seeded(seed), scaled=False)


# -- masks ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("p", [0.5, 0.75, 1 / 1024, 0.1, 0.001, 0.999, 1 / 3])
def test_frequency_and_independence(p):
    """The share of zeros, and of pairs of zeros at each distance, is within what chance allows, one test in a million
    failing; a share that were off by 2^-9, as 8 bits would round it, would be seen."""
    zeros = 1 - kept(p).double()
    bound = stats.norm.isf(1e-6 / (2 * (1 + len(LAGS))))
    assert set(zeros.unique().tolist()) == {0, 1}
    assert abs(zeros.mean().item() - p) < bound * math.sqrt(p * (1 - p) / MANY)
    assert bound * math.sqrt(p * (1 - p) / MANY) < 2**-8
    for lag in LAGS:
        pairs = ((zeros[lag:] - p) * (zeros[:-lag] - p)).mean().item()
        assert abs(pairs) < bound * p * (1 - p) / math.sqrt(MANY - lag)


def test_resolution():
    """Probabilities far below 2^-16, and far above 1 - 2^-16, come as often as they should (16 times in 2^24)."""
    for p, rare in ((2**-20, 0), (1 - 2**-20, 1)):
        count = (kept(p, 1 << 24, dtype=torch.bfloat16) == rare).sum().item()
        assert stats.poisson.ppf(1e-6, 16) <= count <= stats.poisson.isf(1e-6, 16)


@pytest.mark.parametrize("count", [0, 1, 7, FEW - 1, FEW, MANY])
def test_never_and_always(count):
    """p = 0 keeps all and p = 1 nothing, scaled or not; 1 - 1e-12 has a finite scale."""
    like = torch.empty(count)
    for scaled in (True, False):
        assert torch.equal(mask(like, 0.0, seeded(), scaled), torch.ones(count))
        assert torch.equal(mask(like, 1.0, seeded(), scaled), torch.zeros(count))
    assert mask(like, 1 - 1e-12, seeded()).isfinite().all()


@pytest.mark.parametrize("count", [10, FEW, MANY])
def test_a_seed_gives_a_mask(count):
    """The same seed, the same mask; the next draw is another, and no chunk repeats the one before it."""
    noise, like = seeded(3), torch.empty(count)
    first, second = mask(like, 0.3, noise), mask(like, 0.3, noise)
    assert torch.equal(first, mask(like, 0.3, seeded(3))) and not torch.equal(first, second)
    if count == MANY:
        assert len({tuple(part[:64].tolist()) for part in first.split(CHUNK)[:4]}) == 4
    with torch.random.fork_rng():  # without a generator torch's own draws
        torch.manual_seed(3)
        assert torch.equal(first, mask(like, 0.3, None))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_type_and_memory_format(dtype):
    """A mask has the type of what it is for and lies as that does; its numbers are drawn in the order of memory."""
    image = torch.empty(4, 8, 6, 10, dtype=dtype)
    flat = mask(torch.empty(image.numel(), dtype=dtype), 0.2, seeded())
    assert flat.dtype == dtype and flat.max() == torch.tensor(1 / 0.8, dtype=dtype)
    found = mask(image.to(memory_format=torch.channels_last), 0.2, seeded())
    assert found.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(found.permute(0, 2, 3, 1).flatten(), flat)
    assert torch.equal(mask(image, 0.2, seeded()).flatten(), flat)
    assert mask(image[:, ::2], 0.2, seeded()).shape == (4, 4, 6, 10)
    assert mask(image.to("meta"), 0.2, None).is_meta


def test_drop():
    """x times the mask, x itself untouched; the gradient is the mask."""
    x = torch.randn(50, 80, generator=seeded(1))
    before, drawn = x.clone(), mask(x, 0.4, seeded(2))
    for given in (x, x.clone().requires_grad_()):
        found = drop(given, 0.4, seeded(2))
        assert torch.equal(found, before * drawn) and torch.equal(given, before)
    found.sum().backward()
    assert torch.equal(given.grad, drawn)


# -- layers of libraries --------------------------------------------------------------------------------------------


def shared_axes(layer, x):
    """Along which axes all numbers of a pass are dropped together, and the share that is dropped."""
    dropped = layer(x) == 0
    axes = [axis for axis in range(x.ndim) if bool((dropped == dropped.narrow(axis, 0, 1)).all())]
    return axes, dropped.double().mean().item()


@pytest.mark.parametrize(
    ("kind", "shapes"),
    [
        (nn.Dropout, [(30, 40), (30, 40, 3, 4)]),
        (nn.Dropout1d, [(600, 5), (30, 40, 5)]),
        (nn.Dropout2d, [(30, 40, 3, 4)]),
        (nn.Dropout3d, [(600, 3, 4, 5), (30, 40, 3, 4, 2)]),
    ],
)
@pytest.mark.parametrize("inplace", [False, True])
def test_dropout_as_torchs(kind, shapes, inplace):
    """What shares a draw, how often it is dropped, what is kept, and whether x is overwritten are as in torch."""
    theirs = nn.Sequential(kind(0.3, inplace=inplace))
    ours = copy.deepcopy(theirs)
    replace_library_noise(ours, seeded(4))
    assert type(ours[0]).__module__.startswith("runner")
    for shape in shapes:
        torch.manual_seed(0)
        axes, _ = shared_axes(theirs, torch.ones(shape))
        found, share = shared_axes(ours, torch.ones(shape))
        draws = math.prod(size for axis, size in enumerate(shape) if axis not in axes)
        assert found == axes and abs(share - 0.3) < 5 * math.sqrt(0.3 * 0.7 / draws)
        x = torch.ones(shape)
        y = ours(x)
        assert y.unique().tolist() == pytest.approx([0, 1 / 0.7]) and (y is x) == inplace
        assert torch.equal(ours.eval()(x), x)
        ours.train()


@pytest.mark.parametrize("mode", ["row", "batch"])
def test_stochastic_depth_as_torchvisions(mode):
    """Rows are dropped one by one, or the batch as one; for few rows with torchvision's own draws."""
    theirs = nn.Sequential(torchvision.ops.StochasticDepth(0.4, mode))
    ours = copy.deepcopy(theirs)
    replace_library_noise(ours, seeded(4))
    x = torch.randn(50, 3, 2, 2, generator=seeded())
    torch.manual_seed(4)
    assert isinstance(ours[0], DropPath) and torch.equal(ours(x), theirs(x))


class Halved(nn.Dropout):
    """A user's own."""


class Net(nn.Module):
    """Drops between its layers, in one place twice."""

    def __init__(self, in_channels: int, num_classes: int, image_size: int):
        super().__init__()
        self.drop, self.none, self.mine = nn.Dropout(0.5), nn.Dropout(0.0), Halved(0.5)
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(in_channels * image_size**2, 64), nn.ReLU(), self.drop)
        self.head = nn.Linear(64, num_classes)

    def forward(self, x):
        return self.head(self.drop(self.body(x)))


def test_what_is_replaced():
    """Names, state, modes and hooks stay, and a layer that stands twice is one; what never draws and a class derived
    from torch's are left alone."""
    seen, model = [], Net(1, 3, 4)
    model.drop.register_forward_hook(lambda layer, inputs, output: seen.append(output)).remove()
    model.drop.register_forward_hook(lambda layer, inputs, output: seen.append(output))
    model.drop.eval()
    names, keys = [name for name, _ in model.named_modules()], list(model.state_dict())
    noise = seeded()
    replace_library_noise(model, noise)
    assert [name for name, _ in model.named_modules()] == names and list(model.state_dict()) == keys
    assert model.drop is model.body[3] and model.drop.noise is noise and not model.drop.training
    assert type(model.none) is nn.Dropout and type(model.mine) is Halved
    assert noisy(model) == [model.drop, model.mine]
    model(torch.zeros(2, 1, 4, 4))
    assert len(seen) == 2


@pytest.mark.parametrize("name", ["efficientnet_b0", "squeezenet1_1", "swin_t"])
def test_a_run_draws_from_its_own_generator(name):
    """A training pass of a network of torchvision moves the run's noise and leaves torch's stream; the stack's
    stochastic depth finds the branches as before."""
    model, noise = torchvision.models.get_model(name, weights=None, num_classes=3), seeded()
    replace_library_noise(model, noise)
    states, x = (torch.get_rng_state(), noise.get_state()), torch.randn(2, 3, 32, 32, generator=seeded())
    model(x)
    assert torch.equal(torch.get_rng_state(), states[0]) and not torch.equal(noise.get_state(), states[1])
    StochasticDepth(0.5).modify(model, noise)
    drops = [[m for m in block.modules() if isinstance(m, DropPath)] for block, _ in blocks(model)]
    assert bool(drops) == (name != "squeezenet1_1") and all(type(drop) is DropPath for one in drops for drop in one)
    assert all(drops)


class Plain(nn.Sequential):
    """Draws nothing."""

    def __init__(self, in_channels: int, num_classes: int, image_size: int):
        super().__init__(nn.Flatten(), nn.Linear(in_channels * image_size**2, num_classes))


class Deep(Plain):
    """Has torchvision's stochastic depth."""

    def __init__(self, in_channels: int, num_classes: int, image_size: int):
        super().__init__(in_channels, num_classes, image_size)
        self.append(torchvision.ops.StochasticDepth(0.5, "row"))


OWN = ("model=custom", "model._target_=tests.model.test_noise.Net", "trust=[tests]", "data.limit=200")


@pytest.mark.parametrize(
    ("words", "who"),
    [
        (OWN, "the model's own SeededDropout"),
        ((*OWN, "model._target_=tests.model.test_noise.Deep"), "the model's own SeededStochasticDepth"),
        ((*OWN, "regularization=[gaussian_noise]", "model._target_=tests.model.test_noise.Plain"), "[gaussian_noise]"),
        (("model=resnet20", "data.limit=200", "regularization=[stochastic_depth]"), "[stochastic_depth]"),
    ],
)
def test_who_draws(words, who):
    """A full-batch optimizer names the item of the stack that brought noise, or the model's own layer."""
    with pytest.raises(Refused) as refused:
        Resources().preflight(check(composed("optimizer=lbfgs", *words)))
    assert refused.value.lines[0].startswith(f"{'regularization=' if who[0] == '[' else ''}{who}: draws new noise")


def test_through_the_command_line(cli):
    """A user's own network with torch's dropout: its Monte Carlo test is the same from its checkpoint, for there, too,
    its layers draw from the evaluation's own stream."""
    words = (*OWN, "evaluation=monte_carlo", "epochs=1", "threads=1", "log.images=0")
    assert cli(*words, "name=run")[0] == 0
    found = result_of(Path("outputs/run"))
    (run,) = Path("outputs/run").glob("*/result.json")
    code, _, err = cli(
        "task=evaluate",
        f"task.checkpoint='{run.parent}'",
        "evaluation=monte_carlo",
        "trust=[tests]",
        "threads=1",
        "log.images=0",
        "name=again",
    )
    assert code == 0, err
    assert result_of(Path("outputs/again"))["test_loss"] == found["test_loss"]
