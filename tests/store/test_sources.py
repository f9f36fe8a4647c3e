"""The user's own code in a run's identity: what counts as it, and that an edited class is trained again."""

import csv
import importlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from runner.core.targets import TRUSTED
from runner.report import write_report
from runner.store import imports, sources
from runner.store.fingerprint import fingerprints
from runner.store.shipped import SHIPPED
from tests.shared.identity import CONTENTS, config
from tests.shared.paths import ROOT
from tests.shared.results import result_of, results_of

NET = """
from torch import nn


class Net(nn.Module):
    def __init__(self, in_channels, num_classes, image_size):
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(in_channels * image_size**2, num_classes))

    def forward(self, images):
        return SCALE * self.body(images)
"""
CONF = ROOT / "conf"
FIND = imports.find
QUICK = ("epochs=1", "log.images=0", "log.tensorboard=false", "data.limit=200", "checkpoint.select=last")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder on Python's path; what is loaded from it is dropped afterwards."""
    monkeypatch.syspath_prepend(str(tmp_path))
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]
    for name in [
        name for name, module in sources._modules.items() if str(tmp_path) in module.origin or not module.origin
    ]:
        del sources._modules[name]
    sources.home.cache_clear()
    sources.digest.cache_clear()


def write(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def digest(target: str) -> str:
    sources.forget_edited()
    return sources.digest(target)


# -- what belongs to a class ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "path"),
    [
        ("from pack_a.layers import Layer", "pack_a/layers.py"),
        ("from .layers import Layer", "pack_a/layers.py"),
        ("from . import layers", "pack_a/layers.py"),
        ("import pack_a.layers as some", "pack_a/layers.py"),
        ("from .layers import *", "pack_a/layers.py"),
        ("def lazy():\n    def inner():\n        from .layers import Layer", "pack_a/layers.py"),
        ("try:\n    import pack_a.layers\nexcept ImportError:\n    pass", "pack_a/layers.py"),
        ("import importlib\nimportlib.import_module('.layers', __package__)", "pack_a/layers.py"),
        ("import importlib\n[importlib.import_module(f'pack_a.{name}') for name in ['layers']]", "pack_a/layers.py"),
        ("from importlib import import_module as im\n[im(f'pack_a.{x}') for x in ['layers']]", "pack_a/layers.py"),
        ("import importlib\nim = importlib.import_module\nim('.' + 'layers', 'pack_a')", "pack_a/layers.py"),
        ("import importlib\ngetattr(importlib, 'import_module')('pack_a' + '.layers')", "pack_a/layers.py"),
        ("list(map(__import__, ['pack_a.layers']))", "pack_a/layers.py"),
        ("from .deep.inner import x", "pack_a/deep/__init__.py"),
        ("from .deep import inner", "pack_a/deep/inner.py"),
        ("from .space.one import x", "pack_a/space/one.py"),  # a namespace package
        ("from .layers import Layer", "pack_a/second.py"),  # which layers.py imports
        ("from .layers import Layer", "pack_a/__init__.py"),
        ("import beside_a", "beside_a.py"),  # another file of the user's own
    ],
)
def test_what_a_class_imports_belongs_to_it(folder, line, path):
    """An edit of a module that the class's module imports, however, changes its digest; others leave it."""
    write(
        folder,
        {
            "pack_a/__init__.py": "",
            "pack_a/net.py": f"{line}\n\n\ndef Net():\n    pass\n",
            "pack_a/layers.py": "from .second import y\n__all__ = ['Layer']\n\n\nclass Layer:\n    pass\n",
            "pack_a/second.py": "y = 1\n",
            "pack_a/deep/__init__.py": "",
            "pack_a/deep/inner.py": "x = 1\n",
            "pack_a/space/one.py": "x = 1\n",
            "pack_a/data.txt": "1",
            "beside_a.py": "",
            "unrelated_a.py": "",
        },
    )
    first = digest("pack_a.net.Net")
    assert re.fullmatch("[0-9a-f]{16}", first)
    write(folder, {"unrelated_a.py": "x = 2\n", "pack_a/data.txt": "2"})
    assert digest("pack_a.net.Net") == first
    (folder / path).write_text((folder / path).read_text() + "# a comment\n")
    assert digest("pack_a.net.Net") != first


