"""Checkpoints of a stranger: nothing in them is run, and an error is one line with exit code 2."""

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from runner.__main__ import main
from runner.build.load import load
from runner.core.errors import ConfigError
from runner.store import checkpoint
from runner.transfer.read_weights import read as read_weights
from tests.shared.nodes import COPY, CREATED, FETCH, NODE, RELU, deep

SMALL = ("epochs=1", "threads=1", "data.limit=100", "log.tensorboard=false", "model=mlp", "model.hidden=[8]")


class Touch:
    """Leaves a mark where it is unpickled."""

    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (self.mark,)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The state in a small finished run's checkpoint."""
    root = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        assert main([*SMALL, "hydra.run.dir=run"]) == 0
    return checkpoint.load(root / "run" / "checkpoint.pt")


def marked(value, mark):
    """A value with the mark's path in place of MARK."""
    if isinstance(value, dict):
        return {key: marked(inner, mark) for key, inner in value.items()}
    if isinstance(value, list):
        return [marked(inner, mark) for inner in value]
    return value.replace("MARK", str(mark)) if isinstance(value, str) else value


def model(**keys):
    """Changes of the model's node."""
    return lambda about: about["config"]["model"].update(keys)


def item(group, node):
    """One more item of a stack."""
    return lambda about: about["config"][group].update(evil=node)


URL = {"_target_": "torchvision.models._api.Weights", "url": "file://MARK.pickle", "transforms": None, "meta": {}}
TORCHVISION = "runner.augmentation.torchvision_transform.TorchvisionTransform"
PREDICT = ("task=predict", "task.images=photos")
TRIES = [("task=evaluate",), PREDICT, ("task=evaluate", "dry_run=true"), (*PREDICT, "dry_run=true")]
HOSTILE = {
    "created beside a node": model(inner=RELU, evil=CREATED),
    "created in a list": model(hidden=[8, RELU, CREATED]),
    "created in an item's options": item(
        "augmentation", {"_target_": TORCHVISION, "name": "RandomErasing", "value": RELU, "p": CREATED}
    ),
    "created in a stack": item("regularization", {"_target_": "runner.regularization.l2.L2", "a": RELU, "b": CREATED}),
    "a whole node": lambda about: about["config"].update(model=CREATED),
    "a whole stack": lambda about: about["config"].update(regularization={"a": CREATED}),
    "decoded": model(a=RELU, evil=CREATED.replace("create", "decode")),
    "selected": model(a=RELU, evil="${oc.select:.b}", b=NODE),
    "referred to": model(a=RELU, evil="${..note}", note=NODE),
    "escaped": model(a=RELU, evil="\\" + CREATED),
    "twice escaped": model(a=RELU, evil="\\\\" + CREATED),
    "target interpolated": model(evil={"_target_": "${oc.env:EVIL,shutil.copyfile}", **COPY}),
    "target half interpolated": model(evil={"_target_": "torch.nn${oc.env:EVIL,.ReLU}", "a": CREATED}),
    "no trusted package": model(evil=NODE),
    "at the top": model(_target_="os.system"),
    "of hydra": model(evil={"_target_": "hydra.utils.instantiate", "config": NODE}),
    "a method by hydra": model(evil={"_target_": "hydra.utils.get_method", "path": "shutil.copyfile"}),
    "by way of our imports": model(evil={"_target_": "runner.core.targets.construct", "path": "model", "node": NODE}),
    "our writer": model(evil={"_target_": "runner.store.files.write_atomic", "path": "MARK", "write": "x"}),
    "our checkpoint's writer": model(evil={"_target_": "runner.store.checkpoint.save", "path": "MARK", "state": {}}),
    "our command": model(evil={"_target_": "runner.__main__.main", "argv": ["hydra.run.dir=MARK"]}),
    "our pictures": item("regularization", {"_target_": "runner.report.surfaces.write_overlays", "folder": "MARK"}),
    "a pickle by its address": model(evil={"_target_": FETCH, "self": URL, "check_hash": False}),
    "torch.load": model(evil={"_target_": "torch.load", "f": "MARK.pickle", "weights_only": False}),
    "torch.hub": model(evil={"_target_": "torch.nn.modules.module.torch.hub.load", "source": "local"}),
    "weights to fetch": model(evil={"_target_": "torchvision.models.resnet18", "weights": "DEFAULT"}),
    "a model of its own weights": model(_target_="torchvision.models.resnet18", weights="DEFAULT"),
    "a detector's weights": model(evil={"_target_": "torchvision.models.detection.fasterrcnn_resnet50_fpn"}),
    "a method of a layer": model(evil={"_target_": "torch.nn.Module.register_forward_hook", "hook": NODE}),
    "a pure function's inside": model(evil={"_target_": "torch.nn.functional.relu.__globals__.get", "key": "torch"}),
    "arguments in order": model(evil=RELU | {"_args_": [NODE]}),
    "converted": model(evil=RELU | {"_convert_": "object", "inplace": CREATED}),
    "not recursive": model(evil=RELU | {"_recursive_": False, "inplace": NODE}),
    "half a call": model(evil=NODE | {"_partial_": True}),
    "half a call by a word": model(evil=RELU | {"_partial_": "yes"}),
    "trusted by itself": lambda about: about["config"].update(trust=["shutil"], model=NODE),
    "trusted by an interpolation": lambda about: about["config"].update(trust="${oc.create:[shutil]}", model=NODE),
    "very deep": model(evil=deep(300)),
    "a stack that is a list": lambda about: about["config"].update(regularization=[NODE]),
    "a target that is none": model(evil={"_target_": ["os.system"]}),
    "a billion channels": model(hidden=[1_000_000_000, 1_000_000_000]),
    "an endless number": model(hidden=[10**400]),
    "no model": lambda about: about["config"].pop("model"),
    "no classes": lambda about: about.update(classes=[]),
    "classes that are numbers": lambda about: about.update(classes=list(range(10))),
    "no size": lambda about: about.pop("size"),
    "a huge image": lambda about: about.update(size=10**9, side=10**9),
    "no mean": lambda about: about.update(mean=[], std=[]),
    "a mean that is a node": lambda about: about.update(mean=[NODE]),
    "no deviation": lambda about: about.update(std=[0.0]),
    "another average": lambda about: about["config"].update(ensemble={"average": "os.system"}),
    "lines in a key": model(**{"a\nb\x1b[31m": NODE}),
}
TEXTS = {
    "no json": "{",
    "no object": "[]",
    "no text": 3,
    "nothing": "",
    "nested without end": "[" * 100_000,
    "too long a number": '{"channels": ' + "9" * 5000 + "}",
}


