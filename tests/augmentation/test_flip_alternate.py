"""Flips that alternate: what training sees, epoch by epoch, through the real loop."""

import copy

import pytest
import torch

from runner.augmentation.base import Transform
from runner.augmentation.flip import Flip
from runner.augmentation.vertical_flip import VerticalFlip
from runner.core.errors import ConfigError
from runner.execution.eager import EagerProgram
from runner.execution.features.activations import pick
from runner.execution.fused.program import FusedProgram
from runner.train.loop import step, train
from tests.shared.features import make as make_cached
from tests.shared.training import make, splits

EPOCHS = 4
WORDS = ("augmentation=[flip]", "augmentation.flip.alternate=true", f"epochs={EPOCHS}", "log.every=1")
DATA = splits(train=48)  # whole batches of 16: every image comes in every epoch


class Seen(Transform):
    """The last item of a pipeline: keeps what comes in."""

    def __init__(self):
        self.batches = []

    def __call__(self, images, generator):
        self.batches.append(images.clone())
        return images


def watched(*words):
    """A run and what its network will see, but for normalisation."""
    seen = Seen()
    run = make(*WORDS, *words, data=DATA, prepare=lambda parts: parts.pipeline.update(seen=seen))
    return run, seen


def mirrored(batches, start=0, axis=-1):
    """Whether each image was seen mirrored in each epoch, [EPOCHS, N]: 0 and 1, -1 where it was not seen."""
    images = DATA.train.images
    table = torch.full((EPOCHS, len(images)), -1)
    for number, batch in enumerate(batches, start):
        plain = (batch[:, None] == images).flatten(2).all(2)
        other = (batch[:, None] == images.flip(axis)).flatten(2).all(2)
        assert ((plain ^ other).sum(1) == 1).all()
        rows = (plain | other).int().argmax(1)
        table[number // 3, rows] = other.any(1).long()
    return table


def assert_alternates(table):
    """Every image mirrored in exactly every second epoch, some of them in the first."""
    assert (table >= 0).all()
    assert torch.equal(table[1:], 1 - table[:-1])
    assert 12 < table[0].sum() < 36


def test_every_second_epoch():
    """A run shows each image mirrored in every second epoch; another seed begins with other images, a run of the same
    seed with the same, and previews between the steps change nothing."""
    tables = []
    for words in (("seed=0",), ("seed=1",), ("seed=0", "optimizer=adam")):
        run, seen = watched(*words)
        run.on_epoch = lambda row, run=run: run.preview(16)
        train([run], EagerProgram())
        batches = [batch for number, batch in enumerate(seen.batches) if number % 4 != 3]  # but for previews
        tables.append(mirrored(batches))
        assert_alternates(tables[-1])
    assert torch.equal(tables[0], tables[2]) and not torch.equal(tables[0], tables[1])


def test_in_a_shared_program():
    """Runs that share a program alternate each by its own seed, as they do alone."""
    alone, pairs = [], [watched(f"seed={seed}") for seed in range(3)]
    for seed in range(3):
        run, seen = watched(f"seed={seed}")
        train([run], EagerProgram())
        alone.append(mirrored(seen.batches))
    runs = [run for run, _ in pairs]
    program = FusedProgram(runs)
    for _, seen in pairs:
        seen.batches.clear()  # the previews by which the program is compared
    for run in runs:
        run.train_mode()
    for _ in range(3 * EPOCHS):
        step(runs, program)
    for table, (_, seen) in zip(alone, pairs):
        assert_alternates(table)
        assert torch.equal(mirrored(seen.batches), table)


@pytest.mark.parametrize("pause", [3, 4, 8])
def test_goes_on(pause):
    """A run that goes on at the end or in the middle of an epoch sees what it would have seen."""
    whole, seen = watched()
    states = {}
    whole.on_pause = lambda run: states.setdefault(run.progress.step, copy.deepcopy(run.state_dict()))
    train([whole], EagerProgram())
    second, rest = watched()
    second.load_state_dict(states[pause])
    train([second], EagerProgram())
    assert len(rest.batches) == 3 * EPOCHS - pause
    assert all(torch.equal(*pair) for pair in zip(rest.batches, seen.batches[pause:], strict=True))


def test_kept_features_alternate():
    """A run on kept features trains as the one that computes them, on flips that alternate."""
    words = ("augmentation=[flip]", "augmentation.flip.alternate=true", "epochs=3")
    cached, said = make_cached(*words)
    plain, _ = make_cached(*words, "transfer.cache=false")
    assert said == "on"
    train([cached], EagerProgram())
    train([plain], EagerProgram())
    for name, value in plain.model.state_dict().items():
        torch.testing.assert_close(cached.model.state_dict()[name], value, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", [Flip, VerticalFlip])
def test_the_batch_that_was_announced_alone(kind):
    """Only the announced batch alternates, whether it is flipped or its flips are picked; others are mirrored at
    random, from the generator."""
    item, draws = kind(alternate=True), torch.Generator().manual_seed(0)
    item.fit(DATA.train, 8)
    rows = torch.arange(48)
    item.follow(rows, 0, 5)
    first = pick(48, [item], draws)
    item.follow(rows.flip(0), 3, 5)
    assert torch.equal(pick(48, [item], draws), 1 - first.flip(0))
    item.follow(rows, 2, 5)
    found = item(DATA.train.images, draws)
    assert torch.equal(mirrored([found], axis=kind.axis)[0], first)
    drawn = [pick(48, [item], draws) for _ in range(2)]
    again = torch.Generator().manual_seed(0)
    assert all(torch.equal(one, (torch.rand(48, generator=again) < 0.5).long()) for one in drawn)


def test_other_probabilities_are_refused():
    """An image that alternates is mirrored half the time."""
    with pytest.raises(ConfigError, match=r"augmentation\.vertical_flip\.p=0\.3: alternate=true mirrors every image"):
        VerticalFlip(0.3, alternate=True)
    assert not make("augmentation=[flip]").following
