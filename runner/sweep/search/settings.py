"""What a search may be told: `hydra.sweeper.KEY`, with types, ranges and which goes with which."""

from typing import Annotated, Any, Literal

from omegaconf import DictConfig, OmegaConf
from pydantic import BeforeValidator, Field

from runner.build.complaints import Refused, complaints
from runner.core.errors import ConfigError
from runner.core.schema import Count, Keys, Positive, Text, Whole

PREFIX = "hydra.sweeper."
TRIALS = 20  # of a search that is told no number
# What a run's result can be judged by, and whether more is better. The test split has no part in a decision.
METRICS = {
    "val_accuracy": True,
    "val_loss": False,
    "val_top5_accuracy": True,
    "val_calibration_error": False,
    "seconds": False,
    "parameters": False,
    "peak_memory_mb": False,
}
EACH_EPOCH = ("val_accuracy", "val_loss")  # those that are known while a run goes on


def _several(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


class Settings(Keys):
    """A search: who proposes, by what, and who stops runs early."""

    sampler: Literal["tpe", "random", "grid", "cmaes"]
    n_trials: Positive | None  # in all, earlier commands' included; null: 20, or the whole grid
    pruner: Literal["none", "median", "halving", "hyperband"]
    metric: Annotated[list[Text], BeforeValidator(_several), Field(min_length=1)]
    seed: Annotated[Count, Field(lt=2**63)]  # of the sampler
    startup_trials: Positive | None  # drawn at random before tpe learns (10), done before median prunes (5)
    min_epochs: Positive | None  # that every run is given, whatever the pruner (1)
    reduction_factor: Annotated[Whole, Field(ge=2)] | None  # of the runs of a rung, one in so many goes on

    @property
    def higher(self) -> list[bool]:
        """Of each metric, whether more is better."""
        return [METRICS[name] for name in self.metric]


def settings(master: DictConfig) -> Settings:
    """The search that a command asks for. Raises `ConfigError` for what cannot be, or would be without effect."""
    found = OmegaConf.to_container(master.hydra.sweeper, resolve=True)
    own = {key: found[key] for key in Settings.model_fields}
    if lines := complaints(Settings, own, PREFIX):
        raise Refused(lines)
    search = Settings.model_validate(own)
    if unknown := [name for name in search.metric if name not in METRICS]:
        why = "; the test split has no part in a decision" if unknown[0].startswith("test_") else ""
        raise ConfigError(f"{PREFIX}metric={unknown[0]}: must be of {', '.join(METRICS)}{why}")
    if len(set(search.metric)) < len(search.metric):
        raise ConfigError(f"{PREFIX}metric=[{','.join(search.metric)}]: a metric is named twice")
    _check_pruner(search)
    if search.sampler == "cmaes" and len(search.metric) > 1:
        raise ConfigError(f"{PREFIX}sampler=cmaes: has one objective; name one metric, or use tpe or random")
    if search.startup_trials is not None and search.sampler != "tpe" and search.pruner != "median":
        raise ConfigError(f"{PREFIX}startup_trials: is for sampler=tpe and pruner=median; leave it out")
    return search


def _check_pruner(search: Settings) -> None:
    told = f"{PREFIX}pruner={search.pruner}"
    if search.pruner == "none":
        if search.min_epochs is not None:
            raise ConfigError(f"{PREFIX}min_epochs: there is no pruner; set {PREFIX}pruner=median, or leave it out")
    elif len(search.metric) > 1:
        raise ConfigError(f"{told}: stops runs by one metric, and {len(search.metric)} are named; use pruner=none")
    elif search.metric[0] not in EACH_EPOCH:
        raise ConfigError(
            f"{told}: {search.metric[0]} is not known after each epoch; use pruner=none, "
            f"or metric={' or '.join(EACH_EPOCH)}"
        )
    if search.reduction_factor is not None and search.pruner not in ("halving", "hyperband"):
        raise ConfigError(f"{PREFIX}reduction_factor: is for pruner=halving and hyperband; leave it out")
