"""Saved train states: enough to go on as if nothing had happened."""

import pytest
import torch

from runner.execution.eager import EagerProgram
from runner.store import checkpoint
from runner.train.loop import train
from tests.shared.training import make, numbers, weights

RICH = (
    "regularization=[dropout,l2,label_smoothing]",
    "augmentation=[flip,crop]",
    "schedule=cosine",
    "schedule.warmup=1",
    "checkpoint.select=best",
    "epochs=4",
    "log.every=2",
)


@pytest.mark.parametrize("optimizer", ["momentum", "adam"])
@pytest.mark.parametrize("at", [2, 3, 5, 9])
def test_goes_on_bit_for_bit(tmp_path, optimizer, at):
    """A run saved after step 2, 3, 5 or 9 (of 3 an epoch) and loaded by a new one ends with the same bits."""
    words = (*RICH, f"optimizer={optimizer}", "optimizer.lr=0.01", "checkpoint.select=best")
    path = tmp_path / checkpoint.FILE

    def save(run):
        if run.progress.step == at:
            checkpoint.save(path, run.state_dict())

    torch.manual_seed(7)
    whole = make(*words)
    whole.on_pause = save
    train([whole], EagerProgram())

    torch.manual_seed(8)
    resumed = make(*words)
    resumed.load_state_dict(checkpoint.load(path))
    assert resumed.progress.step == at
    lines = []
    resumed.on_log = lambda step, scalars: lines.append(step)
    train([resumed], EagerProgram())
    assert lines[0] > at
    assert torch.equal(weights(resumed), weights(whole))
    assert numbers(resumed.progress.history) == numbers(whole.progress.history)
    assert resumed.progress.best["epoch"] == whole.progress.best["epoch"]
    assert all(torch.equal(v, whole.progress.best_weights[k]) for k, v in resumed.progress.best_weights.items())
    assert torch.equal(resumed.noise.get_state(), whole.noise.get_state())
    assert torch.equal(resumed.augmenting.get_state(), whole.augmenting.get_state())


def test_each_part_of_the_state_is_needed(tmp_path):
    """Left as a new run has them, the generators or the optimizer's memory would change what comes after."""
    words = (*RICH, "optimizer=momentum")
    path = tmp_path / checkpoint.FILE
    whole = make(*words)
    whole.on_pause = lambda run: checkpoint.save(path, run.state_dict()) if run.progress.step == 5 else None
    train([whole], EagerProgram())
    for part in ("noise", "augmentation", "optimizer", "model"):
        state, new = checkpoint.load(path), make(*words)
        fresh = new.state_dict()
        if part in state["generators"]:
            state["generators"][part] = fresh["generators"][part]
        else:
            state[part] = fresh[part]
        new.load_state_dict(state)
        train([new], EagerProgram())
        assert not torch.equal(weights(new), weights(whole)), part


def test_patience_goes_on(tmp_path):
    """Epochs waited and the best value watched survive, so that a resumed run stops when it would have stopped."""
    words = ("epochs=6", "early_stopping.patience=2", "early_stopping.min_delta=100")
    path = tmp_path / checkpoint.FILE
    whole = make(*words)
    whole.on_pause = lambda run: checkpoint.save(path, run.state_dict()) if run.progress.step == 6 else None
    train([whole], EagerProgram())
    resumed = make(*words)
    resumed.load_state_dict(checkpoint.load(path))
    train([resumed], EagerProgram())
    assert whole.progress.step == resumed.progress.step == 9


def test_seconds_add_up(tmp_path):
    """Time trained before counts on in the process that goes on."""
    run, path = make(), tmp_path / checkpoint.FILE
    run.progress.seconds = 100.0
    checkpoint.save(path, run.state_dict())
    resumed = make()
    resumed.load_state_dict(checkpoint.load(path))
    assert 100 < resumed.seconds() < 110


def test_global_noise_goes_on(tmp_path):
    """Layers of libraries, which draw from torch's own generator, go on with the same draws."""
    run, path = make(), tmp_path / checkpoint.FILE
    torch.manual_seed(3)
    checkpoint.save(path, run.state_dict())
    expected = torch.rand(3)
    torch.manual_seed(4)
    make().load_state_dict(checkpoint.load(path))
    assert torch.equal(torch.rand(3), expected)
