"""Git states of a command's repositories: commit, uncommitted changes, untracked files.

They are read once a command. A repository that git cannot read, or not in time, is recorded with the reason; a missing
one is no error. Importing this module imports no torch.
"""

import hashlib
import os
import shutil
import subprocess
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import runner
from runner.store.files import write_atomic
from runner.store.imports import find, is_installed, is_own

LIMIT = 1_000_000  # bytes; a larger patch is not kept
SECONDS = 5.0  # timeout of one git command
NAMED = 20  # untracked files listed by name
PATCHES = ".patches"  # in the sweep's folder
HERE, OWN = ".", "runner"  # uses of a repository: the working directory, the runner's own checkout
# no monitor, because a repository may name any program as one
OPTIONS = ("-c", "core.fsmonitor=false", "-c", "core.quotepath=off")
DIFF = ("diff", "--no-ext-diff", "--no-textconv", "--no-color", "--binary", "--submodule=diff")
PREFIXES = ("--src-prefix=a/", "--dst-prefix=b/")  # for `git apply`, whatever the user's settings are


@dataclass(frozen=True)
class State:
    """State of a repository when a command was typed; None for values that git did not report."""

    root: str
    uses: list[str]  # `.` where the command was typed, `runner`, and packages that `trust` names
    commit: str | None = None  # None also before the first commit
    dirty: bool | None = None
    untracked: list[str] = field(default_factory=list)  # the first `NAMED`
    untracked_count: int = 0
    patch: str | None = None  # file in the sweep's folder, for `git apply`
    patch_bytes: int = 0
    patch_sha256: str | None = None
    problem: str | None = None  # why a value is missing


class GitError(Exception):
    """Failed git command, with the reason."""


def record(folder: Path, trust: Sequence[str], keep: bool) -> list[dict[str, Any]]:
    """Return the state of each repository of a command, for `result.json`, and write its patch below `folder`.

    folder: of the sweep; its files do not count as changes. trust: the user's own packages. keep: whether to write
    patches.
    """
    if shutil.which("git") is None:
        return []
    uses: dict[Path, list[str]] = {}
    states = []
    for use, path in _checkouts(trust):
        try:
            root = _root(path)
        except GitError as error:
            states.append(State(str(path), [use], problem=str(error)))
            continue
        if root is not None:
            uses.setdefault(root, []).append(use)
    states += [_state(root, names, folder.absolute(), keep) for root, names in uses.items()]
    return [asdict(state) for state in states]


def commit(states: Iterable[Mapping[str, Any]]) -> str | None:
    """Return the commit of the working directory's repository, else of a trusted package's, else of the runner's."""
    order = sorted(states, key=lambda state: (HERE not in state["uses"], OWN in state["uses"]))
    return next((state["commit"] for state in order if state["commit"] is not None), None)


def _checkouts(trust: Sequence[str]) -> Iterator[tuple[str, Path]]:
    """Yield (use, folder) of checkouts: installed packages are none, even in an environment inside a repository."""
    yield HERE, Path.cwd()
    for package in dict.fromkeys(name.partition(".")[0] for name in trust):
        spec = find(package)
        if spec is not None and is_own(spec):
            locations = [spec.origin] if spec.has_location else list(spec.submodule_search_locations or [])
            yield package, Path(str(locations[0])).resolve().parent
    if not is_installed(runner.__file__):
        yield OWN, Path(runner.__file__).resolve().parent


def _root(folder: Path) -> Path | None:
    """Return the repository's folder; None where there is none. Raises `GitError`."""
    try:
        return Path(os.fsdecode(_run_git(folder, "rev-parse", "--show-toplevel").rstrip(b"\n")))
    except GitError as error:
        if "not a git repository" in str(error) or "must be run in a work tree" in str(error):
            return None
        raise


