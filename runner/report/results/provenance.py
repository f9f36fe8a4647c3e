"""Programs and repositories that runs came from, in words: the user's own code, our revisions, the state of git."""

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from runner.report.results.collect import RunRecord
from runner.store.revisions import older, revision_list

CODE = "code"  # the column that tells runs apart whose settings are the same and whose programs are not
DIGITS = 8  # of a digest that are shown
Config = Mapping[str, Any]


class Programs:
    """The program of each run: what computed its numbers beside its settings."""

    def __init__(self, config: Callable[[RunRecord], Any], records: Sequence[RunRecord]) -> None:
        """config: a run's `config.yaml`, None where it cannot be read. records: all runs of the page."""
        self._config, self._records, self._list = config, records, revision_list()

    def key(self, record: RunRecord) -> tuple[tuple[str, str], ...]:
        """Return what is equal for runs of one program."""
        return tuple(sorted({**_code(record), **self._revisions(record)}.items()))

    def older(self, record: RunRecord) -> dict[str, int]:
        """Return the choices that have a later revision today: key -> the revision that the run had."""
        if record.damaged or record.facts.get("revision_list") == self._list:  # most runs; a config takes 2 ms to read
            return {}
        config = self._config(record)
        return older({**record.facts, "choices": record.choices}, config) if isinstance(config, dict) else {}

    def label(self, record: RunRecord) -> str:
        """Return a run's program in words, without what all runs share: `mine.Net 1a2b3c4d`, `checkpoint.select
        revision 1 (older)`; empty where it has nothing else."""
        behind = self.older(record)
        words = [f"{target} {digest[:DIGITS]}" for target, digest in self._own(_code(record))]
        for key, number in self._own(self._revisions(record)):
            words.append(f"{key} revision {number}" + (" (older)" if key in behind else ""))
        return ", ".join(words)

    @functools.cached_property
    def _shared(self) -> set[tuple[str, str]]:
        """What all runs have, which is no word for one of them."""
        keys = [set(self.key(record)) for record in self._records]
        return set.intersection(*keys) if keys else set()

    def _own(self, facts: Mapping[str, str]) -> list[tuple[str, str]]:
        return sorted(set(facts.items()) - self._shared)

    def _revisions(self, record: RunRecord) -> dict[str, str]:
        known = record.facts.get("revisions")
        known = known if isinstance(known, dict) else {}
        return {key: str(number) for key, number in {**self.older(record), **known}.items()}


def states(records: Sequence[RunRecord]) -> list[tuple[str, list[str]]]:
    """Return the states of the repositories that runs were typed with, in words, and the runs of each."""
    runs: dict[str, list[str]] = {}
    for record in records:
        if not record.damaged:
            runs.setdefault("; ".join(_states(record)) or "not in a git repository", []).append(record.run)
    return sorted(runs.items(), key=lambda pair: -len(pair[1]))


def mixed(rows: Iterable[Any]) -> list[tuple[str, str, int]]:
    """Return (settings, program, runs) of combinations that were run with several programs; `rows` name them in
    their column `code`."""
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
    """Return target -> digest; of a run that was recorded without digests, nothing."""
    groups = record.facts.get("code")
    groups = groups.values() if isinstance(groups, dict) else []
    return {target: str(digest) for known in groups if isinstance(known, dict) for target, digest in known.items()}


def _states(record: RunRecord) -> list[str]:
    repositories = record.facts.get("git")
    if not isinstance(repositories, list):
        commit = record.facts.get("git_commit")
        return [str(commit)] if commit else []
    return [_state(one) for one in repositories if isinstance(one, dict)]


def _state(one: Mapping[str, Any]) -> str:
    """`0123456789 (., mine), with uncommitted changes (.patches/ab.patch), 2 untracked (a.py, b.py)`"""
    words = [f"{str(one.get('commit') or 'no commit')[:10]} ({', '.join(map(str, one.get('uses') or []))})"]
    if one.get("patch_sha256"):
        words.append(f"uncommitted changes ({one.get('patch') or 'patch not kept'}, {one['patch_sha256'][:DIGITS]})")
    if one.get("untracked_count"):
        named = one.get("untracked") or []
        rest = one["untracked_count"] - len(named)
        more = f" and {rest} more" if rest else ""
        words.append(f"{one['untracked_count']} untracked ({', '.join(named)}{more})")
    if one.get("problem"):
        words.append(str(one["problem"]))
    return ", ".join(words)
