"""Test-time augmentation: the mean prediction over several views of an image (Krizhevsky et al. 2012)."""

import itertools
from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from runner.augmentation.crop import reflect
from runner.core.context import Context
from runner.core.errors import ConfigError
from runner.core.schema import Average, Count
from runner.data.normalize import Normalize
from runner.evaluation.base import Evaluation, Pipeline, predict


class Views(Evaluation):
    """Test-time augmentation by crops of the stored image, or by draws of the run's augmentation pipeline.

    flip: add the mirror image of every view; `auto`: only if there would be a single view.
    crops: 1, the center; 5, the center and the four corners; 10, these five and their mirror images; 3, the center
    with weight two and two opposite corners (Jordan 2024, section 3.5).
    padding: pixels on each side before cropping; `auto`, as in `augmentation=[crop]`: an eighth of the side, 0 if the
    stored images are larger than the network's input.
    padding_mode: `constant` is black; `reflect` mirrors the image at its edges.
    draws: number of augmented draws, in place of crops. The unaugmented image is not among them, because the network
    was trained on draws.
    average: average the views' probabilities, or their logits (the views then count as one pass).
    """

    def __init__(
        self,
        flip: bool | Literal["auto"] = "auto",
        crops: Literal[1, 3, 5, 10] = 1,
        padding: Count | Literal["auto"] = "auto",
        padding_mode: Literal["constant", "reflect"] = "constant",
        draws: Count = 0,
        average: Average = "probabilities",
    ):
        if draws and crops > 1:
            raise ConfigError(f"evaluation.draws={draws} with evaluation.crops={crops}: choose one of them")
        if padding != "auto" and crops == 1:
            raise ConfigError(f"evaluation.padding={padding}: only crops are padded; add evaluation.crops=5")
        if padding_mode == "reflect" and crops == 1:
            raise ConfigError("evaluation.padding_mode=reflect: only crops are padded; add evaluation.crops=5")
        if crops == 10 and flip is False:
            raise ConfigError("evaluation.flip=false with evaluation.crops=10: half of ten are mirrored; use crops=5")
        if flip is False and crops == 1 and not draws:
            raise ConfigError("evaluation.flip=false: leaves one view; add crops or draws, or use evaluation=standard")
        self.flip = (crops == 10 or (crops == 1 and not draws)) if flip == "auto" else flip
        self.crops, self.padding, self.mode = crops, padding, padding_mode
        self.draws, self.average = draws, average

    def check(self, context: Context) -> str | None:
        if self.draws and not context.pipeline:
            return (
                f"evaluation.draws={self.draws}: augmentation=[] draws nothing; add items ('augmentation=[flip,crop]') "
                "or use evaluation.crops=5"
            )
        if self.crops == 1:
            return None
        size, padding = context.image_size, self._padding(context.stored_size, context.image_size)
        if padding >= size:
            return (
                f"evaluation.padding={padding}: the corners of images of {context.stored_size} pixels would be padding "
                f"alone; use less than {size}"
            )
        if context.stored_size + 2 * padding == size:
            return (
                f"evaluation.crops={self.crops}: images of {context.stored_size} pixels leave no room for crops of "
                f"{size}; use evaluation.padding=1 or more, or keep them larger (data.resize)"
            )
        return None

    def begin(self, pipeline: Pipeline, draws: torch.Generator) -> None:
        self.pipeline, self.generator = pipeline, draws

    def log_probabilities(self, model: nn.Module, images: Tensor, normalize: Normalize) -> Tensor:
        outputs = []
        for number, view in enumerate(self.views(images, normalize.size)):  # one by one, to save memory
            inputs = normalize(view)
            predictions = [predict(model, inputs)]
            if self.flip:
                predictions.append(predict(model, inputs.flip(-1)))
            outputs += predictions * 2 if self.crops == 3 and number == 0 else predictions
        passes = torch.stack(outputs)
        return passes if self.average == "probabilities" else passes.mean(0).log_softmax(-1)[None]

    def views(self, images: Tensor, size: int) -> Iterator[Tensor]:
        """Yield the views of images `[B, C, H, W]` uint8, before normalization and without mirror images."""
        if self.draws:
            for _ in range(self.draws):
                yield self._draw(images)
            return
        yield images  # `normalize` crops the center
        if self.crops > 1:
            padding = self._padding(images.shape[-1], size)
            images = reflect(images, padding) if self.mode == "reflect" else pad(images, (padding,) * 4)
            ends = slice(None, size), slice(-size, None)
            for top, left in zip(ends, ends) if self.crops == 3 else itertools.product(ends, ends):
                yield images[..., top, left]

    def _draw(self, images: Tensor) -> Tensor:
        with torch.autocast(images.device.type, enabled=False):  # as in training, where only the network runs in bf16
            for transform in self.pipeline:
                images = transform(images, self.generator)
        return images

    def _padding(self, stored: int, size: int) -> int:
        if self.padding != "auto":
            return self.padding
        return stored // 8 if stored == size else 0
