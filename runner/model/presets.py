"""Image size, crop and normalization of an architecture's published weights."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

BUILDER = "runner.model.torchvision_model.build"


@dataclass(frozen=True)
class Preset:
    """Resize of the shorter side to `resize` pixels, center crop to `size`, normalization by `mean` and `std`."""

    resize: int
    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]


def preset(node: Mapping[str, Any], weights: Any = None) -> Preset | None:
    """Return the preset of torchvision's (default) weights for a model's config node; None for other models.

    Uses torchvision's metadata and downloads nothing.
    """
    if node.get("_target_") != BUILDER or "name" not in node:
        return None
    from torchvision.models import get_model_weights  # here, because the import takes seconds

    from runner.model.torchvision_model import check_name

    check_name(node["name"])
    transforms = (weights or get_model_weights(node["name"]).DEFAULT).transforms()
    return Preset(
        resize=transforms.resize_size[0],
        size=transforms.crop_size[0],
        mean=tuple(transforms.mean),
        std=tuple(transforms.std),
    )
