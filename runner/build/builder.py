"""From a checked config to objects."""

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from runner.build.arguments import arguments
from runner.build.complaints import Refused
from runner.build.data import DataSets
from runner.core.context import Context
from runner.core.errors import ConfigError
from runner.core.option import Option
from runner.core.startup.torch_compiler import unwrap_optimizers
from runner.core.targets import construct, locate
from runner.core.timeline import Timeline, timeline
from runner.data.normalize import sample
from runner.data.splits import Splits
from runner.model.fitted import Fitted
from runner.model.library_noise import own
from runner.optimizer.param_groups import parameter_groups, scaled
from runner.train.parts import Parts

Rule = Callable[[Context], str | None]  # the line that the user sees, or None


class Builder:
    """Builds what checked configs say; keeps the data, which runs share."""

    def __init__(self) -> None:
        self._data = DataSets()

    # -- data ---------------------------------------------------------------------------------------------------

    def splits(self, config: dict[str, Any], device: torch.device | None = None) -> Splits:
        """Return the data of a config, cut and normalized; loaded once for all configs that share it."""
        source = config["transfer"].get("weights", "asked")  # a class of the user's own may have them elsewhere
        weights = None if source is None else self.transfer(config).weights(config["model"])
        return self._data.of(config, device, weights, functools.partial(self.model, config))

    # -- objects ------------------------------------------------------------------------------------------------

    def model(self, config: dict[str, Any], splits: Splits) -> nn.Module:
        """A fresh network for the data, its weights drawn from the seed."""
        given = {
            "in_channels": splits.channels,
            "num_classes": len(splits.classes),
            "image_size": splits.size,
        }
        node = config["model"]
        takes = inspect.signature(locate("model", node["_target_"], config["trust"])).parameters
        if not any(p.kind is p.VAR_KEYWORD for p in takes.values()):
            given = {key: value for key, value in given.items() if key in takes}
        with torch.random.fork_rng(devices=[]):  # torch draws initial weights from its global generator, on the CPU
            torch.default_generator.manual_seed(config["seed"])
            model = construct("model", node, config["trust"], **given)
        if not isinstance(model, nn.Module):
            raise ConfigError(f"model: {node['_target_']} gives a {type(model).__name__}, not a torch.nn.Module")
        return model

    def transfer(self, config: dict[str, Any]) -> Any:
        """From which weights training starts, and which of them it moves."""
        return _option(config, "transfer")

    def stack(self, config: dict[str, Any], group: str) -> dict[str, Any]:
        """The items of a stack or pipeline, in order."""
        return {
            name: construct(f"{group}.{name}", node, config.get("trust", [])) for name, node in config[group].items()
        }

    def ensemble(self, config: dict[str, Any]) -> Any:
        """What is averaged: weights of a run, or answers of several networks."""
        return _option(config, "ensemble")

    def evaluation(self, config: dict[str, Any]) -> Any:
        """How a trained network is asked."""
        return _option(config, "evaluation")

    def task(self, config: dict[str, Any]) -> Any:
        """What a run does: rehearses a config, executes a job."""
        return _option(config, "task")

    def schedule(self, config: dict[str, Any], length: Timeline) -> Any:
        """The multiplier of the rates over a run of this length."""
        return _option(config, "schedule", timeline=length)

    def surface(self, config: dict[str, Any]) -> Any:
        """The function of the plane that `task=surface` walks on."""
        return _option(config, "surface")

    def optimizer(self, config: dict[str, Any], groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        """The optimizer over parameter groups, whose rates are its own times `lr_scale` times the group's."""
        unwrap_optimizers()
        node = {"_target_": config["optimizer"]["_target_"]} | arguments("optimizer", config["optimizer"])
        node["lr"] = node["lr"] * config["lr_scale"]
        return construct("optimizer", node, config["trust"], params=[scaled(group, node) for group in groups])

    def parts(
        self,
        config: dict[str, Any],
        splits: Splits,
        device: torch.device,
        noise: torch.Generator | None,
        rules: Sequence[Rule] | None = None,
    ) -> Parts:
        """Build everything that a run owns.

        rules: where given, they and every option's `check` are asked about the combination. Raises `Refused` with
            their lines.
        """
        model = self.model(config, splits)
        if isinstance(model, Fitted) and device.type != "meta":
            model.fit(sample(splits, model.look_at))
        stack, pipeline = self.stack(config, "regularization"), self.stack(config, "augmentation")
        transfer = self.transfer(config)
        ensemble, evaluation = self.ensemble(config), self.evaluation(config)
        transfer.load(model, config["model"], splits.classes)
        own(model, noise)
        length = timeline(config, len(splits.train))
        schedule = self.schedule(config, length)
        with torch.device(splits.train.labels.device):  # not the meta device of a rehearsal
            for transform in pipeline.values():
                transform.fit(splits.train, splits.size)
        context = _context(config, model, splits, stack, pipeline, transfer, schedule)
        lines = []
        for item in stack.values():
            if rules is not None and (line := item.check(context)):
                lines.append(line)
            else:
                item.modify(model, noise)
        transfer.prepare(model)
        if rules is not None:
            asked = [*pipeline.values(), schedule, transfer, ensemble, evaluation]
            lines += [line for option in asked if (line := option.check(context))]
            lines += [line for rule in rules if (line := rule(context))]
        if lines:
            raise Refused(lines)
        model.to(device)
        # Without any decay there is nothing to spare vectors from, and a second group would cost time each step.
        spare = config["optimizer"]["no_decay"] and config["optimizer"].get("weight_decay") != 0
        groups = parameter_groups(model, transfer.rates(model), spare, config["optimizer"]["norm_bias_lr_scale"])
        optimizer = self.optimizer(config, groups)
        if rules is not None and isinstance(optimizer, Option) and (line := optimizer.check(context)):
            raise Refused([line])
        return Parts(model, optimizer, schedule, stack, pipeline, transfer, ensemble, evaluation, splits, length)


def _option(config: dict[str, Any], group: str, **arguments: Any) -> Any:
    """Return the object of a group's option."""
    return construct(group, config[group], config.get("trust", []), **arguments)


def _context(
    config: dict[str, Any],
    model: nn.Module,
    splits: Splits,
    stack: dict[str, Any],
    pipeline: dict[str, Any],
    transfer: Any,
    schedule: Any,
) -> Context:
    """Return what an option's `check` is shown of a combination."""
    return Context(
        config=config,
        model=model,
        channels=splits.train.shape[0],
        in_channels=splits.channels,
        stored_size=splits.train.shape[1],
        image_size=splits.size,
        num_classes=len(splits.classes),
        train_size=len(splits.train),
        has_validation=splits.val is not None,
        stack=stack,
        pipeline=pipeline,
        transfer=transfer,
        schedule=schedule,
    )
