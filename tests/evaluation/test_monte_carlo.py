"""Averaging at test time: noise and views against loops written out, torchvision's crops, exact expectations."""

import contextlib
import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from torch import nn
from torchvision.transforms import functional

from runner.augmentation.crop import Crop
from runner.augmentation.flip import Flip
from runner.build.check import check
from runner.build.complaints import Refused
from runner.core.errors import ConfigError
from runner.data.normalize import Normalize
from runner.data.splits import ResidentSplit, Splits
from runner.evaluation.evaluate import evaluate
from runner.evaluation.metrics import mean_log
from runner.evaluation.monte_carlo import MonteCarlo
from runner.evaluation.standard import Standard
from runner.evaluation.views import Views
from runner.model.convnet import ConvNet
from runner.model.library_noise import replace_library_noise
from runner.model.mlp import MLP
from runner.model.noise import Noise, noisy, sampled
from runner.model.resnet import ResNet
from runner.regularization.dropout import Dropout, DropoutLayer
from runner.task.resources import Resources
from tests.shared.configs import composed
from tests.shared.draws import seeded
from tests.shared.results import result_of, results_of

CPU = torch.device("cpu")
QUICK = ("threads=1", "epochs=2", "data.limit=300", "log.images=0")


def photos(count=6, side=12, channels=3):
    return torch.randint(0, 256, (count, channels, side, side), generator=seeded(1)).to(torch.uint8)


def normalizer(size=8, channels=3, memory_format=torch.contiguous_format):
    """Of a network that takes `size` pixels."""
    mean, std = torch.linspace(0.3, 0.6, channels), torch.linspace(0.2, 0.3, channels)
    split = ResidentSplit(photos(2, size, channels), torch.tensor([0, 1]))
    return Normalize(Splits(split, None, split, tuple("abcde"), "", mean, std, size), CPU, memory_format)


def convnet(seed=0, **options):
    torch.manual_seed(seed)
    return ConvNet([6, 8], 16, in_channels=3, num_classes=5, image_size=8).eval()


def dropped(p=0.5, inverted=True):
    """A network with dropout before its linear layers, and the generator that its training draws from."""
    model, noise = convnet(), seeded(5)
    Dropout(p, inverted).modify(model, noise)
    return model.eval(), noise


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


def ask(evaluation, model, images, normalize, pipeline=(), seed=9):
    """An evaluation's passes [S, B, K], from the start of a split."""
    evaluation.begin(list(pipeline), seeded(seed))
    with torch.no_grad():
        return evaluation.log_probabilities(model, images, normalize)


def probabilities(model, inputs):
    with torch.no_grad():
        return model(inputs).double().softmax(-1)


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


# -- views ----------------------------------------------------------------------------------------------------------


def test_flip_is_the_mean_of_two_passes():
    """The default: the image and its mirror image; the first is the standard pass."""
    model, images, normalize = convnet(), photos(side=12), normalizer(8)
    found = ask(Views(), model, images, normalize)
    inputs = normalize(images[..., 2:10, 2:10])
    expected = (probabilities(model, inputs) + probabilities(model, inputs.flip(-1))) / 2
    torch.testing.assert_close(mean_log(found).double().exp(), expected, rtol=1e-5, atol=1e-7)
    assert torch.equal(found[:1], ask(Standard(), model, images, normalize))
    assert not torch.allclose(found[0], found[1])


