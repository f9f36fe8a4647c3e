"""What asks a trained network for its answer to images."""

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
    """The base of `evaluation=...`: one pass, or several whose probabilities are averaged."""

    def begin(self, pipeline: Pipeline, draws: torch.Generator) -> None:
        """Before a split: the run's augmentation pipeline, and the generator, on the device, of all that is random."""

    def log_probabilities(self, model: nn.Module, images: Tensor, normalize: Normalize) -> Tensor:
        """Logarithms of probabilities `[S, B, K]`, float32, of S passes over stored images `[B, C, H, W]` uint8.

        `normalize` makes the network's input of them: `normalize.size` pixels a side, cut from the centre where they
        are larger. `model` is in evaluation mode and is left in it.
        """
        raise NotImplementedError


@dataclass(frozen=True)
class Member:
    """A network that answers, and how it sees the images: members of an ensemble may have been made for other sizes
    and normalised otherwise. Their splits hold the same images in the same order."""

    model: nn.Module
    normalize: Normalize
    split: Split
    evaluation: Evaluation
    name: str = ""


def answer(model: Callable[[Tensor], Tensor], inputs: Tensor) -> Tensor:
    """One pass: logarithms of probabilities, of the logits' shape `[B, K]` or `[B, N, K]`; float32, whatever precision
    the network computes in."""
    return log_softmax(model(inputs).float())
