"""The cache: what is kept, what is evicted, what is damaged, and several processes at once."""

import gc
import os
import signal
import subprocess
import sys
from types import SimpleNamespace

import pytest

from runner.core.errors import ConfigError
from runner.store import cache as module
from runner.store.cache import Cache, limit, name, open_cache
from tests.shared.data_sets import mnist, photo
from tests.shared.paths import ROOT
from tests.shared.results import result_of

SMALL = ("model=mlp", "model.hidden=[8]", "epochs=1", "batch_size=16", "threads=1", "log.tensorboard=false")


def made(cache, key, size=100, byte=b"x"):
    """An entry of `size` bytes, and the number of its calls to `make`."""
    calls = []

    def make():
        calls.append(key)
        return size, lambda put: put(byte * size) or {"key": key}

    return cache.get(name("scans", key), make), len(calls)


def keys(cache):
    """What is kept, by asking; in no order."""
    return {key for key in range(10) if (cache.folder / f"{name('scans', key)}.cache").exists()}


def use(cache, key, moment):
    """Set the time of an entry's last use."""
    os.utime(cache.folder / f"{name('scans', key)}.cache", (moment, moment))


def python(code, *argv):
    """Start a process that has a folder, its first argument."""
    head = "import os, pathlib, sys; from runner.store.cache import Cache, name; folder = pathlib.Path(sys.argv[1])\n"
    start = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "cwd": ROOT}
    return subprocess.Popen([sys.executable, "-W", "error", "-c", head + code, *map(str, argv)], **start)


def test_kept_and_read(tmp_path):
    """The second time nothing is made; payload and content are those of the first, also in another process."""
    cache = Cache(tmp_path / "new" / "folder")
    first, calls = made(cache, 1)
    again, none = made(cache, 1, byte=b"y")
    assert (calls, none) == (1, 0)
    assert bytes(first.payload) == bytes(again.payload) == b"x" * 100
    assert first.content == again.content == {"key": 1}
    assert (first.is_new, again.is_new) == (True, False)
    again.payload[0] = 7  # copy-on-write
    assert bytes(made(cache, 1)[0].payload) == b"x" * 100


@pytest.mark.parametrize("payload", [b"", b"\n", b"\n\n{}\n", bytes(range(256))])
def test_any_payload(tmp_path, payload):
    """Line breaks and zeros in it are no matter, nor is its absence."""
    cache = Cache(tmp_path)
    for _ in range(2):
        entry = cache.get(name("scans", 1), lambda: (len(payload), lambda put: put(payload)))
        assert bytes(entry.payload) == payload and entry.content is None


def test_without_a_folder(tmp_path, monkeypatch):
    """All is in memory, and made each time; so it is with a limit of 0."""
    monkeypatch.setenv("RUNNER_CACHE_GB", "0")
    for cache in (Cache(None), open_cache(str(tmp_path / "none"))):
        for _ in range(2):
            entry, calls = made(cache, 1)
            assert calls == 1 and bytes(entry.payload) == b"x" * 100 and entry.content == {"key": 1}
        cache.remove(name("scans", 1))
    assert list(tmp_path.iterdir()) == []


def test_names():
    """Other keys, other names."""
    names = {name("scans", 1), name("scans", "1"), name("photos", 1), name("scans", 1, 2), name("scans", [1, 2])}
    assert len(names) == 5 and all(module.OURS.fullmatch(f"{one}.cache") for one in names)


# -- the limit ------------------------------------------------------------------------------------------------------


def test_unused_for_longest_goes_first(tmp_path):
    """Whatever was made first: a hit is a use."""
    cache = Cache(tmp_path, 800)
    for key in range(4):
        made(cache, key)
        use(cache, key, 1000 + key)
    made(cache, 0)  # is used now
    made(cache, 4)
    assert keys(cache) == {0, 2, 3, 4}
    made(cache, 5, size=300)
    assert keys(cache) == {0, 4, 5}


def test_the_limit_is_of_all_kinds(tmp_path):
    """Entries, what a killed process left and entries of the format before count, and go; nothing else does."""
    old = f"{1:032x}"
    ours = [
        *(f"photos-{old}.npy", f"photos-{old}.json", f"files-{old}.json", f"features-{old}.bin"),
        *(f"arrays-{old}-x_train.npy", f"arrays-{old}.json", f"features-{old}.lock", f".scans-{old}.cache.k3_a8x0q"),
    ]
    foreign = [
        *("photos-mine.npy", f"photos-{old}.jpg", f"my-photos-{old}.npy", f"photos-{old}.npy.bak", "notes.txt"),
        *(f"arrays-{old}-z_train.npy", f"others-{old}.cache", f"photos-{old[:-1]}.cache"),
    ]
    for moment, file in enumerate(ours + foreign):
        (tmp_path / file).write_bytes(b"x" * 1000)
        os.utime(tmp_path / file, (moment, moment))
    (tmp_path / f"photos-{2:032x}.cache").mkdir()  # somebody's
    (tmp_path / f"photos-{3:032x}.cache").symlink_to(tmp_path / "notes.txt")
    (tmp_path / "inductor").mkdir()
    made(Cache(tmp_path, 3200), 1)
    left = {path.name for path in tmp_path.iterdir()} - {".runner-cache.lock"}
    assert left == {
        *foreign,
        *ours[-3:],
        *(f"photos-{2:032x}.cache", f"photos-{3:032x}.cache", "inductor", f"{name('scans', 1)}.cache"),
    }


