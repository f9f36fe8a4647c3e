"""The batches of a run: drawn, augmented, normalized, mixed."""

import torch
from torch import Tensor

from runner.core.seeds import generator
from runner.train.attributes import Attributes
from runner.train.batch import Batch


class Stream(Attributes):
    """Mixin of `TrainState` that makes its batches, in the order of the data flow."""

    def next_batch(self) -> Batch:
        """Return the step's batch, drawn, augmented and mixed."""
        if self.following:
            self.next_rows()
        if self.features is not None:
            if self._batches is None:
                self._batches = self.features.batches(self._order(), self.augmenting)
            return self.mix(*next(self._batches), self.augmenting)
        if self._batches is None:
            self._batches = self.train_split.batches(self._order())
        images, labels = next(self._batches)
        return self.augment(images, labels, self.augmenting)

    def next_rows(self) -> Tensor:
        """Return the indices of the step's images `[B]`, for callers that load the batch themselves."""
        if self._rows is None:
            self._rows = iter(self._order())
        rows = next(self._rows)
        for item in self.following:
            item.follow(rows, self.progress.step // self.steps_per_epoch, self.config["seed"])
        return rows

    def rewind(self, losses: bool = True) -> None:
        """Drop the open batch iterators and, with `losses`, the metrics not yet read."""
        self._batches = self._rows = None
        if losses:
            self.meter.clear()

    def augment(self, images: Tensor, labels: Tensor, draws: torch.Generator) -> Batch:
        """Return the batch after augmentation, normalization and mixing."""
        for transform in self.pipeline:
            images = transform(images, draws)
        return self.mix(self.normalize(images), labels, draws)

    def mix(self, images: Tensor, labels: Tensor, draws: torch.Generator) -> Batch:
        """Return the batch after items that mix images and targets, such as mixup or label smoothing."""
        targets = labels
        for item in self.mixers:
            images, targets = item.mix(images, targets, self.num_classes, draws)
        return Batch(images, targets, labels)

    def preview(self, count: int) -> Batch:
        """Return the first `count` training images as the network gets them, drawn from a separate generator."""
        rows = self._order()[0][:count][None]
        images, labels = next(self.train_split.batches(rows))
        return self.augment(images, labels, generator(self.config["seed"], "preview", self.device))

    def first_inputs(self, count: int) -> Tensor:
        """Return the network's input for the first `count` training images: features where they are cached."""
        images = self.preview(count).images
        return images if self.features is None else self.features.enter(images)

    def _order(self) -> Tensor:
        """Return the image indices of the rest of this epoch, `[steps, B]`."""
        # an epoch's order depends on the seed alone, so a resumed run continues with the same images
        epoch, done = divmod(self.progress.step, self.steps_per_epoch)
        draw = generator(self.config["seed"], f"order of epoch {epoch}")
        order = torch.randperm(len(self.train_split), generator=draw)
        return (
            order[: self.steps_per_epoch * self.batch_size].view(-1, self.batch_size)[done:].to(self.train_split.device)
        )
