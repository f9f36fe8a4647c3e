"""The tree under conf/: every file composes, every key is known, the schema and the defaults agree."""

import inspect
import pkgutil

import pytest

from runner.build.arguments import BUILDER_ARGUMENTS
from runner.build.check import check
from runner.build.complaints import Refused
from runner.core.schema import GROUPS, OWN_KEYS, STACKS, Config
from tests.shared.configs import CONF, GROUP_OPTIONS, OPTIONS, REQUIRED, composed, split, yaml_of

# Options whose further keys are those of something that the user names.
ANY_KEY = {"model/custom", "augmentation/torchvision"}


def chosen(option: str) -> tuple[str, ...]:
    """The words that choose an option."""
    group, name = split(option)
    return (f"{group}=[{name}]" if group in STACKS else f"{group}={name}", *REQUIRED.get(option, ()))


def node_of(config: dict, option: str) -> dict:
    group, name = split(option)
    return config[group][name] if group in STACKS else config[group]


def runner_target(option: str) -> bool:
    """Return whether an option's class is the runner's own, whose defaults are too."""
    return yaml_of(option)["_target_"].startswith("runner.")


def test_every_folder_is_a_group():
    """Each folder of conf/ is a key of the config, or an experiment, or Hydra's own."""
    folders = {path.name for path in CONF.iterdir() if path.is_dir()}
    groups = {key for key, field in Config.model_fields.items() if "dict" in str(field.annotation)}
    assert folders - {"experiment", "hydra"} == groups


@pytest.mark.parametrize("option", OPTIONS)
def test_every_file_composes_and_is_accepted(option):
    """Each YAML, chosen as a user chooses it, composes to a config that passes every check."""
    checked = check(composed(*chosen(option)))
    assert set(checked) == set(Config.model_fields)


def test_stacks_of_everything():
    """All items of a stack together compose in the order typed."""
    for stack in STACKS:
        options = [option for option in GROUP_OPTIONS[::-1] if option.startswith(f"{stack}/")]
        names = [split(option)[1] for option in options]
        needed = [word for option in options for word in REQUIRED.get(option, ())]
        assert list(check(composed(f"{stack}=[{','.join(names)}]", *needed))[stack]) == names


@pytest.mark.parametrize("option", GROUP_OPTIONS)
def test_targets_exist_and_know_every_key(option):
    """Each file's `_target_` can be imported, and names every further key of the file in its signature."""
    node = yaml_of(option)
    if node["_target_"] == "???":
        assert option in REQUIRED
        return
    group = split(option)[0]
    target = pkgutil.resolve_name(node.pop("_target_"))
    parameters = inspect.signature(target).parameters
    assert set(node) - OWN_KEYS.get(group, set()) <= set(parameters)
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    required = {name for name, p in parameters.items() if p.default is p.empty and p.kind in named}
    assert required - BUILDER_ARGUMENTS.get(group, set()) <= set(node)


@pytest.mark.parametrize("option", [option for option in GROUP_OPTIONS if runner_target(option)])
def test_defaults_of_file_and_code_agree(option):
    """Where a class of the runner has a default for a key, its file says the same; else it leaves it to the user.

    Files that share a class are presets of it, and differ by such keys.
    """
    node = yaml_of(option)
    target = node.pop("_target_")
    keys = {key: value for key, value in node.items() if key not in OWN_KEYS.get(split(option)[0], set())}
    files = [other for other in GROUP_OPTIONS if yaml_of(other)["_target_"] == target]
    parameters = inspect.signature(pkgutil.resolve_name(target)).parameters
    defaults = {key: parameters[key].default for key in keys}
    required = {key for key, default in defaults.items() if default is inspect.Parameter.empty}
    if split(option)[0] in STACKS:
        assert {keys[key] for key in required} <= {"???"}
    for key in defaults.keys() - required:
        values = [yaml_of(other).get(key) for other in files]
        default = list(defaults[key]) if isinstance(defaults[key], tuple) else defaults[key]
        nothing = isinstance(keys[key], dict) and not any(keys[key].values())  # such as `{every: null}`
        assert (None if nothing else keys[key]) == default or any(value != keys[key] for value in values), key


@pytest.mark.parametrize("option", [option for option in GROUP_OPTIONS if option not in ANY_KEY])
def test_unknown_keys_are_refused(option):
    """A key that the option's target does not have is refused, with the names that it has."""
    config = composed(*chosen(option))
    node_of(config, option)["bogus"] = 1
    with pytest.raises(Refused) as refused:
        check(config)
    (line,) = refused.value.lines
    assert ".bogus=1: no such key; it has " in line


@pytest.mark.parametrize("key", ["_args_", "_convert_", "_bogus"])
def test_keys_with_an_underscore_are_refused(key):
    """Keys that Hydra would obey or that would be dropped on the way are refused like other unknown ones."""
    taken = []
    for option in {split(option)[0]: option for option in GROUP_OPTIONS}.values():
        config = composed(*chosen(option))
        node_of(config, option)[key] = [1]
        try:
            check(config)
        except Refused as error:
            assert f".{key}=" in str(error)
        else:
            taken.append(option)
    assert taken == []


def test_schema_and_config_name_the_same_keys():
    """conf/config.yaml and `Config` have the same keys, at the top and in the parts that have keys of their own."""
    config = yaml_of("config")
    groups = {next(iter(entry)) for entry in config.pop("defaults") if isinstance(entry, dict)}
    groups = {group for group in groups if not group.startswith("override")} - {"experiment"}
    config.pop("hydra")
    assert set(config) | groups == set(Config.model_fields)
    for part in ("early_stopping", "checkpoint", "log", "probe"):
        assert set(config[part]) == set(Config.model_fields[part].annotation.model_fields)


def test_shared_keys_of_groups():
    """What conf/config.yaml says of every data set and optimizer is what the schema knows, defaults included."""
    config = yaml_of("config")
    for group in ("data", "optimizer"):
        assert set(config[group]) == OWN_KEYS[group]
        assert config[group] == {key: GROUPS[group].model_fields[key].default for key in config[group]}


def test_every_option_is_explained():
    """Each file begins with a comment that says what the option is."""
    for option in [option for option in OPTIONS if not option.startswith("hydra/help")]:
        lines = (CONF / f"{option}.yaml").read_text().splitlines()
        first = next(line for line in lines if not line.startswith("# @package"))
        assert first.startswith("# ") and len(first) > 15, option
