"""Where memory does not suffice, a batch goes through in smaller pieces, with the result of the whole batch."""

import gc
import json
import subprocess
import sys
import weakref
from pathlib import Path

import pytest
import torch
from torch import nn

from runner.core import memory
from runner.core.memo import Recent
from runner.task.resources import Resources
from runner.train.state import TrainState
from tests.shared.marks import quick
from tests.shared.results import result_of, results_of

WORDS = ("model=custom", "model._target_=tests.core.test_memory.Narrow", "trust=[tests]", "threads=1", "epochs=2")


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
    assert memory.is_out_of_memory(error)


def test_other_errors_do_not():
    """A shape that does not fit is no lack of memory; nor is a disk that is full."""
    assert not memory.is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    assert not memory.is_out_of_memory(OSError(28, "No space left on device"))


def test_torch_itself_says_it_in_these_words():
    """The real error of a tensor that no machine holds."""
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**50, dtype=torch.uint8)
    assert memory.is_out_of_memory(caught.value)


@quick
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


# -- what a finished run leaves -------------------------------------------------------------------------------------

QUICK = ("data.limit=200", "epochs=2", "threads=1", "log.images=0", "log.tensorboard=false")
HERE = ("-m", "seed=0,1,2", "hydra.launcher.workers=0")


@pytest.fixture
def finished(cli, monkeypatch):
    """`finished(words...)`: a command without the garbage collector; returns what is left of its runs' weights and
    optimizers, how many runs there were, and how often cycles were looked for."""
    references, looks = [], []
    begin, collect = TrainState.__init__, gc.collect

    def watched(self, *given, **named):
        begin(self, *given, **named)
        references.extend(map(weakref.ref, (self, self.optimizer, *self.model.parameters())))

    def counted(*given):
        looks.append(given)
        return collect(*given)

    def run(*words: str) -> tuple[list, int, int]:
        references.clear()
        looks.clear()
        gc.disable()
        try:
            cli(*QUICK, *words)
        finally:
            gc.enable()
        alive = [reference() for reference in references]
        return [one for one in alive if one is not None], len(results_of(Path("outputs/runs"))), len(looks)

    monkeypatch.setattr(TrainState, "__init__", watched)
    monkeypatch.setattr(gc, "collect", counted)
    return run


@pytest.mark.parametrize(
    "words",
    [
        ("model=mlp",),
        ("model=mlp", *HERE, "hydra.launcher.fuse=false"),
        ("model=mlp", *HERE, "hydra.launcher.fuse=true"),
        ("model=mlp", *HERE, "lr_scale=1,1e39,1", "sweep.zip=[seed,lr_scale]", "hydra.launcher.fuse=true"),
        ("model=mlp", "optimizer.lr=1e30"),  # diverges
        (
            "model=custom",
            "model._target_=tests.shared.faults.Faulty",
            "trust=[tests]",
            "+model.fault=raise",
            "batch_size=8",
        ),
        (
            "model=custom",
            "model._target_=tests.shared.faults.Faulty",
            "trust=[tests]",
            "+model.fault=memory",
            "batch_size=8",
        ),
        ("model=custom", "model._target_=tests.core.test_memory.Narrow", "trust=[tests]", "+model.most=20"),
        ("model=mlp", "optimizer=lbfgs"),
        ("model=mlp", "optimizer=sam", "ensemble=ema"),
        ("model=mlp", "transfer=last_layer", "transfer.cache=true"),
        ("model=mlp", "evaluation=views"),
    ],
)
def test_a_run_is_freed_when_it_ends(finished, words):
    """Its weights and its optimizer's state are gone without the garbage collector, however it ended."""
    alive, runs, looks = finished(*words)
    assert alive == [] and runs == (3 if "-m" in words else 1)
    # A retry for memory looks for cycles, and so does who waits for another's error in a program.
    assert looks == 0 or {"+model.fault=memory", "+model.most=20", "lr_scale=1,1e39,1"} & set(words)


@pytest.mark.parametrize(
    "words",
    [
        ("regularization=[dropconnect]",),
        ("ensemble=independent", "ensemble.members=2"),
        ("task=lr_range"),
    ],
)
def test_cycles_of_libraries_are_looked_for_where_they_are(finished, words):
    """torch's parametrizations and a drawn picture hold on to a run: it is freed at its end all the same."""
    assert finished("model=mlp", *words)[0] == []


@quick
def test_equal_runs_report_equal_peaks_after_larger_ones_too(tmp_path):
    """Within 5 %, whichever run the process has done before: a wide network and a small one by turns."""
    words = ["-m", "seed=0,1,2", "model=mlp", "model.hidden=[4000,2000],[16]", "name=p", "data.limit=200", "epochs=1"]
    words += ["threads=1", "log.images=0", "log.tensorboard=false", "hydra.launcher.fuse=false"]
    words += ["hydra.launcher.workers=1"]
    subprocess.run([sys.executable, "-m", "runner", *words], cwd=tmp_path, check=True, capture_output=True)
    peaks: dict[str, list[float]] = {}
    for result in results_of(tmp_path / "outputs/p").values():
        peaks.setdefault(str(result["swept"]["model.hidden"]), []).append(result["peak_memory_mb"])
    small, large = sorted(peaks.values())
    assert len(small) == len(large) == 3 and min(large) > 1.2 * max(small)
    assert max(small) < 1.05 * min(small) and max(large) < 1.05 * min(large)


def test_what_a_sweep_over_data_leaves_behind_is_given_up(cli, monkeypatch):
    """Of a sweep over ways to cut the data the last few stay, not all."""
    builders, begin = [], Resources.__init__

    def kept(self):
        begin(self)
        builders.append(self)

    monkeypatch.setattr(Resources, "__init__", kept)
    sizes = ",".join(str(200 + i) for i in range(12))
    words = ("-m", f"data.limit={sizes}", "hydra.launcher.workers=0", "model=mlp", "epochs=1", "log.images=0")
    assert cli(*words, "log.tensorboard=false")[0] == 0
    assert len(results_of(Path("outputs/runs"))) == 12
    assert all(len(builder._data._splits) <= 8 for builder in builders)


def test_recent_keeps_what_was_used_last():
    """The entry that was not used for longest goes first."""
    recent = Recent(2)
    recent["a"], recent["b"] = 1, 2
    assert recent["a"] == 1
    recent["c"] = 3
    assert list(recent) == ["a", "c"]
