"""What is composed by a second process, while torch is loaded, is what this one would compose."""

import shutil
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks beside nothing else")

UNIT = """
import os, sys, time
if "torch" in sys.argv:
    import torch
from runner.sweep.ahead import Ahead

def answer(question):
    return question * 2 if question != "bad" else 1 / 0, os.getpid()

ahead = Ahead(lambda: [1, 2, "bad", "x" * 100000], answer)
deadline = time.time() + 30
while ahead.take("x" * 100000) is None and time.time() < deadline and "torch" not in sys.argv:
    time.sleep(0.01)
while time.time() < deadline and "torch" not in sys.argv:  # the first one is answered last
    if (one := ahead.take(1)) is not None:
        break
else:
    one = None
print(one and (one[0], one[1] != os.getpid()), [found and found[0] for found in map(ahead.take, (2, "bad", 3, 1))])
"""

COMMAND = """
import os, sys, time
from runner.__main__ import main
from runner.sweep.ahead import Ahead
from runner.sweep.compose import Composer

calls, asked, take, first, seconds = [], Composer._asked, Ahead.take, [], float(sys.argv[1])
def told(self, question):
    calls.append(question)
    return asked(self, question)
def later(self, question):
    if not first:
        first.append(time.sleep(seconds))
    return take(self, question)
Composer._asked, Ahead.take = told, later
code = main(sys.argv[2:])
print("asked here:", len(calls))
sys.exit(code)
"""


def said(tmp_path, script, *words):
    (tmp_path / "script.py").write_text(script)
    command = [sys.executable, "script.py", *words]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    return done.returncode, done.stdout, done.stderr


def test_answers_come_from_the_other_process(tmp_path):
    """Each once, whole however large; what failed there, and what was not asked, is not there."""
    assert said(tmp_path, UNIT)[1] == "(2, True) [4, None, None, None]\n"


def test_where_torch_is_loaded_nobody_is_asked(tmp_path):
    assert said(tmp_path, UNIT, "torch")[1] == "None [None, None, None, None]\n"


SWEEP = ("-m", "optimizer=sgd,adam", "schedule=constant,cosine", "optimizer.lr=0.1,0.2", "data.limit=200")


def test_a_sweep_is_planned_as_it_would_be_here(tmp_path, cli):
    """The same fingerprints, configs and folders; and nothing was composed twice."""
    words = (*SWEEP, "epochs=1", "model=mlp", "log.images=0", "threads=1", "hydra.launcher.workers=0")
    code, out, err = said(tmp_path, COMMAND, "4", *words)
    assert code == 0 and "asked here: 0" in out, err
    there = plans(tmp_path)
    shutil.rmtree(tmp_path / "outputs")
    assert cli(*words)[0] == 0
    assert len(there) == 8 and there == plans(tmp_path)


def plans(folder):
    """Of each run its folder's name, its config and what Hydra left of it."""
    return {
        path.parent.name: [path.read_text(), *(file.read_text() for file in sorted((path.parent / ".hydra").iterdir()))]
        for path in (folder / "outputs" / "runs").glob("*/config.yaml")
    }


def test_a_word_that_cannot_be_is_refused_once(tmp_path):
    """The other process says nothing."""
    code, _, err = said(tmp_path, COMMAND, "0", "-m", "optimizer=sgd,adm")
    assert code == 2 and err.count("no such option") == 1 and "did you mean 'adam'" in err
