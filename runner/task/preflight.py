"""Preflight: build each combination once before anything runs, and collect facts and objections."""

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from runner.build.complaints import Refused
from runner.core.devices import check_device
from runner.core.errors import ConfigError
from runner.core.text import first_line
from runner.data.splits import Splits
from runner.execution.compile import missing_compiler
from runner.execution.cuda_graph.capture import unfit
from runner.execution.features.eligible import refusal
from runner.execution.fused.compatible import structure, unfusable
from runner.model.fitted import Fitted
from runner.task.forward_facts import ForwardFacts, forward_facts
from runner.train.selection import needs_validation

if TYPE_CHECKING:
    from runner.build.builder import Builder
    from runner.train.parts import Parts

SMALL = 1 << 20  # parameters
SMALL_IMAGE = 1 << 14  # values: up to 64 x 64 pixels in color


@dataclass(frozen=True)
class SourceRuns:
    """Origin of evaluated networks: the runs that trained them, all with one config except for the seed."""

    runs: tuple[str, ...]  # names of their folders
    choices: dict[str, Any]  # group -> option, or list of items
    config: dict[str, Any]  # parts that affect the trained networks
    channels: int  # of the images


@dataclass(frozen=True)
class Facts:
    """Facts about a combination from its preflight."""

    parameters: int
    trainable: int
    identity: str  # hash of the data's contents
    train_size: int
    steps: int
    flops: int = 0  # of one image's forward pass
    step_flops: int = 0  # the part that a training step computes: with cached features, from the cut on
    skipped: int = 0  # images that could not be read
    stages: tuple[Any, ...] = ()  # plan for each stage (`runner.transfer.finetune.StageRow`)
    weights: str = ""  # origin of pretrained weights, and those that did not fit
    network: str = ""  # hash of its structure
    members: int = 1  # runs of an ensemble, side by side
    apart: str = ""  # reason why it cannot share a program with other runs; empty if it can
    mixing: tuple[str, ...] = ()  # regularization items that mix images or targets
    modifying: tuple[str, ...] = ()  # regularization items that change the network and may add noise
    channels: int | None = None  # of the images
    origins: tuple[SourceRuns, ...] = ()  # of the networks in a checkpoint


class Preflights:
    """Preflights by a builder; combinations that differ only in irrelevant keys share one."""

    def __init__(self, resources: "Builder"):
        self._resources = resources
        self._known: dict[str, Facts] = {}
        self._forward: dict[str, ForwardFacts] = {}

    def of(self, config: dict[str, Any]) -> Facts:
        """Return the facts about a checked config; build its objects without training. Raises `ConfigError`."""
        device = check_device(config)
        if config["compile"] is True and (missing := missing_compiler(device)):
            raise ConfigError(f"compile=true: {missing}; install it, or use compile=auto")
        if config["cuda_graph"] is True and device.type != "cuda":
            raise ConfigError(
                f"cuda_graph=true: device={config['device']} is no CUDA device here ({device}); use cuda_graph=auto"
            )
        splits = self._resources.splits(config)
        if config["batch_size"] > len(splits.train) and not config["optimizer"]["full_batch"]:
            raise ConfigError(
                f"batch_size={config['batch_size']}: larger than the training split of {len(splits.train)} images; "
                f"use batch_size={len(splits.train)} or less"
            )
        if config["accumulate"] > config["batch_size"]:
            raise ConfigError(
                f"accumulate={config['accumulate']}: more micro-batches than images (batch_size={config['batch_size']})"
            )
        if splits.val is None:
            lines = [
                f"{key}={value} needs validation data, and data.val_fraction is 0"
                for key, value, is_needed in (
                    (
                        "checkpoint.select",
                        config["checkpoint"]["select"],
                        needs_validation(config),
                    ),
                    (
                        "early_stopping.patience",
                        config["early_stopping"]["patience"],
                        config["early_stopping"]["patience"],
                    ),
                )
                if is_needed
            ]
            if lines:
                raise Refused(lines)
        irrelevant = {"seed", "name", "log", "probe", "checkpoint", "dry_run", "rerun", "early_stopping"}
        key = json.dumps({k: v for k, v in config.items() if k not in irrelevant}, sort_keys=True) + splits.identity
        if key not in self._known:
            self._known[key] = self._build(config, splits)
        return self._known[key]

    def _build(self, config: dict[str, Any], splits: Splits) -> Facts:
        try:
            try:
                with torch.device("meta"):
                    parts = self._resources.parts(config, splits, torch.device("meta"), None, rules=(refusal,))
                forward = self._forward_facts(config, parts, splits)
            except (NotImplementedError, RuntimeError):  # the model may need real numbers
                parts = self._resources.parts(config, splits, torch.device("cpu"), torch.Generator(), rules=(refusal,))
                forward = self._forward_facts(config, parts, splits)
        except (
            ValueError,
            TypeError,
            RuntimeError,
        ) as error:  # errors of torch, such as shapes that do not fit
            raise ConfigError(f"this combination cannot be built: {first_line(error)}") from error
        if forward.logits_shape != (2, len(splits.classes)):
            wanted = (2, len(splits.classes))
            raise ConfigError(f"model: gives {forward.logits_shape} for 2 images, not {wanted}, a logit for each class")
        if config["cuda_graph"] is True and (reason := unfit(parts.optimizer, config)):
            raise ConfigError(f"cuda_graph=true: {reason}; use cuda_graph=auto")
        rows = parts.transfer.table(parts.model)
        weights = parts.transfer.weights(config["model"])
        return Facts(
            parameters=sum(row.parameters for row in rows),
            trainable=sum(row.trainable for row in rows),
            identity=splits.identity if weights is None else f"{splits.identity} from {weights.digest}",
            stages=tuple(rows),
            weights="" if parts.transfer.audit is None else parts.transfer.audit.line,
            train_size=len(splits.train),
            steps=parts.timeline.steps,
            flops=forward.flops,
            step_flops=forward.step_flops,
            skipped=len(splits.skipped),
            network=f"{structure(parts.model)} {forward.cut}",
            members=parts.ensemble.count,
            apart=unfusable(parts, config),
            mixing=_with_hook(parts.stack, "mix"),
            modifying=_with_hook(parts.stack, "modify"),
            channels=splits.train.shape[0],
        )

    def _forward_facts(self, config: dict[str, Any], parts: "Parts", splits: Splits) -> ForwardFacts:
        """Return the facts of a forward pass; combinations with equal networks share them."""
        about = {key: config[key] for key in ("model", "regularization", "augmentation", "transfer", "compile")}
        about["images"] = splits.channels, splits.size, splits.identity
        key = json.dumps(about, sort_keys=True)
        if key not in self._forward:
            device = next(parts.model.parameters()).device
            if device.type == "meta" and _small(parts.model, splits):
                device = torch.device("cpu")
                parts = self._resources.parts(config, splits, device, torch.Generator())
            with device:
                self._forward[key] = forward_facts(config, parts, splits)
        return self._forward[key]


def _small(model: nn.Module, splits: Splits) -> bool:
    """Return whether a forward pass with real numbers takes milliseconds."""
    # because on the meta device torch loads its compiler, which takes a second
    few = sum(p.numel() for p in model.parameters()) < SMALL and splits.channels * splits.size**2 < SMALL_IMAGE
    return few and not isinstance(model, Fitted)


def _with_hook(stack: dict[str, Any], hook: str) -> tuple[str, ...]:
    """Return the items of a stack that override a hook."""
    return tuple(name for name, item in stack.items() if item.overrides(hook))
