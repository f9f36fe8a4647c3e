"""Which run a config is, and what its folder is called."""

import copy
import json
import re
from pathlib import Path

import pytest
import torch

import runner.store.revisions
from runner.build.check import check
from runner.core.schema import EVALUATION
from runner.store.fingerprint import earlier, fingerprints, slug
from runner.store.revisions import Added, Revision, revisions
from tests.shared.configs import composed
from tests.shared.identity import CONTENTS, RICH, config
from tests.shared.results import result_of, results_of

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
    monkeypatch.setattr(runner.store.revisions, "REVISIONS", (other,))
    assert revisions(base, 1) == {"schedule": 2} and revisions(base, 3) == {}
    assert fingerprints(base, CONTENTS, frozenset(), revisions(base, 3)) == prints(base)
    revised = fingerprints(base, CONTENTS, frozenset(), revisions(base, 1))
    assert revised[0] != prints(base)[0] and revised[1] != prints(base)[1]


# -- recorded fingerprints ------------------------------------------------------------------------------------------

# Of configs whose numbers never changed, written down with the first release: they must stay, or every folder is lost.
# A new key changes them, unless `ADDED` in runner/store/revisions.py has it with its default.
RECORDED = {
    (): ("ed0d9fadae", "020de2b111"),
    ("optimizer=sgd", "optimizer.lr=0.1", "schedule=cosine", "schedule.warmup=5%"): ("5eefc1bf34", "439ee3aac2"),
    RICH: ("91603fc45a", "f028eff565"),
    ("evaluation=monte_carlo", "model=mlp"): ("89a82fb260", "da7965d4c2"),
    ("precision=bf16",): ("f2168826d3", "51e5082d4a"),
}
TYPED_FP32 = ("e4f95caf09", "8d173550f6")  # as `precision=fp32` was hashed when precision was hashed as typed


def recorded(*words):
    return check(composed("checkpoint.select=last", *words))


@pytest.mark.parametrize("words", RECORDED, ids=lambda words: " ".join(words)[:30] or "defaults")
def test_recorded_fingerprints_stay(words):
    """Configs have the fingerprints that they had when the first folders were written."""
    assert prints(recorded(*words), ignored=frozenset({"surface"})) == RECORDED[words]


@pytest.mark.parametrize(
    ("added", "change"),
    [
        (Added("checkpoint.keep", 1), {"checkpoint": {"keep": 1}}),
        (Added("checkpoint.keep", 1), {"checkpoint": {"keep": 1.0}}),
        (Added("loss", {"_target_": "runner.loss.Plain", "a": [1, {"b": None}]}), None),
        (Added("smoothing", True, "runner.model.convnet.ConvNet"), {"model": {"smoothing": True}}),
        (Added("fused", None, "torch.optim.Adam"), {"optimizer": {"base": {"_target_": "torch.optim.Adam"}}}),
    ],
)
def test_a_new_key_at_its_default_leaves_recorded_fingerprints(monkeypatch, added, change):
    """A new key, group or argument is left out at its default, and counts at any other value."""
    base = recorded("model=convnet")
    base["model"]["_target_"] = "runner.model.convnet.ConvNet"
    if change is None:
        change = {added.key: copy.deepcopy(added.default)}
    other, another = copy.deepcopy(base), copy.deepcopy(base)
    for part, keys in change.items():
        for tree, value in ((other, None), (another, "else")):
            tree.setdefault(part, {}).update(copy.deepcopy(keys))
            if part == "optimizer":
                tree[part]["base"][added.key] = added.default if value is None else value
            elif value is not None:
                node = tree[part] if part != added.key else tree
                node[added.key.rpartition(".")[2]] = value
    if "base" in other["optimizer"]:
        base["optimizer"]["base"] = {"_target_": "torch.optim.Adam"}
    before = prints(base)
    assert prints(other) != before
    monkeypatch.setattr(runner.store.revisions, "ADDED", (added,))
    assert prints(other) == prints(base) == before and prints(another) != before


def test_an_argument_of_another_target_is_not_left_out(monkeypatch):
    """`ADDED` with a target leaves out that target's argument, whatever other options call theirs."""
    base = recorded()
    other = copy.deepcopy(base)
    other["optimizer"]["p"] = 0.5
    monkeypatch.setattr(runner.store.revisions, "ADDED", (Added("p", 0.5, "runner.regularization.dropout.Dropout"),))
    assert prints(other) != prints(base)


def test_true_is_not_one(monkeypatch):
    """A default that is true does not leave out a number."""
    base = recorded()
    other = copy.deepcopy(base) | {"new": 1}
    monkeypatch.setattr(runner.store.revisions, "ADDED", (Added("new", True),))
    assert prints(other) != prints(base)