def test_larger_than_the_limit(tmp_path, caplog):
    """It is in memory, with one warning, and nothing is evicted for it."""
    cache = Cache(tmp_path, 350)
    made(cache, 1)
    for _ in range(2):
        entry, calls = made(cache, 2, size=351)
        assert calls == 1 and len(entry.payload) == 351
    assert keys(cache) == {1}
    assert caplog.text.count("an entry takes 4.15e-07 GB, and RUNNER_CACHE_GB=3.5e-07") == 1


def test_what_is_in_use_stays(tmp_path, caplog):
    """Here and in another process, as long as the payload is; without room, what is new is in memory."""
    cache = Cache(tmp_path, 530)
    code = """
entry = Cache(folder).get(name("scans", 1), lambda: (100, lambda put: put(b"x" * 100)))
print("ready", flush=True)
input()
"""
    other = python(code, tmp_path)
    assert other.stdout.readline() == "ready\n"
    mine, _ = made(cache, 2)
    use(cache, 1, 1)
    use(cache, 2, 2)
    made(cache, 3)  # another fits beside them
    use(cache, 3, 3)
    made(cache, 4)
    assert keys(cache) == {1, 2, 4}
    entry, _ = made(cache, 5, size=200)
    assert keys(cache) == {1, 2} and bytes(entry.payload) == b"x" * 200
    assert "all of it is in use" in caplog.text
    other.communicate("\n", timeout=60)
    made(cache, 5, size=200)
    assert keys(cache) == {2, 5}
    del mine
    made(cache, 6, size=200)
    assert keys(cache) == {6}


@pytest.mark.parametrize("text", ["abc", "-1", "nan"])
def test_a_limit_that_is_none(cli, monkeypatch, text):
    """It is refused before anything runs, also where no cache is opened before a run."""
    monkeypatch.setenv("RUNNER_CACHE_GB", text)
    with pytest.raises(ConfigError):
        limit()
    code, out, err = cli(*SMALL, "data.limit=50", "transfer.freeze_depth=all")
    assert (code, out) == (2, "")
    assert err == f"runner: RUNNER_CACHE_GB={text}: no number of gigabytes; type RUNNER_CACHE_GB=50, or " + (
        "RUNNER_CACHE_GB=0 for no cache\n"
    )


@pytest.mark.parametrize(("text", "size"), [("", 50e9), ("0.5", 5e8), ("inf", float("inf")), ("1e3", 1e12)])
def test_limits(monkeypatch, text, size):
    """In gigabytes; none is the default."""
    monkeypatch.setenv("RUNNER_CACHE_GB", text)
    assert limit() == size
    monkeypatch.delenv("RUNNER_CACHE_GB")
    assert limit() == 50e9


# -- what goes wrong ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("damage", ["digest", "payload", "content", "cut", "head", "empty", "longer"])
def test_damage(tmp_path, caplog, damage):
    """Any other byte is noticed; the entry is made again."""
    cache = Cache(tmp_path)
    made(cache, 1)
    path = tmp_path / f"{name('scans', 1)}.cache"
    whole = path.read_bytes()
    changed = bytearray(whole)
    changed[{"digest": 0, "payload": 100, "content": -2}.get(damage, 0)] ^= 1
    pieces = {"cut": whole[:-1], "head": whole[:64], "empty": b"", "longer": whole + b" "}
    path.write_bytes(pieces.get(damage, bytes(changed)))
    entry, calls = made(cache, 1)
    assert calls == 1 and bytes(entry.payload) == b"x" * 100
    assert path.read_bytes() == whole
    assert caplog.text.count("is damaged; making it again") == 1


@pytest.mark.parametrize("moment", ["at once", "later"])
def test_full_disk(tmp_path, request, monkeypatch, caplog, moment):
    """Nothing is left half-written, and the warning is said once."""
    cache = Cache(tmp_path)
    if moment == "at once":
        monkeypatch.setattr(module.shutil, "disk_usage", lambda _: SimpleNamespace(free=150))
    else:
        request.getfixturevalue("full_disk")
    for key in (1, 2):
        entry, calls = made(cache, key)
        assert calls == 1 and bytes(entry.payload) == b"x" * 100
    assert [path.name for path in tmp_path.iterdir()] == [".runner-cache.lock"]
    assert caplog.text.count("No space left on device") == 1


