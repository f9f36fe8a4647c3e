"""Base class of evaluations: they turn a trained network and images into log-probabilities."""

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from runner.core.option import Option
from runner.data.normalize import Normalize
from runner.data.splits import Split
from runner.evaluation.softmax import log_softmax

Pipeline = Sequence[Callable[[Tensor, torch.Generator], Tensor]]
Autocast = Callable[[], contextlib.AbstractContextManager]


class Evaluation(Option):
    """Base class of `evaluation=...`: one forward pass, or several passes with averaged probabilities."""

    def begin(self, pipeline: Pipeline, draws: torch.Generator) -> None:
        """Prepare for a split. `pipeline`: the run's augmentation; `draws`: the generator to use, on the device."""

    def log_probabilities(self, model: nn.Module, images: Tensor, normalize: Normalize) -> Tensor:
        """Return log-probabilities `[S, B, K]`, float32, of S passes over stored images `[B, C, H, W]` uint8.

        `normalize` turns images into inputs of `normalize.size` pixels a side; larger images are center-cropped.
        `model` is in eval mode, and stays in it.
        """
        raise NotImplementedError


@dataclass(frozen=True)
class Member:
    """Member of an ensemble: a network with its own normalization, split and evaluation.

    Members may take images of different sizes. Their splits hold the same images in the same order.
    """

    model: nn.Module
    normalize: Normalize
    split: Split
    evaluation: Evaluation
    name: str = ""


def predict(model: Callable[[Tensor], Tensor], inputs: Tensor) -> Tensor:
    """Return the log-probabilities of one forward pass, `[B, K]` or `[B, N, K]` like the logits, always float32."""
    return log_softmax(model(inputs).float())
