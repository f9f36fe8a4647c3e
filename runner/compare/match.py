"""Matching of two sweeps: the combinations that both hold, and settings that differ between them."""

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
    """The finished and unfinished training runs of a folder."""

    folder: Path
    keys: SweptKeys
    done: list[RunRecord]
    lost: list[RunRecord]

    def cells(self, names: Sequence[str]) -> Cells:
        """Return metric -> seed -> value of each complete combination, keyed by its values of `names`.

        Several runs of a seed are averaged. A combination with an unfinished run is left out, because its remaining
        seeds may be the luckiest.
        """
        lost = {self._values(record, names) for record in self.lost}
        samples: dict[tuple[str, ...], dict[str, dict[str, list[float]]]] = {}
        for record in self.done:
            values = self._values(record, names)
            if values in lost:
                continue
            seed = self.keys.value(record, "seed")
            for metric in METRICS:
                if (value := record.metrics[metric]) is not None:
                    samples.setdefault(values, {}).setdefault(metric, {}).setdefault(seed, []).append(value)
        return {
            values: {metric: {s: statistics.fmean(v) for s, v in seeds.items()} for metric, seeds in metrics.items()}
            for values, metrics in samples.items()
        }

    def gaps(self, names: Sequence[str]) -> dict[tuple[str, ...], str]:
        """Return the combinations that `cells` leaves out, each with its reason (`2 of 5 seeds diverged`)."""
        groups: dict[tuple[str, ...], list[RunRecord]] = {}
        for record in (*self.done, *self.lost):
            groups.setdefault(self._values(record, names), []).append(record)
        lost = {self._values(record, names) for record in self.lost}
        return {values: gaps(record.status for record in groups[values]) for values in groups if values in lost}

    def _values(self, record: RunRecord, names: Sequence[str]) -> tuple[str, ...]:
        return tuple(_canonical(self.keys.value(record, name)) for name in names)

    def fixed(self, names: Sequence[str]) -> dict[str, str]:
        """Return the overrides, code and versions that all finished runs share."""
        typed = [typed_overrides(record) for record in self.done]
        keys = [key for key in typed[0] if key not in names and key.split(".")[0] not in _NO_DIFFERENCE]
        same = {key: typed[0][key] for key in keys if len({overrides.get(key) for overrides in typed}) == 1}
        for fact in ("git_commit", "code", "revisions", "versions", "device"):
            values = {plain(record.facts.get(fact)) for record in self.done}
            same |= {fact.replace("_", " "): values.pop()} if len(values) == 1 else {}
        return same


_NO_DIFFERENCE = (*WITHOUT_EFFECT, "seed", "log")


def read_sweep(folder: Path) -> SweepResults:
    """Read the runs of a folder. Raises `ConfigError` if none of them has a validation accuracy."""
    records = runs_of(folder)
    done = [record for record in records if record.status == "done" and record.metrics["val_accuracy"] is not None]
    if not done:
        raise ConfigError(
            f"{folder}: no run of it has finished with a validation accuracy; there is nothing to compare"
        )
    lost = [record for record in records if record.status != "done" and not record.is_damaged]
    return SweepResults(folder, SweptKeys(records), done, lost)


def shared_names(sweeps: Sequence[SweepResults]) -> list[str]:
    """Return the keys, except the seed, that any of the sweeps varies; their values identify a combination."""
    names = dict.fromkeys(name for sweep in sweeps for name in sweep.keys.names)
    return [name for name in names if name != "seed"]


def setting_differences(first: SweepResults, second: SweepResults, names: Sequence[str]) -> list[tuple[str, str, str]]:
    """Return (setting, value in the first, value in the second) of fixed settings that differ between two sweeps."""
    left, right = first.fixed(names), second.fixed(names)
    keys = sorted(left.keys() | right.keys(), key=natural)
    return [(key, left.get(key, "–"), right.get(key, "–")) for key in keys if left.get(key) != right.get(key)]


def _canonical(value: str) -> str:
    """Return one spelling for equal numbers, such as `1e-3` and `0.001`."""
    try:
        return repr(float(value))
    except ValueError:
        return value