def test_the_package_of_a_reexported_class_counts(folder):
    """A class named by its package (`pack.Net`) holds the package's file and the module that defines it."""
    write(folder, {"pack_b/__init__.py": "from .net import Net\n", "pack_b/net.py": "class Net:\n    pass\n"})
    seen = {digest("pack_b.Net")}
    for path in ("pack_b/net.py", "pack_b/__init__.py"):
        (folder / path).write_text((folder / path).read_text() + "\n")
        seen.add(digest("pack_b.Net"))
    assert len(seen) == 3


def test_a_digest_is_of_the_contents_alone(folder, monkeypatch):
    """The same files in another folder, loaded in another order, have the same digest."""
    files = {"pack_c/__init__.py": "", "pack_c/net.py": "from . import other\nclass Net:\n    pass\n"}
    files["pack_c/other.py"] = "def f():\n    from . import net\n"
    write(folder / "one", files)
    write(folder / "two", files)
    found = []
    for place, first in (("one", "net"), ("two", "other")):
        lines = f"import sys\nsys.path.insert(0, {str(folder / place)!r})\nimport pack_c.{first}\n"
        lines += "from runner.store import sources\nprint(sources.digest('pack_c.net.Net'))"
        words = [sys.executable, "-c", lines]
        found.append(subprocess.run(words, capture_output=True, text=True, check=True).stdout)
    assert found[0] == found[1]


def test_the_runners_own_and_torchs_classes_have_no_digest():
    """Runs without a class of the user's own keep their recorded fingerprints."""
    node = {"_target_": "runner.optimizer.sam.SAM", "base": {"_target_": "torch.optim.SGD"}}
    assert sources.code({"optimizer": node, "seed": 1}, TRUSTED) == {}


def test_every_listed_module_is_there():
    """A module that was renamed would count by its source, and its recorded fingerprints would change."""
    assert [name for name in sorted(SHIPPED) if importlib.util.find_spec(name) is None] == []


def test_an_option_in_the_checkout_counts_by_its_source(folder, monkeypatch):
    """A class beside the runner's own options, as docs/extending.md has it, and what it imports there."""
    import runner.schedule

    monkeypatch.setattr(runner.schedule, "__path__", [*runner.schedule.__path__, str(folder)])
    write(
        folder, {"half_n.py": "from runner.schedule.help_n import x\nclass Half:\n    pass\n", "help_n.py": "x = 1\n"}
    )
    monkeypatch.setattr(sources, "find", lambda name: found(name, folder))
    monkeypatch.setattr("runner.store.imports.find", lambda name: found(name, folder))
    node = {"schedule": {"_target_": "runner.schedule.half_n.Half"}}
    seen = {json.dumps(sources.code(node, TRUSTED))}
    for name in ("half_n.py", "help_n.py"):
        (folder / name).write_text((folder / name).read_text() + "# more\n")
        sources.forget_edited()
        seen.add(json.dumps(sources.code(node, TRUSTED)))
    assert len(seen) == 3 and "{}" not in seen


def found(name: str, folder: Path):
    """The module as it would be found in the checkout."""
    path = folder / f"{name.rpartition('.')[2]}.py"
    if name.startswith("runner.schedule.") and path.exists():
        return importlib.util.spec_from_file_location(name, path)
    return FIND(name)


def test_targets_at_any_depth_have_a_digest(folder):
    """Nested nodes and items of stacks count, by group."""
    write(folder, {"own_d.py": "class One:\n    pass\n\n\nclass Two:\n    pass\n"})
    config = {
        "optimizer": {"_target_": "runner.optimizer.sam.SAM", "base": {"_target_": "own_d.One"}},
        "regularization": {"first": {"_target_": "own_d.Two", "more": [{"_target_": "own_d.One"}]}},
    }
    known = sources.code(config, TRUSTED)
    assert {group: set(digests) for group, digests in known.items()} == {
        "optimizer": {"own_d.One"},
        "regularization": {"own_d.One", "own_d.Two"},
    }


def test_the_code_is_in_both_fingerprints_but_an_evaluations_only_in_the_runs():
    """A class that is asked after training makes nothing train again."""
    base = config()
    plain = fingerprints(base, CONTENTS, frozenset())
    model, evaluation = ({group: {"mine.Net": "0" * 16}} for group in ("model", "evaluation"))
    one, two = (fingerprints(base, CONTENTS, frozenset(), {}, code) for code in (model, evaluation))
    assert one[0] != plain[0] and one[1] != plain[1]
    assert two[0] != plain[0] and two[1] == plain[1]


