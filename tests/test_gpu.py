"""What only a CUDA device can show: steps in which the host never waits, and programs that share one."""

import contextlib
import copy

import pytest
import torch

from runner.core.seeds import generator
from runner.execution.choose.cuda_graph import choose_graph
from runner.execution.cuda_graph.capture import CudaGraphs
from runner.execution.cuda_graph.replay import WARM
from runner.execution.eager import EagerProgram
from runner.execution.fused.program import FusedProgram
from runner.task.resources import Resources
from runner.train.loop import step
from runner.train.state import TrainState
from tests.shared.fused import ELEMENTWISE, compare, states
from tests.shared.training import SMALL, checked, splits

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]
GPU = torch.device("cuda")


def on_gpu(*overrides, data=None):
    """A run on the GPU, in full precision, without validation."""
    config = copy.deepcopy(checked((*SMALL, "precision=fp32", "epochs=50", "log.every=1000", *overrides)))
    noise = generator(config["seed"], "noise", GPU)
    own = (data or splits(train=320)).to(GPU)
    run = TrainState(config, Resources().parts(config, own, GPU, noise), GPU, noise)
    run.val_split = None
    return run


@pytest.mark.parametrize(
    "words", [(), ("augmentation=[flip,crop]", "regularization=[dropout,mixup]", "schedule=cosine")]
)
@pytest.mark.parametrize("together", [False, True])
def test_the_host_never_waits_within_a_step(words, together):
    """Between two looks at the losses nothing makes the host wait for the device, alone or in a shared program."""
    runs = [
        on_gpu(*words, f"optimizer={name}", f"seed={seed}") for seed, name in enumerate(("sgd", "adam", "momentum"))
    ]
    program = FusedProgram(runs) if together else EagerProgram()
    for run in runs:
        run.train_mode()
    for _ in range(3):  # states are made, kernels loaded, the epoch's order has come
        step(runs, program)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(10):
            step(runs, program)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("stack", ["[]", "[batchnorm]"])
def test_shared_programs_on_a_gpu(stack):
    """On a GPU, too, each run takes the steps that it takes alone."""

    def some():
        words = [(f"optimizer={name}", f"seed={seed}") for seed, name in enumerate(ELEMENTWISE)]
        runs = [on_gpu(f"regularization={stack}", *one) for one in words]
        for run in runs:
            run.model.double()
            run.mix = lambda *given, plain=run.mix: _double(plain(*given))
            run.precision, run.autocast = torch.float64, contextlib.nullcontext
        return runs

    compare(some(), some(), 10, rtol=1e-9, atol=1e-11)


def _double(batch):
    batch.images = batch.images.double()
    return batch


# -- CUDA graphs ----------------------------------------------------------------------------------------------------

RICH = ("model=convnet", "model.channels=[8,8]", "model.hidden=16", "regularization=[batchnorm,dropout,l2,mixup]")


@pytest.mark.parametrize("together", [False, True])
def test_a_graph_is_the_step_of_the_host(together):
    """Weights, statistics and noise after replays are those after steps of the host, to rounding."""
    both = [[on_gpu(*RICH, "clip_grad_norm=1", f"seed={seed}") for seed in range(1 + together)] for _ in range(2)]
    programs = [FusedProgram(runs) if together else EagerProgram() for runs in both]
    (replays, *_) = programs[1].replay(both[1], CudaGraphs(GPU), must=True)
    for runs, program in zip(both, programs):
        for run in runs:
            run.train_mode()
        for _ in range(WARM + 5):
            step(runs, program)
    assert replays.failed == "" and any(not isinstance(known, int) for known in replays._known.values())
    for one, other in zip(*both):
        assert torch.equal(one.noise.get_state(), other.noise.get_state())
        torch.testing.assert_close(torch.stack(other.meter.losses), torch.stack(one.meter.losses), rtol=1e-3, atol=1e-4)
    for one, other in zip(*map(states, both)):
        for name, value in one.items():
            torch.testing.assert_close(other[name], value, rtol=1e-2, atol=1e-3)


def test_a_graph_draws_anew():
    """On one batch and the same weights, each replay has other noise, and a set generator has its own again."""
    run = on_gpu("regularization=[dropout]", "regularization.dropout.p=0.5")
    (replays,) = EagerProgram().replay([run], CudaGraphs(GPU), must=True)
    run.train_mode()
    batch, losses = run.next_batch(), []
    for _ in range(WARM + 3):
        losses.append(float(replays([batch])))
    state = run.noise.get_state()
    after = [float(replays([batch])) for _ in range(2)]
    run.noise.set_state(state)
    assert len(set(losses)) == len(losses) and [float(replays([batch])) for _ in range(2)] == after


def test_auto_says_what_it_took():
    """Measured, whichever way; a host that looks at the device's numbers is never captured, and goes on."""
    run = on_gpu(*RICH)
    run.train_mode()
    choose_graph([run], EagerProgram())
    assert run.chosen["cuda_graph"].startswith(("on (gradients of a step take", "off (gradients of a step take"))
    other = on_gpu(*RICH)
    plain = other.forward
    other.forward = lambda x: plain(x) * (1 if float(x.mean()) > 0 else 2)
    choose_graph([other], EagerProgram())
    assert other.chosen["cuda_graph"].startswith("off (") and "captur" in other.chosen["cuda_graph"]
    for _ in range(WARM + 2):
        step([other], EagerProgram())
