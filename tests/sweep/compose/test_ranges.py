"""Ranges in decimal arithmetic, and a sweep of one value."""

from pathlib import Path

import pytest

from runner.core.errors import ConfigError
from runner.sweep.compose.overrides import override_values, parse
from tests.shared.results import results_of


@pytest.mark.parametrize(
    ("word", "values"),
    [
        ("range(0,0.9,0.3)", [0.0, 0.3, 0.6]),  # Hydra adds 0.8999999999999999
        ("range(0.1,0.5,0.1)", [0.1, 0.2, 0.3, 0.4]),  # Hydra has 0.30000000000000004
        ("range(1e-5,4e-5,1e-5)", [1e-5, 2e-5, 3e-5]),
        ("range(0.5,0,-0.1)", [0.5, 0.4, 0.3, 0.2, 0.1]),
        ("range(1,10,4)", [1, 5, 9]),
        ("range(3)", [0, 1, 2]),
        ("int(range(1.0,3.0))", [1, 2]),
        ("sort(range(7,0,-3))", [1, 4, 7]),  # Hydra has 3, 6, 9
        ("sort(range(1,10,4),reverse=true)", [9, 5, 1]),
        ("sort(range(1,10,4))", [1, 5, 9]),
        ("sort(range(0.1,0.5,0.1),reverse=true)", [0.4, 0.3, 0.2, 0.1]),
        ("sort(sweep=range(7,0,-3))", [1, 4, 7]),
        ("sort(3,1,2)", [1, 2, 3]),
        ("sort(choice(b,a),reverse=true)", ["b", "a"]),
    ],
)
def test_values_are_those_that_are_typed(word, values):
    (override,) = parse(None, [f"x={word}"])
    assert override_values(override) == [str(value) for value in values]


def test_a_shuffled_range_has_the_same_values():
    (override,) = parse(None, ["x=shuffle(range(0,0.9,0.3))"])
    assert sorted(override_values(override)) == ["0.0", "0.3", "0.6"]


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("range(0,1,0)", "a step that is not 0"),
        ("range(0,inf,1)", "finite numbers"),
        ("range(0,1,1e-9)", "has 1,000,000,000 values"),
    ],
)
def test_ranges_without_an_end_are_refused(word, message):
    (override,) = parse(None, [f"x={word}"])
    with pytest.raises(ConfigError, match=message):
        override_values(override)


def test_a_range_trains_no_value_beside_a_finished_one(cli):
    words = ("-m", "model=mlp", "epochs=1", "data.limit=100", "name=r")
    assert cli(*words, "regularization=[dropout]", "regularization.dropout.p=0.3")[0] == 0
    code, out, _ = cli(*words, "regularization=[dropout]", "regularization.dropout.p=range(0.1,0.5,0.1)")
    assert code == 0 and "done already" in out
    rates = sorted(result["swept"]["regularization.dropout.p"] for result in results_of(Path("outputs/r")).values())
    assert rates == [0.1, 0.2, 0.3, 0.4]


def test_one_value_is_a_sweep_of_one(cli):
    """Scripts write `seed=$SEEDS`; the sweep is labeled by what is typed, and further values extend it."""
    words = ("model=mlp", "epochs=1", "data.limit=100", "name=one")
    code, out, _ = cli("-m", "seed=3", *words)
    assert code == 0 and "seed=3 model=mlp" in out and "1 run: 1 done" in out
    code, out, _ = cli("-m", "seed=3,4", *words)
    assert code == 0 and "done already" in out and len(results_of(Path("outputs/one"))) == 2
