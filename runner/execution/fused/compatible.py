"""Compatibility of runs that may share a program."""

import hashlib
from typing import TYPE_CHECKING, Any

from torch import nn

from runner.execution.fused.slot import batches_key
from runner.model.noise import Noise, noisy
from runner.optimizer.base import needs_closure
from runner.transfer.published import transforms_input

if TYPE_CHECKING:
    from runner.train.parts import Parts
    from runner.train.state import TrainState


def unfusable(parts: "Parts", config: dict[str, Any]) -> str:
    """Return why a run cannot share a program with any other; empty if it can."""
    if needs_closure(parts.optimizer):
        return f"optimizer: {type(parts.optimizer).__name__} looks at the loss more than once a step"
    if config["precision"] == "fp16":
        return "precision=fp16: each run scales its loss by itself"
    if config["compile"] is True:
        return "compile=true: a run's own network is compiled"
    if parts.transfer.every:
        return f"transfer.unfreeze.every={parts.transfer.every}: runs would train different stages"
    if layers := [layer for layer in noisy(parts.model) if not isinstance(layer, Noise)]:
        return f"model: its {type(layers[0]).__name__} draws from torch's global generator"
    return ""


def refusal(run: "TrainState") -> str:
    """Return why a run that is ready to train cannot share a program; empty if it can."""
    if run.team is not None:
        return "torchrun: several processes share this run"
    return unfusable(run.parts, run.config)


def structure(model: nn.Module) -> str:
    """Return a hash of a network's module types, the shapes of its weights and buffers, and `requires_grad`."""
    modules = [(path, type(module).__name__) for path, module in model.named_modules()]
    weights = [(name, tuple(p.shape), p.requires_grad) for name, p in model.named_parameters()]
    buffers = [(name, tuple(buffer.shape)) for name, buffer in model.named_buffers()]
    return hashlib.sha256(repr((modules, weights, buffers)).encode()).hexdigest()


def compatibility_key(run: "TrainState") -> str:
    """Return a key; runs that share a program have equal keys and equal network structure."""
    images = len(run.normalize.mean), run.normalize.size, run.num_classes, transforms_input(run.model)
    origin = None if run.features is None else run.features.origin
    return repr((run.batch_size, run.accumulate, run.precision, str(run.device), run.memory_format, images, origin))


def same_batches(runs: list["TrainState"]) -> dict[int, int]:
    """Map each run's id to the number of its set; runs of a set have equal batches at equal steps."""
    numbers: dict[Any, int] = {}
    set_of = {}
    for run in runs:
        mixers = {id(item) for item in run.mixers}
        mixing = [name for name, item in run.parts.stack.items() if id(item) in mixers]
        draws = bytes(run.augmenting.get_state().cpu().numpy())
        statistics = run.normalize.mean.flatten().tolist(), run.normalize.std.flatten().tolist()
        key = id(run.train_split), repr(statistics), batches_key(run.config, mixing), draws
        set_of[id(run)] = numbers.setdefault(key, len(numbers))
    return set_of
