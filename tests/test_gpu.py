"""What only a CUDA device can show: steps in which the host never waits, and programs that share one."""

import contextlib
import copy

import pytest
import torch

from runner.build import Builder
from runner.fuse.program import Fused
from runner.running import Run
from runner.seeds import generator
from runner.train import Alone, step
from tests.test_fuse import ELEMENTWISE, compare
from tests.test_train import SMALL, checked, splits

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
    run = Run(config, Builder().parts(config, own, GPU, noise), GPU, noise)
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
    program = Fused(runs) if together else Alone()
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