def _state(root: Path, uses: list[str], folder: Path, keep: bool) -> State:
    state = State(str(root), uses)
    try:
        try:
            head = _run_git(root, "rev-parse", "--verify", "--quiet", "HEAD").decode().strip()
            state = replace(state, commit=head)
        except GitError:  # no commit yet: compare with the empty tree
            head = _run_git(root, "hash-object", "-t", "tree", os.devnull).decode().strip()
        paths = ["--", ".", *(f":(top,exclude,literal){path}" for path in _outputs(root, folder))]
        listed = _run_git(root, "status", "--porcelain", "-z", "--untracked-files=normal", *paths).split(b"\0")
        entries = [entry.decode(errors="backslashreplace") for entry in listed if entry]
        new = [entry[3:] for entry in entries if entry.startswith("?? ")]
        state = replace(state, dirty=bool(entries), untracked=new[:NAMED], untracked_count=len(new))
        if len(entries) > len(new):
            state = _changed(state, root, folder, keep, [*DIFF, *PREFIXES, head, *paths])
    except GitError as error:
        return replace(state, problem=str(error))
    return state


def _changed(state: State, root: Path, folder: Path, keep: bool, arguments: list[str]) -> State:
    """Return the state with its patch; write the patch unless it is too large."""
    start, digest, size = _diff(root, arguments)
    state = replace(state, patch_bytes=size, patch_sha256=digest)
    if size > LIMIT:
        return replace(state, problem=f"the patch of {size:,} bytes is over the limit of {LIMIT:,} and is not kept")
    if not keep:
        return replace(state, problem="the patch is not kept (log.patch=false)")
    path = folder / PATCHES / f"{digest[:16]}.patch"
    if not path.exists():
        path.parent.mkdir(exist_ok=True)
        write_atomic(path, start)
    return replace(state, patch=f"{PATCHES}/{path.name}")


def _outputs(root: Path, folder: Path) -> list[str]:
    """Return the paths below a repository where the runner writes: they are not the user's changes."""
    paths = [folder, Path.cwd() / "outputs"]
    if folder.parent.is_dir():
        paths += [path.parent for path in folder.parent.glob("*/results.csv")]
    inside = [Path(os.path.realpath(path)) for path in paths]
    inside = [path for path in inside if root.resolve() in path.parents]
    return sorted({path.relative_to(root.resolve()).as_posix() for path in inside})


def _environment() -> dict[str, str]:
    """Return git's environment variables: only the named repository, no locks, no prompts, no network."""
    location = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE")
    inherited = {key: value for key, value in os.environ.items() if key not in location}
    quiet = {"GIT_OPTIONAL_LOCKS": "0", "GIT_TERMINAL_PROMPT": "0", "GIT_NO_LAZY_FETCH": "1", "LC_ALL": "C"}
    return inherited | quiet


def _run_git(folder: Path, *arguments: str) -> bytes:
    """Return git's output. Raises `GitError` with its reason."""
    try:
        process = subprocess.run(
            ["git", "-C", str(folder), *OPTIONS, *arguments],
            capture_output=True,
            stdin=subprocess.DEVNULL,
            env=_environment(),
            timeout=SECONDS,
            check=False,
        )
    except OSError as error:
        raise GitError(f"git cannot be started ({error.strerror})") from error
    except subprocess.TimeoutExpired as error:
        raise GitError(f"git {arguments[0]} took more than {SECONDS:g} s") from error
    if process.returncode:
        lines = process.stderr.decode(errors="backslashreplace").strip().splitlines()
        raise GitError(lines[0].removeprefix("fatal: ") if lines else f"git {arguments[0]} failed")
    return process.stdout


def _diff(root: Path, arguments: list[str]) -> tuple[bytes, str, int]:
    """Return (the first `LIMIT` bytes, digest of all bytes, their number). Raises `GitError`."""
    digest, size, start = hashlib.sha256(), 0, bytearray()
    with subprocess.Popen(
        ["git", "-C", str(root), *OPTIONS, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=_environment(),
    ) as process:
        timer = threading.Timer(SECONDS, process.kill)
        timer.start()
        try:
            while piece := process.stdout.read(1 << 16):
                digest.update(piece)
                size += len(piece)
                start += piece[: max(0, LIMIT - len(start))]
        finally:
            timer.cancel()
    if process.returncode:
        raise GitError(f"git diff failed, or took more than {SECONDS:g} s")
    return bytes(start), digest.hexdigest(), size
