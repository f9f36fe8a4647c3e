"""Steps that are replayed: their numbers are those of steps that the host does. A tape stands for the CUDA graph."""

import copy
import re
from pathlib import Path

import pytest
import torch

from runner.core.errors import ConfigError
from runner.execution import trial as trying
from runner.execution.choose.cuda_graph import choose_graph
from runner.execution.cuda_graph.replay import MOST, WARM
from runner.execution.eager import EagerProgram
from runner.execution.fused.program import FusedProgram
from runner.train.batch import Batch
from runner.train.loop import step
from tests.shared.fused import SMALL_CONV, states
from tests.shared.results import result_of
from tests.shared.tape import Tape
from tests.shared.training import make, splits, told

QUIET = ("epochs=40", "log.every=1000")
CASES = {
    "mlp": (),
    "batchnorm": (*SMALL_CONV, "regularization=[batchnorm]"),
    "dropout": ("regularization=[dropout]",),
    "mixup": ("regularization=[mixup,label_smoothing]",),
    "penalties": ("regularization=[l2,l1,confidence_penalty]", "clip_grad_norm=0.1", "optimizer=adam"),
    "schedule": ("schedule=cosine", "optimizer=momentum", "augmentation=[flip,crop]"),
    "accumulate": ("accumulate=2", "regularization=[dropout,l2]", "optimizer=adamw"),
    "stochastic depth": (
        "model._target_=runner.model.resnet.ResNet",
        "~model.hidden",
        "+model.depth=8",
        "regularization=[stochastic_depth]",
    ),
}


def pair(*words, **options):
    """A run, and the same with its gradients replayed from a tape."""
    runs = [make(*QUIET, *words, **options) for _ in range(2)]
    for run in runs:
        run.val_split = None
        run.train_mode()
    tape = Tape()
    EagerProgram().replay(runs[1:], tape, must=True)
    return *runs, tape


def same(one, other):
    """Weights, buffers, optimizers' states, and what was counted."""
    for name, value in states([one])[0].items():
        assert torch.equal(value, states([other])[0][name]), name
    assert [float(x) for x in one.meter.losses] == [float(x) for x in other.meter.losses]
    for kept in ("_predictions", "_labels"):  # here in one piece, there by micro-batch
        pieces = [[x for part in getattr(run.meter, kept) for x in part.tolist()] for run in (one, other)]
        assert pieces[0] == pieces[1]
    assert one.meter.penalties.keys() == other.meter.penalties.keys()
    assert all(torch.equal(value, other.meter.penalties[name]) for name, value in one.meter.penalties.items())
    assert torch.equal(one.noise.get_state(), other.noise.get_state())


@pytest.mark.parametrize("words", CASES.values(), ids=CASES)
def test_replayed_steps_are_the_steps_of_a_lone_run(words):
    """Ten replays, bit for bit: weights, statistics, states, noise, and what is counted for the log."""
    plain, replayed, tape = pair(*words, data=splits(train=64, side=16))
    for _ in range(WARM + 10):
        for run in (plain, replayed):
            step([run], EagerProgram())
        same(plain, replayed)
        replayed.optimizer.zero_grad()  # whoever does: the next replay's gradients stand all the same
    assert tape.replayed == 10 and tape.recorded == 1


def thawing(run, number):
    """What the config itself does, where it says so."""


def other_targets(run, number):
    if number == 10:
        run.mix = lambda images, labels, draws, plain=run.mix: probable(plain(images, labels, draws))


def other_memory(run, number):
    if number == 10:
        run.model.to(torch.float64).to(torch.float32)


def other_modes(run, number):
    if number == 10:
        next(layer for layer in run.model.modules() if isinstance(layer, torch.nn.BatchNorm2d)).eval()


@pytest.mark.parametrize(
    ("words", "change", "graphs"),
    [
        (("transfer.freeze_depth=1", "transfer.unfreeze.every=1"), thawing, 2),
        ((), other_targets, 2),
        ((), other_memory, 2),
        (("regularization=[batchnorm]",), other_modes, 2),
    ],
)
def test_what_the_host_depends_on_is_recorded_anew(words, change, graphs):
    """Stages that thaw, a batch of another kind, weights that lie elsewhere, modes that change within an epoch: after
    a few steps of the host there is a graph for what is now, and every number is right meanwhile."""
    plain, replayed, tape = pair(*SMALL_CONV, *words, "batch_size=4", data=splits(train=64, side=16))
    for number in range(24):  # an epoch is 16 steps
        for run in (plain, replayed):
            step([run], EagerProgram())
            change(run, number)
        same(plain, replayed)
    assert (tape.recorded, tape.replayed) == (graphs, 24 - graphs * WARM)


