"""Rules of wording: docstrings begin with what a caller gets, and a name says what it holds."""

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

import runner

ROOT = Path(runner.__file__).parent
MODULES = sorted(ROOT.rglob("*.py"))
RIDDLE = re.compile(r"(What|Whoever|Who|Whether|As)\b")
NAMES = {"found", "told", "said", "asked"}
# Options of different groups: a `_target_` is never renamed, because it is part of every fingerprint.
OPTIONS = {
    "GaussianNoise": {"augmentation/gaussian_noise.py", "regularization/gaussian_noise.py"},
    "Plateau": {"schedule/plateau.py", "surface/plateau.py"},
}


def names(node: ast.AST) -> Iterator[str]:
    """Yield the names that a node binds, reads or passes."""
    match node:
        case ast.Name(id=name) | ast.Attribute(attr=name) | ast.ClassDef(name=name) | ast.FunctionDef(name=name):
            yield name
        case ast.arg(arg=name) | ast.keyword(arg=str(name)) | ast.MatchAs(name=str(name)):
            yield name
        case ast.alias(name=name, asname=other):
            yield other or name.rpartition(".")[2]
        case ast.ExceptHandler(name=str(name)):
            yield name


def violations(source: str) -> list[str]:
    """Return the lines of a module that break a rule."""
    lines = []
    for node in ast.walk(ast.parse(source)):
        line = getattr(node, "lineno", 1)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
            text = ast.get_docstring(node) or ""
            if RIDDLE.match(text):
                lines.append(f"{line}: {text.splitlines()[0]}")
        lines += [f"{line}: {name}" for name in names(node) if name in NAMES]
    return lines


def test_docstrings_and_names():
    lines = {path.relative_to(ROOT).as_posix(): violations(path.read_text()) for path in MODULES}
    assert {path: broken for path, broken in lines.items() if broken} == {}


@pytest.mark.parametrize(
    "source",
    [
        '"""What is asked again."""',
        'class A:\n    """Whoever may end a run."""',
        'def f():\n    """Whether it ends."""',
        'def f():\n    """As the config says."""',
        "found = 1",
        "f(told=1)",
        "x.said",
        "def asked(): ...",
        "def f(*, found): ...",
        "import json as told",
    ],
)
def test_the_rules_find_a_violation(source):
    assert len(violations(source)) == 1


def test_no_two_classes_of_a_name():
    places = defaultdict(set)
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef):
                places[node.name].add(path.relative_to(ROOT).as_posix())
    assert {name: files for name, files in places.items() if len(files) > 1} == OPTIONS
