"""Preparation of a run's splits from a source: choice of classes and images, validation split, statistics."""

import math

import torch
from torch import Tensor

from runner.core.errors import ConfigError, did_you_mean
from runner.data.splits import CHUNK_BYTES, Source, Split, Splits

SMALLEST_STD = 1 / 255  # of a constant channel: one gray value, so that normalizing stays finite


def prepare(
    source: Source,
    val_fraction: float = 0.1,
    split_seed: int = 0,
    limit: int | None = None,
    per_class: int | None = None,
    classes: list[int | float | str] | None = None,
) -> Splits:
    """Return a run's splits: keep `classes`, draw `limit` or `per_class` images, split off `val_fraction` of them.

    The test split only loses the classes that are left out. `split_seed` fixes the order in which each class is drawn.
    So a smaller draw is part of a larger one, except for rounding. A source's own validation split is kept (only limit
    and per_class cut it), and `val_fraction` then has no effect.
    """
    indices = _class_indices(classes, source.classes)
    names = tuple(source.classes[index] for index in indices)
    if len(names) < 2:
        raise ConfigError(f"only one class ('{names[0]}'); a classifier needs at least two")
    train, test = _keep(source.train, indices), _keep(source.test, indices)
    val = None if source.val is None else _keep(source.val, indices)
    for part, split in (("training", train), ("validation", val), ("test", test)):
        if split is not None and len(split) == 0:
            raise ConfigError(f"the {part} split has no image of {', '.join(names[:5])}; keep other classes")
    _check_no_class_is_empty(train, names)
    generator = torch.Generator().manual_seed(split_seed)
    train, val = _draw(train, val, names, limit, per_class, generator)
    if source.val is None and val_fraction > 0:
        train, val = _cut(train, val_fraction, len(names), generator)
    mean, std = statistics(train)
    return Splits(train, val, test, names, source.identity, mean, std, source.size, source.skipped)


