"""Configs composed from conf/, and the options there."""

import copy
import functools

from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from runner.core.schema import STACKS, Config
from tests.shared.paths import ROOT

CONF = ROOT / "conf"
OPTIONS = sorted(path.relative_to(CONF).with_suffix("").as_posix() for path in CONF.rglob("*.yaml"))
OPTIONS.remove("config")

# Of the stacks' groups, lists of items have no target of their own.
PRESETS = [
    option
    for option in OPTIONS
    if option.partition("/")[0] in STACKS and "_target_" not in OmegaConf.load(CONF / f"{option}.yaml")
]
GROUP_OPTIONS = [
    option for option in OPTIONS if option.partition("/")[0] in Config.model_fields and option not in PRESETS
]

# Keys that an option leaves to its user.
REQUIRED = {
    "model/torchvision": ("model.name=regnet_y_400mf",),
    "model/custom": ("model._target_=torch.nn.Identity",),
    "optimizer/library": ("optimizer.name=Ranger21",),
    "augmentation/torchvision": ("augmentation.torchvision.name=RandomInvert",),
}


@functools.cache
def _composed(*overrides: str) -> dict:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return OmegaConf.to_container(compose("config", overrides=list(overrides)), resolve=True)


def composed(*overrides: str) -> dict:
    """The config as typed, unchecked."""
    return copy.deepcopy(_composed(*overrides))


def split(option: str) -> tuple[str, str]:
    """Group and name: experiments may lie in folders, Hydra's groups have two words."""
    return option.rsplit("/", 1) if option.startswith("hydra/") else option.split("/", 1)


def yaml_of(option: str) -> dict:
    """The keys of a file, less those of the files that it is made of."""
    keys = OmegaConf.to_container(OmegaConf.load(CONF / f"{option}.yaml"))
    return {key: value for key, value in keys.items() if key != "defaults" or option == "config"}
