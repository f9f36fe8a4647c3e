"""Mixed images: values against torchvision, draws against their distributions, and what is refused."""

import itertools
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats
from torchvision.transforms import v2

from runner.build.check import check
from runner.build.complaints import Refused
from runner.regularization.base import soft
from runner.regularization.cutmix import CutMix, cut, outside
from runner.regularization.cutmix_or_mixup import CutMixOrMixUp
from runner.regularization.label_smoothing import LabelSmoothing
from runner.regularization.mixing import beta, blend
from runner.regularization.mixup import MixUp
from runner.task.recorder import describe
from runner.task.resources import Resources
from tests.shared.configs import composed
from tests.shared.draws import seeded
from tests.shared.events import accumulate
from tests.shared.results import results_of
from tests.shared.training import make

MIXERS = {"mixup": MixUp, "cutmix": CutMix, "cutmix_or_mixup": CutMixOrMixUp}
SIZE = (9, 12)


def batch(count=8, channels=3, classes=5, size=SIZE):
    """Noise, and labels."""
    draws = seeded(7)
    images = torch.randn(count, channels, *size, generator=draws)
    return images, torch.randint(classes, (count,), generator=draws)


# -- values ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.0, 0.3, 0.85, 1.0])
def test_mixup_is_torchvisions(share):
    """For a fixed share images and targets are those of torchvision's MixUp."""
    images, labels = batch()
    theirs = v2.MixUp(num_classes=5)
    theirs.make_params = lambda inputs: {"lam": share}
    wanted = theirs(images, labels)
    found = blend(images, soft(labels, 5), torch.full((1, 1, 1, 1), share))
    for ours, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours, other, rtol=1e-6, atol=1e-6)


def test_cutmix_is_torchvisions():
    """For a fixed share and centre of the box images are torchvision's bit for bit; so are targets."""
    images, labels = batch(count=3)
    height, width = SIZE
    cases = itertools.product((0.0, 0.07, 0.4, 0.8, 0.995, 1.0), range(0, height, 2), range(0, width, 3))
    for share, row, column in cases:
        theirs = v2.CutMix(num_classes=5)
        theirs._dist = _Fixed(share)
        with pytest.MonkeyPatch.context() as patch:
            corners = {width: column, height: row}
            patch.setattr(torch, "randint", lambda side, size, at=corners: torch.tensor([at[side]]))
            wanted = theirs(images, labels)
        own = outside(torch.tensor([share]), torch.tensor([[row], [column]]), SIZE)
        found = blend(images, soft(labels, 5), own)
        assert torch.equal(found[0], wanted[0]), (share, row, column)
        torch.testing.assert_close(found[1], wanted[1], rtol=1e-6, atol=1e-6)


class _Fixed:
    """A distribution of one value."""

    def __init__(self, value):
        self.value = value

    def sample(self, shape):
        return torch.tensor(self.value)


def test_each_sample_by_itself():
    """With shares of their own, samples are what each would be in a batch with that one share."""
    images, labels = batch()
    for own in (torch.rand(8, 1, 1, 1, generator=seeded()), cut(1.0, 8, SIZE, seeded())):
        found = blend(images, soft(labels, 5), own)
        for i in range(8):
            alone = blend(images, soft(labels, 5), own[i : i + 1])
            torch.testing.assert_close(found[0][i], alone[0][i])
            torch.testing.assert_close(found[1][i], alone[1][i])


