"""Builder: builds objects from a checked config."""

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
from runner.model.library_noise import replace_library_noise
from runner.optimizer.param_groups import parameter_groups, scaled
from runner.train.parts import Parts

Rule = Callable[[Context], str | None]  # returns the line that the user sees, or None


class Builder:
    """Builder of all objects of a checked config. It keeps loaded data sets, because runs share them."""

    def __init__(self) -> None:
        self._data = DataSets()

    # -- data ---------------------------------------------------------------------------------------------------

    def splits(self, config: dict[str, Any], device: torch.device | None = None) -> Splits:
        """Return the data of a config, split and normalized; loaded once for all configs that share it."""
        source = config["transfer"].get("weights", "unknown")  # a user's own class may get them elsewhere
        weights = None if source is None else self.transfer(config).weights(config["model"])
        return self._data.of(config, device, weights, functools.partial(self.model, config))

    # -- objects ------------------------------------------------------------------------------------------------

    def model(self, config: dict[str, Any], splits: Splits) -> nn.Module:
        """Return an untrained network for the data, with initial weights drawn from the seed."""
        sizes = {
            "in_channels": splits.channels,
            "num_classes": len(splits.classes),
            "image_size": splits.size,
        }
        node = config["model"]
        parameters = inspect.signature(locate("model", node["_target_"], config["trust"])).parameters
        if not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
            sizes = {key: value for key, value in sizes.items() if key in parameters}
        with torch.random.fork_rng(devices=[]):  # torch draws initial weights from its global CPU generator
            torch.default_generator.manual_seed(config["seed"])
            model = construct("model", node, config["trust"], **sizes)
        if not isinstance(model, nn.Module):
            raise ConfigError(f"model: {node['_target_']} gives a {type(model).__name__}, not a torch.nn.Module")
        return model

    def transfer(self, config: dict[str, Any]) -> Any:
        """Return the transfer option: initial weights, and which of them are trained."""
        return _option(config, "transfer")

    def stack(self, config: dict[str, Any], group: str) -> dict[str, Any]:
        """Return the items of a stack or pipeline by name, in order."""
        return {
            name: construct(f"{group}.{name}", node, config.get("trust", [])) for name, node in config[group].items()
        }

    def ensemble(self, config: dict[str, Any]) -> Any:
        """Return the ensemble option: averages weights of a run, or predictions of several networks."""
        return _option(config, "ensemble")

    def evaluation(self, config: dict[str, Any]) -> Any:
        """Return the evaluation option: computes predictions of a trained network."""
        return _option(config, "evaluation")

    def task(self, config: dict[str, Any]) -> Any:
        """Return the task option: runs the preflight of a config and executes a job."""
        return _option(config, "task")

    def schedule(self, config: dict[str, Any], length: Timeline) -> Any:
        """Return the schedule: the multiplier of the learning rates over a run of this length."""
        return _option(config, "schedule", timeline=length)

    def surface(self, config: dict[str, Any]) -> Any:
        """Return the function of two parameters that `task=surface` minimizes."""
        return _option(config, "surface")

    def optimizer(self, config: dict[str, Any], groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        """Return the optimizer over parameter groups. Learning rates are its own times `lr_scale` times the group's."""
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
        """Build the model, the optimizer and all options of a run.

        rules: if not None, check the combination by them and by every option's `check`. Raises `Refused` with their
            lines.
        """
        model = self.model(config, splits)
        if isinstance(model, Fitted) and device.type != "meta":
            model.fit(sample(splits, model.look_at))
        stack, pipeline = self.stack(config, "regularization"), self.stack(config, "augmentation")
        transfer = self.transfer(config)
        ensemble, evaluation = self.ensemble(config), self.evaluation(config)
        transfer.load(model, config["model"], splits.classes)
        replace_library_noise(model, noise)
        length = timeline(config, len(splits.train))
        schedule = self.schedule(config, length)
        with torch.device(splits.train.labels.device):  # not the meta device of a preflight
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
            options = [*pipeline.values(), schedule, transfer, ensemble, evaluation]
            lines += [line for option in options if (line := option.check(context))]
            lines += [line for rule in rules if (line := rule(context))]
        if lines:
            raise Refused(lines)
        model.to(device)
        # no second group without weight decay, because it would cost time each step
        no_decay = config["optimizer"]["no_decay"] and config["optimizer"].get("weight_decay") != 0
        groups = parameter_groups(model, transfer.rates(model), no_decay, config["optimizer"]["norm_bias_lr_scale"])
        optimizer = self.optimizer(config, groups)
        if rules is not None and isinstance(optimizer, Option) and (line := optimizer.check(context)):
            raise Refused([line])
        return Parts(model, optimizer, schedule, stack, pipeline, transfer, ensemble, evaluation, splits, length)


def _option(config: dict[str, Any], group: str, **arguments: Any) -> Any:
    """Build the option of a group."""
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
    """Return the context of a combination for every option's `check`."""
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
