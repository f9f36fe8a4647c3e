"""Order in tests/: folders mirror the package, files share by tests/shared alone, and none is long."""

import ast
from pathlib import PurePosixPath

import pytest

from tests.shared.paths import ROOT

TESTS = ROOT / "tests"
FILES = sorted(path.relative_to(TESTS).as_posix() for path in TESTS.rglob("*.py"))
NO_BOX = {"commands", "shared", "stress"}  # folders of tests that mirror none of the package
LINES = 400  # at most


def imported(text: str) -> set[str]:
    """Return the dotted names that a module's text imports, in functions too."""
    names = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            start = "." * node.level + (f"{node.module}." if node.module else "")
            names |= {start + alias.name for alias in node.names}
    return names


def borrowed(text: str) -> list[str]:
    """Return the imports of test files and of conftest in a module's text."""
    parts = {name: name.split(".") for name in imported(text)}
    ours = {name: path for name, path in parts.items() if path[0] in ("tests", "", "conftest")}
    files = {name: path for name, path in ours.items() if path[:2] != ["tests", "shared"]}
    return sorted(name for name, path in files.items() if any(p == "conftest" or p.startswith("test_") for p in path))


def test_no_file_imports_a_test_file():
    """Helpers of several files lie in tests/shared, fixtures in a conftest.py."""
    found = {file: borrowed((TESTS / file).read_text()) for file in FILES}
    assert {file: names for file, names in found.items() if names} == {}


@pytest.mark.parametrize(
    ("line", "count"),
    [
        ("from tests.data.test_photos import photo", 1),
        ("def late():\n    import tests.test_gpu", 1),
        ("from tests import test_gpu", 1),
        ("from . import test_gpu", 1),
        ("from .test_gpu import GPU", 1),
        ("from tests.conftest import cli", 1),
        ("from conftest import cli", 1),
        ("from tests.shared.training import make", 0),
        ("from torch.testing import assert_close", 0),
    ],
)
def test_an_import_of_a_test_file_is_found(line, count):
    assert len(borrowed(line)) == count


def test_no_file_is_long():
    lengths = {file: len((TESTS / file).read_text().splitlines()) for file in FILES}
    assert {file: length for file, length in lengths.items() if length > LINES} == {}


def test_folders_are_those_of_the_package():
    """Each folder is one of runner/, or one of the few for what belongs to no single one."""
    folders = {PurePosixPath(file).parent.as_posix() for file in FILES}
    assert {folder for folder in folders - NO_BOX if not (ROOT / "runner" / folder).is_dir()} == set()
    assert {folder for folder in folders if f"{folder}/__init__.py" not in ("./__init__.py", *FILES)} == set()
