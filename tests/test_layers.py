"""The plan of the house (docs/architecture.md): imports go down, never up, and no room is too large."""

import ast
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.shared.paths import ROOT

LINT = [sys.executable, "-c", "from importlinter.cli import lint_imports_command as lint; lint()", "--no-cache"]
MODULES = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "runner").rglob("*.py"))
LINES, FUNCTION = 250, 60  # at most


@pytest.fixture
def house(tmp_path):
    """A copy of the packages and of the contracts in pyproject.toml."""
    for name in ("runner", "hydra_plugins"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("*.npz", "__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def lint(folder: Path) -> tuple[int, str]:
    done = subprocess.run(LINT, cwd=folder, capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


def test_imports_go_down(house):
    """Those for type checking and in functions, too; without exceptions."""
    code, out = lint(house)
    assert (code, "5 kept, 0 broken" in out) == (0, True), out
    assert "ignore_imports" not in (ROOT / "pyproject.toml").read_text()


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("core/text.py", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from runner.store import files\n"),
        ("train/state.py", "def late():\n    from runner.execution import eager\n"),
        ("tracking/events.py", "from runner.schedule.base import Schedule\n"),
        ("sweep/compose/argv.py", "import runner.sweep.plan.plan\n"),
    ],
)
def test_an_import_that_goes_up_is_found(house, module, line):
    path = house / "runner" / module
    path.write_text(f"{path.read_text()}\n\n{line}")
    code, out = lint(house)
    assert code == 1 and "broken" in out and "0 broken" not in out, out


def test_two_modules_stand_at_the_root():
    assert sorted(path.name for path in (ROOT / "runner").glob("*.py")) == ["__init__.py", "__main__.py"]


@pytest.mark.parametrize("module", MODULES)
def test_no_module_and_no_function_is_too_long(module):
    text = (ROOT / module).read_text()
    functions = {
        node.name: node.end_lineno - node.lineno + 1
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    assert len(text.splitlines()) <= LINES
    assert {name: length for name, length in functions.items() if length > FUNCTION} == {}
