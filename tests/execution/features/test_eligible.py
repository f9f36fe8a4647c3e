"""Runs and networks that the feature cache declines, each with the reason."""

import pytest
import torch
from torch import nn

from runner.augmentation.flip import Flip
from runner.build.check import check
from runner.build.complaints import Refused
from runner.core.errors import ConfigError
from runner.task.resources import Resources
from tests.shared.configs import composed
from tests.shared.features import CONVNET, DATA, HEAD, LOOP, make

NOT_SERVED = {
    "nothing is frozen": (("transfer.freeze_depth=0",), "set transfer.freeze_depth"),
    "transfer.unfreeze.every=1 thaws": (("transfer.unfreeze.every=1",), "use transfer.unfreeze.every=null"),
    "compile=true": (("compile=true",), "use compile=false"),
    "augmentation=[crop] makes ever new images": (("augmentation=[flip,crop]",), "augmentation=[flip]"),
    "regularization=[mixup] mixes": (("regularization=[mixup]",), "leave it out"),
    "DropoutLayer draws anew": (
        ("regularization=[dropout]", "regularization.dropout.where=conv"),
        "or freeze fewer stages",
    ),
    "BatchNorm2d of the frozen stages follows": (
        ("regularization=[batchnorm]", "transfer.frozen_norm=train"),
        "use transfer.frozen_norm=eval",
    ),
}


@pytest.mark.parametrize(("reason", "case"), NOT_SERVED.items(), ids=list(NOT_SERVED))
def test_declined(reason, case):
    """`auto` says why and trains as ever; `true` is refused before anything runs, with the way out."""
    words, way_out = case
    if "compile=true" not in words:  # it takes long
        run, said = make(*words, "transfer.cache=auto")
        assert run.features is None
        assert said.startswith("declined: ")
        assert reason in said
    config = check(composed(*CONVNET, "data.limit=100", HEAD, *LOOP, *words, "transfer.cache=true"))
    with pytest.raises(Refused) as caught:
        Resources().preflight(config)
    (line,) = [line for line in caught.value.lines if line.startswith("transfer.cache=true: ")]
    assert reason in line
    assert way_out in line
    assert line.endswith(", or transfer.cache=auto")


def test_too_many_variants():
    """The product of the items' variants counts."""
    items = {"augmentation." + name: Flip() for name in "abcd"}
    run, said = make("transfer.cache=auto", prepare=lambda parts: parts.pipeline.update(items))
    assert run.features is None
    assert "makes 16 variants of an image, and 8 is the most" in said


def test_too_large():
    """What is larger than the budget is not kept, whichever way it was asked for."""
    run, said = make("transfer.cache=auto", budget=1e-6)
    assert run.features is None
    assert said == "declined: what enters head takes 4.32e-06 GB, and the budget is 1e-06"
    with pytest.raises(ConfigError, match=r"transfer.cache=true: what enters head .*; freeze more stages, or set"):
        make(budget=1e-6)


class Net(nn.Module):
    """Three stages; subclasses do what a cut cannot bear."""

    def __init__(self):
        super().__init__()
        self.stem, self.body, self.head = nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 1), nn.Linear(4, 3)

    def forward(self, x):
        return self.head(self.body(self.stem(x)).mean((2, 3)))


class Skips(Net):
    def forward(self, x):
        early = self.stem(x)
        return self.head(self.body(early).mean((2, 3)) + early.mean((2, 3)))


class SkipsPast(Net):
    """What a zero weight hides must be seen all the same."""

    def __init__(self):
        super().__init__()
        self.gate = nn.Buffer(torch.zeros(()))

    def forward(self, x):
        return super().forward(x) + self.gate * self.stem(x).mean()


class MixesBatch(Net):
    def forward(self, x):
        return super().forward(x - x.mean(0))


class TrainsOtherwise(Net):
    def forward(self, x):
        return super().forward(x * 2 if self.training else x)


class Counts(Net):
    def __init__(self):
        super().__init__()
        self.seen = nn.Buffer(torch.zeros(()))

    def forward(self, x):
        if self.training:
            self.seen += 1
        return super().forward(x)


class HeadFirst(Net):
    """The last stage is called first, too."""

    def forward(self, x):
        return super().forward(x + self.head(torch.ones(4)).mean())


class Shared(Net):
    """A stage that trains is used before."""

    def forward(self, x):
        return super().forward(x * self.head.weight.mean())


class Pair(Net):
    def __init__(self):
        super().__init__()
        self.head = nn.Bilinear(4, 4, 3)

    def forward(self, x):
        x = self.body(self.stem(x)).mean((2, 3))
        return self.head(x, x)


class Reuses(Net):
    """One module without weights serves before the cut and after it."""

    def __init__(self):
        super().__init__()
        self.relu, self.last = nn.ReLU(), nn.Linear(3, 3)

    def forward(self, x):
        x = self.relu(self.body(self.relu(self.stem(x))).mean((2, 3)))
        return self.last(self.relu(self.head(x)))


class WorksInPlace(Net):
    """As DenseNet does between its features and its head."""

    def forward(self, x):
        return self.head(torch.relu_(self.body(self.stem(x))).mean((2, 3)))


class DropsBetween(Net):
    """As GoogLeNet does: the noise lies in no stage."""

    def __init__(self):
        super().__init__()
        self.dropout = nn.Dropout(0.5)

    def forward(self, x):
        return self.head(self.dropout(self.body(self.stem(x)).mean((2, 3))))


def served(kind, depth):
    """What is said of a network of another class, and its run."""
    torch.manual_seed(5)
    network = kind()

    def prepare(parts):
        parts.model = network
        parts.transfer.prepare(network)
        trainable = [p for p in network.parameters() if p.requires_grad]
        parts.optimizer = torch.optim.SGD([{"params": trainable, "name": "all"}], lr=0.1)

    return make("transfer.cache=auto", f"transfer.freeze_depth={depth}", prepare=prepare)


@pytest.mark.parametrize(
    ("kind", "depth", "reason"),
    [
        (Skips, 1, "later stages of Skips read more than what enters body"),
        (Skips, 2, None),
        (SkipsPast, 2, "later stages of SkipsPast read more than what enters head"),
        (MixesBatch, 1, "the frozen stages of MixesBatch mix the images of a batch"),
        (TrainsOtherwise, 1, "the frozen stages of TrainsOtherwise answer otherwise while training"),
        (Counts, 1, "the frozen stages of Counts answer otherwise while training"),
        (HeadFirst, 2, "HeadFirst's stages cannot be run apart"),
        (Shared, 2, "Shared trains something before the stages that are to train"),
        (Pair, 2, "does not read one tensor with a row for each image"),
        (Reuses, 2, None),
        (WorksInPlace, 2, None),
        (DropsBetween, 2, None),
        (DropsBetween, 1, None),
    ],
)
def test_networks_that_cannot_be_cut(kind, depth, reason):
    """A network whose stages are no chain is declined; one whose are is served, and left as it was."""
    run, said = served(kind, depth)
    if reason is None:
        assert said == "on"
        images = run.normalize(DATA.train.images[:5])
        kept_features, _ = next(run.features._of(DATA.train).batches([torch.arange(5)]))
        run.model.train()
        torch.manual_seed(1)
        wanted = run.model(images)
        torch.manual_seed(1)
        torch.testing.assert_close(run.forward(kept_features), wanted)
        return
    assert run.features is None
    assert reason in said
    assert not any("forward" in vars(module) or module._forward_pre_hooks for module in run.model.modules())
    assert all(float(buffer) == 0 for buffer in run.model.buffers())
