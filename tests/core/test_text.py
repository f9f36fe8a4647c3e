"""Wording of lists, numbers, times and errors."""

import pytest

from runner.core.text import duration, few, first_line, number, type_and_line


def test_few_names_the_first_and_counts_the_others():
    assert few([]) == "" and few("abcd") == "a, b, c, d"
    assert few(iter("abcdefg")) == "a, b, c, d and 3 more"
    assert few("abcde", 3, "; ", "; ") == "a; b; c; 2 more"


@pytest.mark.parametrize(
    ("value", "metric", "text"),
    [
        (0.91234567, "val_accuracy", "0.9123"),
        (12345.678, "val_loss", "1.23e+04"),
        (float("nan"), "val_loss", "nan"),
        (12.0, "epochs", "12"),
        (12.5, "epochs", "12.5"),
        (1234.56, "seconds", "1,234.6"),
        (360, "images", "360"),
        ("converged", "verdict", "converged"),
        (None, "val_accuracy", "-"),
    ],
)
def test_numbers(value, metric, text):
    assert number(value, metric) == text


def test_a_page_has_its_own_dash():
    assert number(None, "epochs", missing="–") == "–"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.04, "0.0 s"),
        (59.94, "59.9 s"),
        (59.96, "1 min 0 s"),
        (123.4, "2 min 3 s"),
        (3599.6, "1 h 0 min"),
        (3600 + 5 * 60, "1 h 5 min"),
        (47.99 * 3600, "47 h 59 min"),
        (51 * 3600, "2 days 3 h"),
    ],
)
def test_durations(seconds, text):
    assert duration(seconds) == text


def test_an_error_in_a_line():
    error = ValueError("\nno kernel\nfor this")
    assert first_line(error) == "no kernel" and type_and_line(error) == "ValueError: no kernel"
    assert first_line(KeyError()) == "KeyError" and type_and_line(KeyError()) == "KeyError: no message"
