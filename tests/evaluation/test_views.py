"""Views at test time: flips, crops and draws against torchvision and loops written out."""

import numpy as np
import pytest
import torch
from torchvision.transforms import functional

from runner.augmentation.crop import Crop
from runner.augmentation.flip import Flip
from runner.build.check import check
from runner.build.complaints import Refused
from runner.core.errors import ConfigError
from runner.evaluation.metrics import mean_log
from runner.evaluation.standard import Standard
from runner.evaluation.views import Views
from runner.task.resources import Resources
from tests.shared.configs import composed
from tests.shared.draws import seeded
from tests.shared.evaluations import ask, convnet, fitted, normalizer, photos, probabilities


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