@pytest.mark.parametrize("name", MIXERS)
@pytest.mark.parametrize("per", ["batch", "sample"])
def test_targets_say_what_images_hold(name, per):
    """Of images that are 1 where a class is theirs, each target is the mean of the mixed image's channels."""
    labels = torch.arange(16) % 5
    images = soft(labels, 5)[:, :, None, None].expand(16, 5, *SIZE)
    for seed in range(5):
        mixed, targets = MIXERS[name](per=per).mix(images, labels, 5, seeded(seed))
        torch.testing.assert_close(targets, mixed.mean((2, 3)), rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(targets.sum(1), torch.ones(16))
        assert (targets >= 0).all() and not torch.equal(targets, soft(labels, 5))


@pytest.mark.parametrize("name", MIXERS)
def test_order_with_label_smoothing(name):
    """Smoothing before or after mixing gives the same targets, rows that sum to one: both are linear."""
    images, labels = batch()
    smoothing, mixer = LabelSmoothing(0.2), MIXERS[name](per="sample")
    found = []
    for items in ((smoothing, mixer), (mixer, smoothing)):
        draws, targets = seeded(), labels
        for item in items:
            _, targets = item.mix(images, targets, 5, draws)
        torch.testing.assert_close(targets.sum(1), torch.ones(8))
        assert targets.min() > 0.039
        found.append(targets)
    torch.testing.assert_close(*found)
    assert not torch.allclose(found[0], smoothing.mix(images, labels, 5, seeded())[1])


@pytest.mark.parametrize("name", MIXERS)
def test_inputs_stay_as_they_were(name):
    """Images and targets are not written into, the memory format stays, and torch's own stream is left alone."""
    images, labels = batch()
    images = images.contiguous(memory_format=torch.channels_last)
    targets = soft(labels, 5)
    before, state = (images.clone(), targets.clone()), torch.get_rng_state()
    mixed, _ = MIXERS[name](per="sample").mix(images, targets, 5, seeded())
    assert mixed.is_contiguous(memory_format=torch.channels_last) and mixed.dtype == torch.float32
    assert torch.equal(images, before[0]) and torch.equal(targets, before[1])
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("name", MIXERS)
def test_draws_repeat(name):
    """The same generator mixes alike, another one otherwise; one image, as in a preview, stays as it is."""
    images, labels = batch()
    first, again, other = (MIXERS[name]().mix(images, labels, 5, seeded(seed)) for seed in (1, 1, 2))
    assert all(map(torch.equal, first, again)) and not torch.equal(first[0], other[0])
    alone = MIXERS[name]().mix(images[:1], labels[:1], 5, seeded())
    torch.testing.assert_close(alone[0], images[:1])


# -- draws ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("alpha", [0.2, 1.0, 4.0])
def test_shares_are_beta(alpha):
    """20,000 draws follow SciPy's Beta(alpha, alpha) by a Kolmogorov-Smirnov test, and no other alpha's."""
    law = stats.beta(alpha, alpha)
    draws = beta(alpha, 20_000, seeded(3)).double().numpy()
    low = draws[draws < 0.999]  # above, float32 has too few numbers for a small alpha's peak
    assert abs(len(low) / len(draws) - law.cdf(0.999)) < 5 * math.sqrt(0.25 / len(draws))
    assert stats.kstest(low, lambda x: law.cdf(x) / law.cdf(0.999)).pvalue > 0.01
    assert stats.kstest(low, stats.beta(1.2 * alpha, 1.2 * alpha).cdf).pvalue < 1e-4


def test_shares_of_a_tiny_alpha():
    """Where Gamma draws would underflow, shares still are 0 and 1 by halves, never 0 / 0."""
    for alpha in (1e-2, 1e-3):
        draws = beta(alpha, 20_000, seeded())
        assert draws.isfinite().all()
        for bound in (0.001, 0.5):
            wanted = stats.beta(alpha, alpha).cdf(bound)
            assert abs((draws < bound).double().mean() - wanted) < 5 * math.sqrt(0.25 / 20_000)


def boxes_by_hand(alpha, count, draws):
    """The paper's algorithm in NumPy, one box after another, as areas and a count of each pixel."""
    height, width = SIZE
    areas, pixels = [], np.zeros(SIZE)
    for share in draws.beta(alpha, alpha, count):
        row, column = draws.integers(height), draws.integers(width)
        half = [int(0.5 * math.sqrt(1 - share) * side) for side in SIZE]
        top, bottom = max(row - half[0], 0), min(row + half[0], height)
        left, right = max(column - half[1], 0), min(column + half[1], width)
        areas.append((bottom - top) * (right - left))
        pixels[top:bottom, left:right] += 1
    return np.array(areas), pixels


def test_boxes_are_the_papers():
    """Areas and places of 10,000 boxes have the distribution of the paper's algorithm."""
    count = 10_000
    own = cut(1.0, count, SIZE, seeded())
    assert own.shape == (count, 1, *SIZE) and set(own.unique().tolist()) == {0.0, 1.0}
    areas, pixels = boxes_by_hand(1.0, count, np.random.default_rng(0))
    assert stats.ks_2samp((1 - own).sum((1, 2, 3)).numpy(), areas).pvalue > 0.01
    difference = (1 - own).sum((0, 1)).numpy() - pixels
    assert np.abs(difference).max() < 5 * math.sqrt(2 * 0.25 * count)
    assert pixels.max() / count > 0.3  # which the bound is small against


@pytest.mark.parametrize("name", MIXERS)
def test_per_batch_or_sample(name):
    """A batch shares one draw; or each sample has its own."""
    images, _ = batch(count=6)
    for per, several in (("batch", False), ("sample", True)):
        kept = MIXERS[name](per=per).mix(images, torch.arange(6), 6, seeded(1))[1].diagonal()
        assert (len(kept.unique()) > 1) is several and kept.min() < 1


@pytest.mark.parametrize("name", MIXERS)
@pytest.mark.parametrize("per", ["batch", "sample"])
def test_chance_of_mixing(name, per):
    """With p, that share of batches or samples is mixed; the others are bit for bit what they were."""
    count, rounds = (400, 1) if per == "sample" else (2, 400)
    images = torch.randn(count, 1, 16, 16, generator=seeded())

    def kept(p):
        item, draws = MIXERS[name](per=per, p=p), seeded(5)
        for _ in range(rounds):
            mixed, targets = item.mix(images, torch.arange(count), count, draws)
            same = targets.diagonal() == 1
            assert torch.equal(mixed[same], images[same])
            yield from same if per == "sample" else same[:1]

    shares = {p: torch.stack(list(kept(p))).double().mean().item() for p in (1.0, 0.3, 0.0)}
    assert shares[1.0] < 0.06 and shares[0.0] == 1  # a few boxes are empty, a few shares as good as 1
    assert shares[0.3] == pytest.approx(1 - 0.3 * (1 - shares[1.0]), abs=5 * math.sqrt(0.21 / 400))


@pytest.mark.parametrize("per", ["batch", "sample"])
def test_cutmix_or_mixup_is_one_of_the_two(per):
    """Each batch or sample is CutMix with the chance `cutmix_p`, else mixup; a draw is never both."""
    count = 1000

    def draws(cutmix_p):
        item = CutMixOrMixUp(mixup_alpha=4.0, cutmix_p=cutmix_p, per=per)
        return item.shares(count, SIZE, seeded(4)).flatten(1)

    found = draws(0.3)
    boxes = ((found == 0) | (found == 1)).all(1)
    assert abs(boxes.double().mean().item() - 0.3) < 5 * math.sqrt(0.21 / count)
    assert (found[~boxes].min(1).values == found[~boxes].max(1).values).all()
    assert stats.kstest(found[~boxes][:, 0].numpy(), stats.beta(4, 4).cdf).pvalue > 0.01
    assert set(draws(1.0).unique().tolist()) == {0.0, 1.0}
    assert ((draws(0.0) > 0) & (draws(0.0) < 1)).all()


def test_alphas():
    """`alpha` is that of mixup's shares or CutMix's areas; those of `cutmix_or_mixup` are each its own."""

    def spread(item):
        return item.shares(4000, SIZE, seeded()).mean((1, 2, 3)).std().item()

    for alpha in (0.3, 4.0):
        settings = {"per": "sample", "mixup_alpha": alpha, "cutmix_alpha": 1.0}
        wanted = stats.beta(alpha, alpha).std()
        assert spread(MixUp(alpha)) == pytest.approx(wanted, rel=0.05)
        assert spread(CutMixOrMixUp(**settings, cutmix_p=0.0)) == pytest.approx(wanted, rel=0.05)
        settings = {"per": "sample", "mixup_alpha": 1.0, "cutmix_alpha": alpha}
        wanted = spread(CutMix(alpha))
        assert spread(CutMixOrMixUp(**settings, cutmix_p=1.0)) == pytest.approx(wanted, rel=0.05)
    assert spread(CutMix(4.0)) < 0.7 * spread(CutMix(0.3))


# -- in a run -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MIXERS)
def test_batches_of_a_run_are_mixed(name):
    """What the network gets is mixed, with soft targets; the labels that accuracy counts against are the data's."""
    plain, mixed = make().next_batch(), make(f"regularization=[{name}]").next_batch()
    assert torch.equal(plain.labels, mixed.labels) and torch.equal(plain.targets, plain.labels)
    assert mixed.targets.shape == (16, 3) and not torch.equal(plain.images, mixed.images)


def test_runs_repeat(cli):
    """A sweep over the three, done twice, ends alike to the last bit; each of its runs ends on its own."""
    words = ("model=mlp", "data.limit=60", "batch_size=20", "epochs=1", "threads=1", "log.tensorboard=false")
    stacks = ",".join(f"[{name}]" for name in ("", *MIXERS))
    found = []
    for name in ("once", "again"):
        code, _, err = cli("-m", *words, f"regularization={stacks}", f"name={name}")
        assert code == 0, err
        results = results_of(Path("outputs", name)).values()
        found.append([(result["test_loss"], result["val_loss"]) for result in results])
    assert found[0] == found[1] and len(set(found[0])) == 4


def test_the_first_batch_is_shown_with_its_shares(cli):
    """The picture of the first batch is there for mixed images, down to a single one; labels name both classes."""
    words = ("model=mlp", "data.limit=60", "batch_size=20", "epochs=1", "threads=1", "regularization=[cutmix_or_mixup]")
    for count in (1, 8):
        code, _, err = cli(*words, f"log.images={count}", f"name=shown{count}")
        assert code == 0, err
        (folder,) = Path(f"outputs/shown{count}").glob("[!.]*/")
        assert len(accumulate(folder).Images("train/first_batch")) == 1
    _, targets = blend(torch.zeros(2, 1, 1, 1), soft(torch.tensor([0, 2]), 3), torch.full((1, 1, 1, 1), 0.7))
    assert [describe(target, ("cat", "cow", "dog")) for target in targets] == ["cat .70 / dog .30", "dog .70 / cat .30"]


# -- refused --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stack", [*itertools.permutations(MIXERS, 2), tuple(MIXERS), ("mixup", "l2", "cutmix")])
def test_two_mixers_are_refused(stack):
    """More than one item that mixes images is refused once, with the way out."""
    with pytest.raises(Refused) as refused:
        Resources().preflight(check(composed("model=mlp", f"regularization=[{','.join(stack)}]")))
    names = ",".join(name for name in stack if name in MIXERS)
    assert refused.value.lines == [
        f"regularization=[{names}]: only one of these can mix images; "
        "use cutmix_or_mixup alone, which takes one of the two each time"
    ]


@pytest.mark.parametrize("name", MIXERS)
def test_a_batch_of_one_is_refused(name):
    """Alone in its batch an image has no partner; a full batch has, whatever `batch_size` says of its chunks."""
    words = ("model=mlp", f"regularization=[{name}]", "batch_size=1")
    with pytest.raises(Refused) as refused:
        Resources().preflight(check(composed(*words)))
    assert refused.value.lines == [f"batch_size=1: {name} has no second image to mix with; use batch_size=2 or more"]
    Resources().preflight(check(composed(*words, "optimizer.full_batch=true")))
    Resources().preflight(check(composed(*words[:2], "batch_size=2")))


@pytest.mark.parametrize("name", MIXERS)
def test_optimizers_that_need_a_fixed_loss_refuse_mixing(name):
    """Line searches and curvature need a loss that stays the same, which random mixing does not leave."""
    with pytest.raises(Refused) as refused:
        Resources().preflight(check(composed("model=mlp", "optimizer=lbfgs", f"regularization=[{name}]")))
    (line,) = refused.value.lines
    assert line == f"regularization=[{name}]: mixes images at random, and lbfgs needs a loss that stays the same"


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("mixup.alpha=0", "must be above 0"),
        ("mixup.alpha=inf", "must be a finite number"),
        ("cutmix.alpha=-1", "must be above 0"),
        ("cutmix.p=1.5", "must be at most 1"),
        ("mixup.p=-0.5", "must be at least 0"),
        ("mixup.per=image", "must be 'batch' or 'sample'"),
        ("cutmix_or_mixup.mixup_alpha=0", "must be above 0"),
        ("cutmix_or_mixup.cutmix_alpha=0", "must be above 0"),
        ("cutmix_or_mixup.cutmix_p=2", "must be at most 1"),
        ("cutmix_or_mixup.per=pixel", "must be 'batch' or 'sample'"),
    ],
)
def test_values_out_of_range_are_refused(word, said):
    """Each key says its range, also after an option (drop_path) that allows the same words in another order."""
    check(composed("regularization=[stochastic_depth]", "model=resnet20"))
    name = word.partition(".")[0]
    with pytest.raises(Refused) as refused:
        check(composed(f"regularization=[{name}]", f"regularization.{word}"))
    assert refused.value.lines == [f"regularization.{word}: {said}"]
