"""Random resized crops: values and boxes against torchvision."""

import pytest
import torch
from torchvision import transforms
from torchvision.transforms.v2 import functional

from runner.augmentation.resized_crop import ResizedCrop, resized_crop
from tests.shared.draws import seeded
from tests.shared.geometry import SHAPES, assert_close, fitted, noise, ramps, same_boxes, seen, torchvision_boxes


@pytest.mark.parametrize(("shape", "size"), [(s, z) for s in SHAPES for z in (8, 28)] + [((3, 72, 72), 64)])
def test_resized_crop_values(shape, size):
    """Each box, resized to the network's size, is torchvision's `resized_crop` of it with antialias."""
    images = noise(5, shape)
    height, width = shape[1:]
    boxes = [(0, 0, height, width), (1, 2, 5, 4), (2, 1, 3, 6), (height - 4, width - 7, 4, 7), (3, 0, height - 3, 1)]
    found = resized_crop(images, *torch.tensor(boxes).T, size)
    for image, box, result in zip(images, boxes, found, strict=True):
        assert_close(result, functional.resized_crop(image, *box, [size, size], antialias=True))


def boxes_seen(found, side):
    """Top, left, height and width of the boxes that results show of `ramps`, in pixels."""
    place, step = seen(found, side)
    sides = step.diagonal(dim1=1, dim2=2) * found.shape[-1]  # width, height
    corner = place + side / 2 - sides / 2
    exact = torch.stack((corner[:, 1], corner[:, 0], sides[:, 1], sides[:, 0]))
    whole = exact.round()
    torch.testing.assert_close(exact, whole, atol=0.01, rtol=0)
    return whole.long()


@pytest.mark.parametrize(
    ("scale", "ratio", "size"),
    [
        ([0.08, 1.0], [0.75, 1.3333], 32),
        ([0.2, 0.5], [0.5, 0.9], 40),
        ([0.9, 1.0], [0.5, 2.0], 32),  # most draws do not fit
        ([0.8, 0.8], [2.0, 3.0], 32),  # none does: the largest box at the centre
    ],
)
def test_resized_crop_boxes(scale, ratio, size):
    """Boxes are distributed as torchvision's: area uniform, ratio log-uniform, places uniform (2,000 draws)."""
    transform = fitted(ResizedCrop, size, scale=scale, ratio=ratio)
    found = boxes_seen(transform(ramps(2000, 32), seeded(10)), 32)
    same_boxes(found, torchvision_boxes(transforms.RandomResizedCrop, 2000, 32, scale=scale, ratio=ratio))
    shares = found[2] * found[3] / 32**2
    assert shares.max() <= scale[1] * 1.1 and (shares.min() >= scale[0] * 0.9 or scale == [0.8, 0.8])


@pytest.mark.parametrize("ratio", [[2.0, 3.0], [0.25, 0.5]])
def test_resized_crop_falls_back_to_the_centre(ratio):
    """Where no draw can fit, the largest box of an allowed ratio at the centre is taken, as torchvision does."""
    top, left, height, width = boxes_seen(
        fitted(ResizedCrop, 32, scale=[1, 1], ratio=ratio)(ramps(3, 32), seeded()), 32
    )
    wanted = torchvision_boxes(transforms.RandomResizedCrop, 3, 32, scale=[1.0, 1.0], ratio=ratio)
    assert torch.equal(torch.stack((top, left, height, width)), wanted)


def test_resized_crop_gives_what_enters_the_network():
    """Photos kept at 72 pixels become the network's 64."""
    assert fitted(ResizedCrop, 64)(noise(4, (3, 72, 72)), seeded()).shape == (4, 3, 64, 64)
