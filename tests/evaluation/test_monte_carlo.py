"""Monte Carlo evaluation: noise at test time against loops written out and exact expectations."""

import itertools

import numpy as np
import pytest
import torch
import torchvision
from torch import nn

from runner.build.check import check
from runner.build.complaints import Refused
from runner.evaluation.metrics import mean_log
from runner.evaluation.monte_carlo import MonteCarlo
from runner.evaluation.standard import Standard
from runner.model.convnet import ConvNet
from runner.model.library_noise import replace_library_noise
from runner.model.noise import Noise, noisy, sampled
from runner.model.resnet import ResNet
from runner.regularization.dropout import DropoutLayer
from runner.task.resources import Resources
from tests.shared.configs import composed
from tests.shared.draws import seeded
from tests.shared.evaluations import ask, convnet, dropped, folder, normalizer, photos, probabilities


class Library(nn.Module):
    """Everything of torch and torchvision that draws, with a norm whose statistics must not move."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(2)
        self.conv, self.norm = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.slope, self.spatial, self.pool = nn.RReLU(), nn.Dropout2d(0.3), nn.FractionalMaxPool2d(2, 5)
        self.drop, self.head = nn.Dropout(0.5), nn.Linear(100, 5)

    def forward(self, x):
        x = self.spatial(self.slope(self.norm(self.conv(x))))
        return self.head(self.drop(self.pool(x).flatten(1)))


# -- noise at test time ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("p", [0.2, 0.5])
def test_sampled_noise_is_that_of_training(p):
    """Inside `sampled` a layer draws what a training pass draws from the same generator; outside it is still."""
    layer, x = nn.Sequential(DropoutLayer(p, True, seeded(5))).eval(), torch.ones(40, 50)
    with sampled(layer, seeded(7)):
        found = layer(x)
    expected = DropoutLayer(p, True, seeded(7)).train()(x)
    assert torch.equal(found, expected) and len(found.unique()) == 2 and torch.equal(layer(x), x)


def test_norms_stay_as_in_any_test():
    """Batch norm normalises by its running statistics, which do not move; no layer but noise is in training mode."""
    model, x = Library().eval(), torch.randn(4, 3, 8, 8, generator=seeded())
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with sampled(model, seeded()), torch.no_grad():
        assert {type(m) for m in model.modules() if m.training} == {
            *(nn.RReLU, nn.Dropout, nn.Dropout2d, nn.FractionalMaxPool2d)
        }
        single = model(x)
    assert not any(module.training for module in model.modules())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    with sampled(model, seeded()), torch.no_grad():
        assert torch.equal(model(x), single)


@pytest.mark.parametrize("library", [False, True])
def test_sampling_leaves_nothing_behind(library):
    """torch's stream and the run's own noise are as before, also after an error; layers are still again."""
    model, noise = (Library().eval(), seeded(5)) if library else dropped()
    states = torch.get_rng_state(), noise.get_state()
    inputs = torch.randn(2, 3, 8, 8, generator=seeded())
    still = model(inputs) if not library else None

    def as_before():
        assert torch.equal(torch.get_rng_state(), states[0]) and torch.equal(noise.get_state(), states[1])
        assert not any(module.training for module in model.modules())
        assert all(m.noise is noise and not m.sampling for m in model.modules() if isinstance(m, Noise))
        assert still is None or torch.equal(model(inputs), still)

    with sampled(model, seeded(1)):
        model(inputs)
    as_before()
    with pytest.raises(KeyError), sampled(model, seeded(1)):
        model(inputs)
        raise KeyError
    as_before()


def test_sampling_within_sampling():
    """Each level has its own stream, and the outer one goes on where it was."""
    layer, x = DropoutLayer(0.5, True, seeded(5)).eval(), torch.ones(100)
    with sampled(layer, seeded(1)):
        first = layer(x)
        with sampled(layer, seeded(2)):
            inner = layer(x)
        second = layer(x)
    draws = seeded(1)
    expected = [torch.empty(100).bernoulli_(0.5, generator=g) * 2 for g in (draws, draws, seeded(2))]
    for found, wanted in zip((first, second, inner), expected, strict=True):
        assert torch.equal(found, wanted)


@pytest.mark.parametrize(
    ("name", "kinds"),
    [
        ("efficientnet_b0", {"SeededDropout", "SeededStochasticDepth"}),
        ("convnext_tiny", {"SeededStochasticDepth"}),
        ("vgg11", {"SeededDropout"}),
        ("vit_b_16", set()),  # its dropout has p = 0
        ("resnet18", set()),
    ],
)
def test_noise_of_library_models(name, kinds):
    """Layers of torchvision's models count where their probability is above zero."""
    with torch.device("meta"):
        model = torchvision.models.get_model(name, weights=None)
        replace_library_noise(model, None)
    found = noisy(model)
    assert {type(layer).__name__ for layer in found} == kinds and all(layer.p > 0 for layer in found)


