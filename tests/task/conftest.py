"""Finished runs for the tasks that read them."""

import pytest

from runner.__main__ import main
from tests.shared.finished_runs import QUICK, RUNS


@pytest.fixture(scope="session")
def runs(tmp_path_factory):
    """Small finished runs on the digits: `runs / NAME`."""
    root = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        for name, words in RUNS.items():
            assert main([*QUICK, *words, f"hydra.run.dir={name}"]) == 0, name
    return root