def in_order(passes):
    """The passes of an image, sorted: their order is nobody's business."""
    return sorted(passes.flatten(1).tolist())


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(("crops", "reference"), [(5, functional.five_crop), (10, functional.ten_crop)])
def test_crops_are_torchvisions(crops, reference, memory_format):
    """Five and ten crops of a photo are torchvision's."""
    model, images, normalize = convnet(), photos(), normalizer(8, memory_format=memory_format)
    found = ask(Views(crops=crops), model, images, normalize)
    with torch.no_grad():
        expected = torch.stack([model(normalize(x)).log_softmax(-1) for x in reference(images, [8, 8])])
    assert found.shape == (crops, 6, 5)
    np.testing.assert_allclose(in_order(found), in_order(expected), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(mean_log(found).exp(), expected.exp().mean(0), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("options", "side", "padded"), [({}, 8, 1), ({}, 15, 0), ({"padding": 3}, 8, 3)])
def test_crops_of_padded_images(options, side, padded):
    """Images of the network's own size are padded by an eighth first, larger ones are not; or by what is asked."""
    images = photos(side=side)
    found = list(Views(crops=5, **options).views(images, 8))
    assert found[0] is images
    corners = functional.five_crop(functional.pad(images, [padded] * 4), [8, 8])[:4]
    assert len(found) == 5 and all(torch.equal(*pair) for pair in zip(found[1:], corners, strict=True))


@pytest.mark.parametrize("flip", [True, False])
def test_six_views_are_the_published_ones(flip):
    """Three crops of an image that is reflected at its edges are airbench94's translations, the image itself half of
    the answer, logits averaged."""
    model, images, normalize = convnet(), photos(side=8), normalizer(8)
    found = ask(
        Views(flip=flip, crops=3, padding=1, padding_mode="reflect", average="logits"), model, images, normalize
    )

    def mirror(inputs):  # as `infer_mirror` in airbench94.py
        return 0.5 * model(inputs) + 0.5 * model(inputs.flip(-1)) if flip else model(inputs)

    inputs = normalize(images)
    padded = torch.nn.functional.pad(inputs, (1,) * 4, "reflect")
    with torch.no_grad():
        moved = torch.stack([mirror(padded[:, :, 0:8, 0:8]), mirror(padded[:, :, 2:10, 2:10])]).mean(0)
        logits = 0.5 * mirror(inputs) + 0.5 * moved
    assert found.shape == (1, 6, 5)
    torch.testing.assert_close(found[0], logits.log_softmax(-1), rtol=1e-4, atol=1e-5)


def test_views_of_larger_photos_are_not_padded():
    """The corners of a photo that is kept larger are its own, whatever lies beyond its edges."""
    images = photos(side=15)
    found = [list(Views(crops=3, padding_mode=mode).views(images, 8)) for mode in ("constant", "reflect")]
    corners = functional.five_crop(images, [8, 8])
    for views in found:
        assert len(views) == 3 and torch.equal(views[1], corners[0]) and torch.equal(views[2], corners[3])


def test_the_mean_of_logits():
    """`average=logits` gives the softmax of the views' mean logits, one pass."""
    model, images, normalize = convnet(), photos(), normalizer(8)
    found = ask(Views(crops=10, average="logits"), model, images, normalize)
    with torch.no_grad():
        logits = torch.stack([model(normalize(x)) for x in functional.ten_crop(images, [8, 8])]).mean(0)
    torch.testing.assert_close(found, logits.log_softmax(-1)[None], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(found[0], mean_log(ask(Views(crops=10), model, images, normalize)), rtol=1e-4)


def test_the_centre_of_an_odd_rest():
    """Where the rest is odd, the centre is that of any other test, and its mirror image that of the same square."""
    model, images, normalize = convnet(), photos(side=11), normalizer(8)
    found, centre = ask(Views(), model, images, normalize), normalize(images)
    with torch.no_grad():
        torch.testing.assert_close(found[1], model(centre.flip(-1)).log_softmax(-1), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "count"),
    [
        ({}, 2),
        ({"flip": True}, 2),
        ({"crops": 5}, 5),
        ({"crops": 5, "flip": False}, 5),
        ({"crops": 5, "flip": True}, 10),
        ({"crops": 10}, 10),
        ({"crops": 10, "flip": True}, 10),
        ({"draws": 3}, 3),
        ({"draws": 3, "flip": True}, 6),
    ],
)
def test_how_many_views(options, count):
    """Each combination of keys has its number of passes, no two the same."""
    found = ask(Views(**options), convnet(), photos(), normalizer(), [fitted(Crop())])
    assert found.shape == (count, 6, 5) and len(found.flatten(1).unique(dim=0)) == count


def fitted(transform, size=8):
    transform.fit(None, size)
    return transform


def test_draws_are_the_runs_pipeline():
    """k draws are k passes of the pipeline run by hand with the same generator, without the image itself."""
    model, images, normalize = convnet(), photos(), normalizer(8)
    pipeline = [Flip(0.5), fitted(Crop())]
    found, draws, expected = ask(Views(draws=4), model, images, normalize, pipeline), seeded(9), []
    for _ in range(4):
        view = pipeline[1](pipeline[0](images, draws), draws)
        expected.append(probabilities(model, normalize(view)))
    torch.testing.assert_close(found.double().exp(), torch.stack(expected), rtol=1e-5, atol=1e-7)
    assert torch.equal(ask(Views(draws=4), model, images, normalize, pipeline), found)


def test_many_draws_converge():
    """Draws of a fair flip come near the mean of image and mirror image as they grow in number."""
    model, images, normalize = convnet(), photos(2), normalizer(8)
    exact = mean_log(ask(Views(), model, images, normalize)).exp()
    found = ask(Views(draws=400), model, images, normalize, [Flip(0.5)])
    error = found.exp().std(0) / 20
    assert ((mean_log(found).exp() - exact).abs() < 5 * error + 1e-6).all() and (error > 0).all()


def test_a_pipeline_without_chance_is_a_view():
    """Draws that are all alike are the answer to the one view that they are."""
    model, images, normalize = convnet(), photos(), normalizer(8)
    found = ask(Views(draws=2), model, images, normalize, [Flip(1.0)])
    mirrored = ask(Standard(), model, images.flip(-1), normalize)
    assert torch.equal(found[0], found[1]) and torch.equal(found[:1], mirrored)


def test_only_the_network_computes_in_low_precision():
    """Under autocast the pipeline sees full precision, as in training."""

    def mixed(images, generator):
        matrix = torch.eye(8) + 0.1 * torch.rand(8, 8, generator=generator)
        kinds.append((images.float() / 255 @ matrix).dtype)
        return images

    kinds, model = [], convnet()
    with torch.autocast("cpu", torch.bfloat16):
        model.head.register_forward_hook(lambda m, args, out: kinds.append(out.dtype))
        found = ask(Views(draws=1), model, photos(side=8), normalizer(8), [mixed])
    assert kinds == [torch.float32, torch.bfloat16] and found.dtype == torch.float32


def test_views_pass_one_after_another():
    """No pass sees more images than the batch holds: memory does not grow with the views."""
    model, sizes = convnet(), []
    model.register_forward_pre_hook(lambda m, args: sizes.append(len(args[0])))
    ask(Views(crops=10), model, photos(6), normalizer(8))
    assert sizes == [6] * 10


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"draws": 3, "crops": 5}, "evaluation.draws=3 with evaluation.crops=5: choose one of them"),
        ({"padding": 2}, "evaluation.padding=2: only crops are padded; add evaluation.crops=5"),
        ({"padding_mode": "reflect"}, "evaluation.padding_mode=reflect: only crops are padded; add evaluation.crops=5"),
        ({"flip": False, "crops": 10}, "evaluation.flip=false with evaluation.crops=10: half of ten are mirrored"),
        ({"flip": False}, "evaluation.flip=false: leaves one view; add crops or draws, or use evaluation=standard"),
    ],
)
def test_keys_that_contradict(options, line):
    """Views that cannot be are refused."""
    with pytest.raises(ConfigError) as refused:
        Views(**options)
    assert line in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("crops=2",), "evaluation.crops=2: must be 1, 3, 5 or 10"),
        (("draws=-1",), "evaluation.draws=-1: must be at least 0"),
        (("crops=5", "padding=-1"), "evaluation.padding=-1: must be at least 0 or must be 'auto'"),
        (("flip=perhaps",), "evaluation.flip=perhaps: must be true or false or must be 'auto'"),
        (("draws=4",), "evaluation.draws=4: augmentation=[] draws nothing; add items"),
        (("crops=5", "padding=0"), "evaluation.crops=5: images of 8 pixels leave no room for crops of 8; use"),
        (("crops=5", "padding=8"), "evaluation.padding=8: the corners of images of 8 pixels would be padding alone"),
    ],
)
def test_views_that_do_not_fit(words, line):
    """Values out of range, draws of nothing, and crops without room are refused in one line."""
    words = [f"evaluation.{word}" for word in words]
    with pytest.raises(Refused) as refused:
        Resources().preflight(check(composed("evaluation=views", "data.limit=200", *words)))
    (found,) = refused.value.lines
    assert found.startswith(line)