def installed(folder: Path, version: str, direct: bool) -> None:
    """A distribution in a folder of installed ones."""
    packages = folder / "site-packages"
    about = packages / "dist_e-1.dist-info"
    shutil.rmtree(packages, ignore_errors=True)
    write(packages, {"dist_e/__init__.py": "class Net:\n    pass\n"})
    write(about, {"METADATA": f"Metadata-Version: 2.1\nName: dist-e\nVersion: {version}\n"})
    write(about, {"RECORD": "dist_e/__init__.py,sha256=abc,20\n", "top_level.txt": "dist_e\n"})
    if direct:
        write(about, {"direct_url.json": "{}"})


def test_an_installed_distribution_counts_by_its_version(folder, monkeypatch):
    """Of what pip installed from an index the version tells; of what it installed from a folder its record as well."""
    monkeypatch.syspath_prepend(str(folder / "site-packages"))

    def now() -> str:
        importlib.invalidate_caches()
        sources.digest.cache_clear()
        return sources.digest("dist_e.Net")

    installed(folder, "1.0+cpu", direct=False)
    first = now()
    write(folder, {"site-packages/dist_e/__init__.py": "class Net:\n    x = 1\n"})
    assert now() == first
    installed(folder, "1.0+cuda", direct=False)
    assert now() == first
    installed(folder, "1.1", direct=False)
    assert now() != first
    installed(folder, "1.0", direct=True)
    second = now()
    write(folder, {"site-packages/dist_e-1.dist-info/RECORD": "dist_e/__init__.py,sha256=xyz,21\n"})
    assert len({first, second, now()}) == 3


# -- commands -------------------------------------------------------------------------------------------------------


def test_an_edited_class_is_trained_again(cli, folder):
    """Typed again, a command whose class was edited trains it; the first folder stays, the second is then found."""
    words = (*QUICK, "model=custom", "model._target_=own_f.Net", "trust=[own_f]", "name=own")
    write(folder, {"own_f.py": "SCALE = 1.0\n" + NET})
    assert cli(*words)[0] == 0
    first = result_of(Path("outputs/own"))
    assert set(first["code"]["model"]) == {"own_f.Net"}
    assert "done already" in cli(*words)[1]
    write(folder, {"own_f.py": "SCALE = 9.0\n" + NET})
    code, out, _ = cli(*words)
    results = results_of(Path("outputs/own"))
    assert code == 0 and "done already" not in out and len(results) == 2
    assert len({result["test_loss"] for result in results.values()}) == 2  # the new code ran
    assert first in results.values()
    assert "done already" in cli(*words)[1]