def statistics(split: Split) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation [C] over all pixels, in 0..1 units, from exact integer sums."""
    channels, height, width = split.shape
    if split.moments is None:
        counts = torch.zeros((channels, 256), dtype=torch.int64, device=split.device)  # of each pixel value
        chunk = max(1, CHUNK_BYTES // (channels * height * width))
        for images, _ in split.batches(torch.arange(len(split)).split(chunk)):
            for channel in range(channels):
                counts[channel] += torch.bincount(images[:, channel].flatten(), minlength=256)
        values = torch.arange(256)
        totals = torch.stack(((counts.cpu() * values).sum(1), (counts.cpu() * values**2).sum(1)), 1)
    else:
        totals = split.moments.sum(0)
    first, second = totals.double().div(len(split) * height * width).unbind(1)
    std = (second - first**2).clamp(min=0).sqrt() / 255
    return (first / 255).float(), std.clamp(min=SMALLEST_STD).float()


def _class_indices(selection: list[int | float | str] | None, classes: tuple[str, ...]) -> list[int]:
    if selection is None:
        return list(range(len(classes)))
    if len(selection) == 0:
        raise ConfigError("data.classes=[] keeps nothing; name at least two classes, or null for all")
    indices = []
    for item in selection:
        index = _index(item, classes)
        if index in indices:
            raise ConfigError(f"data.classes: '{item}' is there twice; name each class once")
        indices.append(index)
    return indices


def _index(item: int | float | str, classes: tuple[str, ...]) -> int:
    """Return the index of the class that an entry of `data.classes` names.

    An exact name comes first. A number means the class with that number as its name (2 is `02`), and an index only
    where no class name is a number.
    """
    if str(item) in classes:
        return classes.index(str(item))
    values = [_number(name) for name in classes]
    value = _number(str(item))
    matches = [index for index, number in enumerate(values) if value is not None and number == value]
    if len(matches) == 1:
        return matches[0]
    are_words = not any(number is not None for number in values)
    if are_words and isinstance(item, int) and 0 <= item < len(classes):
        return item
    names = ", ".join(classes[:10]) + (", ..." if len(classes) > 10 else "")
    choices = f"0 to {len(classes) - 1}, or {names}" if are_words else names
    if matches:
        duplicates = ", ".join(f"'{classes[index]}'" for index in matches)
        raise ConfigError(f"data.classes: {item} is the number of {duplicates}; write the name that you mean in quotes")
    raise ConfigError(f"data.classes: no class '{item}'{did_you_mean(str(item), classes)} (there are {choices})")


def _number(name: str) -> float | None:
    """Return a name as a number; None for a word."""
    try:
        value = float(name)
    except ValueError:
        return None
    return value if math.isfinite(value) and "_" not in name else None  # because Python reads 1_0 as 10


def _keep(split: Split, indices: list[int]) -> Split:
    """Return the images of the classes `indices` (old indices), relabeled 0, 1, ... in that order."""
    new = torch.full((max(indices + split.labels.unique().tolist()) + 1,), -1)
    new[indices] = torch.arange(len(indices))
    labels = new[split.labels]
    if torch.equal(labels, split.labels):
        return split
    rows = (labels >= 0).nonzero().flatten()
    return split.select(rows, labels[rows])


def _check_no_class_is_empty(train: Split, names: tuple[str, ...]) -> None:
    counts = train.labels.bincount(minlength=len(names))
    empty = [name for name, count in zip(names, counts.tolist(), strict=True) if count == 0]
    if empty:
        way_out = "add some, or leave it out by data.classes"
        raise ConfigError(f"class '{empty[0]}' has no training image; {way_out}")


def _draw(
    train: Split,
    val: Split | None,
    names: tuple[str, ...],
    limit: int | None,
    per_class: int | None,
    generator: torch.Generator,
) -> tuple[Split, Split | None]:
    """Draw `limit` or `per_class` images from training and validation together, shared out by class."""
    if limit is not None and per_class is not None:
        keys = f"data.limit={limit} and data.per_class={per_class}"
        raise ConfigError(f"{keys}: only one of them may be set")
    if limit is None and per_class is None:
        return train, val
    parts = [train] if val is None else [train, val]
    counts = torch.stack([part.labels.bincount(minlength=len(names)) for part in parts])  # [parts, K]
    total = counts.sum(0)
    if per_class is not None:
        short = (total < per_class).nonzero().flatten().tolist()
        if short:
            available = f"'{names[short[0]]}' has {int(total[short[0]])} for training and validation"
            raise ConfigError(f"data.per_class={per_class}: class {available}; ask for at most that many")
        quota = torch.full_like(total, per_class)
    else:
        if limit < len(names):
            way_out = f"take at least {len(names)}, one image each"
            raise ConfigError(f"data.limit={limit} is less than the {len(names)} classes; {way_out}")
        quota = _share(min(limit, int(total.sum())), total, least=1, most=total)
    if val is None:
        return train.select(_pick(train.labels, quota, generator)[0]), None
    train_quota = (quota * counts[0] / total).ceil().long()  # rounded up, because training needs every class
    drawn = [
        part.select(_pick(part.labels, share, generator)[0])
        for part, share in zip(parts, (train_quota, quota - train_quota), strict=True)
    ]
    if len(drawn[1]) == 0:
        keys = f"data.limit={limit}, data.per_class={per_class}"
        raise ConfigError(f"{keys}: {int(quota.sum())} images leave none for validation; ask for more")
    return drawn[0], drawn[1]


def _cut(train: Split, fraction: float, classes: int, generator: torch.Generator) -> tuple[Split, Split]:
    """Split off `fraction` of each class for validation; every class keeps at least one training image."""
    counts = train.labels.bincount(minlength=classes)
    count = max(1, round(fraction * len(train)))
    room = counts - 1
    if int(room.sum()) < count:
        reason = f"{len(train)} images of {classes} classes cannot give {count} and keep each class in training"
        raise ConfigError(f"data.val_fraction={fraction}: {reason}; take more images, or val_fraction=0")
    drawn, rest = _pick(train.labels, _share(count, counts, least=0, most=room), generator)
    return train.select(rest), train.select(drawn)


def _share(total: int, counts: Tensor, least: int, most: Tensor) -> Tensor:
    """Return whole numbers near `total * counts / sum` that add up to `total` and stay within `least` and `most`.

    By the largest remainder; ties go to the lower index. `total` must be possible.
    """
    ideal = counts.double() * total / counts.sum()
    result = ideal.floor().long().clamp(min=least).minimum(most)
    while int(result.sum()) != total:
        gap = ideal - result
        if int(result.sum()) < total:
            result[gap.masked_fill(result >= most, -torch.inf).argmax()] += 1
        else:
            result[gap.masked_fill(result <= least, torch.inf).argmin()] -= 1
    return result


def _pick(labels: Tensor, quota: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draw `quota[k]` random rows of each class k; return them and the remaining rows, both in rising order."""
    is_drawn = torch.zeros(len(labels), dtype=torch.bool)
    for label, count in enumerate(quota.tolist()):
        rows = (labels == label).nonzero().flatten()
        is_drawn[rows[torch.randperm(len(rows), generator=generator)[:count]]] = True
    return is_drawn.nonzero().flatten(), (~is_drawn).nonzero().flatten()