# -- precision ------------------------------------------------------------------------------------------------------


def test_precisions():
    """fp32 is hashed as `auto` was, bf16 and fp16 as they were typed; the older spellings are known."""
    ignored = frozenset({"surface"})
    plain = recorded()
    fp32, bf16, fp16 = (plain | {"precision": name} for name in ("fp32", "bf16", "fp16"))
    assert prints(fp32, ignored=ignored) == prints(plain, ignored=ignored) == RECORDED[()]
    assert prints(bf16, ignored=ignored) == RECORDED["precision=bf16",]
    assert len({prints(one)[0] for one in (fp32, bf16, fp16)}) == 3
    assert earlier(fp32, CONTENTS, ignored) == TYPED_FP32
    assert earlier(bf16, CONTENTS, ignored) == RECORDED[()]
    assert earlier(fp16, CONTENTS, ignored) is None
    assert earlier(bf16, CONTENTS, frozenset({"precision"})) is None


def test_auto_and_fp32_are_one_run_and_bf16_is_another(cli):
    """On a CPU `auto`, `fp32` and a folder of an earlier version's typed `fp32` are one run."""
    words = ("model=mlp", "epochs=1", "data.limit=200", "log.images=0", "log.tensorboard=false", "name=first")
    assert cli(*words)[0] == 0
    assert "done already" in cli(*words, "precision=fp32")[1]
    first = result_of(Path("outputs/first"))
    assert first["precision"] == "float32"
    code, out, _ = cli("-m", *words, "precision=auto,fp32,bf16")
    assert code == 0 and "1 of 2 runs done already, 1 typed twice" in out
    results = results_of(Path("outputs/first"))
    assert sorted(result["precision"] for result in results.values()) == ["bfloat16", "float32"]
    assert {name for name, result in results.items() if result["precision"] == "float32"} == {first["run"]}


def older_folder(words, monkeypatch, cli, **changes):
    """The run of a command, in a folder as the version before precision was resolved wrote it."""
    from runner.sweep.plan import planner as plan

    with monkeypatch.context() as patch:
        patch.setattr(plan, "fingerprints", lambda *identity: earlier(*identity))
        assert cli(*words)[0] == 0
    (path,) = Path("outputs/first").glob("*/result.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return json.loads(path.read_text())


def test_folders_of_an_earlier_version_are_found(cli, monkeypatch):
    """A typed fp32 of before is done already, also for `auto`; and its training answers for another evaluation."""
    words = ("model=mlp", "epochs=1", "data.limit=200", "log.images=0", "log.tensorboard=false", "name=first")
    old = older_folder((*words, "precision=fp32"), monkeypatch, cli)
    assert "done already" in cli(*words)[1] and "done already" in cli(*words, "precision=fp32")[1]
    assert result_of(Path("outputs/first")) == old
    assert cli(*words, "regularization=[dropout]")[0] == 0
    assert cli(*words, "evaluation=views")[0] == 0
    views = next(r for r in results_of(Path("outputs/first")).values() if r["choices"]["evaluation"] == "views")
    assert views["trained_in"] == old["run"] and views["training"] == old["training"]


def test_an_auto_that_was_bf16_does_not_answer_for_fp32(cli, monkeypatch):
    """A folder of an earlier version's `auto` on a GPU is the bf16 run, and no other's."""
    words = ("model=mlp", "epochs=1", "data.limit=200", "log.images=0", "log.tensorboard=false", "name=first")
    old = older_folder((*words, "precision=bf16"), monkeypatch, cli)
    assert "done already" in cli(*words, "precision=bf16")[1]
    code, out, err = cli(*words, "precision=fp32")
    assert code == 0 and "done already" not in out and err == ""
    assert {r["precision"] for r in results_of(Path("outputs/first")).values()} == {"bfloat16", "float32"}
    assert old in results_of(Path("outputs/first")).values()


def test_auto_is_resolved_on_the_runs_device(cli, monkeypatch):
    """Where the device takes bf16, `auto` is the run of a typed bf16; config.yaml says so."""
    from runner.train import precision as running

    words = ("model=mlp", "epochs=1", "data.limit=200", "log.images=0", "log.tensorboard=false", "name=first")
    plain = running.precision
    with monkeypatch.context() as patch:
        patch.setattr(
            running,
            "precision",
            lambda config, device: torch.bfloat16 if config["precision"] == "auto" else plain(config, device),
        )
        assert cli(*words)[0] == 0
    assert "done already" in cli(*words, "precision=bf16")[1]
    result = result_of(Path("outputs/first"))
    assert result["precision"] == "bfloat16"
    assert "precision: bf16" in next(Path("outputs/first").glob("*/config.yaml")).read_text()
