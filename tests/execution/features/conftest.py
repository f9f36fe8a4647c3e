"""Fixtures of the feature cache."""

import pytest

from runner.execution.features import cache


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """Where files of this test are kept, and of no other."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "runner"


@pytest.fixture
def through(monkeypatch):
    """How many images went through frozen stages to be kept, since it was last asked."""
    count, enters = [0], cache.compute_features

    def counted(model, cut, images):
        count[0] += len(images)
        return enters(model, cut, images)

    def asked():
        found, count[0] = count[0], 0
        return found

    monkeypatch.setattr(cache, "compute_features", counted)
    return asked
