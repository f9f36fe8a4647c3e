"""Color noise along the principal components of the training pixels (Krizhevsky et al. 2012, section 4.1)."""

import torch
from torch import Tensor

from runner.augmentation.base import Transform
from runner.augmentation.color import to_float
from runner.core.errors import ConfigError
from runner.core.schema import NonNegative
from runner.data.splits import Split

# The covariance is estimated from at most IMAGES evenly spaced training images, and about GRID x GRID pixels of each.
IMAGES, GRID, CHUNK = 2000, 32, 250


def covariance(train: Split) -> Tensor:
    """Return the covariance `[C, C]` (float64, pixels in 0..1) of the colors of a split's pixels, from exact sums."""
    channels, side, _ = train.shape
    step = max(1, side // GRID)
    count, total = 0, torch.zeros(channels, dtype=torch.float64, device="cpu")
    products = torch.zeros(channels, channels, dtype=torch.float64, device="cpu")
    images = min(IMAGES, len(train))
    rows = torch.arange(images, device=train.device) * len(train) // images
    for batch, _ in train.batches(rows.split(CHUNK)):
        pixels = batch[..., ::step, ::step].cpu().movedim(1, 0).flatten(1).double()
        count, total, products = count + pixels.shape[1], total + pixels.sum(1), products + pixels @ pixels.T
    return (products * count - total.outer(total)) / (255 * count) ** 2


class ColorOffset(Transform):
    """One random color added to all pixels of an image: `sum_i a_i s_i p_i` with a_i ~ N(0, std^2).

    p_i are the eigenvectors of the training pixels' covariance, s_i the square roots of its eigenvalues. s_i is the
    data's standard deviation along p_i, so `std` is relative to it. The paper writes eigenvalues; its code
    (cuda-convnet2, `color_stdevs`) uses standard deviations. Gray images become brighter or darker.
    """

    def __init__(self, std: NonNegative = 0.1):
        self.std = std
        self.components = torch.zeros(0, 0)  # [C, C], rows s_i p_i

    def fit(self, train: Split, size: int) -> None:
        """Compute the components. Raises ConfigError if all pixels of the training split have one color."""
        values, vectors = torch.linalg.eigh(covariance(train))
        if values[-1] <= 0:
            raise ConfigError(
                "augmentation.color_offset: every channel of the training images is constant, so that their colors "
                "have no components; leave it out"
            )
        self.components = (vectors * values.clamp(min=0).sqrt()).T.float().to(train.device)

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        shape = len(images), len(self.components)
        draws = torch.randn(shape, generator=generator, device=images.device).mul_(self.std)
        return to_float(images).add_((draws @ self.components)[:, :, None, None]).clamp_(0, 1)
