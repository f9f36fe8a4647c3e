"""A model and a split in, numbers out."""

from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor, nn
from torch.nn.functional import nll_loss

from runner.core.schema import Average
from runner.data.normalize import Normalize
from runner.data.splits import Split
from runner.evaluation.base import Autocast, Evaluation, Member, answer
from runner.evaluation.metrics import (
    TOP5_CLASSES,
    EnsembleTally,
    EvaluationResult,
    Examined,
    Tally,
    calibration_error,
    ensembles,
    mean_log,
    means,
    spread,
)
from runner.evaluation.standard import Standard

MOST_PIXELS = 1 << 22  # of a batch larger than the training batch: activations must fit where training fits
MISTAKES = 24


def log_probs(
    members: Iterable[nn.Module | Member],
    split: Split,
    normalize: Normalize,
    autocast: Autocast,
    batch_size: int,
    evaluation: Evaluation,
) -> Iterator[tuple[Tensor, Tensor, list[Tensor]]]:
    """Numbers of images `[B]`, their labels `[B]`, logarithms of probabilities `[S, B, K]` of each member's passes.

    A plain module sees the split as it is, through the normalisation and the evaluation that are given.
    """
    own = [one if isinstance(one, Member) else Member(one, normalize, split, evaluation) for one in members]
    seen = list({id(one.split): one.split for one in own}.values())
    rows = _rows(split, batch_size, max(one.split.shape[0] * one.normalize.size**2 for one in own))
    for numbers, *batches in zip(rows, *(one.batches(rows) for one in seen)):
        images = {id(one): batch for one, (batch, _) in zip(seen, batches)}
        with autocast():
            found = [one.evaluation.log_probabilities(one.model, images[id(one.split)], one.normalize) for one in own]
        yield numbers, batches[0][1], found


def _rows(split: Split, batch_size: int, pixels: int) -> tuple[Tensor, ...]:
    """Numbers of images, batch by batch; `pixels`: of an image."""
    order = torch.arange(len(split), device=split.labels.device)
    return order.split(max(batch_size, min(256, MOST_PIXELS // pixels)))


@torch.no_grad()
def evaluate(
    members: Iterable[nn.Module | Member],
    split: Split,
    normalize: Normalize,
    autocast: Autocast,
    batch_size: int,
    num_classes: int,
    evaluation: Evaluation | None = None,
    average: Average = "probabilities",
) -> EvaluationResult:
    """Measures the members' mean answer to every image of a split; members are in evaluation mode."""
    tally = Tally(num_classes, split.labels.device)
    for _, labels, passes in log_probs(members, split, normalize, autocast, batch_size, evaluation or Standard()):
        tally.add(labels, ensembles(torch.stack([mean_log(one) for one in passes]), average)[-1:])
    return EvaluationResult(*tally.read(len(split))[0])


@torch.no_grad()
def evaluate_all(
    network: Callable[[Tensor], Tensor],
    count: int,
    split: Split,
    normalize: Normalize,
    autocast: Autocast,
    batch_size: int,
    num_classes: int,
) -> list[EvaluationResult]:
    """What `evaluate` finds of each of N networks that answer as one: logits `[B, N, K]` of inputs `[B, C, H, W]`."""
    tally = Tally(num_classes, split.labels.device, count)
    for images, labels in split.batches(_rows(split, batch_size, count * split.shape[0] * normalize.size**2)):
        with autocast():
            log = answer(network, normalize(images))
        tally.add(labels, log.transpose(0, 1))
    return [EvaluationResult(*found) for found in tally.read(len(split))]


@torch.no_grad()
def examine(
    members: Iterable[nn.Module | Member],
    split: Split,
    normalize: Normalize,
    autocast: Autocast,
    batch_size: int,
    num_classes: int,
    evaluation: Evaluation,
    average: Average = "probabilities",
) -> Examined:
    """`evaluate`, and what is worth knowing once a network is trained."""
    device, members = split.labels.device, list(members)
    tally, group = Tally(num_classes, device), EnsembleTally(len(members), device)
    top5 = torch.zeros((), dtype=torch.int64, device=device)
    facts: list[Tensor] = []  # rows: confidence, whether right, and where there are several passes how they differ
    worst = [torch.empty(4, 0, device=device)]
    for numbers, labels, passes in log_probs(members, split, normalize, autocast, batch_size, evaluation):
        alone = torch.stack([mean_log(one) for one in passes])
        grown = ensembles(alone, average)
        log, every = grown[-1], torch.cat(passes)
        tally.add(labels, log[None])
        group.add(labels, alone, grown)
        confidence, answer = log.exp().max(1)
        right = answer == labels
        if num_classes > TOP5_CLASSES:
            top5 += (log.topk(5).indices == labels[:, None]).sum()
        fact = torch.stack((confidence, right.to(confidence.dtype)))
        facts.append(torch.cat((fact, spread(every, mean_log(every)))) if len(every) > 1 else fact)
        loss = nll_loss(log, labels, reduction="none").masked_fill(right, -1)
        worst.append(torch.stack((loss, *(x.to(loss.dtype) for x in (numbers, answer, confidence)))))
        table = torch.cat(worst, 1)
        worst = [table[:, table[0].topk(min(MISTAKES, table.shape[1])).indices]]
    table = worst[0][:, ~(worst[0][0] < 0)].cpu()
    sure, hits, *differences = torch.cat(facts, 1).cpu().double()
    return Examined(
        *tally.read(len(split))[0],
        top5_accuracy=top5.item() / len(split) if num_classes > TOP5_CLASSES else None,
        calibration_error=calibration_error(sure, hits),
        uncertainty=means(differences, hits) if differences else None,
        ensemble=group.read(len(split)) if len(members) > 1 else None,
        mistakes=table[1].long(),
        answers=table[2].long(),
        confidence=table[3],
    )
