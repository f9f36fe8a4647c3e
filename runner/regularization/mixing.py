"""Base of the items that mix each image with another one of its batch."""

from typing import Literal

import torch
from torch import Tensor

from runner.core.context import Context
from runner.core.schema import Fraction
from runner.core.timeline import batches
from runner.regularization.base import Item, soft


def blend(images: Tensor, targets: Tensor, shares: Tensor) -> tuple[Tensor, Tensor]:
    """Return `shares * image + (1 - shares) * partner`, and targets `[B, K]` mixed by the mean share of each image.

    shares: in [0, 1], broadcast over `images [B, C, H, W]`. The partner is the previous image of the batch (cyclic),
    as in torchvision's MixUp. It is random, because batches are shuffled.
    """
    share = shares.mean((1, 2, 3))[:, None]
    return torch.lerp(images.roll(1, 0), images, shares), torch.lerp(targets.roll(1, 0), targets, share)


def beta(alpha: float, count: int, generator: torch.Generator) -> Tensor:
    """Draw `count` values from Beta(alpha, alpha) on the generator's device."""
    size, device = (2, count), generator.device
    # Gamma(alpha) is Gamma(alpha + 1) * U^(1 / alpha) (Marsaglia & Tsang 2000, section 6). In logarithms, because the
    # draws underflow for small alpha, and their ratio would be 0 / 0.
    gamma = torch._standard_gamma(torch.full(size, alpha + 1.0, device=device), generator=generator)
    uniform = 1 - torch.rand(size, generator=generator, device=device)  # never 0
    first, second = gamma.log() + uniform.log() / alpha
    return torch.sigmoid(first - second)


class Mixer(Item):
    """Weighted mean of each image and its partner, and of their targets.

    per: one draw of the shares for the `batch`, or one per `sample`. p: probability of mixing.
    """

    def __init__(self, per: Literal["batch", "sample"], p: Fraction):
        self.per, self.p = per, p

    def shares(self, count: int, size: tuple[int, int], generator: torch.Generator) -> Tensor:
        """Draw the shares that images keep of their own pixels, `[count, 1, H, W]`, or `[count, 1, 1, 1]` if they are
        the same for all pixels. `size` is `(H, W)`."""
        raise NotImplementedError

    def mix(
        self, images: Tensor, targets: Tensor, num_classes: int, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        count = len(images) if self.per == "sample" else 1
        shares = self.shares(count, tuple(images.shape[-2:]), generator)
        if self.p < 1:
            is_mixed = torch.rand((count, 1, 1, 1), generator=generator, device=generator.device) < self.p
            shares = torch.where(is_mixed, shares, 1.0)
        return blend(images, soft(targets, num_classes), shares)

    def check(self, context: Context) -> str | None:
        mixers = {name: item for name, item in context.stack.items() if isinstance(item, Mixer)}
        if list(mixers.values()).index(self) == 1:  # only the second reports it, so that it is reported once
            return (
                f"regularization=[{','.join(mixers)}]: only one of these can mix images; "
                "use cutmix_or_mixup alone, which takes one of the two each time"
            )
        if batches(context.config, context.train_size)[0] == 1:
            return f"batch_size=1: {next(iter(mixers))} has no second image to mix with; use batch_size=2 or more"
        return None
