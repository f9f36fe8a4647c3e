"""Data: how photos are remembered and streamed."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from runner.core.errors import ConfigError
from runner.data import decode, photos
from runner.data import photo_cache as cache
from runner.data.image_folder import load
from runner.data.prepare import prepare
from runner.data.stream import worker_count
from runner.store import cache as store_cache
from tests.shared.data_sets import content, photo
from tests.shared.paths import ROOT

# Python 3.12 and later warn of a fork beside torch's threads; a loader's workers use none of them.
forking = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")


def test_cache_is_used(root, keys, monkeypatch):
    """The second time no photo is decoded, nor even read; a changed one is noticed."""
    first = load(root, **keys)
    with monkeypatch.context() as patch:
        patch.setattr(cache, "in_order", None)
        read = []
        hashed = decode.content_hash
        patch.setattr(decode, "content_hash", lambda path: read.append(Path(path).name) or hashed(path))
        assert content(load(root, **keys).train) == content(first.train)
        assert read == []
    photo(Path(root) / "train" / "a" / "0.png", 99, (16, 16))
    changed = load(root, **keys)
    assert content(changed.train) != content(first.train)
    assert content(changed.test) == content(first.test)


@pytest.mark.parametrize("kind", ["photos", "files"])
@pytest.mark.parametrize("damage", ["flip", "cut", "remove"])
def test_damaged_cache(root, keys, caplog, kind, damage):
    """A damaged file of the cache is made again, with a warning, and never used."""
    first = content(load(root, **keys).train)
    (file,) = Path(keys["cache_dir"]).glob(f"{kind}-*.cache")
    whole = file.read_bytes()
    changed = bytearray(whole)
    changed[len(whole) // 2] ^= 1
    file.write_bytes({"flip": bytes(changed), "cut": whole[: len(whole) // 2], "remove": b""}[damage])
    if damage == "remove":
        file.unlink()
    assert content(load(root, **keys).train) == first
    assert file.read_bytes() == whole
    assert ("making it again" in caplog.text) == (damage != "remove")


def test_unwritable_cache(root, keys, tmp_path, caplog):
    """Where the cache cannot be written the photos are decoded into memory, with a warning."""
    (tmp_path / "file").touch()
    loaded = load(root, **keys | {"cache_dir": str(tmp_path / "file" / "cache")})
    assert "cannot be written" in caplog.text
    assert content(loaded.train) == content(load(root, **keys).train)


def test_full_disk(root, keys, caplog, request):
    """A disk that runs full while the cache is written ends in memory, with a warning."""
    expected = content(load(root, **keys | {"cache_dir": f"{root}/../other"}).train)
    request.getfixturevalue("full_disk")
    assert content(load(root, **keys).train) == expected
    assert caplog.text.count("No space left") == 1  # though the hashes and the pixels are entries
    assert list(Path(keys["cache_dir"]).glob("*[!k]")) == []  # but a lock file


def test_more_than_fits(root, keys, monkeypatch):
    """Photos that neither the cache nor memory holds are refused, with what to change."""

    def lacking(size, write):
        raise MemoryError

    monkeypatch.setattr(store_cache, "in_memory", lacking)
    monkeypatch.setenv("RUNNER_CACHE_GB", "1e-6")
    with pytest.raises(ConfigError, match=r"2.69e-06 GB of photos fit neither .*raise RUNNER_CACHE_GB, or set data"):
        load(root, **keys)
    load(root, **keys, resident=False)


def test_two_processes_at_once(root, keys):
    """Two processes that build the same cache at the same time both succeed and leave one whole cache."""
    code = f"print(load({root!r}, **{keys!r}).train.images.sum().item())"
    code = f"from runner.data.image_folder import load; {code}"
    start = {"stdout": subprocess.PIPE, "text": True, "cwd": ROOT}
    both = [subprocess.Popen([sys.executable, "-W", "error", "-c", code], **start) for _ in range(2)]
    said = {process.communicate(timeout=60)[0] for process in both}
    assert [process.returncode for process in both] == [0, 0]
    assert said == {f"{load(root, **keys).train.images.sum()}\n"}
    left = sorted(path.name.partition("-")[0] for path in Path(keys["cache_dir"]).iterdir())
    assert left == [".runner", "files", "photos"]  # no temporary file, nor the lock of an entry


def test_no_warning_and_no_writing_back(root, keys):
    """Mapped pixels can be written to in memory without a warning, and the file stays as it was."""
    loaded = load(root, **keys)
    (store,) = Path(keys["cache_dir"]).glob("photos-*")
    before = store.read_bytes()
    loaded.train._images.zero_()
    assert store.read_bytes() == before


@forking
@pytest.mark.parametrize("workers", [0, 1])
def test_streamed_equals_resident(root, keys, workers):
    """Streamed photos have the bits, statistics and identity of resident ones, and draw no random number."""
    resident = prepare(load(root, **keys), val_fraction=0.2)
    state = torch.get_rng_state()
    streamed = prepare(load(root, **keys, resident=False, workers=workers), val_fraction=0.2)
    assert content(streamed.train) == content(resident.train)
    assert content(streamed.val) == content(resident.val)
    assert torch.equal(streamed.mean, resident.mean)
    assert torch.equal(streamed.std, resident.std)
    assert streamed.identity == resident.identity
    assert torch.equal(state, torch.get_rng_state())


@forking
@pytest.mark.parametrize("workers", [0, 1])
def test_vanished_photo(root, keys, workers):
    """A photo that vanishes while it is streamed is named."""
    split = load(root, **keys, resident=False, workers=workers).train
    (Path(root) / "train" / "b" / "1.png").unlink()
    with pytest.raises(OSError, match=r"train/b/1.png': No such file"):
        content(split)


@forking
def test_parallel_decoding(root, keys, tmp_path, monkeypatch):
    """Many photos are decoded in worker processes, to the same pixels."""
    alone = content(load(root, **keys).train)
    monkeypatch.setattr(cache, "IN_PROCESS", 1)
    monkeypatch.setattr(cache, "TASK", 3)
    assert content(load(root, **keys | {"cache_dir": str(tmp_path / "other"), "workers": 1}).train) == alone


def test_budget(root, keys):
    """resident=auto streams what does not fit the budget, resident=true keeps it all the same."""
    needed = 14 * 3 * 8 * 8 / 1e9
    names = [
        type(load(root, **keys, budget_gb=budget, resident=resident).train).__name__
        for budget, resident in (
            (needed, "auto"),
            (needed * 0.99, "auto"),
            (needed * 0.99, True),
            (None, "auto"),
        )
    ]
    assert names == ["ResidentSplit", "StreamedSplit", "ResidentSplit", "ResidentSplit"]
    assert photos.available_memory() > 1e6
    assert worker_count(3) == 3
    assert worker_count("auto") != 1
