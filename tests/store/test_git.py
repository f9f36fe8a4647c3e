"""The state of the repositories that a command was typed with, in result.json and on the report."""

import hashlib
import json
import os
import subprocess
from pathlib import Path

import pytest

from runner.report import write_report
from runner.store import git
from tests.shared.results import result_of, results_of

QUICK = ("model=mlp", "epochs=1", "log.images=0", "log.tensorboard=false", "data.limit=200", "name=first")


def ask(folder: Path, *words: str) -> str:
    names = ("-c", "user.name=n", "-c", "user.email=e@example.org", "-c", "protocol.file.allow=always")
    done = subprocess.run(["git", "-C", str(folder), *names, *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with one commit, in which the command is typed; the runner's own checkout is left out."""
    monkeypatch.setattr(git, "is_installed", lambda place: str(place) == git.runner.__file__)
    monkeypatch.chdir(tmp_path)
    ask(tmp_path, "init", "-q")
    (tmp_path / "notes.txt").write_text("one\n")
    ask(tmp_path, "add", ".")
    ask(tmp_path, "commit", "-qm", "first")
    return tmp_path


def here(folder: Path, keep: bool = True, sweep: str = "outputs/first") -> dict:
    (folder / sweep).mkdir(parents=True, exist_ok=True)
    (state,) = git.record(folder / sweep, [], keep)
    return state


def test_a_clean_repository(cli, repository):
    """Commit, and nothing else; what the runner itself writes there is no change, the second command's neither."""
    for seed in (0, 1):
        assert cli(*QUICK, f"seed={seed}")[0] == 0
    for result in results_of(Path("outputs/first")).values():
        assert result["git_commit"] == ask(repository, "rev-parse", "HEAD")
        (state,) = result["git"]
        assert (state["uses"], state["dirty"], state["untracked"], state["patch"]) == (["."], False, [], None)
    assert ask(repository, "status", "--porcelain") == "?? outputs/"


def test_changes_are_kept_once_a_sweep_and_make_the_state_again(cli, repository):
    """A sweep in a changed repository keeps one patch, which makes the changes again on the commit; the report names
    it."""
    (repository / "notes.txt").write_text("two\n")
    (repository / "bytes.bin").write_bytes(bytes(range(256)))
    ask(repository, "add", "bytes.bin")
    (repository / "new file.py").write_text("x")
    assert cli("-m", *QUICK, "seed=0,1")[0] == 0
    results = list(results_of(Path("outputs/first")).values())
    assert results[0]["git"] == results[1]["git"]
    (state,) = results[0]["git"]
    assert state["dirty"] and state["untracked"] == ["new file.py"] and state["untracked_count"] == 1
    (patch,) = Path("outputs/first/.patches").iterdir()
    assert state["patch"] == f".patches/{patch.name}" and state["patch_bytes"] == patch.stat().st_size
    assert state["patch_sha256"] == hashlib.sha256(patch.read_bytes()).hexdigest()
    clone = repository.parent / f"{repository.name}-clone"
    ask(repository, "clone", "-q", str(repository), str(clone))
    ask(clone, "apply", str(patch.resolve()))
    assert (clone / "notes.txt").read_text() == "two\n" and (clone / "bytes.bin").read_bytes() == bytes(range(256))
    page = Path("outputs/first/report.html").read_text()
    assert f"{state['commit'][:10]} (.), uncommitted changes ({state['patch']}" in page and "1 untracked" in page


def test_the_report_says_which_runs_came_from_which_state(cli, repository):
    """Runs before and after a commit are listed under their states."""
    for seed in (0, 1, 2):
        assert cli(*QUICK, f"seed={seed}")[0] == 0
        if seed == 0:
            ask(repository, "commit", "-q", "--allow-empty", "-m", "second")
    page = Path("outputs/first/report.html").read_text().partition("<dt>git</dt>")[2]
    first, second = ask(repository, "rev-parse", "HEAD~", "HEAD").split()
    later, earlier = page.index(f"{second[:10]} (.)"), page.index(f"{first[:10]} (.)")
    assert later < earlier
    for name, result in results_of(Path("outputs/first")).items():
        assert (earlier < page.index(name)) == (result["git_commit"] == first)


def test_a_large_patch_is_not_kept_but_known(repository, monkeypatch):
    """Over the limit the digest and the size of the whole patch are recorded, and the reason."""
    monkeypatch.setattr(git, "LIMIT", 1000)
    (repository / "notes.txt").write_text("".join(f"{i}\n" for i in range(100_000)))
    state = here(repository)
    assert state["patch"] is None and state["patch_bytes"] > 500_000 and len(state["patch_sha256"]) == 64
    assert "over the limit of 1,000" in state["problem"] and not (repository / "outputs/first/.patches").exists()
    assert len(json.dumps(state)) < 1000


def test_log_patch_false_keeps_none(cli, repository):
    """The key turns the storing off, and makes no other run."""
    (repository / "notes.txt").write_text("a secret\n")
    assert cli(*QUICK, "log.patch=false")[0] == 0
    (state,) = result_of(Path("outputs/first"))["git"]
    assert state["dirty"] and state["patch"] is None and "log.patch=false" in state["problem"]
    assert not Path("outputs/first/.patches").exists()
    assert "done already" in cli(*QUICK)[1]


def test_untracked_files_are_named_up_to_a_number(repository):
    """Many new files are counted."""
    for i in range(30):
        (repository / f"f{i:02}.py").write_text("")
    state = here(repository)
    assert state["dirty"] and state["untracked_count"] == 30 and len(state["untracked"]) == git.NAMED


@pytest.mark.parametrize("sweep", ["outputs/first", "results/first", "deep/er/first"])
def test_our_outputs_are_no_changes(repository, sweep):
    """Folders of this sweep and of those beside it are left out, tracked or not; other files there are not."""
    for name in (sweep, f"{sweep}-earlier"):
        (repository / name / "run").mkdir(parents=True)
        (repository / name / "results.csv").write_text("run,status\n")
    assert here(repository, sweep=sweep)["dirty"] is False
    ask(repository, "add", ".")
    ask(repository, "commit", "-qm", "results too")
    (repository / sweep / "results.csv").write_text("run,status\nmore\n")
    assert here(repository, sweep=sweep)["dirty"] is False
    (repository / "mine.py").write_text("")
    assert here(repository, sweep=sweep)["untracked"] == ["mine.py"]


def test_before_the_first_commit(tmp_path, monkeypatch):
    """No commit is no error: what is staged is the patch."""
    monkeypatch.setattr(git, "is_installed", lambda place: str(place) == git.runner.__file__)
    monkeypatch.chdir(tmp_path)
    ask(tmp_path, "init", "-q")
    (tmp_path / "a.txt").write_text("a\n")
    ask(tmp_path, "add", "a.txt")
    state = here(tmp_path)
    assert state["commit"] is None and state["dirty"] and state["patch"] and state["problem"] is None
    assert "+a" in (tmp_path / "outputs/first" / state["patch"]).read_text()


def test_bytes_that_are_no_text(repository):
    """Names and contents that are no UTF-8 are kept as they are; result.json stays JSON."""
    (repository / "notes.txt").write_bytes(b"caf\xe9\n")
    Path(os.fsdecode(bytes(repository) + b"/caf\xe9.txt")).write_text("x")
    state = here(repository)
    assert b"caf\xe9" in (repository / "outputs/first" / state["patch"]).read_bytes()
    assert state["untracked"] == ["caf\\xe9.txt"] and json.loads(json.dumps(state).encode()) == state


def test_a_worktree_and_a_submodule(repository, tmp_path_factory):
    """A detached worktree has its own state; changes inside a submodule are in the patch."""
    tree, other = tmp_path_factory.mktemp("tree") / "t", tmp_path_factory.mktemp("other")
    ask(repository, "worktree", "add", "-q", "--detach", str(tree))
    (tree / "notes.txt").write_text("in the tree\n")
    os.chdir(tree)
    state = here(tree)
    assert state["root"] == str(tree) and state["dirty"] and state["commit"] == ask(tree, "rev-parse", "HEAD")
    os.chdir(repository)
    ask(other, "init", "-q")
    (other / "inner.txt").write_text("one\n")
    ask(other, "add", ".")
    ask(other, "commit", "-qm", "inner")
    ask(repository, "submodule", "--quiet", "add", str(other), "sub")
    ask(repository, "commit", "-qm", "with a submodule")
    (repository / "sub/inner.txt").write_text("changed inside\n")
    state = here(repository)
    assert state["dirty"] and "+changed inside" in (repository / "outputs/first" / state["patch"]).read_text()


def test_the_users_settings_of_git_change_nothing(repository, monkeypatch):
    """Colors, external diff programs, other prefixes, monitors and variables of a hook are left out of the question."""
    (repository / "notes.txt").write_text("two\n")
    plain = here(repository)["patch_sha256"]
    for key, value in (
        *(("color.ui", "always"), ("diff.external", "false"), ("diff.noprefix", "true")),
        *(("diff.mnemonicPrefix", "true"), ("core.fsmonitor", "touch ran-a-program")),
    ):
        ask(repository, "config", key, value)
    monkeypatch.setenv("GIT_DIR", "/nowhere")
    assert here(repository)["patch_sha256"] == plain and not (repository / "ran-a-program").exists()


def test_no_repository_no_git_and_one_that_git_refuses(tmp_path, monkeypatch, repository):
    """None is recorded as none; what git does not say has its reason; nothing raises."""
    folder = tmp_path.parent / f"{tmp_path.name}-plain"
    folder.mkdir()
    monkeypatch.chdir(folder)
    assert git.record(folder, ["json", "no_such_package"], True) == []
    monkeypatch.chdir(repository)
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    state = here(repository)
    assert state["commit"] is None and "dubious ownership" in state["problem"]
    monkeypatch.delenv("GIT_TEST_ASSUME_DIFFERENT_OWNER")
    monkeypatch.setattr(git, "SECONDS", 1e-9)
    state = here(repository)
    assert "took more than" in state["problem"]
    monkeypatch.setenv("PATH", "")
    assert git.record(folder, [], True) == [] and git.commit([]) is None


def test_trusted_packages_have_their_own_repository(cli, repository, tmp_path_factory, monkeypatch):
    """The repository of a package that `trust` names is recorded beside that where the command was typed."""
    other = tmp_path_factory.mktemp("other")
    (other / "trusted_m").mkdir()
    (other / "trusted_m/__init__.py").write_text("")
    ask(other, "init", "-q")
    ask(other, "add", ".")
    ask(other, "commit", "-qm", "package")
    (other / "trusted_m/__init__.py").write_text("x = 1\n")
    monkeypatch.syspath_prepend(str(other))
    assert cli(*QUICK, "trust=[trusted_m]")[0] == 0
    result = result_of(Path("outputs/first"))
    states = {tuple(state["uses"]): state for state in result["git"]}
    assert set(states) == {(".",), ("trusted_m",)}
    assert states["trusted_m",]["commit"] == ask(other, "rev-parse", "HEAD") and states["trusted_m",]["dirty"]
    assert result["git_commit"] == states[".",]["commit"] == ask(repository, "rev-parse", "HEAD")


def test_the_runners_own_checkout(cli, tmp_path):
    """Typed outside of any repository, the runner's own checkout is named, where it is one."""
    if not (Path(git.runner.__file__).parents[1] / ".git").exists():
        pytest.skip("the runner is installed without a checkout")
    assert cli(*QUICK)[0] == 0
    result = result_of(Path("outputs/first"))
    (state,) = result["git"]
    assert state["uses"] == ["runner"]
    assert result["git_commit"] == ask(Path(git.runner.__file__).parent, "rev-parse", "HEAD")


def test_old_results_keep_their_commit_on_the_page(cli, repository):
    """A folder from before states were recorded shows what it has."""
    assert cli(*QUICK)[0] == 0
    path = next(Path("outputs/first").glob("*/result.json"))
    result = json.loads(path.read_text())
    del result["git"]
    path.write_text(json.dumps(result | {"git_commit": "0123abc"}))
    write_report(Path("outputs/first"))
    assert "0123abc" in Path("outputs/first/report.html").read_text()
