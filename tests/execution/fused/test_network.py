"""Networks in a shared program: side by side, mapped, or refused with the reason."""

import pytest
import torch

from runner.execution.fused.errors import Incompatible
from runner.execution.fused.program import FusedProgram
from runner.model.library_noise import SeededDropout
from tests.shared.fused import compare, doubled
from tests.shared.training import make


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("optimizer=sam",), "more than once a step"),
        (("optimizer=lbfgs",), "more than once a step"),
        (("transfer.freeze_depth=1", "transfer.unfreeze.every=1"), "different stages"),
    ],
)
def test_what_cannot_share(words, reason):
    """Runs that cannot share a program say why."""
    with pytest.raises(Incompatible, match=reason):
        FusedProgram([make(*words, f"seed={seed}") for seed in range(2)])


def test_other_structures_cannot_share():
    """Networks, or batches, of other shapes are no program."""
    for word in ("model.hidden=[13]", "batch_size=10", "accumulate=2"):
        with pytest.raises(Incompatible, match="differ"):
            FusedProgram([make(), make(word)])


class Mixing(torch.nn.Module):
    """A network of a user's own that turns the channels of all that lies side by side."""

    def __init__(self, in_channels, num_classes, image_size):
        super().__init__()
        self.first = torch.nn.Conv2d(in_channels, 4, 3)
        self.head = torch.nn.LazyLinear(num_classes)

    def forward(self, x):
        return self.head(self.first(x).roll(1, 1).flatten(1))


def mixing(noisy=False):
    """Prepares a run with that network."""

    def prepare(parts):
        torch.manual_seed(0)
        model = torch.nn.Sequential(Mixing(1, 3, 8))
        model(torch.zeros(1, 1, 8, 8))
        if noisy:
            model.append(SeededDropout(torch.nn.Dropout(0.5), torch.Generator()))
        parts.model = model
        parts.optimizer = torch.optim.SGD([{"params": list(model.parameters()), "name": "weights"}], lr=0.1)

    return prepare


class Attending(torch.nn.Module):
    """Tokens, a class token, attention, layer and batch norm; nothing is in the channels as convolutions have it."""

    def __init__(self):
        super().__init__()
        self.token = torch.nn.Parameter(torch.randn(1, 1, 8))
        self.layer = torch.nn.TransformerEncoderLayer(8, 2, 12, dropout=0.0, batch_first=True)
        self.norm = torch.nn.BatchNorm1d(8)
        self.head = torch.nn.Linear(8, 3)

    def forward(self, x):
        x = torch.cat((self.token.expand(len(x), -1, -1), x[:, 0]), 1)
        return self.head(self.norm(self.layer(x)[:, 0]))


def attending(parts):
    """Prepares a run with that network."""
    parts.model = Attending()
    parts.optimizer = torch.optim.SGD([{"params": list(parts.model.parameters()), "name": "weights"}], lr=0.1)


@pytest.mark.parametrize("prepare", [mixing(), attending])
def test_networks_that_mix_what_lies_side_by_side_are_mapped(prepare):
    """Where a forward is not what it was in channels side by side the networks go through `vmap`, to the same numbers,
    running statistics too."""
    words = "lr_scale=1", "lr_scale=0.5", "lr_scale=0.1"
    alone, together = (
        [doubled(one, "log.every=100", f"seed={i}", prepare=prepare) for i, one in enumerate(words)] for _ in range(2)
    )
    for one, other in zip(alone, together):
        other.model.load_state_dict(one.model.state_dict())
    program = compare(alone, together)
    assert not program.bundles[0].network.shares_nothing
    together[1].dropped = True  # and the others' numbers go on
    compare([alone[0], alone[2]], [together[0], together[2]], 2)


def test_what_neither_lies_side_by_side_nor_can_be_mapped():
    """Refused, not trained wrongly; and each goes on with weights of its own."""
    runs = [make(f"seed={seed}", prepare=mixing(noisy=True)) for seed in range(2)]
    with pytest.raises(Incompatible, match=r"side by side in the channels.*vmap: SeededDropout draws"):
        FusedProgram(runs)
    storages = [p.untyped_storage().data_ptr() for run in runs for p in run.model.parameters()]
    assert len(set(storages)) == len(storages)
