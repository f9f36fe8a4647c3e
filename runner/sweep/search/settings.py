"""Settings of a search, `hydra.sweeper.KEY`: types, ranges and combinations that are refused."""

from typing import Annotated, Any, Literal

from omegaconf import DictConfig, OmegaConf
from pydantic import BeforeValidator, Field

from runner.build.complaints import Refused, complaints
from runner.core.errors import ConfigError
from runner.core.schema import Count, Keys, Positive, Text, Whole

PREFIX = "hydra.sweeper."
TRIALS = 20  # default of n_trials
# Metrics of a run's result -> higher is better. Metrics of the test split are excluded, because a search selects.
METRICS = {
    "val_accuracy": True,
    "val_loss": False,
    "val_top5_accuracy": True,
    "val_calibration_error": False,
    "seconds": False,
    "parameters": False,
    "peak_memory_mb": False,
}
EACH_EPOCH = ("val_accuracy", "val_loss")  # metrics known after each epoch


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


class Settings(Keys):
    """Settings of a search: sampler, metrics and pruner."""

    sampler: Literal["tpe", "random", "grid", "cmaes"]
    n_trials: Positive | None  # total, including earlier commands; null: 20, or the whole grid
    pruner: Literal["none", "median", "halving", "hyperband"]
    metric: Annotated[list[Text], BeforeValidator(_as_list), Field(min_length=1)]
    seed: Annotated[Count, Field(lt=2**63)]  # of the sampler
    startup_trials: Positive | None  # random trials before tpe learns (10), finished ones before median prunes (5)
    min_epochs: Positive | None  # epochs before any run may be pruned (1)
    reduction_factor: Annotated[Whole, Field(ge=2)] | None  # one run in N is promoted from a rung

    @property
    def higher(self) -> list[bool]:
        """True for each metric of which a higher value is better."""
        return [METRICS[name] for name in self.metric]


def settings(master: DictConfig) -> Settings:
    """Return the settings of a command. Raises `ConfigError` for invalid values and for keys without effect."""
    values = OmegaConf.to_container(master.hydra.sweeper, resolve=True)
    fields = {key: values[key] for key in Settings.model_fields}
    if lines := complaints(Settings, fields, PREFIX):
        raise Refused(lines)
    search = Settings.model_validate(fields)
    if unknown := [name for name in search.metric if name not in METRICS]:
        hint = "; the test split has no part in a decision" if unknown[0].startswith("test_") else ""
        raise ConfigError(f"{PREFIX}metric={unknown[0]}: must be of {', '.join(METRICS)}{hint}")
    if len(set(search.metric)) < len(search.metric):
        raise ConfigError(f"{PREFIX}metric=[{','.join(search.metric)}]: a metric is named twice")
    _check_pruner(search)
    if search.sampler == "cmaes" and len(search.metric) > 1:
        raise ConfigError(f"{PREFIX}sampler=cmaes: has one objective; name one metric, or use tpe or random")
    if search.startup_trials is not None and search.sampler != "tpe" and search.pruner != "median":
        raise ConfigError(f"{PREFIX}startup_trials: is for sampler=tpe and pruner=median; leave it out")
    return search


def _check_pruner(search: Settings) -> None:
    key = f"{PREFIX}pruner={search.pruner}"
    if search.pruner == "none":
        if search.min_epochs is not None:
            raise ConfigError(f"{PREFIX}min_epochs: there is no pruner; set {PREFIX}pruner=median, or leave it out")
    elif len(search.metric) > 1:
        raise ConfigError(f"{key}: stops runs by one metric, and {len(search.metric)} are named; use pruner=none")
    elif search.metric[0] not in EACH_EPOCH:
        raise ConfigError(
            f"{key}: {search.metric[0]} is not known after each epoch; use pruner=none, "
            f"or metric={' or '.join(EACH_EPOCH)}"
        )
    if search.reduction_factor is not None and search.pruner not in ("halving", "hyperband"):
        raise ConfigError(f"{PREFIX}reduction_factor: is for pruner=halving and hyperband; leave it out")
