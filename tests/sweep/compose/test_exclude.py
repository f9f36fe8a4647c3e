"""`sweep.exclude`: conditions that take combinations out."""

import re

import pytest

from runner.sweep.compose.exclude import parse_condition
from tests.shared.plans import DRY, combinations, rows


@pytest.mark.parametrize(
    ("words", "left"),
    [
        (['sweep.exclude="optimizer=sgd & optimizer.lr>0.5"'], ["sgd 0.1", "adam 0.1", "adam 1"]),
        (['sweep.exclude=["optimizer=sgd & optimizer.lr<=1e-1", "optimizer.lr=1.0"]'], ["adam 0.1"]),
        (
            ['sweep.exclude="optimizer=sgd & optimizer.lr=1","optimizer!=sgd & optimizer.lr>=0.5"'],
            ["sgd 0.1", "adam 0.1"],
        ),
        (
            ['sweep.exclude="optimizer.betas=[0.9,0.999] & data=digits & optimizer.lr<0.5"'],
            ["sgd 0.1", "sgd 1", "adam 1"],
        ),
        (['sweep.exclude="schedule=constant & batch_size<100 & optimizer=adam"'], ["sgd 0.1", "sgd 1"]),
        (['sweep.exclude="optimizer.betas!=[0.9,0.9] & optimizer.lr=1"'], ["sgd 0.1", "sgd 1", "adam 0.1"]),
    ],
)
def test_conditions_take_combinations_out(cli, words, left):
    """A condition is true where all its comparisons are, of what was typed and of the whole config; a key that a
    combination does not have makes it false."""
    code, out, err = cli("-m", *DRY, "optimizer=sgd,adam", "optimizer.lr=0.1,1", *words)
    assert (code, err) == (0, "")
    assert [re.sub(r"\S+=", "", text) for text in combinations(out)] == left
    assert f"{len(left)} to run" in out


def test_stacks_are_compared_item_by_item(cli):
    """A list is equal to the same list alone; order counts."""
    words = ("regularization=[],[dropout],[dropout,l2]", "optimizer=sgd,adam")
    _, out, _ = cli("-m", *DRY, *words, 'sweep.exclude="regularization=[dropout,l2] & optimizer!=sgd"')
    assert len(rows(out)) == 5
    code, _, err = cli("-m", *DRY, *words, 'sweep.exclude="regularization=[l2,dropout]"')
    assert code == 2 and "takes out none of the 6 combinations" in err


@pytest.mark.parametrize(
    ("text", "found", "holds"),
    [
        ("k=1e-3", 0.001, True),
        ("k=0.001", True, False),
        ("k=true", True, True),
        ("k=null", None, True),
        ("k!=null", 3, True),
        ("k<3", None, False),
        ("k<3", "auto", False),
        ("k == adam", "adam", True),
        ("k=[a,b]", ["a", "b"], True),
        ("k=[a,b]", ["b", "a"], False),
    ],
)
def test_a_comparison_reads_values_as_a_config_does(text, found, holds):
    """Numbers as numbers, however they are written; what is no number is neither above nor below one."""
    assert parse_condition(text).holds({}, lambda: {"k": found}) is holds


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('"optimizer.lr>0"', "takes out all 4 combinations: nothing is left"),
        ('"optimizer=sgd","optimizer=adam"', "takes out all 4 combinations"),
        ('"optimizer.lr>5"', "'optimizer.lr>5' takes out none of the 4 combinations"),
        ('"optimizr=sgd"', "none has a key 'optimizr'; did you mean 'optimizer'?"),
        ('"optimizer=sgd & optimiser.lr>0"', "none has a key 'optimiser.lr'; did you mean 'optimizer.lr'?"),
        ('"optimizer>sgd"', "'optimizer>sgd' compares no number"),
        ('"optimizer sgd"', "'optimizer sgd' is no condition; type KEY=VALUE"),
        ('"optimizer=sgd & "', "is no condition"),
    ],
)
def test_an_exclude_that_is_a_slip_is_refused(cli, text, told):
    """One line: what takes out everything, or nothing, or names what is not there, or cannot be read."""
    code, _, err = cli("-m", *DRY, "optimizer=sgd,adam", "optimizer.lr=0.1,1", f"sweep.exclude={text}")
    assert code == 2 and told in err and err.startswith("runner: sweep.exclude") and err.count("\n") == 1