# -- Monte Carlo ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("inverted", [True, False])
def test_monte_carlo_is_a_loop_of_noisy_passes(inverted):
    """The passes are those of a loop that draws masks by hand from the same generator; their mean is the answer."""
    model, _ = dropped(0.5, inverted)
    images, normalize = photos(), normalizer()
    found = ask(MonteCarlo(passes=4), model, images, normalize)
    inputs, draws, expected = normalize(images), seeded(9), []

    def masked(x):
        mask = torch.empty_like(x).bernoulli_(0.5, generator=draws)
        return x * mask * (2 if inverted else 1)

    weights = {name: value.double() for name, value in model.state_dict().items()}
    plain = convnet()
    plain.load_state_dict(model.state_dict())
    read = []
    plain.hidden.register_forward_pre_hook(lambda layer, args: read.append(args[0]))
    probabilities(plain, inputs)
    for _ in range(4):
        hidden = masked(read[0]).double() @ weights["hidden.weight"].T + weights["hidden.bias"]
        hidden = masked(hidden.relu().float()).double()
        expected.append((hidden @ weights["head.weight"].T + weights["head.bias"]).softmax(-1))
    torch.testing.assert_close(found.double().exp(), torch.stack(expected), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(mean_log(found).double().exp(), sum(expected) / 4, rtol=1e-4, atol=1e-6)
    assert found.shape == (4, 6, 5) and found.dtype == torch.float32


def test_monte_carlo_converges_to_the_expectation():
    """The mean of 20,000 passes is the sum over all masks of their probability times the answer, within five standard
    errors for all classes; the single still pass is not."""
    torch.manual_seed(3)
    p, passes = 0.3, 20_000
    model = nn.Sequential(nn.Flatten(), nn.Identity(), nn.Linear(4, 3))
    model[2].weight.data.mul_(4)
    noisy_model = nn.Sequential(nn.Flatten(), DropoutLayer(p, True, seeded()), model[2]).eval()
    images, normalize = photos(1, 2, 1), normalizer(2, 1)
    x = normalize(images).flatten(1)
    expected = square = 0
    for kept in itertools.product((0, 1), repeat=4):
        chance = np.prod([1 - p if one else p for one in kept])
        answer = probabilities(model, x * torch.tensor(kept) / (1 - p))
        expected, square = expected + chance * answer, square + chance * answer**2
    error = (square - expected**2).sqrt() / passes**0.5
    found = ask(MonteCarlo(passes), noisy_model, images, normalize).double().exp().mean(0)
    assert ((found - expected).abs() < 5 * error).all()
    still = ask(Standard(), noisy_model, images, normalize).double().exp()[0]
    assert ((still - expected).abs() > 5 * error).any()


def test_monte_carlo_repeats_and_goes_on():
    """The same generator gives the same numbers; a second batch has draws of its own; another seed others."""
    model, noise = dropped()
    images, normalize, state = photos(), normalizer(), torch.get_rng_state()
    before, evaluation = noise.get_state(), MonteCarlo(3)
    first, again = (ask(evaluation, model, images, normalize) for _ in range(2))
    with torch.no_grad():
        second = evaluation.log_probabilities(model, images, normalize)
    assert torch.equal(first, again) and not torch.equal(first, second)
    assert not torch.equal(first, ask(evaluation, model, images, normalize, seed=10))
    assert len(first.exp().flatten(1).unique(dim=0)) == 3 and not model.training
    assert torch.equal(torch.get_rng_state(), state) and torch.equal(noise.get_state(), before)


@pytest.mark.parametrize(
    ("item", "kind"),
    [
        ("dropout", ConvNet),
        ("dropconnect", ConvNet),
        ("fractional_max_pool", ConvNet),
        ("gaussian_noise", ConvNet),
        ("stochastic_depth", ResNet),
    ],
)
def test_monte_carlo_of_each_noise(item, kind):
    """Whatever the stack's item makes random is random in each pass, and still again afterwards."""
    torch.manual_seed(0)
    shape, noise = {"in_channels": 3, "num_classes": 5, "image_size": 18}, seeded(5)
    model = ConvNet([6, 8], 16, **shape) if kind is ConvNet else ResNet(20, **shape)
    Resources().stack(check(composed(f"regularization=[{item}]")), "regularization")[item].modify(model, noise)
    model.eval()
    images, normalize, before = photos(4, 18), normalizer(18), noise.get_state()
    still = ask(Standard(), model, images, normalize)
    found = ask(MonteCarlo(6), model, images, normalize)
    for image in range(len(images)):
        assert len(found[:, image].unique(dim=0)) > 1
    assert torch.equal(ask(Standard(), model, images, normalize), still) and torch.equal(noise.get_state(), before)


def test_monte_carlo_of_library_noise():
    """Layers of torch and torchvision are sampled too, whatever torch's own stream stands at."""
    model, normalize, found = Library().eval(), normalizer(), []
    for seed in (1, 2):
        torch.manual_seed(seed)
        found.append(ask(MonteCarlo(5), model, photos(), normalize))
    assert torch.equal(*found) and len(found[0].flatten(1).unique(dim=0)) == 5


def test_monte_carlo_of_a_photo_model():
    """efficientnet's passes differ by its dropout and stochastic depth; its norms' statistics stay."""
    torch.manual_seed(0)
    model = torchvision.models.efficientnet_b0(num_classes=5)
    replace_library_noise(model, seeded())
    model(normalizer(32)(photos(4, 32)))  # once in training, that the norms' statistics fit its activations
    model.eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = ask(MonteCarlo(2), model, photos(2, 32), normalizer(32))
    assert not torch.equal(found[0], found[1])
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("words", [("model=convnet",), ("model=vit_b_16", "data.resize=32", "data.size=32")])
def test_monte_carlo_needs_noise(words, tmp_path):
    """A network without noise is refused in one line with the way out; dropout in the stack is noise."""
    data = folder(tmp_path) if "vit_b_16" in words[0] else ("data.limit=200",)
    with pytest.raises(Refused) as refused:
        Resources().preflight(check(composed("evaluation=monte_carlo", *words, *data)))
    (line,) = refused.value.lines
    assert line.startswith("evaluation=monte_carlo: nothing in ") and "'regularization=[dropout]'" in line
    Resources().preflight(check(composed("evaluation=monte_carlo", "regularization=[dropout]", *words, *data)))
