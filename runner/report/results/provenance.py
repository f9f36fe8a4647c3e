"""Provenance of runs in words: the user's own code, the runner's revisions, the state of git."""

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from runner.report.results.collect import RunRecord
from runner.store.revisions import older, revision_list

CODE = "code"  # the column that distinguishes runs with the same settings but different programs
DIGITS = 8  # digits of a digest that are shown
Config = Mapping[str, Any]


class Programs:
    """Programs: the versions of code, the user's and the runner's, that computed each run."""

    def __init__(self, config: Callable[[RunRecord], Any], records: Sequence[RunRecord]) -> None:
        """config: a function that reads a run's `config.yaml`, or returns None. records: all runs of the page."""
        self._config, self._records, self._list = config, records, revision_list()

    def key(self, record: RunRecord) -> tuple[tuple[str, str], ...]:
        """Return a key that is equal for runs of the same program."""
        return tuple(sorted({**_code(record), **self._revisions(record)}.items()))

    def older(self, record: RunRecord) -> dict[str, int]:
        """Return key -> the run's revision of each choice that has a later revision today."""
        # Most runs have today's list of revisions, so their configs are not read (2 ms each).
        if record.is_damaged or record.facts.get("revision_list") == self._list:
            return {}
        config = self._config(record)
        return older({**record.facts, "choices": record.choices}, config) if isinstance(config, dict) else {}

    def label(self, record: RunRecord) -> str:
        """Return a run's program in words, without the parts that all runs share; empty without other parts.

        Examples: `mine.Net 1a2b3c4d`, `checkpoint.select revision 1 (older)`.
        """
        outdated = self.older(record)
        words = [f"{target} {digest[:DIGITS]}" for target, digest in self._own(_code(record))]
        for key, number in self._own(self._revisions(record)):
            words.append(f"{key} revision {number}" + (" (older)" if key in outdated else ""))
        return ", ".join(words)

    @functools.cached_property
    def _shared(self) -> set[tuple[str, str]]:
        """Return the parts of the program that all runs share."""
        keys = [set(self.key(record)) for record in self._records]
        return set.intersection(*keys) if keys else set()

    def _own(self, facts: Mapping[str, str]) -> list[tuple[str, str]]:
        return sorted(set(facts.items()) - self._shared)

    def _revisions(self, record: RunRecord) -> dict[str, str]:
        recorded = record.facts.get("revisions")
        recorded = recorded if isinstance(recorded, dict) else {}
        return {key: str(number) for key, number in {**self.older(record), **recorded}.items()}


def states(records: Sequence[RunRecord]) -> list[tuple[str, list[str]]]:
    """Return each state of the git repositories, in words, with the names of its runs; the most frequent first."""
    runs: dict[str, list[str]] = {}
    for record in records:
        if not record.is_damaged:
            runs.setdefault("; ".join(_states(record)) or "not in a git repository", []).append(record.run)
    return sorted(runs.items(), key=lambda pair: -len(pair[1]))


def mixed(rows: Iterable[Any]) -> list[tuple[str, str, int]]:
    """Return (settings, program, number of runs) of combinations that several programs ran.

    `rows` have the program in their column `code`.
    """
    groups: dict[tuple[tuple[str, str], ...], list[tuple[str, int]]] = {}
    for row in rows:
        if CODE in row.values:
            settings = tuple((key, value) for key, value in row.values.items() if key != CODE)
            groups.setdefault(settings, []).append((row.values[CODE], len(row.records)))
    return [
        (", ".join(f"{key}={value}" for key, value in settings) or "all runs", program or "not recorded", runs)
        for settings, programs in groups.items()
        for program, runs in programs
        if len(programs) > 1
    ]


def _code(record: RunRecord) -> dict[str, str]:
    """Return target -> digest of the user's code; empty for a run recorded without digests."""
    groups = record.facts.get("code")
    groups = groups.values() if isinstance(groups, dict) else []
    return {target: str(digest) for group in groups if isinstance(group, dict) for target, digest in group.items()}


def _states(record: RunRecord) -> list[str]:
    repositories = record.facts.get("git")
    if not isinstance(repositories, list):
        commit = record.facts.get("git_commit")
        return [str(commit)] if commit else []
    return [_state(repo) for repo in repositories if isinstance(repo, dict)]


def _state(repo: Mapping[str, Any]) -> str:
    """Return a repository's state in words.

    `0123456789 (., mine), uncommitted changes (.patches/ab.patch, 1a2b3c4d), 2 untracked (a.py, b.py)`
    """
    words = [f"{str(repo.get('commit') or 'no commit')[:10]} ({', '.join(map(str, repo.get('uses') or []))})"]
    if repo.get("patch_sha256"):
        words.append(f"uncommitted changes ({repo.get('patch') or 'patch not kept'}, {repo['patch_sha256'][:DIGITS]})")
    if repo.get("untracked_count"):
        named = repo.get("untracked") or []
        rest = repo["untracked_count"] - len(named)
        more = f" and {rest} more" if rest else ""
        words.append(f"{repo['untracked_count']} untracked ({', '.join(named)}{more})")
    if repo.get("problem"):
        words.append(str(repo["problem"]))
    return ", ".join(words)