def test_few_graphs_are_kept():
    """Of those that were used last."""
    run = make(*QUIET)
    (replays,) = EagerProgram().replay([run], Tape(), must=True)
    run.train_mode()
    for size in range(4, 12):
        for _ in range(WARM + 1):
            run.rewind()
            batch = run.next_batch()
            replays([Batch(batch.images[:size], batch.targets[:size], batch.labels[:size])])
    assert [len(graph.inputs[0]) for graph in replays._known.values()] == list(range(12 - MOST, 12))


def probable(batch):
    batch.targets = torch.nn.functional.one_hot(batch.targets, 3).float()
    return batch


def test_goes_on_from_a_checkpoint():
    """A run that is loaded into a new one, replayed too, goes on bit for bit; so does its noise."""
    words = (*SMALL_CONV, "regularization=[batchnorm,dropout]", "optimizer=adam")
    data = splits(train=64, side=16)
    plain, first, _ = pair(*words, data=data)
    _, second, tape = pair(*words, data=data)
    for number in range(18):
        step([plain], EagerProgram())
        step([first if number < 9 else second], EagerProgram())
        if number == 8:
            second.load_state_dict(copy.deepcopy(first.state_dict()))
    assert tape.replayed == 9 - WARM
    for name, value in states([plain])[0].items():
        assert torch.equal(value, states([second])[0][name]), name


def test_the_log_is_right():
    """Losses, accuracy, penalties and norms, read every few steps and at an epoch's end."""
    words = ("regularization=[l2,dropout,confidence_penalty]", "clip_grad_norm=0.5", "log.every=2", "probe.every=4")
    plain, replayed, _ = pair(*words)
    seen = [told(run) for run in (plain, replayed)]
    for _ in range(12):
        for run in (plain, replayed):
            step([run], EagerProgram())
    for one, other in zip(*(lines for lines, _ in seen), strict=True):
        assert one == other
    assert [row | {"seconds": 0} for row in seen[0][1]] == [row | {"seconds": 0} for row in seen[1][1]]


# -- shared programs ------------------------------------------------------------------------------------------------

NOISY = "regularization=[dropout]"
SHARING = {
    "optimizers": (
        ["optimizer=sgd", "optimizer=adam", "optimizer=muon"],
        ("schedule=cosine", "regularization=[dropout]"),
    ),
    "clipping": (["clip_grad_norm=0.1", "optimizer=adam", "seed=3"], ("regularization=[l2,mixup]", "probe.every=3")),
    "convolutions": (["optimizer=sgd", "seed=1"], (*SMALL_CONV, "regularization=[batchnorm,l1]", "accumulate=2")),
}


@pytest.mark.parametrize("each", SHARING.values(), ids=SHARING)
def test_replayed_steps_are_those_of_a_shared_program(each):
    """Runs of several optimizers, with penalties, clipping and probes, one of which ends: bit for bit."""
    each, words = each
    data = splits(train=64, side=16)
    both = [[make(*QUIET, *words, one, data=data) for one in each] for _ in range(2)]
    programs, tape = [FusedProgram(runs) for runs in both], Tape()
    (replays,) = programs[1].replay(both[1], tape, must=True)
    for runs in both:
        for run in runs:
            run.val_split = None
            run.train_mode()
            run.curvature_every = 0
    for number in range(WARM + 14):
        for runs, program in zip(both, programs):
            step([run for run in runs if not run.dropped], program)
            if number == WARM + 5:
                runs[0].dropped = True
        for one, other in zip(*both):
            if not one.dropped:
                same(one, other)
                assert one.probe.read() == other.probe.read()
    assert tape.recorded == 2 and tape.replayed == 14 - WARM and replays.failed == ""


def test_shared_batches_are_read_once():
    """Runs of one seed have one batch between them: it goes to where the graph reads it once."""
    data = splits()
    runs = [make(*QUIET, one, data=data) for one in ("optimizer=sgd", "optimizer=adam", "seed=1")]
    program = FusedProgram(runs)
    (replays,) = program.replay(runs, Tape(), must=True)
    for _ in range(WARM + 1):
        step(runs, program)
    (graph,) = replays._known.values()
    assert len(graph.inputs) == 4  # images and labels of two seeds


# -- auto -----------------------------------------------------------------------------------------------------------

RICH = (*SMALL_CONV, "regularization=[batchnorm,dropout,l2,mixup]", "augmentation=[flip]", "optimizer=adam")


def clocks(monkeypatch, *seconds):
    """What the trial measures: eager, then replayed."""
    given = iter(seconds)
    monkeypatch.setattr(trying, "fastest", lambda work, device: (work(), next(given))[1])


