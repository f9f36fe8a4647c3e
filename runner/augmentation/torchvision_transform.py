"""Transforms of torchvision.transforms.v2 in the pipeline: image by image, each with a draw of its own."""

import inspect
from collections.abc import Callable
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2.functional import is_pure_tensor

from runner.augmentation.base import Transform
from runner.core.context import Context
from runner.core.errors import ConfigError, did_you_mean
from runner.core.schema import Real
from runner.core.text import first_line

Interpolation = Literal["nearest", "bilinear"]
Byte = Annotated[Real, Field(ge=0, le=255)]

TRIED = 8  # images on which a transform is tried before training
ON_IMAGES = {torch.Tensor, is_pure_tensor}  # of the types that a transform declares; the rest it passes through


class PerSample(Transform):
    """`transform` takes one image, uint8 `[C, H, W]`, and draws from torch's global generators.

    Those are seeded from the pipeline's for each batch, and put back. Floats are rounded to bytes, which torchvision's
    policies are defined on, and come back as floats: `fill` and thresholds mean 0 to 255 wherever the item stands.
    """

    def __init__(self, transform: Callable[[Tensor], Tensor]):
        self.transform = transform

    def each(self, images: Tensor, generator: torch.Generator) -> list[Tensor]:
        """Images uint8 `[B, C, H, W]` -> what the transform makes of each."""
        devices = [images.device] if images.device.type == "cuda" else []
        with torch.random.fork_rng(devices):
            torch.manual_seed(int(torch.randint(2**62, (), generator=generator, device=generator.device)))
            return [self.transform(image) for image in images]

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        if images.dtype == torch.uint8:
            return torch.stack(self.each(images, generator))
        return torch.stack(self.each((images * 255).round().to(torch.uint8), generator)) / 255


class Policy(PerSample):
    """The base of torchvision's policies: `kind(**options)` of operations that share `interpolation` and `fill`."""

    def __init__(self, kind: type, interpolation: str, fill: float, **options: Any):
        # Without a fill torchvision leaves the border black, which is quicker than to paint it.
        super().__init__(kind(**options, interpolation=v2.InterpolationMode(interpolation), fill=fill or None))

    def check(self, context: Context) -> str | None:
        if context.channels in (1, 3):
            return None
        return f"{own(self, context)}: works on 1 or 3 channels, not on {context.channels}; leave it out"


class TorchvisionTransform(PerSample):
    """`torchvision.transforms.v2.<name>(**options)`."""

    def __init__(self, name: str, **options: Any):
        self.name = name
        with torch.device("cpu"):  # a rehearsal makes everything on the meta device
            super().__init__(build(name, options))

    def check(self, context: Context) -> str | None:
        """Tries the transform on what the items before it make of images of the data's size."""
        items = list(context.pipeline.values())
        before = items[: items.index(self)]
        if any(item.check(context) for item in before):
            return None  # they have said why nothing can reach this one
        with torch.device("cpu"):
            draws = torch.Generator().manual_seed(0)
            shape = (TRIED, context.channels, context.stored_size, context.stored_size)
            images = torch.randint(256, shape, generator=draws, dtype=torch.uint8)
            for item in before:
                images = item(images, draws)
            if images.is_floating_point():
                images = (images * 255).to(torch.uint8)
            where = f"{own(self, context)}.name={self.name}"
            try:
                found = self.each(images, draws)
            except Exception as error:  # whatever a transform raises that wants more than an image
                said = f"cannot be called on an image of {_words(images[0])} ({first_line(error)})"
                return f"{where}: {said}; choose another, or other keys of it"
        wrong = next((line for image in found if (line := _complaint(image, context))), None)
        if wrong is None and len({tuple(image.shape) for image in found}) > 1:
            wrong = "gives images of several sizes, which make no batch; choose a transform that keeps the size"
        return wrong and f"{where}: {wrong}"


def build(name: str, options: dict[str, Any]) -> Callable[[Tensor], Tensor]:
    """The transform. Raises `ConfigError` for a name or for arguments that torchvision does not have or take."""
    here = "augmentation.torchvision"
    classes = {key: kind for key, kind in inspect.getmembers(v2, inspect.isclass) if issubclass(kind, v2.Transform)}
    known = {key: kind for key, kind in classes.items() if ON_IMAGES & set(kind._transformed_types)}
    del known["Transform"]
    if name not in known:
        nothing = "does nothing to an image; choose another of torchvision.transforms.v2"
        unknown = f"is no transform of torchvision.transforms.v2{did_you_mean(name, known)}"
        raise ConfigError(f"{here}.name={name}: {nothing if name in classes else unknown}")
    takes = inspect.signature(known[name]).parameters
    for key in options:
        if key not in takes:
            has = ", ".join(takes) or "none"
            raise ConfigError(f"{here}.{key}: no such key; {name} has {has}{did_you_mean(key, takes)}")
    missing = [key for key, p in takes.items() if p.default is p.empty and key not in options]
    if missing:
        raise ConfigError(f"{here}.name={name}: needs " + ", ".join(f"'+{here}.{key}=VALUE'" for key in missing))
    try:
        if isinstance(options.get("interpolation"), str):
            options = options | {"interpolation": v2.InterpolationMode(options["interpolation"])}
        return known[name](**options)
    except Exception as error:  # torchvision asserts, compares and converts: no type of error tells
        raise ConfigError(f"{here}.name={name}: refuses its arguments ({first_line(error)})") from error


def own(item: Transform, context: Context) -> str:
    """Where an item of the pipeline stands in the config."""
    return next(f"augmentation.{name}" for name, other in context.pipeline.items() if other is item)


def _complaint(image: Any, context: Context) -> str | None:
    """What is wrong with a transform's result."""
    if type(image) is not Tensor or image.dtype != torch.uint8 or image.ndim != 3:
        kind = image.dtype if type(image) is Tensor else type(image).__name__
        return f"gives {kind}, not an image of bytes; choose a transform from one image to another"
    if len(image) != context.channels:
        return f"gives {len(image)} channels of {context.channels}; choose a transform that keeps them"
    if min(image.shape[1:]) < context.image_size:
        size = context.image_size
        return f"gives {_words(image)}, less than the {size}x{size} that enter the network; cut off less"
    return None


def _words(image: Tensor) -> str:
    return f"{image.shape[1]}x{image.shape[2]} pixels"