def test_a_sweep_over_two_programs_is_shown_apart(cli, folder):
    """Seeds of one combination that ran with different code are two rows, named, never one mean."""
    words = (*QUICK, "model=custom", "model._target_=own_g.Net", "trust=[own_g]", "name=own", "-m")
    write(folder, {"own_g.py": "SCALE = 1.0\n" + NET})
    assert cli(*words, "optimizer=adam,sgd", "seed=0,1")[0] == 0
    assert "code" not in Path("outputs/own/results.csv").read_text().splitlines()[0].split(",")
    assert "different code" not in Path("outputs/own/report.html").read_text()
    write(folder, {"own_g.py": "SCALE = 9.0\n" + NET})
    assert cli(*words, "optimizer=adam,sgd", "seed=2,3,4")[0] == 0
    with Path("outputs/own/results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {(row["optimizer"], row["code"][:10]) for row in rows} == {("adam", "own_g.Net "), ("sgd", "own_g.Net ")}
    assert len({row["code"] for row in rows}) == 2
    page = Path("outputs/own/report.html").read_text()
    assert "10 runs, 4 combinations" in page and "run with different code" in page
    for code in {row["code"] for row in rows}:
        assert f"optimizer=adam: <b>{code}</b>" in page


@pytest.mark.parametrize(
    ("group", "text", "words"),
    [
        (
            "regularization",
            "# @package regularization.mine\n_target_: own_h.Mine\n",
            ("regularization=[mine]",),
        ),
        ("schedule", "_target_: own_h.Half\nwarmup: 0\nfloor: 0.0\n", ("schedule=mine",)),
        ("evaluation", "_target_: own_h.Hot\n", ("evaluation=mine",)),
        ("task", "_target_: own_h.Mine_Task\n", ("task=mine",)),
    ],
)
def test_every_group_counts(cli, folder, group, text, words):
    """A class of the user's own counts wherever it stands: a stack, a schedule, an evaluation, a task."""
    source = (
        "from runner.evaluation.standard import Standard\nfrom runner.regularization.base import Item\n"
        "from runner.task.train import Train\nfrom runner.schedule.base import Schedule\n"
        "class Hot(Standard):\n    pass\nclass Mine(Item):\n    pass\nclass Mine_Task(Train):\n    pass\n"
        "class Half(Schedule):\n    def decay(self, step):\n        return 0.5\n"
    )
    write(folder, {f"conf/{group}/mine.yaml": text, "own_h.py": source})
    command = ("--config-dir", "conf", *QUICK, *words, "trust=[own_h]", "name=own", "model=mlp")
    assert cli(*command)[0] == 0 and "done already" in cli(*command)[1]
    write(folder, {"own_h.py": source + "# edited\n"})
    assert cli(*command)[0] == 0
    results = results_of(Path("outputs/own")).values()
    assert len(results) == 2
    assert len({json.dumps(result["code"][group]) for result in results}) == 2
    assert len({result["training"] for result in results}) == (1 if group == "evaluation" else 2)


def test_an_evaluation_holds_the_code_of_the_network_that_it_asks(cli, folder):
    """task=evaluate of an edited network is asked again."""
    write(folder, {"own_i.py": "SCALE = 1.0\n" + NET})
    words = ("model=custom", "model._target_=own_i.Net")
    assert cli(*QUICK, *words, "trust=[own_i]", "name=own")[0] == 0
    ask = ("task=evaluate", "task.checkpoint=outputs/own/*", "trust=[own_i]", "name=asked", "log.tensorboard=false")
    assert cli(*ask)[0] == 0 and "done already" in cli(*ask)[1]
    write(folder, {"own_i.py": "SCALE = 3.0\n" + NET})
    assert cli(*ask)[0] == 0
    results = results_of(Path("outputs/asked")).values()
    assert len(results) == 2 and len({result["test_loss"] for result in results}) == 2


def test_a_worker_refuses_code_that_was_edited_after_the_command(cli, folder, monkeypatch):
    """A run whose module is edited between plan and start fails with the reason, and leaves no wrong number."""
    from runner.task import base

    write(folder, {"own_j.py": "SCALE = 1.0\n" + NET})
    monkeypatch.setattr(base, "edited", lambda planned: [name for group in planned.values() for name in group])
    code, _, _ = cli(*QUICK, "model=custom", "model._target_=own_j.Net", "trust=[own_j]", "name=own")
    result = result_of(Path("outputs/own"))
    assert code == 1 and result["status"] == "failed" and result["test_accuracy"] is None
    assert result["reason"] == "own_j.Net: edited after the command was typed; type it again"


def test_a_new_process_sees_the_edit(folder):
    """The same through the command line of a user, a process each."""
    write(folder, {"own_k/__init__.py": "", "own_k/net.py": "from .size import SCALE\n" + NET})
    words = [sys.executable, "-m", "runner", *QUICK, "model=custom", "model._target_=own_k.net.Net", "trust=[own_k]"]
    outputs = []
    for scale in ("1.0", "9.00"):
        write(folder, {"own_k/size.py": f"SCALE = {scale}\n"})
        done = subprocess.run(words, cwd=folder, capture_output=True, text=True, env=os.environ | {"COLUMNS": "200"})
        assert done.returncode == 0, done.stderr
        outputs.append(done.stdout)
    assert not any("done already" in out for out in outputs)
    assert len({result["test_loss"] for result in results_of(folder / "outputs/runs").values()}) == 2


def test_runs_without_recorded_code_are_told_from_those_with(cli, folder):
    """A folder from before digests were recorded does not join the mean of runs that have them."""
    words = (*QUICK, "model=custom", "model._target_=own_l.Net", "trust=[own_l]", "name=own", "-m", "seed=0,1")
    write(folder, {"own_l.py": "SCALE = 1.0\n" + NET})
    assert cli(*words)[0] == 0
    path = next(Path("outputs/own").glob("*/result.json"))
    result = json.loads(path.read_text())
    del result["code"]
    path.write_text(json.dumps(result))
    write_report(Path("outputs/own"))
    with Path("outputs/own/results.csv").open() as file:
        codes = {row["code"] for row in csv.DictReader(file)}
    assert len(codes) == 2 and "" in codes
    assert "all runs: <b>not recorded</b>, 1 run" in Path("outputs/own/report.html").read_text()
