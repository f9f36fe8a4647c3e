"""Schema of a config: type, unit and range of every key. The defaults are in `conf/`.

`Config` types the top of the tree; `GROUPS` types the keys that the options of one group share. Any other key of an
option's YAML is an argument of its `_target_`: `runner.build.arguments` checks it against the target's signature.
Importing this module imports no torch.
"""

import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

PRECISIONS = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}  # of the forward pass -> torch's names
DEVICE = re.compile(r"auto|cpu|mps|cuda(:\d+)?")


def _text(value: Any) -> Any:
    """Return a number that YAML made of a name (`name=2024`) as text again."""
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


def _number(value: Any) -> Any:
    """Return a value that is no boolean, which Python counts as a number. Raises `ValueError`."""
    if isinstance(value, bool):
        raise ValueError(f"must be a number, not {str(value).lower()}")
    return value


def _device(value: Any) -> Any:
    if not DEVICE.fullmatch(str(value)):
        raise ValueError("must be auto, cpu, cuda, cuda:N or mps")
    return value


def _name(value: Any) -> Any:
    if not re.fullmatch(r"[\w.+=-]+(/[\w.+=-]+)*", str(value)) or ".." in str(value):
        raise ValueError("must be a folder name: letters, digits and . _ - + = (a / nests it)")
    return value


Text = Annotated[str, BeforeValidator(_text)]
Whole = Annotated[int, BeforeValidator(_number)]
Real = Annotated[float, BeforeValidator(_number), Field(allow_inf_nan=False)]
Positive = Annotated[Whole, Field(ge=1)]
Count = Annotated[Whole, Field(ge=0)]
Rate = Annotated[Real, Field(gt=0)]
NonNegative = Annotated[Real, Field(ge=0)]
Below1 = Annotated[Real, Field(ge=0, lt=1)]
Fraction = Annotated[Real, Field(ge=0, le=1)]
Factor = Annotated[Real, Field(gt=0, le=1)]
AutoOr = Literal["auto"]
Average = Literal["probabilities", "logits"]  # what is averaged over the members of an ensemble


class Keys(BaseModel):
    """Part of the config with a fixed set of keys."""

    model_config = ConfigDict(extra="forbid")


class OptionKeys(BaseModel):
    """Keys that a group's options share; further keys are arguments of the option's target."""

    model_config = ConfigDict(extra="allow")


class EarlyStopping(Keys):
    patience: Positive | None  # epochs without improvement; null: train to the end
    metric: Literal["val_loss", "val_accuracy"]
    min_delta: NonNegative  # smaller changes do not count as improvement


class Checkpoint(Keys):
    select: Literal["auto", "best", "last"]  # which weights are tested: `runner.train.selection`
    metric: Literal["val_loss", "val_accuracy"]  # that `select=best` compares
    seconds: NonNegative  # the least time between two saves


class ProbeKeys(Keys):
    every: Count  # steps between two probes of gradients and updates, by stage; 0: never
    curvature_every: Count  # epochs between two estimates of the Hessian's extreme eigenvalues; 0: never


class Log(Keys):
    every: Positive  # steps between two lines of training metrics; the host waits for the device there
    tensorboard: bool
    images: Count  # images in the picture of the first batch; 0: none
    patch: bool  # keep uncommitted changes of the repositories beside the runs


def _groups(value: Any) -> Any:
    """Return a list of groups; a single group may be typed without the outer brackets."""
    flat = isinstance(value, list) and value and not any(isinstance(item, list) for item in value)
    return [value] if flat else value


