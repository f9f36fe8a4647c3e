"""Search space, read from Hydra's sweep syntax: intervals, ranges, choices."""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
    distribution_to_json,
)
from optuna.trial import Trial

from runner.core.errors import ConfigError
from runner.core.schema import STACKS
from runner.sweep.compose.overrides import override_key, override_values, parse_value
from runner.sweep.compose.ranges import range_values

DIGITS = 6  # significant digits of a drawn number, few enough to read
LARGEST = 2**53  # largest integer that a float64 tells from its neighbors
INNER = 0.382  # relative position of the inner point that is checked before a search
MOST_CORNERS = 64  # combinations of choices that are checked before a search

Params = dict[str, Any]  # key -> value as Optuna draws it


@dataclass(frozen=True)
class Dimension:
    """Dimension of the space: a key and its distribution."""

    key: str
    element: str  # key as typed, with `+` or package
    typed: str
    distribution: BaseDistribution

    @property
    def is_numeric(self) -> bool:
        """True if the values are numbers."""
        return not isinstance(self.distribution, CategoricalDistribution)

    def text(self, drawn: Any) -> str:
        """Return a drawn value as text for an override."""
        dist = self.distribution
        if isinstance(dist, FloatDistribution):
            digits = DIGITS if dist.step is None else 12  # rounds off the binary error of a step such as 0.1
            return repr(min(max(float(f"{drawn:.{digits}g}"), dist.low), dist.high))
        return str(drawn)

    def draw(self, trial: Trial) -> Any:
        """Draw a value from an Optuna trial."""
        dist = self.distribution
        if isinstance(dist, CategoricalDistribution):
            return trial.suggest_categorical(self.key, dist.choices)
        suggest = trial.suggest_int if isinstance(dist, IntDistribution) else trial.suggest_float
        return suggest(self.key, dist.low, dist.high, step=dist.step, log=dist.log)

    def values(self) -> Sequence[Any] | None:
        """Return all values; None for an interval."""
        dist = self.distribution
        if isinstance(dist, CategoricalDistribution):
            return dist.choices
        if isinstance(dist, IntDistribution):
            return range(dist.low, dist.high + 1, dist.step)
        if dist.step is None:
            return None
        return [float(f"{dist.low + i * dist.step:.12g}") for i in range(round((dist.high - dist.low) / dist.step) + 1)]

    def probe_values(self) -> tuple[Any, Any, Any]:
        """Return the lowest value, one in the middle and the highest."""
        if values := self.values():
            return values[0], values[len(values) // 2], values[-1]
        dist = self.distribution
        # Not the exact middle, because it may be an integer (24 of 16 and 32) though most values between are not.
        middle = dist.low * (dist.high / dist.low) ** INNER if dist.log else dist.low + INNER * (dist.high - dist.low)
        return dist.low, middle, dist.high

    def locate(self, value: Any) -> Any:
        """Return the drawn value that gives this config value; None if it is outside the space."""
        dist = self.distribution
        if isinstance(dist, CategoricalDistribution):
            same = (text for text in dist.choices if value in (text, parse_value(self.key, text)))
            return next(same, None)
        if isinstance(value, bool) or not isinstance(value, int | float) or not dist.low <= value <= dist.high:
            return None
        if (values := self.values()) is not None and value not in values:
            return None
        return int(value) if isinstance(dist, IntDistribution) else float(value)


@dataclass(frozen=True)
class Space:
    """Search space: keys with a distribution and keys with a fixed value."""

    dimensions: list[Dimension]
    fixed: dict[str, str]  # key as typed -> text
    groups: frozenset[str]  # keys that are config groups

    def draw(self, trial: Trial) -> Params:
        """Draw a point from an Optuna trial."""
        return {dim.key: dim.draw(trial) for dim in self.dimensions}

    def overrides(self, params: Params) -> list[str]:
        """Return a point as overrides."""
        drawn = {dim.element: dim.text(params[dim.key]) for dim in self.dimensions}
        return [f"{key}={text}" for key, text in (drawn | self.fixed).items()]

    def swept(self, params: Params) -> dict[str, Any]:
        """Return a point as config values of the searched keys."""
        return {dim.key: parse_value(dim.key, dim.text(params[dim.key])) for dim in self.dimensions}

    def describe(self) -> dict[str, str]:
        """Return each key's distribution as JSON, to compare spaces."""
        return {dim.key: distribution_to_json(dim.distribution) for dim in self.dimensions}

    def size(self) -> int | None:
        """Return the number of points; None if there is an interval."""
        values = [dim.values() for dim in self.dimensions]
        return None if None in values else math.prod(map(len, values))

    def points(self) -> Iterator[Params]:
        """Yield all points of a space without intervals."""
        keys = [dim.key for dim in self.dimensions]
        return (dict(zip(keys, point)) for point in itertools.product(*(dim.values() for dim in self.dimensions)))

    def corners(self) -> list[Params]:
        """Return points to check: all combinations of choices (if many, each choice with the first ones of other keys),
        each with all numbers at the lowest, middle and highest value."""
        choices = {dim.key: list(dim.distribution.choices) for dim in self.dimensions if not dim.is_numeric}
        if math.prod(map(len, choices.values())) <= MOST_CORNERS:
            rows = [dict(zip(choices, row)) for row in itertools.product(*choices.values())]
        else:
            first = {key: texts[0] for key, texts in choices.items()}
            rows = [first, *(first | {key: text} for key, texts in choices.items() for text in texts[1:])]
        numeric = {dim.key: dim.probe_values() for dim in self.dimensions if dim.is_numeric}
        positions = range(3 if numeric else 1)
        return [row | {key: ends[position] for key, ends in numeric.items()} for row in rows for position in positions]

    def locate(self, config: Mapping[str, Any], choices: Mapping[str, Any]) -> Params | None:
        """Return the point of a run with this config and these group options; None if it is outside the space."""
        params = {}
        for dim in self.dimensions:
            if dim.key in STACKS:
                value: Any = [str(item) for item in choices.get(dim.key, ())]
            elif dim.key in self.groups:
                value = choices.get(dim.key)
            else:
                value = _lookup(config, dim.key)
            params[dim.key] = dim.locate(value)
        return None if None in params.values() else params


def make_space(overrides: list[Override], loader: ConfigLoader) -> Space:
    """Build the space of the overrides. Raises `ConfigError` for bad bounds, and if no key has a space."""
    dimensions, fixed = [], {}
    for override in overrides:
        distribution = _distribution(override)
        element, key = override.get_key_element(), override_key(override)
        if distribution is None:
            fixed[element] = override_values(override)[0]
            continue
        typed = override.input_line.partition("=")[2]
        dimensions.append(Dimension(key, element, typed, distribution))
        if key == "seed":
            raise ConfigError(
                f"{override.input_line}: a search has one seed; repeat what it finds with -m seed=0,1,2 and "
                "without hydra/sweeper=search"
            )
    if not dimensions:
        raise ConfigError(
            "hydra/sweeper=search: no key has a space; type one, such as "
            "'optimizer.lr=tag(log,interval(1e-4,1e-1))', 'epochs=range(2,10)' or optimizer=sgd,adam"
        )
    groups = frozenset(dim.key for dim in dimensions if loader.get_group_options(dim.key))
    return Space(dimensions, fixed, groups)


def _distribution(override: Override) -> BaseDistribution | None:
    """Return the distribution of an override; None for a single value."""
    line = override.input_line
    if not override.is_sweep_override():
        return None
    sweep = override.value()
    if unknown := sorted(sweep.tags - {"log", "int"}):
        raise ConfigError(f"{line}: tag '{unknown[0]}' is not known; a space may be tagged log and int")
    log = "log" in sweep.tags
    if isinstance(sweep, IntervalSweep):
        return _interval(line, sweep, log)
    if override.is_choice_sweep() and sweep.tags:
        raise ConfigError(f"{line}: choices have no order, so no tag; use interval(A,B) or range(A,B)")
    texts = list(dict.fromkeys(override_values(override)))
    if len(texts) == 1:
        return None
    if isinstance(sweep, RangeSweep):
        return _range(line, sweep, log)
    return CategoricalDistribution(texts)


def _interval(line: str, sweep: IntervalSweep, log: bool) -> BaseDistribution:
    low, high = sweep.start, sweep.end
    is_int = (isinstance(low, int) and isinstance(high, int)) or "int" in sweep.tags
    if not (math.isfinite(low) and math.isfinite(high)):
        raise ConfigError(f"{line}: the bounds must be finite numbers")
    if low == high:
        raise ConfigError(
            f"{line}: both bounds are {low:g}; type {line.partition('=')[0]}={low:g}, or raise the upper one"
        )
    if low > high:
        raise ConfigError(f"{line}: the lower bound comes first and is smaller, as in interval({high:g},{low:g})")
    if log and low <= 0:
        raise ConfigError(f"{line}: a logarithm needs bounds above 0; raise the lower one, or leave tag(log,...) out")
    if not is_int:
        return FloatDistribution(low, high, log=log)
    if int(low) != low or int(high) != high or max(abs(low), abs(high)) > LARGEST:
        raise ConfigError(f"{line}: whole numbers need whole bounds, at most {LARGEST} from 0")
    return IntDistribution(int(low), int(high), log=log)


def _range(line: str, sweep: RangeSweep, log: bool) -> BaseDistribution:
    step, numbers = abs(sweep.step), range_values(sweep, line)
    low, high = min(numbers), max(numbers)
    is_int = isinstance(low, int)
    if log and (not is_int or step != 1 or low <= 0):
        raise ConfigError(f"{line}: tag(log,...) needs whole numbers above 0 and a step of 1; or use interval(A,B)")
    if is_int and max(abs(low), abs(high)) > LARGEST:
        raise ConfigError(f"{line}: numbers are at most {LARGEST} from 0")
    if is_int:
        return IntDistribution(low, high, step=1 if log else step, log=log)
    return FloatDistribution(low, high, step=float(step))


def _lookup(config: Mapping[str, Any], key: str) -> Any:
    node: Any = config
    for part in key.split("."):
        if not isinstance(node, Mapping) or part not in node:
            return None
        node = node[part]
    return node
