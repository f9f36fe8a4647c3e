"""Which run a config is, and what its folder is called."""

import copy
import re

import pytest

import runner.revisions
from runner.check import check
from runner.revisions import Revision, revisions
from runner.schema import EVALUATION
from runner.sweep.identity import fingerprints, slug
from tests.test_config import composed

CONTENTS = "a" * 64
RICH = (
    "regularization=[dropout,l2]",
    "augmentation=[flip,crop]",
    "schedule=step",
    "clip_grad_norm=1",
    "early_stopping.patience=2",
)
# What may change without making another run: written out here, since the schema's own list is what is tested.
SAME = {
    "name": "other",
    "device": "cuda:0",
    "threads": 7,
    "channels_last": True,
    "compile": True,
    "cuda_graph": True,
    "deterministic": True,
    "log.every": 3,
    "log.tensorboard": False,
    "log.images": 0,
    "log.patch": False,
    "probe.every": 7,
    "probe.curvature_every": 7,
    "sweep.zip": [["a", "b"]],
    "sweep.exclude": ["a=b"],
    "sweep.repeat": 3,
    "sweep.probe": False,
    "oom.allow_batchnorm": True,
    "trust": ["mine"],
    "dry_run": True,
    "rerun": True,
    "checkpoint.seconds": 5.0,
    "transfer.weights": "elsewhere.pth",  # its contents count instead
    "transfer.cache": False,
    "data.root": "/elsewhere",
    "data.download": True,
    "data.resident": False,
    "data.budget_gb": 3.0,
    "data.workers": 2,
    "data.cache_dir": "/elsewhere",
}


def config(*overrides):
    return check(composed(*RICH, *overrides))


def prints(values, contents=CONTENTS, ignored=frozenset()):
    return fingerprints(values, contents, ignored)


def leaves(node, prefix=""):
    """Dotted names of all values."""
    for key, value in node.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"


def changed(values, dotted, value):
    values = copy.deepcopy(values)
    *path, last = dotted.split(".")
    node = values
    for key in path:
        node = node[key]
    assert node[last] != value
    node[last] = value
    return values


def test_form():
    """A fingerprint is ten hexadecimal digits, the same every time."""
    first = prints(config())
    assert all(re.fullmatch("[0-9a-f]{10}", word) for word in first) and first == prints(config())


@pytest.mark.parametrize("key", SAME)
def test_what_makes_no_other_run(key):
    """Names, folders, devices, threads, layouts and logging leave the fingerprint as it is."""
    base = config()
    assert prints(changed(base, key, SAME[key])) == prints(base)


def test_everything_else_makes_another_run():
    """Every other key of the config, one by one, changes the fingerprint, and each in its own way."""
    base = config()
    keys = [key for key in leaves(base) if key not in SAME]
    assert {"seed", "optimizer.lr", "regularization.dropout.p", "model.channels", "data.limit"} < set(keys)
    found = [prints(changed(base, key, "another")) for key in keys]
    assert len({full for full, _ in found}) == len(keys) and prints(base)[0] not in {full for full, _ in found}
    same_training = [key for key, (_, training) in zip(keys, found, strict=True) if training == prints(base)[1]]
    assert all(key.split(".")[0] in EVALUATION for key in same_training)


@pytest.mark.parametrize(
    "words",
    [
        ("seed=1",),
        ("optimizer.lr=0.5",),
        ("lr_scale=2",),
        ("epochs=3",),
        ("precision=bf16",),
        ("regularization=[l2,dropout]",),
        ("regularization=[dropout]",),
        ("augmentation=[crop,flip]",),
        ("regularization.dropout.p=0.1",),
        ("data.split_seed=1",),
        ("model=mlp",),
        ("optimizer=sgd",),
        ("checkpoint.select=last",),
    ],
)
def test_what_makes_another_run(words):
    """Seed, rate, a stack's items, their order and keys, data and choices make another run and another training."""
    rich = [word for word in RICH if word.split("=")[0] not in {w.split("=")[0] for w in words}]
    base, other = prints(config()), prints(check(composed(*rich, *words)))
    assert base[0] != other[0] and base[1] != other[1]


def test_contents_of_the_data():
    """Other contents are another run, whatever the folder is called."""
    base, other = prints(config()), prints(config(), contents="b" * 64)
    assert base[0] != other[0] and base[1] != other[1]


