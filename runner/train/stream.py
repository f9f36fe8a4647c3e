"""The batches of a run: drawn, augmented, normalized, mixed."""

import torch
from torch import Tensor

from runner.core.seeds import generator
from runner.train.attributes import Attributes
from runner.train.batch import Batch


class Stream(Attributes):
    """The part of a run that brings its batches, in the order of the data's way."""

    def next_batch(self) -> Batch:
        """Draws, augments and mixes the step's batch."""
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
        """The numbers of the step's images `[B]`, for who fetches them in place of `next_batch`."""
        if self._rows is None:
            self._rows = iter(self._order())
        rows = next(self._rows)
        for item in self.following:
            item.follow(rows, self.progress.step // self.steps_per_epoch, self.config["seed"])
        return rows

    def rewind(self, losses: bool = True) -> None:
        """Forgets the batches that were begun and, unless told not to, the losses that nobody has looked at."""
        self._batches = self._rows = None
        if losses:
            self.meter.clear()

    def augment(self, images: Tensor, labels: Tensor, draws: torch.Generator) -> Batch:
        """The pipeline, normalisation, and what mixes images and targets."""
        for transform in self.pipeline:
            images = transform(images, draws)
        return self.mix(self.normalize(images), labels, draws)

    def mix(self, images: Tensor, labels: Tensor, draws: torch.Generator) -> Batch:
        """What mixes images and targets; label smoothing, too."""
        targets = labels
        for item in self.mixers:
            images, targets = item.mix(images, targets, self.num_classes, draws)
        return Batch(images, targets, labels)

    def preview(self, count: int) -> Batch:
        """The first `count` training images as the network gets them; draws nothing that the run will draw."""
        rows = self._order()[0][:count][None]
        images, labels = next(self.train_split.batches(rows))
        return self.augment(images, labels, generator(self.config["seed"], "preview", self.device))

    def entering(self, count: int) -> Tensor:
        """What the network gets of the first `count` training images: features where they are kept."""
        images = self.preview(count).images
        return images if self.features is None else self.features.enter(images)

    def _order(self) -> Tensor:
        """Rows of image numbers for the rest of this epoch. Each epoch's order follows from the seed alone, so a
        run that resumes in the middle of one goes on with the same images."""
        epoch, done = divmod(self.progress.step, self.steps_per_epoch)
        draw = generator(self.config["seed"], f"order of epoch {epoch}")
        order = torch.randperm(len(self.train_split), generator=draw)
        return (
            order[: self.steps_per_epoch * self.batch_size].view(-1, self.batch_size)[done:].to(self.train_split.device)
        )
