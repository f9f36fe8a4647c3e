"""Transfer learning: initial weights, frozen stages, and their learning rates (Yosinski et al. 2014)."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict
from torch import nn

from runner.core.context import Context
from runner.core.errors import ConfigError
from runner.core.option import Option
from runner.core.schema import Factor, Positive, Rate, Whole
from runner.core.text import few
from runner.model.stages import raw_name, stage_parameters, stages
from runner.model.train_mode import set_mode
from runner.transfer.published import set_transform_input
from runner.transfer.read_weights import read
from runner.transfer.weights import Audit, Weights, fit, fit_rest, stem_channels

log = logging.getLogger(__name__)

NORMS = (nn.modules.batchnorm._NormBase,)  # layers with running statistics


class Unfreeze(BaseModel):
    """Gradual unfreezing. every: epochs after which one more stage trains, the last frozen one first; null: never."""

    model_config = ConfigDict(extra="forbid")
    every: Positive | None = None


@dataclass(frozen=True)
class StageRow:
    """Row of the stage table: how training treats a stage."""

    stage: str
    parameters: int
    trainable: int
    rate: float | None  # multiplier of the optimizer's rate; None if nothing trains
    norm: str  # eval | train | -


class Finetune(Option):
    """Fine-tuning: `transfer=full` and its presets.

    weights: null (random), default or a name of torchvision's weights, a file (.pth, .safetensors), or the folder of
        a finished run.
    freeze_depth: number of frozen stages from the input: 0, k, or `all` (all but the head). A negative -k: all but
        the last k.
    frozen_norm: eval: batch norms of frozen stages keep their running statistics; train: they update them.
    pretrained_lr_scale: multiplies the rate of stages with loaded weights (of the head: only if all of it is loaded).
    head_lr_scale: multiplies the rate of the head.
    layer_decay: factor of the rate from each stage to the one before it (Clark et al. 2020, section 3 of ELECTRA's
        appendix; Howard & Ruder 2018).
    unfreeze: gradual unfreezing (Howard & Ruder 2018, section 3.3).
    cache: cache the features of frozen stages (`runner.execution.features.cache`); auto: where that is possible.
    """

    loads = True

    def __init__(
        self,
        weights: str | None = None,
        freeze_depth: Whole | Literal["all"] = 0,
        frozen_norm: Literal["eval", "train"] = "eval",
        pretrained_lr_scale: Rate = 1.0,
        layer_decay: Factor = 1.0,
        head_lr_scale: Rate = 1.0,
        unfreeze: Unfreeze | None = None,
        cache: bool | Literal["auto"] = "auto",
    ):
        self.source = weights if self.loads else None
        self.freeze_depth, self.frozen_norm = freeze_depth, frozen_norm
        self.pretrained, self.decay, self.head = pretrained_lr_scale, layer_decay, head_lr_scale
        self.cache = cache
        self.every = Unfreeze.model_validate(unfreeze or {}).every
        self.audit: Audit | None = None
        self._remaining: Weights | None = None  # for tensors that regularization items add
        self._fixed: set[str] = set()  # parameters that the network itself freezes
        # Cache of `train_mode`: the model, its number of unfrozen stages, the norms of its frozen stages.
        self._frozen_norms: tuple[nn.Module | None, int, list[nn.Module]] = None, 0, []
        if self.every and freeze_depth == 0:
            raise ConfigError(
                f"transfer.unfreeze.every={self.every}: nothing is frozen; set transfer.freeze_depth (all, or a number "
                "of stages)"
            )

    def check(self, context: Context) -> str | None:
        if self.depth(context.model) and self.source is None:
            log.warning(
                "transfer.freeze_depth=%s without transfer.weights: the frozen stages are random", self.freeze_depth
            )
        elif new := self._new_and_frozen(context.model):
            log.warning("transfer.freeze_depth=%s: frozen, but not in the weights: %s", self.freeze_depth, few(new))
        if self.every and context.config["optimizer"]["full_batch"]:
            return (
                f"transfer.unfreeze.every={self.every}: a full-batch optimizer moves all parameters as one; use a "
                "mini-batch optimizer, or transfer.unfreeze.every=null"
            )
        return None

    def weights(self, model_node: Mapping[str, Any]) -> Weights | None:
        """Return the initial weights, or None for random ones."""
        return None if self.source is None else read(self.source, model_node)

    def load(self, model: nn.Module, model_node: Mapping[str, Any], classes: tuple[str, ...]) -> None:
        """Load the weights, before regularization items change the network."""
        weights = self._remaining = self.weights(model_node)
        if weights is not None:
            head = {name for name, _ in stage_parameters(model)[-1][1]}
            self.audit = fit(model, weights, classes, head)
            set_transform_input(model, weights.transform_input and stem_channels(model, weights) == 3)

    def depth(self, model: nn.Module) -> int:
        """Return the number of stages frozen at the start. Raises ConfigError for an invalid `freeze_depth`."""
        names = [name for name, _ in stages(model)]
        last = len(names) - 1
        depth = last if self.freeze_depth == "all" else self.freeze_depth
        depth = depth + len(names) if depth < 0 else depth
        if not 0 <= depth <= last:
            raise ConfigError(
                f"transfer.freeze_depth={self.freeze_depth}: {type(model).__name__} has the {len(names)} stages "
                f"{', '.join(names)}, and one has to train: 0 to {last}, or all"
            )
        return depth

    def frozen(self, model: nn.Module, epoch: int = 0) -> int:
        """Return the number of frozen stages in an epoch, counted from 0."""
        depth = self.depth(model)
        return max(0, depth - epoch // self.every) if self.every else depth

    def prepare(self, model: nn.Module) -> None:
        """Load the rest of the weights, and freeze the parameters that never train.

        Called after the regularization items have changed the network, and before the optimizer is built.
        """
        if self._remaining is not None:
            fit_rest(model, self._remaining, self.audit)
            self._remaining = None
        self._fixed = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
        if not self.every:
            self.thaw(model, 0)

    def thaw(self, model: nn.Module, epoch: int) -> None:
        """Set `requires_grad` for this epoch. Frozen parameters get no gradient, so optimizers skip them."""
        if epoch and not self.every:
            return  # the same as in the first epoch
        frozen = self.frozen(model, epoch)
        for number, (_, named) in enumerate(stage_parameters(model)):
            for name, parameter in named:
                parameter.requires_grad_(number >= frozen and name not in self._fixed)

    def train_mode(self, model: nn.Module, epoch: int) -> None:
        """Set training mode, except for the norms of frozen stages."""
        set_mode(model, training=True)
        if self.frozen_norm == "eval":
            unfrozen = epoch // self.every if self.every else 0
            # Cached, because the search takes longer than a small step.
            if self._frozen_norms[0] is not model or self._frozen_norms[1] != unfrozen:
                self._frozen_norms = model, unfrozen, self._norms(model, self.frozen(model, epoch))
            for norm in self._frozen_norms[2]:
                norm.eval()

    def _new_and_frozen(self, model: nn.Module) -> list[str]:
        """Return the names of parameters that are frozen at the start but were not loaded."""
        loaded = set() if self.audit is None else self.audit.loaded
        frozen = stage_parameters(model)[: self.depth(model)]
        return [name for _, named in frozen for name, _ in named if raw_name(name) not in loaded]

    def _norms(self, model: nn.Module, frozen: int) -> list[nn.Module]:
        parts = (part for _, modules in stages(model)[:frozen] for module in modules for part in module.modules())
        return [part for part in parts if isinstance(part, NORMS)]

    def rates(self, model: nn.Module) -> dict[str, float]:
        """Return stage -> multiplier of the learning rate."""
        by_stage = stage_parameters(model)
        loaded = set() if self.audit is None else self.audit.loaded
        result = {}
        for number, (stage, named) in enumerate(by_stage):
            rate = self.decay ** (len(by_stage) - 1 - number)
            is_head = number == len(by_stage) - 1
            is_loaded = [raw_name(name) in loaded for name, _ in named]
            if all(is_loaded) if is_head else any(is_loaded):  # a head with only a loaded norm counts as new
                rate *= self.pretrained
            result[stage] = rate * self.head if is_head else rate
        return result

    def table(self, model: nn.Module) -> list[StageRow]:
        """Return the stage table: sizes, rates, and the mode of norms."""
        frozen, rates = self.frozen(model), self.rates(model)
        rows = []
        for number, ((stage, named), (_, modules)) in enumerate(zip(stage_parameters(model), stages(model))):
            sizes = {name: parameter.numel() for name, parameter in named}
            is_frozen = number < frozen
            trainable = 0 if is_frozen else sum(size for name, size in sizes.items() if name not in self._fixed)
            has_norms = any(isinstance(part, NORMS) for module in modules for part in module.modules())
            norm = "-" if not has_norms else self.frozen_norm if is_frozen else "train"
            rows.append(StageRow(stage, sum(sizes.values()), trainable, None if is_frozen else rates[stage], norm))
        return rows

    def seal(self, model: nn.Module, epochs: int) -> dict[str, torch.Tensor]:
        """Return copies of all tensors that must not change in a run of `epochs` epochs."""
        frozen = self.frozen(model, max(0, epochs - 1))
        names = {name for _, named in stage_parameters(model)[:frozen] for name, _ in named}
        if self.frozen_norm == "eval":
            frozen_norms = {id(norm) for norm in self._norms(model, frozen)}
            names |= {
                f"{path}.{name}" if path else name
                for path, module in model.named_modules()
                if id(module) in frozen_norms
                for name, _ in module.named_buffers(recurse=False)
            }
        return {name: value.detach().clone() for name, value in model.state_dict().items() if name in names}


def broken_seals(model: nn.Module, sealed: Mapping[str, torch.Tensor]) -> list[str]:
    """Return the names of sealed tensors that have changed in any bit."""
    state = model.state_dict()
    return [name for name, value in sealed.items() if not torch.equal(state[name], value)]


class Scratch(Finetune):
    """Training from random weights (`transfer=scratch`). Ignores `weights`, so that a sweep can set it for all."""

    loads = False
