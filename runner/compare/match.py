"""Which combinations of two sweeps are the same, and what else differs between the two."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from runner.core.errors import ConfigError
from runner.report import runs_of
from runner.report.results.collect import RunRecord, natural
from runner.report.results.keys import WITHOUT_EFFECT, SweptKeys, plain, typed_overrides
from runner.report.results.tables import gaps

METRICS = ("val_accuracy", "test_accuracy")

Cells = dict[tuple[str, ...], dict[str, dict[str, float]]]  # values of the keys -> metric -> seed -> value


@dataclass(frozen=True)
class SweepResults:
    """A folder with its finished training runs, and those that did not finish."""

    folder: Path
    keys: SweptKeys
    done: list[RunRecord]
    lost: list[RunRecord]

    def cells(self, names: Sequence[str]) -> Cells:
        """Return the complete combinations by their values of `names`; runs of one seed count as one.

        Those with a run that did not finish are left out: the seeds that are left may be the luckiest.
        """
        lost = {self._values(record, names) for record in self.lost}
        found: dict[tuple[str, ...], dict[str, dict[str, list[float]]]] = {}
        for record in self.done:
            values = self._values(record, names)
            if values in lost:
                continue
            seed = self.keys.value(record, "seed")
            for metric in METRICS:
                if (value := record.metrics[metric]) is not None:
                    found.setdefault(values, {}).setdefault(metric, {}).setdefault(seed, []).append(value)
        return {
            values: {metric: {s: statistics.fmean(v) for s, v in seeds.items()} for metric, seeds in metrics.items()}
            for values, metrics in found.items()
        }

    def gaps(self, names: Sequence[str]) -> dict[tuple[str, ...], str]:
        """Return the combinations that are left out, each with its reason (`2 of 5 seeds diverged`)."""
        groups: dict[tuple[str, ...], list[RunRecord]] = {}
        for record in (*self.done, *self.lost):
            groups.setdefault(self._values(record, names), []).append(record)
        lost = {self._values(record, names) for record in self.lost}
        return {values: gaps(record.status for record in groups[values]) for values in groups if values in lost}

    def _values(self, record: RunRecord, names: Sequence[str]) -> tuple[str, ...]:
        return tuple(_canonical(self.keys.value(record, name)) for name in names)

    def fixed(self, names: Sequence[str]) -> dict[str, str]:
        """What was typed alike for all runs, and what they were made with."""
        typed = [typed_overrides(record) for record in self.done]
        keys = [key for key in typed[0] if key not in names and key.split(".")[0] not in _NO_DIFFERENCE]
        same = {key: typed[0][key] for key in keys if len({one.get(key) for one in typed}) == 1}
        for what in ("git_commit", "code", "revisions", "versions", "device"):
            values = {plain(record.facts.get(what)) for record in self.done}
            same |= {what.replace("_", " "): values.pop()} if len(values) == 1 else {}
        return same


_NO_DIFFERENCE = (*WITHOUT_EFFECT, "seed", "log")


def read(folder: Path) -> SweepResults:
    """ConfigError where the folder holds no run that has a validation accuracy."""
    records = runs_of(folder)
    done = [record for record in records if record.status == "done" and record.metrics["val_accuracy"] is not None]
    if not done:
        raise ConfigError(
            f"{folder}: no run of it has finished with a validation accuracy; there is nothing to compare"
        )
    lost = [record for record in records if record.status != "done" and not record.damaged]
    return SweepResults(folder, SweptKeys(records), done, lost)


def shared_names(sweeps: Sequence[SweepResults]) -> list[str]:
    """The keys that any of the sweeps varies, but the seed: what a combination is known by."""
    names = dict.fromkeys(name for sweep in sweeps for name in sweep.keys.names)
    return [name for name in names if name != "seed"]


def differing(first: SweepResults, second: SweepResults, names: Sequence[str]) -> list[tuple[str, str, str]]:
    """(what, in the first, in the second) of what does not belong to the combinations and is not the same."""
    one, other = first.fixed(names), second.fixed(names)
    keys = sorted(one.keys() | other.keys(), key=natural)
    return [(key, one.get(key, "–"), other.get(key, "–")) for key in keys if one.get(key) != other.get(key)]


def _canonical(value: str) -> str:
    """`1e-3` and `0.001` are one value."""
    try:
        return repr(float(value))
    except ValueError:
        return value