@pytest.mark.parametrize(
    ("seconds", "word"),
    [
        ((0.004, 0.001), "on (gradients of a step take 1 ms against 4 ms)"),
        ((0.00102, 0.001), "off (gradients of a step take 1 ms against 1.02 ms)"),
    ],
)
@pytest.mark.parametrize("together", [False, True])
def test_auto_keeps_the_faster_and_leaves_no_trace(monkeypatch, seconds, word, together):
    """After the trial runs go on bit for bit as those that had none, alone or sharing a program."""
    clocks(monkeypatch, *seconds)
    data = splits(train=64, side=16)
    both = [[make(*QUIET, *RICH, f"seed={seed}", data=data) for seed in range(2)][: 1 + together] for _ in range(2)]
    programs = [FusedProgram(runs) if together else EagerProgram() for runs in both]
    tape = Tape()
    for runs in both:
        for run in runs:
            run.val_split = None
            run.train_mode()
    for runs, program in zip(both, programs):
        step(runs, program)
    before = copy.deepcopy([run.state_dict() for run in both[1]])
    choose_graph(both[1], programs[1], tape)
    assert [run.chosen["cuda_graph"] for run in both[1]] == [word] * len(both[1])
    for run, state in zip(both[1], before):
        now = run.state_dict()
        assert torch.equal(now["generators"]["augmentation"], state["generators"]["augmentation"])
        assert all(p.grad is None for p in run.model.parameters())
    replayed = tape.replayed
    for _ in range(5):
        for runs, program in zip(both, programs):
            step(runs, program)
        for one, other in zip(*both):
            same(one, other)
    assert tape.replayed == replayed + (5 if word.startswith("on") else 0)


def counting(parts):
    """A network with a count in Python, on which its answer depends."""

    class Counting(torch.nn.Sequential):
        steps = 0

        def forward(self, x):
            self.steps += 1
            return super().forward(x) / self.steps

    parts.model = Counting(torch.nn.Flatten(), torch.nn.Linear(64, 3))
    parts.optimizer = torch.optim.SGD([{"params": list(parts.model.parameters()), "name": "weights"}], lr=0.1)


def peeking(parts):
    """A network whose host looks at numbers of the device."""

    class Peeking(torch.nn.Sequential):
        def forward(self, x):
            return super().forward(x) * (1 if x.mean().item() > 0 else 2)

    counting(parts)
    parts.model = Peeking(*parts.model)


class Forgetful(Tape):
    """A capture whose replays give other numbers."""

    def __call__(self, work, generators):
        replay = super().__call__(work, generators)
        written = [out for *_, wrote in self._calls for _, out in wrote if out.is_floating_point()]
        return lambda: (replay(), [out.add_(1) for out in written])


@pytest.mark.parametrize(
    ("words", "options", "tape", "reason"),
    [
        (("optimizer=sam",), {}, Tape, "SAM looks at the loss more than once a step"),
        (("epochs=2",), {}, Tape, "fewer than 100 steps: a trial would not pay"),
        ((), {"prepare": counting}, Tape, "Counting keeps numbers of its own, step by step, in Python"),
        ((), {"prepare": peeking}, Tape, "operation not permitted when stream is capturing"),
        ((), {}, Forgetful, "losses are .* off, gradients .*"),
    ],
)
def test_auto_stays_with_the_host(words, options, tape, reason):
    """What cannot be captured, or is not the same, is done as it comes, and the reason is told."""
    run = make("epochs=40", *words, **options)
    run.train_mode()
    choose_graph([run], EagerProgram(), tape())
    assert re.fullmatch(rf"off \(.*{reason}.*\)", run.chosen["cuda_graph"])
    step([run], EagerProgram())


def test_what_breaks_later_is_told():
    """A step that was a graph, and whose host then looks at numbers, goes on as it comes; so says the result."""
    run = make("epochs=40")
    run.train_mode()
    EagerProgram().replay([run], Tape(), must=False)
    for _ in range(WARM + 2):
        step([run], EagerProgram())
    plain = run.forward
    run.forward = lambda x: plain(x) * (1 if float(x.mean()) > 0 else 2)
    for _ in range(WARM + 2):
        step([run], EagerProgram())
    assert run.chosen["cuda_graph"].startswith(f"off from step {2 * WARM + 3} on (operation not permitted")


@pytest.mark.parametrize("prepare", [counting, peeking])
def test_insisting_on_what_cannot_be_captured(prepare):
    """Is an error of one line, with the way out."""
    run = make("epochs=40", prepare=prepare)
    EagerProgram().replay([run], Tape(), must=True)
    run.train_mode()
    with pytest.raises(ConfigError, match="cuda_graph=true: this step is no graph .*; use cuda_graph=auto"):
        for _ in range(WARM + 1):
            step([run], EagerProgram())


def test_a_cpu_has_none(cli):
    """`auto` says nothing there; `true` is refused before anything runs."""
    code, _, errors = cli("epochs=1", "model=mlp", "device=cpu", "cuda_graph=true")
    assert code == 2 and "cuda_graph=true: device=cpu is no CUDA device here (cpu); use cuda_graph=auto" in errors
    assert cli("epochs=1", "model=mlp", "device=cpu", "log.tensorboard=false")[0] == 0
    assert "cuda_graph" not in result_of(Path("outputs/runs"))
    code, _, errors = cli("task=lr_range", "model=mlp", "cuda_graph=true")
    assert code == 2 and "only the steps of task=train are replayed" in errors
