"""Where memory does not suffice, a batch goes through in smaller pieces, with the result of the whole batch."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from runner import memory
from tests.conftest import result_of

WORDS = ("model=custom", "model._target_=tests.test_memory.Narrow", "trust=[tests]", "threads=1", "epochs=2")


class Narrow(nn.Sequential):
    """A network for which there is memory for so many images at once while it trains."""

    def __init__(self, in_channels: int, num_classes: int, image_size: int, most: int = 1000, norm: bool = False):
        norms = [nn.BatchNorm1d(16)] if norm else []
        wide = in_channels * image_size**2
        super().__init__(nn.Flatten(), nn.Linear(wide, 16), *norms, nn.ReLU(), nn.Linear(16, num_classes))
        self.most = most

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training and len(x) > self.most:
            raise torch.OutOfMemoryError(f"no memory for {len(x)} images")
        return super().forward(x)


def test_a_batch_goes_through_in_pieces_with_the_gradient_of_the_whole(cli):
    """64 images at once do not fit, 16 do: four pieces, said in result and log, and the loss of the whole batch."""
    assert cli(*WORDS, "name=whole")[0] == 0
    code, _, err = cli(*WORDS, "+model.most=20", "name=narrow")
    whole, narrow = result_of(Path("outputs/whole")), result_of(Path("outputs/narrow"))
    assert code == 0 and narrow["status"] == "done" and narrow["accumulate"] == 4 and "accumulate" not in whole
    assert "each batch of 64 goes through in 4 pieces now" in err
    assert narrow["val_loss"] == pytest.approx(whole["val_loss"], rel=1e-4)
    assert narrow["epochs"] == 2


def test_it_ends_where_a_single_image_is_too_much(cli):
    """No piece is smaller than one image; the end is named."""
    code, out, err = cli(*WORDS, "+model.most=0")
    result = result_of(Path("outputs/runs"))
    assert code == 1 and result["status"] == "out_of_memory"
    assert result["reason"] == "OutOfMemoryError: no memory for 1 images"
    assert "a micro-batch is 1 images already" in err


def test_batch_norm_is_not_given_smaller_batches_unasked(cli):
    """Its statistics would change: refused, with the way out; then done."""
    words = (*WORDS, "+model.norm=true", "+model.most=20")
    code, _, err = cli(*words)
    assert code == 1 and "oom.allow_batchnorm=true" in err
    assert result_of(Path("outputs/runs"))["status"] == "out_of_memory"
    code, _, err = cli(*words, "oom.allow_batchnorm=true")
    assert code == 0 and result_of(Path("outputs/runs"))["accumulate"] == 4


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you tried to ..."),
    ],
)
def test_what_says_that_memory_lacks(error):
    """GPU and host say it in different words."""
    assert memory.lacking(error)


def test_other_errors_do_not():
    """A shape that does not fit is no lack of memory; nor is a disk that is full."""
    assert not memory.lacking(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    assert not memory.lacking(OSError(28, "No space left on device"))


def test_torch_itself_says_it_in_these_words():
    """The real error of a tensor that no machine holds."""
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**50, dtype=torch.uint8)
    assert memory.lacking(caught.value)


def test_the_peak_is_that_of_the_run(cli):
    """A result tells its memory; a later, smaller run of the same process tells its own."""
    cpu = torch.device("cpu")
    memory.reset(cpu)
    before = memory.peak(cpu)
    ballast = torch.ones(2**27)
    assert memory.peak(cpu) > before + 400
    del ballast
    memory.reset(cpu)
    assert memory.peak(cpu) < before + 200
    assert cli("model=mlp", "epochs=1")[0] == 0
    assert json.loads(next(Path("outputs/runs").glob("*/result.json")).read_text())["peak_memory_mb"] > 50
