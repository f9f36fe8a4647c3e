"""Fixtures of the photo tests: a folder of photos, and the keys to load it."""

import pytest

from runner.data import photo_cache as cache
from tests.shared.data_sets import folder


@pytest.fixture
def keys(tmp_path, monkeypatch):
    monkeypatch.setattr(cache, "SETTLED_NS", 0)  # else photos made this very second are read again
    return {"resize": 8, "size": 6, "cache_dir": str(tmp_path / "cache")}


@pytest.fixture
def root(tmp_path):
    return folder(tmp_path / "photos", train=5, val=2)
