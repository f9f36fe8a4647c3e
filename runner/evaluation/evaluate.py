"""Evaluation of networks and ensembles on a split."""

from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor, nn
from torch.nn.functional import nll_loss

from runner.core.schema import Average
from runner.data.normalize import Normalize
from runner.data.splits import Split
from runner.evaluation.base import Autocast, Evaluation, Member, predict
from runner.evaluation.metrics import (
    TOP5_CLASSES,
    DetailedResult,
    EnsembleTally,
    EvaluationResult,
    Tally,
    average_by_correctness,
    calibration_error,
    ensembles,
    mean_log,
    spread,
)
from runner.evaluation.standard import Standard

MOST_PIXELS = 1 << 22  # of an evaluation batch larger than the training batch, so that activations fit in memory
MISTAKES = 24  # misclassified images that are kept


def log_probs(
    members: Iterable[nn.Module | Member],
    split: Split,
    normalize: Normalize,
    autocast: Autocast,
    batch_size: int,
    evaluation: Evaluation,
) -> Iterator[tuple[Tensor, Tensor, list[Tensor]]]:
    """Yield batches: image indices `[B]`, labels `[B]`, and log-probabilities `[S, B, K]` of each member's passes.

    A plain module is evaluated on `split` with `normalize` and `evaluation`; a `Member` brings its own.
    """
    members = [m if isinstance(m, Member) else Member(m, normalize, split, evaluation) for m in members]
    splits = list({id(member.split): member.split for member in members}.values())
    rows = _rows(split, batch_size, max(member.split.shape[0] * member.normalize.size**2 for member in members))
    for indices, *batches in zip(rows, *(own.batches(rows) for own in splits)):
        images = {id(own): batch for own, (batch, _) in zip(splits, batches)}
        with autocast():
            passes = [m.evaluation.log_probabilities(m.model, images[id(m.split)], m.normalize) for m in members]
        yield indices, batches[0][1], passes


def _rows(split: Split, batch_size: int, pixels: int) -> tuple[Tensor, ...]:
    """Return image indices batch by batch; `pixels`: values per image."""
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
    """Return loss, accuracy and confusion of the members' averaged predictions on a split; members are in eval mode."""
    tally = Tally(num_classes, split.labels.device)
    for _, labels, passes in log_probs(members, split, normalize, autocast, batch_size, evaluation or Standard()):
        tally.add(labels, ensembles(torch.stack(list(map(mean_log, passes))), average)[-1:])
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
    """Evaluate N stacked networks in one pass; `network` maps inputs `[B, C, H, W]` to logits `[B, N, K]`."""
    tally = Tally(num_classes, split.labels.device, count)
    for images, labels in split.batches(_rows(split, batch_size, count * split.shape[0] * normalize.size**2)):
        with autocast():
            log = predict(network, normalize(images))
        tally.add(labels, log.transpose(0, 1))
    return [EvaluationResult(*values) for values in tally.read(len(split))]


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
) -> DetailedResult:
    """Evaluate the members' averaged predictions as `evaluate` does, with the metrics of a final test."""
    device, members = split.labels.device, list(members)
    tally, group = Tally(num_classes, device), EnsembleTally(len(members), device)
    top5 = torch.zeros((), dtype=torch.int64, device=device)
    facts: list[Tensor] = []  # rows: confidence, correctness, and with several passes those of `spread`
    worst = [torch.empty(4, 0, device=device)]  # rows: loss, image index, prediction, confidence
    for indices, labels, passes in log_probs(members, split, normalize, autocast, batch_size, evaluation):
        single = torch.stack(list(map(mean_log, passes)))
        cumulative = ensembles(single, average)
        log, all_passes = cumulative[-1], torch.cat(passes)
        tally.add(labels, log[None])
        group.add(labels, single, cumulative)
        confidence, predicted = log.exp().max(1)
        correct = predicted == labels
        if num_classes > TOP5_CLASSES:
            top5 += (log.topk(5).indices == labels[:, None]).sum()
        fact = torch.stack((confidence, correct.to(confidence.dtype)))
        facts.append(torch.cat((fact, spread(all_passes, mean_log(all_passes)))) if len(all_passes) > 1 else fact)
        loss = nll_loss(log, labels, reduction="none").masked_fill(correct, -1)
        worst.append(torch.stack((loss, *(x.to(loss.dtype) for x in (indices, predicted, confidence)))))
        table = torch.cat(worst, 1)
        worst = [table[:, table[0].topk(min(MISTAKES, table.shape[1])).indices]]
    table = worst[0][:, ~(worst[0][0] < 0)].cpu()
    confidences, hits, *differences = torch.cat(facts, 1).cpu().double()
    return DetailedResult(
        *tally.read(len(split))[0],
        top5_accuracy=top5.item() / len(split) if num_classes > TOP5_CLASSES else None,
        calibration_error=calibration_error(confidences, hits),
        uncertainty=average_by_correctness(differences, hits) if differences else None,
        ensemble=group.read(len(split)) if len(members) > 1 else None,
        mistakes=table[1].long(),
        answers=table[2].long(),
        confidence=table[3],
    )