def _conditions(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


class OutOfMemory(Keys):
    allow_batchnorm: bool  # smaller micro-batches also where batch norm then sees fewer images


class SweepKeys(Keys):
    zip: Annotated[list[list[Text]], BeforeValidator(_groups)]  # groups of swept keys that vary together
    exclude: Annotated[list[Text], BeforeValidator(_conditions)]  # conditions for combinations to leave out
    repeat: Positive  # seeds a combination: `seed`, `seed` + 1, ...
    probe: bool  # measure a few steps of each distinct program in a dry run


class Config(Keys):
    name: Annotated[Text, BeforeValidator(_name)]  # folder of the sweep below outputs/
    seed: Annotated[Count, Field(lt=2**63)]
    epochs: Positive  # passes over the training split
    batch_size: Positive  # images a step
    lr_scale: Rate  # multiplies the optimizer's learning rate
    device: Annotated[str, BeforeValidator(_device)]
    precision: Literal["auto", "fp32", "bf16", "fp16"]
    threads: AutoOr | Positive  # of the CPU
    channels_last: AutoOr | bool
    compile: AutoOr | bool
    cuda_graph: AutoOr | bool
    deterministic: bool
    accumulate: Positive  # micro-batches into which a batch is split; the gradient is that of the whole batch
    clip_grad_norm: Rate | None
    early_stopping: EarlyStopping
    checkpoint: Checkpoint
    probe: ProbeKeys
    log: Log
    sweep: SweepKeys
    oom: OutOfMemory
    trust: list[Text]  # packages whose classes a config may name in `_target_`
    dry_run: bool
    rerun: bool
    data: dict[str, Any]
    model: dict[str, Any]
    optimizer: dict[str, Any]
    regularization: dict[str, Any]
    augmentation: dict[str, Any]
    schedule: dict[str, Any]
    transfer: dict[str, Any]
    ensemble: dict[str, Any]
    evaluation: dict[str, Any]
    task: dict[str, Any]
    surface: dict[str, Any]


class Data(OptionKeys):
    root: Text | None = None  # folder or file
    download: bool = False
    val_fraction: Below1 = 0.1  # of the training images
    split_seed: Count = 0
    limit: Positive | None = None  # training and validation images together
    per_class: Positive | None = None
    classes: list[Whole | Real | str] | None = None
    resize: AutoOr | Positive = "auto"  # pixels of the shorter side
    size: AutoOr | Positive = "auto"  # pixels of the side that enters the network
    resident: AutoOr | bool = "auto"
    budget_gb: Rate | None = None
    workers: AutoOr | Count = "auto"
    on_corrupt: Literal["error", "skip"] = "error"
    cache_dir: Text | None = None


class Optimizer(OptionKeys):
    """Keys of optimizers: the first three are the runner's, the others are arguments of torch's classes."""

    no_decay: bool = True  # no weight decay on biases, norms and other vectors
    norm_bias_lr_scale: Rate = 1.0  # multiplies the learning rate of norms' biases, not their weight decay
    full_batch: bool = False  # each step sees the whole training split, in chunks; an epoch is one step
    lr: Rate = Field(default=None, validate_default=False)  # may be missing, not null
    momentum: Below1 | None = None
    dampening: Fraction | None = None
    betas: tuple[Below1, Below1] | None = None
    alpha: Below1 | None = None  # decay of a running average
    rho: NonNegative | None = None
    eps: NonNegative | None = None
    weight_decay: NonNegative | None = None
    damping: Rate | None = None
    max_iter: Positive | None = None  # iterations of one step
    max_cg: Positive | None = None
    history_size: Positive | None = None
    tolerance_grad: NonNegative | None = None
    tolerance_change: NonNegative | None = None
    max_gb: Rate | None = None  # of memory
    base: "Optimizer | None" = None  # the optimizer that this one wraps


GROUPS: dict[str, type[OptionKeys]] = {"data": Data, "optimizer": Optimizer}
STACKS = ("regularization", "augmentation")  # mappings name -> item, in order
OWN_KEYS = {
    "data": frozenset(Data.model_fields),
    "optimizer": frozenset({"no_decay", "norm_bias_lr_scale", "full_batch"}),
}

# Keys that change a result by rounding at most, or that name a place: they are no part of a run's fingerprint.
# The contents of data and weight files are part of it, in place of their paths.
NOT_IDENTITY = frozenset(
    {
        *("name", "trust", "dry_run", "rerun", "log", "probe", "sweep", "oom", "checkpoint.seconds"),
        *("device", "threads", "channels_last", "compile", "cuda_graph", "deterministic"),
        *("transfer.weights", "transfer.cache"),
        *("data.root", "data.download", "data.resident", "data.budget_gb", "data.workers", "data.cache_dir"),
    }
)
# Groups that only act on a trained network: changing them never trains it again.
EVALUATION = frozenset({"evaluation"})
