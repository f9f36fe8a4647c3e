"""Images that show where their pixels came from, and boxes drawn on them."""

import torch
from scipy.stats import ks_2samp

from runner.augmentation.affine import Affine
from runner.augmentation.cutout import Cutout
from runner.augmentation.random_erasing import RandomErasing
from runner.augmentation.resized_crop import ResizedCrop
from runner.augmentation.rotate import Rotate
from runner.augmentation.scale import Scale
from runner.augmentation.translate import Translate
from runner.augmentation.vertical_flip import VerticalFlip
from runner.data.splits import ResidentSplit
from tests.shared.draws import seeded

ITEMS = {
    "vertical_flip": VerticalFlip,
    "resized_crop": ResizedCrop,
    "scale": Scale,
    "rotate": Rotate,
    "translate": Translate,
    "affine": Affine,
    "cutout": Cutout,
    "random_erasing": RandomErasing,
}
SHAPES = [(3, 8, 8), (1, 28, 28), (3, 21, 34)]
LIKELY = 1e-3  # p-values below are failures


def noise(count, shape, seed=0):
    return torch.randint(0, 256, (count, *shape), generator=seeded(seed)).to(torch.uint8)


def split_of(images):
    return ResidentSplit(images, torch.zeros(len(images), dtype=torch.int64))


def fitted(kind, network=32, train=None, **options):
    transform = kind(**options)
    transform.fit(split_of(noise(4, (3, 8, 8))) if train is None else train, network)
    return transform


def levels(images):
    """Whole pixel values, as a picture file would have them."""
    return (images * 255).round().int() if images.is_floating_point() else images.int()


def assert_close(found, image):
    """Within one level of 255, after rounding."""
    assert (levels(found) - levels(image)).abs().max() <= 1


def ramps(count, side, dtype=torch.float32):
    """Images whose channels are x and y, in sides of the image, 0 at its left and upper edge, and a constant 1."""
    place = (torch.arange(side) + 0.5) / side
    planes = (place.expand(side, side), place[:, None].expand(side, side), torch.ones(side, side))
    return torch.stack(planes).expand(count, 3, side, side).to(dtype)


def seen(found, side, reach=1):
    """What results show of `ramps` of a side: the place `[B, 2]` (x, y) in the middle, in pixels from the old centre,
    and the map `[B, 2, 2]` from a step in the result to a step in the image, over `reach` pixels to each side."""
    middle = found.shape[-1] // 2
    ends = [middle - reach, middle + reach - 1]
    four = found[:, :2, ends][..., ends].double() * side
    place = four.mean((2, 3)) - side / 2
    right, down = (four[..., 1] - four[..., 0]).mean(2), (four[..., 1, :] - four[..., 0, :]).mean(2)
    return place, torch.stack((right, down), 2) / (2 * reach - 1)


def torchvision_boxes(kind, count, side, **options):
    """What torchvision's own transform draws."""
    image = torch.zeros(3, side, side)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return torch.tensor([kind.get_params(image, **options)[:4] for _ in range(count)]).T


def same_boxes(found, wanted):
    """Areas, shapes and places of two samples come from the same distributions."""
    for value in (
        lambda top, left, height, width: height * width,
        lambda top, left, height, width: width / height,
        lambda top, left, height, width: height,
        lambda top, left, height, width: top,
        lambda top, left, height, width: left,
    ):
        assert ks_2samp(value(*found).numpy(), value(*wanted).numpy()).pvalue > LIKELY
