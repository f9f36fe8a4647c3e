"""Nodes of a config: resolved before they are checked, and built as Hydra builds them."""

import json
from pathlib import Path

import pytest
import torch

from runner.build.check import check
from runner.core.errors import ConfigError
from runner.core.targets import construct, locate, nested_complaints
from runner.task.resources import Resources
from tests.shared.configs import composed
from tests.shared.nodes import CREATED, FETCH, NODE, RELU, deep

# -- configs --------------------------------------------------------------------------------------------------------

YAMLS = {
    "created": "inner: {_target_: torch.nn.ReLU}\nevil: " + json.dumps(CREATED),
    "created in a list": "inner: {_target_: torch.nn.ReLU}\nhidden: [8, " + json.dumps(CREATED) + "]",
    "a target": "evil: {_target_: '${oc.env:EVIL,shutil.copyfile}', src: MARK.pickle, dst: MARK}",
    "a target elsewhere": "evil: {_target_: '${.name}', src: MARK.pickle, dst: MARK, name: shutil.copyfile}",
    "decoded": "a: {_target_: torch.nn.ReLU}\nevil: " + json.dumps(CREATED.replace("create", "decode")),
    "half a call": "evil: {_target_: shutil.copyfile, _partial_: true, src: MARK.pickle, dst: MARK}",
    "arguments in order": "evil: {_target_: torch.nn.ReLU, _args_: [" + json.dumps(CREATED) + "]}",
    "a number for a name": "evil: {_target_: torch.nn.ReLU, 1: 2}",
}


@pytest.mark.parametrize("how", YAMLS)
def test_a_config_is_resolved_before_it_is_checked(cli, tmp_path, how):
    """What an interpolation makes of a YAML is checked like what stands in it."""
    mark = tmp_path / "mark"
    Path(f"{mark}.pickle").touch()
    Path("conf/model").mkdir(parents=True)
    head = "" if "hidden" in YAMLS[how] else "hidden: [8]\n"
    text = f"_target_: runner.model.mlp.MLP\n{head}{YAMLS[how]}\n".replace("MARK", str(mark))
    Path("conf/model/strange.yaml").write_text(text)
    for more in ("dry_run=false", "dry_run=true"):
        code, out, err = cli("--config-dir", "conf", "model=strange", "epochs=1", more)
        assert (code, out) == (2, "") and err.count("\n") == 1, err
    assert not mark.exists() and not Path("outputs").exists()


def test_an_escaped_interpolation_is_text(cli, tmp_path):
    r"""`\${...}` in a YAML is the text `${...}`, also beside a nested node."""
    Path("conf/model").mkdir(parents=True)
    node = "_target_: tests.build.test_nodes.Net\ninner: {_target_: torch.nn.ReLU}\n"
    text = CREATED.replace("MARK", str(tmp_path / "mark"))
    (tmp_path / "mark.pickle").touch()
    Path("conf/model/mine.yaml").write_text(f"{node}text: '\\{text}'\n")
    words = ("--config-dir", "conf", "model=mine", "trust=[tests]", "epochs=1", "data.limit=100", "threads=1")
    code, _, err = cli(*words, "log.tensorboard=false")
    assert (code, err) == (0, "") and Net.seen == text and not (tmp_path / "mark").exists()


class Net(torch.nn.Sequential):
    """A class of the user's own, with a part that its YAML describes."""

    seen = ""

    def __init__(self, inner: torch.nn.Module, text: str):
        super().__init__(torch.nn.Flatten(), inner, torch.nn.Linear(64, 10))
        type(self).seen = text


# -- what is built --------------------------------------------------------------------------------------------------


def test_nested_nodes_are_built_as_hydra_builds_them():
    """Against Hydra's own `instantiate`: mappings, lists, partial calls."""
    from hydra.utils import instantiate

    node = {
        "_target_": "torch.nn.TransformerEncoderLayer",
        "d_model": 4,
        "nhead": 2,
        "activation": {"_target_": "torch.nn.functional.leaky_relu", "_partial_": True, "negative_slope": 0.5},
    }
    ours, hydras = construct("model", node, []), instantiate(node, _convert_="all")
    assert ours.activation.func is hydras.activation.func and ours.activation.keywords == hydras.activation.keywords
    assert repr(ours) == repr(hydras)
    node = {"_target_": "torch.nn.ModuleList", "modules": [RELU, {"_target_": "torch.nn.Linear", "in_features": 2}]}
    node["modules"][1]["out_features"] = 3
    assert repr(construct("model", node, [])) == repr(instantiate(node, _convert_="all"))
    node = {"_target_": "torch.nn.ModuleDict", "modules": {"a": RELU}}
    assert repr(construct("model", node, [])) == repr(instantiate(node, _convert_="all"))


def test_the_builder_checks_what_nobody_checked():
    """A config that went past `check` is refused where it is built."""
    config = check(composed("model=mlp", "data.limit=100"))
    config["model"]["hidden"] = [NODE]
    with pytest.raises(ConfigError, match=r"^model.hidden.0._target_=shutil.copyfile: not from a trusted package"):
        Resources().model(config, Resources().splits(config))


@pytest.mark.parametrize(
    "target",
    [
        "torch.nn.Linear",
        "torch.nn.functional.relu",
        "torch.nn.init.zeros_",
        "torch.optim.SGD",
        "torchvision.models.resnet18",
        "torchvision.models.VisionTransformer",
        "torchvision.ops.StochasticDepth",
        "torchvision.transforms.v2.RandomErasing",
        "torchvision.transforms.InterpolationMode",
    ],
)
def test_parts_of_torch(target):
    """Layers, functions, optimizers, models and transforms may be named."""
    assert callable(locate("model", target, []))


@pytest.mark.parametrize(
    "target",
    [
        FETCH,
        "torchvision.models._api.Weights",
        "torchvision.models._api.get_weight",
        "torchvision.models.get_model",
        "torchvision.models.resnet._resnet",
        "torchvision.models.detection.maskrcnn_resnet50_fpn",
        "torchvision.models.quantization.resnet18",
        "torchvision.models.feature_extraction.create_feature_extractor",
        "torch.nn.Module.load_state_dict",
        "torch.nn.Module.apply",
        "torch.nn.utils.parametrize.register_parametrization",
        "torch.optim.Optimizer.register_step_pre_hook",
        "torch.optim.swa_utils.update_bn",
    ],
)
def test_helpers_of_torch_are_no_parts(target):
    """Functions that fetch, unpickle, or call what they are given may not; `trust` of their package allows them."""
    with pytest.raises(ConfigError, match=f"^model._target_={target}: is no layer, model, optimizer or transform of"):
        locate("model", target, [])
    assert callable(locate("model", target, [target.partition(".")[0]]))


def test_levels_without_end():
    """A node is at most so deep."""
    (line,) = nested_complaints("model", deep(300), [])
    assert line.endswith("more than 32 levels deep")
