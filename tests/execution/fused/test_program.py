"""Runs that share a program: their numbers are those that each has alone."""

import pytest
import torch

from runner.execution.eager import EagerProgram
from runner.execution.fused.network import StackedNetwork
from runner.execution.fused.program import FusedProgram
from runner.execution.fused.slot import MANY_WEIGHTS
from runner.execution.fused.stacked_runs import StackedRuns
from runner.train.loop import step, train
from tests.shared.fused import ELEMENTWISE, SMALL_CONV, compare, doubled, seated, states, train_together
from tests.shared.marks import quick
from tests.shared.training import make, splits

OTHERS = ["adafactor", "muon"]


@pytest.mark.parametrize("stack", ["[]", "[batchnorm,l2,label_smoothing]"])
def test_all_optimizers_side_by_side(stack):
    """Runs of every mini-batch optimizer with rates, decays, schedules and seeds of their own take, together, the steps
    that each takes alone: losses, weights, running statistics and optimizers' states."""
    words = [
        (
            f"optimizer={name}",
            f"optimizer.weight_decay={decay}",
            f"seed={seed}",
            f"schedule={schedule}",
            f"lr_scale={scale}",
        )
        for seed, (name, decay, schedule, scale) in enumerate(
            (name, decay, schedule, scale)
            for name in ELEMENTWISE
            for decay, schedule, scale in ((0.0, "constant", 1), (0.1, "cosine", 0.5))
        )
    ] + [(f"optimizer={name}", "seed=7") for name in OTHERS]
    pair = [[doubled("log.every=100", f"regularization={stack}", *one) for one in words] for _ in range(2)]
    program = compare(*pair)
    assert sum(len(one.runs) for one in program.bundles[0]._optimizers) == 2 * len(ELEMENTWISE)


@pytest.mark.parametrize(
    "words",
    [
        ("model=convnet", "model.channels=[3,4]", "model.hidden=8", "regularization=[dropout]"),
        (
            "model=convnet",
            "model.channels=[3,4]",
            "model.hidden=8",
            "regularization=[batchnorm,dropout]",
            "channels_last=true",
        ),
        ("model=convnet", "model.channels=[8]", "model.hidden=8", "regularization=[groupnorm,dropconnect]"),
        (
            "model._target_=runner.model.resnet.ResNet",
            "~model.hidden",
            "+model.depth=8",
            "regularization=[stochastic_depth]",
        ),
        ("model=convnet", "model.channels=[4]", "model.hidden=8", "regularization=[fractional_max_pool]"),
        ("regularization=[weight_standardization,gaussian_noise,layernorm]",),
        ("regularization=[mixup,confidence_penalty,l1]", "clip_grad_norm=0.1", "augmentation=[flip,crop]"),
        ("accumulate=3", "regularization=[dropout,l2]", "probe.every=2"),
    ],
)
def test_structures_and_noise(words):
    """Convolutions, norms, pools, residual blocks and random layers: together, each run draws what it draws alone."""
    each = [("optimizer=sgd", "seed=1"), ("optimizer=adam", "seed=2"), ("optimizer=sgd", "seed=3")]
    data = splits(train=32, side=16)
    alone, together = ([doubled("log.every=100", *words, *one, data=data) for one in each] for _ in range(2))
    compare(alone, together, 4)


# -- runs that come and go ------------------------------------------------------------------------------------------

MIXED = [("optimizer=sgd", "seed=1"), ("optimizer=adam", "seed=2"), ("optimizer=momentum", "seed=3")]


@pytest.mark.parametrize("words", [("regularization=[dropout]",), (*SMALL_CONV, "regularization=[batchnorm]")])
def test_numbers_do_not_depend_on_who_shares(words):
    """A run in a program of its own, one among three, one whose mates end one by one: bit for bit alike."""
    data = splits(train=32, side=16)

    def some():
        return [make("epochs=20", *words, *one, data=data) for one in MIXED]

    lone, among, left = (seated(runs, 3) for runs in (some()[:1], some(), some()))
    train_together(lone, 12)
    train_together(among, 12)
    program = train_together(left, 4)
    left[1].dropped = True
    train_together(left, 4, program)
    left[2].dropped = True
    train_together(left, 4, program)
    for one, other in zip(states(lone + left[:1]), states(among[:1] * 2)):
        assert all(torch.equal(one[name], other[name]) for name in one)


def test_places_of_linear_layers_matter_too():
    """Ten classes: where a run's answers begin in memory, and how far apart they lie, moves last digits of gradients.
    So each keeps its place, whoever has ended."""
    data = splits(train=256, classes=10)

    def some():
        words = ("epochs=80", "model.hidden=[128]", "regularization=[dropout,label_smoothing]", "batch_size=64")
        return seated([make(*words, f"optimizer={name}", data=data) for name in ("sgd", "adam", "nadam")])

    among, lone, left = some(), some()[1:2], some()
    train_together(among, 40)
    train_together(lone, 40)
    program = train_together(left, 15)
    left[0].dropped = True
    train_together(left, 25, program)
    for one, other in zip(states([lone[0], left[1]]), states(among[1:2] * 2)):
        assert all(torch.equal(one[name], other[name]) for name in one)


def test_goes_on_from_checkpoints():
    """Runs that are loaded into new ones, and share a program again, go on bit for bit as if nothing had happened."""
    words = ("epochs=20", "regularization=[dropout,batchnorm]")
    whole, first, second = ([make(*words, *one) for one in MIXED] for _ in range(3))
    train_together(whole, 9)
    train_together(first, 5)
    for run, other in zip(first, second):
        other.load_state_dict(run.state_dict())
    train_together(second, 4)
    for one, other in zip(states(whole), states(second)):
        assert all(torch.equal(one[name], other[name]) for name in one)


