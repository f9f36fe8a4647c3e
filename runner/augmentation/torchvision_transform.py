"""Transforms of torchvision.transforms.v2, applied image by image, each with its own draw."""

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

TRIED = 8  # images on which a transform is tested before training
ON_IMAGES = {
    torch.Tensor,
    is_pure_tensor,
}  # types that a transform of plain tensors declares


class PerSample(Transform):
    """Adapter for a `transform` of one image, uint8 `[C, H, W]`, that draws from torch's global generators.

    For each batch the global generators are seeded from the pipeline's generator, and restored afterwards. Float
    images are rounded to bytes and converted back, because torchvision's policies are defined on bytes. So `fill` and
    thresholds mean 0 to 255 at any position in the pipeline.
    """

    def __init__(self, transform: Callable[[Tensor], Tensor]):
        self.transform = transform

    def each(self, images: Tensor, generator: torch.Generator) -> list[Tensor]:
        """Return the transformed images of a uint8 batch `[B, C, H, W]`."""
        devices = [images.device] if images.device.type == "cuda" else []
        with torch.random.fork_rng(devices):
            torch.manual_seed(int(torch.randint(2**62, (), generator=generator, device=generator.device)))
            return [self.transform(image) for image in images]

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        if images.dtype == torch.uint8:
            return torch.stack(self.each(images, generator))
        return torch.stack(self.each((images * 255).round().to(torch.uint8), generator)) / 255


class Policy(PerSample):
    """Base of torchvision's policies: `kind(**options)` with the `interpolation` and `fill` of its operations."""

    def __init__(self, kind: type, interpolation: str, fill: float, **options: Any):
        # fill=None leaves the border black, which is faster than filling it with 0.
        super().__init__(kind(**options, interpolation=v2.InterpolationMode(interpolation), fill=fill or None))

    def check(self, context: Context) -> str | None:
        if context.channels in (1, 3):
            return None
        return f"{config_key(self, context)}: works on 1 or 3 channels, not on {context.channels}; leave it out"


class TorchvisionTransform(PerSample):
    """`torchvision.transforms.v2.<name>(**options)`."""

    def __init__(self, name: str, **options: Any):
        self.name = name
        with torch.device("cpu"):  # the preflight builds everything on the meta device
            super().__init__(build(name, options))

    def check(self, context: Context) -> str | None:
        """Test the transform on random images of the data's size, after the items before it."""
        items = list(context.pipeline.values())
        before = items[: items.index(self)]
        if any(item.check(context) for item in before):
            return None  # because those items report their own errors
        with torch.device("cpu"):
            draws = torch.Generator().manual_seed(0)
            shape = (TRIED, context.channels, context.stored_size, context.stored_size)
            images = torch.randint(256, shape, generator=draws, dtype=torch.uint8)
            for item in before:
                images = item(images, draws)
            if images.is_floating_point():
                images = (images * 255).to(torch.uint8)
            where = f"{config_key(self, context)}.name={self.name}"
            try:
                results = self.each(images, draws)
            except Exception as error:  # any type: a transform may need more than an image
                problem = f"cannot be called on an image of {_size(images[0])} ({first_line(error)})"
                return f"{where}: {problem}; choose another, or other keys of it"
        problem = next((line for image in results if (line := _complaint(image, context))), None)
        if problem is None and len({tuple(image.shape) for image in results}) > 1:
            problem = "gives images of several sizes, which make no batch; choose a transform that keeps the size"
        return problem and f"{where}: {problem}"


def build(name: str, options: dict[str, Any]) -> Callable[[Tensor], Tensor]:
    """Build the transform. Raises ConfigError for an unknown name or for arguments that it rejects."""
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
    except Exception as error:  # any type: torchvision asserts, compares and converts its arguments
        raise ConfigError(f"{here}.name={name}: refuses its arguments ({first_line(error)})") from error


def config_key(item: Transform, context: Context) -> str:
    """Return the config key of an item of the pipeline."""
    return next(f"augmentation.{name}" for name, transform in context.pipeline.items() if transform is item)


def _complaint(image: Any, context: Context) -> str | None:
    """Return why the network cannot take a transform's result, or None."""
    if type(image) is not Tensor or image.dtype != torch.uint8 or image.ndim != 3:
        kind = image.dtype if type(image) is Tensor else type(image).__name__
        return f"gives {kind}, not an image of bytes; choose a transform from one image to another"
    if len(image) != context.channels:
        return f"gives {len(image)} channels of {context.channels}; choose a transform that keeps them"
    if min(image.shape[1:]) < context.image_size:
        size = context.image_size
        return f"gives {_size(image)}, less than the {size}x{size} that enter the network; cut off less"
    return None


def _size(image: Tensor) -> str:
    return f"{image.shape[1]}x{image.shape[2]} pixels"