def test_evaluation_has_its_own_identity():
    """What is asked of the trained network changes the run's fingerprint and not the training's."""
    base = config()
    other = copy.deepcopy(base)
    other["evaluation"]["passes"] = 10
    assert prints(base)[0] != prints(other)[0] and prints(base)[1] == prints(other)[1]


def test_what_a_task_ignores():
    """Parts that a task says it does not use make no other run of it."""
    base, ignored = config(), frozenset({"optimizer", "seed"})
    other = changed(changed(base, "optimizer.lr", 9.0), "seed", 5)
    assert prints(base, ignored=ignored) == prints(other, ignored=ignored)
    assert prints(base, ignored=ignored) != prints(base)


def test_order_of_typing():
    """The order in which keys were typed, or stand in a mapping, makes no other run."""
    base = config()
    shuffled = {key: base[key] for key in reversed(base)}
    shuffled["optimizer"] = dict(reversed(base["optimizer"].items()))
    shuffled["regularization"] = {n: dict(reversed(v.items())) for n, v in base["regularization"].items()}
    assert prints(shuffled) == prints(base)


@pytest.mark.parametrize(
    ("one", "two"),
    [
        (("optimizer.lr=1",), ("optimizer.lr=1.0",)),
        (("lr_scale=1e-1",), ("lr_scale=0.1",)),
        (("regularization.l2.weight=1",), ("regularization.l2.weight=1.0",)),
        (("schedule.floor=0",), ("schedule.floor=0.0",)),
    ],
)
def test_spellings_of_a_number(one, two):
    """The same number typed in two ways is the same run."""
    assert prints(config(*one)) == prints(config(*two))


# -- the folder's name ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("overrides", "name"),
    [
        ([], "defaults"),
        (["optimizer=sgd", "seed=1"], "optimizer=sgd,seed=1"),
        (["optimizer.lr=0.1", "data.limit=200"], "lr=0.1,limit=200"),
        (["regularization=[dropout,l2]", "regularization.dropout.p=0.3"], "regularization=dropout,l2,dropout.p=0.3"),
        (["regularization=[]"], "regularization="),
        (["schedule.warmup=5%"], "warmup=5%"),
        (["+model.width=3"], "width=3"),
        (["name=x", "device=cpu", "threads=1", "rerun=true"], "defaults"),
        (["hydra.run.dir=/tmp/x", "experiment=quickstart", "epochs=2"], "epochs=2"),
        (["data.root=/home/me/pictures", "seed=2"], "seed=2"),
        (["log.every=5", "checkpoint.seconds=3", "seed=2"], "seed=2"),
    ],
)
def test_slug(overrides, name):
    """A run's folder says what was typed, without what cannot matter."""
    assert slug(overrides) == name


@pytest.mark.parametrize(
    "override",
    [
        "model._target_=a/b/../../c",
        "data.classes=[cat, 'big dog', \"x;rm -rf $HOME\"]",
        "data.classes=[" + ",".join(f"class{i}" for i in range(200)) + "]",
        "data.classes=[" + "\u732b" * 120 + ",dog]",
        "model.name=\n\t*?|<>:",
    ],
)
def test_slug_is_safe_and_short(override):
    """Whatever was typed, with its fingerprint it is one plain name of a file, within 255 bytes."""
    name = slug([override])
    assert len(f"{name}-0123456789".encode()) <= 255 and len(name) <= 100
    assert not set(name) & set("/\\ \n\t*?|<>:;$'\"[]{}") and name not in (".", "..") and name[0] not in ".-"


def test_a_revision_makes_another_run(monkeypatch):
    """A revision that applies changes both fingerprints; one that does not leaves the recorded ones as they are."""
    base = config()
    other = Revision("schedule", 2, lambda values, channels: channels == 1, "steps are counted from 1")
    monkeypatch.setattr(runner.revisions, "REVISIONS", (other,))
    assert revisions(base, 1) == {"schedule": 2} and revisions(base, 3) == {}
    assert fingerprints(base, CONTENTS, frozenset(), revisions(base, 3)) == prints(base)
    revised = fingerprints(base, CONTENTS, frozenset(), revisions(base, 1))
    assert revised[0] != prints(base)[0] and revised[1] != prints(base)[1]