def test_views_that_fit():
    """The edges of what is allowed are allowed."""
    for words in (("crops=5", "padding=7"), ("crops=10", "padding=1"), ("draws=1",)):
        words = [f"evaluation.{word}" for word in words]
        Resources().preflight(check(composed("evaluation=views", "data.limit=200", "augmentation=[flip]", *words)))


# -- together, and through the command line -------------------------------------------------------------------------


@pytest.mark.parametrize("evaluation", [MonteCarlo(3), Views(), Views(crops=10), Views(draws=3)])
def test_measured_is_the_mean_of_the_passes(evaluation):
    """Loss and accuracy are those of the mean of the passes' probabilities, batch after batch."""
    model, images, normalize = dropped()[0], photos(40), normalizer(8)
    labels = torch.randint(0, 5, (40,), generator=seeded(4))
    split, pipeline = ResidentSplit(images, labels), [fitted(Crop())]
    evaluation.begin(pipeline, seeded(9))
    found = evaluate([model], split, normalize, contextlib.nullcontext, 16, 5, evaluation)
    expected = ask(evaluation, model, images, normalize, pipeline).double().exp().mean(0)  # 40 images are one batch
    assert found.loss == pytest.approx(-expected[torch.arange(40), labels].log().mean().item(), rel=1e-5)
    assert found.accuracy == (expected.argmax(1) == labels).double().mean().item()
    still = evaluate([model], split, normalize, contextlib.nullcontext, 16, 5)
    assert abs(found.loss - still.loss) > 1e-5


