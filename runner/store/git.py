"""States of the repositories that a command was typed with: commit, uncommitted changes, untracked files.

Git is asked once a command. A repository that git cannot read, or not in time, is told with the reason; none is no
error. Importing this module imports no torch.
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

LIMIT = 1_000_000  # bytes of a patch that is kept
SECONDS = 5.0  # for one question to git
NAMED = 20  # untracked files that are named
PATCHES = ".patches"  # in the sweep's folder
HERE, OWN = ".", "runner"  # uses of a repository: where the command was typed, and of the runner's own checkout
OPTIONS = ("-c", "core.fsmonitor=false", "-c", "core.quotepath=off")  # a monitor is a program of the repository's
DIFF = ("diff", "--no-ext-diff", "--no-textconv", "--no-color", "--binary", "--submodule=diff")
PREFIXES = ("--src-prefix=a/", "--dst-prefix=b/")  # whatever the user's settings are: `git apply` takes it


@dataclass(frozen=True)
class State:
    """A repository as it was when a command was typed; None is what git did not tell."""

    root: str
    uses: list[str]  # `.` where the command was typed, `runner`, and packages that `trust` names
    commit: str | None = None  # None also before the first commit
    dirty: bool | None = None
    untracked: list[str] = field(default_factory=list)  # the first `NAMED`
    untracked_count: int = 0
    patch: str | None = None  # file in the sweep's folder; `git apply` makes the changes again
    patch_bytes: int = 0
    patch_sha256: str | None = None
    problem: str | None = None  # why something is not known


class Trouble(Exception):
    """Git's reason for no answer."""


def record(folder: Path, trust: Sequence[str], keep: bool) -> list[dict[str, Any]]:
    """Return the state of each repository of a command, for `result.json`, and write its patch below `folder`.

    folder: of the sweep, whose files are no changes. trust: packages of the user's own. keep: whether patches are
    written.
    """
    if shutil.which("git") is None:
        return []
    uses: dict[Path, list[str]] = {}
    states = []
    for use, place in _places(trust):
        try:
            root = _root(place)
        except Trouble as trouble:
            states.append(State(str(place), [use], problem=str(trouble)))
            continue
        if root is not None:
            uses.setdefault(root, []).append(use)
    states += [_state(root, known, folder.absolute(), keep) for root, known in uses.items()]
    return [asdict(state) for state in states]


def commit(states: Iterable[Mapping[str, Any]]) -> str | None:
    """Return the commit of the repository where the command was typed, else of a trusted package, else ours."""
    order = sorted(states, key=lambda state: (HERE not in state["uses"], OWN in state["uses"]))
    return next((state["commit"] for state in order if state["commit"] is not None), None)


def _places(trust: Sequence[str]) -> Iterator[tuple[str, Path]]:
    """Yield (use, folder); what is installed is no checkout, though a repository may lie around its environment."""
    yield HERE, Path.cwd()
    for package in dict.fromkeys(name.partition(".")[0] for name in trust):
        spec = find(package)
        if spec is not None and is_own(spec):
            places = [spec.origin] if spec.has_location else list(spec.submodule_search_locations or [])
            yield package, Path(str(places[0])).resolve().parent
    if not is_installed(runner.__file__):
        yield OWN, Path(runner.__file__).resolve().parent


def _root(place: Path) -> Path | None:
    """Return the repository's folder; None where there is none. Raises `Trouble`."""
    try:
        return Path(os.fsdecode(_ask(place, "rev-parse", "--show-toplevel").rstrip(b"\n")))
    except Trouble as trouble:
        if "not a git repository" in str(trouble) or "must be run in a work tree" in str(trouble):
            return None
        raise


def _state(root: Path, uses: list[str], folder: Path, keep: bool) -> State:
    state = State(str(root), uses)
    try:
        try:
            head = _ask(root, "rev-parse", "--verify", "--quiet", "HEAD").decode().strip()
            state = replace(state, commit=head)
        except Trouble:  # no commit yet: all that is staged is new
            head = _ask(root, "hash-object", "-t", "tree", os.devnull).decode().strip()
        paths = ["--", ".", *(f":(top,exclude,literal){path}" for path in _outputs(root, folder))]
        listed = _ask(root, "status", "--porcelain", "-z", "--untracked-files=normal", *paths).split(b"\0")
        entries = [entry.decode(errors="backslashreplace") for entry in listed if entry]
        new = [entry[3:] for entry in entries if entry.startswith("?? ")]
        state = replace(state, dirty=bool(entries), untracked=new[:NAMED], untracked_count=len(new))
        if len(entries) > len(new):
            state = _changed(state, root, folder, keep, [*DIFF, *PREFIXES, head, *paths])
    except Trouble as trouble:
        return replace(state, problem=str(trouble))
    return state


def _changed(state: State, root: Path, folder: Path, keep: bool, question: list[str]) -> State:
    """Return the state with its patch, which is written where it is not too large."""
    start, digest, size = _diff(root, question)
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
    """Return the places below a repository where the runner writes: they are no changes of the user's."""
    places = [folder, Path.cwd() / "outputs"]
    if folder.parent.is_dir():
        places += [path.parent for path in folder.parent.glob("*/results.csv")]
    inside = [Path(os.path.realpath(place)) for place in places]
    inside = [place for place in inside if root.resolve() in place.parents]
    return sorted({place.relative_to(root.resolve()).as_posix() for place in inside})


def _environment() -> dict[str, str]:
    """Return what git is asked with: no repository but the one that is named, no locks, no questions, no network."""
    own = {key: value for key, value in os.environ.items() if key not in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE")}
    quiet = {"GIT_OPTIONAL_LOCKS": "0", "GIT_TERMINAL_PROMPT": "0", "GIT_NO_LAZY_FETCH": "1", "LC_ALL": "C"}
    return own | quiet


def _ask(folder: Path, *words: str) -> bytes:
    """Return git's answer. Raises `Trouble` with its reason."""
    try:
        answer = subprocess.run(
            ["git", "-C", str(folder), *OPTIONS, *words],
            capture_output=True,
            stdin=subprocess.DEVNULL,
            env=_environment(),
            timeout=SECONDS,
            check=False,
        )
    except OSError as error:
        raise Trouble(f"git cannot be started ({error.strerror})") from error
    except subprocess.TimeoutExpired as error:
        raise Trouble(f"git {words[0]} took more than {SECONDS:g} s") from error
    if answer.returncode:
        lines = answer.stderr.decode(errors="backslashreplace").strip().splitlines()
        raise Trouble(lines[0].removeprefix("fatal: ") if lines else f"git {words[0]} failed")
    return answer.stdout


def _diff(root: Path, question: list[str]) -> tuple[bytes, str, int]:
    """Return (the first `LIMIT` bytes, the digest of all, bytes in all). Raises `Trouble`."""
    digest, size, kept = hashlib.sha256(), 0, bytearray()
    with subprocess.Popen(
        ["git", "-C", str(root), *OPTIONS, *question],
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
                kept += piece[: max(0, LIMIT - len(kept))]
        finally:
            timer.cancel()
    if process.returncode:
        raise Trouble(f"git diff failed, or took more than {SECONDS:g} s")
    return bytes(kept), digest.hexdigest(), size