def test_parted_runs_are_their_own_again():
    """After `part` each run goes on alone as one that never shared: nothing of it is anybody else's."""
    pair = [[doubled("epochs=20", *one, *SMALL_CONV, data=splits(side=16)) for one in MIXED] for _ in range(2)]
    compare(*pair, steps=3).unstack()
    for _ in range(3):
        for runs in pair:
            for run in runs:
                step([run], EagerProgram())
    for one, other in zip(*map(states, pair)):
        for name in one:
            torch.testing.assert_close(other[name], one[name], rtol=1e-9, atol=1e-11)
    storages = [p.untyped_storage().data_ptr() for run in pair[1] for p in run.model.parameters()]
    assert len(set(storages)) == len(storages)


LARGE = ("model=mlp", "model.hidden=[128]", "epochs=20", "probe.every=3")
STEPS = (
    ("optimizer=sgd", "optimizer.weight_decay=0.01"),
    ("optimizer=momentum", "clip_grad_norm=0.5"),
    ("optimizer=rmsprop", "optimizer.weight_decay=0.01"),
    ("optimizer=rmsprop", "regularization=[l2]"),
    ("optimizer=adam",),
    ("optimizer=adamw", "optimizer.weight_decay=0.1"),
    ("optimizer=adagrad",),
)


def large(*overrides):
    """A run whose weights are so many that it takes its steps by itself."""
    run = doubled(*LARGE, *overrides, data=splits(side=16))
    assert sum(p.numel() for p in run.trained) > MANY_WEIGHTS and run.direct is not None
    return run


@quick
def test_large_runs_take_their_steps_by_themselves():
    """Also where a run clips or looks at its gradients, or has a penalty."""
    alone, together = ([large(*words) for words in STEPS] for _ in range(2))
    program = compare(alone, together, steps=7)
    assert program.bundles[0].separate_runs == together


@quick
def test_gradients_of_a_step_that_failed_are_forgotten():
    """Runs that go on alone after it take no step by them."""
    alone, together = ([large(*words) for words in STEPS] for _ in range(2))
    program = compare(alone, together, steps=3)
    program.gradients(together, program.batches(together))
    program.undo()
    program.unstack()
    assert all(run.direct.gradients is None for run in together)
    assert all(p.grad is None for run in together for p in run.trained)
    for run in (*alone, *together):
        step([run], EagerProgram())
    for one, other in zip(states(alone), states(together)):
        for name, value in one.items():
            torch.testing.assert_close(other[name], value, rtol=1e-9, atol=1e-11)


def test_too_little_memory_halves_the_program(monkeypatch):
    """A program that does not fit goes on as two halves, and the numbers stay those of each run alone."""
    plain = StackedNetwork.forward

    def forward(self, images):
        if self.count > 2:
            found = plain(self, images)  # noise is drawn, statistics move, and then
            raise torch.OutOfMemoryError(f"no room for {tuple(found.shape)}")
        return plain(self, images)

    words = ("log.every=100", "regularization=[batchnorm,dropout]")
    alone, together = ([doubled(*words, *one) for one in MIXED] for _ in range(2))
    monkeypatch.setattr(StackedRuns, "compare", lambda self: None)
    monkeypatch.setattr(StackedNetwork, "forward", forward)
    program = compare(alone, together, 4)
    assert sorted(len(bundle.runs) for bundle in program.bundles) == [1, 2]


def test_runs_of_one_seed_make_their_batches_once(monkeypatch):
    """Where seed, augmentation and mixing agree, one batch serves all, and each run's numbers are those it has alone;
    who differs in one of them makes its own."""
    words = [
        ("optimizer=sgd",),
        ("optimizer=adam", "regularization=[mixup,dropout]"),
        ("optimizer=momentum", "lr_scale=0.5"),
        ("seed=1",),
        ("regularization.mixup.alpha=0.4",),
        ("augmentation=[flip]",),
    ]
    common = "log.every=100", "augmentation=[flip,crop]", "regularization=[dropout,mixup]"
    data = splits()
    alone, together = ([doubled(*common, *one, data=data) for one in words] for _ in range(2))
    made = []
    for run in together:
        monkeypatch.setattr(
            run, "augment", lambda *given, run=run, plain=run.augment: made.append(run) or plain(*given)
        )
    compare(alone, together, 4)
    assert [made.count(run) for run in together] == [5, 1, 1, 5, 5, 5]  # one was for the comparison before
    for one, other in zip(alone, together):
        assert torch.equal(one.augmenting.get_state(), other.augmenting.get_state())


def test_validation_is_one_pass_for_all(monkeypatch):
    """What is found is what each finds alone, with running statistics, and also where one alone is left."""
    words, data = "regularization=[batchnorm,dropout]", splits()
    alone, together = ([make(words, f"seed={seed}", data=data) for seed in range(3)] for _ in range(2))
    for run in alone:
        train([run], EagerProgram())
    for run in together:
        monkeypatch.setattr(run, "measure", None)
        run.on_epoch = lambda row, run=run: setattr(run, "dropped", run is not together[2])
    train(together, FusedProgram(together))
    assert [len(run.progress.history) for run in together] == [1, 1, 2]
    for one, other in zip(alone, together):
        for row, found in zip(one.progress.history, other.progress.history):
            keys = ("val_loss", "val_accuracy")
            assert [found[key] for key in keys] == pytest.approx([row[key] for key in keys], rel=1e-5)
