"""What items share that mix each image with another of its batch."""

from typing import Literal

import torch
from torch import Tensor

from runner.core.context import Context
from runner.core.schema import Fraction
from runner.core.timeline import batches
from runner.regularization.base import Item, soft


def blend(images: Tensor, targets: Tensor, own: Tensor) -> tuple[Tensor, Tensor]:
    """`own * image + (1 - own) * partner`; targets `[B, K]` likewise, by the mean of `own` over the pixels.

    own: shares in [0, 1] that spread over `images [B, C, H, W]`. The partner is the image before in the batch, the
    last one for the first: since batches are shuffled, a random other one (as torchvision's MixUp pairs them).
    """
    share = own.mean((1, 2, 3))[:, None]
    return torch.lerp(images.roll(1, 0), images, own), torch.lerp(targets.roll(1, 0), targets, share)


def beta(alpha: float, count: int, generator: torch.Generator) -> Tensor:
    """`count` draws of Beta(alpha, alpha) on the generator's device."""
    size, device = (2, count), generator.device
    # Gamma(alpha) is Gamma(alpha + 1) * U^(1 / alpha) (Marsaglia & Tsang 2000, section 6). Its logarithm does not
    # underflow where alpha is small, as the draw itself does: the ratio would be 0 / 0.
    gamma = torch._standard_gamma(torch.full(size, alpha + 1.0, device=device), generator=generator)
    uniform = 1 - torch.rand(size, generator=generator, device=device)  # never 0
    first, second = gamma.log() + uniform.log() / alpha
    return torch.sigmoid(first - second)


class Mixer(Item):
    """Each image and its target become a mean of themselves and of their partner's.

    per: a `batch` or each `sample` has a draw of its own. p: chance that it is mixed at all.
    """

    def __init__(self, per: Literal["batch", "sample"], p: Fraction):
        self.per, self.p = per, p

    def shares(self, count: int, size: tuple[int, int], generator: torch.Generator) -> Tensor:
        """`count` draws of what an image keeps of its own pixels, `[count, 1, H, W]`, or `[count, 1, 1, 1]` where all
        pixels keep the same; `size` is `(H, W)`."""
        raise NotImplementedError

    def mix(
        self, images: Tensor, targets: Tensor, num_classes: int, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        count = len(images) if self.per == "sample" else 1
        own = self.shares(count, tuple(images.shape[-2:]), generator)
        if self.p < 1:
            mixed = torch.rand((count, 1, 1, 1), generator=generator, device=generator.device) < self.p
            own = torch.where(mixed, own, 1.0)
        return blend(images, soft(targets, num_classes), own)

    def check(self, context: Context) -> str | None:
        mixers = {name: item for name, item in context.stack.items() if isinstance(item, Mixer)}
        if list(mixers.values()).index(self) == 1:  # said once, whichever they are and however many
            return (
                f"regularization=[{','.join(mixers)}]: only one of these can mix images; "
                "use cutmix_or_mixup alone, which takes one of the two each time"
            )
        if batches(context.config, context.train_size)[0] == 1:
            return f"batch_size=1: {next(iter(mixers))} has no second image to mix with; use batch_size=2 or more"
        return None