def test_one_training_three_evaluations(cli):
    """A sweep over evaluations trains once; each result has its measures, and uncertainty where there are passes."""
    words = ("-m", *QUICK, "regularization=[dropout]", "augmentation=[crop]", "name=eval")
    words += ("evaluation=standard,monte_carlo,views",)
    code, out, err = cli(*words)
    assert code == 0, out + err
    results = {r["swept"]["evaluation"]: r for r in results_of(Path("outputs/eval")).values()}
    assert len({r["training"] for r in results.values()}) == 1 and len({r["test_loss"] for r in results.values()}) == 3
    runs = {result["run"] for result in results.values()}
    assert results["standard"]["trained_in"] is None
    assert results["monte_carlo"]["trained_in"] in runs and results["views"]["trained_in"] in runs
    for name, result in results.items():
        assert 0 <= result["test_calibration_error"] <= 1 and result["test_top5_accuracy"] is None
        confusion = np.array(result["confusion"])
        expected = confusion.diagonal() / confusion.sum(1)
        assert list(result["test_class_accuracy"].values()) == pytest.approx(expected.tolist())
        assert list(result["test_class_accuracy"]) == list("0123456789")
        assert (Path("outputs/eval") / result["run"] / "mistakes.png").stat().st_size > 1000
        uncertainty = result["test_uncertainty"]
        if name == "standard":
            assert uncertainty is None
        else:
            assert uncertainty["spread"] > 0 and uncertainty["mutual_information"] > 0
            ends = sorted((uncertainty["spread_wrong"], uncertainty["spread_right"]))
            assert ends[0] <= uncertainty["spread"] <= ends[1]
    # Whether the network was trained by this run or taken from another, the numbers are the same.
    assert cli(*words[1:-2], "evaluation=monte_carlo", "name=alone")[0] == 0
    alone = result_of(Path("outputs/alone"))
    assert alone["trained_in"] is None
    for key in ("test_loss", "test_accuracy", "val_loss", "test_uncertainty", "test_calibration_error", "confusion"):
        assert alone[key] == results["monte_carlo"][key]


def folder(root, classes=12):
    """A data set of photos in twelve colours; the words that choose it."""
    draws = np.random.default_rng(0)
    for part, count in (("train", 6), ("test", 2)):
        for label in range(classes):
            (root / part / f"class{label:02}").mkdir(parents=True, exist_ok=True)
            for i in range(count):
                pixels = draws.integers(0, 60, (20, 22, 3)) + 16 * label * np.array([1, 0, 0.5])
                Image.fromarray(pixels.astype(np.uint8)).save(root / part / f"class{label:02}" / f"{i}.png")
    return "data=image_folder", f"data.root={root}"


@pytest.mark.parametrize("words", [("evaluation.crops=10",), ("evaluation.draws=4", "augmentation=[flip,crop]")])
def test_views_of_photos(cli, tmp_path, words):
    """Photos kept larger than the network's input are seen in crops or draws; twelve classes have a top-5."""
    data = (*folder(tmp_path / "photos"), "data.resize=12", "data.size=8", "data.val_fraction=0.2")
    small = ("threads=1", "epochs=1", "batch_size=20", "log.images=0", "model=mlp", "name=photos")
    code, out, err = cli(*data, *small, "evaluation=views", *words)
    assert code == 0, out + err
    result = result_of(Path("outputs/photos"))
    assert result["test_accuracy"] <= result["test_top5_accuracy"] <= 1 and result["test_top5_accuracy"] > 0
    assert result["test_uncertainty"]["spread"] > 0


def test_the_network_of_no_noise_is_named(cli):
    """The command line refuses Monte Carlo without noise before anything runs."""
    code, out, err = cli(*QUICK, "evaluation=monte_carlo", "model=mlp")
    assert code == 2 and f"nothing in {MLP.__name__} is random" in out + err
    assert not Path("outputs/runs").exists()
