"""Targets: the packages that a `_target_` may name, and the ways out of them."""

import sys
from pathlib import Path

import pytest

from runner.build.check import check
from runner.build.complaints import Refused
from runner.core.errors import ConfigError
from runner.core.targets import locate
from runner.task.resources import Resources
from tests.shared.complaints import FEW, complaints
from tests.shared.configs import composed

TRUSTED = "runner, torch.optim, torch.nn, torchvision.models, torchvision.transforms, torchvision.ops"


@pytest.mark.parametrize(
    "target",
    [
        "os.system",
        "builtins.eval",
        "builtins.exec",
        "torch.load",
        "torch.hub.load",
        "subprocess.run",
        "torchvision.io.x",
    ],
)
def test_packages_that_are_not_trusted(target):
    """A `_target_` outside the trusted packages is refused by its name, before anything is imported."""
    first = target.partition(".")[0]
    assert complaints(f"model._target_={target}") == [
        f"model._target_={target}: not from a trusted package ({TRUSTED}); if you trust it, add trust=[{first}]"
    ]


@pytest.mark.parametrize(
    ("target", "home"),
    [
        ("runner.build.data.json.loads", "json"),
        ("runner.store.files.os.system", "posix"),
        ("runner.core.targets.pkgutil.resolve_name", "pkgutil"),
        ("runner.store.checkpoint.torch.load", "torch.serialization"),
        ("torch.nn.functional.torch.hub.load", "torch.hub"),
        ("runner.model.mlp", "builtins"),
    ],
)
def test_ways_out_of_trusted_packages(target, home):
    """A path that begins in a trusted package and leads elsewhere, or to no class, is refused."""
    assert complaints(f"model._target_={target}") == [
        f"model._target_={target}: leads to {home}, which is not from a trusted package"
    ]


@pytest.mark.parametrize(
    ("group", "target", "keys"),
    [
        ("transfer", "runner.store.files.write_atomic", {"path": "PATH", "write": "x"}),
        ("evaluation", "runner.store.files.write_json", {"path": "PATH", "value": "x"}),
        ("ensemble", "runner.store.checkpoint.save", {"path": "PATH", "state": {"a": 1}}),
        ("task", "runner.__main__.main", {"argv": ["hydra.run.dir=PATH"]}),
    ],
)
def test_helpers_are_no_options(tmp_path, group, target, keys):
    """The runner's own helpers are no options: a config that names one is refused and writes nothing."""
    config = composed(*FEW)
    path = str(tmp_path / "written")
    config[group] = {"_target_": target} | {k: path if v == "PATH" else v for k, v in keys.items()}
    with pytest.raises(ConfigError, match=f"{group}._target_={target}"):
        Resources().preflight(check(config))
    assert not list(tmp_path.iterdir())


def test_inner_targets_are_looked_at():
    """A `_target_` at any depth of a node, in mappings and lists, has to be trusted too."""
    assert "model.inner._target_=os.system: not from" in complaints("+model.inner._target_=os.system")[0]
    config = composed()
    config["model"]["channels"] = [{"deep": [{"_target_": "os.system"}]}]
    with pytest.raises(Refused, match=r"^model.channels.0.deep.0._target_=os.system: not from a trusted package"):
        check(config)


def test_a_target_that_is_not_there():
    """A trusted path without an object is refused with the reason."""
    assert complaints("model._target_=torch.nn.Nope") == [
        "model._target_=torch.nn.Nope: cannot be imported (module 'torch.nn' has no attribute 'Nope')"
    ]
    assert complaints("model._target_=runner.nope.Thing") == [
        "model._target_=runner.nope.Thing: cannot be imported (module 'runner' has no attribute 'nope')"
    ]


def test_prefixes_are_whole_words():
    """`runner_x` is not `runner`."""
    with pytest.raises(ConfigError, match="not from a trusted package"):
        locate("model", "runners.Thing", [])


def test_trust_opens_a_package(tmp_path: Path, monkeypatch):
    """A package of the user's own is refused until `trust` names it; then its network is built and rehearsed."""
    (tmp_path / "my_nets.py").write_text(
        "from torch import nn\n"
        "class Net(nn.Sequential):\n"
        "    def __init__(self, width: int, num_classes: int):\n"
        "        super().__init__(nn.Flatten(), nn.LazyLinear(width) if width < 0 else nn.Linear(64, num_classes))\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    words = (*FEW, "model=custom", "model._target_=my_nets.Net", "+model.width=3")
    assert complaints(*words) == [
        f"model._target_=my_nets.Net: not from a trusted package ({TRUSTED}); if you trust it, add trust=[my_nets]"
    ]
    assert "my_nets" not in sys.modules
    assert complaints(*words, "trust=[my_nets]") == []
    assert complaints(*words, "trust=[my_nets]", "model.width=x") == ["model.width=x: must be a whole number"]
    sys.modules.pop("my_nets")