def test_a_folder_that_vanishes(tmp_path):
    """It may be deleted at any time."""
    cache = open_cache(str(tmp_path / "cache"))
    (tmp_path / "cache").rmdir()
    made(cache, 1)
    assert keys(cache) == {1}


def test_a_failure_is_that_of_the_maker(tmp_path):
    """An error on the way is raised, and no file is left."""

    def write(put):
        put(b"x")
        raise ConfigError("broken")

    with pytest.raises(ConfigError, match="broken"):
        Cache(tmp_path).get(name("scans", 1), lambda: (100, write))
    assert [path.name for path in tmp_path.iterdir()] == [".runner-cache.lock"]


# -- several processes ----------------------------------------------------------------------------------------------


def test_one_makes_and_the_other_waits(tmp_path):
    """Of two processes that need an entry."""
    code = """
import time
def make():
    (folder / f"made-{os.getpid()}").touch()
    time.sleep(0.5)
    return 3, lambda put: put(b"abc")
print(bytes(Cache(folder).get(name("scans", 1), make).payload))
"""
    both = [python(code, tmp_path) for _ in range(2)]
    assert [process.communicate(timeout=60)[0] for process in both] == ["b'abc'\n"] * 2
    assert len(list(tmp_path.glob("made-*"))) == 1
    assert list(tmp_path.glob("*.lock")) == [tmp_path / ".runner-cache.lock"]


def test_the_limit_holds_with_two_writers(tmp_path):
    """After each entry of either, whole or half-written, no more lies there than is allowed."""
    code = """
import contextlib
for key in range(60):
    def make():
        def write(put):
            for _ in range(10):
                put(b"x" * 1000)
        return 10000, write
    Cache(folder, 50000).get(name("scans", key, sys.argv[2]), make)
    sizes = []
    for path in folder.glob("*scans-*"):
        with contextlib.suppress(FileNotFoundError):  # the other one has just removed it
            sizes.append(path.stat().st_size)
    assert sum(sizes) <= 50000 + 10 * 100, sizes
    print(key)
"""
    both = [python(code, tmp_path, number) for number in range(2)]
    outputs = [process.communicate(timeout=100)[0].split() for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert outputs == [[str(key) for key in range(60)]] * 2
    assert 3 <= len(list(tmp_path.glob("scans-*.cache"))) <= 5


def test_a_killed_writer(tmp_path):
    """Its locks are gone with it, and what it left goes when room is needed."""
    code = """
def write(put):
    put(b"x" * 50)
    print("writing", flush=True)
    input()
Cache(folder).get(name("scans", 1), lambda: (100, write))
"""
    other = python(code, tmp_path)
    assert other.stdout.readline() == "writing\n"
    cache = Cache(tmp_path, 300)
    made(cache, 2, size=120)  # reserved: 100 bytes and a digest
    assert keys(cache) == set() and len(list(tmp_path.glob(".scans-*"))) == 1
    other.send_signal(signal.SIGKILL)
    other.communicate(timeout=60)
    made(cache, 1)
    made(cache, 2, size=120)
    assert keys(cache) == {2} and list(tmp_path.glob(".scans-*")) == []


# -- as it is typed -------------------------------------------------------------------------------------------------


def test_three_users_share_a_limit(cli, tmp_path, monkeypatch):
    """Photos, arrays of torchvision's sets and features of frozen stages: each evicts what was unused for longest."""
    monkeypatch.setattr("runner.data.photo_cache.SETTLED_NS", 0)  # else files made this very second are not kept
    for number in range(40):
        part = "train" if number < 30 else "val"
        photo(tmp_path / "photos" / part / "ab"[number % 2] / f"{number}.png", number)
    mnist(tmp_path / "sets")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = tmp_path / "runner"
    sets = {
        "photos": ("data=image_folder", f"data.root={tmp_path}/photos", "data.resize=24", "data.size=24"),
        "arrays": ("data=mnist", f"data.root={tmp_path}/sets"),
        "features": ("data.limit=400", "transfer.freeze_depth=all"),
    }

    def kinds(words, name, size):
        monkeypatch.setenv("RUNNER_CACHE_GB", str(size / 1e9))
        code, _, err = cli(*SMALL, *words, f"name={name}")
        assert code == 0, err
        gc.collect()  # what was mapped is in use no more
        return {path.name.partition("-")[0] for path in folder.iterdir() if path.suffix == ".cache"}

    assert kinds(sets["photos"], "a", 1e9) == {"files", "photos"}
    assert kinds(sets["arrays"], "b", 1e9) == {"files", "photos", "arrays"}
    total = sum(path.stat().st_size for path in folder.iterdir())
    assert kinds(sets["features"], "c", total) == {"arrays", "features"}
    assert kinds(sets["photos"], "d", 85_000) == {"files", "photos"}
    first, second = (result_of(tmp_path / "outputs" / name) for name in "ad")
    assert first["val_loss"] == second["val_loss"] and first["fingerprint"] == second["fingerprint"]