@pytest.fixture
def planted(trained, tmp_path):
    """`planted(text, **state)`: the folder of a run with that description in its checkpoint, and the mark."""
    mark = tmp_path / "mark"
    (tmp_path / "mark.pickle").write_bytes(pickle.dumps(Touch(mark)))
    torch.save(Touch(mark), f"{mark}.pt")

    def plant(text, **state):
        folder = tmp_path / "stranger"
        folder.mkdir()
        checkpoint.save(folder / "checkpoint.pt", trained | {"about": text} | state)
        return folder, mark

    return plant


def altered(trained, change, mark):
    about = json.loads(trained["about"])
    change(about)
    return json.dumps(marked(about, mark))


def refused(cli, folder, mark, *tries):
    """The lines that a checkpoint is refused with: by `load`, and by commands."""
    Path("photos").mkdir()
    Image.fromarray(np.zeros((8, 8), np.uint8)).save("photos/one.png")
    with pytest.raises(ConfigError) as error:
        load(folder)
    lines = [str(error.value)]
    for words in tries:
        code, out, err = cli(*words, f"task.checkpoint={folder}", "threads=1")
        assert code == 2 and out == "", (words, err)
        lines.append(err.removeprefix("runner: ").removesuffix("\n"))
    assert not mark.exists() and not Path("outputs").exists()
    assert all("stranger" in line and "\n" not in line and line.isprintable() for line in lines), lines
    return lines


def one_of(cases, how):
    """One of the commands for each case, in turn; the slow test gives all of them."""
    return TRIES[list(cases).index(how) % len(TRIES)]


@pytest.mark.parametrize("how", HOSTILE)
def test_a_description_runs_nothing(cli, trained, planted, tmp_path, how, monkeypatch):
    """Nodes that nobody checked, ways out of trusted packages, weights to fetch, values that make no sense."""
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", lambda *_, **__: (tmp_path / "mark").touch())
    folder, mark = planted(altered(trained, HOSTILE[how], tmp_path / "mark"))
    refused(cli, folder, mark, one_of(HOSTILE, how))


