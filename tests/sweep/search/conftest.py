"""Small searches in this process."""

import pytest

import runner.sweep.run.launch
import runner.sweep.search.search
from runner.report import write_report
from tests.shared.searches import SMALL


@pytest.fixture
def search(cli, monkeypatch):
    """`search(total, words...)`: a small search in this process; with `report` also the report's page."""
    for module in (runner.sweep.search.search, runner.sweep.run.launch):
        monkeypatch.setattr(module, "write_report", lambda folder: folder)

    def run(total: int, *words: str, report: bool = False) -> tuple[int, str, str]:
        if report:
            monkeypatch.setattr(runner.sweep.search.search, "write_report", write_report)
        small = [word for word in SMALL if not any(w.startswith(word.split("=")[0] + "=") for w in words)]
        return cli("-m", "hydra/sweeper=search", f"hydra.sweeper.n_trials={total}", *small, *words)

    return run