@pytest.mark.slow
@pytest.mark.parametrize("how", HOSTILE)
def test_a_description_runs_nothing_in_any_command(cli, trained, planted, tmp_path, how):
    """The same, each by all commands."""
    refused(cli, *planted(altered(trained, HOSTILE[how], tmp_path / "mark")), *TRIES)


@pytest.mark.parametrize("how", TEXTS)
def test_no_description(cli, planted, how):
    """What is no JSON object of the right keys is named."""
    for line in refused(cli, *planted(TEXTS[how]), one_of(TEXTS, how)):
        assert "no checkpoint of a run (about" in line


STATES = {
    "members by number": {"members": {0: 1}},
    "a member that is a number": {"members": [1]},
    "no member": {"members": []},
    "descriptions of others": {"abouts": ["{}", "{}", "{}"]},
    "training unnamed": {"training": 3},
}


@pytest.mark.parametrize("how", STATES)
def test_no_networks(cli, trained, planted, how):
    """What is no list of tensors by name is named."""
    for line in refused(cli, *planted(trained["about"], **STATES[how]), one_of(STATES, how)):
        assert "no checkpoint of a run" in line


PARTS = ("about", "abouts", "members", "training", "runs")


@pytest.mark.parametrize("part", PARTS)
def test_a_pickle_anywhere(cli, trained, planted, tmp_path, part):
    """A pickle that calls a function is not called, wherever it stands, its checksum right."""
    evil = Touch(tmp_path / "mark")
    folder, mark = planted(trained["about"], **{part: [evil] if part == "abouts" else evil})
    for line in refused(cli, folder, mark, one_of(PARTS, part)):
        assert "holds more than tensors; nothing of it was run" in line


def test_as_weights_to_begin_with(trained, planted):
    """`transfer.weights=` of the same files: the description is no node, and a wrong one is named."""
    folder, mark = planted("{}", about='{"size": "os.system"}')
    with pytest.raises(ConfigError, match=r"^transfer.weights=.*stranger: no checkpoint of a run \(about"):
        read_weights(str(folder), {})
    assert not mark.exists()


DATA = {
    "another function": ({"_target_": "os.system"}, "os.system: not from a trusted package"),
    "created": ({"root": CREATED, "inner": RELU}, "no such key"),
    "a type": ({"limit": CREATED}, "data.limit="),
    "a set that unpickles": (
        {"_target_": "runner.data.vision.load", "dataset": "LSUN", "files": "", "train": {}, "test": {}, "root": "."},
        "data.dataset=LSUN: no set of torchvision's that is read without running code",
    ),
    "no class": (
        {"_target_": "runner.data.vision.load", "dataset": "os", "files": "", "train": {}, "test": {}, "root": "."},
        "data.dataset=os: no set",
    ),
}


@pytest.mark.parametrize("how", DATA)
@pytest.mark.parametrize("more", [(), ("dry_run=true",)])
def test_data_of_a_checkpoint(cli, trained, planted, tmp_path, how, more):
    """The data that a description names is checked as a typed one is."""
    node, words = DATA[how]
    folder, mark = planted(altered(trained, lambda about: about["config"]["data"].update(node), tmp_path / "mark"))
    code, _, err = cli("task=evaluate", f"task.checkpoint={folder}", "threads=1", *more)
    assert code == 2 and words in err and err.count("\n") == 1 and not mark.exists()


def test_where_files_are_kept_is_not_the_checkpoints_word(cli, trained, planted, tmp_path):
    """A checkpoint neither fetches data nor chooses where copies of it are kept."""

    def change(about):
        about["config"]["data"] |= {"cache_dir": "MARK", "download": True, "root": "nowhere", "dataset": "MNIST"}
        about["config"]["data"] |= {
            "_target_": "runner.data.vision.load",
            "files": "MNIST/raw",
            "train": {},
            "test": {},
        }

    folder, mark = planted(altered(trained, change, tmp_path / "mark"))
    code, _, err = cli("task=evaluate", f"task.checkpoint={folder}", "threads=1")
    assert code == 2 and "data.download=true" in err and not mark.exists() and not Path("nowhere").exists()


def test_text_stays_text(cli, trained, planted, tmp_path):
    """What looks like an interpolation where text belongs is text, and the network answers."""

    def change(about):
        about["config"]["name"] = about["config"]["note"] = CREATED
        about["classes"][0] = "${oc.env:HOME}"

    folder, mark = planted(altered(trained, change, tmp_path / "mark"))
    assert load(folder).inputs.classes[0] == "${oc.env:HOME}" and not mark.exists()
